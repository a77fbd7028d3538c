"""Every kind of input of `embed`, errors, progress. See tools/python_test.sh."""

import itertools
import logging
import os
import subprocess
import sys

import numpy
import pytest
from PIL import Image

import lat_wgpu
from conftest import DEMO, run, same


def test_the_default_model_is_that_of_the_command_line(figures, tmp_path):
    model = lat_wgpu.Model()
    assert model.name in repr(model) and f"{model.name}, the default" in run("models")
    run("embed", *figures, "--out", tmp_path / "default.npy")
    same(model.embed(figures), numpy.load(tmp_path / "default.npy"))


def test_a_folder(model, crops, tmp_path):
    run("embed", "--model", DEMO, crops, "--out", tmp_path / "all.npy")
    rows = numpy.load(tmp_path / "all.npy")
    same(model.embed(crops), rows)
    same(model.embed(str(crops)), rows)
    paths = lat_wgpu.list_images(crops)
    names = (tmp_path / "all.paths.txt").read_text().splitlines()
    assert [path.relative_to(crops).as_posix() for path in paths] == names
    same(model.embed(paths), rows)
    same(model.embed([crops, crops / names[0]]), numpy.concatenate([rows, rows[:1]]))
    with pytest.raises(lat_wgpu.DataError, match="no image in"):
        model.embed(tmp_path)


def test_images_of_pillow_and_mixed_lists(model, figures, pixels, expected):
    opened = [Image.open(path) for path in figures]
    same(model.embed(opened[0]), expected[:1])
    same(model.embed(opened), expected)
    kinds = [figures[0], pixels[1], opened[2], str(figures[3])]
    same(model.embed(kinds), expected[:4])
    same(model.embed(iter(kinds)), expected[:4])


def test_images_of_pillow_are_upright(model, figures, tmp_path):
    image = Image.open(figures[0])
    lying = tmp_path / "lying.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(lying, exif=exif)
    same(model.embed(Image.open(lying)), model.embed(image))
    same(model.embed(lying), model.embed(image))


def test_a_generator_is_read_as_it_is_needed(figures, expected):
    model = lat_wgpu.Model(DEMO, batch_size=1)
    same(model.embed(path for path in figures), expected)

    class Enough(Exception):
        pass

    def endless():
        for count in itertools.count():
            if count == 40:
                raise Enough
            yield figures[count % len(figures)]

    with pytest.raises(Enough):
        model.embed(endless())
    same(model.embed(figures), expected)


MANY = """
import resource, sys, numpy, lat_wgpu
model = lat_wgpu.Model(sys.argv[1], batch_size=2)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
model.embed(numpy.zeros((4, 2048, 1024, 3), numpy.uint8))
before = peak()
rows = model.embed(numpy.full((2048, 1024, 3), shade, numpy.uint8) for shade in range(100))
print(len(rows), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_memory_does_not_grow_with_the_images():
    done = subprocess.run([sys.executable, "-c", MANY, DEMO], capture_output=True, text=True, check=True)
    rows, mebibytes = map(int, done.stdout.split())
    # All pixels together are 600 MiB.
    assert rows == 100 and mebibytes < 200


def test_unreadable_images_are_skipped_on_request(model, figures, expected, tmp_path, caplog):
    torn = tmp_path / "torn.png"
    torn.write_bytes(figures[0].read_bytes()[:100])
    images = [figures[0], torn, figures[1], tmp_path / "absent.png"]
    with pytest.raises(lat_wgpu.ImageError, match="torn.png"):
        model.embed(images)
    with caplog.at_level(logging.WARNING, "lat_wgpu"):
        rows, skipped = model.embed(images, on_error="skip")
    same(rows, expected[:2])
    assert list(skipped) == [1, 3] and all(type(error) is lat_wgpu.ImageError for error in skipped.values())
    assert "torn.png" in str(skipped[1]) and "absent.png" in str(skipped[3])
    assert [record.message.startswith("skipped ") for record in caplog.records] == [True, True]
    rows, skipped = model.embed([], on_error="skip")
    assert rows.shape == (0, model.dim) and skipped == {}
    with pytest.raises(lat_wgpu.UsageError, match="on_error"):
        model.embed(images, on_error="ignore")


def test_flip_is_that_of_the_command_line(figures, pixels, tmp_path):
    run("embed", "--model", DEMO, "--flip", *figures, "--out", tmp_path / "flip.npy")
    rows = numpy.load(tmp_path / "flip.npy")
    model = lat_wgpu.Model(DEMO, flip=True)
    same(model.embed(figures), rows)
    same(model.embed(pixels), rows)


def test_cameras_are_those_of_the_command_line(crops, figures, pixels, tmp_path):
    adapted = tmp_path / "adapted.safetensors"
    lat_wgpu.adapt(DEMO, crops, out=adapted, statistics_only=True)
    with pytest.raises(lat_wgpu.UsageError, match="no camera embedding"):
        lat_wgpu.Model(DEMO, camera="1")
    for camera in "1", "none":
        out = tmp_path / f"{camera}.npy"
        run("embed", "--model", adapted, "--camera", camera, *figures, "--out", out)
        model = lat_wgpu.Model(adapted)
        same(model.embed(pixels, camera=camera), numpy.load(out))
        same(lat_wgpu.Model(adapted, camera=camera).embed(figures), numpy.load(out))
    run("embed", "--model", adapted, *figures, "--out", tmp_path / "names.npy")
    same(model.embed(figures), numpy.load(tmp_path / "names.npy"))


def test_errors_have_classes_and_hints():
    for name in "Usage Image Weights Data File Network Adapter OutOfMemory NotFinite".split():
        assert issubclass(getattr(lat_wgpu, f"{name}Error"), lat_wgpu.Error)
    assert lat_wgpu.Error.hint is None
    with pytest.raises(lat_wgpu.FileError) as caught:
        lat_wgpu.Model("absent.safetensors")
    assert isinstance(caught.value, OSError)
    assert caught.value.hint and str(caught.value).endswith(f"\nhint: {caught.value.hint}")
    with pytest.raises(lat_wgpu.UsageError, match="no model of this name"):
        lat_wgpu.Model("no-such-model")
    with pytest.raises(lat_wgpu.OutOfMemoryError):
        lat_wgpu.Model(DEMO, batch_size=10**9)
    with pytest.raises(lat_wgpu.AdapterError):
        lat_wgpu.Model(DEMO, adapter="no such adapter")


BAR = """
import sys, lat_wgpu
lat_wgpu.Model(sys.argv[1], batch_size=1).embed(sys.argv[2:] * 40, progress=sys.stdin.readline() == "bar\\n")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("wanted", ["bar", "none"])
def test_the_bar_is_shown_on_request(wanted, figures):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", BAR, DEMO, str(figures[0])]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=theirs, text=True, env=environment)
    os.close(theirs)
    process.stdin.write(f"{wanted}\n")
    process.stdin.close()
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait() == 0
    assert (b"/40" in shown) == (wanted == "bar"), shown
