"""Fixtures of all tests. See tools/python_test.sh."""

import os
import pathlib
import subprocess

import numpy
import pytest

import lat_wgpu

PROGRAM = os.environ["LAT_PROGRAM"]
DEMO = os.environ["LAT_DEMO"]
# A model of two heads that is small enough to train.
TINY = str(pathlib.Path(__file__).parents[3] / "tests/goldens/plain.model.safetensors")


def run(*arguments, **options):
    """Runs the command line and returns its stdout."""
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def same(found, expected):
    assert found.dtype == numpy.float32 and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.fixture(scope="session")
def crops(tmp_path_factory):
    """A data set of synthetic images."""
    folder = tmp_path_factory.mktemp("figures")
    run("synth", folder, "--persons", "4", "--cameras", "2", "--images", "1")
    return folder


@pytest.fixture(scope="session")
def figures(crops):
    """Images of its gallery, sorted by path."""
    return sorted(path for path in (crops / "bounding_box_test").iterdir() if path.suffix in (".png", ".jpg"))


@pytest.fixture(scope="session")
def expected(figures, tmp_path_factory):
    """Embeddings of `lat-wgpu embed` for them: (N, D)."""
    out = tmp_path_factory.mktemp("cli") / "out.npy"
    run("embed", "--model", DEMO, *figures, "--out", out)
    return numpy.load(out)


@pytest.fixture(scope="session")
def model():
    return lat_wgpu.Model.open(DEMO)


@pytest.fixture(scope="session")
def pixels(figures):
    """The images as decoded by Pillow."""
    image = pytest.importorskip("PIL.Image")
    return [numpy.asarray(image.open(path).convert("RGB")) for path in figures]
