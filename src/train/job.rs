//! The state of a run apart from the adapter: configuration, network, images, schedule and position.

use super::classifiers::{init_cameras, init_classifiers};
use super::config::{self, BestBy, Config};
use super::images::ImageList;
use super::schedule::Schedule;
use crate::checkpoint::{self, CAMERAS, HostTensor, Network, Settings, StateData, StateTensor};
use crate::datasets::cameras::Cameras;
use crate::datasets::sampler::{self, Sampler, Sampling, Source, StepCounts, TrainingSet};
use crate::datasets::uses::{crowd_set, training_set, unlabelled_set};
use crate::error::{Error, Result};
use crate::figures::CrowdSize;
use crate::gpu::Context;
use crate::images::augment::{Augment, ErasingFill};
use crate::model::{ClassifierSettings, GroupKind, HostMoments, Learner, UpdateRule};
use crate::observer::Observer;
use crate::ranks::{Ranks, Share};
use crate::retrieval::dbscan::Clusters;
use crate::shape::{CameraTable, ClassifierKind};
use crate::storage::hash;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The position of a run, which a checkpoint stores besides parameters and moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    /// Steps done.
    pub step: u64,
    /// Epoch of the next step, from 0.
    pub epoch: usize,
    /// Batch of the next step in its epoch, from 0.
    pub batch: usize,
    /// Sum of the losses of the epoch's images so far.
    pub loss_sum: f64,
    /// Number of the epoch's images so far.
    pub images: u64,
    pub best: Option<Best>,
}

/// The best epoch so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Best {
    /// Accuracy or mAP.
    pub score: f64,
    pub loss: f64,
    /// `None` in checkpoints of versions that didn't store it.
    pub epoch: Option<usize>,
}

impl Best {
    /// Returns true if `other` has a higher score, or the same score and a lower loss. Ties keep the earlier epoch.
    pub fn is_beaten_by(&self, other: &Best) -> bool {
        other.score > self.score || (other.score == self.score && other.loss < self.loss)
    }
}

const START: Position = Position { step: 0, epoch: 0, batch: 0, loss_sum: 0.0, images: 0, best: None };

impl Position {
    pub fn tensor(&self) -> StateTensor {
        let after = |epoch: usize| epoch as u64 + 1;
        let best = self.best.map_or([0; 4], |best| {
            [1, best.score.to_bits(), best.loss.to_bits(), best.epoch.map_or(0, after)]
        });
        let mut words = vec![self.step, self.epoch as u64, self.batch as u64];
        words.extend([self.loss_sum.to_bits(), self.images]);
        words.extend(best);
        StateTensor::counts(words)
    }

    fn from_words(words: &[u64]) -> Option<Position> {
        let &[step, epoch, batch, loss_sum, images, has_best, score, loss, ref rest @ ..] = words else {
            return None;
        };
        let best_epoch = rest.first().and_then(|after| (*after as usize).checked_sub(1));
        let best = Best { score: f64::from_bits(score), loss: f64::from_bits(loss), epoch: best_epoch };
        Some(Position {
            step,
            epoch: epoch as usize,
            batch: batch as usize,
            loss_sum: f64::from_bits(loss_sum),
            images,
            best: (has_best == 1).then_some(best),
        })
    }
}

/// Name of the position in a checkpoint.
pub(super) const POSITION: &str = "position";

/// Name of the hash of the list of images in a checkpoint.
pub(super) const IMAGES: &str = "images";

/// Name of the prototypes in a checkpoint.
pub(super) const PROTOTYPES: &str = "prototypes";

/// Name of the clusters in a checkpoint: of each image, 0 for an outlier, else the cluster plus 1.
pub(super) const CLUSTERS: &str = "clusters";

/// Name of the radius of the clusters in a checkpoint, as the bits of an f64.
pub(super) const EPS: &str = "clusters.eps";

