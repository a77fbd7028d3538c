"""The Locally Aware Transformer in plain PyTorch: the reference that the engine is compared with.

A pre-norm ViT with timm's module names, so that a state dict is a weights file unchanged. On top of it: GELT (row
means blended with the class token, equation 6 of the paper), the embedding, the part classifiers, and blockwise
training with its presets (algorithm 1).
Shapes: B images, T tokens (class, then distillation or registers, then patches row by row), D width,
R parts, K persons.
"""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors import safe_open
from torch import nn

# Mean and standard deviation of R, G, B on the 0..1 scale, by the name on the command line.
NORMALIZE = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}

# Width of the part classifiers between their two layers.
HIDDEN = 256

# Tensors of weights files that the backbone doesn't use: classification heads, DINOv2's mask token (for pretraining
# only), and the part classifiers and optimiser state of a trained model.
IGNORED = ("head.", "head_dist.", "mask_token", "heads.", "state.")


@dataclass
class Config:
    """All options that determine shapes and formulas of the network."""

    width: int
    depth: int
    heads: int
    mlp: int
    patch: int
    stride: int
    size: tuple  # (height, width) in pixels
    act: str = "gelu"  # or quick-gelu
    ln_eps: float = 1e-6
    position_rows: int = 0  # rows of the fitted position table
    registers: int = 0
    dist: bool = False
    patch_bias: bool = True
    norm_pre: bool = False
    layer_scale: bool = False
    cameras: int = 0  # rows of the camera embedding
    camera_weight: float = 0.0  # factor of a row
    reattention: bool = False  # DeepViT's re-attention in every block
    jigsaw: bool = False  # TransReID's jigsaw: the parts are the class token, and those of four shuffled sequences

    @property
    def grid(self):
        """(rows, columns) of patches; pixels after the last whole patch are ignored."""
        return tuple((side - self.patch) // self.stride + 1 for side in self.size)


@dataclass
class Gelt:
    """Settings of the parts, named like the flags."""

    lam: float = 0.8
    lambda_on: str = "class"  # class: (Q + lam G) / (1 + lam); local: (G + lam Q) / (1 + lam)
    tokens: str = "gelt"  # local: only Q; global: only G, once per part
    parts: str = "rows"  # rows: one part per grid row, top to bottom; N: means of N bands of rows


class PatchEmbed(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.proj = nn.Conv2d(3, c.width, c.patch, c.stride, bias=c.patch_bias)

    def forward(self, images):  # (B, 3, H, W) -> (B, rows * columns, D)
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.heads
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.proj = nn.Linear(c.width, c.width)
        self.reattention = c.reattention
        if c.reattention:
            # DeepViT: a mixture of all heads' maps for each head, then a norm.
            self.reatten_matrix = nn.Conv2d(c.heads, c.heads, 1)
            self.var_norm = nn.BatchNorm2d(c.heads)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)).softmax(-1)
        if self.reattention:
            weights = self.var_norm(self.reatten_matrix(weights))
        self.mean_weights = weights.detach().mean(1)  # (B, T, T), for `rollout`
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, d))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.act = c.act
        self.fc1 = nn.Linear(c.width, c.mlp)
        self.fc2 = nn.Linear(c.mlp, c.width)

    def forward(self, x):
        x = self.fc1(x)
        x = F.gelu(x) if self.act == "gelu" else x * torch.sigmoid(1.702 * x)
        return self.fc2(x)


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.width, eps=c.ln_eps)
        self.attn = Attention(c)
        self.ls1 = LayerScale(c.width) if c.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(c.width, eps=c.ln_eps)
        self.mlp = Mlp(c)
        self.ls2 = LayerScale(c.width) if c.layer_scale else nn.Identity()

    def forward(self, x, drop=None):
        """`drop` (2, B): factors of each image's attention and MLP."""
        attn = self.ls1(self.attn(self.norm1(x)))
        x = x + (attn if drop is None else drop[0][:, None, None] * attn)
        mlp = self.ls2(self.mlp(self.norm2(x)))
        return x + (mlp if drop is None else drop[1][:, None, None] * mlp)


