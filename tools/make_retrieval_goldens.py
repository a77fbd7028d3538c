#!/usr/bin/env python3
"""Query expansion, tracklets, aligned and spatio-temporal distances in plain numpy, for `cargo test --test retrieval`.

    python3 tools/make_retrieval_goldens.py tests/goldens/retrieval.json

Everything follows the definitions directly, in f64, from random embeddings in f32. The formulas are those in the headers
of src/retrieval/combined.rs, aligned.rs and spatio_temporal.rs.
"""

import json
import sys
from pathlib import Path

import numpy as np

PERSONS, CAMERAS, DIM, PARTS = 9, 3, 24, 4
QUERIES, GALLERY, TRAIN = 11, 37, 80


def unit(rows):
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def squared_distances(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def expanded(rows, among, own_column, k, alpha):
    """Sums of rows and their k - 1 nearest of `among`; own_column gives each row's own place there, or None."""
    sums = []
    for i, row in enumerate(unit(rows)):
        distances = ((among - rows[i]) ** 2).sum(1)
        if own_column is not None:
            distances[own_column[i]] = np.inf
        nearest = np.argsort(distances, kind="stable")[: min(k - 1, np.isfinite(distances).sum())]
        near = unit(among[nearest])
        sums.append(row + (np.maximum(near @ row, 0)[:, None] ** alpha * near).sum(0))
    return unit(np.array(sums))


def aligned(queries, gallery):
    """Squared distances of whole rows plus the shortest paths over distances of parts."""
    a, b = (unit(rows.reshape(len(rows), PARTS, -1)) for rows in (queries, gallery))
    result = squared_distances(queries, gallery)
    for q in range(len(a)):
        for g in range(len(b)):
            x = np.linalg.norm(a[q][:, None] - b[g][None], axis=-1)
            d = (np.exp(x) - 1) / (np.exp(x) + 1)
            s = np.full((PARTS, PARTS), np.inf)
            for i in range(PARTS):
                for j in range(PARTS):
                    before = [s[i - 1, j]] * (i > 0) + [s[i, j - 1]] * (j > 0)
                    s[i, j] = d[i, j] + (min(before) if before else 0)
            result[q, g] += s[-1, -1]
    return result


def histograms(train, bin_frames, bins=5000, sigma=50):
    """Smoothed histograms (later camera, earlier camera, bin) of the gaps between mean frames."""
    persons, cameras, frames = (np.array(column) for column in zip(*train))
    counts = np.zeros((CAMERAS, CAMERAS, bins))
    for person in np.unique(persons):
        means = [
            frames[(persons == person) & (cameras == camera)].mean() if ((persons == person) & (cameras == camera)).any()
            else None
            for camera in range(1, CAMERAS + 1)
        ]
        for a in range(CAMERAS):
            for b in range(a + 1, CAMERAS):
                if means[a] is None or means[b] is None:
                    continue
                later, earlier = (a, b) if means[a] > means[b] else (b, a)
                counts[later, earlier, int((means[later] - means[earlier]) / bin_frames)] += 1
    offsets = np.abs(np.arange(bins)[:, None] - np.arange(bins)[None])
    gaussian = np.where(offsets <= 3 * sigma, np.exp(-(offsets**2) / (2 * sigma**2)), 0)
    smooth = counts @ gaussian
    sums = smooth.sum(-1, keepdims=True)
    return smooth / np.where(sums > 0, sums, 1)


def joint_scores(queries, gallery, about_queries, about_gallery, train, bin_frames):
    """Probabilities of the gaps, and scores that join them with cosine similarities."""
    gaps = histograms(train, bin_frames)
    probabilities = np.zeros((len(queries), len(gallery)))
    for q, (_, camera, frame) in enumerate(about_queries):
        for g, (_, other, shown) in enumerate(about_gallery):
            later, earlier = (camera, other) if frame > shown else (other, camera)
            probabilities[q, g] = gaps[later - 1, earlier - 1, abs(frame - shown) // bin_frames]
    cosines = unit(queries) @ unit(gallery).T
    return probabilities, 1 / (1 + np.exp(-5 * cosines)) / (1 + 2 * np.exp(-5 * probabilities))


def scores(distances, about_queries, about_gallery):
    """Mean of rank-1 and of average precision under the standard protocol."""
    persons, cameras = (np.array(column) for column in list(zip(*about_gallery))[:2])
    first, precisions = [], []
    for (person, camera, *_), row in zip(about_queries, distances):
        seen = ~((persons == person) & (cameras == camera))
        hits = (persons == person)[seen][np.argsort(row[seen], kind="stable")]
        if hits.any():
            first.append(hits[0])
            precisions.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    return {"rank1": np.mean(first), "map": np.mean(precisions), "valid_queries": len(first)}


def main():
    random = np.random.default_rng(7)
    centres = random.normal(size=(PERSONS + 1, DIM))

    def side(count):
        about = [
            (int(random.integers(1, PERSONS + 1)), int(random.integers(1, CAMERAS + 1)), int(random.integers(0, 90_000)))
            for _ in range(count)
        ]
        rows = np.array([centres[person] for person, *_ in about]) + 1.6 * random.normal(size=(count, DIM))
        return about, unit(rows).astype(np.float32).astype(float)

    about_queries, queries = side(QUERIES)
    about_gallery, gallery = side(GALLERY)
    train = [
        (int(random.integers(1, 20)), int(random.integers(1, CAMERAS + 1)), int(random.integers(0, 90_000)))
        for _ in range(TRAIN)
    ]
    everything = np.concatenate([queries, gallery])
    plain = scores(squared_distances(queries, gallery), about_queries, about_gallery)

    expansions = []
    for k, alpha in [(1, 3), (2, 0), (5, 3), (60, 1.5)]:
        of_queries = expanded(queries, gallery, None, k, alpha)
        found = scores(squared_distances(of_queries, gallery), about_queries, about_gallery)
        case = {"over": "gallery", "queries": of_queries.tolist(), "gallery": None, "scores": found}
        expansions.append({"k": k, "alpha": alpha, **case})
        of_all = expanded(everything, everything, np.arange(len(everything)), k, alpha)
        of_queries, of_gallery = of_all[:QUERIES], of_all[QUERIES:]
        found = scores(squared_distances(of_queries, of_gallery), about_queries, about_gallery)
        case = {"over": "all", "queries": of_queries.tolist(), "gallery": of_gallery.tolist(), "scores": found}
        expansions.append({"k": k, "alpha": alpha, **case})

    # Two tracklets of each pair of person and camera, in turn.
    tracklets = {}
    for i, (person, camera, _) in enumerate(about_gallery):
        tracklets.setdefault(f"{person:04}C{camera}T{i % 2:04}", []).append(i)
    means = unit(np.array([unit(gallery[rows]).mean(0) for rows in tracklets.values()]))
    about_means = [about_gallery[rows[0]] for rows in tracklets.values()]
    found = scores(squared_distances(queries, means), about_queries, about_means)
    grouped = {"tracklets": list(tracklets.items()), "means": means.tolist(), "scores": found}

    distances = aligned(queries, gallery)
    found = scores(distances, about_queries, about_gallery)
    parts = {"parts": PARTS, "distances": distances.tolist(), "scores": found}

    joint = []
    for bin_frames in (100, 1000):
        probabilities, values = joint_scores(queries, gallery, about_queries, about_gallery, train, bin_frames)
        found = scores(-values, about_queries, about_gallery)
        case = {"probabilities": probabilities.tolist(), "values": values.tolist(), "scores": found}
        joint.append({"bin": bin_frames, **case})

    golden = {
        "queries": {"about": about_queries, "rows": queries.tolist()},
        "gallery": {"about": about_gallery, "rows": gallery.tolist()},
        "train": train,
        "plain": plain,
        "expansion": expansions,
        "tracklets": grouped,
        "aligned": parts,
        "spatio_temporal": joint,
    }
    def rounded(value):
        if isinstance(value, float):
            return float(f"{value:.10g}")
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        return [rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    Path(sys.argv[1]).write_text(json.dumps(rounded(json.loads(json.dumps(golden, default=float)))) + "\n")


if __name__ == "__main__":
    main()
