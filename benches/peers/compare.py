"""Run the same rows in lat-wgpu, Burn and PyTorch and print a table of ratios.

Called by run.sh. Every group of rows runs in its own process for each peer, in sequence, so that growth of memory is
meaningful and processes don't disturb each other. Needs only the standard library; PyTorch's side needs torch, safetensors
and Pillow in this Python (environment variable PYTHON).
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
WIDTHS = {"vit-s": 384, "vit-b": 768}
STAGES = ("1", "6", "12", "all")
NEAREST = "nearest:3368x1024x19732"
# The product that NEAREST contains.
PRODUCT = "gemm:nt:3368x1024x19732"
ONE_OPEN, ALL_OPEN = "step:vit-s:1:8", "step:vit-s:all:8"
# Longest time to fetch a finished result, as a share of computing it and in seconds.
LATE_SHARE, LATE_SECONDS = 0.25, 0.02


def gemms():
    """Products of a linear layer: forward, gradient of its input, gradient of its weight."""
    rows = [f"gemm:{form}:1576x768x3072" for form in ("nn", "nt", "tn")]
    for width in WIDTHS.values():
        for inputs, outputs in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
            rows += [f"gemm:nt:197x{inputs}x{outputs}", f"gemm:nn:197x{outputs}x{inputs}"]
            rows += [f"gemm:tn:{outputs}x197x{inputs}"]
    return rows


def groups(large):
    """Groups of rows that share a process: small ones of a kind; each network has its own."""
    yield gemms()
    yield [f"attention:{direction}:{model}" for model in WIDTHS for direction in ("forward", "backward")]
    yield from ([f"forward:{model}:1"] for model in ("vit-ti", "vit-s"))
    yield from ([f"step:{model}:{stage}:2"] for model in ("vit-ti", "vit-s") for stage in STAGES)
    yield from ([row] for row in (ONE_OPEN, ALL_OPEN, "embed:vit-s:16", PRODUCT, NEAREST))
    if large:
        yield ["forward:vit-b:1"]
        yield ["step:vit-b:all:2"]


def wanted(row, peer):
    # Burn would have to bind the whole result of the product, more than many adapters allow. The step of one block and
    # eight images is compared with our other rows.
    return not (peer == "burn" and row in (PRODUCT, NEAREST, ONE_OPEN))


def samples_of(row, peer, samples):
    # A minute or more each.
    return min(samples, 2) if peer == "burn" and row == ALL_OPEN else samples


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def build(with_burn):
    """Build the programs; returns their folder."""
    command = ["cargo", "build", "--release", "--manifest-path", str(HERE / "Cargo.toml")]
    # Ours first by itself, since Burn would add features to shared dependencies.
    programs = [["--bin", "ours"]] + ([["--bin", "burn_peer", "--features", "burn"]] if with_burn else [])
    print("building" + (" (Burn takes about twenty minutes the first time)" if with_burn else ""), file=sys.stderr)
    for program in programs:
        if subprocess.run(command + program, stdin=subprocess.DEVNULL).returncode != 0:
            fail("the programs don't build")
    return Path(os.environ["CARGO_TARGET_DIR"]) / "release"


def prepare(ours, folder, rows):
    """Write weights and images for all programs."""
    models = {row.split(":")[1] for row in rows if row.split(":")[0] in ("forward", "step", "embed")}
    commands = [[ours, "weights", model, folder / f"{model}.safetensors"] for model in sorted(models)]
    if any(row.startswith("embed") for row in rows):
        commands.append([ours, "draw", folder / "images"])
    for command in commands:
        if subprocess.run(command).returncode != 0:
            fail(f"this failed: {' '.join(map(str, command))}")


def measure(command, samples, folder, rows, peer, cwd):
    """The lines of the rows; a peer that fails is reported and has none."""
    start = time.monotonic()
    run = subprocess.run(
        [*map(str, command), str(samples_of(rows[0], peer, samples)), str(folder), *rows],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    name = rows[0] if len(rows) == 1 else f"{rows[0]} and {len(rows) - 1} more"
    print(f"{peer:5} {time.monotonic() - start:7.1f} s  {name}", file=sys.stderr)
    if run.returncode != 0:
        message = run.stderr.strip().splitlines()
        print(f"warning: {peer} failed after {len(lines)} rows: {' / '.join(message[-3:])}", file=sys.stderr)
    return lines


class BurnsTuning:
    """Run Burn's autotune before the measurement, with its cache in our folder; otherwise its trials would count as memory
    of a training step."""

    def __init__(self, folder, retune):
        self.folder, self.list = folder, folder / "tuned.json"
        if retune:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cubecl.toml").write_text('[environment]\npath = "local"\n')
        self.rows = json.loads(self.list.read_text()) if self.list.exists() else []

    def tune(self, command, folder, rows):
        missing = [row for row in rows if row not in self.rows]
        if missing:
            lines = measure(command, 1, folder, missing, "tune", self.folder)
            self.rows += [line["row"] for line in lines]
            self.list.write_text(json.dumps(self.rows))


def measure_all(found, chosen, peers, tuning, samples, folder):
    """Fill found[row][peer], group by group."""
    for group in chosen:
        for peer, command in peers.items():
            asked = [row for row in group if wanted(row, peer)]
            if not asked:
                continue
            if peer == "burn":
                tuning.tune(command, folder, asked)
            for line in measure(command, samples, folder, asked, peer, tuning.folder):
                found[line["row"]][peer] = line


def locked(package):
    """Version of a package in the lock file."""
    text = (HERE / "Cargo.lock").read_text()
    found = re.search(rf'name = "{package}"\nversion = "([^"]+)"', text)
    return found[1] if found else "unknown"


def difference(ours, theirs):
    """The largest difference between two lists of values, divided by the largest value."""
    if not ours or len(ours) != len(theirs):
        return None
    return max(abs(a - b) for a, b in zip(ours, theirs)) / (max(map(abs, ours)) or 1)


def shown_time(seconds):
    scale, unit = (1, "s") if median(seconds) >= 1 else (1e3, "ms")
    low, middle, high = (f"{scale * value:.3g}" for value in (min(seconds), median(seconds), max(seconds)))
    return f"{middle} {unit} ({low}–{high})"


def shown_ratio(ours, theirs):
    return f"{median(theirs['seconds']) / median(ours['seconds']):.2f} ×"


def table(found, peers):
    """Rows of Markdown."""
    others = [peer for peer in peers if peer != "ours"]
    head = ["row", "lat-wgpu", "GFLOP/s"]
    for peer in others:
        head += [peer, f"times as fast as {peer}", "differs by"]
    yield head
    for row, lines in found.items():
        ours = lines.get("ours")
        if ours is None:
            continue
        speed = f"{ours['flops'] / median(ours['seconds']) / 1e9:.1f}" if ours.get("flops") else ""
        cells = [row, shown_time(ours["seconds"]), speed]
        for peer in others:
            theirs = lines.get(peer)
            if theirs is None:
                cells += ["", "", ""]
                continue
            mark = f", {theirs['variant']}" if theirs.get("variant") else ""
            apart = difference(ours["values"], theirs["values"])
            cells += [shown_time(theirs["seconds"]) + mark, shown_ratio(ours, theirs)]
            cells += ["" if apart is None else f"{apart:.1e}"]
        yield cells


def memory_table(found, peers):
    """Growth of peak memory from the start of the step."""
    rows = [row for row, lines in found.items() if (lines.get("ours") or {}).get("peak_growth_bytes")]
    if not rows:
        return
    others = [peer for peer in peers if peer != "ours"]
    yield ["peak memory of a step", "lat-wgpu"] + [f for peer in others for f in (peer, f"over {peer}")]
    for row in rows:
        ours = found[row]["ours"]["peak_growth_bytes"]
        cells = [row, f"{ours / 2**20:.0f} MiB"]
        for peer in others:
            theirs = (found[row].get(peer) or {}).get("peak_growth_bytes")
            cells += [f"{theirs / 2**20:.0f} MiB", f"{ours / theirs:.2f} ×"] if theirs else ["", ""]
        yield cells


def own_ratios(found, weights):
    """Ratios between our own rows."""
    one, every = ((found.get(row) or {}).get("ours") for row in (ONE_OPEN, ALL_OPEN))
    if one and every:
        yield "1 of 12 blocks open over everything, time", median(one["seconds"]) / median(every["seconds"])
        if one["peak_growth_bytes"] and every["peak_growth_bytes"]:
            above = [line["peak_growth_bytes"] - weights for line in (one, every)]
            yield "1 of 12 blocks open over everything, peak memory above the weights", above[0] / above[1]
    near, product = ((found.get(row) or {}).get("ours") for row in (NEAREST, PRODUCT))
    if near and product:
        yield f"{NEAREST} over {PRODUCT}, time", median(near["seconds"]) / median(product["seconds"])


def print_markdown(rows):
    rows = list(rows)
    if not rows:
        return
    for index, cells in enumerate(rows):
        print("| " + " | ".join(cells) + " |")
        if index == 0:
            print("|" + "---|" * len(cells))
    print()


def late(found):
    """Results that took long to fetch, since a peer that defers work would look too fast."""
    for row, lines in found.items():
        for peer, line in lines.items():
            reading, computing = line.get("read_seconds") or 0, median(line["seconds"])
            if reading > max(LATE_SHARE * computing, LATE_SECONDS):
                yield f"{row}: fetching {peer}'s result took {reading:.3f} s, computing it {computing:.3f} s"


def arguments():
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", help="run only rows with names that match this regular expression")
    parser.add_argument("--skip-burn", action="store_true", help="skip Burn and its long build")
    parser.add_argument("--skip-torch", action="store_true", help="skip PyTorch")
    parser.add_argument("--retune", action="store_true", help="clear the cache of Burn's autotune; use an idle machine")
    parser.add_argument("--large", action="store_true", help="add ViT-B's forward pass and training step")
    parser.add_argument("--samples", type=int, default=5, help="timed runs of each row (default: 5)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all measurements")
    parser.add_argument("--list", action="store_true", help="list the names of the rows")
    options = parser.parse_args()
    if options.samples < 1:
        parser.error("--samples must be 1 or more")
    try:
        pattern = re.compile(options.only or "")
    except re.error as error:
        parser.error(f"--only: {error}")
    return options, pattern


def main():
    options, pattern = arguments()
    chosen = [[row for row in rows if pattern.search(row)] for rows in groups(options.large)]
    chosen = [rows for rows in chosen if rows]
    if options.list:
        print("\n".join(row for rows in chosen for row in rows))
        return
    if not chosen:
        fail(f"no row matches {options.only}; --list lists their names")
    start, load = time.monotonic(), os.getloadavg()[0]
    programs = build(with_burn=not options.skip_burn)
    peers = {"ours": [programs / "ours", "measure"]}
    if not options.skip_burn:
        peers["burn"] = [programs / "burn_peer", "measure"]
    if not options.skip_torch:
        peers["torch"] = [sys.executable, HERE / "torch_peer.py"]
    tuning = BurnsTuning(programs.parent / "burn", options.retune)
    rows = [row for group in chosen for row in group]
    found = {row: {} for row in rows}
    folder = Path(tempfile.mkdtemp(prefix="peers-"))
    try:
        prepare(programs / "ours", folder, rows)
        try:
            measure_all(found, chosen, peers, tuning, options.samples, folder)
        except KeyboardInterrupt:
            print("stopped: the table has the measurements so far", file=sys.stderr)
        weights = folder / "vit-s.safetensors"
        weights = weights.stat().st_size if weights.exists() else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    lines = [line for row in found.values() for line in row.values()]
    adapters = sorted({line["adapter"] for line in lines if line["peer"] != "torch"})
    torch = next((line["version"] for line in lines if line["peer"] == "torch"), "none")
    facts = {
        "adapter": ", ".join(adapters),
        "threads": os.cpu_count(),
        "load at the start": round(load, 1),
        "machine": platform.machine(),
        "Burn": "none" if options.skip_burn else locked("burn"),
        "PyTorch": torch,
        "samples": options.samples,
        "seconds": round(time.monotonic() - start),
    }
    print(", ".join(f"{name}: {value}" for name, value in facts.items()) + "\n")
    print_markdown(table(found, peers))
    print_markdown(memory_table(found, peers))
    ratios = list(own_ratios(found, weights))
    if ratios:
        print_markdown([["lat-wgpu over lat-wgpu", "ratio"]] + [[name, f"{ratio:.2f} ×"] for name, ratio in ratios])
    for message in late(found):
        print(f"warning: {message}", file=sys.stderr)
    if options.json:
        for line in lines:
            line["differs_by"] = difference(found[line["row"]].get("ours", {}).get("values"), line["values"])
        for line in lines:
            del line["values"]
        written = {"facts": facts, "ratios": dict(ratios), "rows": lines}
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    if not all("ours" in row for row in found.values()):
        fail("some of our rows are missing")


if __name__ == "__main__":
    main()
