#!/usr/bin/env python3
"""Search embeddings with LanceDB: recommended for more than a million embeddings.

    lat-wgpu embed --model M.safetensors GALLERY --out gallery.parquet
    python3 tools/lancedb_search.py gallery.parquet --database index.lance

loads a .parquet file of `lat-wgpu embed`, `merge` or `reduce --apply` into a LanceDB table, builds an IVF-PQ index (a small
gallery is searched exactly, without one), searches and prints recall@10: the share of the ten nearest images that are
found. The nearest images come from an exact search of the same file, or with --exact from `lat-wgpu search --top 10
--json`:

    lat-wgpu search --gallery gallery.parquet --model M.safetensors --query QUERIES --top 10 --json exact.json
    lat-wgpu embed --model M.safetensors QUERIES --out queries.parquet
    python3 tools/lancedb_search.py gallery.parquet --queries queries.parquet --exact exact.json

DATABASE is a folder or an address in object storage (s3://, gs://, az://); an existing table is searched unchanged.
Embeddings of more than 2,048 dimensions should be reduced first by `lat-wgpu reduce`. Distances are squared Euclidean, as in
lat-wgpu.

    python3 tools/lancedb_search.py --self-test

makes galleries and checks the whole process. Needs lancedb, pyarrow and numpy; tested with lancedb 0.40.0.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lancedb.index import IvfPq

TABLE = "gallery"
# Fewer rows are searched without an index, which is exact and fast enough.
FEWEST_FOR_INDEX = 5_000
# Rows to read at a time.
BATCH = 4_096


def batches(file):
    """Paths and (rows, D) f32 embeddings of a .parquet file, some rows at a time."""
    for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=["path", "embedding"]):
        lists = batch.column("embedding")
        if not pa.types.is_fixed_size_list(lists.type):
            sys.exit(f"error: {file}: embedding is no column of fixed-size lists")
        numbers = np.asarray(lists.flatten(), dtype=np.float32)
        yield batch.column("path").to_pylist(), numbers.reshape(len(batch), lists.type.list_size)


def open_table(database, file):
    """The table of a database; loads it from the file if it doesn't exist."""
    if TABLE in database.list_tables().tables:
        return database.open_table(TABLE)
    reader = pq.ParquetFile(file)
    return database.create_table(TABLE, data=reader.iter_batches(BATCH), schema=reader.schema_arrow)


