"""Compares the stub with the module: names, signatures and docstrings. See tools/python_test.sh."""

import ast
import importlib.resources
import inspect

import lat_wgpu


def stub():
    return ast.parse(importlib.resources.files("lat_wgpu").joinpath("__init__.pyi").read_text())


def definitions(node):
    """Functions and classes by name, the first of overloads."""
    found = {}
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            found.setdefault(child.name, child)
    return found


def is_property(function):
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in function.decorator_list)


def parameters(function):
    """Name, kind and default of the parameters, without self and cls."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    found = [(argument.arg, "positional", default) for argument, default in zip(positional, defaults)]
    found += [(a.arg, "keyword", default) for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    found += [(arguments.kwarg.arg, "keywords", None)] if arguments.kwarg else []
    empty = inspect.Parameter.empty
    plain = lambda default: empty if default is None else ast.literal_eval(default)
    return [(name, kind, plain(default)) for name, kind, default in found if name not in ("self", "cls")]


def signature(value):
    kinds = {
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "keywords",
    }
    found = inspect.signature(value).parameters.values()
    return [(p.name, kinds[p.kind], p.default) for p in found if p.name != "self"]


def check(owner, node, path):
    wanted = definitions(node)
    names = {name for name in vars(owner) if not name.startswith("_")} if inspect.isclass(owner) else set(owner.__all__)
    public = {name for name in wanted if not name.startswith("_")}
    # Attributes without a definition are annotated.
    annotated = {child.target.id for child in node.body if isinstance(child, ast.AnnAssign)}
    assert names - {"hint"} == public and names - public == annotated, path
    for name in public:
        value, found = inspect.getattr_static(owner, name), wanted[name]
        assert inspect.getdoc(getattr(owner, name)) == ast.get_docstring(found), f"{path}.{name}"
        if isinstance(found, ast.ClassDef):
            bases = [base.id for base in found.bases if isinstance(base, ast.Name)]
            assert [base.__name__ for base in value.__bases__] == (bases or ["object"]), f"{path}.{name}"
            check(value, found, f"{path}.{name}")
            if "__new__" in definitions(found):
                assert signature(value) == parameters(definitions(found)["__new__"]), f"{path}.{name}"
        elif is_property(found):
            assert inspect.isdatadescriptor(value) or inspect.isgetsetdescriptor(value), f"{path}.{name}"
        else:
            assert signature(getattr(owner, name)) == parameters(found), f"{path}.{name}"


def test_the_stub_is_the_module():
    assert lat_wgpu.__doc__.strip() and ast.get_docstring(stub()) == inspect.getdoc(lat_wgpu)
    check(lat_wgpu, stub(), "lat_wgpu")


def test_everything_has_a_docstring():
    for name in lat_wgpu.__all__:
        assert inspect.getdoc(getattr(lat_wgpu, name)), name
    assert "_command" not in lat_wgpu.__all__
