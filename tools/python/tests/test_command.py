"""The command that the wheel installs. See tools/python_test.sh."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy
import pytest

from conftest import DEMO, PROGRAM, same

COMMAND = str(pathlib.Path(sys.executable).with_name("lat-wgpu" + (".exe" if sys.platform == "win32" else "")))


def finish(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["search", "--help"], ["models"], ["embed"], ["inspect", "absent.safetensors"]],
)
def test_it_prints_as_the_native_program(arguments):
    assert finish(COMMAND, *arguments) == finish(PROGRAM, *arguments)


def test_exit_codes_and_bits(figures, expected, tmp_path):
    out = tmp_path / "out.npy"
    assert finish(COMMAND, "embed", "--model", DEMO, *figures, "--out", out)[0] == 0
    same(numpy.load(out), expected)
    assert finish(COMMAND, "embed", "--model", DEMO, *figures, "--out", out, "--no-such-flag")[0] == 2
    assert finish(COMMAND, "inspect", "absent.safetensors")[0] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("program", [COMMAND, PROGRAM])
def test_control_c(program, figures, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    for count in range(3000):
        os.link(figures[0], many / f"{count}.png")
    command = [program, "embed", "--model", DEMO, many, "--batch-size", "1", "--append", "--out", tmp_path / "index"]
    # Background jobs of a shell ignore the signal, and so would their children.
    listens = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, preexec_fn=listens)
    while not list((tmp_path / "index").glob("*")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "error: interrupted: " in stderr and "Traceback" not in stderr, stderr
