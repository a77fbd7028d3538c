#!/usr/bin/env python3
"""Compare an embeddings file of `lat-wgpu embed` with PyTorch on the same weights and images.

    python3 tools/compare_embeddings.py --to-png CROPS SOURCE 50
    lat-wgpu embed --model W.safetensors CROPS --out OUT.safetensors
    python3 tools/compare_embeddings.py --model W.safetensors --embeddings OUT.safetensors --root CROPS

The first command decodes 50 images from SOURCE, spread evenly over its sorted list, to PNG, so that JPEG decoders don't
matter. Give the same settings as flags as to `embed`. Exit code 1 if any image's cosine is below --min-cosine.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

import la_transformer as lat

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def to_png(folder, source, count):
    """Decode `count` images below `source` with Pillow into `folder`."""
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not found:
        sys.exit(f"error: no images in {source}")
    count = min(count, len(found))
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = found[i * len(found) // count]
        # The number distinguishes images of the same name in different folders.
        lat.read_image(path).save(folder / f"{i:05}_{path.stem}.png")
    print(f"decoded {count} of {len(found)} images to {folder}")


def read_embeddings(path):
    """The (N, D) f32 embeddings of a file and the N paths in its metadata."""
    with safe_open(path, framework="pt") as file:
        embeddings = file.get_tensor("embeddings").float()
        paths = json.loads((file.metadata() or {}).get("paths", "[]"))
    if len(paths) != len(embeddings):
        sys.exit(f"error: {path} has {len(embeddings)} rows and {len(paths)} paths")
    if not paths:
        sys.exit(f"error: {path} has no rows")
    return embeddings, paths


def recompute(model, mean_std, files, batch):
    """PyTorch's embeddings (N, D) of image files, in the precision of `model`."""
    dtype, rows = model.cls_token.dtype, []
    with torch.no_grad():
        for start in range(0, len(files), batch):
            images = [lat.read_image(file) for file in files[start : start + batch]]
            images = [lat.preprocess(p, model.config.size, mean_std, dtype) for p in images]
            rows.append(model(torch.stack(images)))
    return torch.cat(rows)


def compare(arguments):
    """Print the difference of the two; True if small enough."""
    gelt = lat.Gelt(arguments.lam, arguments.lambda_on, arguments.tokens, arguments.parts)
    names = ("size", "stride", "heads", "act", "ln_eps")
    settings = {name: getattr(arguments, name) for name in names}
    model, mean_std = lat.load_model(arguments.model, gelt, **settings)
    if arguments.normalize or mean_std is None:
        mean_std = lat.NORMALIZE[arguments.normalize or "imagenet"]
    if arguments.double:
        model = model.double()
    theirs, paths = read_embeddings(arguments.embeddings)
    # Evenly spread if only some are compared.
    count = min(arguments.count or len(paths), len(paths))
    picked = [i * len(paths) // count for i in range(count)]
    ours = recompute(model, mean_std, [arguments.root / paths[i] for i in picked], arguments.batch_size).double()
    theirs = theirs[picked].double()
    if ours.shape != theirs.shape:
        sys.exit(f"error: PyTorch gives {tuple(ours.shape)}, the file has {tuple(theirs.shape)}")
    cosines = torch.cosine_similarity(ours, theirs)
    worst = int(cosines.argmin())
    print(f"images     {count} of {len(paths)}, {ours.shape[1]} dimensions each")
    print(f"min cosine   {cosines[worst]:.10f}  ({paths[picked[worst]]})")
    print(f"mean cosine  {cosines.mean():.10f}")
    print(f"max abs      {(ours - theirs).abs().max():.3e}  (largest value {ours.abs().max():.3e})")
    # Not `<`, since NaN must fail.
    return bool((cosines >= arguments.min_cosine).all())


def size(text):
    """`HxW`, or one number for a square, as (H, W)."""
    sides = [int(side) for side in text.lower().split("x")]
    return (sides * 2)[:2]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to-png", nargs=3, metavar=("DIR", "SOURCE", "N"), help="decode and stop")
    parser.add_argument("--model", type=Path, help="weights in timm's names")
    parser.add_argument("--embeddings", type=Path, help="output of embed (.safetensors)")
    parser.add_argument("--root", type=Path, default=Path("."), help="folder the paths are relative to")
    parser.add_argument("--min-cosine", type=float, default=0.99999)
    parser.add_argument("--count", type=int, help="number of images to compare [default: all]")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--double", action="store_true", help="compute in f64 in PyTorch")
    model = parser.add_argument_group("settings, as given to embed")
    model.add_argument("--size", type=size, metavar="HxW")
    model.add_argument("--stride", type=int)
    model.add_argument("--heads", type=int)
    model.add_argument("--act", choices=("gelu", "quick-gelu"))
    model.add_argument("--ln-eps", type=float)
    model.add_argument("--normalize", choices=lat.NORMALIZE)
    model.add_argument("--lambda", dest="lam", type=float, default=0.8)
    model.add_argument("--lambda-on", choices=("class", "local"), default="class")
    model.add_argument("--tokens", choices=("gelt", "local", "global"), default="gelt")
    model.add_argument("--parts", default="rows", help="rows, or a number of bands")
    arguments = parser.parse_args()
    if arguments.to_png:
        folder, source, count = arguments.to_png
        to_png(Path(folder), Path(source), int(count))
    elif not arguments.model or not arguments.embeddings:
        parser.error("--model and --embeddings are needed (or --to-png)")
    elif not compare(arguments):
        sys.exit(f"error: a cosine is below {arguments.min_cosine}")


if __name__ == "__main__":
    main()
