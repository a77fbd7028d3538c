//! The configuration of a run: one TOML document, from defaults, a preset, a file and the command line.
//!
//! A later layer wins, key by key: built-in default < preset < file < flags < `--set section.key=value`.
//! The preset is the first of `--set preset=…`, `--preset` and `preset` in the file, else paper.

mod checks;
mod keys;
mod layers;
mod words;

pub use keys::{
    ClusterConfig, Config, DataConfig, DeviceConfig, HeadConfig, Key, Kind, LossConfig, ModelConfig,
    OptimConfig, ScheduleConfig, keys,
};
pub use layers::Layers;
pub use words::{read, word, words};

use crate::checkpoint::Settings;
use crate::datasets::LoadOptions;
use crate::datasets::sampler::{Sampler, Sampling};
use crate::gpu::ContextOptions;
use crate::images::augment::{ErasingAspect, ErasingFill};
use crate::kernels::adam::Betas;
use crate::kernels::triplet::Margin;
use crate::model::{self, PrototypeRule};
use crate::retrieval::dbscan::ClusterOptions;
use crate::retrieval::jaccard::JaccardOptions;
use crate::shape::{
    ClassifierKind, HeadEmbed, HeadKind, ImageSize, LambdaOn, PartLayout, PartTokens, Preprocess, VitConfig,
};
use serde::{Deserialize, Serialize};
use toml::Value;

/// A named recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Algorithm 1 of the paper.
    Paper,
    /// The settings of the released code.
    ReleasedCode,
    /// Everything trains from the start, at one learning rate.
    Full,
    /// Settings of strong ViT recipes for re-identification: smoothing, triplets, erasing, AdamW, warm-up, cosine.
    Strong,
    /// The ViT baseline of TransReID, without camera embedding and jigsaw.
    Transreid,
    /// TransReID with overlapping patches, camera embedding and jigsaw.
    TransreidFull,
    /// The fine-tuning of PersonViT.
    Personvit,
    /// Identity and prototype loss, as in PCL-CLIP, for any backbone.
    Prototypes,
    /// Prototype loss alone, as in Cluster Contrast, for clusters or persons.
    ClusterContrast,
}

impl Preset {
    /// All presets, the default first.
    pub const ALL: [Preset; 9] = [
        Preset::Paper,
        Preset::ReleasedCode,
        Preset::Full,
        Preset::Strong,
        Preset::Transreid,
        Preset::TransreidFull,
        Preset::Personvit,
        Preset::Prototypes,
        Preset::ClusterContrast,
    ];

    /// Describes the recipe in a line.
    pub fn about(self) -> &'static str {
        match self {
            Preset::Paper => "Algorithm 1 of the paper: one more block opens every two epochs",
            Preset::ReleasedCode => "the settings of the paper's released code",
            Preset::Full => "everything trains from the start, at one learning rate",
            Preset::Strong => "the usual ingredients of strong ViT recipes on the paper's parts",
            Preset::Transreid => {
                "TransReID's ViT baseline: BNNeck on the class token, soft triplets, SGD, stochastic depth"
            }
            Preset::TransreidFull => {
                "TransReID: as transreid, with overlapping patches, camera embedding and jigsaw"
            }
            Preset::Personvit => {
                "PersonViT's fine-tuning: as transreid, with a lower rate and a longer warm-up"
            }
            Preset::Prototypes => "identity and prototype loss after BNNeck, for any backbone",
            Preset::ClusterContrast => {
                "Cluster Contrast: prototype loss after BNNeck, for lat-wgpu adapt, or for labelled persons"
            }
        }
    }

    /// The published scores on Market-1501, with weights, input size and batch size; `None` if there are none.
    pub fn published(self) -> Option<&'static str> {
        match self {
            Preset::Paper | Preset::ReleasedCode => {
                Some("rank-1 98.27 %, mAP 94.46 % with ViT-B/16 of ImageNet-21k, 224x224, batch size 32")
            }
            Preset::Full => {
                Some("rank-1 97.55 %, mAP 93.3 % with ViT-B/16 of ImageNet-21k, 224x224, batch size 32")
            }
            Preset::Strong => None,
            Preset::Transreid => {
                Some("rank-1 94.6 %, mAP 87.1 % with ViT-B/16 of ImageNet-21k, 256x128, batch size 64")
            }
            Preset::TransreidFull => {
                Some("rank-1 95.1 %, mAP 89.0 % with ViT-B/16 of ImageNet-21k, 256x128, batch size 64")
            }
            Preset::Personvit => {
                Some("rank-1 97.6 %, mAP 95.0 % with PersonViT's ViT-B/16, 256x128, batch size 64")
            }
            Preset::Prototypes => {
                Some("rank-1 95.9 %, mAP 91.4 % with CLIP's ViT-B/16, 256x128, batch size 256")
            }
            Preset::ClusterContrast => Some(
                "without labels, rank-1 92.3 %, mAP 82.1 % with ResNet-50 of ImageNet, 256x128, batch size 256",
            ),
        }
    }
}

