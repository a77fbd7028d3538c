#!/usr/bin/env python3
"""Convert a file of `lat-wgpu export --to timm` to ONNX; `lat-wgpu export --to onnx` runs this script.

    python3 tools/export_onnx.py MODEL.safetensors OUT.onnx

Input `image` (N, 3, H, W), f32: R, G, B divided by 255, minus mean, divided by deviation. Output `embedding` (N, R*D), f32,
rows of length 1. N is free. The file's metadata entry `preprocess` describes the preparation of images. Needs onnx, numpy
and safetensors. Uses operator set 17, which ONNX Runtime supports since 1.12.
"""

import json
import math
import sys

try:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors import safe_open
    from safetensors.numpy import load_file
except ImportError as error:
    sys.exit(f"error: {error}")

# Largest file that protobuf can hold.
MOST_BYTES = 2_000_000_000


class Graph:
    """Nodes and initialisers of a graph; every method returns the name of its result."""

    def __init__(self):
        self.nodes, self.initialisers = [], []

    def node(self, kind, *inputs, outputs=1, **attributes):
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, name, values, dtype=np.float32):
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def integers(self, *values):
        return self.constant(f"integers_{len(self.initialisers)}", values, np.int64)

    def scalar(self, value):
        return self.constant(f"scalar_{len(self.initialisers)}", value)


