"""PyTorch's side of the table: the same products, attention and network, on the same random numbers.

    python3 torch_peer.py [--device cpu|cuda] [--precision fp32|tf32|bf16] [--compile] SAMPLES FOLDER ROW...

Prints one line of JSON for each row, as `src/lib.rs` does. `tf32` multiplies f32 matrices in TF32. `bf16` casts the operands
of products and attention, and runs networks under autocast with f32 weights. Times end when the device has finished. FOLDER
has the files of the networks; a missing file gives random weights. Needs torch, safetensors and Pillow.
"""

import argparse
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

SIDE, PATCH, GRID, DEPTH, HEAD_WIDTH = 224, 16, 14, 12, 64
TOKENS = 1 + GRID * GRID
WIDTHS = {"vit-ti": 192, "vit-s": 384, "vit-b": 768}
HIDDEN, CLASSES = 256, 751
# As in src/lib.rs.
LEFT, RIGHT, ATTENTION, GRADIENT, PIXELS = 1, 2, 3, 4, 5
LEARNING_RATE, ADAM_EPS, BATCHNORM_EPS, WARM_STEPS, NEAREST, LAMBDA = 1e-4, 1e-8, 1e-5, 2, 10, 0.8
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# Batch size when embedding files.
BATCH = 8
THREADS = os.cpu_count()
# Set from the command line.
DEVICE, PRECISION, COMPILE = torch.device("cpu"), "fp32", False
WORD = 0xFFFFFFFF


def bits(stream, count):
    """32 random bits each, as in `src/rng.rs` of the main crate with seed 0."""

    def mix(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & WORD
        x = ((x ^ (x >> 15)) * 0x846CA68B) & WORD
        return x ^ (x >> 16)

    index = torch.arange(count, dtype=torch.int64)
    state = torch.full_like(index, 0x9E3779B9)
    for word in (0, 0, stream & WORD, stream >> 32, index & WORD, index >> 32):
        state = (mix(state ^ word) + 0x85EBCA6B) & WORD
    return state


def numbers(stream, *shape):
    """Numbers in [-1, 1)."""
    values = (bits(stream, math.prod(shape)) >> 8).float() / (1 << 24)
    return (2 * values - 1).view(shape).to(DEVICE)


def operand(values):
    """An operand of a product or of attention, in the chosen precision."""
    return values.bfloat16() if PRECISION == "bf16" else values


def network_precision():
    """The context of networks."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=PRECISION == "bf16")


def compiled(run):
    return torch.compile(run) if COMPILE else run


def finish():
    """Wait until the device has finished."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def draw_images(batch):
    """(B, 3, height, width), normalised."""
    pixels = (bits(PIXELS, batch * SIDE * SIDE * 3) & 255).float().view(batch, SIDE, SIDE, 3)
    return ((pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD).contiguous().to(DEVICE)


class Memory:
    """Measures the peak of this process's resident memory, as `src/lib.rs` does, or of the device's memory."""

    def __init__(self):
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = self.status("VmRSS:")
        except OSError:
            self.before = None

    @staticmethod
    def status(name):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024

    def growth(self):
        if DEVICE.type == "cuda":
            return torch.cuda.max_memory_allocated() - self.before
        return None if self.before is None else self.status("VmHWM:") - self.before


def repeat(samples, run):
    """Seconds of each sample, measured as in `src/lib.rs`, and the last result."""
    start, warm, last = time.perf_counter(), 0, 0
    while warm < 3 or time.perf_counter() - start < 0.5:
        last = time.perf_counter()
        result = run()
        finish()
        last = time.perf_counter() - last
        warm += 1
    runs = int(min(max(0.2 / last, 1), 100))
    seconds = []
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(runs):
            result = run()
        finish()
        seconds.append((time.perf_counter() - start) / runs)
    return seconds, result


def attend(qkv, heads):
    batch, tokens, width = qkv.shape
    q, k, v = qkv.view(batch, tokens, 3, heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width // 3)


class Network:
    """The network of a file, as a dictionary of tensors; a stage selects those that train."""

    def __init__(self, state, width, opened=0, embeddings=False):
        self.width, self.heads = width, width // HEAD_WIDTH
        backbone = ((name, tensor) for name, tensor in state.items() if not name.startswith("heads."))
        self.tensors = {name: tensor.to(DEVICE, copy=True) for name, tensor in backbone}
        for name in ("fc1.weight", "fc1.bias", "bn.weight", "bn.bias", "fc2.weight", "fc2.bias"):
            stacked = torch.stack([state[f"heads.{part}.{name}"] for part in range(GRID)])
            self.tensors["heads." + name] = stacked.to(DEVICE)
        self.open = [name for name in self.tensors if self.trains(name, opened, embeddings)]
        for name in self.open:
            self.tensors[name].requires_grad_()

    @staticmethod
    def trains(name, opened, embeddings):
        if opened == 0:
            return False
        if name.startswith("blocks."):
            return int(name.split(".")[1]) >= DEPTH - opened
        return embeddings or name.startswith(("norm.", "heads."))

    def linear(self, x, name):
        return F.linear(x, self.tensors[name + ".weight"], self.tensors[name + ".bias"])

    def norm(self, x, name):
        return F.layer_norm(x, (self.width,), self.tensors[name + ".weight"], self.tensors[name + ".bias"], 1e-6)

    def parts(self, images):  # (B, 3, H, W) -> (B, R, D)
        t = self.tensors
        x = F.conv2d(images, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], PATCH).flatten(2).transpose(1, 2)
        x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], 1) + t["pos_embed"]
        for i in range(DEPTH):
            block = f"blocks.{i}."
            mixed = attend(self.linear(self.norm(x, block + "norm1"), block + "attn.qkv"), self.heads)
            x = x + self.linear(mixed, block + "attn.proj")
            hidden = F.gelu(self.linear(self.norm(x, block + "norm2"), block + "mlp.fc1"))
            x = x + self.linear(hidden, block + "mlp.fc2")
        x = self.norm(x, "norm")
        means = x[:, 1:].view(len(x), GRID, GRID, self.width).mean(2)
        return (means + LAMBDA * x[:, :1]) / (1 + LAMBDA)

    def embeddings(self, images):
        return F.normalize(self.parts(images), dim=2) / math.sqrt(GRID)

    def scores(self, parts):  # (B, R, D) -> (R, B, K)
        t = self.tensors
        hidden = torch.baddbmm(t["heads.fc1.bias"][:, None], parts.transpose(0, 1), t["heads.fc1.weight"].mT)
        variance, mean = torch.var_mean(hidden, 1, correction=0, keepdim=True)
        normal = (hidden - mean) / (variance + BATCHNORM_EPS).sqrt()
        hidden = F.relu(normal * t["heads.bn.weight"][:, None] + t["heads.bn.bias"][:, None])
        return torch.baddbmm(t["heads.fc2.bias"][:, None], hidden, t["heads.fc2.weight"].mT)


