#!/usr/bin/env python3
"""Write tests/goldens/training/: tiny LA-Transformers and their training in PyTorch.

    python3 tools/make_training_goldens.py

The README in that folder describes the files. Everything is computed in f64 from the stored f32 weights and depends
only on the names of model and case, so a second run writes the same bytes. Dropout, flip, erasing, crop and identity
sampler are off, so nothing is random.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

import la_transformer as lat
from make_goldens import Random, random_vit, write_safetensors

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "training"
CLASSES, STEPS = 5, 10
# Every person once, the first one twice, not in order.
LABELS = [3, 0, 4, 1, 0, 2]
# For triplets: persons with several images, one with a single image, one without.
TRIPLET_LABELS = [3, 0, 1, 3, 0, 1, 3, 2]

# --- the models --------------------------------------------------------------------------------------------

# Name: settings of `random_vit`, image size, metadata of the network, number of parts.
MODELS = {
    "tiny": ({"depth": 3}, (32, 32), {"stride": 8}, 4),
    # Options that `tiny` lacks: distillation token, pre-norm, no patch bias, quick-GELU, LayerScale, overlapping
    # patches.
    "kinds": (
        {"width": 16, "depth": 2, "rows": 11, "dist": True, "norm_pre": True, "bias": False, "scale": True},
        (16, 16),
        {"stride": 4},
        3,
    ),
    # Registers without rows in the position table, which training must not add; one part.
    # Three parts of four rows, of which two are shared.
    "bands": ({"width": 16, "depth": 1, "rows": 9}, (32, 16), {"stride": 8}, 3),
    "registers": ({"width": 16, "registers": 3, "rows": 5}, (16, 16), {"stride": 8}, 1),
    # BNNeck for each row, of which one also serves a single part.
    "neck": ({"width": 16, "depth": 2, "rows": 7}, (24, 16), {"stride": 8}, 3),
    # BNNeck for one part, a camera embedding, and a norm before the blocks.
    "cameras": (
        {"width": 16, "depth": 2, "rows": 7, "norm_pre": True},
        (24, 16),
        {"stride": 8, "cameras": {"weight": 3.0, "names": ["c1", "c2", "c3", "c6"]}},
        1,
    ),
    # BNNeck for the five parts of a jigsaw of 15 patches, a camera embedding, overlapping patches.
    "jigsaw": (
        {"width": 16, "depth": 2, "rows": 16},
        (24, 16),
        {"stride": 4, "cameras": {"weight": 3.0, "names": ["c1", "c2", "c3"]}, "jigsaw": True},
        5,
    ),
    # DeepViT's re-attention of four heads, one part.
    "deepvit": ({"width": 16, "depth": 2, "rows": 7}, (24, 16), {"stride": 8, "heads": 4, "reattention": True}, 1),
}
# BNNeck for two rows, whose classifiers have one class: clusters take the place of persons.
MODELS["unlabelled"] = ({"width": 16, "depth": 2, "rows": 5}, (16, 16), {"stride": 8}, 2)
# Models with BNNeck.
NECKS = ("neck", "cameras", "jigsaw", "unlabelled")
# Clusters of the images of TRIPLET_LABELS, of which three have no image.
CLUSTERS = 7


def write_model(name, vit, size, model, parts):
    """Make a model with part classifiers and write it as `lat-wgpu train` does; returns the state dict."""
    state, width = random_vit(name, **vit), vit.get("width", 32)
    r, classes = Random(name + " heads"), 1 if name == "unlabelled" else CLASSES
    for i in range(parts):
        head, neck = f"heads.{i}", name in NECKS
        hidden = width if neck else lat.HIDDEN
        if not neck:
            r.linear(state, f"{head}.fc1", hidden, width)
        r.norm(state, f"{head}.bn", hidden)
        state[f"{head}.bn.running_mean"] = r.normal(hidden, std=0.3)
        state[f"{head}.bn.running_var"] = r.normal(hidden, std=0.4).exp()
        if neck:
            del state[f"{head}.bn.bias"]
            state[f"{head}.classifier.weight"] = r.normal(classes, hidden, std=0.3)
        else:
            r.linear(state, f"{head}.fc2", classes, hidden)
    if "jigsaw" in model:
        r.norm(state, "b2.0.norm1", width)
        r.linear(state, "b2.0.attn.qkv", 3 * width, width)
        r.linear(state, "b2.0.attn.proj", width, width)
        r.norm(state, "b2.0.norm2", width)
        r.linear(state, "b2.0.mlp.fc1", 2 * width, width)
        r.linear(state, "b2.0.mlp.fc2", width, 2 * width)
        r.norm(state, "b2.1", width)
    for i in range(vit.get("depth", 1) if "reattention" in model else 0):
        attn, heads = f"blocks.{i}.attn", model["heads"]
        state[f"{attn}.reatten_matrix.weight"] = r.normal(heads, heads, 1, 1, std=0.5)
        state[f"{attn}.reatten_matrix.bias"] = r.normal(heads, std=0.5)
        r.norm(state, f"{attn}.var_norm", heads)
        # Larger ones amplify rounding errors beyond those that the tests allow: PyTorch's own in f32, too.
        state[f"{attn}.var_norm.weight"] *= 0.3
        state[f"{attn}.var_norm.running_mean"] = r.normal(heads, std=0.3)
        state[f"{attn}.var_norm.running_var"] = r.normal(heads, std=0.4).exp() / 100
    cameras = {key: model[key] for key in ("cameras", "jigsaw") if key in model}
    if "cameras" in model:
        state["sie_embed"] = r.normal(len(model["cameras"]["names"]), 1, width, std=0.1)
    heads = model.get("heads", 2)
    c = lat.read_config(state, size=size, stride=model["stride"], heads=heads)
    mean, std = lat.NORMALIZE["imagenet"]
    metadata = {
        "format": 1,
        "model": {"heads": heads, "act": c.act, "ln_eps": c.ln_eps, "stride": c.stride, "grid": c.grid} | cameras,
        "preprocess": {"size": size, "interpolation": "bicubic", "mean": mean, "std": std},
        "class_names": [f"person {i}" for i in range(classes)],
    }
    write_safetensors(FOLDER / f"{name}.model.safetensors", state, {"lat_wgpu": json.dumps(metadata)})
    return state


# --- the cases ---------------------------------------------------------------------------------------------

# A step is an epoch of one batch, so that blocks are unfrozen within ten steps.
NO_DROPOUT = {name: replace(recipe, dropout=0.0) for name, recipe in lat.PRESETS.items()}
WITHOUT_TRIPLET = replace(NO_DROPOUT["strong"], triplet_margin=None)

MEMORY = {"prototypes": 0.5, "temperature": 0.05, "momentum": 0.2, "hard_update": False}
NECK = replace(NO_DROPOUT["full"], head="bnneck", triplet_margin="soft", smoothing=0.1)

LAST = ("norm", "heads")
ALL = ("embeddings", "blocks.0", "blocks.1", "blocks.2", "norm", "heads")

# Name: model, recipe, groups to keep gradients of, groups to keep final parameters of, description. To keep the
# folder small, classifiers except the first are kept only in the gradients of `paper`.
CASES = {
    "paper": ("tiny", NO_DROPOUT["paper"], ALL, ALL[1:], "preset paper; also gradients of frozen groups"),
    "released_code": (
        "tiny",
        NO_DROPOUT["released-code"],
        ("embeddings", "blocks.1", "blocks.2", "norm", "heads"),
        (),
        "preset released-code: two blocks and the embeddings train, L2, lambda 8 on the local tokens, no ReLU",
    ),
    "full": ("tiny", NO_DROPOUT["full"], (), (), "preset full; its gradients are those of paper"),
    "strong": ("tiny", WITHOUT_TRIPLET, (), (), "preset strong, cross-entropy only"),
    "triplet": (
        "tiny",
        NO_DROPOUT["strong"],
        ("embeddings", "blocks.2", "norm", "heads"),
        (),
        "preset strong, cross-entropy and triplet loss; of persons with three, two and one images",
    ),
    "soft_margin": (
        "tiny",
        replace(NO_DROPOUT["strong"], triplet_margin="soft", lr=1e-3, warmup_epochs=1),
        ("embeddings", "blocks.2", "norm", "heads"),
        (),
        "as triplet, with the soft margin and a high rate",
    ),
    "adamw": (
        "tiny",
        replace(WITHOUT_TRIPLET, lr=2e-3, warmup_epochs=2, epochs=STEPS),
        ("norm", "heads"),
        ("embeddings", "blocks.2", "norm", "heads"),
        "label smoothing 0.1, clip norm 1.0, AdamW 0.05, all visible in ten steps: high rate, short cosine",
    ),
    "bnneck": (
        "neck",
        replace(NECK, gelt=lat.Gelt(tokens="global", parts="1")),
        ALL,
        (),
        "BNNeck on the class token, cross-entropy and triplet loss with soft margin",
    ),
    "bnneck_rows": ("neck", NECK, ALL, (), "the same for each row: the mean over rows, one triplet loss"),
    "prototypes": (
        "registers",
        replace(NO_DROPOUT["full"], gelt=lat.Gelt(parts="1"), **MEMORY),
        ("blocks.2", "norm", "heads"),
        (),
        "the prototype loss of weight 0.5 beside cross-entropy",
    ),
    "prototypes_after": (
        "neck",
        replace(NECK, triplet_margin=0.3, embed="after", **MEMORY | {"hard_update": True}),
        ("blocks.1", "norm", "heads"),
        (),
        "BNNeck, triplets and prototypes of the rows after the BatchNorm, with the hard update",
    ),
    "clusters": (
        "unlabelled",
        replace(
            NO_DROPOUT["full"],
            head="bnneck",
            embed="after",
            identity=0.0,
            optimizer="sgd",
            sgd_momentum=0.9,
            lr=0.001,
            weight_decay=5e-4,
            **MEMORY | {"prototypes": 1.0, "momentum": 0.1},
        ),
        # The BatchNorm cancels scale and shift of the final norm.
        ("embeddings", "blocks.0", "blocks.1", "heads"),
        ("blocks.1", "heads"),
        "clusters in place of persons: the prototype loss alone, after the BatchNorm, with more clusters than classes",
    ),
    "sgd": (
        "tiny",
        replace(
            NO_DROPOUT["full"],
            optimizer="sgd",
            sgd_momentum=0.9,
            lr=0.02,
            bias_lr_factor=2.0,
            layer_decay=0.75,
            weight_decay=0.01,
            clip_norm=10.0,
            warmup_epochs=3,
            cosine=True,
            epochs=STEPS,
            warmup_factor=0.01,
            lr_min_factor=0.002,
            lr_epoch_offset=1,
            ema=0.8,
        ),
        (),
        ALL,
        "SGD, twice the rate for biases, lower rates for lower layers, the rate by epoch and one late, averaged weights",
    ),
    "transreid": ("neck", NO_DROPOUT["transreid"], ALL, LAST, "preset transreid without stochastic depth"),
    "transreid_masks": (
        "neck",
        replace(NO_DROPOUT["transreid"], drop_path=0.5),
        (),
        LAST,
        "preset transreid with masks of a strong stochastic depth",
    ),
    "cameras": (
        "cameras",
        replace(NO_DROPOUT["transreid"], lr=0.02, warmup_epochs=1),
        ALL,
        ("embeddings",),
        "preset transreid without stochastic depth, at a higher rate, with a camera embedding; one row has no image",
    ),
    "transreid_full": (
        "jigsaw",
        NO_DROPOUT["transreid-full"],
        ALL,
        LAST,
        "preset transreid-full without stochastic depth, on a small image",
    ),
    "transreid_full_masks": (
        "jigsaw",
        replace(NO_DROPOUT["transreid-full"], drop_path=0.5),
        (),
        LAST,
        "preset transreid-full with masks of a strong stochastic depth",
    ),
    "personvit": ("neck", NO_DROPOUT["personvit"], (), LAST, "preset personvit without stochastic depth"),
    # The BatchNorm cancels the final norm's scale, too: its gradient is zero in exact arithmetic.
    "prototypes_preset": ("neck", NO_DROPOUT["prototypes"], ("blocks.1", "heads"), ("heads",), "preset prototypes"),
    "kinds": ("kinds", NO_DROPOUT["full"], ALL, (), "options that tiny lacks, everything trains"),
    "registers": (
        "registers",
        replace(NO_DROPOUT["full"], gelt=lat.Gelt(parts="1")),
        ALL,
        (),
        "registers without rows in the position table, one part, everything trains",
    ),
    "bands": (
        "bands",
        replace(NO_DROPOUT["full"], gelt=lat.Gelt(parts="3")),
        ALL,
        (),
        "three parts of four rows, of which two are shared, everything trains",
    ),
    "drop_path": (
        "tiny",
        replace(NO_DROPOUT["full"], drop_path=0.5),
        ("embeddings", "blocks.0", "blocks.2", "norm"),
        (),
        "stochastic depth with masks of each step, everything trains",
    ),
    "drop_path_scale": (
        "kinds",
        replace(NO_DROPOUT["full"], drop_path=0.5),
        ("embeddings", "blocks.0", "blocks.1"),
        (),
        "stochastic depth with LayerScale",
    ),
    "deepvit": (
        "deepvit",
        replace(NO_DROPOUT["full"], optimizer="sgd", sgd_momentum=0.9, lr=0.002, ema=0.8, gelt=lat.Gelt(parts="1")),
        ALL,
        ALL[:-1],
        "re-attention with the statistics of the batch, SGD, averaged weights, everything trains",
    ),
    "deepvit_paper": (
        "deepvit",
        replace(NO_DROPOUT["paper"], gelt=lat.Gelt(parts="1")),
        (),
        (),
        "re-attention, preset paper: frozen blocks use the statistics of the batch, too",
    ),
    "deepvit_masks": (
        "deepvit",
        replace(NO_DROPOUT["transreid"], drop_path=0.5, head=None, embed=None),
        (),
        ("norm",),
        "re-attention, preset transreid with masks of a strong stochastic depth, and the paper's classifier",
    ),
}


def build(state, recipe, model):
    size, stride = MODELS[model][1], MODELS[model][2]["stride"]
    weight = MODELS[model][2].get("cameras", {}).get("weight", 0.0)
    heads = MODELS[model][2].get("heads", 2)
    return lat.build_classifier(state, recipe, size=size, stride=stride, heads=heads, camera_weight=weight).double()


def drop(model, recipe, masks, step):
    """Set the masks of a step, if the recipe has stochastic depth."""
    if recipe.drop_path is not None:
        lat.set_drop_path(model, recipe.drop_path, masks[step])


def gradients(model, recipe, images, labels):
    """Loss of a batch and gradients of all parameters by name at every stage: first with everything training, then as in
    each epoch of the recipe, which must not change the remaining gradients."""
    lat.set_trainable(model, lat.PRESETS["full"], 0)
    stats = {name: tensor.clone() for name, tensor in model.named_buffers()}
    loss = lat.backward(model, recipe, images, labels)
    after = {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for epoch in range(STEPS):
        lat.set_trainable(model, recipe, epoch)
        assert lat.backward(model, recipe, images, labels) == loss
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or torch.equal(parameter.grad, grads[name]), (epoch, name)
    model.load_state_dict(stats, strict=False)
    return loss, grads, after


def train(model, recipe, images, labels, masks):
    """Run ten steps; returns their figures by name."""
    optimizer, depth = lat.make_optimizer(model, recipe), model.config.depth
    averages = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = []
    for i in range(STEPS):
        drop(model, recipe, masks, i)
        steps.append(lat.train_step(model, optimizer, recipe, images, labels, i, 1))
        if recipe.ema is not None:
            lat.average(averages, model, recipe.ema)
    kept = averages if recipe.ema is not None else {}
    kept = {f"average.{name}": tensor for name, tensor in kept.items() if is_kept_average(name)}
    return kept | {
        "losses": torch.tensor([step.loss for step in steps]),
        "lr": torch.tensor([step.lr for step in steps]),
        "grad_norms": torch.tensor([step.grad_norm for step in steps]),
        "trainable": torch.tensor([step.trainable for step in steps]),
        "open_blocks": torch.tensor([lat.open_blocks(recipe, depth, epoch) for epoch in range(STEPS)]),
    }


def is_later_head(name):
    return name.startswith("heads.") and not name.startswith("heads.0.")


def is_kept_average(name):
    kept = "reatten" in name or "var_norm" in name or lat.group_of(name) in ("blocks.2", "norm", "heads")
    return kept and "num_batches" not in name and not is_later_head(name)


def write_case(name, states, model_name, recipe, grad_groups, final_groups, what):
    """Run and write one case."""
    model = build(states[model_name], recipe, model_name)
    several = recipe.triplet_margin is not None or recipe.prototypes is not None
    labels = torch.tensor(TRIPLET_LABELS if several else LABELS)
    # The same for all cases of a model with the same number of images.
    pixels = Random(model_name + " images").images(len(labels), *model.config.size)
    images = lat.normalize(pixels, lat.NORMALIZE["imagenet"], torch.float64)
    tensors = {"images": pixels, "labels": labels}
    if model.sie_embed is not None:
        # The last camera has no image.
        tensors["cameras"] = model.cameras = torch.arange(len(labels)) * 2 % 3
    if recipe.prototypes is not None:
        length = model.config.width * len(model.heads)
        count = CLUSTERS if recipe.identity == 0 else CLASSES
        memory = torch.nn.functional.normalize(Random(f"{name} memory").normal(count, length), dim=1)
        tensors["memory"] = memory.float()
        model.memory = tensors["memory"].double()
    with torch.no_grad():
        logits = model.logits(images)
        if recipe.head == "bnneck":
            tensors["embeddings_after"] = model.embed_after(model.parts(model.tokens(images)))
        if model.sie_embed is not None or model.config.reattention:
            tensors["embeddings"] = model(images)
    persons = 0 * labels if recipe.identity == 0 else labels
    tensors["eval_loss"] = lat.loss_of(logits, persons, recipe.smoothing, recipe.head, model.config.jigsaw)[None]
    tensors["eval_predictions"] = lat.predict(logits)

    masks = None
    if recipe.drop_path is not None:
        drawn = Random(name + " masks").normal(STEPS, model.config.depth, 2, len(labels))
        limits = torch.special.ndtri(torch.linspace(0, recipe.drop_path, model.config.depth))
        masks = (drawn > limits[:, None, None]).double()
        if model.config.jigsaw:
            drawn = Random(name + " jigsaw masks").normal(STEPS, 2 * lat.PIECES * len(labels))
            masks = torch.cat([masks.flatten(1), (drawn > limits[-1]).double()], 1)
        tensors["masks"] = masks
        drop(model, recipe, masks, 0)
    loss, grads, after = gradients(model, recipe, images, labels)
    tensors["loss"] = torch.tensor([loss])
    for key, grad in grads.items():
        if lat.group_of(key) in grad_groups and (name == "paper" or not is_later_head(key)):
            tensors[f"grad.{key}"] = grad
    tensors |= {f"after.{key}": tensor for key, tensor in after.items()}
    tensors |= train(model, recipe, images, labels, masks)
    if recipe.prototypes is not None:
        tensors["final_memory"] = model.memory
    for key, parameter in model.named_parameters():
        if lat.group_of(key) in final_groups and not is_later_head(key):
            tensors[f"final.{key}"] = parameter.detach()
    if recipe.head == "bnneck" and "heads" in final_groups:
        running = {key: buffer for key, buffer in model.named_buffers() if "running" in key}
        tensors |= {f"final.{key}": buffer for key, buffer in running.items() if not is_later_head(key)}
    if model.config.reattention and final_groups:
        buffers = dict(model.named_buffers())
        tensors |= {f"final.{key}": buffers[key] for key in buffers if "var_norm.running" in key}
    tensors = {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}
    for key, tensor in tensors.items():
        assert tensor.isfinite().all(), (name, key)

    training = {key: value for key, value in asdict(recipe).items() if value is not None}
    gelt = training.pop("gelt")
    settings = {"lambda": gelt["lam"], "lambda_on": gelt["lambda_on"], "parts": gelt["parts"]}
    if gelt["tokens"] != "gelt":
        settings["tokens"] = gelt["tokens"]
    metadata = {
        "model": model_name,
        "settings": json.dumps(settings),
        "training": json.dumps(training),
        "what": what,
    }
    write_safetensors(FOLDER / f"{name}.golden.safetensors", tensors, metadata)
    losses = " ".join(f"{value:.4f}" for value in tensors["losses"].tolist())
    print(f"{name:14} {losses}")


def main():
    # One thread, for a fixed order of sums.
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.safetensors"):
        old.unlink()
    states = {name: write_model(name, *of) for name, of in MODELS.items()}
    for name, of in CASES.items():
        write_case(name, states, *of)
    total = sum(path.stat().st_size for path in FOLDER.glob("*.safetensors"))
    print(f"{len(MODELS)} models and {len(CASES)} cases, {total / 1e6:.2f} MB in {FOLDER}")


if __name__ == "__main__":
    main()
