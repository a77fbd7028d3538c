#!/usr/bin/env python3
"""Compare ways to compute camera statistics, on embeddings with names as in Market-1501.

    lat-wgpu embed --model weights/demo.safetensors market-mini/bounding_box_train --out train.safetensors
    python3 tools/compare_statistics.py train.safetensors

Statistics come from N random images by each camera, of half of the persons. The scores are those of the other half, all
against all, over random divisions. The intervals are those of differences of mAP: 90 % of a paired bootstrap over
persons. docs/guide/own-cameras.md has the results. Needs numpy and safetensors.
"""

import json
import re
import sys

import numpy as np
from safetensors import safe_open

DIVISIONS, SAMPLES = 8, 2000
IMAGES = [1, 2, 5, 10, 20, 40, None]
PRIORS = [0, 2, 5, 10, 20, 40]


def statistics(rows, cameras, prior):
    """Means and deviations by camera, with `prior` further images, see src/retrieval/statistics.rs."""
    mean, variance, least = rows.mean(0), rows.var(0), 0.1 * np.sqrt(rows.var(0).mean())
    found = {}
    for camera in np.unique(cameras):
        own = rows[cameras == camera]
        centre = (own.sum(0) + prior * mean) / (len(own) + prior)
        spread = (((own - centre) ** 2).sum(0) + prior * variance) / (len(own) + prior)
        found[camera] = centre, np.maximum(np.sqrt(spread), least)
    return found, (mean, np.maximum(np.sqrt(variance), least))


def subtracted(rows, cameras, parts, found, divide):
    """Rows less the statistics of their cameras, with parts of length 1/sqrt(R)."""
    own, of_all = found
    chosen = [own.get(camera, of_all) for camera in cameras]
    rows = np.stack([(row - mean) / (deviation if divide else 1) for row, (mean, deviation) in zip(rows, chosen)])
    split = rows.reshape(len(rows), parts, -1)
    return (split / np.linalg.norm(split, axis=2, keepdims=True) / np.sqrt(parts)).reshape(rows.shape)


def scores(rows, persons, cameras):
    """(R1, AP) of every image against all others, by person."""
    found = {}
    for i, near in enumerate(rows @ rows.T):
        seen = ~((persons == persons[i]) & (cameras == cameras[i]))
        hits = (persons[seen] == persons[i])[np.argsort(-near[seen], kind="stable")]
        places = np.flatnonzero(hits)
        if len(places):
            precision = ((np.arange(len(places)) + 1) / (places + 1)).mean()
            found.setdefault(persons[i], []).append((hits[0], precision))
    return found


def run(embeddings, images, prior, divide=False):
    """The scores over all divisions, by person. Without `prior`, those without statistics."""
    rows, persons, cameras, parts = embeddings
    together = {}
    for division in range(DIVISIONS):
        random = np.random.default_rng(division)
        everyone = np.unique(persons)
        half = np.isin(persons, random.permutation(everyone)[: len(everyone) // 2])
        used = [random.permutation(np.flatnonzero(half & (cameras == c)))[:images] for c in np.unique(cameras)]
        used, rest = np.concatenate(used), ~half
        x = rows[rest]
        if prior is not None:
            x = subtracted(x, cameras[rest], parts, statistics(rows[used], cameras[used], prior), divide)
        for person, values in scores(x, persons[rest], cameras[rest]).items():
            together.setdefault(person, []).extend(values)
    return {person: np.array(values, float) for person, values in together.items()}


def mean(found):
    return 100 * np.concatenate(list(found.values())).mean(0)


def interval(before, after):
    """The 90 % interval of the change of the mAP."""
    random, people = np.random.default_rng(0), sorted(before)
    changes = []
    for _ in range(SAMPLES):
        drawn = [people[i] for i in random.integers(len(people), size=len(people))]
        old, new = ({i: found[p] for i, p in enumerate(drawn)} for found in (before, after))
        changes.append(mean(new) - mean(old))
    low, high = np.percentile(np.array(changes)[:, 1], [5, 95])
    return f"{low:+.1f} … {high:+.1f}"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with safe_open(sys.argv[1], framework="np") as file:
        rows, metadata = file.get_tensor("embeddings").astype(float), file.metadata()
    labels = [re.match(r"(-?\d+)_c(\d+)", path.split("/")[-1]).groups() for path in json.loads(metadata["paths"])]
    persons, cameras = (np.array([int(label[i]) for label in labels]) for i in (0, 1))
    model = json.loads(metadata["lat_wgpu"])["model"]
    parts = model["grid"][0] if model["gelt"]["parts"] == "rows" else int(model["gelt"]["parts"])
    embeddings = rows, persons, cameras, parts

    plain = run(embeddings, None, None)
    print("without statistics: R1 {:.1f}, mAP {:.1f}".format(*mean(plain)))
    heads = [f"{prior} further" for prior in PRIORS] + ["10, not 0", "10, not none", "deviation"]
    print("| images | " + " | ".join(heads) + " |")
    for images in IMAGES:
        found = {prior: run(embeddings, images, prior) for prior in PRIORS}
        cells = ["{:.1f} / {:.1f}".format(*mean(found[prior])) if images != 1 or prior else "" for prior in PRIORS]
        cells += [interval(found[0], found[10]) if images != 1 else "", interval(plain, found[10])]
        divided = run(embeddings, images, 10, True)
        cells += ["{:.1f} / {:.1f}, {}".format(*mean(divided), interval(found[10], divided))]
        print(f"| {images or 'all'} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