class PartClassifier(nn.Module):
    """Scores of all persons for one part: (B, D) -> (B, K)."""

    def __init__(self, width, classes, relu, dropout):
        super().__init__()
        self.relu, self.dropout = relu, dropout
        self.fc1 = nn.Linear(width, HIDDEN)
        self.bn = nn.BatchNorm1d(HIDDEN, eps=1e-5, momentum=0.1)
        self.fc2 = nn.Linear(HIDDEN, classes)

    def forward(self, part):
        x = self.bn(self.fc1(part))
        if self.relu:  # in the paper, but not in the released code
            x = F.relu(x)
        return self.fc2(F.dropout(x, self.dropout, self.training))


class Bnneck(nn.Module):
    """Scores of all persons for one part: a BatchNorm and a linear layer, both without bias."""

    def __init__(self, width, classes):
        super().__init__()
        self.bn = nn.BatchNorm1d(width, eps=1e-5, momentum=0.1)
        self.bn.register_parameter("bias", None)
        self.classifier = nn.Linear(width, classes, bias=False)

    def forward(self, part):
        return self.classifier(self.bn(part))


PIECES = 4  # sequences of the jigsaw


def jigsaw_order(count):
    """The order of `count` patches behind TransReID's shuffle_unit with a shift of 5 tokens and 2 groups."""
    order = torch.arange(count).roll(-4)
    if count % 2:
        order = torch.cat([order, order[-2:-1]])
    return order.view(2, -1).T.flatten()


