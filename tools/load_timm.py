"""Load a file of `lat-wgpu export --to timm` with timm's ViT as the backbone.

    import load_timm
    model = load_timm.load("model.safetensors")                # a torch.nn.Module in evaluation mode
    embeddings = model(model.preprocess(["person.jpg"]))       # (N, R*D), rows of length 1
    tokens = model.backbone.forward_features(images)           # model.backbone is timm's VisionTransformer

The file's metadata has the arguments of `timm.create_model` and the preparation of images. Part classifiers, if the file
has them, are `model.heads`; `model.logits(images)` returns (R, N, K). Needs torch, timm, safetensors, pillow >= 13.
"""

import json
import math
import sys

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors import safe_open
from torch import nn


class PartClassifier(nn.Module):
    """Scores of all persons for one part: (N, D) -> (N, K)."""

    def __init__(self, width, hidden, classes, relu):
        super().__init__()
        self.relu = relu
        self.fc1 = nn.Linear(width, hidden)
        self.bn = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, part):
        x = self.bn(self.fc1(part))
        return self.fc2(F.relu(x) if self.relu else x)


class LaTransformer(nn.Module):
    """The Locally Aware Transformer on timm's ViT."""

    def __init__(self, backbone, metadata):
        super().__init__()
        self.backbone, self.metadata = backbone, metadata
        self.grid, self.gelt = metadata["model"]["grid"], metadata["model"]["gelt"]
        self.class_names = metadata.get("class_names")
        # Means, and deviations if there are any (C + 1, R*D), by the cameras of metadata["model"]["statistics"]; the last
        # row is that of all images.
        self.statistics = {}
        self.heads = nn.ModuleList()

    def preprocess(self, images):
        """Files or Pillow images -> (N, 3, H, W): upright, stretched by Pillow's bicubic, normalised."""
        settings = self.metadata["preprocess"]
        height, width = settings["size"]
        pixels = []
        for image in images:
            if not isinstance(image, Image.Image):
                image = Image.open(image)
            upright = ImageOps.exif_transpose(image).convert("RGB")
            pixels.append(np.array(upright.resize((width, height), Image.BICUBIC)))
        mean, std = torch.tensor(settings["mean"]), torch.tensor(settings["std"])
        return ((torch.from_numpy(np.stack(pixels)).float() / 255 - mean) / std).movedim(-1, 1)

    def parts(self, images):
        """(N, 3, H, W) -> (N, R, D): row means Q blended with the class token G, equation 6 of the paper."""
        tokens, (rows, columns) = self.backbone.forward_features(images), self.grid
        g = tokens[:, :1]
        q = tokens[:, -rows * columns :].unflatten(1, (rows, columns)).mean(2)
        if self.gelt["parts"] != "rows":
            count = int(self.gelt["parts"])
            bands = [q[:, i * rows // count : -(-(i + 1) * rows // count)] for i in range(count)]
            q = torch.stack([band.mean(1) for band in bands], 1)
        if self.gelt["tokens"] != "gelt":
            return q if self.gelt["tokens"] == "local" else g.expand_as(q)
        lam = self.gelt["lambda"]
        return ((q + lam * g) if self.gelt["lambda_on"] == "class" else (g + lam * q)) / (1 + lam)

    def forward(self, images, cameras=-1):
        """(N, 3, H, W) -> (N, R*D): each part to length 1, then the whole to length 1. If the file has camera statistics,
        `cameras` are the images' rows in them (N)."""
        parts = F.normalize(self.parts(images), dim=2)
        whole = parts.flatten(1) / math.sqrt(parts.shape[1])
        if not self.statistics:
            return whole
        whole = whole - self.statistics["mean"][cameras]
        if "deviation" in self.statistics:
            whole = whole / self.statistics["deviation"][cameras]
        return F.normalize(whole.view_as(parts), dim=2).flatten(1) / math.sqrt(parts.shape[1])

    def logits(self, images):
        """(N, 3, H, W) -> (R, N, K): the scores of each part's classifier."""
        parts = self.parts(images).unbind(1)
        return torch.stack([head(part) for head, part in zip(self.heads, parts, strict=True)])


def make_backbone(state, metadata):
    """timm's model for a state dict; changes the state dict if timm has the same network in another form."""
    create, model = metadata["timm"], metadata["model"]
    backbone = timm.create_model(create["architecture"], pretrained=False, **create["arguments"])
    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = model["ln_eps"]
    # For overlapping patches, timm's size is the one that gives the same grid without overlap.
    patches = backbone.patch_embed
    patches.proj.stride = (model["stride"], model["stride"])
    patches.img_size = tuple(metadata["preprocess"]["size"])
    patches.proj.bias = nn.Parameter(torch.zeros(patches.proj.out_channels)) if "patch_embed.proj.bias" in state else None
    # A position for the class token but not for the registers is added to the class token.
    count = math.prod(model["grid"])
    if backbone.no_embed_class and state["pos_embed"].shape[1] == count + 1:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    backbone.load_state_dict(state, strict=True)
    return backbone


def load(path):
    """The model of a file, in evaluation mode, f32."""
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}
        metadata = json.loads((file.metadata() or {}).get("lat_wgpu", "{}"))
    if "timm" not in metadata:
        raise ValueError(f"{path} is not a file of `lat-wgpu export --to timm`")
    statistics = {name[11:]: state.pop(name) for name in list(state) if name.startswith("statistics.")}
    heads = {name[6:]: state.pop(name) for name in list(state) if name.startswith("heads.")}
    model = LaTransformer(make_backbone(state, metadata), metadata)
    model.statistics = statistics
    if heads:
        # Classifiers without metadata, in files of other programs, are taken as the paper's, which have a ReLU.
        relu = metadata.get("heads", {}).get("relu", True)
        count = 1 + max(int(name.split(".")[0]) for name in heads)
        (hidden, width), classes = heads["0.fc1.weight"].shape, len(heads["0.fc2.bias"])
        model.heads = nn.ModuleList(PartClassifier(width, hidden, classes, relu) for _ in range(count))
        model.heads.load_state_dict(heads, strict=True)
    return model.eval()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: load_timm.py MODEL.safetensors IMAGE…  (prints the first values of each embedding)")
    loaded = load(sys.argv[1])
    with torch.no_grad():
        for name in sys.argv[2:]:
            vector = loaded(loaded.preprocess([name]))[0]
            print(name, " ".join(f"{value:.6f}" for value in vector[:8]), f"… of {len(vector)}")