def shapes(width):
    """Name and shape of every tensor of a network and its classifiers."""
    yield from (("cls_token", (1, 1, width)), ("pos_embed", (1, TOKENS, width)))
    yield from (("patch_embed.proj.weight", (width, 3, PATCH, PATCH)), ("patch_embed.proj.bias", (width,)))
    linears = (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4))
    for i in range(DEPTH):
        for name, n, k in linears:
            yield f"blocks.{i}.{name}.weight", (n * width, k * width)
            yield f"blocks.{i}.{name}.bias", (n * width,)
    norms = [f"blocks.{i}.norm{which}" for i in range(DEPTH) for which in (1, 2)] + ["norm"]
    yield from ((f"{norm}.{part}", (width,)) for norm in norms for part in ("weight", "bias"))
    for part in range(GRID):
        head = f"heads.{part}."
        yield from ((head + "fc1.weight", (HIDDEN, width)), (head + "fc2.weight", (CLASSES, HIDDEN)))
        yield from ((head + name, (HIDDEN,)) for name in ("fc1.bias", "bn.weight", "bn.bias"))
        yield head + "fc2.bias", (CLASSES,)


def load(folder, model):
    """The tensors of the network's file; random ones, for timing only, if it is missing."""
    path = folder / f"{model}.safetensors"
    if path.exists():
        return load_file(path)
    torch.manual_seed(0)
    return {name: 0.02 * torch.randn(shape) for name, shape in shapes(WIDTHS[model])}


def gemm(samples, form, shape):
    m, k, n = map(int, shape.split("x"))
    a = numbers(LEFT, k, m).mT if form == "tn" else numbers(LEFT, m, k)
    b = numbers(RIGHT, n, k).mT if form == "nt" else numbers(RIGHT, k, n)
    a, b = operand(a), operand(b)
    multiply = compiled(torch.matmul)
    return repeat(samples, lambda: multiply(a, b))