class LaTransformer(nn.Module):
    """Images to embeddings. `forward` is `tokens`, `parts` and `embed`."""

    def __init__(self, config, gelt=None):
        super().__init__()
        c = self.config = config
        self.gelt = gelt or Gelt()
        self.patch_embed = PatchEmbed(c)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, c.width)) if c.dist else None
        self.reg_token = nn.Parameter(torch.zeros(1, c.registers, c.width)) if c.registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, c.position_rows, c.width))
        self.sie_embed = nn.Parameter(torch.zeros(c.cameras, 1, c.width)) if c.cameras else None
        self.cameras = None  # rows (B) of the images in the camera embedding
        self.norm_pre = nn.LayerNorm(c.width, eps=c.ln_eps) if c.norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=c.ln_eps)
        if c.jigsaw:
            self.b2 = nn.ModuleList([Block(c), nn.LayerNorm(c.width, eps=c.ln_eps)])
        self.drop = None  # factors (blocks, 2, B) in training mode, see `set_drop_path`
        self.jigsaw_drop = None  # factors (2, B * PIECES) of the jigsaw's block

    def add_heads(self, make):
        """Add a classifier for each part, for training and for `logits`."""
        count = self.config.grid[0] if self.gelt.parts == "rows" else int(self.gelt.parts)
        count = 1 + PIECES if self.config.jigsaw else count
        self.heads = nn.ModuleList(make() for _ in range(count))

    def tokens(self, images):
        """(B, 3, H, W) normalised pixels -> (B, T, D) tokens after the final norm."""
        patches = self.patch_embed(images)
        prefix = [p for p in (self.cls_token, self.dist_token, self.reg_token) if p is not None]
        prefix = torch.cat(prefix, 1).expand(len(images), -1, -1)
        # The table has rows for the patches, and for all tokens of the prefix, for the class token only, or for
        # none.
        n = self.pos_embed.shape[1] - patches.shape[1]
        head, tail = self.pos_embed[:, :n], self.pos_embed[:, n:]
        x = torch.cat([prefix[:, :n] + head, prefix[:, n:], patches + tail], 1)
        if self.sie_embed is not None:
            x = x + self.config.camera_weight * self.sie_embed[self.cameras]
        x = self.norm_pre(x)
        dropped = self.training and self.drop is not None
        for i, block in enumerate(self.blocks):
            if self.config.jigsaw and i + 1 == len(self.blocks):
                self.pieces = self.jigsaw(x, self.jigsaw_drop if dropped else None)
            x = block(x, self.drop[i] if dropped else None)
        return self.norm(x)

    def jigsaw(self, x, drop=None):
        """(B, T, D) input of the last block -> (B, PIECES, D): the class tokens of the sequences of shuffled patches."""
        each = (x.shape[1] - 1) // PIECES
        patches = x[:, 1 + jigsaw_order(x.shape[1] - 1)]
        pieces = [torch.cat([x[:, :1], patches[:, i * each : (i + 1) * each]], 1) for i in range(PIECES)]
        # (B * PIECES, 1 + each, D)
        tokens = torch.stack(pieces, 1).flatten(0, 1)
        tokens = self.b2[1](self.b2[0](tokens, drop))
        return tokens[:, 0].unflatten(0, (len(x), PIECES))

    def rollout(self, images):
        """(B, 3, H, W) normalised pixels -> (B, T): the share of each input token in the class token by attention
        rollout (Abnar and Zuidema 2020): the product of (A + I) / 2 of all blocks, with A the mean over heads."""
        self.tokens(images)
        identity = torch.eye(self.blocks[0].attn.mean_weights.shape[-1], dtype=images.dtype)
        product = identity
        for block in self.blocks:
            mixed = (block.attn.mean_weights + identity) / 2
            product = mixed / mixed.sum(-1, keepdim=True) @ product
        return product[:, 0]

    def parts(self, tokens):
        """(B, T, D) tokens -> (B, parts, D): row means Q blended with the class token G (equation 6)."""
        rows, columns = self.config.grid
        g = tokens[:, :1]
        if self.config.jigsaw:
            return torch.cat([g, self.pieces], 1)
        q = tokens[:, -rows * columns :].unflatten(1, (rows, columns)).mean(2)
        if self.gelt.parts != "rows":
            count = int(self.gelt.parts)
            # Adaptive average pooling: where `count` doesn't divide the rows, neighbours share one.
            bands = [q[:, i * rows // count : -(-(i + 1) * rows // count)] for i in range(count)]
            q = torch.stack([band.mean(1) for band in bands], 1)
        if self.gelt.tokens == "local":
            return q
        if self.gelt.tokens == "global":
            return g.expand_as(q)
        lam = self.gelt.lam
        return ((q + lam * g) if self.gelt.lambda_on == "class" else (g + lam * q)) / (1 + lam)

    def embed(self, parts):
        """(B, parts, D) -> (B, parts * D): each part to length 1, then the whole to length 1. With a jigsaw, a quarter of
        each sequence's part, then the whole to length 1."""
        if self.config.jigsaw:
            return F.normalize(torch.cat([parts[:, :1], parts[:, 1:] / PIECES], 1).flatten(1), dim=1)
        parts = parts / parts.norm(dim=2, keepdim=True).clamp_min(1e-12)
        return parts.flatten(1) / math.sqrt(parts.shape[1])

    def embed_after(self, parts):
        """`embed` after BNNeck's BatchNorm with its running statistics; in evaluation mode."""
        return self.embed(torch.stack([head.bn(part) for head, part in zip(self.heads, parts.unbind(1))], 1))

    def classify(self, parts):
        """(B, parts, D) -> (R, B, K): the scores of each part's classifier."""
        if isinstance(self.heads[0], Bnneck):
            self.normalised = torch.stack([head.bn(part) for head, part in zip(self.heads, parts.unbind(1))], 1)
            normalised = self.normalised.unbind(1)
            return torch.stack([head.classifier(part) for head, part in zip(self.heads, normalised)])
        return torch.stack([head(part) for head, part in zip(self.heads, parts.unbind(1))])

    def logits(self, images):
        """(B, 3, H, W) normalised pixels -> (R, B, K)."""
        return self.classify(self.parts(self.tokens(images)))

    def forward(self, images):
        return self.embed(self.parts(self.tokens(images)))


def square_root(n):
    """The side of a square of `n` positions, or None if `n` is no square."""
    side = math.isqrt(n)
    return side if n > 0 and side * side == n else None


def split_position_rows(rows, prefix, wanted=None):
    """Number of a position table's `rows` that belong to prefix tokens: those of all tokens, the class token's, or none.

    Prefers the number that leaves `wanted` positions; otherwise takes the first that leaves a square.
    """
    readings = [n for n in dict.fromkeys((prefix, 1, 0)) if rows > n]
    for n in readings:
        if rows - n == wanted:
            return n
    for n in readings:
        if square_root(rows - n):
            return n
    raise ValueError(f"a position table of {rows} rows has no square part: give the size")


def fit_positions(table, prefix, grid):
    """Position table (rows, D) f32 for a `grid` by timm's rule. Prefix rows stay unchanged.

    A table with the grid's number of positions stays unchanged, unless it is square and the grid is not. Any other
    must be square and is resized (bicubic, antialiased, corners not aligned).
    """
    n = split_position_rows(len(table), prefix, grid[0] * grid[1])
    head, tail = table[:n], table[n:]
    side = square_root(len(tail))
    if len(tail) == grid[0] * grid[1] and (side is None or grid[0] == grid[1]):
        return table
    if side is None:
        raise ValueError(f"{len(tail)} positions are not square and cannot be resized to {grid}")
    square = tail.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([head, resized.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)])


def read_config(state, size=None, stride=None, heads=None, act=None, ln_eps=None, camera_weight=0.0):
    """The `Config` of a state dict in timm's names; given arguments take precedence."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    dist, registers = "dist_token" in state, state["reg_token"].shape[1] if "reg_token" in state else 0
    if size is None:
        rows = state["pos_embed"].shape[1]
        side = square_root(rows - split_position_rows(rows, 1 + dist + registers))
        size = (side * patch, side * patch)
    norm_pre = "norm_pre.weight" in state
    return Config(
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads or width // 64,
        mlp=state["blocks.0.mlp.fc1.weight"].shape[0],
        patch=patch,
        stride=stride or patch,
        size=tuple(size),
        act=act or ("quick-gelu" if norm_pre else "gelu"),
        ln_eps=ln_eps or (1e-5 if norm_pre else 1e-6),
        registers=registers,
        dist=dist,
        patch_bias="patch_embed.proj.bias" in state,
        norm_pre=norm_pre,
        layer_scale="blocks.0.ls1.gamma" in state,
        cameras=len(state["sie_embed"]) if "sie_embed" in state else 0,
        camera_weight=camera_weight,
        reattention="blocks.0.attn.reatten_matrix.weight" in state,
        jigsaw="b2.1.weight" in state,
    )


def build_model(state, gelt=None, **settings):
    """A model from a state dict in timm's names (f32); `settings` are `read_config`'s keyword arguments."""
    state = {name: tensor.float() for name, tensor in state.items() if not name.startswith(IGNORED)}
    config = read_config(state, **settings)
    prefix = 1 + config.dist + config.registers
    table = fit_positions(state["pos_embed"][0], prefix, config.grid)
    state["pos_embed"] = table[None]
    config.position_rows = len(table)
    model = LaTransformer(config, gelt)
    model.load_state_dict(state)
    return model.eval()


def read_weights(path):
    """Read a safetensors file: tensors by name, and the `lat_wgpu` entry of its metadata as a dict.

    Omits the state of a training run (`state.`), since not every PyTorch knows its element types.
    """
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("state.")}
        metadata = file.metadata() or {}
    return state, json.loads(metadata.get("lat_wgpu", "{}"))


def load_model(path, gelt=None, **settings):
    """The model of a safetensors file in timm's names, and its (mean, std), or None if the file has none.

    Settings that are not given come from the file's metadata, else from the tensors.
    """
    state, metadata = read_weights(path)
    preprocess, stored = metadata.get("preprocess", {}), metadata.get("model", {})
    for name in ("heads", "act", "ln_eps"):
        settings[name] = settings.get(name) or stored.get(name)
    settings["size"] = settings.get("size") or preprocess.get("size")
    mean_std = (preprocess["mean"], preprocess["std"]) if "mean" in preprocess else None
    return build_model(state, gelt, **settings), mean_std


def read_image(path):
    """An image file as upright RGB."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def preprocess(image, size, mean_std, dtype=torch.float32):
    """A Pillow RGB image -> (3, H, W): stretched to `size` (H, W) by Pillow's bicubic, normalised."""
    resized = image.resize((size[1], size[0]), Image.BICUBIC)
    return normalize(torch.from_numpy(np.array(resized)), mean_std, dtype)


def normalize(pixels, mean_std, dtype=torch.float32):
    """(..., H, W, 3) u8 -> (..., 3, H, W): to 0..1, minus the mean, over the standard deviation."""
    mean, std = (torch.tensor(v, dtype=dtype) for v in mean_std)
    return ((pixels.to(dtype) / 255 - mean) / std).movedim(-1, -3)


# --- training ----------------------------------------------------------------------------------------------


@dataclass
class Recipe:
    """Settings of a training step; the defaults are the paper's. The caller chooses images, order and flips."""

    epochs: int = 30
    lr: float = 3e-4
    lr_decay: float = 0.85
    decay_every_interval: bool = False  # also when all blocks train
    warmup_epochs: int = 0
    cosine: bool = False
    unfreeze_every: int = 2
    first_unfreeze: int = 1
    all_open: bool = False  # trains every block from the start
    freeze_embeddings: bool = True
    optimizer: str = "adam"  # adam, sgd: weight decay as L2 in the gradient; adamw: decoupled
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # 0: off
    smoothing: float = 0.0
    triplet_margin: float | str | None = None  # "soft": log(1 + exp(.)); None: no triplet loss
    head: str | None = None  # "bnneck": the loss is the mean over the parts; None: `PartClassifier`, and the sum
    embed: str | None = None  # "after": BNNeck's BatchNorm embeds, and prototypes see its output
    identity: float | None = None  # weight of the cross-entropy; None: 1
    prototypes: float | None = None  # weight of the prototype loss; None: no such loss
    temperature: float | None = None
    momentum: float | None = None
    hard_update: bool | None = None
    drop_path: float | None = None  # stochastic depth: probability in the last block; the caller chooses the masks
    relu: bool = True
    dropout: float = 0.5
    gelt: Gelt = field(default_factory=Gelt)
    sgd_momentum: float | None = None
    bias_lr_factor: float | None = None  # factor on the learning rate of biases
    layer_decay: float | None = None  # factor on the learning rate from one layer to the one below, as in BEiT
    warmup_factor: float | None = None  # with `lr_min_factor`: the rate is that of TransReID, by epoch
    lr_min_factor: float | None = None
    lr_epoch_offset: int | None = None  # epochs by which that rate lags behind
    ema: float | None = None  # decay of averaged weights


OPEN = {"all_open": True, "freeze_embeddings": False, "lr_decay": 1.0}

TRANSREID = OPEN | {
    "optimizer": "sgd",
    "sgd_momentum": 0.9,
    "cosine": True,
    "warmup_factor": 0.01,
    "lr_min_factor": 0.002,
    "head": "bnneck",
    "gelt": Gelt(tokens="global", parts="1"),
}

# The caller applies samplers, erasing and crops, and the masks of stochastic depth.
PRESETS = {
    "paper": Recipe(),
    "released-code": Recipe(
        lr_decay=0.8,
        decay_every_interval=True,
        first_unfreeze=2,
        freeze_embeddings=False,
        weight_decay=5e-4,
        relu=False,
        gelt=Gelt(8.0, "local"),
    ),
    "full": Recipe(**OPEN),
    "strong": Recipe(
        **OPEN,
        epochs=60,
        lr=5e-5,
        warmup_epochs=5,
        cosine=True,
        optimizer="adamw",
        weight_decay=0.05,
        clip_norm=1.0,
        smoothing=0.1,
        triplet_margin=0.3,
    ),
    "transreid": Recipe(
        **TRANSREID, lr=0.008, warmup_epochs=5, weight_decay=1e-4, bias_lr_factor=2.0, epochs=120, triplet_margin="soft"
    ),
    # The network has stride 12, a camera embedding of weight 3 and a jigsaw.
    "transreid-full": Recipe(
        **TRANSREID, lr=0.008, warmup_epochs=5, weight_decay=1e-4, bias_lr_factor=2.0, epochs=120, triplet_margin="soft"
    ),
    "personvit": Recipe(
        **TRANSREID,
        lr=4e-4,
        warmup_epochs=20,
        lr_epoch_offset=1,
        weight_decay=1e-4,
        bias_lr_factor=2.0,
        epochs=120,
        triplet_margin="soft",
    ),
    "prototypes": Recipe(
        **TRANSREID | {"warmup_factor": 0.1},
        lr=3.5e-4,
        warmup_epochs=10,
        weight_decay=5e-4,
        epochs=60,
        smoothing=0.1,
        embed="after",
        identity=0.25,
        prototypes=1.0,
        temperature=0.05,
        momentum=0.2,
        hard_update=False,
    ),
}


def group_of(name):
    """The parameter group of a tensor: `embeddings`, `blocks.{i}`, `norm` or `heads`."""
    first, *rest = name.split(".")
    if first == "blocks":
        return f"blocks.{rest[0]}"
    if first == "b2":
        return "norm"
    return first if first in ("norm", "heads") else "embeddings"


def open_blocks(recipe, depth, epoch):
    """Number of blocks, from the last, that train in an epoch (from 0)."""
    return depth if recipe.all_open else min(depth, recipe.first_unfreeze + epoch // recipe.unfreeze_every)


def learning_rate(recipe, depth, step, steps_per_epoch, factor=1.0):
    """Learning rate of a step (from 0), of parameters whose full rate is `factor` times that of the recipe.

    Decay is by epoch: in every epoch that may unfreeze a block, while one is frozen (or in every such epoch). Warm-up and
    cosine are by step: a linear rise to the full rate in the last step of the warm-up, then half a cosine wave to 0
    one step after the run. With `warmup_factor` they are by epoch, as in TransReID: the cosine counts from the start.
    """
    decays = 0
    for opening in range(step // steps_per_epoch // recipe.unfreeze_every + 1):
        # The first time all blocks are frozen; later, those that the time before left frozen.
        closed = opening == 0 or recipe.first_unfreeze + opening - 1 < depth
        decays += closed or recipe.decay_every_interval
    lr = recipe.lr * recipe.lr_decay**decays
    if recipe.warmup_factor is not None:
        e, base, lr = step // steps_per_epoch + 1 - (recipe.lr_epoch_offset or 0), lr, lr * factor
        if e < recipe.warmup_epochs:
            first = recipe.warmup_factor * base
            return first + e * (lr - first) / recipe.warmup_epochs
        last = recipe.lr_min_factor * base
        return last + (lr - last) * (1 + math.cos(math.pi * e / recipe.epochs)) / 2
    lr *= factor
    warmup, steps = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2 if recipe.cosine else lr


def build_classifier(state, recipe, **settings):
    """`build_model` with the part classifiers (`heads.`) of the state dict."""
    model = build_model(state, recipe.gelt, **settings)
    heads = {name[6:]: tensor.float() for name, tensor in state.items() if name.startswith("heads.")}
    width = model.config.width
    if recipe.head == "bnneck":
        classes = len(heads["0.classifier.weight"])
        model.add_heads(lambda: Bnneck(width, classes))
    else:
        classes = len(heads["0.fc2.bias"])
        model.add_heads(lambda: PartClassifier(width, classes, recipe.relu, recipe.dropout))
    count = len(model.heads)
    model.heads.load_state_dict({name: t for name, t in heads.items() if int(name.split(".")[0]) < count})
    return model.eval()


def set_trainable(model, recipe, epoch):
    """Freeze and unfreeze parameters for an epoch (from 0); returns the number of parameters that train."""
    depth = model.config.depth
    first = depth - open_blocks(recipe, depth, epoch)
    trainable = {"norm", "heads"} | {f"blocks.{i}" for i in range(first, depth)}
    if not recipe.freeze_embeddings:
        trainable.add("embeddings")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of(name) in trainable)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def make_optimizer(model, recipe):
    """The optimiser of all parameters, in groups by the two factors of their learning rate. It skips parameters without
    a gradient, so a parameter's step count starts when it is unfrozen."""
    groups = {}
    for name, parameter in model.named_parameters():
        bias = (recipe.bias_lr_factor or 1.0) if "bias" in name else 1.0
        layer = (recipe.layer_decay or 1.0) ** layers_above(name, model.config.depth)
        group = groups.setdefault((bias, layer), {"params": [], "factor": bias, "layer_factor": layer})
        group["params"].append(parameter)
    if recipe.optimizer == "sgd":
        settings = {"momentum": recipe.sgd_momentum, "weight_decay": recipe.weight_decay}
        return torch.optim.SGD(groups.values(), lr=recipe.lr, **settings)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    settings = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": recipe.weight_decay}
    return kind(groups.values(), lr=recipe.lr, **settings)


def layers_above(name, depth):
    """Number of layers above a parameter's: BEiT's layers are the embeddings, the blocks, and all the rest as one."""
    group = group_of(name)
    if group.startswith("blocks."):
        return depth - int(group[7:])
    return depth + 1 if group == "embeddings" else 0


def average(averages, model, decay):
    """Move averages, by the names of the state dict, towards the model's parameters and running statistics."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            averages[name] = averages[name] + (1 - decay) * (tensor - averages[name])


def set_drop_path(model, rate, masks):
    """Stochastic depth of the next step in training mode: `masks` (blocks, 2, B) are 0 where attention or MLP of a block is
    dropped for an image. The probability rises linearly over the blocks, from 0 to `rate`."""
    depth = model.config.depth
    kept = 1 - torch.linspace(0, rate, depth, dtype=torch.float64)
    if model.config.jigsaw:
        # Flat: the masks of the blocks, then (2, B * PIECES) of the jigsaw's.
        batch = masks.numel() // (2 * depth + 2 * PIECES)
        model.jigsaw_drop = masks[2 * depth * batch :].view(2, -1) / kept[-1]
        masks = masks[: 2 * depth * batch].view(depth, 2, batch)
    model.drop = masks / kept[:, None, None]


def jigsaw_weights(count):
    """The weights of the losses of a jigsaw's parts: one half, and one half for the others together."""
    return [0.5] + [0.5 / (count - 1)] * (count - 1)


def loss_of(logits, labels, smoothing=0.0, head=None, jigsaw=False):
    """Cross-entropy of (R, B, K) logits: mean over the batch, sum over the parts, or their mean with BNNeck."""
    losses = [F.cross_entropy(part, labels, label_smoothing=smoothing) for part in logits]
    if jigsaw:
        return sum(weight * loss for weight, loss in zip(jigsaw_weights(len(losses)), losses))
    total = sum(losses)
    return total / len(logits) if head == "bnneck" else total


def triplet_loss(parts, labels, margin):
    """Batch-hard triplet loss (Hermans 2017, section 2.2) of (B, R, D) parts, with the parts of an image as one vector:
    the mean over the batch. An image without another of its person, or of another person, counts 0."""
    rows = parts.flatten(1)
    distances = (rows[:, None] - rows).square().sum(2).clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels
    other = same & ~torch.eye(len(labels), dtype=torch.bool)
    farthest = distances.masked_fill(~other, -math.inf).max(1).values
    nearest = distances.masked_fill(same, math.inf).min(1).values
    excess = farthest - nearest
    return (F.softplus(excess) if margin == "soft" else F.relu(excess + margin)).mean()


def update_memory(model, recipe, labels):
    """Move the prototypes (K, L) towards the embeddings of the step: by all images in their order, or by each person's
    least similar one."""
    for label in labels.unique():
        own = model.seen[labels == label]
        if recipe.hard_update:
            own = own[(own @ model.memory[label]).argmin()][None]
        for x in own:
            model.memory[label] = F.normalize(recipe.momentum * model.memory[label] + (1 - recipe.momentum) * x, dim=0)


def predict(logits):
    """(R, B, K) -> (B): the person with the largest sum of probabilities (equations 8 and 9)."""
    return logits.softmax(2).sum(0).argmax(1)


def backward(model, recipe, images, labels):
    """Loss and gradients of a batch in training mode; gradients of frozen parameters are None."""
    model.train()
    model.zero_grad(set_to_none=True)
    parts = model.parts(model.tokens(images))
    jigsaw = model.config.jigsaw
    logits = model.classify(parts)
    if recipe.identity == 0:
        # Labels may be clusters, of which the classifiers know nothing.
        loss = 0 * logits.sum()
    else:
        loss = (recipe.identity or 1) * loss_of(logits, labels, recipe.smoothing, recipe.head, jigsaw)
    if recipe.triplet_margin is not None:
        separate = zip(jigsaw_weights(parts.shape[1]), parts.split(1, 1)) if jigsaw else [(1.0, parts)]
        loss = loss + sum(weight * triplet_loss(part, labels, recipe.triplet_margin) for weight, part in separate)
    if recipe.prototypes is not None:
        # In training mode: with the statistics of the batch, which count once.
        features = model.normalised if recipe.embed == "after" else parts
        x = model.embed(features)
        loss = loss + recipe.prototypes * F.cross_entropy(x @ model.memory.T / recipe.temperature, labels)
        model.seen = x.detach()
    loss.backward()
    return loss.item()


@dataclass
class Step:
    """Figures of a training step, before the update."""

    loss: float
    lr: float
    grad_norm: float  # before clipping
    trainable: int


def train_step(model, optimizer, recipe, images, labels, step, steps_per_epoch):
    """One step (counted from 0) on normalised pixels (B, 3, H, W) and labels (B)."""
    trainable = set_trainable(model, recipe, step // steps_per_epoch)
    lr = learning_rate(recipe, model.config.depth, step, steps_per_epoch)
    for group in optimizer.param_groups:
        rate = learning_rate(recipe, model.config.depth, step, steps_per_epoch, group["factor"])
        group["lr"] = rate * group["layer_factor"]
    loss = backward(model, recipe, images, labels)
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm or math.inf)
    optimizer.step()
    if recipe.prototypes is not None:
        update_memory(model, recipe, labels)
    return Step(loss, lr, norm.item(), trainable)
