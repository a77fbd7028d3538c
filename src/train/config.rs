//! What a run is told: one TOML document, from defaults, a preset, a file and the command line.
//!
//! A later layer wins, key by key: built-in default < preset < file < flags < `--set section.key=value`.
//! The preset itself is looked for from the top: `--set preset=…`, `--preset`, `preset` in the file, else paper.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checkpoint::Settings;
use crate::datasets::sampler::Sampling;
use crate::datasets::{Boxes, Cuhk03Protocol, Layout, LoadOptions};
use crate::error::{Error, Result};
use crate::gpu::{ContextOptions, Precision};
use crate::shape::{
    Activation, ImageSize, LambdaOn, Normalize, PartLayout, PartTokens, Preprocess, VitConfig,
};

/// A named recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Algorithm 1 of the paper.
    Paper,
    /// What the released code really does.
    ReleasedCode,
    /// Everything trains from the start, at one learning rate.
    Full,
    /// What strong ViT recipes for re-identification do: smoothing, triplets, erasing, AdamW, warm-up, cosine.
    Strong,
}

/// The rule by which parameters are updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam; weight decay is added to the gradient (L2).
    Adam,
    /// AdamW; weight decay shrinks the parameter itself.
    Adamw,
}

/// Everything that decides a run. Absent values come from the backbone or mean what their key's help says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The recipe that all other values began with.
    pub preset: Preset,
    /// The network.
    pub model: ModelConfig,
    /// The pictures.
    pub data: DataConfig,
    /// The update rule.
    pub optim: OptimConfig,
    /// Length, and what trains when.
    pub schedule: ScheduleConfig,
    /// The part classifiers.
    pub head: HeadConfig,
    /// What is minimised.
    pub loss: LossConfig,
    /// Where it is computed.
    pub device: DeviceConfig,
}

/// `[model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Weights to start from.
    pub backbone: Option<String>,
    /// Input size.
    #[serde(with = "size_as_text", default)]
    pub size: Option<ImageSize>,
    /// Pixels from patch to patch.
    pub stride: Option<usize>,
    /// Attention heads.
    pub heads: Option<usize>,
    /// Non-linearity of the MLP.
    pub act: Option<Activation>,
    /// ε of every LayerNorm.
    pub ln_eps: Option<f64>,
    /// Mean and deviation of the input.
    pub normalize: Option<Normalize>,
    /// λ of the blend.
    pub lambda: f64,
    /// Operand that carries λ.
    pub lambda_on: LambdaOn,
    /// Tokens that become the parts in training.
    pub tokens: PartTokens,
    /// Tokens that become the parts when the trained model embeds: what its metadata says.
    pub embed_tokens: PartTokens,
    /// Cut of the grid into parts.
    pub parts: PartLayout,
    /// True if unknown tensors of the backbone's file are passed over.
    #[serde(default)]
    pub ignore_unknown: bool,
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Folder or table of labelled pictures.
    pub dir: Option<String>,
    /// How it is laid out.
    pub layout: Option<Layout>,
    /// Whose boxes of CUHK03.
    pub boxes: Boxes,
    /// Which protocol of CUHK03.
    pub cuhk03: Cuhk03Protocol,
    /// Which of the splits of CUHK03's classic protocol or of CUHK01.
    pub split: u32,
    /// Seed of CUHK01's random splits.
    #[serde(with = "seed_as_number_or_text")]
    pub split_seed: u64,
    /// Share of each person's pictures that validates.
    pub val_fraction: Option<f64>,
    /// Share of the persons that are held out of training, to choose the best epoch by.
    pub val_persons: Option<f64>,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// Probability that a picture is mirrored.
    pub flip: f64,
    /// Probability that a rectangle of a picture is erased.
    pub erasing: f64,
    /// Pixels of padding before a crop at random; 0: no crop.
    pub crop_pad: usize,
    /// Persons in a batch; 0: batches follow the order alone.
    pub persons_per_batch: usize,
    /// Pictures of each person in a batch of `persons_per_batch`.
    pub images_per_person: usize,
    /// True if links to files and folders are followed.
    #[serde(default)]
    pub follow_links: bool,
    /// Whether the EXIF orientation is passed over.
    pub ignore_exif: bool,
    /// Seed of every random choice.
    #[serde(with = "seed_as_number_or_text")]
    pub seed: u64,
}

impl DataConfig {
    /// How the data set is loaded.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            layout: self.layout,
            boxes: self.boxes,
            protocol: self.cuhk03,
            split: self.split,
            seed: self.split_seed,
            follow_links: self.follow_links,
        }
    }
}

/// `[optim]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Update rule.
    pub optimizer: Optimizer,
    /// Learning rate before any decay.
    pub lr: f64,
    /// What the learning rate is multiplied by when a block opens.
    pub lr_decay: f64,
    /// Whether it goes on decaying when all blocks are open.
    pub decay_for_ever: bool,
    /// Weight decay.
    pub weight_decay: f64,
    /// Decay of the gradient's mean.
    pub beta1: f64,
    /// Decay of the squared gradient's mean.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Longest gradient over all parameters; 0: any.
    pub clip_norm: f64,
    /// Epochs in which the learning rate rises from 0.
    pub warmup_epochs: usize,
    /// Whether it then falls to 0 along a cosine.
    pub cosine: bool,
}