/// The end of a note on a resumed run that cuts batches in another way.
pub(super) const OTHER_PIECES: &str =
    "sums over other pieces of a batch round differently, so the bits may differ";

/// Prefix of the averaged weights in a checkpoint.
pub(super) const AVERAGE: &str = "average.";

/// The state of a run apart from the adapter.
pub(super) struct Job {
    pub config: Config,
    pub network: Network,
    pub set: TrainingSet,
    /// Name, size and person of all images.
    pub images: ImageList,
    /// Persons who are held out of training to choose the best epoch.
    pub held_out: TrainingSet,
    /// Sorted hashes of the training images, and of the images that the backbone was trained on.
    pub trained_on: Vec<u64>,
    /// Indices in `set` of the training images: with clusters, those of the epoch's clusters.
    pub train: Vec<usize>,
    /// Indices in `set` of the validation images.
    pub validation: Vec<usize>,
    /// Clusters in place of persons, once they are known.
    pub clusters: Option<Clusters>,
    /// Radius of the clusters, once it is chosen.
    pub eps: Option<f64>,
    pub schedule: Schedule,
    pub position: Position,
    /// The processes that train together; `None` for one alone.
    pub ranks: Option<Arc<Ranks>>,
    /// Rows of the camera embedding by [`Sample::camera`]; empty without it.
    camera_rows: BTreeMap<u32, u32>,
    state: BTreeMap<String, StateTensor>,
}

/// The images of a run, split by use.
struct SplitImages {
    set: TrainingSet,
    images: ImageList,
    held_out: TrainingSet,
    train: Vec<usize>,
    validation: Vec<usize>,
    trained_on: Vec<u64>,
}

impl Job {
    /// Prepares a new run.
    ///
    /// # Errors
    /// [`Error::Usage`] for invalid settings; those of weights and images.
    pub fn start(mut config: Config, ranks: Option<Arc<Ranks>>, observer: &dyn Observer) -> Result<Job> {
        let backbone = needed(&config.model.backbone, "backbone")?;
        let set = labelled(&config, |text| observer.note(text))?;
        let images = ImageList::of(&set)?;
        let (set, held_out) = hold_out(&config, set)?;
        let (train, validation) = divide(&config, &set)?;
        if !held_out.classes.is_empty() {
            let (persons, images) = (held_out.classes.len(), held_out.images.len());
            let matches = match held_out.across_cameras() {
                0 => "none of them in two cameras, so images by the same camera count as matches".to_string(),
                across if across == persons => "all in two cameras or more".to_string(),
                across => format!("only {across} of them in two cameras or more: the others are not scored"),
            };
            observer
                .note(&format!("{persons} persons with {images} images are held out of training, {matches}"));
        }
        let clusters = config.cluster.images.is_some();
        let mut settings = config.settings();
        (settings.no_cameras, settings.no_jigsaw) = (!clusters, !clusters);
        let mut network = checkpoint::load(&backbone, &settings)?;
        if network.config.cameras.is_some() || network.config.jigsaw {
            return Err(Error::Usage(format!(
                "{}: a model with a camera embedding or a jigsaw can't train on clusters",
                backbone.display()
            )));
        }
        for note in &network.notes {
            observer.note(note);
        }
        config.settle(&network.config, &network.preprocess);
        if let Some(cameras) = camera_table(&config, [&set, &held_out])? {
            let table = init_cameras(config.data.seed, cameras.names.len(), network.config.dim);
            network.tensors.insert(CAMERAS.to_string(), table);
            network.config.cameras = Some(cameras);
        }
        if config.model.jigsaw {
            network.config.jigsaw = true;
            checkpoint::check_jigsaw(&network.config)?;
            for (name, of) in checkpoint::jigsaw_names(network.config.depth) {
                // Some networks lack some of the tensors of a block.
                if let Some(tensor) = network.tensors.get(&of).cloned() {
                    network.tensors.insert(name, tensor);
                }
            }
        }
        let (parts, dim, kind) = (network.config.parts(), network.config.dim, config.head.classifier());
        let stored = std::mem::replace(
            &mut network.classifiers,
            init_classifiers(config.data.seed, parts, dim, kind, set.classes.len()),
        );
        if kind == ClassifierKind::Bnneck {
            // The model's own BatchNorm, if it has one.
            for (name, tensor) in stored.into_iter().filter(|(name, _)| name.contains(".bn.")) {
                let fits = |own: &&mut HostTensor| own.shape == tensor.shape;
                if let Some(own) = network.classifiers.get_mut(&name).filter(fits) {
                    *own = tensor;
                }
            }
        }
        network.class_names = Some(set.classes.clone());
        if set.skipped > 0 {
            observer.note(&format!("{} files are junk or outside the layout", set.skipped));
        }
        if !set.left_out.counts().is_empty() {
            observer.note(&format!("left out: {}", set.left_out));
        }
        let batch_size = config.schedule.batch_size;
        if config.data.persons_per_batch == 0 && sampler::drops_last(train.len(), batch_size) {
            observer.note("each epoch's last batch would hold one image and is dropped");
        }
        let mut trained_on = hash_images(&set, &train)?;
        trained_on.extend(checkpoint::read_trained_on(&backbone)?.unwrap_or_default());
        trained_on.sort_unstable();
        trained_on.dedup();
        let images = SplitImages { set, images, held_out, train, validation, trained_on };
        Job::new(config, network, images, START, BTreeMap::new(), ranks)
    }

