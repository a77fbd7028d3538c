"""Compares runs with those of the command line, byte for byte. See tools/python_test.sh."""

import csv
import json
import subprocess
import sys

import pytest

import lat_wgpu
from conftest import DEMO, TINY, run

KEYS = {
    "model": {"backbone": TINY, "heads": 2},
    "schedule": {"batch_size": 4, "epochs": 2, "eval_every": 1},
    "optim": {"lr": 1e-3},
    "data": {"shuffle": True},
}
FLAGS = "--heads 2 --batch-size 4 --epochs 2 --eval-every 1 --lr 1e-3 --shuffle".split()
TIMES = {"seconds", "images_per_s"}


def untimed(lines):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def check_same_run(found, wanted):
    """Compares run folders: all bytes, apart from times and curves of them."""
    names = sorted(path.name for path in wanted.iterdir() if not path.name.startswith("."))
    assert sorted(path.name for path in found.iterdir() if not path.name.startswith(".")) == names
    assert "last.safetensors" in names and "config.toml" in names
    for name in set(names) - {"log.jsonl", "log.csv"}:
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name
    assert untimed(lines(found)) == untimed(lines(wanted))
    tables = [untimed(csv.DictReader((folder / "log.csv").open())) for folder in (found, wanted)]
    assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def wanted(crops, tmp_path_factory):
    """A run of the command line."""
    out = tmp_path_factory.mktemp("cli") / "run"
    run("train", "--backbone", TINY, "--data", crops, "--out", out, *FLAGS)
    return out


def keys(crops):
    return {**KEYS, "data": {**KEYS["data"], "dir": crops}}


def test_a_run_is_that_of_the_command_line(crops, wanted, tmp_path):
    epochs = []
    found = lat_wgpu.train(keys(crops), out=tmp_path / "run", on_epoch=epochs.append)
    check_same_run(tmp_path / "run", wanted)
    assert found.path == tmp_path / "run" and found.model == found.path / "best.safetensors"
    assert found.log == lines(found.path)
    assert epochs == [line for line in found.log if line.get("kind") == "epoch"] and len(epochs) == 2
    assert found.epoch == 1 and found.unfinished is None and "epoch 1" in repr(found)
    assert lat_wgpu.Model(found.model).embed(crops / "query").shape[0] > 0


