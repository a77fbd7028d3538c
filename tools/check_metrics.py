#!/usr/bin/env python3
"""Retrieval scores, verification rates and re-ranking in plain numpy, to check `lat-wgpu eval` against.

    python3 tools/check_metrics.py --write tests/goldens/metrics.json
    python3 tools/check_metrics.py --program target/debug/lat-wgpu

The first command writes 200 random galleries with numpy's results, for `cargo test --test evaluate`. The second scores the
same galleries by the program, each with one of the protocols in turn (--all: with every one). Embeddings are small
integers, so that distances are exact and many are equal. Every figure must agree to 1e-12.

Everything follows the definitions directly, in f64: rankings are sorted completely, curves have every threshold, and
re-ranking uses dense matrices.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

JUNK, DISTRACTOR = -1, 0
RANKS = (1, 5, 10, 20)
REPETITIONS = 100
RATES = (1e-2, 1e-3, 1e-4)
GALLERIES = 200
TOLERANCE = 1e-12

# Name -> protocol, AP, True if cameras are ignored.
VARIANTS = {
    "standard": ("standard", "plain", False),
    "standard_trapezoid": ("standard", "trapezoid", False),
    "no_cameras": ("standard", "plain", True),
    "no_cameras_trapezoid": ("standard", "trapezoid", True),
    "released_code": ("released-code", "plain", False),
    "single_shot": ("cuhk03-single-shot", "plain", False),
    "single_shot_trapezoid": ("cuhk03-single-shot", "trapezoid", False),
    "single_shot_no_cameras": ("cuhk03-single-shot", "plain", True),
}


# ---------------------------------------------------------------------------------------------- random numbers


def mix(x):
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def random_bits(seed, stream, index):
    """The program's counter-based random numbers (src/rng.rs) for the galleries of the single-shot protocol, for u32
    arguments."""
    value = np.uint32(0x9E3779B9)
    for word in (seed, stream, index):
        for half in (np.uint32(word), np.uint32(0)):
            value = mix(value ^ half) + np.uint32(0x85EBCA6B)
    return value


def lots(rows):
    """Random numbers (repetitions, rows); the row with a person's smallest is drawn."""
    return random_bits(0, np.arange(REPETITIONS)[:, None], np.arange(rows)[None])


# ---------------------------------------------------------------------------------------------- retrieval scores


def squared_distances(a, b):
    return ((a[:, None, :].astype(float) - b[None, :, :]) ** 2).sum(2)


def average_precision(hits, kind):
    """From a ranking as booleans, True at the matches."""
    ranking = np.asarray(hits)
    precision = ranking.cumsum() / np.arange(1, len(ranking) + 1)
    if kind == "trapezoid":
        # The precision just before each rank, which is 1 before the first.
        old = np.concatenate([[1.0], precision[:-1]])
        precision = (old + precision) / 2
    return precision[ranking].mean() if ranking.any() else 0.0


def scores_of_ranking(hits, kind):
    """rank-k, AP and inverse negative penalty of a ranking with at least one match."""
    places = np.flatnonzero(hits) + 1
    ranks = [float(places[0] <= k) for k in RANKS]
    return np.array([*ranks, average_precision(hits, kind), len(places) / places[-1]])


def visible(case, query, protocol, ignore_cameras):
    """Mask of the gallery rows that a query is compared with."""
    persons, cameras = case["gallery"][1:]
    person, camera = (values[query] for values in case["queries"][1:])
    seen = np.ones(len(persons), bool)
    if protocol != "released-code":
        seen &= persons != JUNK
        if not ignore_cameras and person > DISTRACTOR:
            seen &= ~((persons == person) & (cameras == camera))
    if case["query_is_gallery"]:
        seen[query] = False
    return seen


