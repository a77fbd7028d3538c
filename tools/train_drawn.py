#!/usr/bin/env python3
"""Train a small ViT on drawn persons in PyTorch, and score it on real and on other drawn persons.

    lat-wgpu synth drawn --crowd persons=10000,cameras=48,seed=1 --images 1
    lat-wgpu synth held-out --crowd persons=256,cameras=48,seed=7 --images 2
    python3 tools/train_drawn.py drawn --real MARKET --held-out held-out --out scores.json [--parts 2 …]

Trains as `lat-wgpu train --head-kind bnneck --triplet --soft-margin --sampler cameras` does, but quicker on a CPU, for
choices that need many runs. All images below the first folder train. Scores all images against all others, by the
averaged weights, embedded before and after the BatchNorm. Of MARKET, a folder in the layout of Market-1501, only
`bounding_box_train` is read: choices must not see the test images. A drawn set with another seed has other persons and
other cameras, and all of its images count.
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

HEIGHT, WIDTH, PATCH, HEAD = 128, 64, 16, 64
FAMILY, EACH = 4, 4
# Settings and their defaults; `images` counts visits.
SETTINGS = {
    "images": 24_000, "batch": 64, "lr": 7e-4, "depth": 6, "width": 128, "stride": 16, "parts": 2, "drop_path": 0.05,
    "ema": 0.99, "smoothing": 0.1, "erasing": 0.0, "jitter": 0.0, "seed": 1, "threads": 1,
}  # fmt: skip


def read(folder):
    """Pixels, persons and cameras of the images of persons below `folder`."""
    paths = [path for path in sorted(folder.rglob("*")) if re.match(r"0*[1-9]\d*_c\d+.*\.(jpg|png)$", path.name)]
    labels = np.array([re.match(r"(\d+)_c(\d+)", path.name).groups() for path in paths], int)
    pixels = np.empty((len(paths), HEIGHT, WIDTH, 3), np.uint8)
    for place, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        pixels[place] = image if image.size == (WIDTH, HEIGHT) else image.resize((WIDTH, HEIGHT), Image.BICUBIC)
    return torch.from_numpy(pixels), labels[:, 0], labels[:, 1]


class Block(nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        self.heads, self.drop = width // HEAD, drop
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def path(self, branch):
        if not self.training or self.drop == 0:
            return branch
        return branch * (torch.rand(len(branch), 1, 1) >= self.drop) / (1 - self.drop)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        # Quicker on a CPU than the backward pass of scaled_dot_product_attention.
        mixed = (q @ k.transpose(2, 3) * HEAD**-0.5).softmax(3) @ v
        x = x + self.path(self.proj(mixed.transpose(1, 2).flatten(2)))
        return x + self.path(self.mlp(self.norm2(x)))


class Network(nn.Module):
    """A ViT with overlapping patches, whose parts are means of bands of rows, blended with the class token."""

    def __init__(self, persons, depth, width, stride, parts, drop_path):
        super().__init__()
        self.rows, self.columns = ((side - PATCH) // stride + 1 for side in (HEIGHT, WIDTH))
        self.stride, self.parts = stride, parts
        self.patch = nn.Linear(3 * PATCH * PATCH, width)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 1 + self.rows * self.columns, width))
        self.blocks = nn.Sequential(*(Block(width, drop_path * i / max(depth - 1, 1)) for i in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(parts))
        self.classifiers = nn.ModuleList(nn.Linear(width, persons, bias=False) for _ in range(parts))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.001 if "classifiers" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for bn in self.bns:
            bn.bias.requires_grad_(False)

    def embed(self, x):
        """The parts before the BatchNorm, [image, part, width]."""
        patches = F.unfold(x, PATCH, stride=self.stride).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), self.patch(patches)], 1) + self.place
        x = self.norm(self.blocks(x).float())
        bands = x[:, 1:].unflatten(1, (self.rows, self.columns)).permute(0, 3, 1, 2)
        return (F.adaptive_avg_pool2d(bands, (self.parts, 1)).squeeze(3).transpose(1, 2) + x[:, :1]) / 2

    def after(self, parts):
        return torch.stack([bn(part) for bn, part in zip(self.bns, parts.unbind(1))], 1)


def distort(x, jitter, erasing):
    """Flips, shifts, distorts colours by `jitter` and erases; `x` has values from −1 to 1."""
    count = len(x)
    x = torch.where(torch.rand(count, 1, 1, 1) < 0.5, x.flip(3), x)
    rows = torch.randint(0, 9, (count, 1)) + torch.arange(HEIGHT)
    columns = torch.randint(0, 9, (count, 1)) + torch.arange(WIDTH)
    x = F.pad(x, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    x = x[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if jitter > 0:
        bright, steep, strong = (1 + jitter * (2 * torch.rand(3, count, 1, 1, 1) - 1)).unbind()
        x = (x + 1) * bright - 1
        x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, steep)
        x = torch.lerp(x.mean(1, keepdim=True), x, strong)
        # Colours shift as by a small turn of the hue.
        x = (x + 0.15 * jitter * (2 * torch.rand(count, 3, 1, 1) - 1)).clamp(-1, 1)
    for image in (image for image in x if torch.rand(()) < erasing):
        area, aspect = HEIGHT * WIDTH * torch.empty(()).uniform_(0.02, 0.4), torch.empty(()).uniform_(0.3, 1 / 0.3)
        high, wide = int((area * aspect).sqrt()), int((area / aspect).sqrt())
        if high < HEIGHT and wide < WIDTH:
            top, left = int(torch.randint(HEIGHT - high, ())), int(torch.randint(WIDTH - wide, ()))
            image[:, top : top + high, left : left + wide] = 0
    return x


def batches(persons, cameras, batch, generator):
    """Endless batches of whole families: `EACH` images of a person, by different cameras as far as there are."""
    images = {}
    for place, (person, camera) in enumerate(zip(persons, cameras)):
        images.setdefault(person, {}).setdefault(camera, []).append(place)
    everyone, left, waiting = sorted(images), [], {}
    families = [everyone[i : i + FAMILY] for i in range(0, len(everyone), FAMILY)]
    while True:
        chosen, count = [], batch // EACH // FAMILY
        if len(left) < count:
            left = list(generator.permutation(len(families)))
        for person in (person for _ in range(count) for person in families[left.pop()]):
            order = generator.permutation(sorted(images[person]))
            for camera in (order[i % len(order)] for i in range(EACH)):
                queue = waiting.setdefault((person, camera), [])
                if not queue:
                    queue.extend(generator.permutation(images[person][camera]))
                chosen.append(queue.pop())
        yield torch.from_numpy(np.array(chosen))


def triplet(features, labels):
    """Batch-hard soft-margin triplet loss."""
    distances, same = torch.cdist(features, features), labels[:, None] == labels
    farthest, nearest = distances.masked_fill(~same, 0).amax(1), distances.masked_fill(same, math.inf).amin(1)
    return F.softplus(farthest - nearest).mean()


def images_of(pixels):
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train(options, pixels, persons, cameras):
    """The averaged network after `options.images` visits."""
    names, labels = np.unique(persons, return_inverse=True)
    labels = torch.from_numpy(labels)
    sizes = (options.depth, options.width, options.stride, options.parts, options.drop_path)
    network = Network(len(names), *sizes)
    averages = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.ema), use_buffers=True)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.05, fused=True)
    steps = options.images // options.batch
    warm = max(1, steps // 20)
    falling = [0.5 + 0.5 * math.cos(math.pi * t / (steps - warm)) for t in range(steps - warm + 1)]
    rates = [(t + 1) / warm for t in range(warm)] + falling
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates.__getitem__)
    order = batches(persons, cameras, options.batch, np.random.default_rng(options.seed))
    forward, start = torch.compile(network.embed), time.monotonic()
    for step, chosen in zip(range(1, steps + 1), order):
        target = labels[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            parts = forward(distort(images_of(pixels[chosen]), options.jitter, options.erasing)).float()
            logits = [classify(x) for classify, x in zip(network.classifiers, network.after(parts).unbind(1))]
        losses = [F.cross_entropy(x.float(), target, label_smoothing=options.smoothing) for x in logits]
        identity, distance = sum(losses) / len(losses), triplet(parts.flatten(1), target)
        optimizer.zero_grad()
        (identity + distance).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        averages.update_parameters(network)
        if step % 100 == 0 or step == steps:
            rate = step * options.batch / (time.monotonic() - start)
            print(f"{step}/{steps}: losses {identity:.3f} and {distance:.3f}, {rate:.0f} images/s", flush=True)
    return averages.module.eval()


@torch.no_grad()
def embed(network, pixels):
    """Embeddings before and after the BatchNorm, each of unit length."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = torch.cat([network.embed(images_of(piece)) for piece in pixels.split(128)]).float()
    return [F.normalize(x.flatten(1)) for x in (parts, network.after(parts))]


