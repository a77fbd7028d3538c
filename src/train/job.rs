//! What a run works on: configuration, network, pictures, schedule and place, settled before an adapter is touched.

use super::config::{self, Config, Optimizer};
use super::heads::init_heads;
use super::schedule::Schedule;
use super::trainer::Watch;
use crate::checkpoint::{self, Network, StateData, StateTensor};
use crate::data::augment::Augment;
use crate::datasets::sampler::{self, TrainingSet};
use crate::datasets::uses::training_set;
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::kernels::adam::Betas;
use crate::model::{GroupKind, HeadSettings, HostMoments, Learner, UpdateRule};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a run stands: what a save holds beside parameters and moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    /// Steps done.
    pub step: u64,
    /// Epoch of the next step.
    pub epoch: usize,
    /// Batch of the next step in its epoch.
    pub batch: usize,
    /// Sum of the epoch's losses so far, by picture.
    pub loss_sum: f64,
    /// Pictures of the epoch so far.
    pub pictures: u64,
    pub best: Option<Best>,
}

/// The best epoch so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Best {
    /// Accuracy or mAP.
    pub score: f64,
    pub loss: f64,
}

impl Best {
    /// Highest score, then lowest loss, then the earlier epoch.
    pub fn is_beaten_by(&self, other: &Best) -> bool {
        other.score > self.score || (other.score == self.score && other.loss < self.loss)
    }
}

const START: Position = Position { step: 0, epoch: 0, batch: 0, loss_sum: 0.0, pictures: 0, best: None };

impl Position {
    pub fn tensor(&self) -> StateTensor {
        let best = self.best.map_or([0, 0, 0], |best| [1, best.score.to_bits(), best.loss.to_bits()]);
        let mut words = vec![self.step, self.epoch as u64, self.batch as u64];
        words.extend([self.loss_sum.to_bits(), self.pictures]);
        words.extend(best);
        StateTensor::counts(words)
    }

    fn from_words(words: &[u64]) -> Option<Position> {
        let &[step, epoch, batch, loss_sum, pictures, has_best, score, loss] = words else { return None };
        let best = Best { score: f64::from_bits(score), loss: f64::from_bits(loss) };
        Some(Position {
            step,
            epoch: epoch as usize,
            batch: batch as usize,
            loss_sum: f64::from_bits(loss_sum),
            pictures,
            best: (has_best == 1).then_some(best),
        })
    }
}

/// What a run works on, settled before the adapter is touched.
pub(super) struct Job {
    pub config: Config,
    pub network: Network,
    pub set: TrainingSet,
    /// Pictures of `set` that train.
    pub train: Vec<usize>,
    /// Pictures of `set` that validate.
    pub validation: Vec<usize>,
    pub schedule: Schedule,
    pub position: Position,
    state: BTreeMap<String, StateTensor>,
}

impl Job {
    /// A run from its beginning.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that no run can have; whatever weights and pictures may say.
    pub fn start(layers: &config::Layers, watch: &mut dyn Watch) -> Result<Job> {
        let mut config = Config::resolve(layers)?;
        let backbone = needed(&config.model.backbone, "backbone")?;
        let (set, train, validation) = pictures(&config, |text| watch.note(text))?;
        let mut network = checkpoint::load(&backbone, &config.settings())?;
        for note in &network.notes {
            watch.note(note);
        }
        config.settle(&network.config, &network.preprocess);
        let (parts, dim, hidden) = (network.config.parts(), network.config.dim, config.head.hidden);
        network.heads = init_heads(config.data.seed, parts, dim, hidden, set.classes.len());
        network.class_names = Some(set.classes.clone());
        if set.skipped > 0 {
            watch.note(&format!("{} files are junk or outside the layout", set.skipped));
        }
        if !set.left_out.counts().is_empty() {
            watch.note(&format!("left out: {}", set.left_out));
        }
        let batch_size = config.schedule.batch_size;
        if config.data.persons_per_batch == 0 && sampler::drops_last(train.len(), batch_size) {
            watch.note("each epoch's last batch would hold one picture and is dropped");
        }
        Job::new(config, network, set, (train, validation), START, BTreeMap::new())
    }