    /// Prepares a run that continues from `last.safetensors` in its folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings or images that differ from the saved ones; [`Error::Weights`] for a file that
    /// isn't a run's checkpoint.
    pub fn resume(
        out: &Path,
        layers: &config::Layers,
        ranks: Option<Arc<Ranks>>,
        observer: &dyn Observer,
    ) -> Result<Job> {
        let last = out.join("last.safetensors");
        let saved = out.join("config.toml");
        let config = Config::resume(&saved, layers)?;
        let before = Config::read(&saved)?.micro_batch();
        if before != config.micro_batch() {
            observer.note(&format!(
                "the saved run had micro-batches of {before}, and this one has {}: {OTHER_PIECES}",
                config.micro_batch()
            ));
        }
        let set = labelled(&config, |_| {})?;
        let images = ImageList::of(&set)?;
        let network =
            checkpoint::load(&last, &Settings { no_cameras: false, no_jigsaw: false, ..config.settings() })?;
        let state = checkpoint::read_state(&last)?;
        match counts(&state, IMAGES) {
            Some(&[hash]) => images.check(out, hash, config.data.dir.as_deref().unwrap_or_default())?,
            _ => observer.note("the saved run has no list of its images: assuming that they are the same"),
        }
        let (set, held_out) = hold_out(&config, set)?;
        let (train, validation) = divide(&config, &set)?;
        if network.class_names.as_ref() != Some(&set.classes) {
            let dir = config.data.dir.unwrap_or_default();
            return Err(Error::Usage(format!("{dir}: the persons differ from those of the saved run")));
        }
        if network.config.cameras != camera_table(&config, [&set, &held_out])? {
            let dir = config.data.dir.unwrap_or_default();
            return Err(Error::Usage(format!("{dir}: the cameras differ from those of the saved run")));
        }
        check_heads(&last, &network, config.head.classifier(), set.classes.len())?;
        let position = counts(&state, POSITION).and_then(Position::from_words);
        let position = position.ok_or_else(|| Error::Weights {
            path: last,
            reason: "it has no position to resume from".to_string(),
        })?;
        let steps = step_counts(&config, &set, &train);
        if position.batch > steps.of(position.epoch) {
            let dir = config.data.dir.unwrap_or_default();
            return Err(Error::Usage(format!("{dir}: the saved run had more images")));
        }
        let trained_on = match counts(&state, checkpoint::TRAINED_ON) {
            Some(hashes) => hashes.to_vec(),
            None => {
                let mut hashes = hash_images(&set, &train)?;
                hashes.sort_unstable();
                hashes.dedup();
                hashes
            }
        };
        let images = SplitImages { set, images, held_out, train, validation, trained_on };
        Job::new(config, network, images, position, state, ranks)
    }