/// `[schedule]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Passes over the pictures.
    pub epochs: usize,
    /// Pictures in a step.
    pub batch_size: usize,
    /// Pictures that run through the backbone at once; 0: the whole batch.
    pub micro_batch: usize,
    /// Whether blocks open one by one; else all train from the start.
    pub blockwise: bool,
    /// T: epochs from one opening to the next.
    pub unfreeze_every: usize,
    /// N: blocks that are open in epoch 0.
    pub first_unfreeze: usize,
    /// Whether patch embedding, tokens and positions stay as they are.
    pub freeze_embeddings: bool,
    /// Steps in all after which the run stops early.
    pub max_steps: Option<u64>,
    /// Steps from one save to the next; 0: at the end of each epoch only.
    pub save_every: u64,
    /// Epochs from one retrieval score to the next; 0: none.
    pub eval_every: usize,
    /// What `best.safetensors` is the best by.
    pub best: BestBy,
    /// True if all persons then train for as many epochs as were best.
    pub refit: bool,
}

/// What makes an epoch the best one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// It is the last one.
    Last,
    /// Mean average precision among the images of persons held out of training.
    ValMap,
    /// Accuracy on the validation pictures, then their loss.
    Accuracy,
    /// Mean average precision of the data set's queries in its gallery.
    TestMap,
}

/// `[head]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width between the two linear layers.
    pub hidden: usize,
    /// Probability that a hidden value is dropped.
    pub dropout: f64,
    /// Whether a ReLU follows the BatchNorm.
    pub relu: bool,
}

/// `[loss]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// Whether the batch-hard triplet loss is added.
    pub triplet: bool,
    /// Distance by which it wants another person farther than the same.
    pub margin: f64,
}

/// `[device]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Part of the adapter's name.
    pub adapter: Option<String>,
    /// How weights and activations are stored.
    #[serde(default)]
    pub precision: Precision,
}

impl DeviceConfig {
    /// How the adapter is opened.
    pub fn options(&self) -> ContextOptions {
        let DeviceConfig { adapter, precision } = self.clone();
        ContextOptions { precision, ..ContextOptions::from_environment(adapter) }
    }
}

/// What the user gave, from the weakest to the strongest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// `--config FILE.toml`.
    pub file: Option<PathBuf>,
    /// Flags as (key, value): `--lr 1e-4` is ("optim.lr", "1e-4"), `--preset full` is ("preset", "full").
    pub flags: Vec<(String, String)>,
    /// `--set section.key=value`, as typed.
    pub set: Vec<String>,
}

/// What kind of value a key takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    /// Any u64: a number, or above TOML's largest its digits as a text.
    Seed,
    Real,
    Switch,
}

use Kind::{Real, Seed, Switch, Text, Whole};