/// The rule by which parameters are updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam; weight decay is added to the gradient (L2).
    Adam,
    /// AdamW; weight decay shrinks the parameter itself.
    Adamw,
    /// SGD with momentum; weight decay is added to the gradient (L2).
    Sgd,
}

/// The unit in which the learning rate follows warm-up and cosine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrStep {
    /// Every step has its own rate. The cosine begins after the warm-up.
    Step,
    /// All steps of an epoch have one rate. The cosine begins with the run, and the warm-up overlaps it.
    Epoch,
}

/// A log for another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherLog {
    /// No other log.
    None,
    /// An event file for TensorBoard.
    Tensorboard,
}

/// The criterion of the best epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// The last epoch.
    Last,
    /// Mean average precision among the images of persons held out of training.
    ValMap,
    /// Accuracy on the validation images, then their loss.
    Accuracy,
    /// Mean average precision of the data set's queries in its gallery.
    TestMap,
}

impl DataConfig {
    /// Options to load the data set.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            layout: self.layout,
            boxes: self.boxes,
            cuhk03: self.cuhk03,
            split: self.split,
            split_seed: self.split_seed,
            follow_links: self.follow_links,
        }
    }
}

impl DeviceConfig {
    /// Options to open the adapter.
    pub fn options(&self) -> ContextOptions {
        let DeviceConfig { adapter, precision } = self.clone();
        ContextOptions { precision, ..ContextOptions::from_environment(adapter) }
    }
}

impl HeadConfig {
    /// Layers of the part classifiers.
    pub fn classifier(&self) -> ClassifierKind {
        match self.kind {
            HeadKind::Parts => ClassifierKind::Parts { hidden: self.hidden },
            HeadKind::Bnneck => ClassifierKind::Bnneck,
        }
    }
}

impl OptimConfig {
    /// Settings of Adam.
    pub fn betas(&self) -> Betas {
        Betas { beta1: self.beta1, beta2: self.beta2, eps: self.eps }
    }

    /// The optimiser, as the learner takes it.
    pub fn rule(&self) -> model::Optimizer {
        let adam = |decoupled| model::Optimizer::Adam { betas: self.betas(), decoupled };
        match self.optimizer {
            Optimizer::Adam => adam(false),
            Optimizer::Adamw => adam(true),
            Optimizer::Sgd => model::Optimizer::Sgd { momentum: self.momentum },
        }
    }

    /// Decay of the averaged weights; `None` without averages.
    pub fn averages(&self) -> Option<f64> {
        (self.ema > 0.0).then_some(self.ema)
    }
}

impl LossConfig {
    /// Margin of the triplet loss; `None` without that loss.
    pub fn triplet_margin(&self) -> Option<Margin> {
        let margin = if self.soft_margin { Margin::Soft } else { Margin::Hard(self.margin as f32) };
        self.triplet.then_some(margin)
    }

    /// The prototype loss; `None` without it.
    pub fn prototype_rule(&self) -> Option<PrototypeRule> {
        (self.prototypes > 0.0).then_some(PrototypeRule {
            weight: self.prototypes as f32,
            temperature: self.temperature as f32,
            momentum: self.momentum as f32,
            hard: self.hard_update,
        })
    }
}

impl ClusterConfig {
    /// Settings of the clustering.
    pub fn options(&self) -> ClusterOptions {
        let jaccard = JaccardOptions { k1: self.k1, k2: self.k2 };
        ClusterOptions { jaccard, radius: self.eps, min_samples: self.min_samples }
    }
}

