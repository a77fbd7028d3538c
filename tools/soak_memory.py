#!/usr/bin/env python3
"""Check that a long run doesn't use more memory or time per image at its end than at its start.

    tools/soak_memory.py PROGRAM [--minutes 20] [--only training|embedding]

Trains a tiny network on synthetic images for the given minutes and stops it by SIGINT, then embeds links to synthetic
images with the demo's network for about as long. For each, prints resident memory (VmRSS) in ten windows of equal length
after a warm-up of a tenth. For embedding, also prints microseconds per image, from the growth of its output; for training,
the bytes of its GPU buffers. Exit code 1 if memory grows by more than 5 % or time per image by more than 10 % from the
first half of the windows to the second, or if GPU buffers grow. On a CPU adapter the buffers of embedding are a part of
resident memory. Linux only.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

WINDOWS = 10
ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = ROOT / "tests/goldens/plain.model.safetensors"
DEMO = ROOT / "weights/demo.safetensors"
# Images to measure the rate: enough that loading and compiling hardly count.
FIRST = 1000


def resident(pid):
    """Resident bytes of a process; None if it has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def watch(process, progress, seconds=None):
    """Samples (seconds, resident bytes, progress) until the process ends; interrupts it after `seconds`."""
    start, samples, interrupted = time.monotonic(), [], False
    while process.poll() is None:
        now, memory = time.monotonic() - start, resident(process.pid)
        if memory:
            samples.append((now, memory, progress()))
        if seconds is not None and now > seconds and not interrupted:
            process.send_signal(signal.SIGINT)
            interrupted = True
        time.sleep(0.05)
    return samples


def windows(samples):
    """The samples after the warm-up, in windows of equal length."""
    begin, end = samples[len(samples) // 10][0], samples[-1][0]
    width = (end - begin) / WINDOWS
    found = [[] for _ in range(WINDOWS)]
    for sample in samples[len(samples) // 10 :]:
        found[min(int((sample[0] - begin) / width), WINDOWS - 1)].append(sample)
    return [window for window in found if window]


def growth(values):
    """Relative growth of the median from the first half to the second."""
    if len(values) < 4:
        sys.exit("error: too short to measure: give more --minutes")
    middle = len(values) // 2
    return statistics.median(values[middle:]) / statistics.median(values[:middle]) - 1


def report(name, values, unit, most):
    grown = growth(values)
    print(f"{name}: {' '.join(f'{value:.1f}' for value in values)} {unit}, second half over first {grown:+.1%}")
    return grown <= most


def memory_is_flat(name, samples):
    mebibytes = [statistics.median(memory for _, memory, _ in window) / 2**20 for window in windows(samples)]
    return report(f"{name}, resident memory", mebibytes, "MiB", 0.05)


def training(program, folder, minutes):
    subprocess.run([program, "synth", "figures", "--persons", "8", "--cameras", "2", "--images", "4"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    command = [program, "train", "--backbone", TINY, "--heads", "2", "--data", "figures", "--out", "run"]
    # A tiny learning rate, since a diverging network would end the run.
    command += ["--preset", "full", "--epochs", "1000000", "--batch-size", "8", "--lr", "1e-6"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    samples = watch(process, lambda: 0, minutes * 60)
    if process.returncode != 130:
        sys.exit(f"error: the training ended with {process.returncode}")
    steps = [json.loads(line) for line in open(folder / "run/log.jsonl", encoding="utf-8")]
    steps = [step for step in steps if "step" in step]
    # An epoch's last batch and validation have buffers of their own, made when they first come.
    most = [max(step["gpu_bytes"] for step in half) for half in (steps[: len(steps) // 2], steps[len(steps) // 2 :])]
    print(f"training: {len(steps)} steps in {samples[-1][0]:.0f} s; GPU buffers of {most[0]} bytes, later of {most[1]}")
    return memory_is_flat("training", samples) and most[0] == most[1]


def embedding(program, folder, minutes):
    subprocess.run([program, "synth", "crops", "--persons", "40", "--cameras", "2", "--images", "3"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    crops = sorted((folder / "crops").rglob("*.png"))
    out, links = folder / "out", folder / "links"
    out.mkdir()
    links.mkdir()

    def link(first, end):
        for i in range(first, end):
            image = links / f"{i // 10_000:04}" / f"{i:08}.png"
            image.parent.mkdir(exist_ok=True)
            os.link(crops[i % len(crops)], image)

    command = [program, "embed", "--model", DEMO, "links", "--out", "out/rows.npy"]
    link(0, FIRST)
    start = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    images = max(FIRST, int(FIRST * minutes * 60 / (time.monotonic() - start)))
    link(FIRST, images)
    (out / "rows.npy").unlink()

    def written():
        """Bytes of the rows so far."""
        try:
            return sum(entry.stat().st_size for entry in os.scandir(out))
        except OSError:
            return 0

    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    samples = watch(process, written)
    if process.returncode != 0:
        sys.exit(f"error: the embedding ended with {process.returncode}")
    row = (out / "rows.npy").stat().st_size / images
    print(f"embedding: {images} images in {samples[-1][0]:.0f} s")
    # Rows reach the file in pieces: time counts from one piece to another, not from one look to the next.
    pieces = [after for before, after in zip(samples, samples[1:]) if after[2] > before[2]]
    pieces = pieces[len(pieces) // 10 :]
    ends = [round(i * (len(pieces) - 1) / WINDOWS) for i in range(WINDOWS + 1)]
    times = []
    for begin, end in zip(ends, ends[1:]):
        if end > begin:
            times.append(1e6 * (pieces[end][0] - pieces[begin][0]) * row / (pieces[end][2] - pieces[begin][2]))
    return all([memory_is_flat("embedding", samples), report("embedding, time per image", times, "µs", 0.10)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only", choices=["training", "embedding"])
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        kinds = [kind for kind in (training, embedding) if arguments.only in (None, kind.__name__)]
        flat = [kind(program, folder, arguments.minutes) for kind in kinds]
    sys.exit(0 if all(flat) else 1)


if __name__ == "__main__":
    main()
