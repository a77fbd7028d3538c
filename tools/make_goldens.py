"""Write tests/goldens/: tiny random models with every naming and option, with PyTorch's results.

    python3 tools/make_goldens.py

CASE.model.safetensors holds weights as in a foreign file. CASE.golden.safetensors holds `images` (B, H, W, 3) u8 at
input size, `tokens` (B, T, D) f32 after the final norm and `embedding` (B, parts * D) f32. `rollout.safetensors` holds
for every CASE the share of each token in the class token, (B, T) f32. Everything is computed in f64 from the stored
weights and depends only on the case's name, so a second run writes the same bytes.
"""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import la_transformer as lat

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "goldens"

# Element types in safetensors.
DTYPES = {
    torch.int64: "I64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}


def write_safetensors(path, tensors, metadata=None):
    """Write `tensors` by name, always with the same bytes; the safetensors package may order metadata at random."""
    header = {"__metadata__": metadata} if metadata else {}
    # Widest elements first, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    body, at = [], 0
    for name in names:
        tensor = tensors[name].contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(data)],
        }
        body.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))


class Random:
    """Weights that reveal faults of kernels: none is zero or one, and attention is far from uniform."""

    def __init__(self, name):
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def normal(self, *shape, std=1.0, mean=0.0):
        return torch.from_numpy(np.asarray(mean + std * self.rng.standard_normal(shape), np.float32))

    def linear(self, state, name, out, inputs):
        state[f"{name}.weight"] = self.normal(out, inputs, std=1.2 / inputs**0.5)
        state[f"{name}.bias"] = self.normal(out, std=0.2)

    def norm(self, state, name, width):
        state[f"{name}.weight"] = self.normal(width, std=0.2, mean=1.0)
        state[f"{name}.bias"] = self.normal(width, std=0.2)

    def images(self, count, height, width):
        """Images with a gradient in a random direction and noise, so that patches differ."""
        y, x = np.mgrid[0:height, 0:width]
        images = []
        for _ in range(count):
            slope = self.rng.uniform(-1, 1, (2, 3))
            ramp = y[..., None] / height * slope[0] + x[..., None] / width * slope[1]
            noise = self.rng.standard_normal((height, width, 3))
            images.append(np.clip(128 + 110 * ramp + 30 * noise, 0, 255).astype(np.uint8))
        return torch.from_numpy(np.stack(images))


def random_vit(
    name,
    width=32,
    depth=1,
    mlp=2,
    patch=8,
    rows=17,
    dist=False,
    registers=0,
    norm_pre=False,
    bias=True,
    scale=False,
):
    """A state dict in timm's names; `rows` is the length of the position table, prefix rows included."""
    r, state = Random(name), {}
    state["patch_embed.proj.weight"] = r.normal(width, 3, patch, patch, std=1 / (3 * patch**2) ** 0.5)
    if bias:
        state["patch_embed.proj.bias"] = r.normal(width, std=0.2)
    state["cls_token"] = r.normal(1, 1, width, std=0.5)
    if dist:
        state["dist_token"] = r.normal(1, 1, width, std=0.5)
    if registers:
        state["reg_token"] = r.normal(1, registers, width, std=0.5)
    state["pos_embed"] = r.normal(1, rows, width, std=0.5)
    if norm_pre:
        r.norm(state, "norm_pre", width)
    for i in range(depth):
        block = f"blocks.{i}"
        r.norm(state, f"{block}.norm1", width)
        r.linear(state, f"{block}.attn.qkv", 3 * width, width)
        r.linear(state, f"{block}.attn.proj", width, width)
        r.norm(state, f"{block}.norm2", width)
        r.linear(state, f"{block}.mlp.fc1", int(mlp * width), width)
        r.linear(state, f"{block}.mlp.fc2", width, int(mlp * width))
        if scale:
            state[f"{block}.ls1.gamma"] = r.normal(width, std=0.6, mean=0.4)
            state[f"{block}.ls2.gamma"] = r.normal(width, std=0.6, mean=0.4)
    r.norm(state, "norm", width)
    return state


