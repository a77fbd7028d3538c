//! The keys of a configuration: the kind of value that each takes, and its help.

use super::{Config, Preset, seed_value};
use toml::{Table, Value};

/// What kind of value a key takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Whole,
    /// Any u64: a number, or above TOML's largest its digits as a text.
    Seed,
    Real,
    Switch,
}

use Kind::{Real, Seed, Switch, Text, Whole};

/// Every key with its kind and help, in the order of the file. A test holds it against [`Config`].
pub(super) const KEYS: &[(&str, Kind, &str)] = &[
    ("preset", Text, "recipe that all other values begin with: paper, released-code, full or strong"),
    ("model.backbone", Text, "weights to start from, as .safetensors"),
    ("model.size", Text, "input size HxW in pixels; absent: the backbone's"),
    ("model.stride", Whole, "pixels from one patch to the next; absent: the backbone's"),
    ("model.heads", Whole, "attention heads; absent: the backbone's"),
    ("model.act", Text, "non-linearity of the MLP, gelu or quick-gelu; absent: the backbone's"),
    ("model.ln_eps", Real, "ε of every LayerNorm; absent: the backbone's"),
    (
        "model.normalize",
        Text,
        "mean and deviation of the input, imagenet, half or clip; absent: the backbone's",
    ),
    ("model.lambda", Real, "λ, the weight of one operand of the blend"),
    ("model.lambda_on", Text, "operand that carries λ: class (paper) or local (released code)"),
    ("model.tokens", Text, "what becomes the parts in training: gelt, local or global"),
    (
        "model.embed_tokens",
        Text,
        "what becomes the parts when the trained model embeds: gelt, local or global",
    ),
    ("model.parts", Text, "one part per grid row (rows) or one in all (1)"),
    (
        "model.ignore_unknown",
        Switch,
        "pass over unknown tensors of the backbone's file; they are refused otherwise",
    ),
    (
        "data.dir",
        Text,
        "data set: its folder, or a table of images (.csv); its train split trains, without a split all of it",
    ),
    (
        "data.layout",
        Text,
        "how it is laid out: market1501, cuhk03, cuhk01, msmt17, veri, mars, folders or csv; absent: by what is in it",
    ),
    ("data.boxes", Text, "CUHK03: boxes by a detector (detected) or by people (labelled)"),
    ("data.cuhk03", Text, "CUHK03: 767 persons to train and 700 to test (new), or 1,367 and 100 (classic)"),
    ("data.split", Whole, "CUHK03's classic protocol (1 to 20), CUHK01: which of the splits"),
    ("data.split_seed", Seed, "CUHK01: seed of the random halves, written as data.seed is"),
    (
        "data.val_fraction",
        Real,
        "share of each person's images that validates; absent: none, with schedule.best=accuracy the first of each",
    ),
    (
        "data.val_persons",
        Real,
        "share of the persons, ten or more, that schedule.best=val-map holds out of training",
    ),
    ("data.shuffle", Switch, "each epoch in an order of its own; false: sorted by path"),
    ("data.flip", Real, "probability that an image is mirrored"),
    ("data.erasing", Real, "probability that a rectangle of an image is erased"),
    ("data.crop_pad", Whole, "pixels of padding before a crop at random; 0: no crop"),
    ("data.persons_per_batch", Whole, "persons in a batch; 0: batches follow the order alone"),
    ("data.images_per_person", Whole, "images of each person in such a batch"),
    ("data.follow_links", Switch, "follow links to files and folders; a folder is entered once"),
    ("data.ignore_exif", Switch, "do not turn images as their EXIF orientation says"),
    (
        "data.seed",
        Seed,
        "seed of every random choice, from 0 to 2^64 - 1; in a file above 2^63 - 1 as a text",
    ),
    ("optim.optimizer", Text, "adam (weight decay as L2) or adamw (decoupled)"),
    ("optim.lr", Real, "learning rate before any decay"),
    ("optim.lr_decay", Real, "what the learning rate is multiplied by when a block opens"),
    (
        "optim.decay_every_interval",
        Switch,
        "go on decaying every unfreeze_every epochs when all blocks are open",
    ),
    ("optim.weight_decay", Real, "weight decay, on every trainable parameter"),
    ("optim.beta1", Real, "Adam's decay of the gradient's mean"),
    ("optim.beta2", Real, "Adam's decay of the squared gradient's mean"),
    ("optim.eps", Real, "added to Adam's denominator"),
    ("optim.clip_norm", Real, "longest gradient over all parameters; 0: any"),
    ("optim.warmup_epochs", Whole, "epochs in which the learning rate rises from 0"),
    ("optim.cosine", Switch, "after that, let the learning rate fall to 0 along a cosine"),
    ("schedule.epochs", Whole, "passes over the images"),
    ("schedule.batch_size", Whole, "images in a step"),
    (
        "schedule.micro_batch",
        Whole,
        "images that run through the backbone at once, for large batches in little memory; 0: all",
    ),
    ("schedule.blockwise", Switch, "open blocks one by one, from the last; false: all train from the start"),
    ("schedule.unfreeze_every", Whole, "T, epochs from one opening to the next"),
    ("schedule.first_unfreeze", Whole, "N, blocks that are open in epoch 0"),
    ("schedule.freeze_embeddings", Switch, "leave patch embedding, tokens and positions as they are"),
    ("schedule.max_steps", Whole, "stop after so many steps in all; absent: after the last epoch"),
    ("schedule.save_every", Whole, "steps from one save to the next; 0: at the end of each epoch only"),
    (
        "schedule.eval_every",
        Whole,
        "epochs from one retrieval score of query against gallery to the next; 0: none",
    ),
    (
        "schedule.best",
        Text,
        "what best.safetensors is: the last epoch's model (last), or the best by mAP among persons held out of training \
         (val-map), by accuracy on validation images (accuracy) or by mAP on the test set (test-map)",
    ),
    (
        "schedule.refit",
        Switch,
        "with schedule.best=val-map: then train all persons, for as many epochs as were best",
    ),
    ("head.hidden", Whole, "width between a part classifier's two linear layers"),
    ("head.dropout", Real, "probability that a hidden value is dropped"),
    ("head.relu", Switch, "ReLU after the part classifiers' BatchNorm"),
    ("loss.label_smoothing", Real, "share of the target that is spread over all classes"),
    ("loss.triplet", Switch, "add the batch-hard triplet loss"),
    ("loss.margin", Real, "distance by which the triplet loss wants another person farther than the same"),
    ("device.adapter", Text, "part of the adapter's name; absent: the best one"),
    (
        "device.precision",
        Text,
        "how weights and activations are stored: f32 or f16; sums and updates are f32",
    ),
];

