#!/usr/bin/env python3
"""Camera statistics in plain numpy, for `cargo test --test adapt`.

    pip install -r tools/requirements.txt
    python3 tools/make_statistics_goldens.py tests/goldens/statistics.json

The formulas are those in the header of src/retrieval/statistics.rs, in f64. `gallery` has random embeddings, and the
statistics of their cameras. `network` has random statistics, and the embeddings of the golden `plain` less them.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

GOLDENS = Path(__file__).resolve().parent.parent / "tests/goldens"
PARTS, WIDTH = 4, 8
PRIOR = 10


def normalise(rows, parts):
    """Rows (N, R*D) with parts of length 1/sqrt(R)."""
    split = rows.reshape(len(rows), parts, -1)
    return (split / np.linalg.norm(split, axis=2, keepdims=True) / np.sqrt(parts)).reshape(rows.shape)


def tables(rows, cameras):
    """Means and deviations: a row for each camera from 0, and one for all. Camera -1 is unknown."""
    mean, variance = [], []
    for camera in range(cameras.max() + 1):
        own = rows[cameras == camera]
        mean.append((own.sum(0) + PRIOR * rows.mean(0)) / (len(own) + PRIOR))
        spread = ((own - mean[-1]) ** 2).sum(0)
        variance.append((spread + PRIOR * rows.var(0)) / (len(own) + PRIOR))
    mean.append(rows.mean(0))
    variance.append(rows.var(0))
    least = 0.1 * np.sqrt(rows.var(0).mean())
    return np.stack(mean), np.maximum(np.sqrt(variance), least)


def subtracted(rows, table, mean, deviation, parts):
    """Embeddings less their statistics. Camera -1 has the last row, that of all images."""
    return normalise((rows - mean[table]) / deviation[table], parts)


def case(rows, cameras, mean, deviation, parts):
    one = np.ones_like(deviation)
    lists = {
        "rows": rows,
        "cameras": cameras,
        "mean": mean,
        "deviation": deviation,
        "embeddings": subtracted(rows, cameras, mean, one, parts),
        "divided": subtracted(rows, cameras, mean, deviation, parts),
    }
    return {"parts": parts, **{name: values.tolist() for name, values in lists.items()}}


def main():
    random = np.random.default_rng(23)
    cameras = random.permutation(np.repeat([0, 1, 2, 3, -1], [30, 20, 9, 1, 4]))
    centres = random.normal(size=(5, PARTS * WIDTH))
    rows = centres[cameras] + 0.5 * random.normal(size=(len(cameras), PARTS * WIDTH))
    # An element that doesn't vary, so that its deviation is the least one.
    rows[:, 3] = 0
    rows[:, 3] = 0.4 * np.linalg.norm(rows[:, :WIDTH], axis=1)
    rows = normalise(rows, PARTS).astype(np.float32).astype(float)
    gallery = case(rows, cameras, *tables(rows, cameras), PARTS)

    with safe_open(GOLDENS / "plain.golden.safetensors", framework="np") as file:
        rows = file.get_tensor("embedding").astype(float)
    mean = (rows.mean(0) + 0.03 * random.normal(size=(3, rows.shape[1]))).astype(np.float32).astype(float)
    deviation = random.uniform(0.02, 0.08, mean.shape).astype(np.float32).astype(float)
    network = case(rows, np.array([1, -1, 0]), mean, deviation, 4)
    Path(sys.argv[1]).write_text(json.dumps({"gallery": gallery, "network": network}) + "\n")


if __name__ == "__main__":
    main()
