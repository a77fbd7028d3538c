#!/usr/bin/env python3
"""Compare training in f16 with training in f32: loss and mAP over several seeds.

    python3 tools/compare_precision.py --binary target/release/lat-wgpu --backbone dinov2-s14.safetensors \\
        --data DIR --out RUNS [--svg FILE] [--epochs 6] [--size 112x56] [--seeds 1,2,3]
    tools/adapters.sh lavapipe-newest …     on matrix units without a GPU; takes hours

Trains preset `paper` with one more block per epoch, for each seed in f32 and in f16, and scores each model on the queries
and the gallery of the data set. Runs that were interrupted are resumed, and finished ones are kept, so the command can be
repeated. Prints a table in Markdown; --svg draws the mean loss of each epoch and the range over the seeds. Exit code 1 if
the mean mAP of f16 differs from that of f32 by more than two pooled standard deviations.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PRECISIONS = {"f32": "#4269d0", "f16": "#ff725c"}


def run(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(str(word) for word in command)}: exit code {done.returncode}")


def losses(folder):
    """The mean training loss of each epoch."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["train_loss"] for line in lines if line.get("kind") == "epoch"]


def trained(options, precision, seed):
    """The run folder of a precision and a seed, with all epochs and the file eval.json."""
    folder = options.out / f"{precision}-{seed}"
    if not (folder / "log.jsonl").exists() or len(losses(folder)) < options.epochs:
        if (folder / "last.safetensors").exists():
            run(options.binary, "train", "--resume", "--out", folder, "--quiet")
        else:
            run(
                options.binary, "train", "--backbone", options.backbone, "--data", options.data, "--size", options.size,
                "--blockwise", "--unfreeze-every", 1, "--epochs", options.epochs, "--seed", seed, "--precision", precision,
                "--save-every", 5, "--out", folder, "--quiet",
            )
    scores = folder / "eval.json"
    if not scores.exists():
        run(options.binary, "eval", "--model", folder / "best.safetensors", "--data", options.data, "--json", scores)
    return folder


def draw(path, curves):
    """The mean loss of each epoch by precision, with bars from the lowest to the highest seed."""
    width, height, left, bottom, top = 640, 320, 56, 40, 16
    every = [loss for runs in curves.values() for run in runs for loss in run]
    low, high = min(every), max(every)
    epochs = max(len(run) for runs in curves.values() for run in runs)

    def x(epoch):
        return left + (width - left - 24) * epoch / max(epochs - 1, 1)

    def y(loss):
        return top + (height - top - bottom) * (high - loss) / max(high - low, 1e-9)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for step in range(5):
        loss = low + (high - low) * step / 4
        parts.append(f'<path d="M{left} {y(loss):.1f}H{width - 24}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.1f}</text>')
    for epoch in range(epochs):
        parts.append(f'<text x="{x(epoch):.1f}" y="{height - 20}" text-anchor="middle">{epoch + 1}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">epoch</text>')
    for place, (precision, runs) in enumerate(curves.items()):
        colour = PRECISIONS[precision]
        dashes = "" if place == 0 else ' stroke-dasharray="6 4"'
        columns = list(zip(*runs))
        points = " ".join(f"{x(i):.1f},{y(statistics.mean(column)):.1f}" for i, column in enumerate(columns))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        for i, column in enumerate(columns):
            at = x(i) + 4 * place - 2
            parts.append(f'<path d="M{at:.1f} {y(max(column)):.1f}V{y(min(column)):.1f}" stroke="{colour}"/>')
        parts.append(f'<path d="M{width - 130} {top + 14 + 18 * place}h24" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts.append(f'<text x="{width - 100}" y="{top + 18 + 18 * place}">{precision}</text>')
    path.write_text("\n".join(parts) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--binary", "--backbone", "--data", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", default="112x56")
    parser.add_argument("--seeds", default="1,2,3")
    options = parser.parse_args()
    options.binary = options.binary.resolve()

    seeds = [int(seed) for seed in options.seeds.split(",")]
    folders = {precision: [trained(options, precision, seed) for seed in seeds] for precision in PRECISIONS}
    curves = {precision: [losses(folder) for folder in runs] for precision, runs in folders.items()}
    scores = {
        precision: [json.loads((folder / "eval.json").read_text()) for folder in runs]
        for precision, runs in folders.items()
    }
    print("| precision | seed | loss of each epoch | R1 | mAP |\n|---|---|---|---|---|")
    for precision in PRECISIONS:
        for seed, curve, score in zip(seeds, curves[precision], scores[precision]):
            shown = ", ".join(f"{loss:.2f}" for loss in curve)
            print(f"| {precision} | {seed} | {shown} | {100 * score['rank1']:.2f} | {100 * score['map']:.2f} |")
    found = {precision: [100 * score["map"] for score in scores[precision]] for precision in PRECISIONS}
    means = {precision: statistics.mean(values) for precision, values in found.items()}
    pooled = statistics.mean(statistics.variance(values) for values in found.values()) ** 0.5
    difference = means["f16"] - means["f32"]
    print(
        f"\nmAP {means['f32']:.2f} in f32, {means['f16']:.2f} in f16: a difference of {difference:.2f}, "
        f"{abs(difference) / pooled:.2f} pooled standard deviations of {pooled:.2f}"
    )
    if options.svg:
        draw(options.svg, curves)
    return 0 if abs(difference) <= 2 * pooled else 1


if __name__ == "__main__":
    sys.exit(main())
