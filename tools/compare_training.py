#!/usr/bin/env python3
"""Compare the first steps of `lat-wgpu train` with PyTorch, from the same initial model and images.

    python3 tools/compare_training.py --binary target/release/lat-wgpu --backbone W.safetensors --preset paper
    python3 tools/compare_training.py … --data DIR --persons 8 --images 4

Without --data, uses synthetic images; else the images of a folder with names as in Market-1501 (0002_c1s1_…) or one
sub-folder per person. They are decoded to PNG first, so that JPEG decoders don't matter. Shuffling, dropout, flip, erasing,
crop and identity sampler are off, since random numbers would have to agree. PyTorch computes in f64. Exit code 1 if the
relative error of a loss exceeds --max-error, or if a learning rate or a number of trainable parameters differs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import la_transformer as lat

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def run(*command):
    command = [str(word) for word in command]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: this failed: {' '.join(command)}")


def collect(source, target, persons, images):
    """Decode the first images of the first persons below `source` into one folder per person below `target`."""
    found = {}
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in EXTENSIONS:
            market = re.match(r"(-?\d+)_c\d+", path.name)
            found.setdefault(market[1] if market else path.parent.name, []).append(path)
    # Leaves out junk and distractors.
    names = sorted(name for name in found if not re.fullmatch(r"-1|0+", name))[:persons]
    if not names:
        sys.exit(f"error: no images of persons in {source}")
    for i, name in enumerate(names):
        folder = target / f"{i:05}"
        folder.mkdir(parents=True)
        for j, path in enumerate(found[name][:images]):
            lat.read_image(path).save(folder / f"{j:05}.png")


def train_here(initial, data, recipe, batch_size, steps):
    """`Step`s of PyTorch on the sorted images of `data`, from the file `initial`."""
    state, metadata = lat.read_weights(initial)
    stored, preprocess = metadata["model"], metadata["preprocess"]
    settings = {name: stored[name] for name in ("heads", "act", "ln_eps", "stride")}
    model = lat.build_classifier(state, recipe, size=preprocess["size"], **settings).double()
    size, mean_std = model.config.size, (preprocess["mean"], preprocess["std"])
    optimizer = lat.make_optimizer(model, recipe)

    files = sorted(data.glob("*/*.png"))
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    # BatchNorm can't train on one sample, so a last batch of one is dropped.
    batches = [batch for batch in batches if len(batch) > 1]
    done = []
    for step in range(steps):
        batch = batches[step % len(batches)]
        images = [lat.preprocess(lat.read_image(f), size, mean_std, torch.float64) for f in batch]
        labels = torch.tensor([int(file.parent.name) for file in batch])
        done.append(lat.train_step(model, optimizer, recipe, torch.stack(images), labels, step, len(batches)))
    return done, len(batches)


def compare(arguments, work):
    """Run both and print their steps; True if they agree."""
    figures, data = work / "figures", work / "images"
    if not arguments.data:
        counts = ("--persons", arguments.persons, "--cameras", 1, "--images", arguments.images)
        run(arguments.binary, "synth", figures, *counts)
    collect(arguments.data or figures, data, arguments.persons, arguments.images)

    recipe = replace(lat.PRESETS[arguments.preset], dropout=0.0)
    train = [arguments.binary, "train", "--backbone", arguments.backbone, "--data", data]
    train += ["--preset", arguments.preset, "--batch-size", arguments.batch_size]
    train += ["--no-shuffle", "--flip-prob", 0, "--dropout", 0, "--val-fraction", 0]
    off = ("data.erasing=0", "data.crop_pad=0", "data.persons_per_batch=0")
    for setting in (*off, *arguments.set):
        train += ["--set", setting]
    if arguments.size:
        train += ["--size", arguments.size]
    if arguments.unfreeze_every:
        train += ["--unfreeze-every", arguments.unfreeze_every]
        recipe = replace(recipe, unfreeze_every=arguments.unfreeze_every)
    run(*train, "--out", work / "initial", "--max-steps", 0)
    run(*train, "--out", work / "run", "--max-steps", arguments.steps)
    lines = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text().splitlines()]
    theirs = [line for line in lines if "step" in line]
    initial = work / "initial" / "last.safetensors"
    ours, in_epoch = train_here(initial, data, recipe, arguments.batch_size, arguments.steps)

    if len(theirs) != len(ours):
        print(f"log.jsonl has {len(theirs)} steps")
        return False
    fine, worst = True, 0.0
    print(" step  epoch         lr  trainable     PyTorch    lat-wgpu  relative error")
    for i, (here, there) in enumerate(zip(ours, theirs)):
        error = abs(there["loss"] - here.loss) / abs(here.loss)
        worst = max(worst, error)
        epoch = i // in_epoch
        print(
            f"{i + 1:5} {epoch:6} {here.lr:10.4e} {here.trainable:10} {here.loss:11.6f} "
            f"{there['loss']:11.6f}  {error:.2e}"
        )
        # Not `>`, since NaN must fail.
        fine &= error <= arguments.max_error
        wanted = {"step": i + 1, "epoch": epoch, "trainable_params": here.trainable}
        for key, value in wanted.items():
            if there[key] != value:
                print(f"      {key} is {there[key]} in log.jsonl")
                fine = False
        if not abs(there["lr"] - here.lr) <= 1e-6 * here.lr:
            print(f"      lr is {there['lr']} in log.jsonl")
            fine = False
    print(f"{arguments.preset}: largest relative error {worst:.2e}")
    return fine


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", type=Path, required=True, help="the program lat-wgpu")
    parser.add_argument("--backbone", type=Path, required=True, help="weights to start from")
    parser.add_argument("--preset", choices=lat.PRESETS, default="paper")
    parser.add_argument("--data", type=Path, help="folder of images [default: synthetic images]")
    parser.add_argument("--persons", type=int, default=4)
    parser.add_argument("--images", type=int, default=4, help="most images of each person")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", metavar="HxW", help="[default: the backbone's]")
    parser.add_argument("--unfreeze-every", type=int, metavar="EPOCHS", help="[default: the preset's]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting for train; may be repeated")
    parser.add_argument("--max-error", type=float, default=1e-4)
    parser.add_argument("--work", type=Path, help="new folder that keeps all files [default: a temporary one]")
    arguments = parser.parse_args()
    # A program without a slash in its path would be searched in PATH.
    arguments.binary = arguments.binary.resolve()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.work:
            arguments.work.mkdir(parents=True)
        if not compare(arguments, arguments.work or Path(folder)):
            sys.exit("error: the steps differ")


if __name__ == "__main__":
    main()
