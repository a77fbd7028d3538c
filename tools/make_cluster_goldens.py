#!/usr/bin/env python3
"""Clusters by scikit-learn and Jaccard distances in plain numpy, for `cargo test --test cluster`.

    pip install -r tools/requirements.txt
    python3 tools/make_cluster_goldens.py tests/goldens/cluster.json

The Jaccard distances follow the definition in the header of src/retrieval/jaccard.rs directly, with dense matrices in
f64. Half of the embeddings are small integers, so that many distances are equal.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.cluster import DBSCAN
from sklearn.metrics import silhouette_samples

RADII = [0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65]


def jaccard(rows, k1, k2):
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    order = np.argsort(distances, axis=1, kind="stable")[:, : max(k1, k2)]
    count = len(rows)

    def mutual(image, columns):
        ahead = order[image, :columns]
        return [j for j in ahead if image in order[j, :columns]]

    half = int(np.around(k1 / 2)) + 1
    v = np.zeros((count, count))
    for image in range(count):
        own = mutual(image, k1)
        joined = list(own)
        for j in own:
            theirs = mutual(j, min(half, k1))
            if len(set(theirs) & set(own)) > 2 / 3 * len(theirs):
                joined += theirs
        joined = sorted(set(joined))
        weights = np.exp(-distances[image, joined])
        if len(joined):
            v[image, joined] = weights / weights.sum()
    if k2 > 1:
        v = np.stack([v[order[image, :k2]].mean(0) for image in range(count)])
    shared = np.minimum(v[:, None], v[None]).sum(-1)
    result = 1 - shared / (2 - shared)
    np.fill_diagonal(result, 0)
    return np.maximum(result, 0)


def clustering(distances, eps, min_samples):
    """Labels, and the mean silhouette of the clustered images (null with fewer than two clusters)."""
    labels = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distances)
    inside = labels >= 0
    mean = None
    if len(set(labels[inside])) > 1:
        mean = float(silhouette_samples(distances[inside][:, inside], labels[inside], metric="precomputed").mean())
    return {"eps": eps, "labels": labels.tolist(), "silhouette": mean}


def main():
    random = np.random.default_rng(11)
    graphs = []
    for case in range(40):
        count = int(random.integers(1, 90))
        matrix = (random.random((count, count)) < random.uniform(0.005, 0.1)) | np.eye(count, dtype=bool)
        matrix |= matrix.T
        min_samples = int(random.integers(1, 7))
        labels = DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit_predict(1.0 - matrix)
        near = [np.flatnonzero(row).tolist() for row in matrix]
        graphs.append({"near": near, "min_samples": min_samples, "labels": labels.tolist()})

    galleries = []
    for case, (persons, images, k1, k2) in enumerate([(6, 9, 10, 3), (9, 7, 8, 1), (5, 16, 30, 6), (4, 5, 6, 6)]):
        centres = random.normal(size=(persons, 12))
        rows = np.repeat(centres, images, 0) + 0.45 * random.normal(size=(persons * images, 12))
        rows = random.permutation(rows)
        if case % 2:
            rows = np.round(1.5 * rows)
        else:
            rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32).astype(float)
        distances = jaccard(rows, k1, k2)
        tried = [clustering(distances, eps, 4) for eps in RADII]
        galleries.append(
            {"rows": rows.tolist(), "k1": k1, "k2": k2, "distances": distances.round(12).tolist(), "tried": tried}
        )
    Path(sys.argv[1]).write_text(json.dumps({"graphs": graphs, "galleries": galleries}) + "\n")


if __name__ == "__main__":
    main()