    fn new(
        config: Config,
        network: Network,
        images: SplitImages,
        position: Position,
        state: BTreeMap<String, StateTensor>,
        ranks: Option<Arc<Ranks>>,
    ) -> Result<Job> {
        let SplitImages { set, images, held_out, train, validation, trained_on } = images;
        let steps = step_counts(&config, &set, &train);
        let schedule = Schedule::new(&config, network.config.depth, steps);
        let has_cameras = network.config.cameras.is_some();
        let eps = counts(&state, EPS).and_then(|bits| bits.first().copied().map(f64::from_bits));
        let camera_rows = set.cameras.keys().copied().zip(0..).filter(|_| has_cameras).collect();
        let mut job = Job {
            clusters: None,
            eps,
            config,
            network,
            set,
            images,
            held_out,
            trained_on,
            train,
            validation,
            schedule,
            position,
            ranks,
            camera_rows,
            state,
        };
        if let Some(labels) = counts(&job.state, CLUSTERS) {
            let labels: Vec<Option<u32>> =
                labels.iter().map(|label| label.checked_sub(1).map(|label| label as u32)).collect();
            let count = labels.iter().flatten().max().map_or(0, |last| *last as usize + 1);
            job.take_clusters(Clusters { labels, count });
        }
        if job.network.config.reattention && job.micro_batch() < job.largest_batch() {
            return Err(Error::Usage(format!(
                "{}: re-attention normalises over the attention maps of a whole batch, which here has {} images",
                match job.ranks() {
                    Some(ranks) => format!("{} ranks", ranks.size()),
                    None => format!("--micro-batch {}", job.micro_batch()),
                },
                job.largest_batch()
            )));
        }
        Ok(job)
    }

    /// Returns whether persons are clusters of images without labels.
    pub fn is_clustered(&self) -> bool {
        self.config.cluster.images.is_some()
    }

    /// Makes clusters the persons of the images. Outliers don't train.
    pub fn take_clusters(&mut self, clusters: Clusters) {
        self.train.clear();
        let samples = self.set.images.iter_mut().zip(&clusters.labels).enumerate();
        for (index, (sample, label)) in samples {
            sample.class = label.unwrap_or(0) as usize;
            self.train.extend(label.map(|_| index));
        }
        self.clusters = Some(clusters);
    }

    /// Returns the number of prototypes: of persons, or of clusters.
    pub fn prototypes(&self) -> usize {
        self.clusters.as_ref().map_or(self.set.classes.len(), |clusters| clusters.count)
    }

    /// Returns the rows of cameras in the camera embedding; 0 for each without it.
    pub fn camera_rows(&self, cameras: &[u32]) -> Vec<u32> {
        cameras.iter().map(|camera| self.camera_rows.get(camera).copied().unwrap_or(0)).collect()
    }

    /// Returns true if `best.safetensors` is the model of the last epoch: by configuration, or for lack of validation
    /// images.
    pub fn keeps_last(&self) -> bool {
        match self.config.schedule.best {
            BestBy::Last => true,
            BestBy::Accuracy => self.validation.is_empty(),
            BestBy::ValMap | BestBy::TestMap => false,
        }
    }

    /// Returns true if all steps are done, including validation after a last step that ends an epoch.
    pub fn is_finished(&self) -> bool {
        let Position { step, epoch, batch, .. } = self.position;
        step >= self.schedule.steps() && (batch == 0 || batch < self.schedule.steps_of(epoch))
    }