def build_index(table, dim):
    """Build an IVF-PQ index if there is none; returns True if the table has one."""
    if table.list_indices():
        return True
    rows = table.count_rows()
    if rows < FEWEST_FOR_INDEX:
        return False
    # One byte for eight dimensions, if their number is divisible.
    width = next(width for width in (8, 6, 4, 3, 2, 1) if dim % width == 0)
    # LanceDB needs 256 rows to train a partition.
    partitions = max(1, min(round(math.sqrt(rows)), rows // 256))
    config = IvfPq(distance_type="l2", num_partitions=partitions, num_sub_vectors=dim // width)
    table.create_index("embedding", config=config)
    return True


def exact_search(file, vectors, top):
    """Paths of the `top` nearest rows of a file to each of the vectors (Q, D), with squared distances."""
    vectors = vectors.astype(np.float64)
    squares = (vectors**2).sum(1)
    best = [[] for _ in vectors]
    for paths, rows in batches(file):
        rows = rows.astype(np.float64)
        distances = squares[:, None] + (rows**2).sum(1) - 2 * vectors @ rows.T
        few = min(top, len(paths))
        for i, row in enumerate(distances):
            for j in np.argpartition(row, few - 1)[:few]:
                best[i].append((row[j], paths[j]))
            best[i] = sorted(best[i])[:top]
    return best


def search(table, vector, top, probes, refine):
    """Paths of the nearest rows found by LanceDB, with distances; exact without probes."""
    query = table.search(vector, vector_column_name="embedding").distance_type("l2").limit(top)
    # An index finds candidates by quantised vectors; the distances of the best are computed again exactly.
    query = query.nprobes(probes).refine_factor(refine) if probes else query.bypass_vector_index()
    found = query.select(["path", "_distance"]).to_arrow()
    return list(zip(found["_distance"].to_pylist(), found["path"].to_pylist(), strict=True))


def evenly_spaced(file, count):
    """Paths and embeddings (count, D) of evenly spaced rows of a file."""
    total = pq.ParquetFile(file).metadata.num_rows
    count = min(count, total)
    wanted = {i * total // count for i in range(count)}
    paths, vectors, start = [], [], 0
    for names, rows in batches(file):
        here = [i for i in range(len(names)) if start + i in wanted]
        paths += [names[i] for i in here]
        vectors.append(rows[here])
        start += len(names)
    return paths, np.concatenate(vectors)


def read_all(file):
    """All paths and embeddings (N, D) of a file."""
    paths, vectors = [], []
    for names, rows in batches(file):
        paths += names
        vectors.append(rows)
    if not paths:
        sys.exit(f"error: {file} has no rows")
    return paths, np.concatenate(vectors)


def run(gallery, database, queries=None, exact=None, count=200, top=10, probes=20, refine=10):
    """Load, index and search; prints and returns recall@top."""
    # A query from the gallery finds itself first, which is left out.
    own = queries is None
    names, vectors = evenly_spaced(gallery, count) if own else read_all(queries)
    asked = top + own

    start = time.perf_counter()
    table = open_table(lancedb.connect(database), gallery)
    rows, dim = table.count_rows(), vectors.shape[1]
    loaded = time.perf_counter()
    indexed = build_index(table, dim)
    built = time.perf_counter()
    if not indexed:
        probes = None
    found = [search(table, vector, asked, probes, refine) for vector in vectors]
    searched = time.perf_counter()

    if exact:
        lists = {q["query"]: [r["path"] for r in q["results"]] for q in json.loads(exact.read_text())["queries"]}
        missing = [name for name in names if name not in lists]
        if missing:
            sys.exit(f"error: {exact} has no query {missing[0]}")
        truth = [lists[name][:asked] for name in names]
    else:
        truth = [[path for _, path in best] for best in exact_search(gallery, vectors, asked)]
    hits = wanted = 0
    for name, nearest, right in zip(names, found, truth, strict=True):
        others = [path for path in right if not (own and path == name)][:top]
        hits += len({path for _, path in nearest} & set(others))
        wanted += len(others)
    recall = hits / max(wanted, 1)
    how = f"IVF-PQ, {probes} probes, refined {refine}-fold" if indexed else "without an index"
    print(
        f"{rows} embeddings of {dim} dimensions: loaded in {loaded - start:.1f} s, indexed in {built - loaded:.1f} s; "
        f"{how}: recall@{top} {recall:.4f} over {len(names)} queries, "
        f"{1e3 * (searched - built) / max(len(names), 1):.1f} ms each"
    )
    return recall


def write_like_lat_wgpu(file, paths, vectors, item):
    """Write a .parquet file in the format of `lat-wgpu embed`."""
    kind = pa.list_(pa.field("item", item, nullable=False), vectors.shape[1])
    schema = pa.schema([pa.field("path", pa.string(), nullable=False), pa.field("embedding", kind, nullable=False)])
    numbers = pa.array(vectors.astype(item.to_pandas_dtype()).ravel(), item)
    lists = pa.FixedSizeListArray.from_arrays(numbers, type=kind)
    pq.write_table(pa.table([pa.array(paths), lists], schema=schema), file)


def clustered(persons, images, dim):
    """Unit vectors around one direction per person, and their names."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((persons, dim))
    vectors = np.repeat(centres, images, 0) + 0.5 * random.standard_normal((persons * images, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = [f"{p + 1:05}_c{i + 1}s1_000001_00.jpg" for p in range(persons) for i in range(images)]
    return paths, vectors.astype(np.float32)


def self_test():
    """Search small and large galleries in f32 and f16; exits with 1 if recall is too low."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for persons, item, least in [(200, pa.float32(), 1.0), (200, pa.float16(), 1.0), (2_000, pa.float32(), 0.9)]:
            paths, vectors = clustered(persons, 10, 128)
            gallery = Path(folder) / f"{persons}_{item}.parquet"
            write_like_lat_wgpu(gallery, paths, vectors, item)
            database = f"{gallery}.lance"
            recall = run(gallery, database)
            again = run(gallery, database)
            if min(recall, again) < least:
                print(f"error: recall of {persons * 10} {item} embeddings is below {least}", file=sys.stderr)
                failed = True
            nearest = search(lancedb.connect(database).open_table(TABLE), vectors[7], 3, None, None)
            (distance, path), wanted = nearest[1], exact_search(gallery, vectors[7:8], 2)[0][1]
            if path != wanted[1] or not math.isclose(distance, wanted[0], rel_tol=1e-3):
                print(f"error: {path} at {distance}, not {wanted[1]} at {wanted[0]}", file=sys.stderr)
                failed = True
    print("self-test failed" if failed else "self-test passed")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gallery", type=Path, nargs="?", help="embeddings as .parquet")
    parser.add_argument("--database", help="folder or object storage for the table [default: a temporary one]")
    parser.add_argument("--queries", type=Path, help="embeddings to search for, as .parquet [default: from the gallery]")
    parser.add_argument("--exact", type=Path, help="output of lat-wgpu search --json for the queries")
    parser.add_argument("--count", type=int, default=200, help="queries from the gallery [default: 200]")
    parser.add_argument("--top", type=int, default=10, help="nearest images [default: 10]")
    parser.add_argument("--probes", type=int, default=20, help="partitions to search [default: 20]")
    parser.add_argument("--refine", type=int, default=10, help="candidates to compare exactly, times --top [default: 10]")
    parser.add_argument("--self-test", action="store_true", help="make galleries and check the whole process")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if not arguments.gallery:
        parser.error("the gallery is missing")
    if arguments.exact and not arguments.queries:
        parser.error("--exact needs the --queries that it was made with")
    with tempfile.TemporaryDirectory() as folder:
        run(
            arguments.gallery,
            arguments.database or folder,
            arguments.queries,
            arguments.exact,
            arguments.count,
            arguments.top,
            arguments.probes,
            arguments.refine,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
