#!/usr/bin/env python3
"""Compute the time of a training step on 1 to 64 adapters, and measure it on two.

    python3 tools/scale.py                                # tables in Markdown, from docs/results/scale.json
    python3 tools/scale.py --measure PROGRAM BACKBONE DATA    # measures first, and writes that file

PROGRAM is `lat-wgpu` with the feature `mpi`. `--measure` runs it alone and on two network namespaces of this machine
(`tools/two_hosts.sh`), one thread each, so it needs root. RUNNER in the environment is a command before PROGRAM.

The model: a message of S bytes takes α + S/β. A rank of N exchanges a group of gradients of S bytes in 2(N-1) messages
of S/N bytes, and its bytes cross the bus between host and adapter twice. Groups are exchanged one after another, each
as soon as the backward pass has completed it. A forward pass takes a third of the time of a step with all blocks open,
and the backward pass of each block the same.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs/results/scale.json"
RANKS = (1, 2, 4, 8, 16, 32, 64)
# Latency in seconds, and bytes per second. Of Ethernet by TCP, and of the others as their vendors state them.
LINKS = {
    "1 Gbit/s Ethernet": (50e-6, 0.117e9),
    "10 Gbit/s Ethernet": (30e-6, 1.17e9),
    "100 Gbit/s InfiniBand": (2e-6, 12e9),
}
# Bytes per second between host and adapter, and of additions on the host.
BUS, ADD = 10e9, 4e9
# Bytes of the gradients of ViT-S: of a block, of the patch embedding with the positions, and of the final norm.
DEPTH, BLOCK, EMBEDDINGS, NORM = 12, 4 * 1_774_464, 4 * 350_000, 4 * 768
# Bytes of the parts of an image of 224x112 pixels.
PART_BYTES = 4 * 14 * 384
# Seconds of a step of 32 images on the card of the table, and blocks that are open.
CARD, OPEN = 0.05, (12, 6, 1)


def groups(blocks):
    """Return the bytes of the gradients of the open groups, in the order of the backward pass."""
    return [NORM] + blocks * [BLOCK] + (blocks == DEPTH) * [EMBEDDINGS]


def step(whole, blocks, parts, ranks, alpha, rate, host=True):
    """Return the seconds of a step, given those of one process with all blocks open. `parts` are the bytes of a rank's
    parts. `host` adds the time that gradients take on the host."""
    at = whole / 3 + (ranks - 1) * (alpha + parts / rate)
    done = at
    for index, size in enumerate(groups(blocks)):
        # The final norm takes no time, nor does the patch embedding.
        if 0 < index <= blocks:
            at += 2 * whole / 3 / DEPTH
        if ranks > 1:
            done = max(done, at) + 2 * (ranks - 1) * (alpha + size / ranks / rate)
            done += host * (2 * size / BUS + size / ADD)
    return max(at, done)


def computed():
    """Print the times on the card, and their share of the time that one process takes."""
    print("| link | blocks open | " + " | ".join(f"{ranks}" for ranks in RANKS) + " |")
    print("|---|---|" + "---|" * len(RANKS))
    for link, (alpha, rate) in LINKS.items():
        for blocks in OPEN:
            times = [step(CARD, blocks, 32 * PART_BYTES, ranks, alpha, rate) for ranks in RANKS]
            cells = [f"{1000 * time:.0f} ms, {100 * times[0] / time:.0f} %" for time in times]
            print(f"| {link} | {blocks} | " + " | ".join(cells) + " |")


def run(command, out):
    """Run a training command; return the lines of its steps, and its messages."""
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(command + ["--out", str(out), "-v"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)}:\n{done.stderr}")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "step" in line], done.stderr


def seconds(steps, images):
    """Return the median seconds of a step, without the first two."""
    return statistics.median(images / line["images_per_s"] for line in steps[2:])


def measure(program, backbone, data):
    program = os.environ.get("RUNNER", "").split() + [program]
    os.environ.update({"LP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        for blocks, more in ((12, ["--preset", "full"]), (1, ["--unfreeze-every", "9"])):
            train = ["train", "--backbone", backbone, "--data", data, "--size", "112x56", "--epochs", "1"]
            train += ["--max-steps", "9"] + more
            steps, _ = run(program + train + ["--batch-size", "8"], out)
            time = seconds(steps, 8)
            for rate in (None, "10gbit", "1gbit", "200mbit"):
                link = ["tools/two_hosts.sh"] + (["--rate", rate] if rate else [])
                steps, text = run(link + program + train + ["--batch-size", "16"], out)
                sent = re.search(r"sends (\d+) bytes per step: gradients (\d+), parts (\d+)", text)
                exchange = re.search(r"gradients exchanged in ([\d.]+) s, (\d+) %", text)
                rows.append(
                    {
                        "blocks_open": blocks,
                        "rate": rate or "loopback",
                        "alone_s": time,
                        "two_ranks_s": seconds(steps, 16),
                        "gradient_bytes": int(sent[2]),
                        "part_bytes": int(sent[3]),
                        "exchange_s": float(exchange[1]) / len(steps),
                        "overlapped_percent": int(exchange[2]),
                    }
                )
                print(rows[-1], file=sys.stderr)
    FIGURES.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def measured():
    """Print the measured times, and those that the model gives for the rate of the measured exchange."""
    print("| blocks open | link | a rank sends | one process | two ranks | computed | exchange | while computing |")
    print("|---|---|---|---|---|---|---|---|")
    for row in json.loads(FIGURES.read_text())["rows"]:
        blocks, parts, gradients = row["blocks_open"], row["part_bytes"], row["gradient_bytes"]
        whole = row["alone_s"] / step(1, blocks, 0, 1, 0, 1)
        time = step(whole, blocks, parts, 2, 0, gradients / row["exchange_s"], host=False)
        print(
            f"| {blocks} | {row['rate']} | {(gradients + parts) / 1e6:.1f} MB | {row['alone_s']:.2f} s "
            f"| {row['two_ranks_s']:.2f} s | {time:.2f} s | {row['exchange_s']:.2f} s | {row['overlapped_percent']} % |"
        )


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--measure", nargs=3, metavar=("PROGRAM", "BACKBONE", "DATA"))
arguments = parser.parse_args()
if arguments.measure:
    measure(*arguments.measure)
measured()
print()
computed()
