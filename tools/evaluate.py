#!/usr/bin/env python3
"""Retrieval scores by the standard protocol of Market-1501, from two files of `lat-wgpu embed`.

    python3 tools/evaluate.py --query-embeddings Q.safetensors --gallery-embeddings G.safetensors
    python3 tools/evaluate.py --self-test

Persons and cameras are read from the pictures' names (0002_c1s1_…). Junk (person -1) is dropped from the gallery,
distractors (0000) stay in it and match nobody; for each query, pictures of the same person by the same camera are
left out; queries without a match are dropped and counted. Distance is squared Euclidean between the vectors as they
are, ties in the gallery's order; AP is the mean of the precision at each match.
"""

import argparse
import json
import re
import struct
import sys
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np

JUNK, DISTRACTOR = -1, 0


def read_embeddings(file):
    """The (N, D) embeddings, persons (N) and cameras (N) of a file."""
    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensor, paths = header["embeddings"], json.loads(header["__metadata__"]["paths"])
    start, end = (8 + length + offset for offset in tensor["data_offsets"])
    kind = {"F32": "<f4", "F16": "<f2"}[tensor["dtype"]]
    embeddings = np.frombuffer(data[start:end], kind).reshape(tensor["shape"])
    if len(paths) != len(embeddings):
        raise ValueError(f"{file}: {len(embeddings)} rows, {len(paths)} paths")
    persons, cameras = np.zeros((2, len(paths)), int)
    for i, path in enumerate(paths):
        found = re.match(r"(-?\d+)_c(\d+)", PurePosixPath(path).name)
        if not found:
            raise ValueError(f"{file}: no person and camera in the name {path}")
        persons[i], cameras[i] = int(found[1]), int(found[2])
    return embeddings, persons, cameras


def squared_distances(queries, gallery):
    """(Q, D) and (G, D) -> (Q, G) in f64, a piece of the gallery at a time."""
    queries, pieces = queries.astype(np.float64), []
    for start in range(0, len(gallery), 1024):
        piece = gallery[start : start + 1024].astype(np.float64)
        squares = (queries**2).sum(1)[:, None] + (piece**2).sum(1)
        pieces.append(squares - 2 * queries @ piece.T)
    return np.concatenate(pieces, 1)


def evaluate(queries, gallery):
    """Scores of two triples (embeddings, persons, cameras): R1, R5, R10 and mAP as fractions, the number of
    queries that count and of those dropped."""
    kept = gallery[1] != JUNK
    embeddings, persons, cameras = (array[kept] for array in gallery)
    if not len(persons) or not len(queries[1]):
        raise ValueError("no queries, or nothing in the gallery but junk")
    distances = squared_distances(queries[0], embeddings)
    first_hits, precisions, dropped = [], [], 0
    for row, person, camera in zip(distances, queries[1], queries[2]):
        order = np.argsort(row, kind="stable")
        order = order[(persons[order] != person) | (cameras[order] != camera)]
        # Distractors are nobody, so they can't match each other.
        hits = np.flatnonzero((persons[order] == person) & (person > DISTRACTOR))
        if len(hits) == 0:
            dropped += 1
            continue
        first_hits.append(hits[0])
        precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
    if not first_hits:
        raise ValueError("no query has a match by another camera")
    ranks = {f"R{n}": float(np.mean(np.array(first_hits) < n)) for n in (1, 5, 10)}
    return ranks | {"mAP": float(np.mean(precisions)), "queries": len(first_hits), "dropped": dropped}


def write_embeddings(file, values, paths):
    """A file as `lat-wgpu embed` writes it, for the self-test."""
    values = np.asarray(values, "<f4")
    header = {
        "__metadata__": {"paths": json.dumps(paths)},
        "embeddings": {"dtype": "F32", "shape": values.shape, "data_offsets": [0, values.nbytes]},
    }
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + values.tobytes())


def self_test():
    """Points on a line, whose ranking is seen by eye."""
    gallery = [
        (0, "0001_c1s1_000001_00.jpg"),  # same person and camera as the first query: left out for it
        (1, "-1_c2s1_000001_00.jpg"),  # junk
        (2, "0000_c2s1_000001_00.jpg"),  # distractor
        (3, "0001_c2s1_000001_00.jpg"),
        (3, "0002_c2s1_000001_00.jpg"),  # as far as the one before
        (4, "0001_c3s1_000001_00.jpg"),
        (9, "0003_c1s1_000001_00.jpg"),
    ]
    queries = [
        # 0000, 0001, 0002, 0001, 0003: matches at ranks 2 and 4, AP = (1/2 + 2/4) / 2 = 1/2.
        (0, "0001_c1s1_000002_00.jpg"),
        # 0001, 0002 (a tie in the gallery's order), …: a match at rank 2, AP = 1/2.
        (3, "0002_c1s1_000002_00.jpg"),
        # A match at rank 1, AP = 1.
        (8, "0003_c2s1_000002_00.jpg"),
        # Its only match is by the same camera.
        (5, "0003_c1s1_000003_00.jpg"),
        # Not in the gallery.
        (5, "0004_c1s1_000002_00.jpg"),
        # A distractor looks for nobody.
        (2, "0000_c1s1_000002_00.jpg"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        both = []
        for name, pictures in (("q", queries), ("g", gallery)):
            file = Path(folder) / f"{name}.safetensors"
            write_embeddings(file, [[x, 1] for x, _ in pictures], [path for _, path in pictures])
            both.append(read_embeddings(file))
    scores = evaluate(*both)
    wanted = {"R1": 1 / 3, "R5": 1.0, "R10": 1.0, "mAP": 2 / 3, "queries": 3, "dropped": 3}
    assert scores.keys() == wanted.keys()
    assert all(abs(scores[key] - value) < 1e-12 for key, value in wanted.items()), scores
    print("self-test passed")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--query-embeddings", type=Path, metavar="Q")
    parser.add_argument("--gallery-embeddings", type=Path, metavar="G")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return
    if not arguments.query_embeddings or not arguments.gallery_embeddings:
        parser.error("--query-embeddings and --gallery-embeddings are needed (or --self-test)")
    try:
        queries = read_embeddings(arguments.query_embeddings)
        gallery = read_embeddings(arguments.gallery_embeddings)
        scores = evaluate(queries, gallery)
    except (OSError, ValueError, KeyError, struct.error) as error:
        sys.exit(f"error: {error}")
    junk, distractors = (int((gallery[1] == person).sum()) for person in (JUNK, DISTRACTOR))
    print(f"queries  {scores['queries']}, {scores['dropped']} more dropped: no match by another camera")
    print(f"gallery  {len(gallery[1]) - junk}, {distractors} of them distractors; {junk} more dropped: junk")
    for name in ("R1", "R5", "R10", "mAP"):
        print(f"{name:4} {100 * scores[name]:6.2f}")


if __name__ == "__main__":
    main()
