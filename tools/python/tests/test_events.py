"""Reads the event file of a run by TensorBoard and compares it with log.jsonl. See tools/python_test.sh."""

import json
import os
import pathlib
import subprocess

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROGRAM = os.environ["LAT_PROGRAM"]
MODEL = pathlib.Path(__file__).parents[3] / "tests/goldens/plain.model.safetensors"


def test_tensorboard_reads_a_resumed_run(tmp_path):
    figures, run = tmp_path / "figures", tmp_path / "run"
    subprocess.run([PROGRAM, "synth", figures, "--persons", "8", "--cameras", "2", "--images", "2"], check=True)
    train = [PROGRAM, "train", "--backbone", MODEL, "--heads", "2", "--data", figures, "--out", run]
    train += ["--batch-size", "4", "--epochs", "3", "--eval-every", "1", "--log", "tensorboard"]
    subprocess.run([*train, "--max-steps", "6"], check=True)
    subprocess.run([PROGRAM, "train", "--resume", "--out", run], check=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    events = EventAccumulator(str(run))
    events.Reload()
    for tag, name in ("train/loss", "loss"), ("train/lr", "lr"):
        found = events.Scalars(tag)
        assert [event.step for event in found] == [line["step"] for line in steps]
        assert all(abs(event.value - line[name]) <= 1e-6 * abs(line[name]) for event, line in zip(found, steps))
    found = events.Scalars("epoch/map")
    assert [event.step for event in found] == [4, 8, 12] and len(epochs) == 3
    assert all(abs(event.value - line["map"]) < 1e-6 for event, line in zip(found, epochs))
