"""Runs files of `lat-wgpu export --to onnx` by ONNX Runtime and OpenVINO. See tools/python_test.sh."""

import json
import os
import subprocess
from pathlib import Path

import numpy
import onnx
import onnxruntime
import openvino
import PIL.Image
import pytest
from safetensors import safe_open

PROGRAM = os.environ["LAT_PROGRAM"]
DEMO = Path(os.environ["LAT_DEMO"])
GOLDENS = sorted((DEMO.parents[1] / "tests/goldens").glob("*.golden.safetensors"))
MIN_COSINE = 0.99999


def run(*words):
    subprocess.run([PROGRAM, *words], check=True)


def export(folder, model, *flags):
    """The path of an exported model, which ONNX's own checker accepts."""
    path = folder / "model.onnx"
    run("export", "--model", model, *flags, "--to", "onnx", "--out", path)
    onnx.checker.check_model(path, full_check=True)
    return path


def embed(path, images):
    """Embeddings of images (N, H, W, 3) in bytes, prepared as the file says."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name, preprocess = session.get_inputs()[0].name, json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
    assert list(images.shape[1:3]) == preprocess["size"]
    return session.run(["embedding"], {name: prepared(images, preprocess)})[0]


def prepared(images, preprocess):
    if preprocess["layout"] == "NHWC":
        return images
    pixels = (images * preprocess["scale"] - preprocess["mean"]) / preprocess["std"]
    return pixels.transpose(0, 3, 1, 2).astype(numpy.float32)


def lowest_cosine(vectors, wanted):
    assert vectors.shape == wanted.shape
    lengths = numpy.linalg.norm(vectors, axis=1), numpy.linalg.norm(wanted, axis=1)
    assert abs(lengths[0] - 1).max() < 1e-5
    return ((vectors * wanted).sum(1) / lengths[0] / lengths[1]).min()


def golden_of(path):
    """Model, flags, images and PyTorch's embeddings of a golden."""
    with safe_open(path, framework="np") as file:
        # CLIP's names would choose another.
        settings = {"normalize": "imagenet", **json.loads(file.metadata()["settings"])}
        images, embeddings = file.get_tensor("images"), file.get_tensor("embedding")
    flags = [str(word).replace("_", "-") for key, value in settings.items() for word in (f"--{key}", value)]
    model = path.with_name(path.name.replace(".golden.", ".model."))
    return model, flags, images, embeddings


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name.removesuffix(".golden.safetensors"))
def test_every_option_gives_the_embeddings_of_pytorch(tmp_path, golden):
    model, flags, images, wanted = golden_of(golden)
    path = export(tmp_path, model, *flags)
    for batch in (1, 3, 16):
        order = numpy.arange(batch) % len(images)
        assert lowest_cosine(embed(path, images[order]), wanted[order]) >= MIN_COSINE
    # Otherwise the bound would accept the embedding of another image.
    assert lowest_cosine(wanted[:1], wanted[1:2]) < MIN_COSINE
    by_bytes = embed(export(tmp_path, model, *flags, "--input", "u8"), images)
    assert lowest_cosine(by_bytes, wanted) >= MIN_COSINE
    in_halves = embed(export(tmp_path, model, *flags, "--dtype", "f16"), images)
    assert lowest_cosine(in_halves, wanted) >= 0.9999


@pytest.fixture(name="crops")
def drawn_crops(tmp_path):
    """Files of drawn persons, 256×128 pixels, which are not the size of the demo's network."""
    run("synth", tmp_path / "drawn", "--persons", "8", "--cameras", "2", "--images", "1", "--quiet")
    files = sorted((tmp_path / "drawn").glob("*/*.png"))[:6]
    for file in files:
        PIL.Image.open(file).resize((128, 256), PIL.Image.Resampling.BICUBIC).save(file)
    return files


def native(tmp_path, model, files, *flags):
    run("embed", "--model", model, *flags, *files, "--out", tmp_path / "native.npy", "--quiet")
    return numpy.load(tmp_path / "native.npy")


def pixels(files, size):
    return numpy.stack([PIL.Image.open(file).resize(size, PIL.Image.Resampling.BICUBIC) for file in files])


@pytest.mark.parametrize("tracker, size", [("boxmot", (128, 256)), ("ultralytics", (224, 224))])
def test_a_tracker_gets_the_native_embeddings(tmp_path, crops, tracker, size):
    vectors = embed(export(tmp_path, DEMO, "--for", tracker), pixels(crops, size))
    # The program rounds the stretched pixels to bytes, and Ultralytics has them from 224×224.
    assert lowest_cosine(vectors, native(tmp_path, DEMO, crops)) >= 0.999


def test_after_bnneck_and_with_statistics(tmp_path, crops):
    flags = "--persons-per-batch", "4", "--images-per-person", "2", "--batch-size", "8", "--head-kind", "bnneck"
    run(
        "train", "--backbone", DEMO, "--data", tmp_path / "drawn", "--out", tmp_path / "run", "--max-steps", "2", *flags,
        "--head-embed", "after", "--quiet",
    )
    trained, adapted = tmp_path / "run/best.safetensors", tmp_path / "adapted.safetensors"
    images = pixels(crops, (64, 128))
    assert lowest_cosine(embed(export(tmp_path, trained), images), native(tmp_path, trained, crops)) >= MIN_COSINE
    statistics = "--images", tmp_path / "drawn", "--deviation"
    run("adapt", "--statistics-only", "--model", trained, *statistics, "--out", adapted, "--quiet")
    wanted = native(tmp_path, adapted, crops, "--camera", "none")
    assert lowest_cosine(embed(export(tmp_path, adapted), images), wanted) >= MIN_COSINE


def test_reattention(tmp_path, crops):
    model = tmp_path / "deepvit.safetensors"
    run("init", "--reattention", "--size", "64x32", "--dim", "48", "--depth", "3", "--heads", "3", "--out", model)
    vectors = embed(export(tmp_path, model), pixels(crops, (32, 64)))
    assert lowest_cosine(vectors, native(tmp_path, model, crops)) >= MIN_COSINE


def test_openvino_gives_the_native_embeddings(tmp_path, crops):
    images = pixels(crops, (64, 128))
    wanted = native(tmp_path, DEMO, crops)
    for flags in ((), ("--input", "u8"), ("--dtype", "f16")):
        path = export(tmp_path, DEMO, *flags)
        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        preprocess = json.loads(onnx_metadata(path)["preprocess"])
        (vectors,) = compiled(prepared(images, preprocess)).values()
        assert lowest_cosine(vectors, wanted) >= MIN_COSINE, flags


def onnx_metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
