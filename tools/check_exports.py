#!/usr/bin/env python3
"""Compare embeddings of exports (`lat-wgpu export --to timm` and `--to onnx`) with the program's own.

    cargo build --release
    python3 tools/check_exports.py --program target/release/lat-wgpu [--model M.safetensors] [--goldens]

Synthetic images are embedded by the program, by timm's ViT (tools/load_timm.py) and by ONNX Runtime, each with the model's
preprocessing. --goldens does the same with the tiny ViTs for every option in tests/goldens. Exit code 1 if a cosine is
below 0.99999. Needs timm, torch, onnxruntime, safetensors, pillow >= 13.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import la_transformer
import load_timm

REPOSITORY = Path(__file__).resolve().parent.parent
MIN_COSINE = 0.99999


def run(program, folder, *words):
    """Run the program in a folder."""
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: lat-wgpu {' '.join(map(str, words))}:\n{done.stderr}")


def by_onnx(path, images):
    """ONNX Runtime's embeddings, in two batches of different sizes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    preprocess = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
    if list(images.shape[2:]) != preprocess["size"]:
        sys.exit(f"error: {path} needs images of {preprocess['size']}")
    halves = images[:1], images[1:]
    return np.concatenate([session.run(["embedding"], {"image": half})[0] for half in halves])


def compare(what, ours, native):
    """Print the difference from the native embeddings; True if small enough."""
    if ours.shape != native.shape:
        sys.exit(f"error: {what} gives {ours.shape}, the program {native.shape}")
    ours, native = ours.astype(np.float64), native.astype(np.float64)
    cosines = (ours * native).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(native, axis=1)
    error = np.abs(ours - native).max()
    print(f"{what}: {len(native)} embeddings, lowest cosine {cosines.min():.10f}, largest error {error:.1e}")
    # Not `<`, since NaN must fail.
    return bool((cosines >= MIN_COSINE).all())


def check(program, folder, name, model, flags):
    """True if both exports of a model give the embeddings of the program."""
    run(program, folder, "embed", "--model", model, *flags, "images", "--out", "native.safetensors")
    for form, out in (("timm", "model.safetensors"), ("onnx", "model.onnx")):
        run(program, folder, "export", "--model", model, *flags, "--to", form, "--out", out)
    with safe_open(folder / "native.safetensors", framework="np") as file:
        native, paths = file.get_tensor("embeddings"), json.loads(file.metadata()["paths"])
    loaded = load_timm.load(folder / "model.safetensors")
    images = loaded.preprocess([folder / "images" / path for path in paths])
    with torch.no_grad():
        vectors = loaded(images).numpy()
    good = compare(f"{name}, timm", vectors, native)
    return compare(f"{name}, onnx", by_onnx(folder / "model.onnx", images.numpy()), native) and good


def check_heads(program, folder, model):
    """True if exported part classifiers, with random weights, agree with the reference in la_transformer.py."""
    state, metadata = la_transformer.read_weights(model)
    rows, width, generator = metadata["model"]["grid"][0], state["cls_token"].shape[2], torch.manual_seed(0)
    shapes = {"fc1.weight": (256, width), "fc2.weight": (5, 256), "fc1.bias": (256,), "fc2.bias": (5,)}
    shapes |= {f"bn.{name}": (256,) for name in ("weight", "bias", "running_mean", "running_var")}
    for part in range(rows):
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator)
            state[f"heads.{part}.{name}"] = values.abs() + 0.1 if name == "bn.running_var" else values
    metadata["heads"] = {"hidden": 256, "relu": False, "classes": 5}
    metadata["class_names"] = list("abcde")
    save_file(state, folder / "heads.safetensors", {"lat_wgpu": json.dumps(metadata)})
    run(program, folder, "export", "--model", "heads.safetensors", "--to", "timm", "--out", "model.safetensors")
    loaded = load_timm.load(folder / "model.safetensors")
    recipe = la_transformer.Recipe(relu=False)
    size, heads = metadata["preprocess"]["size"], metadata["model"]["heads"]
    reference = la_transformer.build_classifier(state, recipe, size=size, heads=heads)
    reference.heads.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("heads.")}, strict=False)
    images = loaded.preprocess(sorted((folder / "images").iterdir()))
    with torch.no_grad():
        wanted = reference.logits(images)
        error = ((loaded.logits(images) - wanted).abs().max() / wanted.abs().max()).item()
    print(f"classifiers, timm: {tuple(wanted.shape)} scores, largest error {error:.1e} of the largest score")
    return error < 1e-5 and loaded.class_names == list("abcde")


def goldens():
    """Name, model and flags of the tiny ViTs."""
    for golden in sorted((REPOSITORY / "tests/goldens").glob("*.golden.safetensors")):
        with safe_open(golden, framework="np") as file:
            settings = json.loads(file.metadata()["settings"])
        flags = [str(word).replace("_", "-") for key, value in settings.items() for word in (f"--{key}", value)]
        name = golden.name.removesuffix(".golden.safetensors")
        yield name, golden.with_name(f"{name}.model.safetensors"), flags


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "weights/demo.safetensors")
    parser.add_argument("--goldens", action="store_true")
    arguments = parser.parse_args()
    program, model = arguments.program.resolve(), arguments.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run(program, folder, "synth", "figures", "--persons", "8", "--cameras", "2", "--images", "1")
        (folder / "figures/query").rename(folder / "images")
        good = check(program, folder, model.stem, model, [])
        # Exports subtract the mean of all images.
        flags = ["--images", "images", "--deviation", "--out", "adapted.safetensors"]
        run(program, folder, "adapt", "--statistics-only", "--model", model, *flags)
        good = check(program, folder, "statistics", "adapted.safetensors", ["--camera", "none"]) and good
        good = check_heads(program, folder, REPOSITORY / "weights/demo.safetensors") and good
        for name, golden, flags in goldens() if arguments.goldens else ():
            good = check(program, folder, name, golden, flags) and good
    if not good:
        sys.exit(f"error: a cosine is below {MIN_COSINE}, or a classifier is wrong")


if __name__ == "__main__":
    main()