def evaluate(case, distances, variant):
    """Mean scores, number of valid queries and {reason: count} of the dropped ones."""
    protocol, kind, ignore_cameras = VARIANTS[variant]
    persons = case["gallery"][1]
    sums, valid, dropped = np.zeros(6), 0, {}
    draws = lots(len(persons)) if protocol == "cuhk03-single-shot" else None
    for query, person in enumerate(case["queries"][1]):
        seen = visible(case, query, protocol, ignore_cameras)
        matches = seen & (persons == person) & (person > DISTRACTOR)
        if not matches.any():
            others = persons == person
            if case["query_is_gallery"]:
                others[query] = False
            if person == JUNK:
                reason = "junk"
            elif person == DISTRACTOR:
                reason = "distractor"
            else:
                reason = "same_camera_only" if others.any() else "not_in_gallery"
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        valid += 1
        order = np.argsort(distances[query], kind="stable")
        if protocol == "cuhk03-single-shot":
            one = np.zeros(6)
            for lot in draws:
                kept = np.zeros(len(persons), bool)
                kept[persons == DISTRACTOR] = True
                for somebody in set(persons[seen]) - {DISTRACTOR}:
                    rows = np.flatnonzero(seen & (persons == somebody))
                    kept[rows[np.argmin(lot[rows])]] = True
                kept &= seen
                one += scores_of_ranking(matches[order][kept[order]], kind)
            sums += one / REPETITIONS
        elif protocol == "released-code":
            one = scores_of_ranking(matches[order][seen[order]], kind)
            one[4] = average_precision(matches[order][seen[order]][:10], "plain")
            sums += one
        else:
            sums += scores_of_ranking(matches[order][seen[order]], kind)
    means = (sums / valid).tolist() if valid else None
    return {"means": means, "valid_queries": valid, "dropped": dropped}


# ---------------------------------------------------------------------------------------------- verification


def verification(case, distances):
    """Equal error rate, and TPR at each of RATES and at 0.2, with every distance as a threshold."""
    same, different = [], []
    persons = case["gallery"][1]
    for query, person in enumerate(case["queries"][1]):
        if person <= DISTRACTOR:
            continue
        seen = visible(case, query, "standard", False)
        same.extend(distances[query][seen & (persons == person)])
        different.extend(distances[query][seen & (persons != person)])
    if not same or not different:
        return None
    same, different = np.array(same), np.array(different)
    thresholds = np.unique(np.concatenate([same, different]))
    tpr = np.array([0.0] + [(same <= t).mean() for t in thresholds])
    fpr = np.array([0.0] + [(different <= t).mean() for t in thresholds])
    # Interpolates where fpr - (1 - tpr), which never falls, crosses 0.
    gap = fpr - (1 - tpr)
    after = int(np.flatnonzero(gap >= 0)[0])
    part = -gap[after - 1] / (gap[after] - gap[after - 1])
    eer = fpr[after - 1] + part * (fpr[after] - fpr[after - 1])
    return {
        "pairs": [len(same), len(different)],
        "eer": float(eer),
        "tpr": [float(tpr[fpr <= rate].max()) for rate in (*RATES, 0.2)],
    }


# ---------------------------------------------------------------------------------------------- re-ranking


def rerank(distances, queries, gallery, k1, k2, blend):
    """k-reciprocal re-ranking of Zhong et al. 2017, dense: distances (N, N) -> (queries, N - gallery)."""
    count = len(distances)
    largest = distances.max(1, keepdims=True)
    scaled = np.divide(distances, largest, out=np.zeros_like(distances), where=largest > 0)
    order = np.argsort(distances, axis=1, kind="stable")

    def mutual(k):
        near = np.zeros((count, count), bool)
        for i in range(count):
            near[i, order[i, : k + 1]] = True
        return near & near.T

    whole, half = mutual(k1), mutual(int(np.around(k1 / 2.0)))
    encoded = np.zeros((count, count))
    for i in range(count):
        neighbours = whole[i].copy()
        for candidate in np.flatnonzero(whole[i]):
            if (half[candidate] & whole[i]).sum() > 2.0 / 3 * half[candidate].sum():
                neighbours |= half[candidate]
        if neighbours.any():
            weights = np.exp(-scaled[i, neighbours])
            encoded[i, neighbours] = weights / weights.sum()
    if k2 != 1:
        encoded = np.stack([encoded[order[i, :k2]].mean(0) for i in range(count)])
    shared = np.minimum(encoded[:queries, None, :], encoded[None, gallery:, :]).sum(2)
    jaccard = 1 - shared / (2 - shared)
    return jaccard * (1 - blend) + scaled[:queries, gallery:] * blend