    /// Uploads the network and its moments.
    ///
    /// # Errors
    /// If they exceed the adapter's limits or memory.
    pub fn learner<'c>(&self, context: &'c Context) -> Result<Learner<'c>> {
        let config = &self.config;
        let settings = ClassifierSettings {
            kind: config.head.classifier(),
            classes: self.set.classes.len(),
            relu: config.head.relu,
            dropout: config.head.dropout as f32,
        };
        let rule = UpdateRule {
            optimizer: config.optim.rule(),
            ema: config.optim.averages(),
            identity: config.loss.identity as f32,
            label_smoothing: config.loss.label_smoothing as f32,
            triplet_margin: config.loss.triplet_margin(),
            prototypes: config.loss.prototype_rule(),
            embed: config.head.embed,
        };
        let stage = self.schedule.stage(self.position.epoch);
        let mut learner = Learner::new(context, &self.network, settings, rule, stage)?;
        if config.data.erasing > 0.0 && config.data.erasing_fill == ErasingFill::Noise {
            learner.erase_with_noise();
        }
        learner.set_drop_path(config.model.drop_path as f32);
        learner.set_share(self.share());
        if let Some(StateTensor { data: StateData::F32(data), .. }) = self.state.get("loss_scale")
            && let [scale, steps] = data[..]
        {
            learner.write_scale(scale, steps as u32);
        }
        if let Some(StateTensor { data: StateData::F32(data), .. }) = self.state.get(PROTOTYPES) {
            learner.write_prototypes(data)?;
        }
        let kinds: Vec<(GroupKind, usize)> = learner.groups().iter().map(|g| (g.kind, g.words)).collect();
        for (kind, words) in kinds {
            let moment = |which: &str| match self.state.get(&format!("{which}.{kind}")) {
                Some(StateTensor { data: StateData::F32(data), .. }) if data.len() == words => {
                    Some(data.clone())
                }
                _ => None,
            };
            let (first, second) = (moment("m"), moment("v"));
            if let Some(first) = first
                && second.is_some() == rule.optimizer.has_second()
            {
                learner.write_moments(&HostMoments { kind, first, second })?;
            }
        }
        learner.write_averages(self.averages())?;
        Ok(learner)
    }

    /// Returns the averaged weights of a saved run.
    fn averages(&self) -> BTreeMap<String, HostTensor> {
        let Network { tensors, classifiers, .. } = &self.network;
        let average = |(name, tensor): (&String, &StateTensor)| {
            let StateTensor { shape, data: StateData::F32(data) } = tensor else { return None };
            let name = name.strip_prefix(AVERAGE)?;
            let fits = tensors.get(name).or(classifiers.get(name)).is_some_and(|now| now.shape == *shape);
            fits.then(|| (name.to_string(), HostTensor { shape: shape.clone(), data: data.clone() }))
        };
        self.state.iter().filter_map(average).collect()
    }

    /// Returns the batches of an epoch, as indices in [`Self::set`].
    pub fn batches(&self, epoch: usize) -> Vec<Vec<usize>> {
        let cameras: Vec<u32> = self.train.iter().map(|&i| self.set.images[i].camera).collect();
        let classes = classes(&self.set, &self.train);
        let mut sampling = sampling(&self.config, &self.set, &self.train);
        if let Some(clusters) = &self.clusters {
            let each = sampling.batch_size / sampling.persons;
            sampling.persons = sampling.persons.min(clusters.count);
            sampling.batch_size = each * sampling.persons;
        }
        let batches = sampling.batches(&classes, &cameras, epoch as u64);
        batches.into_iter().map(|batch| batch.into_iter().map(|i| self.train[i]).collect()).collect()
    }

    /// Returns the distinct sizes of training batches, the largest first.
    pub fn batch_sizes(&self) -> Vec<usize> {
        self.config.sampling().sizes(self.train.len())
    }

    /// Returns the size of the largest batch.
    pub fn largest_batch(&self) -> usize {
        self.batch_sizes().first().copied().unwrap_or(self.config.schedule.batch_size)
    }

    /// Returns the number of images that run through the backbone at once.
    pub fn micro_batch(&self) -> usize {
        self.config.micro_batch().min(self.largest_batch()).min(self.share().each)
    }

    /// Returns the processes that train together.
    pub fn ranks(&self) -> Option<&Ranks> {
        self.ranks.as_deref()
    }

    /// Returns the pieces of batches that the ranks compute.
    pub fn share(&self) -> Share {
        Share::new(self.ranks(), self.config.schedule.batch_size)
    }

    /// Returns the distinct sizes of validation batches of up to `batch` images.
    pub fn evaluation_sizes(&self, batch: usize) -> Vec<usize> {
        let count = self.validation.len();
        let sizes = [if count >= batch { batch } else { 0 }, count % batch];
        sizes.into_iter().filter(|&size| size > 0).collect()
    }

    /// Returns the augmentation of training images, if any.
    pub fn augment(&self) -> Option<Augment> {
        let (data, mean) = (&self.config.data, self.network.preprocess.mean);
        let changes = data.crop_pad > 0 || data.erasing > 0.0;
        changes.then(|| Augment {
            crop_pad: data.crop_pad,
            erasing: data.erasing,
            area_max: data.erasing_area_max,
            aspect: data.erasing_aspect,
            attempts: data.erasing_attempts,
            fill: (data.erasing_fill == ErasingFill::Mean)
                .then(|| mean.map(|channel| (channel * 255.0).round() as u8)),
        })
    }
}