    /// A run from where `last.safetensors` in its folder stands.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings or pictures that contradict the saved ones; [`Error::Weights`] for a file that no
    /// run left.
    pub fn resume(out: &Path, layers: &config::Layers) -> Result<Job> {
        let last = out.join("last.safetensors");
        let config = Config::resume(&out.join("config.toml"), layers)?;
        let (set, train, validation) = pictures(&config, |_| {})?;
        let network = checkpoint::load(&last, &config.settings())?;
        let state = checkpoint::read_state(&last)?;
        if network.class_names.as_ref() != Some(&set.classes) {
            let dir = config.data.dir.unwrap_or_default();
            return Err(Error::Usage(format!("{dir}: the persons differ from those of the saved run")));
        }
        check_heads(&last, &network, config.head.hidden, set.classes.len())?;
        let position = match state.get("position") {
            Some(StateTensor { data: StateData::U64(words), .. }) => Position::from_words(words),
            _ => None,
        };
        let position = position.ok_or_else(|| Error::Weights {
            path: last,
            reason: "it holds no position to resume from".to_string(),
        })?;
        Job::new(config, network, set, (train, validation), position, state)
    }

    fn new(
        config: Config,
        network: Network,
        set: TrainingSet,
        (train, validation): (Vec<usize>, Vec<usize>),
        position: Position,
        state: BTreeMap<String, StateTensor>,
    ) -> Result<Job> {
        let schedule =
            Schedule::new(&config, network.config.depth, config.sampling().steps_per_epoch(train.len()));
        Ok(Job { config, network, set, train, validation, schedule, position, state })
    }

    /// Whether all steps are done, and what follows the last one of an epoch too.
    pub fn is_finished(&self) -> bool {
        let per_epoch = self.config.sampling().steps_per_epoch(self.train.len());
        self.position.step >= self.schedule.steps() && self.position.batch < per_epoch
    }

    /// Uploads the network as it stands, with its moments.
    ///
    /// # Errors
    /// If the adapter can't hold it.
    pub fn learner<'c>(&self, context: &'c Context) -> Result<Learner<'c>> {
        let config = &self.config;
        let settings = HeadSettings {
            hidden: config.head.hidden,
            classes: self.set.classes.len(),
            relu: config.head.relu,
            dropout: config.head.dropout as f32,
        };
        let rule = UpdateRule {
            betas: betas(config),
            decoupled: config.optim.optimizer == Optimizer::Adamw,
            label_smoothing: config.loss.label_smoothing as f32,
            triplet_margin: config.loss.triplet.then_some(config.loss.margin as f32),
        };
        let stage = self.schedule.stage(self.position.epoch);
        let mut learner = Learner::new(context, &self.network, settings, rule, stage)?;
        if let Some(StateTensor { data: StateData::F32(data), .. }) = self.state.get("loss_scale")
            && let [scale, steps] = data[..]
        {
            learner.write_scale(scale, steps as u32);
        }
        let kinds: Vec<(GroupKind, usize)> = learner.groups().iter().map(|g| (g.kind, g.words)).collect();
        for (kind, words) in kinds {
            let moment = |which: &str| match self.state.get(&format!("{which}.{kind}")) {
                Some(StateTensor { data: StateData::F32(data), .. }) if data.len() == words => Some(data),
                _ => None,
            };
            if let (Some(first), Some(second)) = (moment("m"), moment("v")) {
                let (first, second) = (first.clone(), second.clone());
                learner.write_moments(&HostMoments { kind, first, second })?;
            }
        }
        Ok(learner)
    }

    /// An epoch's batches: of each, places in [`Self::set`].
    pub fn batches(&self, epoch: usize) -> Vec<Vec<usize>> {
        let classes: Vec<usize> = self.train.iter().map(|&i| self.set.pictures[i].class).collect();
        let batches = self.config.sampling().batches(&classes, epoch as u64);
        batches.into_iter().map(|batch| batch.into_iter().map(|i| self.train[i]).collect()).collect()
    }

    /// Sizes of the batches that the run trains by, each once: the whole batch, and an epoch's last if it is smaller.
    pub fn batch_sizes(&self) -> Vec<usize> {
        let (count, batch) = (self.train.len(), self.config.schedule.batch_size);
        let last = if self.config.data.persons_per_batch > 0 { 0 } else { count % batch };
        let sizes = [if count < batch && last > 0 { 0 } else { batch }, last];
        sizes.into_iter().filter(|&size| size > 1).collect()
    }

    /// Sizes of the batches that validation runs by when it takes `batch` pictures at once, each once.
    pub fn evaluation_sizes(&self, batch: usize) -> Vec<usize> {
        let count = self.validation.len();
        let sizes = [if count >= batch { batch } else { 0 }, count % batch];
        sizes.into_iter().filter(|&size| size > 0).collect()
    }

    /// How training pictures are changed, if at all.
    pub fn augment(&self) -> Option<Augment> {
        let (data, mean) = (&self.config.data, self.network.preprocess.mean);
        let changes = data.crop_pad > 0 || data.erasing > 0.0;
        changes.then(|| Augment {
            crop_pad: data.crop_pad,
            erasing: data.erasing,
            fill: mean.map(|channel| (channel * 255.0).round() as u8),
        })
    }
}

