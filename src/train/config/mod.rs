//! The configuration of a run: one TOML document, from defaults, a preset, a file and the command line.
//!
//! A later layer wins, key by key: built-in default < preset < file < flags < `--set section.key=value`.
//! The preset itself is looked for from the top: `--set preset=…`, `--preset`, `preset` in the file, else paper.

mod checks;
mod keys;
mod layers;

pub use keys::keys;
pub use layers::Layers;

use crate::checkpoint::Settings;
use crate::datasets::sampler::Sampling;
use crate::datasets::{Boxes, Cuhk03Protocol, Layout, LoadOptions};
use crate::gpu::{ContextOptions, Precision};
use crate::shape::{
    Activation, ImageSize, LambdaOn, Normalize, PartLayout, PartTokens, Preprocess, VitConfig,
};
use serde::{Deserialize, Serialize};
use toml::Value;

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
    /// The images.
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
    /// Folder or table of labelled images.
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
    /// Share of each person's images that validates.
    pub val_fraction: Option<f64>,
    /// Share of the persons that are held out of training, to choose the best epoch by.
    pub val_persons: Option<f64>,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// Probability that an image is mirrored.
    pub flip: f64,
    /// Probability that a rectangle of an image is erased.
    pub erasing: f64,
    /// Pixels of padding before a crop at random; 0: no crop.
    pub crop_pad: usize,
    /// Persons in a batch; 0: batches follow the order alone.
    pub persons_per_batch: usize,
    /// Images of each person in a batch of `persons_per_batch`.
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
    pub decay_every_interval: bool,
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
    /// Passes over the images.
    pub epochs: usize,
    /// Images in a step.
    pub batch_size: usize,
    /// Images that run through the backbone at once; 0: the whole batch.
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
    /// Accuracy on the validation images, then their loss.
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
                decay_every_interval: false,
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
                config.optim.decay_every_interval = true;
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

    /// Images that run through the backbone at once.
    pub fn micro_batch(&self) -> usize {
        match self.schedule.micro_batch {
            0 => self.schedule.batch_size,
            micro_batch => micro_batch.min(self.schedule.batch_size),
        }
    }

    /// What a trained model's metadata says of the network: as trained, but for the tokens that embed.
    pub fn saved_network(&self, network: &VitConfig) -> VitConfig {
        let mut saved = network.clone();
        saved.gelt.tokens = self.model.embed_tokens;
        saved
    }
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