def attention(samples, direction, model, batch=1, tokens=TOKENS):
    width = WIDTHS[model]
    qkv = operand(numbers(ATTENTION, batch, tokens, 3 * width))
    run = compiled(attend)
    if direction == "forward":
        return repeat(samples, lambda: run(qkv, width // HEAD_WIDTH))
    gradient = operand(numbers(GRADIENT, batch, tokens, width))
    with torch.enable_grad():
        qkv.requires_grad_()
        out = run(qkv, width // HEAD_WIDTH)
        return repeat(samples, lambda: torch.autograd.grad(out, qkv, gradient, retain_graph=True)[0])


def forward(samples, folder, model, batch):
    network, images = Network(load(folder, model), WIDTHS[model]), draw_images(batch)
    run = compiled(network.embeddings)
    with network_precision():
        return repeat(samples, lambda: run(images))


def step(samples, folder, model, opened, batch):
    state, images, labels = load(folder, model), draw_images(batch), torch.arange(batch, device=DEVICE).repeat(GRID)
    memory = Memory()
    network = Network(state, WIDTHS[model], DEPTH if opened == "all" else int(opened), opened == "all")
    optimiser = torch.optim.Adam([network.tensors[name] for name in network.open], lr=LEARNING_RATE, eps=ADAM_EPS)
    seconds, losses = [], []

    def forward_loss():
        with network_precision():
            scores = network.scores(network.parts(images))
            return F.cross_entropy(scores.flatten(0, 1), labels, reduction="sum") / batch

    run = compiled(forward_loss)
    with torch.enable_grad():
        for number in range(WARM_STEPS + samples):
            start = time.perf_counter()
            loss = run()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            finish()
            if number >= WARM_STEPS:
                seconds.append(time.perf_counter() - start)
    return seconds, torch.tensor(losses), memory.growth()


def embed(samples, folder, model, count):
    network = Network(load(folder, model), WIDTHS[model])
    root = folder / "images"
    files = sorted((path for path in root.rglob("*.png")), key=lambda path: path.relative_to(root).as_posix())[:count]

    def decode(path):
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)
        return (pixels.permute(2, 0, 1).float() / 255 - MEAN) / STD

    with ThreadPoolExecutor(THREADS) as pool:

        def run():
            images = list(pool.map(decode, files))
            batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
            return torch.cat([embeddings(torch.stack(batch).to(DEVICE)) for batch in batches])

        embeddings = compiled(network.embeddings)
        with network_precision():
            return repeat(samples, run)


def nearest(samples, shape):
    queries, width, gallery = map(int, shape.split("x"))
    asked, kept = numbers(LEFT, queries, width), numbers(RIGHT, gallery, width)

    def run():
        products = torch.addmm(kept.square().sum(1)[None], asked, kept.mT, alpha=-2)
        least = products.topk(NEAREST, dim=1, largest=False, sorted=True)[0]
        return least + asked.square().sum(1)[:, None]

    return repeat(samples, run)


def measure(row, samples, folder):
    """Result of a row, as members of its line."""
    words, growth = row.split(":"), None
    if COMPILE:
        # Otherwise earlier shapes make this one dynamic, and after eight nothing is compiled.
        torch.compiler.reset()
    if words[0] == "gemm":
        seconds, result = gemm(samples, *words[1:])
    elif words[0] == "attention":
        seconds, result = attention(samples, *words[1:3], *map(int, words[3:]))
    elif words[0] == "forward":
        seconds, result = forward(samples, folder, words[1], int(words[2]))
    elif words[0] == "step":
        seconds, result, growth = step(samples, folder, words[1], words[2], int(words[3]))
    elif words[0] == "embed":
        seconds, result = embed(samples, folder, words[1], int(words[2]))
    elif words[0] == "nearest":
        seconds, result = nearest(samples, words[1])
    else:
        sys.exit(f"error: {row} is no row; see the list in compare.py")
    values = result.detach().float().flatten()
    values = values[:: max(1, -(-len(values) // 1000))].tolist()
    return {"seconds": seconds, "peak_growth_bytes": growth, "values": values}


def main():
    global DEVICE, PRECISION, COMPILE
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("samples", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", nargs="+")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no CUDA device")
    DEVICE, PRECISION, COMPILE = torch.device(given.device), given.precision, given.compile
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = PRECISION == "tf32"
    adapter = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {THREADS} threads"
    for row in given.rows:
        line = {"row": row, "peer": "torch", "adapter": adapter, "version": torch.__version__}
        line |= {"precision": PRECISION, "compiled": COMPILE}
        print(json.dumps(line | measure(row, given.samples, given.folder)), flush=True)


if __name__ == "__main__":
    main()