/// Every key with its kind and help, in the order of the file. A test holds it against [`Config`].
const KEYS: &[(&str, Kind, &str)] = &[
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
    ("data.flip", Real, "probability that a picture is mirrored"),
    ("data.erasing", Real, "probability that a rectangle of a picture is erased"),
    ("data.crop_pad", Whole, "pixels of padding before a crop at random; 0: no crop"),
    ("data.persons_per_batch", Whole, "persons in a batch; 0: batches follow the order alone"),
    ("data.images_per_person", Whole, "pictures of each person in such a batch"),
    ("data.follow_links", Switch, "follow links to files and folders; a folder is entered once"),
    ("data.ignore_exif", Switch, "do not turn pictures as their EXIF orientation says"),
    (
        "data.seed",
        Seed,
        "seed of every random choice, from 0 to 2^64 - 1; in a file above 2^63 - 1 as a text",
    ),
    ("optim.optimizer", Text, "adam (weight decay as L2) or adamw (decoupled)"),
    ("optim.lr", Real, "learning rate before any decay"),
    ("optim.lr_decay", Real, "what the learning rate is multiplied by when a block opens"),
    ("optim.decay_for_ever", Switch, "go on decaying every unfreeze_every epochs when all blocks are open"),
    ("optim.weight_decay", Real, "weight decay, on every trainable parameter"),
    ("optim.beta1", Real, "Adam's decay of the gradient's mean"),
    ("optim.beta2", Real, "Adam's decay of the squared gradient's mean"),
    ("optim.eps", Real, "added to Adam's denominator"),
    ("optim.clip_norm", Real, "longest gradient over all parameters; 0: any"),
    ("optim.warmup_epochs", Whole, "epochs in which the learning rate rises from 0"),
    ("optim.cosine", Switch, "after that, let the learning rate fall to 0 along a cosine"),
    ("schedule.epochs", Whole, "passes over the pictures"),
    ("schedule.batch_size", Whole, "pictures in a step"),
    (
        "schedule.micro_batch",
        Whole,
        "pictures that run through the backbone at once, for large batches in little memory; 0: all",
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

/// Keys that a resumed run may change.
const FREE: [&str; 4] = ["schedule.epochs", "schedule.max_steps", "schedule.save_every", "device.adapter"];

/// Keys that name files or folders: two spellings of one place are no difference.
const PLACES: [&str; 2] = ["model.backbone", "data.dir"];

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

impl Config {
    /// The values of a preset.
    pub fn preset(preset: Preset) -> Config {
        let mut config = Config {
            preset,
            model: ModelConfig {
                backbone: None,
                size: None,
                stride: None,
                heads: None,
                act: None,
                ln_eps: None,
                normalize: None,
                lambda: 0.8,
                lambda_on: LambdaOn::Class,
                tokens: PartTokens::Gelt,
                embed_tokens: PartTokens::Gelt,
                parts: PartLayout::Rows,
                ignore_unknown: false,
            },
            data: DataConfig {
                dir: None,
                layout: None,
                boxes: Boxes::default(),
                cuhk03: Cuhk03Protocol::default(),
                split: 1,
                split_seed: 0,
                val_fraction: None,
                val_persons: None,
                shuffle: true,
                flip: 0.5,
                erasing: 0.0,
                crop_pad: 0,
                persons_per_batch: 0,
                images_per_person: 0,
                follow_links: false,
                ignore_exif: false,
                seed: 0,
            },
            optim: OptimConfig {
                optimizer: Optimizer::Adam,
                lr: 3e-4,
                lr_decay: 0.85,
                decay_for_ever: false,
                weight_decay: 0.0,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                clip_norm: 0.0,
                warmup_epochs: 0,
                cosine: false,
            },
            schedule: ScheduleConfig {
                epochs: 30,
                batch_size: 32,
                micro_batch: 0,
                blockwise: true,
                unfreeze_every: 2,
                first_unfreeze: 1,
                freeze_embeddings: true,
                max_steps: None,
                save_every: 0,
                eval_every: 0,
                best: BestBy::Last,
                refit: false,
            },
            head: HeadConfig { hidden: 256, dropout: 0.5, relu: true },
            loss: LossConfig { label_smoothing: 0.0, triplet: false, margin: 0.3 },
            device: DeviceConfig { adapter: None, precision: Precision::F32 },
        };
        match preset {
            Preset::Paper => {}
            Preset::ReleasedCode => {
                config.model.lambda = 8.0;
                config.model.lambda_on = LambdaOn::Local;
                // Its test code leaves the class token out of the embedding.
                config.model.embed_tokens = PartTokens::Local;
                config.optim.lr_decay = 0.8;
                config.optim.decay_for_ever = true;
                config.optim.weight_decay = 5e-4;
                config.schedule.first_unfreeze = 2;
                config.schedule.freeze_embeddings = false;
                config.schedule.best = BestBy::Accuracy;
                config.head.relu = false;
            }
            Preset::Full => config.open_all(),
            Preset::Strong => {
                config.open_all();
                config.data.erasing = 0.5;
                config.data.crop_pad = 10;
                config.data.persons_per_batch = 16;
                config.data.images_per_person = 4;
                config.optim.optimizer = Optimizer::Adamw;
                config.optim.lr = 5e-5;
                config.optim.weight_decay = 0.05;
                config.optim.clip_norm = 1.0;
                config.optim.warmup_epochs = 5;
                config.optim.cosine = true;
                config.schedule.epochs = 60;
                config.schedule.batch_size = 64;
                config.loss.label_smoothing = 0.1;
                config.loss.triplet = true;
            }
        }
        config
    }

    fn open_all(&mut self) {
        self.schedule.blockwise = false;
        self.schedule.freeze_embeddings = false;
        self.optim.lr_decay = 1.0;
    }

    /// Settles a new run's configuration.
    ///
    /// # Errors
    /// `Usage` naming the key that is unknown, malformed or out of range; `Io` where the file can't be read.
    pub fn resolve(layers: &Layers) -> Result<Config> {
        let given = layers.given()?;
        let preset = match given.iter().rev().find(|(key, _)| key == "preset") {
            None => Preset::Paper,
            Some((_, value)) => value
                .clone()
                .try_into()
                .map_err(|e: toml::de::Error| Error::Usage(format!("preset: {}", e.message())))?,
        };
        Config::preset(preset).overlaid(given)
    }

    /// Settles a resumed run's configuration: what isn't said is as in the saved run, what is said must agree with it.
    ///
    /// `schedule.epochs`, `schedule.max_steps`, `schedule.save_every` and `device.adapter` may differ; a limit on the
    /// steps and an adapter that aren't said are none.
    ///
    /// # Errors
    /// `Usage` naming the first key that may not differ; else as [`Config::resolve`].
    pub fn resume(saved: &Path, layers: &Layers) -> Result<Config> {
        let saved = Config::read(saved)?;
        let mut now = saved.clone();
        now.schedule.max_steps = None;
        now.device.adapter = None;
        let now = now.overlaid(layers.given()?)?;
        saved.check_resumable(&now)?;
        Ok(now)
    }

    /// Reads a `config.toml` as [`Config::to_toml`] writes it; keys that it lacks are those of its preset.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn read(path: &Path) -> Result<Config> {
        Config::resolve(&Layers { file: Some(path.to_path_buf()), ..Layers::default() })
    }

    /// Refuses to go on with `now` where it differs from this configuration in more than a resumed run may change.
    ///
    /// # Errors
    /// `Usage` naming the first such key and both its values.
    pub fn check_resumable(&self, now: &Config) -> Result<()> {
        let (saved, now) = (self.table(), now.table());
        for &(key, ..) in KEYS.iter().filter(|(key, ..)| !FREE.contains(key)) {
            let (before, after) = (get(&saved, key), get(&now, key));
            if before != after && !(PLACES.contains(&key) && same_place(before, after)) {
                let shown = |value: Option<&Value>| value.map_or("absent".to_string(), Value::to_string);
                return Err(Error::Usage(format!(
                    "{key} is {} in the saved run and {} now; a resumed run may only change {}",
                    shown(before),
                    shown(after),
                    FREE.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// The configuration as TOML, absent values left out; [`Config::read`] reads it back.
    pub fn to_toml(&self) -> String {
        match toml::to_string(self) {
            Ok(text) => text,
            Err(e) => unreachable!("checked values can always be written as TOML: {e}"),
        }
    }

    /// The network's settings in training, as the checkpoint reader takes them.
    pub fn settings(&self) -> Settings {
        let model = &self.model;
        Settings {
            size: model.size,
            stride: model.stride,
            heads: model.heads,
            act: model.act,
            ln_eps: model.ln_eps.map(|eps| eps as f32),
            normalize: model.normalize,
            lambda: Some(model.lambda as f32),
            lambda_on: Some(model.lambda_on),
            tokens: Some(model.tokens),
            parts: Some(model.parts),
            ignore_unknown: model.ignore_unknown,
        }
    }

    /// Fills in what the backbone decided, for the resolved configuration to be complete.
    pub fn settle(&mut self, network: &VitConfig, preprocess: &Preprocess) {
        let model = &mut self.model;
        model.size = Some(network.image);
        model.stride = Some(network.stride);
        model.heads = Some(network.heads);
        model.act = Some(network.act);
        // By its shortest digits: widened, 1e-6 would show as 9.999999974752427e-7.
        model.ln_eps = network.ln_eps.to_string().parse().ok();
        model.normalize = preprocess.normalize();
    }

    /// How batches are made up.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            batch_size: self.schedule.batch_size,
            persons: self.data.persons_per_batch,
            shuffle: self.data.shuffle,
            seed: self.data.seed,
        }
    }

    /// Share of each person's images that validates; `None`: the first of each.
    pub fn val_fraction(&self) -> Option<f64> {
        match self.schedule.best {
            BestBy::Accuracy => self.data.val_fraction,
            _ => Some(self.data.val_fraction.unwrap_or(0.0)),
        }
    }

    /// Pictures that run through the backbone at once.
    pub fn piece(&self) -> usize {
        match self.schedule.micro_batch {
            0 => self.schedule.batch_size,
            piece => piece.min(self.schedule.batch_size),
        }
    }

    /// What a trained model's metadata says of the network: as trained, but for the tokens that embed.
    pub fn saved_network(&self, network: &VitConfig) -> VitConfig {
        let mut saved = network.clone();
        saved.gelt.tokens = self.model.embed_tokens;
        saved
    }

    fn table(&self) -> Table {
        match Table::try_from(self) {
            Ok(table) => table,
            Err(e) => unreachable!("numbers and strings can always be written as TOML: {e}"),
        }
    }

    /// This configuration with these keys replaced, checked.
    fn overlaid(&self, given: Vec<(String, Value)>) -> Result<Config> {
        let mut table = self.table();
        for (key, value) in given {
            if key == "schedule.best" && value.as_str() == Some("map") {
                return Err(Error::Usage(
                    "schedule.best: map is called test-map, since it chooses on the test set; val-map chooses on persons \
                     held out of training"
                        .to_string(),
                ));
            }
            put(&mut table, &key, value);
        }
        let config: Config = table.try_into().map_err(|e| unusable(&e))?;
        config.check()?;
        Ok(config)
    }

    /// Refuses values that no run can have.
    fn check(&self) -> Result<()> {
        let Config { data, optim, schedule, head, loss, model, .. } = self;
        let in_unit = |v: f64| (0.0..1.0).contains(&v);
        let probability = |v: f64| (0.0..=1.0).contains(&v);
        let persons = data.persons_per_batch;
        let sampled = persons.checked_mul(data.images_per_person);
        let rules = [
            ("model.lambda", model.lambda >= 0.0, "0 or more"),
            ("model.ln_eps", model.ln_eps.is_none_or(|eps| eps > 0.0), "above 0"),
            ("data.split", data.split >= 1, "1 or more"),
            ("data.val_fraction", data.val_fraction.is_none_or(in_unit), "from 0 to below 1"),
            ("data.val_persons", data.val_persons.is_none_or(|v| v > 0.0 && v < 1.0), "above 0 and below 1"),
            (
                "data.val_persons",
                (schedule.best == BestBy::ValMap) == data.val_persons.is_some(),
                "given with schedule.best=val-map, and only then",
            ),
            ("data.flip", probability(data.flip), "from 0 to 1"),
            ("data.erasing", probability(data.erasing), "from 0 to 1"),
            ("data.images_per_person", persons == 0 || data.images_per_person >= 2, "2 or more"),
            ("optim.lr", optim.lr > 0.0, "above 0"),
            ("optim.lr_decay", optim.lr_decay > 0.0 && optim.lr_decay <= 1.0, "above 0, up to 1"),
            ("optim.weight_decay", optim.weight_decay >= 0.0, "0 or more"),
            ("optim.beta1", in_unit(optim.beta1), "from 0 to below 1"),
            ("optim.beta2", in_unit(optim.beta2), "from 0 to below 1"),
            ("optim.eps", optim.eps > 0.0, "above 0"),
            ("optim.clip_norm", optim.clip_norm >= 0.0, "0 or more"),
            ("schedule.epochs", schedule.epochs >= 1, "1 or more"),
            (
                "schedule.batch_size",
                schedule.batch_size >= 2,
                "2 or more: the heads' BatchNorm has nothing to normalise one sample by",
            ),
            (
                "schedule.batch_size",
                persons == 0 || sampled == Some(schedule.batch_size),
                "persons_per_batch × images_per_person",
            ),
            ("schedule.unfreeze_every", schedule.unfreeze_every >= 1, "1 or more"),
            (
                "schedule.eval_every",
                schedule.best != BestBy::TestMap || schedule.eval_every >= 1,
                "1 or more where schedule.best is test-map",
            ),
            (
                "schedule.refit",
                schedule.best == BestBy::ValMap || !schedule.refit,
                "false unless schedule.best is val-map",
            ),
            ("head.hidden", head.hidden >= 1, "1 or more"),
            ("head.dropout", in_unit(head.dropout), "from 0 to below 1"),
            ("loss.label_smoothing", in_unit(loss.label_smoothing), "from 0 to below 1"),
            ("loss.margin", loss.margin >= 0.0, "0 or more"),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            None => Ok(()),
            Some((key, _, wanted)) => {
                let table = self.table();
                let found = get(&table, key).map_or("nothing".to_string(), Value::to_string);
                Err(Error::Usage(format!("{key} must be {wanted}, found {found}")))
            }
        }
    }
}

impl Layers {
    /// Every key that was given with its value, the stronger after the weaker.
    fn given(&self) -> Result<Vec<(String, Value)>> {
        let mut given = match &self.file {
            None => Vec::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
                read_file(&text).map_err(|reason| {
                    // The parser says only that it is too large.
                    let seed =
                        "; a seed above 2^63 - 1 is written in quotes: seed = \"18446744073709551615\"";
                    let advice =
                        if reason.contains("seed") && reason.contains("too large") { seed } else { "" };
                    Error::Usage(format!("{}: {reason}{advice}", path.display()))
                })?
            }
        };
        for (key, text) in &self.flags {
            given.push((key.clone(), parse(key, text).map_err(Error::Usage)?));
        }
        for text in &self.set {
            let Some((key, value)) = text.split_once('=') else {
                return Err(Error::Usage(format!("--set {text}: expected section.key=value")));
            };
            let value = parse(key.trim(), value.trim()).map_err(|e| Error::Usage(format!("--set {e}")))?;
            given.push((key.trim().to_string(), value));
        }
        Ok(given)
    }
}

/// The keys of a configuration file with their values.
fn read_file(text: &str) -> std::result::Result<Vec<(String, Value)>, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| e.to_string().trim_end().to_string())?;
    let mut given = Vec::new();
    for (section, value) in table {
        match value {
            Value::Table(inner) => {
                for (name, value) in inner {
                    let key = format!("{section}.{name}");
                    given.push((key.clone(), typed(&key, value)?));
                }
            }
            value => given.push((section.clone(), typed(&section, value)?)),
        }
    }
    Ok(given)
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
fn parse(key: &str, text: &str) -> std::result::Result<Value, String> {
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
fn typed(key: &str, value: Value) -> std::result::Result<Value, String> {
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

/// An error for a text that is none of its key's words.
fn unusable(error: &toml::de::Error) -> Error {
    Error::Usage(error.to_string().trim_end().replace('\n', " "))
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, name)) => table.get(section)?.get(name),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
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

/// Whether two texts name the same file or folder.
fn same_place(a: Option<&Value>, b: Option<&Value>) -> bool {
    let place =
        |value: Option<&Value>| value.and_then(Value::as_str).and_then(|p| Path::new(p).canonicalize().ok());
    place(a).is_some_and(|path| Some(path) == place(b))
}

/// A seed as TOML can hold it: a number, or above the largest i64 its digits as a text.
fn seed_value(seed: u64) -> Value {
    i64::try_from(seed).map_or_else(|_| Value::String(seed.to_string()), Value::Integer)
}

/// A u64 in TOML, whose numbers end at 2^63 − 1.
mod seed_as_number_or_text {
    use super::seed_value;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub fn serialize<S: Serializer>(seed: &u64, out: S) -> Result<S::Ok, S::Error> {
        seed_value(*seed).serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(u64),
            Text(String),
        }
        match Given::deserialize(from)? {
            Given::Number(seed) => Ok(seed),
            Given::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// `HxW` in TOML, as on the command line.
mod size_as_text {
    use super::ImageSize;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(size: &Option<ImageSize>, out: S) -> Result<S::Ok, S::Error> {
        match size {
            Some(size) => out.collect_str(size),
            None => out.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ImageSize>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(flags: &[(&str, &str)], set: &[&str]) -> Layers {
        Layers {
            file: None,
            flags: flags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            set: set.iter().map(|s| s.to_string()).collect(),
        }
    }

    fn with_file(text: &str) -> (tempfile::TempDir, Layers) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, text).unwrap();
        (dir, Layers { file: Some(path), ..Layers::default() })
    }

    fn refusal(result: Result<Config>) -> String {
        match result {
            Err(Error::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    const PRESETS: [Preset; 4] = [Preset::Paper, Preset::ReleasedCode, Preset::Full, Preset::Strong];

    #[test]
    fn keys_and_structs_agree() {
        // A configuration in which every optional value is there.
        let mut config = Config::preset(Preset::Paper);
        config.model.backbone = Some("b".into());
        config.model.size = Some(ImageSize::square(224));
        config.model.stride = Some(16);
        config.model.heads = Some(12);
        config.model.act = Some(Activation::Gelu);
        config.model.ln_eps = Some(1e-6);
        config.model.normalize = Some(Normalize::Half);
        config.data.dir = Some("d".into());
        config.data.layout = Some(Layout::OccludedReid);
        config.data.val_fraction = Some(0.1);
        config.data.val_persons = Some(0.1);
        config.schedule.best = BestBy::ValMap;
        config.schedule.max_steps = Some(9);
        config.device.adapter = Some("a".into());
        let table = config.table();
        let mut found = Vec::new();
        for (section, value) in &table {
            match value {
                Value::Table(inner) => found.extend(inner.keys().map(|name| format!("{section}.{name}"))),
                _ => found.push(section.clone()),
            }
        }
        let mut known: Vec<String> = KEYS.iter().map(|(key, ..)| key.to_string()).collect();
        found.sort();
        known.sort();
        assert_eq!(found, known);
        for &(key, ..) in KEYS {
            assert_eq!(typed(key, get(&table, key).unwrap().clone()).as_ref(), Ok(get(&table, key).unwrap()));
        }
        let (_dir, file) = with_file(&config.to_toml());
        assert_eq!(Config::resolve(&file).unwrap(), config);
    }

    #[test]
    fn help_tells_every_default() {
        let keys = keys();
        let default = |wanted: &str| keys.iter().find(|(key, ..)| key == wanted).unwrap().1.clone();
        assert_eq!(default("optim.lr"), "0.0003");
        assert_eq!(default("preset"), "paper");
        assert_eq!(default("data.val_fraction"), "");
        assert_eq!(default("model.lambda_on"), "class");
        assert!(keys.iter().all(|(.., help)| help.len() > 10));
    }

    #[test]
    fn presets_round_trip_and_are_valid() {
        for preset in PRESETS {
            let config = Config::preset(preset);
            config.check().unwrap();
            let (_dir, file) = with_file(&config.to_toml());
            assert_eq!(Config::resolve(&file).unwrap(), config);
        }
    }

    #[test]
    fn presets_are_those_of_the_contract() {
        let paper = Config::preset(Preset::Paper);
        assert_eq!((paper.optim.lr, paper.optim.lr_decay, paper.schedule.unfreeze_every), (3e-4, 0.85, 2));
        assert_eq!((paper.model.lambda, paper.model.lambda_on), (0.8, LambdaOn::Class));
        assert_eq!((paper.head.relu, paper.head.dropout, paper.data.flip), (true, 0.5, 0.5));
        assert_eq!((paper.schedule.batch_size, paper.schedule.epochs), (32, 30));
        assert!(paper.schedule.freeze_embeddings && paper.optim.weight_decay == 0.0);

        let code = Config::preset(Preset::ReleasedCode);
        assert_eq!((code.optim.lr_decay, code.optim.weight_decay), (0.8, 5e-4));
        assert_eq!((code.model.lambda, code.model.lambda_on), (8.0, LambdaOn::Local));
        assert_eq!((code.model.tokens, code.model.embed_tokens), (PartTokens::Gelt, PartTokens::Local));
        assert!(!code.head.relu && !code.schedule.freeze_embeddings && code.schedule.first_unfreeze == 2);

        let strong = Config::preset(Preset::Strong);
        assert_eq!((strong.optim.optimizer, strong.optim.lr), (Optimizer::Adamw, 5e-5));
        assert_eq!((strong.optim.weight_decay, strong.optim.clip_norm), (0.05, 1.0));
        assert_eq!((strong.optim.warmup_epochs, strong.schedule.epochs), (5, 60));
        assert!(strong.optim.cosine && strong.loss.triplet && !strong.schedule.blockwise);
        assert_eq!((strong.data.erasing, strong.loss.label_smoothing), (0.5, 0.1));
        for preset in [Preset::Paper, Preset::ReleasedCode, Preset::Full] {
            let config = Config::preset(preset);
            assert_eq!((config.loss.label_smoothing, config.optim.clip_norm), (0.0, 0.0));
            assert_eq!((config.optim.warmup_epochs, config.loss.triplet), (0, false));
        }
    }

    #[test]
    fn the_stronger_layer_wins() {
        let (_dir, mut layers) = with_file("preset = \"released-code\"\n[optim]\nlr = 1\nlr_decay = 0.5\n");
        let config = Config::resolve(&layers).unwrap();
        assert_eq!((config.preset, config.optim.weight_decay), (Preset::ReleasedCode, 5e-4));
        assert_eq!((config.optim.lr, config.optim.lr_decay), (1.0, 0.5));

        layers.flags = vec![("preset".into(), "strong".into()), ("optim.lr".into(), "1e-3".into())];
        let config = Config::resolve(&layers).unwrap();
        assert_eq!((config.preset, config.optim.weight_decay), (Preset::Strong, 0.05));
        assert_eq!((config.optim.lr, config.optim.lr_decay), (1e-3, 0.5));

        layers.set = vec!["optim.lr=2e-3".into(), "model.size = 224x112".into(), "model.parts=1".into()];
        let config = Config::resolve(&layers).unwrap();
        assert_eq!((config.optim.lr, config.model.parts), (2e-3, PartLayout::One));
        assert_eq!(config.model.size, Some(ImageSize { height: 224, width: 112 }));
        assert_eq!(config.settings().size, config.model.size);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, words) in [
            ("optim.lrr", "1", "optim.lrr: there is no such key"),
            ("optim", "1", "optim: there is no such key"),
            ("optim.lr", "fast", "optim.lr: expected a number"),
            ("optim.lr", "nan", "optim.lr: expected a number"),
            ("optim.lr", "0", "optim.lr must be above 0"),
            ("data.shuffle", "1", "data.shuffle: expected true or false"),
            ("data.seed", "-1", "data.seed: expected a whole number"),
            ("schedule.batch_size", "1", "schedule.batch_size must be 2 or more"),
            ("head.dropout", "1", "head.dropout must be"),
            ("data.persons_per_batch", "3", "data.images_per_person must be 2"),
            ("data.val_fraction", "1", "data.val_fraction must be"),
            ("model.tokens", "some", "model.tokens"),
            ("model.size", "0x4", "model.size"),
            ("preset", "best", "preset: unknown variant `best`"),
        ] {
            let text = refusal(Config::resolve(&layers(&[(key, value)], &[])));
            assert!(text.contains(words) && !text.contains('\n'), "{key}={value}: {text}");
            let set = refusal(Config::resolve(&layers(&[], &[&format!("{key}={value}")])));
            assert!(set.contains(words), "{set}");
        }
        assert!(refusal(Config::resolve(&layers(&[], &["optim.lr"]))).contains("section.key=value"));
        for (text, words) in [
            ("[optim]\nlrr = 1", "optim.lrr: there is no such key"),
            ("[optimal]\nlr = 1", "optimal.lr: there is no such key"),
            ("lr = 1", "lr: there is no such key"),
            ("optim = 1", "optim: there is no such key"),
            ("[optim]\nlr = \"1\"", "optim.lr: expected a number"),
            ("[optim]\nlr = 1\nlr = 2", "my.toml"),
            ("[schedule]\nepochs = 1.5", "schedule.epochs: expected a whole number"),
            ("[model]\nparts = 1", "model.parts: expected a text"),
        ] {
            let (_dir, layers) = with_file(text);
            let message = refusal(Config::resolve(&layers));
            assert!(message.contains(words) && message.contains("my.toml"), "{text}: {message}");
        }
        let missing = Layers { file: Some("nowhere.toml".into()), ..Layers::default() };
        assert!(matches!(Config::resolve(&missing), Err(Error::Io { .. })));
    }

    #[test]
    fn a_seed_is_any_u64_as_number_or_text() {
        let highest = i64::MAX as u64;
        for (seed, written) in [
            (0, "0".to_string()),
            (highest, highest.to_string()),
            (highest + 1, format!("\"{}\"", highest + 1)),
            (u64::MAX, format!("\"{}\"", u64::MAX)),
        ] {
            let text = seed.to_string();
            let config = Config::resolve(&layers(&[("data.seed", &text)], &[])).unwrap();
            assert_eq!(config.data.seed, seed);
            assert!(config.to_toml().contains(&format!("\nseed = {written}\n")), "{}", config.to_toml());
            let (dir, file) = with_file(&config.to_toml());
            assert_eq!(Config::resolve(&file).unwrap(), config);
            // Both spellings are the same seed for a resumed run, on the command line and in a file.
            let quoted = format!("data.seed=\"{seed}\"");
            let saved = dir.path().join("my.toml");
            for given in [layers(&[("data.seed", &text)], &[]), layers(&[], &[&quoted])] {
                assert_eq!(Config::resume(&saved, &given).unwrap(), config);
            }
            let (_dir, other) = with_file(&format!("[data]\nseed = \"{seed}\"\n"));
            assert_eq!(Config::resolve(&other).unwrap().data.seed, seed);
        }
        for bad in ["-1", "1.5", "18446744073709551616", "", "one"] {
            let text = refusal(Config::resolve(&layers(&[("data.seed", bad)], &[])));
            assert!(text.starts_with("data.seed: expected a whole number from 0 to 2^64"), "{text}");
        }
        let split = Config::resolve(&layers(&[("data.split_seed", &u64::MAX.to_string())], &[])).unwrap();
        assert_eq!(split.data.split_seed, u64::MAX);
        let (_dir, file) = with_file(&split.to_toml());
        assert_eq!(Config::resolve(&file).unwrap(), split);
        let (_dir, bad) = with_file("[data]\nseed = \"x\"\n");
        assert!(refusal(Config::resolve(&bad)).contains("data.seed"));
        let (_dir, bad) = with_file("[data]\nseed = 18446744073709551615\n");
        assert!(refusal(Config::resolve(&bad)).contains("my.toml"));
    }

    #[test]
    fn a_resumed_run_changes_only_what_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let saved = dir.path().join("config.toml");
        let pictures = dir.path().display().to_string();
        let first = layers(
            &[("preset", "full"), ("optim.lr", "1e-3"), ("schedule.epochs", "4"), ("data.dir", &pictures)],
            &["schedule.max_steps=10", "device.adapter=llvmpipe"],
        );
        let config = Config::resolve(&first).unwrap();
        std::fs::write(&saved, config.to_toml()).unwrap();

        // The same call, and a call that says nothing.
        assert_eq!(Config::resume(&saved, &first).unwrap(), config);
        let silent = Config::resume(&saved, &Layers::default()).unwrap();
        assert_eq!((silent.preset, silent.optim.lr, silent.schedule.epochs), (Preset::Full, 1e-3, 4));
        assert_eq!((silent.schedule.max_steps, silent.device.adapter), (None, None));

        // A run that was saved before data sets had options.
        let text = config.to_toml();
        let old =
            text.lines().filter(|line| !["boxes", "cuhk03", "split"].iter().any(|key| line.starts_with(key)));
        let old: Vec<&str> = old.collect();
        assert_eq!(old.len(), text.lines().count() - 4);
        let before = dir.path().join("old.toml");
        std::fs::write(&before, old.join("\n")).unwrap();
        assert_eq!(Config::resume(&before, &first).unwrap(), config);

        let free = layers(&[("schedule.epochs", "9"), ("device.adapter", "x")], &["schedule.save_every=5"]);
        assert_eq!(Config::resume(&saved, &free).unwrap().schedule.epochs, 9);
        let spelled = format!("{pictures}/../{}", dir.path().file_name().unwrap().to_str().unwrap());
        Config::resume(&saved, &layers(&[("data.dir", &spelled)], &[])).unwrap();

        for (key, value) in [
            ("optim.lr", "1e-4"),
            ("preset", "paper"),
            ("data.seed", "1"),
            ("data.dir", "elsewhere"),
            ("data.split", "2"),
            ("data.val_fraction", "0"),
            ("model.size", "64x32"),
        ] {
            let text = refusal(Config::resume(&saved, &layers(&[(key, value)], &[])));
            assert!(text.starts_with(key), "{text}");
        }
    }

    #[test]
    fn the_backbone_settles_what_is_absent() {
        let mut config = Config::resolve(&layers(&[("preset", "released-code")], &[])).unwrap();
        let network = VitConfig::plain(ImageSize { height: 224, width: 112 }, 14, 384, 12, 6);
        let preprocess = Preprocess::new(network.image, Normalize::Half.mean_std());
        config.settle(&network, &preprocess);
        assert_eq!((config.model.heads, config.model.ln_eps), (Some(6), Some(1e-6)));
        assert_eq!(config.model.normalize, Some(Normalize::Half));
        assert!(config.to_toml().contains("size = \"224x112\""), "{}", config.to_toml());
        assert_eq!(config.saved_network(&network).gelt.tokens, PartTokens::Local);
        let (_dir, file) = with_file(&config.to_toml());
        assert_eq!(Config::resolve(&file).unwrap(), config);
    }
}