class Vit:
    """The network of a file, node by node. In shapes, 0 copies the batch dimension."""

    def __init__(self, state, metadata):
        self.state, self.graph = state, Graph()
        self.model, self.size = metadata["model"], metadata["preprocess"]["size"]
        self.width, _, self.patch, _ = state["patch_embed.proj.weight"].shape
        self.stride = self.model["stride"]
        self.rows, self.columns = self.model["grid"]
        self.after_neck = metadata.get("heads", {}).get("embed") == "after"

    def weight(self, name, transposed=False):
        """A tensor of the file as an initialiser, transposed for `x @ w`."""
        values = self.state[name]
        return self.graph.constant(name, values.T if transposed else values)

    def norm(self, x, name):
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.graph.node("LayerNormalization", x, *weights, axis=-1, epsilon=self.model["ln_eps"])

    def linear(self, x, name):
        product = self.graph.node("MatMul", x, self.weight(f"{name}.weight", transposed=True))
        return self.graph.node("Add", product, self.weight(f"{name}.bias"))

    def residual(self, x, branch, scale):
        if scale in self.state:
            branch = self.graph.node("Mul", branch, self.weight(scale))
        return self.graph.node("Add", x, branch)

    def activation(self, x):
        g = self.graph
        if self.model["act"] in ("quick-gelu", "quick_gelu"):
            return g.node("Mul", x, g.node("Sigmoid", g.node("Mul", x, g.scalar(1.702))))
        curve = g.node("Erf", g.node("Div", x, g.scalar(math.sqrt(2))))
        return g.node("Mul", g.node("Mul", x, g.node("Add", curve, g.scalar(1))), g.scalar(0.5))

    def attention(self, x, name):
        g, heads = self.graph, self.model["heads"]
        head = self.width // heads
        qkv = g.node("Reshape", self.linear(x, f"{name}.qkv"), g.integers(0, -1, 3, heads, head))
        qkv = g.node("Transpose", qkv, perm=[2, 0, 3, 1, 4])
        parts = g.node("Split", qkv, g.integers(1, 1, 1), outputs=3, axis=0)
        q, k, v = (g.node("Squeeze", part, g.integers(0)) for part in parts)
        scores = g.node("MatMul", q, g.node("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.node("Div", scores, g.scalar(math.sqrt(head)))
        mixed = g.node("MatMul", g.node("Softmax", scores, axis=-1), v)
        mixed = g.node("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.linear(g.node("Reshape", mixed, g.integers(0, -1, self.width)), f"{name}.proj")

    def embed(self):
        """Name of the tokens (N, T, D) of `image` before block 0, and number of tokens before the patches."""
        g, state = self.graph, self.state
        bias = [self.weight("patch_embed.proj.bias")] if "patch_embed.proj.bias" in state else []
        weight = self.weight("patch_embed.proj.weight")
        patches = g.node("Conv", "image", weight, *bias, strides=[self.stride] * 2, pads=[0] * 4)
        count = self.rows * self.columns
        patches = g.node("Reshape", patches, g.integers(0, self.width, count))
        patches = g.node("Transpose", patches, perm=[0, 2, 1])

        # The table has rows for the patches and for the first tokens before them.
        names = [name for name in ("cls_token", "dist_token", "reg_token") if name in state]
        prefix = np.concatenate([state[name] for name in names], 1)
        table = state["pos_embed"]
        head = table.shape[1] - count
        prefix[:, :head] += table[:, :head]
        shape = g.node("Concat", g.node("Shape", "image", start=0, end=1), g.integers(*prefix.shape[1:]), axis=0)
        prefix_name = g.node("Expand", g.constant("prefix", prefix), shape)
        patches = g.node("Add", patches, g.constant("positions", table[:, head:]))
        x = g.node("Concat", prefix_name, patches, axis=1)
        return (self.norm(x, "norm_pre") if "norm_pre.weight" in state else x), prefix.shape[1]

    def parts(self, tokens, prefix):
        """Tokens after the final norm -> (N, R, D): row means Q blended with the class token G."""
        g, gelt = self.graph, self.model["gelt"]
        count = self.rows * self.columns
        global_token = g.node("Slice", tokens, g.integers(0), g.integers(1), g.integers(1))
        local = g.node("Slice", tokens, g.integers(prefix), g.integers(prefix + count), g.integers(1))
        if gelt["parts"] == "1":
            count, local = 1, g.node("ReduceMean", local, axes=[1], keepdims=1)
        else:
            count = self.rows
            grid = g.node("Reshape", local, g.integers(0, self.rows, self.columns, self.width))
            local = g.node("ReduceMean", grid, axes=[2], keepdims=0)
            if gelt["parts"] != "rows":
                count = int(gelt["parts"])
                bands = np.zeros((count, self.rows))
                for i, band in enumerate(bands):
                    start, end = i * self.rows // count, -(-(i + 1) * self.rows // count)
                    band[start:end] = 1 / (end - start)
                local = g.node("MatMul", g.constant("bands", bands), local)
        if gelt["tokens"] == "local":
            return local, count
        if gelt["tokens"] == "global":
            return g.node("Expand", global_token, g.integers(1, count, 1)), count
        heavy = gelt["lambda"] / (1 + gelt["lambda"])
        of_global = heavy if gelt["lambda_on"] == "class" else 1 - heavy
        return g.node(
            "Add",
            g.node("Mul", global_token, g.scalar(of_global)),
            g.node("Mul", local, g.scalar(1 - of_global)),
        ), count

    def neck(self, parts, count):
        """Parts (N, R, D) after BNNeck's BatchNorm, with its running statistics."""
        read = lambda name: np.stack([self.state[f"heads.{i}.bn.{name}"] for i in range(count)])
        scale = read("weight") / np.sqrt(read("running_var") + np.float32(1e-5))
        centred = self.graph.node("Sub", parts, self.graph.constant("bn.mean", read("running_mean")))
        return self.graph.node("Mul", centred, self.graph.constant("bn.scale", scale))

    def unit(self, parts):
        """Parts (N, R, D) with length 1."""
        length = self.graph.node("ReduceL2", parts, axes=[2], keepdims=1)
        return self.graph.node("Div", parts, self.graph.node("Max", length, self.graph.scalar(1e-12)))

    def subtract_statistics(self, parts, count):
        """Parts (N, R, D) of length 1 less the mean of all images, which is the last row of the camera statistics."""
        read = lambda name: self.state[name][-1].reshape(count, self.width) * math.sqrt(count)
        parts = self.graph.node("Sub", parts, self.graph.constant("statistics.mean", read("statistics.mean")))
        if "statistics.deviation" in self.state:
            divisor = self.graph.constant("statistics.deviation", read("statistics.deviation"))
            parts = self.graph.node("Div", parts, divisor)
        return self.unit(parts)

    def build(self):
        """Add all nodes from `image` to `embedding`, and return the dimensions of an embedding."""
        g = self.graph
        x, prefix = self.embed()
        depth = 1 + max(int(name.split(".")[1]) for name in self.state if name.startswith("blocks."))
        for block in (f"blocks.{i}" for i in range(depth)):
            mixed = self.attention(self.norm(x, f"{block}.norm1"), f"{block}.attn")
            x = self.residual(x, mixed, f"{block}.ls1.gamma")
            hidden = self.activation(self.linear(self.norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = self.residual(x, self.linear(hidden, f"{block}.mlp.fc2"), f"{block}.ls2.gamma")
        parts, count = self.parts(self.norm(x, "norm"), prefix)
        if self.after_neck:
            parts = self.neck(parts, count)
        parts = self.unit(parts)
        if "statistics.mean" in self.state:
            parts = self.subtract_statistics(parts, count)
        whole = g.node("Reshape", parts, g.integers(0, count * self.width))
        g.nodes.append(helper.make_node("Mul", [whole, g.scalar(1 / math.sqrt(count))], ["embedding"]))
        return count * self.width


def convert(state, metadata):
    """The ONNX model of a state dict (f32 arrays in timm's names) and its `lat_wgpu` metadata."""
    vit = Vit(state, metadata)
    dim = vit.build()
    height, width = vit.size
    graph = helper.make_graph(
        vit.graph.nodes,
        "la_transformer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, height, width])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", dim])],
        vit.graph.initialisers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="lat-wgpu")
    # The format that came with this operator set, instead of the library's newest.
    model.ir_version = 8
    preprocess = {**metadata["preprocess"], "channels": "RGB", "scale": 1 / 255}
    helper.set_model_props(
        model, {"preprocess": json.dumps(preprocess), "lat_wgpu": json.dumps(metadata)}
    )
    return model


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    with safe_open(source, framework="np") as file:
        metadata = json.loads((file.metadata() or {}).get("lat_wgpu", "{}"))
    if "timm" not in metadata:
        sys.exit(f"error: {source} is not a file of `lat-wgpu export --to timm`")
    state = {name: values.astype(np.float32) for name, values in load_file(source).items()}
    if sum(values.nbytes for values in state.values()) > MOST_BYTES:
        sys.exit("error: the weights have more than 2 GB, which one ONNX file can't hold")
    model = convert(state, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


if __name__ == "__main__":
    main()