/// Every key with its default (that of the preset paper; empty where absent) and what it means.
pub fn keys() -> Vec<(String, String, &'static str)> {
    let defaults = Config::preset(Preset::Paper).table();
    let default = |key: &str| match get(&defaults, key) {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    KEYS.iter().map(|&(key, _, help)| (key.to_string(), default(key), help)).collect()
}

fn kind(key: &str) -> std::result::Result<Kind, String> {
    match KEYS.iter().find(|(known, ..)| *known == key) {
        Some(&(_, kind, _)) => Ok(kind),
        None => Err(format!("{key}: there is no such key; `lat-wgpu train --help` lists them all")),
    }
}

fn wrong(key: &str, kind: Kind, found: &str) -> String {
    let wanted = match kind {
        Text => "a text",
        Whole => "a whole number of 0 or more",
        Seed => "a whole number from 0 to 2^64 - 1",
        Real => "a number",
        Switch => "true or false",
    };
    format!("{key}: expected {wanted}, found {found}")
}

/// A value as typed on the command line.
pub(super) fn parse(key: &str, text: &str) -> std::result::Result<Value, String> {
    let kind = kind(key)?;
    let value = match kind {
        // As in a file, quotes may stand around it.
        Text => {
            let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
            Some(Value::String(bare.to_string()))
        }
        Whole => text.parse().ok().map(Value::Integer),
        Seed => text.trim_matches('"').parse().ok().map(seed_value),
        Real => text.parse().ok().map(Value::Float),
        Switch => text.parse().ok().map(Value::Boolean),
    };
    typed(key, value.ok_or_else(|| wrong(key, kind, &format!("{text:?}")))?)
}

/// The value if it is of its key's kind.
pub(super) fn typed(key: &str, value: Value) -> std::result::Result<Value, String> {
    let kind = kind(key)?;
    match (kind, value) {
        (Text, value @ Value::String(_)) | (Switch, value @ Value::Boolean(_)) => Ok(value),
        (Whole | Seed, Value::Integer(number)) if number >= 0 => Ok(Value::Integer(number)),
        (Seed, Value::String(text)) => match text.parse() {
            Ok(seed) => Ok(seed_value(seed)),
            Err(_) => Err(wrong(key, kind, &format!("{text:?}"))),
        },
        (Real, Value::Float(number)) if number.is_finite() => Ok(Value::Float(number)),
        (Real, Value::Integer(number)) => Ok(Value::Float(number as f64)),
        (kind, value) => Err(wrong(key, kind, &value.to_string())),
    }
}

pub(super) fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, name)) => table.get(section)?.get(name),
    }
}

pub(super) fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_string(), value);
        }
        Some((section, name)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                inner.insert(name.to_string(), value);
            }
        }
    }
}