def rename(state, pairs):
    """`state` with each name's pieces replaced, in the order of `pairs`."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def split_qkv(state, query, key, value):
    """The fused projection cut into three, with names that replace `attn.qkv`."""
    out = {}
    for name, tensor in state.items():
        if "attn.qkv" in name:
            for part, piece in zip((query, key, value), tensor.chunk(3)):
                out[name.replace("attn.qkv", part)] = piece
        else:
            out[name] = tensor
    return out


def as_openai_clip(state, name):
    """A CLIP model in OpenAI's form: image tower, projection, and some of the text tower."""
    state = dict(state, cls_token=state["cls_token"][0, 0], pos_embed=state["pos_embed"][0])
    state = rename(
        state,
        [
            ("patch_embed.proj", "conv1"),
            ("cls_token", "class_embedding"),
            ("pos_embed", "positional_embedding"),
            ("norm_pre", "ln_pre"),
            ("blocks.", "transformer.resblocks."),
            ("norm1", "ln_1"),
            ("norm2", "ln_2"),
            ("attn.qkv.weight", "attn.in_proj_weight"),
            ("attn.qkv.bias", "attn.in_proj_bias"),
            ("attn.proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
            ("norm.", "ln_post."),
        ],
    )
    width = state["class_embedding"].shape[0]
    state = {f"visual.{key}": tensor for key, tensor in state.items()}
    r = Random(name + " text")
    state["visual.proj"] = r.normal(width, 8)
    state["logit_scale"] = r.normal()
    state["text_projection"] = r.normal(16, 8)
    state["positional_embedding"] = r.normal(7, 16)
    state["token_embedding.weight"] = r.normal(9, 16)
    r.norm(state, "transformer.resblocks.0.ln_1", 16)
    r.norm(state, "ln_final", 16)
    return state


def as_hf_clip(state, name):
    """A CLIP model in Hugging Face's form: image tower, projection, and some of the text tower."""
    positions = state["pos_embed"].shape[1]
    width = state["cls_token"].shape[2]
    state = dict(state, cls_token=state["cls_token"][0, 0], pos_embed=state["pos_embed"][0])
    state = rename(
        split_qkv(state, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        [
            ("patch_embed.proj", "embeddings.patch_embedding"),
            ("cls_token", "embeddings.class_embedding"),
            ("pos_embed", "embeddings.position_embedding.weight"),
            ("norm_pre", "pre_layrnorm"),
            ("blocks.", "encoder.layers."),
            ("norm1", "layer_norm1"),
            ("norm2", "layer_norm2"),
            ("attn.proj", "self_attn.out_proj"),
        ],
    )
    final = {"norm.weight": "post_layernorm.weight", "norm.bias": "post_layernorm.bias"}
    state = {f"vision_model.{final.get(key, key)}": tensor for key, tensor in state.items()}
    # Older files have the indices of the positions, as integers.
    state["vision_model.embeddings.position_ids"] = torch.arange(positions)[None]
    r = Random(name + " text")
    state["visual_projection.weight"] = r.normal(8, width)
    state["logit_scale"] = r.normal()
    state["text_projection.weight"] = r.normal(8, 16)
    state["text_model.embeddings.token_embedding.weight"] = r.normal(9, 16)
    state["text_model.embeddings.position_embedding.weight"] = r.normal(7, 16)
    r.norm(state, "text_model.encoder.layers.0.layer_norm1", 16)
    r.norm(state, "text_model.final_layer_norm", 16)
    return state
    return state


def as_meta_dinov2(state, name):
    """DINOv2 in Meta's names, which differ from timm's in the registers and a mask token."""
    state = rename(state, [("reg_token", "register_tokens")])
    state["mask_token"] = Random(name + " mask").normal(1, state["cls_token"].shape[2])
    return state


def as_hf_dinov2(state, name):
    """DINOv2 in Hugging Face's names, with or without registers."""
    state = rename(
        split_qkv(
            state, "attention.attention.query", "attention.attention.key", "attention.attention.value"
        ),
        [
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("cls_token", "embeddings.cls_token"),
            ("reg_token", "embeddings.register_tokens"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
        ],
    )
    final = {"norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias"}
    state = {final.get(key, key): tensor for key, tensor in state.items()}
    state["embeddings.mask_token"] = Random(name + " mask").normal(1, state["embeddings.cls_token"].shape[2])
    return state


def with_heads(*heads):
    """Add classification heads, which must be ignored."""

    def add(state, name):
        width, r = state["cls_token"].shape[2], Random(name + " head")
        state = dict(state)
        for head in heads:
            r.linear(state, head, 5, width)
        return state

    return add


CASES = []

# Most files are f16 to keep the folder small; the arithmetic is the same.
half = torch.float16
full = torch.float32
heads = {"heads": 2}


def case(name, what, vit=None, settings=None, naming=None, dtype=half, grid=(32, 32), images=2):
    """Add a case: `vit` goes to `random_vit`, `settings` are the flags that a user needs, `naming` converts timm's names
    to those of the file, `grid` is the image size if no `size` flag is needed."""
    CASES.append((name, what, vit or {}, settings or {}, naming, dtype, grid, images))


# Dimensions.
case("plain", "two blocks, two heads, everything at its default",
     {"depth": 2, "mlp": 4}, heads, dtype=full, images=3)
case("mlp_ratio", "an MLP 2.5 times as wide as the tokens", {"mlp": 2.5}, heads)
case("three_heads", "width 48 in three heads", {"width": 48}, {"heads": 3})
case("head_64", "width 64: one head by the built-in rule, no flag", {"width": 64})
case("patch14", "patch 14", {"patch": 14, "width": 16, "rows": 10}, {"heads": 1}, grid=(42, 42))
case("patch16", "patch 16", {"patch": 16, "width": 16, "rows": 10}, {"heads": 1}, grid=(48, 48))
case("patch32", "patch 32", {"patch": 32, "width": 16, "rows": 5}, {"heads": 1}, grid=(64, 64))

# The position table.
case("pos_resize", "square table of 4x4 resized to 6x6", {}, {"size": "48x48", **heads})
case("pos_shrink", "square table of 6x6 resized to 4x4: the filter widens",
     {"rows": 37}, {"size": "32x32", **heads})
case("pos_resize_rect", "square table of 4x4 resized to 6x3", {}, {"size": "48x24", **heads})
case("pos_table_rect_as_is", "a table of 6x2 positions is not square and stays unchanged",
     {"rows": 13}, {"size": "48x16", **heads})
case("pos_square_count_rect_grid", "16 positions and a grid of 2x8: the table is square, so it is resized",
     {}, {"size": "16x64", **heads})
case("pos_patches_only", "a table without a row for the class token", {"rows": 16}, heads)
case("rect_grid", "5 rows by 3 columns from a square table, sides not a multiple of the patch",
     {}, {"size": "45x29", **heads})
case("stride", "patches of 8 every 4 pixels, table of 4x4 resized to 7x7", {}, {"stride": 4, **heads})
case("stride_not_dividing", "stride 5 leaves pixels over on both sides",
     {}, {"size": "30x34", "stride": 5, **heads})

# Tensors that switch an option on.
case("layer_scale", "LayerScale in timm's names", {"depth": 2, "mlp": 4, "scale": True}, heads)
case("dist", "DeiT's distillation token with its own row; both heads ignored",
     {"dist": True, "rows": 18}, heads, with_heads("head", "head_dist"))
case("reg_pos_all", "three registers with their own rows", {"registers": 3, "rows": 20}, heads)
case("reg_pos_cls_only", "DINOv2 with registers in Meta's names: registers get no row",
     {"registers": 4, "scale": True}, heads, as_meta_dinov2)
case("reg_pos_patches_only", "timm's DINOv2 with registers: neither class token nor registers get a row",
     {"registers": 4, "rows": 16, "scale": True}, heads)
case("clip_timm", "CLIP in timm's names: norm_pre, no patch bias, quick-GELU, eps 1e-5",
     {"depth": 2, "mlp": 4, "norm_pre": True, "bias": False}, heads)
case("clip_openai", "CLIP in OpenAI's names", {"norm_pre": True, "bias": False}, heads, as_openai_clip)
case("clip_hf", "CLIP in Hugging Face's names",
     {"mlp": 4, "norm_pre": True, "bias": False}, heads, as_hf_clip)
case("dinov2_meta", "DINOv2 in Meta's names, mask token ignored", {"scale": True}, heads, as_meta_dinov2)
case("dinov2_hf", "DINOv2 in Hugging Face's names",
     {"depth": 2, "mlp": 4, "scale": True}, heads, as_hf_dinov2)
case("dinov2_reg_hf", "DINOv2 with registers in Hugging Face's names",
     {"registers": 4, "scale": True}, heads, as_hf_dinov2)
case("head_ignored", "a classification head, ignored", {}, heads, with_heads("head"))

# Element types on disk.
case("f16", "f16 on disk", {"depth": 2, "mlp": 4}, heads)
case("bf16", "bf16 on disk", {}, heads, dtype=torch.bfloat16)

# Flags.
case("act_override", "quick-GELU where the tensors say GELU", {}, {"act": "quick_gelu", **heads})
case("act_override_clip", "GELU where the tensors say quick-GELU",
     {"norm_pre": True, "bias": False}, {"act": "gelu", **heads})
case("ln_eps_override", "a LayerNorm eps large enough to be seen", {}, {"ln_eps": 0.1, **heads})
case("normalize_half", "pixels to -1..1", {}, {"normalize": "half", **heads})
case("normalize_clip", "CLIP's mean and deviation", {}, {"normalize": "clip", **heads})
case("lambda", "equation 6 with lambda 2.5", {}, {"lambda": 2.5, **heads})
case("lambda_local", "the released code: lambda 8 on the local tokens",
     {}, {"lambda": 8, "lambda_on": "local", **heads})
case("tokens_local", "row means alone", {}, {"tokens": "local", **heads})
case("tokens_global", "the class token, once per row", {}, {"tokens": "global", **heads})
case("parts_1", "one part: the mean over all positions", {}, {"parts": "1", **heads})
case("parts_1_rect", "one part of a grid of 2x4, lambda on the local tokens",
     {}, {"size": "16x32", "parts": "1", "lambda_on": "local", **heads})
case("parts_3", "three parts of four rows, which share rows",
     {}, {"size": "32x16", "stride": 8, "parts": "3", **heads})
case("parts_1_global", "one part: the class token", {}, {"parts": "1", "tokens": "global", **heads})


def write_case(name, what, vit, settings, naming, dtype, grid, images):
    """Build, run and write one case; return its attention rollout."""
    # Computes with the stored weights: rounded to the type on disk, then converted to f32.
    state = {key: tensor.to(dtype).float() for key, tensor in random_vit(name, **vit).items()}
    size = tuple(map(int, settings["size"].split("x"))) if "size" in settings else None
    gelt = lat.Gelt(
        settings.get("lambda", 0.8),
        settings.get("lambda_on", "class"),
        settings.get("tokens", "gelt"),
        settings.get("parts", "rows"),
    )
    chosen = {key: settings.get(key) for key in ("stride", "heads", "act", "ln_eps")}
    model = lat.build_model(state, gelt, size=size, **chosen).double()
    assert model.config.size == (size or grid), name
    images = Random(name + " images").images(images, *model.config.size)
    mean_std = lat.NORMALIZE[settings.get("normalize", "imagenet")]
    with torch.no_grad():
        tokens = model.tokens(lat.normalize(images, mean_std, torch.float64))
        embedding = model.embed(model.parts(tokens))
        rollout = model.rollout(lat.normalize(images, mean_std, torch.float64))
    stored = naming(state, name) if naming else state
    for key, tensor in stored.items():
        stored[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    write_safetensors(FOLDER / f"{name}.model.safetensors", stored)
    write_safetensors(
        FOLDER / f"{name}.golden.safetensors",
        {"images": images, "tokens": tokens.float(), "embedding": embedding.float()},
        {"settings": json.dumps(settings), "what": what},
    )
    return rollout.float()


# Height, width of an image and the sizes it is resized to: up, down, one axis only, and no change at all.
RESIZES = [
    ((1, 1), [(1, 1), (5, 4)]),
    ((1, 7), [(3, 3), (1, 2)]),
    ((7, 1), [(2, 1), (9, 2)]),
    ((2, 2), [(16, 16)]),
    ((3, 2), [(2, 3), (24, 8)]),
    ((5, 5), [(5, 5), (4, 6)]),
    ((5, 9), [(5, 20)]),
    ((9, 5), [(20, 5)]),
    ((8, 8), [(16, 4), (7, 9)]),
    ((13, 11), [(1, 1), (12, 11)]),
    ((16, 16), [(15, 17)]),
    ((17, 31), [(32, 32), (8, 8)]),
    ((19, 3), [(3, 19)]),
    ((31, 17), [(10, 30)]),
    ((33, 12), [(48, 24)]),
    ((40, 60), [(20, 30)]),
    ((61, 1), [(5, 5)]),
    ((1, 97), [(4, 13)]),
    ((64, 32), [(28, 28)]),
    ((128, 64), [(64, 64)]),
    ((64, 128), [(14, 14)]),
    ((101, 43), [(28, 28)]),
    ((3, 200), [(16, 16)]),
    ((200, 3), [(16, 16)]),
    ((90, 30), [(97, 29)]),
]


def write_resizes():
    """`{i}.in` (H, W, 3) and `{i}.out` (h, w, 3) u8, by Pillow."""
    rng = np.random.default_rng(0)
    tensors, i = {}, 0
    for (height, width), targets in RESIZES:
        # Noise, some of it at the ends of the range, so that overshoot must be clipped.
        pixels = rng.integers(-80, 336, (height, width, 3)).clip(0, 255).astype(np.uint8)
        for target in targets:
            out = Image.fromarray(pixels).resize((target[1], target[0]), Image.BICUBIC)
            tensors[f"{i}.in"] = torch.from_numpy(pixels)
            tensors[f"{i}.out"] = torch.from_numpy(np.array(out))
            i += 1
    write_safetensors(FOLDER / "pillow.safetensors", tensors)


def main():
    # One thread, for a fixed order of sums.
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.safetensors"):
        old.unlink()
    write_safetensors(FOLDER / "rollout.safetensors", {one[0]: write_case(*one) for one in CASES})
    write_resizes()
    total = sum(path.stat().st_size for path in FOLDER.glob("*.safetensors"))
    print(f"{len(CASES)} cases and the resizes, {total / 1e6:.2f} MB in {FOLDER}")


if __name__ == "__main__":
    main()