def test_keys_may_be_given_in_every_way(crops, wanted, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(f'[model]\nbackbone = "{TINY}"\n[schedule]\nbatch_size = 4\nepochs = 9\neval_every = 1\n')
    more = {"optim.lr": "1e-3", "model.heads": 2}
    lat_wgpu.train(
        file,
        out=tmp_path / "run",
        schedule={"epochs": 2},
        data={"dir": str(crops), "shuffle": True, "val_persons": None},
        **more,
    )
    check_same_run(tmp_path / "run", wanted)


def test_wrong_keys(crops, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(lat_wgpu.UsageError, match="optim.lrr: there is no such key"):
        lat_wgpu.train(keys(crops), out=out, **{"optim.lrr": 1})
    with pytest.raises(lat_wgpu.UsageError, match="optim.lr: expected a number above 0, found \"fast\""):
        lat_wgpu.train(keys(crops), out=out, optim={"lr": "fast"})
    with pytest.raises(lat_wgpu.UsageError, match="data.shuffle: expected true or false"):
        lat_wgpu.train(keys(crops), out=out, data={"dir": crops, "shuffle": 1})
    with pytest.raises(lat_wgpu.UsageError, match="model.size"):
        lat_wgpu.train(keys(crops), out=out, **{"model.size": (0, 4)})
    with pytest.raises(lat_wgpu.UsageError, match="is needed"):
        lat_wgpu.train(out=out, model={"backbone": TINY, "heads": 2})
    with pytest.raises(TypeError):
        lat_wgpu.train(7, out=out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.png").write_bytes(b"mine")
    with pytest.raises(lat_wgpu.UsageError, match="full"):
        lat_wgpu.train(keys(crops), out=tmp_path / "full")


def test_an_exception_stops_a_run_that_resumes(crops, wanted, tmp_path):
    class Enough(Exception):
        pass

    seen = []

    def stop(line):
        seen.append(line["epoch"])
        raise Enough

    with pytest.raises(Enough):
        lat_wgpu.train(keys(crops), out=tmp_path / "run", on_epoch=stop)
    assert seen == [0] and (tmp_path / "run/last.safetensors").exists()
    found = lat_wgpu.train(out=tmp_path / "run", resume=True, on_epoch=lambda line: seen.append(line["epoch"]))
    assert seen == [0, 1] and found.unfinished is None
    check_same_run(tmp_path / "run", wanted)


def test_a_limit_of_steps(crops, tmp_path):
    found = lat_wgpu.train(keys(crops), out=tmp_path / "run", **{"schedule.max_steps": 1})
    assert found.unfinished.startswith("stopped after 1 of") and "stopped after" in repr(found)


INTERRUPTED = """
import json, os, signal, sys, threading, lat_wgpu
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(line):
    if line["epoch"] == 1:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    lat_wgpu.train(json.loads(sys.argv[1]), out=sys.argv[2], on_epoch=interrupt)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_control_c_saves_the_state(crops, tmp_path):
    given = keys(crops)
    given = {**given, "data": {**given["data"], "dir": str(crops)}, "schedule": {"batch_size": 4, "epochs": 400}}
    command = [sys.executable, "-c", INTERRUPTED, json.dumps(given), tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "interrupted\n", done.stderr
    steps = [line["step"] for line in lines(tmp_path / "run") if "step" in line]
    run("train", "--backbone", TINY, "--data", crops, "--out", tmp_path / "native", *FLAGS, "--eval-every", "0",
        "--epochs", "400", "--max-steps", len(steps) + 1)
    lat_wgpu.train(out=tmp_path / "run", resume=True, **{"schedule.max_steps": len(steps) + 1})
    found, native = (tmp_path / name / "last.safetensors" for name in ("run", "native"))
    assert found.read_bytes() == native.read_bytes()


def test_statistics_are_those_of_the_command_line(crops, tmp_path):
    folder = crops / "bounding_box_train"
    arguments = ["adapt", "--statistics-only", "--model", DEMO, "--images", folder, "--deviation"]
    wanted = json.loads(run(*arguments, "--out", tmp_path / "cli.safetensors", "--json", "-"))
    out = tmp_path / "wheel.safetensors"
    found = lat_wgpu.adapt(DEMO, folder, out=out, statistics_only=True, cluster={"deviation": True})
    assert out.read_bytes() == (tmp_path / "cli.safetensors").read_bytes()
    assert found == {**wanted, "out": str(out)}
    with pytest.raises(lat_wgpu.UsageError, match="--lr has no effect with --statistics-only"):
        lat_wgpu.adapt(DEMO, folder, out=out, statistics_only=True, optim={"lr": 1})
    before = out.read_bytes()
    with pytest.raises(lat_wgpu.UsageError, match="would replace|--out"):
        lat_wgpu.adapt(out, folder, out=out, statistics_only=True)
    assert out.read_bytes() == before
    with pytest.raises(lat_wgpu.UsageError, match="missing images"):
        lat_wgpu.adapt(DEMO, out=out, statistics_only=True)


def test_clusters_are_those_of_the_command_line(tmp_path):
    run("synth", tmp_path / "figures", "--persons", "4", "--cameras", "2", "--images", "4")
    folder = tmp_path / "figures/bounding_box_train"
    flags = "--heads 2 --k1 8 --k2 2 --min-samples 2 --epochs 2 --passes 1 --persons-per-batch 3 --images-per-person 2"
    flags += " --batch-size 6 --lr 1e-3"
    run("adapt", "--model", TINY, "--images", folder, "--out", tmp_path / "native", *flags.split())
    epochs = []
    found = lat_wgpu.adapt(
        TINY,
        folder,
        out=tmp_path / "run",
        on_epoch=epochs.append,
        config={"model": {"heads": 2}},
        cluster={"k1": 8, "k2": 2, "min_samples": 2},
        schedule={"epochs": 2, "passes": 1, "batch_size": 6},
        data={"persons_per_batch": 3, "images_per_person": 2},
        optim={"lr": 1e-3},
    )
    check_same_run(tmp_path / "run", tmp_path / "native")
    assert len(epochs) == 2 and "clusters" in epochs[0] and found.model.exists()
    with pytest.raises(lat_wgpu.UsageError, match="missing images"):
        lat_wgpu.adapt(TINY, out=tmp_path / "other")
