//! The settings of a run. Each is declared once: the field, its key, its help, the values it takes and its default.

use super::words::{read, words};
use super::{BestBy, LrStep, Optimizer, OtherLog, Preset};
use crate::datasets::sampler::Sampler;
use crate::datasets::{Boxes, Cuhk03Protocol, Layout};
use crate::gpu::Precision;
use crate::images::augment::{ErasingAspect, ErasingFill, MOST_ATTEMPTS};
use crate::retrieval::dbscan::Radius;
use crate::shape::{Activation, HeadEmbed, HeadKind, ImageSize, LambdaOn, Normalize, PartLayout, PartTokens};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.name`; the preset has no section.
    pub name: &'static str,
    /// The values it takes.
    pub kind: Kind,
    doc: &'static str,
    flag: Option<&'static str>,
}

/// The values that a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text; help calls it by this name.
    Text(&'static str),
    /// An image size.
    Size,
    /// Rows, or a number of parts.
    Parts,
    /// A radius of clusters, or auto.
    ClusterRadius,
    /// One of these words; the test also admits those of earlier versions.
    Word(fn() -> Vec<&'static str>, fn(&str) -> bool),
    /// An integer, this or larger.
    Integer(i64),
    /// Any u64: an integer, or above TOML's largest one its digits as text.
    Seed,
    /// A number in a range.
    Number(Range),
    /// True or false.
    Switch,
}

/// A range of numbers: in words, and as a test.
#[derive(Debug, Clone, Copy)]
pub struct Range(&'static str, fn(f64) -> bool);

const POSITIVE: Range = Range("above 0", |v| v > 0.0);
const NOT_NEGATIVE: Range = Range("of 0 or more", |v| v >= 0.0);
const PROBABILITY: Range = Range("from 0 to 1", |v| (0.0..=1.0).contains(&v));
const BELOW_ONE: Range = Range("from 0 to below 1", |v| (0.0..1.0).contains(&v));
const INSIDE_UNIT: Range = Range("above 0 and below 1", |v| v > 0.0 && v < 1.0);
const AREA: Range = Range("from 0.02 to 1", |v| (0.02..=1.0).contains(&v));
const FACTOR: Range = Range("above 0, up to 1", |v| v > 0.0 && v <= 1.0);

use Kind::{ClusterRadius, Integer, Number, Parts, Seed, Size, Switch, Text, Word};

const fn word<T: Serialize + DeserializeOwned>() -> Kind {
    Word(words::<T>, |text| read::<T>(text).is_ok())
}

const PRESET: &str = "Recipe that sets the defaults of all other settings.";

/// Declares the sections of [`Config`] with the preset paper's values. `flag` names a flag that isn't called as its field,
/// `with` a module for serde.
macro_rules! settings {
    ($(
        $(#[doc = $about:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $help:literal])+
                $field:ident: $type:ty = $default:expr, $kind:expr $(, flag $flag:literal)? $(, with $with:tt)?;
            )+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $Section {
                $(
                    $(#[doc = $help])+
                    $(#[serde(with = $with, default)])?
                    pub $field: $type,
                )+
            }
        )+

        /// All settings of a run.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Config {
            /// The preset that all other values began with.
            pub preset: Preset,
            $( $(#[doc = $about])+ pub $section: $Section, )+
        }

        impl Config {
            pub(super) fn paper() -> Config {
                Config { preset: Preset::Paper, $( $section: $Section { $( $field: $default, )+ }, )+ }
            }
        }

        /// Every key, in the order of the file.
        const KEYS: &[Key] = &[
            Key { name: "preset", kind: word::<Preset>(), doc: PRESET, flag: None },
            $($(
                Key {
                    name: concat!(stringify!($section), ".", stringify!($field)),
                    kind: $kind,
                    doc: concat!($($help),+),
                    flag: settings!(@flag $($flag)?),
                },
            )+)+
        ];
    };
    (@flag) => { None };
    (@flag $flag:literal) => { Some($flag) };
}

settings! {
    /// The network, `[model]`.
    model: ModelConfig {
        /// Weights to start from, without part classifiers: a .safetensors file, a name from `lat-wgpu models`, or
        /// `hf:OWNER/NAME[@REVISION]`.
        backbone: Option<String> = None, Text("MODEL");
        /// Input size in pixels [default: position grid × patch size].
        size: Option<ImageSize> = None, Size, with "super::size_as_text";
        /// Pixels from one patch to the next; less than the patch size makes patches overlap [default: patch size].
        stride: Option<usize> = None, Integer(1);
        /// Number of attention heads [default: width / 64].
        heads: Option<usize> = None, Integer(1);
        /// Activation of the MLP [default: gelu; quick-gelu with a norm before the blocks].
        act: Option<Activation> = None, word::<Activation>();
        /// Epsilon of every LayerNorm [default: 1e-6; 1e-5 with a norm before the blocks].
        ln_eps: Option<f64> = None, Number(POSITIVE);
        /// Mean and standard deviation of the input [default: imagenet].
        normalize: Option<Normalize> = None, word::<Normalize>();
        /// Weight λ of the blend of row means and class token.
        lambda: f64 = 0.8, Number(NOT_NEGATIVE);
        /// Operand that λ multiplies: class is (Q + λG) / (1 + λ), as in the paper; local is (G + λQ) / (1 + λ), as in the
        /// released code.
        lambda_on: LambdaOn = LambdaOn::Class, word::<LambdaOn>();
        /// Tokens of the parts: row means blended with the class token (gelt), row means (local) or the class token (global).
        tokens: PartTokens = PartTokens::Gelt, word::<PartTokens>();
        /// Tokens of the parts when the trained model embeds.
        embed_tokens: PartTokens = PartTokens::Gelt, word::<PartTokens>();
        /// One part per row of patches (rows), or N bands of rows, which share a row where N doesn't divide the rows; 1 is one
        /// part in all.
        parts: PartLayout = PartLayout::Rows, Parts;
        /// Stochastic depth: probability, in the last block, that training drops attention or MLP of a block for an image. It
        /// rises linearly from 0 in the first block.
        drop_path: f64 = 0.0, Number(BELOW_ONE);
        /// Weight λ of a camera embedding, which adds a learned row to all tokens by the image's camera, as in
        /// TransReID with 3; 0 disables. Embedding then needs the cameras of images.
        camera_embedding: f64 = 0.0, Number(NOT_NEGATIVE);
        /// Adds TransReID's jigsaw: four features of shuffled patches, of a second copy of the last block, each with a
        /// classifier and a loss of its own. The parts are then the class token and these four.
        jigsaw: bool = false, Switch;
        /// Ignores unknown tensors in the weights; otherwise they are an error, since they could change the network.
        ignore_unknown: bool = false, Switch;
    }
    /// The images, `[data]`.
    data: DataConfig {
        /// Folder of a data set, or a table of images (.csv); its train split trains, or all images if it has no split.
        /// synth:persons=10000,cameras=48,seed=1 draws persons instead, anew at every visit.
        dir: Option<String> = None, Text("DIR"), flag "data";
        /// Layout of the data set [default: detected].
        layout: Option<Layout> = None, word::<Layout>();
        /// CUHK03: bounding boxes from a detector, or labelled by hand.
        boxes: Boxes = Boxes::Detected, word::<Boxes>();
        /// CUHK03: 767 persons to train and 700 to test (new), or 1,367 and 100 (classic).
        cuhk03: Cuhk03Protocol = Cuhk03Protocol::New, word::<Cuhk03Protocol>();
        /// Number of the split, for CUHK03's classic protocol (1 to 20) and CUHK01.
        split: u32 = 1, Integer(1);
        /// CUHK01: seed of the random split.
        split_seed: u64 = 0, Seed, with "super::seed_as_number_or_text";
        /// Share of each person's images that validates [default: none; with --best accuracy the first image of each person
        /// with two or more].
        val_fraction: Option<f64> = None, Number(BELOW_ONE);
        /// Share of the persons, at least ten, that --best val-map holds out of training.
        val_persons: Option<f64> = None, Number(INSIDE_UNIT);
        /// Shuffles the images in every epoch; otherwise they are sorted by path.
        shuffle: bool = true, Switch;
        /// Probability of a horizontal flip.
        flip: f64 = 0.5, Number(PROBABILITY), flag "flip-prob";
        /// Probability of random erasing.
        erasing: f64 = 0.0, Number(PROBABILITY);
        /// Contents of an erased rectangle: the mean colour, or normal noise of each pixel and channel (noise).
        erasing_fill: ErasingFill = ErasingFill::Mean, word::<ErasingFill>();
        /// Largest share of the image that random erasing erases.
        erasing_area_max: f64 = 0.4, Number(AREA);
        /// Ratio of height to width of an erased rectangle, from 0.3 to 1/0.3: uniform, or uniform in its logarithm (log).
        erasing_aspect: ErasingAspect = ErasingAspect::Uniform, word::<ErasingAspect>();
        /// Attempts, up to 100, to draw a rectangle that fits into the image.
        erasing_attempts: usize = MOST_ATTEMPTS, Integer(1);
        /// Pixels of padding before a random crop; 0 disables.
        crop_pad: usize = 0, Integer(0);
        /// Persons in a batch; 0 disables sampling by person.
        persons_per_batch: usize = 0, Integer(0);
        /// Images of each person in a batch that is sampled by person.
        images_per_person: usize = 0, Integer(0);
        /// Rule of sampling by person: images of each person in turn (balanced), as many chunks of each person as its images
        /// fill (chunks), or images of each person by different cameras (cameras).
        sampler: Sampler = Sampler::Balanced, word::<Sampler>();
        /// Follows links to files and folders; enters each folder once.
        follow_links: bool = false, Switch;
        /// Ignores the EXIF orientation of images.
        ignore_exif: bool = false, Switch;
        /// Seed of every random choice, any u64; in a file a seed above 2^63 - 1 is in quotes.
        seed: u64 = 0, Seed, with "super::seed_as_number_or_text";
    }
    /// The optimizer, `[optim]`.
    optim: OptimConfig {
        /// Optimizer: adam adds weight decay to the gradient (L2), adamw decouples it; sgd is SGD with momentum, and adds it
        /// to the gradient.
        optimizer: Optimizer = Optimizer::Adam, word::<Optimizer>();
        /// Learning rate before any decay.
        lr: f64 = 3e-4, Number(POSITIVE);
        /// Factor on the learning rate each time a block is unfrozen.
        lr_decay: f64 = 0.85, Number(FACTOR);
        /// Decays every --unfreeze-every epochs, also after the last block is unfrozen.
        decay_every_interval: bool = false, Switch;
        /// Factor on the learning rate of every parameter whose name contains "bias"; the weight decay stays as it is.
        bias_lr_factor: f64 = 1.0, Number(NOT_NEGATIVE);
        /// Factor on the learning rate from one layer to the layer below, as in BEiT: the final norm and the part classifiers
        /// have the full rate, and the embeddings have the lowest.
        layer_decay: f64 = 1.0, Number(FACTOR);
        /// Weight decay of every trainable parameter.
        weight_decay: f64 = 0.0, Number(NOT_NEGATIVE);
        /// Decay rate of Adam's mean gradient.
        beta1: f64 = 0.9, Number(BELOW_ONE);
        /// Decay rate of Adam's mean squared gradient.
        beta2: f64 = 0.999, Number(BELOW_ONE);
        /// Epsilon of Adam's denominator.
        eps: f64 = 1e-8, Number(POSITIVE);
        /// Momentum of SGD: the factor on the sum of gradients from one step to the next.
        momentum: f64 = 0.9, Number(BELOW_ONE);
        /// Global gradient norm to clip to; 0 disables.
        clip_norm: f64 = 0.0, Number(NOT_NEGATIVE);
        /// Decay of averaged weights, such as 0.999: scores and best.safetensors are then those of the averages; 0 disables.
        ema: f64 = 0.0, Number(BELOW_ONE);
        /// Epochs of linear warm-up, from 0 or with --lr-step epoch from --warmup-factor.
        warmup_epochs: usize = 0, Integer(0);
        /// Decays the learning rate along a cosine after the warm-up, to 0 or with --lr-step epoch to --lr-min-factor.
        cosine: bool = false, Switch;
        /// Rate by step: warm-up, then the whole cosine; or by epoch, as in TransReID: the cosine counts from the start of the
        /// run, so the warm-up overlaps it.
        lr_step: LrStep = LrStep::Step, word::<LrStep>();
        /// Share of the rate at which the warm-up starts, for weights and biases alike; no effect with --lr-step step.
        warmup_factor: f64 = 0.01, Number(PROBABILITY);
        /// Share of the rate at which the cosine ends, for weights and biases alike; no effect with --lr-step step.
        lr_min_factor: f64 = 0.002, Number(PROBABILITY);
        /// Epochs by which the rate lags behind, as in PersonViT with 1; no effect with --lr-step step.
        lr_epoch_offset: usize = 0, Integer(0);
    }
    /// The length of the run, and what trains when, `[schedule]`.
    schedule: ScheduleConfig {
        /// Number of epochs.
        epochs: usize = 30, Integer(1);
        /// With sampling by person: times that an epoch draws as many images as there are.
        passes: usize = 1, Integer(1);
        /// Images in a step.
        batch_size: usize = 32, Integer(1);
        /// Images in a pass through the backbone: the same step in less memory and more time; 0 for the whole batch.
        micro_batch: usize = 0, Integer(0);
        /// Unfreezes blocks one by one, from the last to the first; otherwise all train from the start.
        blockwise: bool = true, Switch;
        /// Epochs from one unfrozen block to the next.
        unfreeze_every: usize = 2, Integer(1);
        /// Blocks that are unfrozen in epoch 0.
        first_unfreeze: usize = 1, Integer(0);
        /// Freezes patch embedding, class token and position embeddings.
        freeze_embeddings: bool = true, Switch;
        /// Stops after this many steps; 0 writes the initial model [default: no limit].
        max_steps: Option<u64> = None, Integer(0);
        /// Steps between saves, besides one at the end of each epoch; 0 disables.
        save_every: u64 = 0, Integer(0);
        /// Log beside log.jsonl and log.csv: tensorboard writes an event file.
        log: OtherLog = OtherLog::None, word::<OtherLog>();
        /// Epochs between scores of the data set's queries against its gallery, besides one at the end; 0 disables.
        eval_every: usize = 0, Integer(0);
        /// Model that becomes best.safetensors: the last one, or the best by mAP on held-out persons (val-map), by accuracy on
        /// validation images (accuracy) or by mAP on the test set (test-map).
        best: BestBy = BestBy::Last, word::<BestBy>();
        /// With --best val-map: trains all persons again, for the best number of epochs.
        refit: bool = false, Switch;
    }
    /// The part classifiers, `[head]`.
    head: HeadConfig {
        /// Kind: parts is linear, BatchNorm, ReLU, dropout, linear; bnneck is a BatchNorm and a linear layer, both without
        /// bias, with the triplet loss before the BatchNorm.
        kind: HeadKind = HeadKind::Parts, word::<HeadKind>(), flag "head-kind";
        /// With bnneck: embeds the parts before or after the BatchNorm.
        embed: HeadEmbed = HeadEmbed::Before, word::<HeadEmbed>(), flag "head-embed";
        /// With parts: width between the two linear layers.
        hidden: usize = 256, Integer(1);
        /// With parts: dropout.
        dropout: f64 = 0.5, Number(BELOW_ONE);
        /// With parts: applies ReLU after the BatchNorm.
        relu: bool = true, Switch;
    }
    /// The loss, `[loss]`.
    loss: LossConfig {
        /// Weight of the identity loss, the cross-entropy of the part classifiers.
        identity: f64 = 1.0, Number(NOT_NEGATIVE), flag "identity-weight";
        /// Label smoothing.
        label_smoothing: f64 = 0.0, Number(BELOW_ONE);
        /// Adds the batch-hard triplet loss.
        triplet: bool = false, Switch;
        /// Margin of the triplet loss.
        margin: f64 = 0.3, Number(NOT_NEGATIVE);
        /// Weight of the prototype loss: cross-entropy of an image's similarities to a memory of one vector per person; 0 disables.
        prototypes: f64 = 0.0, Number(NOT_NEGATIVE);
        /// Temperature of the prototype loss.
        temperature: f64 = 0.05, Number(POSITIVE);
        /// Share of the old prototype when an image updates it.
        momentum: f64 = 0.2, Number(BELOW_ONE), flag "prototype-momentum";
        /// Updates a prototype by the least similar image of its person in the batch, instead of by all images.
        hard_update: bool = false, Switch;
        /// Takes log(1 + exp(z)) of the difference z of the two distances as triplet loss, and ignores the margin.
        soft_margin: bool = false, Switch;
    }
    /// Clusters of images without labels in place of persons, `[cluster]`; `lat-wgpu adapt` uses them.
    cluster: ClusterConfig {
        /// Folder of images without labels, which is searched recursively.
        images: Option<String> = None, Text("DIR");
        /// Cameras of the images: names as in Market-1501, folders (the first one below the folder of images), or a table with
        /// the columns path and camera.
        cameras: String = "names".to_string(), Text("names|folders|CSV");
        /// Stores the deviation of each camera's embeddings beside the mean, which embedding then divides by.
        deviation: bool = false, Switch;
        /// Largest distance within a cluster; auto takes the best of 0.30, 0.35 … 0.65 in the first epoch.
        eps: Radius = Radius::Auto, ClusterRadius;
        /// Size of the k-reciprocal neighbourhood, with the image itself.
        k1: usize = 30, Integer(2);
        /// Neighbours to average over; 1 disables.
        k2: usize = 6, Integer(1);
        /// Images within the radius that make an image the core of a cluster, with the image itself.
        min_samples: usize = 4, Integer(1);
    }
    /// The adapter, `[device]`.
    device: DeviceConfig {
        /// Index of the adapter, or a part of its name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one].
        adapter: Option<String> = None, Text("NAME");
        /// Storage of weights and activations; sums and updates are f32.
        precision: Precision = Precision::F32, word::<Precision>();
    }
}

/// Every key of the configuration, in the order of the file.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
}

/// Finds a key by its name.
pub(super) fn key(name: &str) -> Result<&'static Key, String> {
    keys()
        .find(|key| key.name == name)
        .ok_or_else(|| format!("{name}: there is no such key; `lat-wgpu train --help` lists them all"))
}

impl Key {
    /// The name of its flag, without the dashes.
    pub fn flag(&self) -> String {
        let (_, name) = self.name.split_once('.').unwrap_or(("", self.name));
        self.flag.map_or_else(|| name.replace('_', "-"), str::to_string)
    }

    /// Description of the setting.
    pub fn help(&self) -> &'static str {
        self.doc.trim().trim_end_matches('.')
    }

    /// Its default, that of the preset paper, if it has one.
    pub fn default(&self) -> Option<String> {
        self.value_in(Preset::Paper)
    }

    /// Its value in a preset, if it has one.
    pub fn value_in(&self, preset: Preset) -> Option<String> {
        get(&Config::preset(preset).table(), self.name).map(text)
    }

    /// The values it takes, in words.
    pub fn expected(&self) -> String {
        match self.kind {
            Text(_) => "text".to_string(),
            Size => "HxW in pixels, such as \"224x112\"".to_string(),
            Parts => "\"rows\" or an integer of 1 or more".to_string(),
            ClusterRadius => "\"auto\" or a number from 0 to below 1".to_string(),
            Word(words, _) => words().iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or "),
            Integer(least) => format!("an integer of {least} or more"),
            Seed => "an integer from 0 to 2^64 - 1".to_string(),
            Number(Range(words, _)) => format!("a number {words}"),
            Switch => "true or false".to_string(),
        }
    }

    /// Reads a value as typed on the command line; text may be in quotes, as in a file.
    ///
    /// # Errors
    /// The expected form.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = match self.kind {
            Text(_) | Size | Parts | ClusterRadius | Word(..) => {
                let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
                Some(Value::String(bare.to_string()))
            }
            Integer(_) => text.parse().ok().map(Value::Integer),
            Seed => Some(Value::String(text.trim_matches('"').to_string())),
            Number(_) => text.parse().ok().map(Value::Float),
            Switch => text.parse().ok().map(Value::Boolean),
        };
        value.and_then(|value| self.admit(value)).ok_or_else(|| format!("expected {}", self.expected()))
    }

    /// Takes a value of a file.
    pub(super) fn take(&self, value: Value) -> Result<Value, String> {
        let shown = value.to_string();
        self.admit(value).ok_or_else(|| format!("{}: expected {}, found {shown}", self.name, self.expected()))
    }

    /// The value in the form that [`Config`] has it, if it is one of those that the key takes.
    fn admit(&self, value: Value) -> Option<Value> {
        let holds = match (self.kind, &value) {
            (Text(_), Value::String(_)) | (Switch, Value::Boolean(_)) => true,
            (Size, Value::String(text)) => text.parse::<ImageSize>().is_ok(),
            (Parts, Value::String(text)) => text.parse::<PartLayout>().is_ok(),
            (Parts, Value::Integer(number)) => return self.admit(Value::String(number.to_string())),
            (ClusterRadius, Value::String(text)) => text.parse::<Radius>().is_ok(),
            (ClusterRadius, Value::Float(number)) => return self.admit(Value::String(number.to_string())),
            (ClusterRadius, Value::Integer(number)) => return self.admit(Value::String(number.to_string())),
            (Word(_, admits), Value::String(text)) => admits(text),
            (Integer(least), Value::Integer(number)) => *number >= least,
            (Seed, Value::Integer(number)) => *number >= 0,
            (Seed, Value::String(text)) => return text.parse().ok().map(seed_value),
            (Number(Range(_, holds)), Value::Float(number)) => number.is_finite() && holds(*number),
            (Number(_), Value::Integer(number)) => return self.admit(Value::Float(*number as f64)),
            _ => false,
        };
        holds.then_some(value)
    }
}

impl Config {
    /// The flags that set these keys as they are here, without those at their defaults.
    pub fn flags(&self, wanted: impl Fn(&Key) -> bool) -> Vec<(String, String)> {
        let (table, default) = (self.table(), Config::paper().table());
        let differs = |key: &&Key| wanted(key) && get(&table, key.name) != get(&default, key.name);
        keys()
            .filter(differs)
            .filter_map(|key| Some((key.flag(), get(&table, key.name).map(text)?)))
            .collect()
    }
}

/// A value as typed on the command line.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Float(number) if *number > 0.0 && *number < 1e-4 => format!("{number:e}"),
        Value::Float(number) => number.to_string(),
        value => value.to_string(),
    }
}

/// A seed as TOML can hold it: an integer, or above the largest i64 its digits as text.
pub(super) fn seed_value(seed: u64) -> Value {
    i64::try_from(seed).map_or_else(|_| Value::String(seed.to_string()), Value::Integer)
}

pub(super) fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, name)) => table.get(section)?.get(name),
    }
}

pub(super) fn put(table: &mut Table, key: &str, value: Value) {
    let (table, name) = match key.split_once('.') {
        None => (Some(table), key),
        Some((section, name)) => (table.get_mut(section).and_then(Value::as_table_mut), name),
    };
    if let Some(table) = table {
        table.insert(name.to_string(), value);
    }
}
