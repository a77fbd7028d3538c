#!/usr/bin/env python3
"""Print for each embedded picture the most similar picture of another camera.

    python3 tools/nearest_pairs.py EMBEDDINGS.safetensors

Reads what `lat-wgpu embed` writes; Python's standard library is all it needs, so it is for a few pictures, not for
many. Persons and cameras are read from names as in Market-1501 (0002_c1s1_….png); where a name tells no camera,
every other picture is compared, and without persons nothing is counted.
"""

import json
import re
import struct
import sys
from array import array
from math import sqrt
from pathlib import Path, PurePosixPath


def read_embeddings(file):
    """Paths of the pictures and their vectors, in the file's order."""
    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensor = header["embeddings"]
    rows, columns = tensor["shape"]
    kind = {"F32": "f", "F16": "e"}.get(tensor["dtype"])
    if kind is None:
        raise ValueError(f"{file}: embeddings of type {tensor['dtype']}")
    start, end = (8 + length + offset for offset in tensor["data_offsets"])
    values = array("f", struct.unpack(f"<{rows * columns}{kind}", data[start:end]))
    paths = json.loads(header["__metadata__"]["paths"])
    if len(paths) != rows:
        raise ValueError(f"{file}: {rows} rows, {len(paths)} paths")
    return paths, [values[row * columns : (row + 1) * columns] for row in range(rows)]


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b))
    return product / sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: nearest_pairs.py EMBEDDINGS.safetensors")
    try:
        paths, vectors = read_embeddings(Path(sys.argv[1]))
    except (OSError, ValueError, KeyError, struct.error) as error:
        sys.exit(f"error: {error}")

    known = [re.match(r"(-?\d+)_c(\d+)", PurePosixPath(path).name) for path in paths]
    width = max(map(len, paths), default=0)
    right = counted = chance = 0
    for i, path in enumerate(paths):
        others = [
            j
            for j in range(len(paths))
            if j != i and not (known[i] and known[j] and known[i][2] == known[j][2])
        ]
        if not others:
            print(f"{path:{width}}  has no other camera's picture to be compared with")
            continue
        similarity, j = max((cosine(vectors[i], vectors[j]), j) for j in others)
        verdict = ""
        if known[i] and known[j]:
            counted += 1
            right += known[i][1] == known[j][1]
            chance += sum(bool(known[k]) and known[k][1] == known[i][1] for k in others) / len(others)
            verdict = "  same person" if known[i][1] == known[j][1] else "  another person"
        print(f"{path:{width}}  {paths[j]:{width}}  {similarity:.4f}{verdict}")
    if counted:
        print(f"{right} of {counted} nearest pictures show the same person; by chance: {chance:.0f}")


if __name__ == "__main__":
    main()
