"""Write tests/pytorch/: tiny files of torch.save with the names and shapes of published releases.

    python3 tools/make_pytorch_files.py

`expected.json` holds for every file that converts the SHA-256 of each tensor of its network: timm's name, and the f32
values in row-major order, little-endian. `mixed.safetensors` has the same network as the files `mixed*.pth`. Everything
depends only on the names of files, so a second run of the same version of PyTorch writes the same tensors.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import zipfile

import numpy as np
import torch

from make_goldens import Random, random_vit, write_safetensors

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "pytorch"
WIDTH = 64
EXPECTED = {}


def network(name, rows, **options):
    """A ViT in timm's names, in f16."""
    state = random_vit(name, width=WIDTH, depth=1, mlp=4, patch=16, rows=rows, **options)
    return {key: tensor.half() for key, tensor in state.items()}


def flat(*shape):
    """A tensor of any shape whose elements are one number of the file."""
    return torch.full((), 0.25).expand(shape)


def flat_network(rows):
    return {key: flat(*tensor.shape) for key, tensor in network("flat", rows).items()}


def prefixed(prefix, state):
    return collections.OrderedDict((prefix + key, tensor) for key, tensor in state.items())


def norm(prefix):
    return {
        f"{prefix}.weight": torch.ones(WIDTH),
        f"{prefix}.bias": torch.zeros(WIDTH),
        f"{prefix}.running_mean": torch.zeros(WIDTH),
        f"{prefix}.running_var": torch.ones(WIDTH),
        f"{prefix}.num_batches_tracked": torch.tensor(7),
    }