fn needed(value: &Option<String>, flag: &str) -> Result<PathBuf> {
    value.clone().map(PathBuf::from).ok_or_else(|| Error::Usage(format!("--{flag} is needed")))
}

/// Loads the images, with labels unless they train on clusters. Calls `note` with messages for the user.
fn labelled(config: &Config, note: impl FnMut(&String)) -> Result<TrainingSet> {
    if let Some(images) = &config.cluster.images {
        let cameras = Cameras::read(&config.cluster.cameras)?;
        return unlabelled_set(Path::new(images), &cameras, config.data.follow_links);
    }
    if let Some(text) = config.data.dir.as_deref().filter(|text| CrowdSize::is_meant(text)) {
        if config.data.val_persons.is_some() || config.schedule.eval_every > 0 {
            return Err(Error::Usage(format!(
                "{text}: drawn persons have no files to score, so --val-persons and --eval-every have no effect on them"
            )));
        }
        return Ok(crowd_set(text.parse()?));
    }
    let (set, notes) = training_set(&needed(&config.data.dir, "data")?, &config.data.load_options())?;
    notes.iter().for_each(note);
    Ok(set)
}

/// Returns the camera embedding's cameras, in the order of the data set; `None` without that embedding.
///
/// # Errors
/// [`Error::Usage`] if an image's camera isn't known, or if there is one camera only.
fn camera_table(config: &Config, sets: [&TrainingSet; 2]) -> Result<Option<CameraTable>> {
    let weight = config.model.camera_embedding as f32;
    if weight == 0.0 {
        return Ok(None);
    }
    let cameras = &sets[0].cameras;
    let mut images = sets.into_iter().flat_map(|set| &set.images);
    if let Some(image) = images.find(|image| !cameras.contains_key(&image.camera)) {
        return Err(Error::Usage(format!(
            "model.camera_embedding needs the camera of each image, and that of {} isn't known: cameras come from the \
             names of images, or from the column camera of a table of images",
            image.name
        )));
    }
    if cameras.len() < 2 {
        return Err(Error::Usage(
            "model.camera_embedding needs images by two cameras or more, and all are by one".to_string(),
        ));
    }
    Ok(Some(CameraTable { weight, names: cameras.values().cloned().collect() }))
}

