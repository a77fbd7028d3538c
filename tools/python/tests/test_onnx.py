"""Compares ONNX Runtime on a file of `lat-wgpu export --to onnx` with the program. See tools/python_test.sh."""

import json
import os
import subprocess
import sys

import numpy
import onnxruntime
import PIL.Image

PROGRAM = os.environ["LAT_PROGRAM"]
DEMO = os.environ["LAT_DEMO"]
MIN_COSINE = 0.99999


def test_onnx_runtime_gives_the_native_vectors(tmp_path):
    # Of the input's size, since resizing is tested elsewhere.
    images = numpy.random.default_rng(5).integers(0, 256, (3, 128, 64, 3), dtype=numpy.uint8)
    images[1, :64, :, 0] //= 4
    images[2, 64:, :, 2] //= 4
    files = [tmp_path / f"{i}.png" for i in range(len(images))]
    for file, image in zip(files, images):
        PIL.Image.fromarray(image).save(file)
    subprocess.run([PROGRAM, "embed", "--model", DEMO, *files, "--out", tmp_path / "native.npy"], check=True)
    native = numpy.load(tmp_path / "native.npy")

    exported = tmp_path / "demo.onnx"
    export = [PROGRAM, "export", "--model", DEMO, "--to", "onnx", "--out", exported]
    subprocess.run(export, env={**os.environ, "LAT_PYTHON": sys.executable}, check=True)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    preprocess = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
    assert preprocess["size"] == [128, 64] and preprocess["channels"] == "RGB"
    pixels = (images * preprocess["scale"] - preprocess["mean"]) / preprocess["std"]
    pixels = pixels.transpose(0, 3, 1, 2).astype(numpy.float32)
    # Any batch size.
    halves = [session.run(["embedding"], {"image": half})[0] for half in (pixels[:1], pixels[1:])]
    vectors = numpy.concatenate(halves)

    assert vectors.shape == native.shape
    cosines = (vectors * native).sum(1) / numpy.linalg.norm(vectors, axis=1) / numpy.linalg.norm(native, axis=1)
    assert (cosines >= MIN_COSINE).all(), cosines
    # Otherwise the bound would accept the embedding of another image.
    assert max(vectors[0] @ native[1], vectors[1] @ native[2]) < MIN_COSINE