def save(name, content, expected=None, legacy=False):
    """Write a file; `expected` is its network."""
    torch.save(content, FOLDER / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
    if expected is not None:
        expect(name, expected)


def expect(name, state):
    values = {key: tensor.detach().float().contiguous().numpy().tobytes() for key, tensor in state.items()}
    EXPECTED[name] = {key: hashlib.sha256(data).hexdigest() for key, data in values.items()}


def repack(source, name, method=zipfile.ZIP_STORED, swap=False):
    """Copy an archive with another compression, or with the bytes of all f32 storages reversed."""
    with zipfile.ZipFile(FOLDER / f"{source}.pth") as old, zipfile.ZipFile(FOLDER / f"{name}.pth", "w") as new:
        for entry in old.namelist():
            data = old.read(entry)
            if swap and "/data/" in entry:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            if swap and entry.endswith("byteorder"):
                data = b"big"
            # A fixed date, for the same bytes in every run.
            new.writestr(zipfile.ZipInfo(entry), data, method)
    EXPECTED[name] = EXPECTED[source]


def fine_tuned(base):
    """A file of TransReID's code: backbone, BatchNorm, classifier, and the classifier of ImageNet."""
    return collections.OrderedDict(
        **prefixed("base.", base),
        **{"base.fc.weight": flat(1000, WIDTH), "base.fc.bias": flat(1000)},
        **norm("bottleneck"),
        **{"classifier.weight": flat(751, WIDTH)},
    )


def write_releases():
    person = network("personvit_pretrained", 129)
    teacher = prefixed("backbone.", person)
    teacher |= {f"head.{layer}": flat(8, WIDTH) for layer in ("mlp.0.weight", "mlp.2.weight", "last_layer.weight_v")}
    student = prefixed("module.", teacher) | {"module.backbone.masked_embed": flat(1, WIDTH)}
    content = {
        "student": student,
        "teacher": teacher,
        "optimizer": {
            "state": {0: {"step": 3, "exp_avg": flat(WIDTH)}},
            "param_groups": [{"lr": np.float64(5e-4), "betas": (0.9, 0.999), "params": [0]}],
        },
        "epoch": 220,
        "args": argparse.Namespace(arch="vit_small", out=pathlib.PurePosixPath("out"), crops=(0.4, 1.0), seed=None),
        "fp16_scaler": None,
        "ibot_loss": collections.OrderedDict(center=flat(1, 8)),
    }
    save("personvit_pretrained", content, person)
    # The student alone.
    save("personvit_student", {"student": prefixed("module.backbone.", flat_network(129))}, flat_network(129))

    base = network("personvit_finetuned", 129)
    save("personvit_finetuned", fine_tuned(base), base)
    write_safetensors(FOLDER / "personvit_finetuned.safetensors", base)

    # Stride 12 on 256x128: 21x10 positions.
    base = network("transreid", 211)
    save("transreid", prefixed("module.", fine_tuned(base)), base, legacy=True)
    jigsaw = fine_tuned(network("transreid_jigsaw", 129))
    branch = network("transreid_jigsaw branch", 129)
    for copy in ("b1", "b2"):
        scale = 1.0 if copy == "b1" else 0.5
        block = {key[9:]: tensor * scale for key, tensor in branch.items() if key.startswith("blocks.0.")}
        jigsaw |= prefixed(f"{copy}.0.", block)
        jigsaw |= {f"{copy}.1.{key}": branch[f"norm.{key}"] * scale for key in ("weight", "bias")}
    for part in (1, 2, 3, 4):
        jigsaw |= norm(f"bottleneck_{part}") | {f"classifier_{part}.weight": flat(751, WIDTH)}
    expected = {key[5:]: tensor for key, tensor in jigsaw.items() if key.startswith("base.") and "base.fc" not in key}
    expected |= {key: tensor for key, tensor in branch.items() if key.startswith(("blocks.0.", "norm."))}
    save("transreid_jigsaw", jigsaw, expected)
    save("transreid_sie", fine_tuned(flat_network(129) | {"sie_embed": flat(6, 1, WIDTH)}))

    stem = flat_network(129) | {"patch_embed.proj.weight": flat(WIDTH, 64, 8, 8)}
    stem |= {"patch_embed.conv.0.weight": flat(64, 3, 7, 7), "patch_embed.conv.1.IN.weight": flat(32)}
    save("transreid_ssl_stem", {"teacher": prefixed("backbone.", stem)})
    ssl = flat_network(129)
    content = {"teacher": prefixed("backbone.", ssl), "student": {}, "dino_loss": {"center": flat(1, 8)}, "epoch": 100}
    save("transreid_ssl", content, ssl, legacy=True)

    parts = {name: flat(1, 1, WIDTH) for i in (1, 2, 3) for name in (f"part_token{i}", f"part{i}_pos")}
    save("pass", fine_tuned(flat_network(128) | {"cls_pos": flat(1, 1, WIDTH)} | parts))

    head = {"head.weight": flat(1000, WIDTH), "head.bias": flat(1000)}
    deit = network("deit", 197)
    save("deit", {"model": deit | head}, deit)
    deit = network("deit_distilled", 198, dist=True)
    dist = {"head_dist.weight": flat(1000, WIDTH), "head_dist.bias": flat(1000)}
    save("deit_distilled", {"model": deit | head | dist}, deit, legacy=True)

    deepvit, heads = network("deepvit", 197), 4
    deepvit["blocks.0.attn.reatten_matrix.weight"] = flat(heads, heads, 1, 1)
    deepvit["blocks.0.attn.reatten_matrix.bias"] = flat(heads)
    deepvit |= {f"blocks.0.attn.var_norm.{key}": flat(heads) for key in ("weight", "bias", "running_mean", "running_var")}
    batches = {"blocks.0.attn.var_norm.num_batches_tracked": torch.tensor(7)}
    save("deepvit", {"state_dict": deepvit | batches | head}, deepvit)
    stem = {key: tensor for key, tensor in deepvit.items() if "patch_embed" not in key}
    stem |= {"patch_embed.proj.weight": flat(WIDTH, 64, 8, 8), "patch_embed.conv1.weight": flat(64, 3, 7, 7)}
    save("deepvit_stem", {"state_dict": stem})

    mae = network("mae", 197)
    decoder = {
        "mask_token": flat(1, 1, 32),
        "decoder_pos_embed": flat(1, 197, 32),
        "decoder_embed.weight": flat(32, WIDTH),
        "decoder_blocks.0.norm1.weight": flat(32),
        "decoder_norm.weight": flat(32),
        "decoder_pred.weight": flat(768, 32),
    }
    # PyTorch may leave the checksums out.
    torch.serialization.set_crc32_options(False)
    save("mae", {"model": mae | decoder}, mae)
    torch.serialization.set_crc32_options(True)
    save("mae_encoder", {"model": flat_network(197)}, flat_network(197))
    save("beit", {"model": flat_network(197) | {"blocks.0.gamma_1": flat(WIDTH), "blocks.0.gamma_2": flat(WIDTH)}})


def write_mixed():
    """One network with every kind of view and element type."""
    r = Random("mixed")
    state = random_vit("mixed", width=32, depth=1, mlp=1, patch=4, rows=9)
    exact = {key: tensor.bfloat16().float() for key, tensor in state.items()}
    mixed = collections.OrderedDict()
    shared, at = r.normal(sum(tensor.numel() for tensor in exact.values()) + 1), 1
    for i, (key, tensor) in enumerate(exact.items()):
        if i % 4 == 0:
            # A part of one storage.
            view = shared[at : at + tensor.numel()].view(tensor.shape)
            view.copy_(tensor)
            at += tensor.numel()
        elif i % 4 == 1:
            view = tensor.bfloat16()
        elif i % 4 == 2:
            # Dimensions in reverse order.
            reverse = range(tensor.ndim)[::-1]
            view = torch.nn.Parameter(tensor.permute(*reverse).contiguous().permute(*reverse))
        else:
            # Every fourth element, of 64 bits.
            wide = torch.zeros(*tensor.shape, 40, dtype=torch.float64)
            wide[..., 3] = tensor.double()
            view = wide[..., 3]
        mixed[key] = view
    mixed["blocks.0.attn.attn_mask"] = torch.ones(3, 4, dtype=torch.int64).t()
    save("mixed", {"state_dict": mixed, "best": 0.5, "step": torch.tensor(3)}, exact)
    save("mixed_legacy", {"state_dict": mixed, "best": 0.5}, exact, legacy=True)
    write_safetensors(FOLDER / "mixed.safetensors", exact)
    repack("mixed", "mixed_deflated", zipfile.ZIP_DEFLATED)
    single = {key: tensor.clone() for key, tensor in exact.items()}
    save("single", single, exact)
    repack("single", "mixed_big_endian", swap=True)
    (FOLDER / "single.pth").unlink()
    del EXPECTED["single"]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write_releases()
    write_mixed()
    (FOLDER / "expected.json").write_text(json.dumps(EXPECTED, indent=1, sort_keys=True) + "\n")