/// Splits the images into those of persons who train and those of persons held out.
fn hold_out(config: &Config, set: TrainingSet) -> Result<(TrainingSet, TrainingSet)> {
    match config.data.val_persons {
        Some(share) => set.hold_out(share, config.data.seed),
        None => Ok((set, TrainingSet::default())),
    }
}

/// Hashes the training images that are files, for the model's record of them.
fn hash_images(set: &TrainingSet, train: &[usize]) -> Result<Vec<u64>> {
    let files = train.par_iter().filter_map(|&index| match &set.images[index].source {
        Source::File(path) => Some(path),
        Source::Drawn { .. } => None,
    });
    files.map(|path| hash::number_of_file(path)).collect()
}

/// Returns the persons of the training images.
fn classes(set: &TrainingSet, train: &[usize]) -> Vec<usize> {
    train.iter().map(|&index| set.images[index].class).collect()
}

/// Returns the composition of batches. With clusters, outliers count for the number of batches, so that it is the same
/// in every epoch.
fn sampling(config: &Config, set: &TrainingSet, train: &[usize]) -> Sampling {
    let passes = config.schedule.passes;
    let sampling = Sampling { family: set.family(), ..config.sampling() };
    let steps = match config.cluster.images {
        Some(_) => Some(passes * set.images.len()),
        None => (passes > 1).then_some(passes * train.len()),
    };
    Sampling { steps: steps.map(|images| (images / sampling.batch_size).max(1)), ..sampling }
}

/// Returns the number of steps of each epoch.
fn step_counts(config: &Config, set: &TrainingSet, train: &[usize]) -> StepCounts {
    sampling(config, set, train).step_counts(&classes(set, train), config.schedule.epochs)
}

/// Returns the indices in `set` of the training images and of the validation images.
fn divide(config: &Config, set: &TrainingSet) -> Result<(Vec<usize>, Vec<usize>)> {
    let (train, validation) = set.split(config.val_fraction(), config.data.seed);
    let (batch_size, wanted) = (config.schedule.batch_size, config.data.persons_per_batch);
    if batch_size < 2 || train.len() < 2 {
        return Err(Error::Usage(format!(
            "BatchNorm needs at least two images in a batch, but --batch-size is {batch_size} and {} images train",
            train.len()
        )));
    }
    if config.cluster.images.is_some() {
        return Ok((train, validation));
    }
    if config.data.sampler == Sampler::Cameras && !set.crosses_cameras() {
        return Err(Error::Usage(
            "data.sampler is cameras, but no person is in images of two cameras: cameras come from the names of images, \
             or from the column camera of a table of images"
                .to_string(),
        ));
    }
    let persons = classes(set, &train).into_iter().collect::<BTreeSet<usize>>().len();
    if wanted > persons {
        return Err(Error::Usage(format!(
            "data.persons_per_batch is {wanted}, but there are {persons} persons: --set \
             data.persons_per_batch={persons} with --batch-size {}, or 0 for batches of random images",
            persons * config.data.images_per_person
        )));
    }
    Ok((train, validation))
}

/// Returns the counts that a checkpoint stores under a name.
fn counts<'s>(state: &'s BTreeMap<String, StateTensor>, name: &str) -> Option<&'s [u64]> {
    match state.get(name) {
        Some(StateTensor { data: StateData::U64(words), .. }) => Some(words),
        _ => None,
    }
}

/// Checks that every part classifier is complete and has the right shapes.
fn check_heads(path: &Path, network: &Network, kind: ClassifierKind, classes: usize) -> Result<()> {
    let dim = network.config.dim;
    for part in 0..network.config.parts() {
        for tensor in checkpoint::classifier_tensors(kind, dim, classes) {
            let (name, shape) = (tensor.of(part), tensor.shape);
            let found = network.classifiers.get(&name).map(|tensor| &tensor.shape);
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