# ---------------------------------------------------------------------------------------------- cases


def random_case(number):
    """Vectors (N, D), persons and cameras of queries and gallery."""
    random = np.random.default_rng(number)
    dim, largest = random.integers(1, 4), random.integers(2, 8)
    most_persons, cameras = random.integers(2, 7), random.integers(1, 4)

    def images(count, lowest):
        persons = random.integers(lowest, most_persons + 1, count)
        return random.integers(0, largest + 1, (count, dim)), persons, random.integers(1, cameras + 1, count)

    gallery = images(random.integers(4, 36), JUNK)
    own = number % 5 == 4
    # Some queries are nobody.
    queries = gallery if own else images(random.integers(1, 8), JUNK if number % 7 == 0 else 1)
    return {"queries": queries, "gallery": gallery, "query_is_gallery": bool(own)}


def rerank_case(number):
    """Vectors, number of queries, first image of the gallery, and the options."""
    random = np.random.default_rng(10_000 + number)
    k1, k2, blend = [(20, 6, 0.3), (5, 2, 0.3), (7, 3, 0.5), (9, 1, 0.0), (1, 6, 0.3), (20, 6, 1.0)][number % 6]
    count = int(random.integers(12, 45))
    # The third round has many equal images.
    vectors = random.integers(0, 3 if number >= 12 else 10, (count, 2 if number >= 12 else 4))
    queries = count if number % 5 == 4 else int(random.integers(2, 6))
    return vectors, queries, 0 if queries == count else queries, k1, k2, blend


def golden():
    cases = []
    for number in range(GALLERIES):
        case = random_case(number)
        distances = squared_distances(case["queries"][0], case["gallery"][0])
        sides = {}
        for side in ("gallery",) if case["query_is_gallery"] else ("queries", "gallery"):
            vectors, persons, cameras = (values.tolist() for values in case[side])
            sides[side] = {"vectors": vectors, "persons": persons, "cameras": cameras}
        results = {variant: evaluate(case, distances, variant) for variant in VARIANTS}
        cases.append(sides | {"results": results, "verification": verification(case, distances)})
    reranked = []
    for number in range(18):
        vectors, queries, gallery, k1, k2, blend = rerank_case(number)
        result = rerank(squared_distances(vectors, vectors), queries, gallery, k1, k2, blend)
        # Keeps some rows of each result, to limit the size of the file.
        reranked.append(
            {
                "vectors": vectors.tolist(),
                "queries": queries,
                "gallery": gallery,
                "options": [k1, k2, blend],
                "rows": result[:4].tolist(),
            }
        )
    return {"variants": VARIANTS, "cases": cases, "rerank": reranked}


# ---------------------------------------------------------------------------------------------- the program


def write_embeddings(file, values, paths):
    """Write a file as `lat-wgpu embed` does."""
    values = np.asarray(values, "<f4")
    header = {
        "__metadata__": {"paths": json.dumps(paths)},
        "embeddings": {"dtype": "F32", "shape": values.shape, "data_offsets": [0, values.nbytes]},
    }
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + values.tobytes())


def names(persons, cameras):
    """Names as in Market-1501; the last numbers distinguish images."""
    marks = [f"{person:04}" if person >= 0 else str(person) for person in persons.tolist()]
    return [f"{mark}_c{camera}s1_{i:06}_00.jpg" for i, (mark, camera) in enumerate(zip(marks, cameras))]


