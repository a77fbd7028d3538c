#!/usr/bin/env python3
"""Compare a model as it is, with camera statistics, adapted without labels, and trained with labels.

    python3 tools/compare_adapted.py --binary target/release/lat-wgpu --model person-s --data DIR --out RUNS \\
        --results docs/results/adapted.json [--epochs 6] [--seeds 3]

DIR is a data set in Market-1501's layout. Its training images adapt and train the model, the adapted one without their
labels, with the same loss and steps; its queries and gallery score the last epoch. The model trained with labels
gets camera statistics, too. Finished runs are not repeated. Prints a table in Markdown, with the 90 % intervals of the
differences in mAP to the row above: paired bootstrap, which draws persons.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from check_metrics import average_precision
from compare_drawn import interval, means, run

ROWS = ("as it is", "camera statistics", "adapted without labels", "trained with labels")


def embedded(binary, model, images, out):
    """Returns embeddings, persons and cameras of a folder: the last two are in the names."""
    run(binary, "embed", "--model", model, images, "--out", out, "--quiet")
    names = out.with_suffix(".paths.txt").read_text().splitlines()
    labels = [Path(name).name.split("_")[:2] for name in names]
    return np.load(out), np.array([int(person) for person, _ in labels]), np.array([camera[:2] for _, camera in labels])


def persons(binary, model, data):
    """Returns of each person the number of its queries, and the sums of their average precision and of rank-1."""
    with tempfile.TemporaryDirectory() as folder:
        queries, wanted, by = embedded(binary, model, data / "query", Path(folder) / "query.npy")
        gallery, found, seen = embedded(binary, model, data / "bounding_box_test", Path(folder) / "gallery.npy")
    sums = {}
    for query, person, camera in zip(queries, wanted, by):
        kept = (found >= 0) & ~((found == person) & (seen == camera))
        order = np.argsort(-(gallery[kept] @ query), kind="stable")
        hits = (found[kept] == person)[order]
        if hits.any():
            precision = average_precision(hits, "plain")
            row = sums.setdefault(int(person), [0, 0.0, 0])
            row[0], row[1], row[2] = row[0] + 1, row[1] + float(precision), row[2] + int(hits[0])
    return [sums[person] for person in sorted(sums)]


def statistics(options, model, out):
    run(options.binary, "adapt", "--statistics-only", "--model", model, "--images", options.data / "bounding_box_train",
        "--out", out, "--quiet")  # fmt: skip
    return out


def scored(options, row, seed):
    """Makes the model of a row, and returns the line for the results."""
    model, images = options.model, options.data / "bounding_box_train"
    folder = options.out / f"{row.replace(' ', '-')}-{seed}"
    steps = ("--epochs", options.epochs, "--seed", seed, "--out", folder, "--quiet")
    if (folder / "last.safetensors").exists():
        steps += ("--resume",)
    if row == ROWS[1]:
        model = statistics(options, model, options.out / "statistics.safetensors")
    elif row == ROWS[2]:
        run(options.binary, "adapt", "--model", model, "--images", images, *steps)
        model = folder / "best.safetensors"
    elif row == ROWS[3]:
        run(options.binary, "train", "--preset", "cluster-contrast", "--backbone", model, "--data", options.data,
            "--val-fraction", 0, *options.labelled, *steps)  # fmt: skip
        model = statistics(options, folder / "best.safetensors", folder / "statistics.safetensors")
    return {"row": row, "seed": seed, "persons": persons(options.binary, model, options.data)}


def table(results):
    print("| model | R1 | mAP | seeds | difference in mAP |")
    print("|---|---|---|---|---|")
    before = None
    for row in ROWS:
        each = [result["persons"] for result in results if result["row"] == row]
        if not each:
            continue
        sums, cells = np.sum(np.asarray(each, float), 0), [row]
        cells += [f"{score:.1f}" for score in means(sums)]
        cells.append(", ".join(f"{means(np.asarray(of, float))[1]:.1f}" for of in each) if len(each) > 1 else "")
        cells.append("" if before is None else interval(sums, before))
        before = sums
        print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--binary", "--data", "--out", "--results"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labelled", nargs=argparse.REMAINDER, default=[], help="more flags for the run with labels")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    done = {(result["row"], result["seed"]) for result in results}
    # Nothing is random in the first two rows.
    wanted = [(ROWS[0], 0), (ROWS[1], 0)] + [(row, seed) for seed in range(1, options.seeds + 1) for row in ROWS[2:]]
    for row, seed in wanted:
        if (row, seed) in done:
            continue
        results.append(scored(options, row, seed))
        lines = ",\n".join(json.dumps(result, separators=(",", ":")) for result in results)
        options.results.write_text(f"[\n{lines}\n]\n")
    table(results)


if __name__ == "__main__":
    main()