def score(embeddings, persons, cameras):
    """rank-1 and mAP of all images against all others, and of every person the count, the sum of AP and of rank-1."""
    persons, cameras, sums = torch.from_numpy(persons), torch.from_numpy(cameras), {}
    for person, camera, similarity in zip(persons, cameras, embeddings @ embeddings.T):
        counts = (persons != person) | (cameras != camera)
        order = similarity[counts].argsort(descending=True, stable=True)
        right = (persons[counts] == person)[order]
        if right.any():
            at = torch.nonzero(right)[:, 0]
            precision = (torch.arange(1, len(at) + 1) / (at + 1)).mean().item()
            sums.setdefault(person.item(), []).append((1, precision, right[0].item()))
    of_person = {person: [round(x, 4) for x in np.sum(rows, 0).tolist()] for person, rows in sums.items()}
    count, precisions, firsts = np.sum(list(of_person.values()), 0)
    return {"rank1": firsts / count, "map": precisions / count, "persons": of_person}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name in ("--real", "--held-out", "--out"):
        parser.add_argument(name, type=Path, required=True)
    for name, value in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    network = train(options, *read(options.data))
    minutes = (time.monotonic() - start) / 60
    result = {name: getattr(options, name) for name in SETTINGS} | {"minutes": round(minutes, 1)}
    for name, folder in (("real", options.real / "bounding_box_train"), ("drawn", options.held_out)):
        pixels, persons, cameras = read(folder)
        for kind, embeddings in zip(("before", "after"), embed(network, pixels)):
            scores = result[f"{name}_{kind}"] = score(embeddings, persons, cameras)
            print(f"{name}, {kind} the BatchNorm: R1 {100 * scores['rank1']:.1f}, mAP {100 * scores['map']:.1f}")
    options.out.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