fn needed(value: &Option<String>, flag: &str) -> Result<PathBuf> {
    value.clone().map(PathBuf::from).ok_or_else(|| Error::Usage(format!("--{flag} is needed")))
}

/// The labelled pictures; those that train; those that validate. `note` is called with what the user should know.
fn pictures(config: &Config, note: impl FnMut(&String)) -> Result<(TrainingSet, Vec<usize>, Vec<usize>)> {
    let (set, notes) = training_set(&needed(&config.data.dir, "data")?, &config.data.load_options())?;
    notes.iter().for_each(note);
    let (train, validation) = set.split(config.data.val_fraction, config.data.seed);
    let (batch_size, persons) = (config.schedule.batch_size, config.data.persons_per_batch);
    if batch_size < 2 || train.len() < 2 {
        return Err(Error::Usage(format!(
            "BatchNorm needs two pictures or more in a batch: --batch-size is {batch_size}, {} pictures train",
            train.len()
        )));
    }
    if persons > set.classes.len() {
        return Err(Error::Usage(format!(
            "data.persons_per_batch is {persons}, but there are {} persons: --set data.persons_per_batch={} with \
             --batch-size {}, or 0 for batches of anybody",
            set.classes.len(),
            set.classes.len(),
            set.classes.len() * config.data.images_per_person
        )));
    }
    Ok((set, train, validation))
}

/// Makes sure that every part classifier is complete and of the right shape.
fn check_heads(path: &Path, network: &Network, hidden: usize, classes: usize) -> Result<()> {
    let dim = network.config.dim;
    for part in 0..network.config.parts() {
        for (name, shape) in [
            ("fc1.weight", vec![hidden, dim]),
            ("fc1.bias", vec![hidden]),
            ("bn.weight", vec![hidden]),
            ("bn.bias", vec![hidden]),
            ("bn.running_mean", vec![hidden]),
            ("bn.running_var", vec![hidden]),
            ("fc2.weight", vec![classes, hidden]),
            ("fc2.bias", vec![classes]),
        ] {
            let name = format!("heads.{part}.{name}");
            let found = network.heads.get(&name).map(|tensor| &tensor.shape);
            if found != Some(&shape) {
                return Err(Error::Tensor {
                    path: path.to_path_buf(),
                    tensor: name,
                    expected: format!("{shape:?}"),
                    found: found.map_or("none".to_string(), |shape| format!("{shape:?}")),
                });
            }
        }
    }
    Ok(())
}

pub(super) fn betas(config: &Config) -> Betas {
    Betas { beta1: config.optim.beta1, beta2: config.optim.beta2, eps: config.optim.eps }
}