impl Config {
    /// The values of a preset.
    pub fn preset(preset: Preset) -> Config {
        let mut config = Config { preset, ..Config::paper() };
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
                config.sample_persons(16, 4);
                config.optim.optimizer = Optimizer::Adamw;
                config.optim.lr = 5e-5;
                config.optim.weight_decay = 0.05;
                config.optim.clip_norm = 1.0;
                config.optim.warmup_epochs = 5;
                config.optim.cosine = true;
                config.schedule.epochs = 60;
                config.loss.label_smoothing = 0.1;
                config.loss.triplet = true;
            }
            Preset::Transreid => config.set_transreid(),
            Preset::TransreidFull => {
                config.set_transreid();
                config.model.stride = Some(12);
                config.model.camera_embedding = 3.0;
                config.model.jigsaw = true;
            }
            Preset::Personvit => {
                config.set_transreid();
                config.optim.lr = 4e-4;
                config.optim.warmup_epochs = 20;
                config.optim.lr_epoch_offset = 1;
            }
            Preset::Prototypes => {
                config.open_all();
                config.take_class_token();
                config.sample_persons(32, 8);
                config.data.erasing = 0.5;
                config.data.crop_pad = 10;
                config.optim.optimizer = Optimizer::Sgd;
                config.optim.lr = 3.5e-4;
                config.optim.weight_decay = 5e-4;
                config.optim.lr_step = LrStep::Epoch;
                config.optim.cosine = true;
                config.optim.warmup_epochs = 10;
                config.optim.warmup_factor = 0.1;
                config.schedule.epochs = 60;
                config.schedule.micro_batch = 64;
                config.head.embed = HeadEmbed::After;
                config.loss.identity = 0.25;
                config.loss.label_smoothing = 0.1;
                config.loss.prototypes = 1.0;
            }
            Preset::ClusterContrast => {
                config.open_all();
                config.head.kind = HeadKind::Bnneck;
                config.head.embed = HeadEmbed::After;
                config.loss.identity = 0.0;
                config.loss.prototypes = 1.0;
                config.data.sampler = Sampler::Cameras;
                config.sample_persons(16, 4);
                config.data.erasing = 0.5;
                config.data.crop_pad = 10;
                config.optim.optimizer = Optimizer::Adamw;
                config.optim.lr = 5e-5;
                config.optim.weight_decay = 0.05;
                config.optim.warmup_epochs = 1;
                config.optim.cosine = true;
                config.schedule.epochs = 20;
                config.schedule.passes = 4;
            }
        }
        config
    }

    /// BNNeck on the class token at 256x128, the network of most ViT baselines.
    fn take_class_token(&mut self) {
        self.model.size = Some(ImageSize { height: 256, width: 128 });
        self.model.tokens = PartTokens::Global;
        self.model.embed_tokens = PartTokens::Global;
        self.model.parts = PartLayout::One;
        self.head.kind = HeadKind::Bnneck;
    }

    /// Batches of `persons` with `images` images each.
    fn sample_persons(&mut self, persons: usize, images: usize) {
        self.data.persons_per_batch = persons;
        self.data.images_per_person = images;
        self.schedule.batch_size = persons * images;
    }

    fn set_transreid(&mut self) {
        self.open_all();
        self.take_class_token();
        self.model.drop_path = 0.1;
        self.data.erasing = 0.5;
        self.data.erasing_fill = ErasingFill::Noise;
        self.data.erasing_area_max = 1.0 / 3.0;
        self.data.erasing_aspect = ErasingAspect::Log;
        self.data.erasing_attempts = 10;
        self.data.crop_pad = 10;
        self.sample_persons(16, 4);
        self.data.sampler = Sampler::Chunks;
        self.optim.optimizer = Optimizer::Sgd;
        self.optim.lr = 0.008;
        self.optim.weight_decay = 1e-4;
        self.optim.bias_lr_factor = 2.0;
        self.optim.lr_step = LrStep::Epoch;
        self.optim.cosine = true;
        self.optim.warmup_epochs = 5;
        self.schedule.epochs = 120;
        self.loss.triplet = true;
        self.loss.soft_margin = true;
    }

    /// Every key with its value as typed on the command line, if it has one.
    pub fn values(&self) -> Vec<(&'static str, Option<String>)> {
        let table = self.table();
        keys().map(|key| (key.name, keys::get(&table, key.name).map(keys::text))).collect()
    }

    /// The keys in which a preset differs from the paper's, with their values.
    pub fn differences(preset: Preset) -> Vec<(&'static str, Value)> {
        let (own, paper) = (Config::preset(preset).table(), Config::paper().table());
        let names = keys().map(|key| key.name).filter(|&name| name != "preset");
        let differs = |name| {
            let value = keys::get(&own, name)?;
            (Some(value) != keys::get(&paper, name)).then(|| (name, value.clone()))
        };
        names.filter_map(differs).collect()
    }

    /// The keys that training on clusters needs with every preset, with the values of cluster-contrast.
    pub fn of_clusters() -> Vec<(String, String)> {
        const KEYS: [&str; 9] = [
            "head.kind",
            "head.embed",
            "loss.identity",
            "loss.prototypes",
            "data.sampler",
            "data.persons_per_batch",
            "data.images_per_person",
            "schedule.batch_size",
            "schedule.passes",
        ];
        let table = Config::preset(Preset::ClusterContrast).table();
        let value = |key: &str| Some((key.to_string(), keys::text(keys::get(&table, key)?)));
        KEYS.into_iter().filter_map(value).collect()
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
            head_embed: Some(HeadEmbed::Before),
            no_cameras: true,
            no_jigsaw: true,
            no_statistics: true,
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

    /// Composition of batches.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            batch_size: self.schedule.batch_size,
            persons: self.data.persons_per_batch,
            sampler: self.data.sampler,
            family: 1,
            steps: None,
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

    /// The network in a trained model's metadata: as trained, except for the tokens that embed and the side of BNNeck's
    /// BatchNorm.
    pub fn saved_network(&self, network: &VitConfig) -> VitConfig {
        let mut saved = network.clone();
        saved.gelt.tokens = self.model.embed_tokens;
        saved.head_embed = self.head.embed;
        saved
    }
}

/// A u64 in TOML, whose numbers end at 2^63 − 1.
mod seed_as_number_or_text {
    use super::keys::seed_value;
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
