"""Compares the wheel with the command line, bit for bit. See tools/python_test.sh."""

import os
import pathlib
import subprocess
import sys
import threading

import numpy
import pytest

import lat_wgpu
from conftest import DEMO, PROGRAM, same


def test_facts(model, expected):
    assert model.dim == expected.shape[1]
    assert model.batch_size >= 1 and model.adapter and isinstance(model.notes, list)
    assert len(model.size) == 2 and str(model.dim) in repr(model)


def test_paths(model, figures, expected):
    same(model.embed(figures), expected)
    same(model.embed([str(path) for path in figures]), expected)
    same(model.embed(tuple(figures[::-1])), expected[::-1])
    same(model.embed(str(figures[0])), expected[:1])
    same(model.embed(pathlib.Path(figures[0])), expected[:1])


def test_arrays(model, pixels, expected):
    same(model.embed(pixels), expected)
    same(model.embed(numpy.stack([pixels[0], pixels[0]])), expected[[0, 0]])


def test_memory_order(model, pixels, expected):
    strided = numpy.zeros((*pixels[0].shape[:2], 6), numpy.uint8)[:, ::-1, ::2]
    strided[...] = pixels[0]
    same(model.embed([strided, numpy.asfortranarray(pixels[1])]), expected[:2])


@pytest.mark.parametrize("batch", [1, 3])
def test_batch(batch, figures, expected):
    model = lat_wgpu.Model.open(DEMO, batch_size=batch)
    assert model.batch_size == batch
    same(model.embed(figures), expected)


def test_nothing(model):
    assert model.embed([]).shape == (0, model.dim)
    assert model.embed(numpy.zeros((0, 8, 8, 3), numpy.uint8)).shape == (0, model.dim)


def test_an_error_names_the_image_and_harms_no_later_call(model, figures, expected, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes(figures[0].read_bytes()[:100])
    with pytest.raises(ValueError, match="torn.png"):
        model.embed([*figures, torn])
    with pytest.raises(ValueError, match="absent.png"):
        model.embed([*figures, tmp_path / "absent.png"])
    same(model.embed(figures), expected)


def test_words_of_the_command_line(tmp_path):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(b"no weights")
    done = subprocess.run([PROGRAM, "inspect", file], capture_output=True, text=True).stderr
    with pytest.raises(ValueError) as caught:
        lat_wgpu.Model.open(file)
    assert done.rstrip() == f"error: {caught.value}"
    with pytest.raises(OSError, match="cannot open .*absent.safetensors.*\nhint: "):
        lat_wgpu.Model.open(tmp_path / "absent.safetensors")
    with pytest.raises(RuntimeError, match="no adapter's name contains"):
        lat_wgpu.Model.open(DEMO, adapter="no such adapter")
    with pytest.raises(MemoryError):
        lat_wgpu.Model.open(DEMO, batch_size=10**9)


def test_wrong_arguments(model):
    with pytest.raises(TypeError, match="float32.*wanted uint8"):
        model.embed(numpy.zeros((1, 8, 8, 3), numpy.float32))
    with pytest.raises(TypeError, match=r"\[8, 8, 3\], wanted uint8 \(N, H, W, 3\)"):
        model.embed(numpy.zeros((8, 8, 3), numpy.uint8))
    with pytest.raises(TypeError):
        model.embed(7)
    with pytest.raises(TypeError):
        model.embed(["a.png", 7])
    with pytest.raises(ValueError, match=r"\(8, 8, 4\)"):
        model.embed([numpy.zeros((8, 8, 4), numpy.uint8)])
    with pytest.raises(ValueError, match=r"\(0, 8, 3\)"):
        model.embed([numpy.zeros((0, 8, 3), numpy.uint8)])
    with pytest.raises(ValueError, match="precision"):
        lat_wgpu.Model.open(DEMO, precision="f64")
    with pytest.raises(ValueError, match="batch_size"):
        lat_wgpu.Model.open(DEMO, batch_size=0)


def test_other_threads_run_meanwhile(model, figures, expected):
    turns = 0
    found = []
    embedding = threading.Thread(target=lambda: found.append(model.embed(figures * 8)))
    embedding.start()
    while embedding.is_alive():
        turns += 1
    same(found[0], numpy.concatenate([expected] * 8))
    # Unless the lock is released, the loop waits for the rows.
    assert turns > 1000


SIGNALLED = """
import os, signal, sys, threading, lat_wgpu
# Background jobs of a shell ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
model = lat_wgpu.Model.open(sys.argv[1], batch_size=1)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    model.embed(sys.argv[2:] * 10_000)
except KeyboardInterrupt:
    print("rows after it:", len(model.embed(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_control_c(figures):
    run = [sys.executable, "-c", SIGNALLED, DEMO, str(figures[0])]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.stdout == "rows after it: 1\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_model_says_so(model, figures):
    child = os.fork()
    if child == 0:
        try:
            model.embed(figures[0])
        except RuntimeError as error:
            os._exit(0 if "open it in each process" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