def run_program(program, folder, case, variant, more=()):
    """The program's JSON for a case, or None if it reports that no query has a match."""
    protocol, kind, ignore_cameras = VARIANTS[variant]
    files = {}
    for side in ("queries", "gallery"):
        vectors, persons, cameras = case[side]
        files[side] = folder / ("gallery" if case["query_is_gallery"] else side)
        files[side] = files[side].with_suffix(".safetensors")
        write_embeddings(files[side], vectors, names(persons, cameras))
    command = [program, "eval", "--query-embeddings", files["queries"], "--gallery-embeddings", files["gallery"]]
    command += ["--protocol", protocol, "--json", folder / "scores.json", *more]
    command += ["--ap", kind] if protocol != "released-code" else []
    command += ["--ignore-cameras"] if ignore_cameras else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 1 and "no query has a match" in done.stderr:
        return None
    if done.returncode != 0:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return json.loads((folder / "scores.json").read_text())


def differences(got, wanted):
    """Descriptions of the differences in the program's scores."""
    if got is None or wanted["means"] is None:
        return [] if got is None and wanted["means"] is None else [f"{got} for {wanted}"]
    figures = dict(zip(("rank1", "rank5", "rank10", "rank20", "map", "minp"), wanted["means"]))
    wrong = [f"{key} {got[key]} for {value}" for key, value in figures.items() if abs(got[key] - value) > TOLERANCE]
    for key in ("valid_queries", "dropped"):
        if got[key] != wanted[key]:
            wrong.append(f"{key} {got[key]} for {wanted[key]}")
    return wrong


def check_program(program, every_variant):
    compared, wrong = 0, []
    with tempfile.TemporaryDirectory() as name:
        for number in range(GALLERIES):
            case = random_case(number)
            distances = squared_distances(case["queries"][0], case["gallery"][0])
            variants = list(VARIANTS) if every_variant else [list(VARIANTS)[number % len(VARIANTS)]]
            for variant in variants:
                got = run_program(program, Path(name), case, variant)
                found = differences(got, evaluate(case, distances, variant))
                wrong += [f"gallery {number}, {variant}: {text}" for text in found]
                compared += 1
            if number % 10 == 0:
                # For re-ranking, all images are in one list, with the gallery at its end.
                own = case["query_is_gallery"]
                both = case["gallery"][0] if own else np.concatenate([case["queries"][0], case["gallery"][0]])
                queries = len(case["queries"][0])
                result = rerank(squared_distances(both, both), queries, 0 if own else queries, 4, 2, 0.3)
                more = ("--rerank", "--rerank-k1", "4", "--rerank-k2", "2")
                got = run_program(program, Path(name), case, "standard", more)
                found = differences(got, evaluate(case, result.astype(np.float32), "standard"))
                wrong += [f"gallery {number}, re-ranked: {text}" for text in found]
                compared += 1
    for text in wrong:
        print(text)
    print(f"{compared} evaluations compared, {len(wrong)} differences")
    return not wrong


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the golden")
    parser.add_argument("--program", type=Path, metavar="LAT-WGPU", help="check a program")
    parser.add_argument("--all", action="store_true", help="every protocol on every gallery")
    arguments = parser.parse_args()
    if not arguments.write and not arguments.program:
        parser.error("--write FILE or --program LAT-WGPU is needed")
    # Products of u32 must wrap.
    np.seterr(over="ignore")
    if arguments.write:
        arguments.write.write_text(json.dumps(golden(), separators=(",", ":")) + "\n")
        print(f"{arguments.write}: {arguments.write.stat().st_size} bytes")
    if arguments.program and not check_program(arguments.program.resolve(), arguments.all):
        sys.exit(1)


if __name__ == "__main__":
    main()
