#!/usr/bin/env python3
"""Compare presets on a small data set, each at the better of two learning rates.

    python3 tools/compare_recipes.py --binary target/release/lat-wgpu --backbone dinov2-s14.safetensors \\
        --data DIR --out RUNS --results docs/results/recipes.json [--minutes N]

On a CPU it takes hours. An adapter of tools/adapters.sh needs a script as the binary that runs the program under it.

For each preset, trains once with each of two learning rates on all but ten persons, and chooses the rate by the mAP on
those ten at the last epoch. Then trains all persons at that rate with two seeds, and scores each model on the queries and
the gallery of the data set. All presets train twelve epochs in batches of 32 images, with warm-ups in proportion.

Each finished run is added to the results, and runs that are there are not repeated, so the command can be interrupted and
repeated. --minutes starts no run after so long. Prints a table in Markdown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

EPOCHS = 12
SEEDS = (1, 2)
# Share of the training persons: ten of market-mini's 47.
HELD_OUT = 0.213
BALANCED = ("--persons-per-batch", 8, "--images-per-person", 4)
# Preset -> learning rates, other flags.
PRESETS = {
    "paper": ((3e-4, 1e-4), ("--unfreeze-every", 1)),
    "full": ((1e-4, 3e-5), ()),
    "transreid": ((4e-3, 4e-4), (*BALANCED, "--warmup-epochs", 1)),
    "prototypes": ((3.5e-3, 3.5e-4), (*BALANCED, "--warmup-epochs", 2, "--micro-batch", 32)),
}


def run(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(str(word) for word in command)}: exit code {done.returncode}")


def lines(folder, kind):
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in log if line.get("kind", "step") == kind]


def trained(options, preset, rate, seed, chooses):
    """Trains, and returns the line for the results."""
    flags = PRESETS[preset][1]
    folder = options.out / f"{preset}-{rate}-{'held-out' if chooses else seed}"
    if (folder / "last.safetensors").exists():
        run(options.binary, "train", "--resume", "--out", folder, "--quiet")
    else:
        best = ("val-map", "--val-persons", HELD_OUT) if chooses else ("last", "--val-fraction", 0)
        run(
            options.binary, "train", "--backbone", options.backbone, "--data", options.data, "--size", "112x56",
            "--preset", preset, "--epochs", EPOCHS, "--batch-size", 32, "--lr", rate, "--seed", seed, "--best", *best,
            "--save-every", 20, "--out", folder, "--quiet", *flags,
        )
    epochs, steps = lines(folder, "epoch"), lines(folder, "step")
    result = {
        "preset": preset,
        "lr": rate,
        "seed": seed,
        "chooses": chooses,
        "losses": [epoch["train_loss"] for epoch in epochs],
        "seconds": [epoch["seconds"] for epoch in epochs],
        "gpu_bytes": max(step["gpu_bytes"] for step in steps),
    }
    if chooses:
        result["map"] = epochs[-1]["val_map"]
    else:
        scores = folder / "eval.json"
        run(options.binary, "eval", "--model", folder / "best.safetensors", "--data", options.data, "--json", scores)
        scores = json.loads(scores.read_text())
        result |= {"rank1": scores["rank1"], "map": scores["map"]}
    return result


def table(results):
    print("| preset | learning rate (mAP on ten persons held out) | R1 | mAP | seconds an epoch | memory |")
    print("|---|---|---|---|---|---|")
    for preset, (rates, _) in PRESETS.items():
        of = [result for result in results if result["preset"] == preset]
        chosen = [result for result in of if not result["chooses"]]
        held_out = {result["lr"]: result["map"] for result in of if result["chooses"]}
        if not chosen or len(held_out) < len(rates):
            continue
        best = max(held_out, key=held_out.get)
        cells = [f"{rate:g} ({100 * held_out[rate]:.1f})" for rate in rates]
        cells = [f"**{cell}**" if rate == best else cell for rate, cell in zip(rates, cells)]

        def mean(key):
            values = [100 * result[key] for result in chosen]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            return f"{statistics.mean(values):.1f}{spread}"

        seconds = statistics.median(second for result in chosen for second in result["seconds"])
        memory = max(result["gpu_bytes"] for result in chosen) >> 20
        print(
            f"| `{preset}` | {', '.join(cells)} | {mean('rank1')} | {mean('map')} | {seconds:.0f} | {memory:,} MiB |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--binary", "--backbone", "--data", "--out", "--results"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    end = time.monotonic() + 60 * options.minutes

    def found(preset, rate, seed, chooses):
        """The result of a run, which is made if it is not there and time is left."""
        key = {"preset": preset, "lr": rate, "seed": seed, "chooses": chooses}
        for result in results:
            if result.items() >= key.items():
                return result
        if time.monotonic() > end:
            return None
        results.append(trained(options, preset, rate, seed, chooses))
        options.results.write_text(json.dumps(results, indent=1) + "\n")
        return results[-1]

    for preset, (rates, _) in PRESETS.items():
        tried = [found(preset, rate, SEEDS[0], True) for rate in rates]
        if None not in tried:
            best = max(tried, key=lambda result: result["map"])["lr"]
            for seed in SEEDS:
                found(preset, best, seed, False)
    table(results)


if __name__ == "__main__":
    main()
