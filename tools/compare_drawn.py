#!/usr/bin/env python3
"""Compare kinds of drawn persons to train on: each row of the table changes one factor of the drawing.

    python3 tools/compare_drawn.py --binary target/release/lat-wgpu --real MARKET --out FOLDER \\
        --results docs/results/synthetic.json

Draws 6,000 images for every row, trains a small network on them with tools/train_drawn.py, and scores it on the
training half of MARKET (a folder in Market-1501's layout) and on drawn persons of another seed. Files and finished rows
that are there are not made again. Prints a table in Markdown, with the 90 % intervals of the differences to the first
row: paired bootstrap, which draws persons. --jobs rows train at once, each on one core.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

CROWD = "persons=500,cameras=48,seed=1"
# Row -> arguments of `synth`. Each draws 6,000 images of persons.
ROWS = {
    "all": ("--crowd", CROWD, "--images", 2),
    "no look-alikes": ("--crowd", f"{CROWD},without=lookalikes", "--images", 2),
    "no turning": ("--crowd", f"{CROWD},without=turns", "--images", 2),
    "exact boxes": ("--crowd", f"{CROWD},without=boxes", "--images", 2),
    "no occluders": ("--crowd", f"{CROWD},without=occluders", "--images", 2),
    "all cameras alike": ("--crowd", f"{CROWD},without=cameras", "--images", 2),
    "two cameras": ("--crowd", "persons=500,cameras=2,seed=1", "--images", 6),
    "1,000 persons": ("--crowd", "persons=1000,cameras=48,seed=1", "--images", 1),
    "the demo's figures": ("--persons", 500, "--cameras", 6, "--images", 2, "--seed", 1),
}
HELD_OUT = ("--crowd", "persons=256,cameras=48,seed=7", "--images", 2)
SETS = ("real", "drawn")


def run(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(str(word) for word in command)}: exit code {done.returncode}")


def folder_of(options, row):
    return options.out / re.sub("[^a-z0-9]+", "-", row)


def drawn(options, name, arguments):
    folder = folder_of(options, name)
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        run(options.binary, "synth", unfinished, *arguments)
        unfinished.rename(folder)
    return folder


def trained(options, row, seed):
    """Trains a row, and returns the line for the results."""
    folder = folder_of(options, row)
    scores = folder.with_suffix(f".{seed}.json")
    if not scores.exists():
        run(
            sys.executable, Path(__file__).with_name("train_drawn.py"), folder, "--real", options.real,
            "--held-out", options.out / "held-out", "--out", scores, "--seed", seed,
        )  # fmt: skip
    scores = json.loads(scores.read_text())
    # Of every person the queries, and the sums of average precision and of rank-1.
    persons = {name: np.array(list(scores[f"{name}_before"]["persons"].values())) for name in SETS}
    of_sets = {name: [[int(n), round(p, 2), int(f)] for n, p, f in each] for name, each in persons.items()}
    return {"row": row, "seed": seed, "minutes": scores["minutes"]} | of_sets


def means(sums):
    """R1 and mAP in percent, from counts and sums of AP and rank-1 of persons."""
    count, precision, first = np.moveaxis(sums.sum(-2), -1, 0)
    return np.stack([first / count, precision / count], -1) * 100


def interval(ours, theirs):
    """90 % interval of the difference in mAP, by a paired bootstrap that draws persons."""
    chosen = np.random.default_rng(0).integers(0, len(ours), (10_000, len(ours)))
    low, high = np.percentile((means(ours[chosen]) - means(theirs[chosen]))[:, 1], [5, 95])
    return f"{low:+.1f} to {high:+.1f}".replace("-", "−")


def table(results):
    """Prints the rows, each over all of its seeds. The first row is compared by the same seeds."""
    print("| training images | real R1 | mAP | difference | drawn R1 | mAP | difference |")
    print("|---|---|---|---|---|---|---|")
    for row in ROWS:
        of = [result for result in results if result["row"] == row]
        if not of:
            continue
        seeds = {result["seed"] for result in of}
        full = [result for result in results if result["row"] == "all" and result["seed"] in seeds]
        cells = [row]
        for name in SETS:
            ours, theirs = (np.sum([result[name] for result in each], 0) for each in (of, full))
            cells += [f"{score:.1f}" for score in means(ours)]
            cells.append("" if row == "all" else interval(ours, theirs))
        print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--binary", "--real", "--out", "--results"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    drawn(options, "held-out", HELD_OUT)
    for row, arguments in ROWS.items():
        drawn(options, row, arguments)
    done = {(result["row"], result["seed"]) for result in results}
    left = [(row, seed) for seed in range(1, options.seeds + 1) for row in ROWS if (row, seed) not in done]
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda task: trained(options, *task), left):
            results.append(result)
            lines = ",\n".join(json.dumps(result, separators=(",", ":")) for result in results)
            options.results.write_text(f"[\n{lines}\n]\n")
    table(results)


if __name__ == "__main__":
    main()
