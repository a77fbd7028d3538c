//! The training loop: batches, steps, validation, checkpoints. A resumed run gives the same bits as one that never
//! stopped.

use super::config::{BestBy, Config, OtherLog};
use super::job::{AVERAGE, Best, CLUSTERS, EPS, IMAGES, Job, OTHER_PIECES, POSITION, PROTOTYPES, Position};
use super::log::{
    ClusterCounts, EpochLine, Log, RetrievalScores, StepLine, epochs as logged_epochs, steps as logged_steps,
    write_csv,
};
use super::{config, curves, events, forecast, images};
use crate::checkpoint::{self, ClassifiersInfo, HostTensor, Network, StateData, StateTensor, TRAINED_ON};
use crate::datasets::labels::{Label, Person};
use crate::datasets::sampler::{self, Sample, Source, TrainingSet};
use crate::datasets::{LabelledImage, TestSet};
use crate::embeddings::Embeddings;
use crate::error::{Error, Result};
use crate::figures::Crowd;
use crate::gpu::{AdapterSummary, Context, PlanProfile, Precision, Readback};
use crate::images::augment::Augment;
use crate::images::decode::{DecodeOptions, Rgb};
use crate::images::preprocess;
use crate::kernels::adam::StepValues;
use crate::kernels::gradnorm::{CONTROL_WORDS, Control};
use crate::model::{DropPath, EvaluationStep, GroupKind, HostMoments, Learner, Traffic, TrainingStep};
use crate::observer::{Follower, Observer, Stage};
use crate::ranks::Ranks;
use crate::retrieval::dbscan::{Choice, Grouping, Radius, group};
use crate::retrieval::statistics::{CameraRows, CameraSums};
use crate::retry::retry;
use crate::shape::{ImageSize, VitConfig};
use crate::storage::lock::{FolderLock, holds_files};
use crate::storage::{atomic, hash};
use rayon::prelude::*;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Returns true if a run writes a file or folder of this name into its run folder.
pub fn is_own(name: &str) -> bool {
    ["config.toml", "log.jsonl", "log.csv", images::FILE, "curves.svg", LAST, BEST].contains(&name)
        || name == events::FILE
        || name.starts_with(REFIT)
}

/// Prefix of the folder in a run folder in which all persons train for the chosen number of epochs.
const REFIT: &str = "refit-";

/// Returns true if a folder holds anything but the files of a run that failed before its first step.
fn holds_run(out: &Path) -> Result<bool> {
    let refused = ["config.toml", images::FILE];
    holds_files(out, if out.join(images::FILE).exists() { &refused } else { &[] })
}

/// A request to train.
#[derive(Debug, Clone)]
pub struct Request {
    /// Run folder.
    pub out: PathBuf,
    /// Continue from its `last.safetensors`, if it has one.
    pub resume: bool,
    /// Limit of device memory, in bytes.
    pub memory: Option<u64>,
    /// Settings of the command line and of files.
    pub layers: config::Layers,
    /// True to profile a step of each stage; only for a process alone.
    pub profile: bool,
    /// The processes that train together; `None` for one alone. The first one writes the run folder.
    pub ranks: Option<Arc<Ranks>>,
}

/// An event of a run.
pub enum Event {
    /// A step is done.
    Step {
        /// Its line in the log.
        line: StepLine,
        /// Number of the run's last step.
        steps: u64,
    },
    /// An epoch is done.
    Epoch(EpochLine),
    /// A step of a stage was profiled, see [`Request::profile`].
    Profile {
        /// Description of the stage.
        stage: String,
        /// Times of the step's dispatches.
        profile: PlanProfile,
    },
}

/// Images for the retrieval scores of an epoch's model.
#[derive(Debug, Clone)]
pub struct RetrievalSet {
    /// The images.
    pub set: TestSet,
    /// True if images of the query's person by the query's camera count as matches.
    pub ignore_cameras: bool,
    /// True to ignore the EXIF orientation.
    pub ignore_exif: bool,
}

/// Scores a network by retrieval.
///
/// # Errors
/// Those of images and adapter; [`Error::Interrupted`] after a signal.
pub type Score = fn(&RetrievalSet, &Context, &Network, &dyn Observer) -> Result<RetrievalScores>;

/// The sets of images for retrieval scores.
struct RetrievalSets {
    /// The data set's queries and gallery, for scores every few epochs.
    test: Option<RetrievalSet>,
    /// The images of persons held out of training; each is searched for among all others.
    held_out: Option<RetrievalSet>,
    score: Score,
}

impl RetrievalSets {
    fn of(job: &Job, score: Score) -> Result<RetrievalSets> {
        let data = &job.config.data;
        let retrieval_set =
            |set, ignore_cameras| RetrievalSet { set, ignore_cameras, ignore_exif: data.ignore_exif };
        let held_out = (!job.held_out.classes.is_empty()).then(|| {
            let labelled = |sample: &Sample| {
                let label = Label { person: Person::Known(sample.class as u32), camera: sample.camera };
                let Source::File(path) = &sample.source else { return None };
                Some(LabelledImage::new(path.clone(), sample.name.clone(), label))
            };
            let images = job.held_out.images.iter().filter_map(labelled).collect();
            let mut set = TestSet::of_each_other("persons held out", images);
            set.label_names.cameras = job.held_out.cameras.clone();
            retrieval_set(set, !job.held_out.crosses_cameras())
        });
        let mut test = None;
        if job.config.schedule.eval_every > 0 {
            let Some(dir) = data.dir.as_deref() else {
                return Err(Error::Usage(
                    "--eval-every needs --data, with queries and a gallery".to_string(),
                ));
            };
            let set = TestSet::load(Path::new(dir), &data.load_options(), true)?;
            if !set.has_split {
                return Err(Error::Usage(format!(
                    "--eval-every needs images apart from those that train: {dir} has no query and gallery"
                )));
            }
            if let Some(cameras) = &job.network.config.cameras {
                let by = set.evaluated().map(|image| (image, set.label_names.camera(image.label.camera)));
                if let Some((image, camera)) =
                    by.into_iter().find(|(_, camera)| cameras.row(camera).is_none())
                {
                    return Err(Error::Usage(format!(
                        "--eval-every: {} is by camera {camera}, which has no row in the camera embedding, since no \
                         training image is by it",
                        image.name
                    )));
                }
            }
            test = Some(retrieval_set(set, false));
        }
        Ok(RetrievalSets { test, held_out, score })
    }
}

/// The outcome of a run.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Run folder.
    pub out: PathBuf,
    /// Configuration of the run.
    pub config: Config,
    /// Progress of an unfinished run, in words; `None` if the run is finished.
    pub unfinished: Option<String>,
    /// Epoch of the model in `best.safetensors`, if known.
    pub epoch: Option<usize>,
    /// Reason for this choice.
    pub reason: String,
    /// The log's line of that epoch.
    pub line: Option<EpochLine>,
    /// Number of epochs for which all persons trained afterwards. `best.safetensors` is then that model.
    pub refit: Option<usize>,
}

/// The checkpoint to resume from.
const LAST: &str = "last.safetensors";

/// The best model.
const BEST: &str = "best.safetensors";

/// Names the blocks that train.
fn unfrozen(blocks: usize, embeddings: bool) -> String {
    let (s, more) = (if blocks == 1 { "" } else { "s" }, if embeddings { " and the embeddings" } else { "" });
    format!("{blocks} block{s}{more} unfrozen")
}

/// Most device memory for the clustering, in bytes. The training step keeps its own memory meanwhile.
const MOST_FOR_CLUSTERS: u64 = 2 << 30;

/// The message of an interrupted run.
const SAVED: &str = "the state is saved; --resume continues";

/// A batch in host memory.
struct Batch {
    /// Persons of all images.
    labels: Vec<u32>,
    /// Names of all images.
    names: Vec<String>,
    /// Pixels of the own images.
    bytes: Vec<u8>,
    /// Cameras of the own images, as in [`Sample`].
    cameras: Vec<u32>,
    /// Of the own images.
    flips: Vec<u32>,
    /// Rectangles of the own images to fill with noise.
    erased: Vec<[u32; 4]>,
}

/// Trains, and writes all results into the run folder.
///
/// If the adapter is lost or out of memory, opens it again and continues from the last checkpoint, with the same bits.
/// A second such failure within a minute, or before the next checkpoint, ends the run. With several ranks the first such
/// failure does.
///
/// # Errors
/// [`Error::Usage`] for a folder that holds a run already, or settings that differ from the saved ones;
/// [`Error::NotFinite`] if loss or gradients overflow, after saving the state before that step; [`Error::Interrupted`]
/// after a signal, after saving the state; those of weights, images and adapter.
pub fn run(request: &Request, observer: &dyn Follower<Event>, score: Score) -> Result<Summary> {
    let ranks = request.ranks.as_deref();
    let begun = Ranks::agree(ranks, begin(request, observer))?;
    let resumes = begun.resumes;
    let source = begun.config.as_ref().map_or(ConfigSource::Layers(&request.layers), ConfigSource::Config);
    let end = train_in(&request.out, &source, resumes, request, observer, score)?;
    let refit = match end.refit_epochs() {
        Some(epochs) => refit(request, &end, epochs, observer, score)?,
        None => None,
    };
    end.summary(&request.out, refit, ranks)
}

/// A run folder that is ready.
struct Begun {
    /// True to continue from its checkpoint.
    resumes: bool,
    /// The configuration of a run without one.
    config: Option<Config>,
    _lock: Option<FolderLock>,
}

/// Checks and locks the run folder.
fn begin(request: &Request, observer: &dyn Follower<Event>) -> Result<Begun> {
    let out = &request.out;
    if !request.resume && holds_run(out)? {
        return Err(Error::Usage(format!(
            "{} is not empty: use --resume to continue its run, or another --out to start a new one",
            out.display()
        )));
    }
    let mut lock = None;
    if Ranks::is_first(request.ranks.as_deref()) {
        std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
        lock = Some(FolderLock::acquire(out)?);
    }
    let resumes = request.resume && out.join(LAST).exists();
    if request.resume && !resumes {
        // A run that was killed before its first checkpoint has at most a best model of its first epoch.
        let best = out.join(BEST);
        if best.exists()
            && (!out.join(images::FILE).exists() || logged_epochs(&out.join("log.jsonl"))?.len() > 1)
        {
            return Err(Error::Usage(format!(
                "{} has no {LAST} to resume from, and a new run would replace its {BEST}: choose another --out",
                out.display()
            )));
        }
        observer.note(&format!("nothing to resume in {}: starting a new run", out.display()));
    }
    // A run that was killed before its first checkpoint starts again with its own configuration if none is given.
    let saved = out.join("config.toml");
    let restarts = request.resume && !resumes && saved.exists();
    let config = match restarts && Config::resolve(&request.layers)?.model.backbone.is_none() {
        true => Some(Config::resume(&saved, &request.layers)?),
        false => None,
    };
    Ok(Begun { resumes, config, _lock: lock })
}

/// The source of a run's configuration.
enum ConfigSource<'a> {
    /// The user's settings.
    Layers(&'a config::Layers),
    /// A modified configuration of another run.
    Config(&'a Config),
}

impl ConfigSource<'_> {
    fn config(&self) -> Result<Config> {
        match self {
            ConfigSource::Layers(layers) => Config::resolve(layers),
            ConfigSource::Config(config) => Ok((*config).clone()),
        }
    }

    /// Returns the settings that override the saved configuration of a resumed run.
    fn on_top(&self) -> config::Layers {
        match self {
            ConfigSource::Layers(layers) => (*layers).clone(),
            ConfigSource::Config(config) => limits(config),
        }
    }
}

/// Returns the settings that a resumed run doesn't take from the saved configuration: step limit and adapter.
fn limits(config: &Config) -> config::Layers {
    let steps = config.schedule.max_steps.map(|steps| ("schedule.max_steps".to_string(), steps.to_string()));
    let adapter = config.device.adapter.clone().map(|name| ("device.adapter".to_string(), name));
    config::Layers { flags: steps.into_iter().chain(adapter).collect(), ..config::Layers::default() }
}

/// Trains all persons from the start, for `epochs` epochs, in a folder inside the run folder. The model becomes the
/// outer run's best. Returns `None` if a step limit stops it early, else the number of epochs.
fn refit(
    request: &Request,
    first: &RunEnd,
    epochs: usize,
    observer: &dyn Follower<Event>,
    score: Score,
) -> Result<Option<usize>> {
    let name = format!("{REFIT}{epochs}");
    let out = request.out.join(&name);
    let mut config = first.config.clone();
    config.data.val_persons = None;
    config.schedule.best = BestBy::Last;
    config.schedule.refit = false;
    config.schedule.epochs = epochs;
    if let Some(most) = &mut config.schedule.max_steps {
        if *most <= first.position.step {
            return Ok(None);
        }
        *most -= first.position.step;
    }
    let ranks = request.ranks.as_deref();
    let resumes = out.join(LAST).exists();
    let begun = || {
        if !Ranks::is_first(ranks) {
            return Ok(None);
        }
        Log::mark_refit(&request.out.join("log.jsonl"), epochs, &name)?;
        std::fs::create_dir_all(&out).map_err(Error::io("create", &out))?;
        FolderLock::acquire(&out).map(Some)
    };
    let _lock = Ranks::agree(ranks, begun())?;
    observer.note(&format!("training all persons for {epochs} epochs in {}", out.display()));
    let end = train_in(&out, &ConfigSource::Config(&config), resumes, request, observer, score)?;
    if !end.is_whole() {
        return Ok(None);
    }
    let (model, best) = (out.join(BEST), request.out.join(BEST));
    if Ranks::is_first(ranks) && (!best.exists() || hash::of_file(&model)? != hash::of_file(&best)?) {
        atomic::copy_atomically(&model, &best)?;
    }
    Ok(Some(epochs))
}

/// The state of a run at its end.
struct RunEnd {
    config: Config,
    position: Position,
    /// Number of steps of all epochs.
    steps: u64,
    keeps_last: bool,
    held_out: usize,
}

impl RunEnd {
    fn of(job: &Job) -> RunEnd {
        RunEnd {
            config: job.config.clone(),
            position: job.position,
            steps: job.schedule.all_steps(),
            keeps_last: job.keeps_last(),
            held_out: job.held_out.classes.len(),
        }
    }

    /// Returns true if all epochs are done, false if a step limit stopped the run.
    fn is_whole(&self) -> bool {
        self.position.epoch >= self.config.schedule.epochs
    }

    /// Returns the number of epochs for which all persons train next, if they do.
    fn refit_epochs(&self) -> Option<usize> {
        let epochs = self.position.best.and_then(|best| best.epoch).map(|epoch| epoch + 1);
        epochs.filter(|_| self.config.schedule.refit && self.is_whole())
    }

    fn summary(&self, out: &Path, refit: Option<usize>, ranks: Option<&Ranks>) -> Result<Summary> {
        let RunEnd { config, position, .. } = self;
        let is_between = position.batch > 0 || position.epoch == 0;
        let epoch = match position.best {
            _ if self.keeps_last && is_between => None,
            _ if self.keeps_last => position.epoch.checked_sub(1),
            best => best.and_then(|best| best.epoch),
        };
        let unfinished = if !self.is_whole() {
            Some(format!("stopped after {} of {} steps", position.step, self.steps))
        } else if config.schedule.refit && refit.is_none() {
            Some("stopped before all persons were trained".to_string())
        } else {
            None
        };
        let reason = match config.schedule.best {
            _ if self.keeps_last && is_between => format!("the model after {} steps", position.step),
            BestBy::Last => "the last one".to_string(),
            BestBy::Accuracy if self.keeps_last => {
                "the last one, as there are no validation images".to_string()
            }
            BestBy::Accuracy => "the best by accuracy on the validation images".to_string(),
            BestBy::ValMap => format!("the best by mAP among {} persons held out of training", self.held_out),
            BestBy::TestMap => {
                "the best by mAP on the test set, which makes its scores there too good".to_string()
            }
        };
        let lines = match Ranks::is_first(ranks) {
            true => logged_epochs(&out.join("log.jsonl"))?,
            false => Vec::new(),
        };
        Ok(Summary {
            out: out.to_path_buf(),
            config: config.clone(),
            unfinished,
            epoch,
            reason,
            line: lines.into_iter().find(|line| Some(line.epoch) == epoch),
            refit,
        })
    }
}

/// Trains in a folder, from the start or from its last checkpoint.
fn train_in(
    out: &Path,
    source: &ConfigSource<'_>,
    resumes: bool,
    request: &Request,
    observer: &dyn Follower<Event>,
    score: Score,
) -> Result<RunEnd> {
    let last = out.join(LAST);
    let ranks = &request.ranks;
    let is_first = Ranks::is_first(ranks.as_deref());
    let job = || {
        if resumes {
            Job::resume(out, &source.on_top(), ranks.clone(), observer)
        } else {
            Job::start(source.config()?, ranks.clone(), observer)
        }
    };
    let loaded = || {
        let job = job()?;
        let retrieval_sets = RetrievalSets::of(&job, score)?;
        if is_first {
            atomic::write_atomically(&out.join("config.toml"), job.config.to_toml().as_bytes())?;
            job.images.write(out)?;
        }
        Ok((job, retrieval_sets))
    };
    let (job, retrieval_sets) = Ranks::agree(ranks.as_deref(), loaded())?;
    if let Some(ranks) = ranks {
        Ranks::agree(Some(ranks), check_job(&job, ranks))?;
    }
    if resumes && is_first {
        note_other_ranks(out, &job, observer)?;
    }
    if resumes && job.is_finished() {
        observer.note(&format!("the run in {} is finished", out.display()));
        return Ok(RunEnd::of(&job));
    }
    let limits = limits(&job.config);
    let mut options = job.config.device.options();
    let train = |(job, resumes): &mut (Job, bool), context: &Context| {
        let begun = || {
            let learner = job.learner(context)?;
            forecast::check_memory(job, &learner, context, request.memory)?;
            Ok((learner, if is_first { Some(open_log(out, job, *resumes)?) } else { None }))
        };
        let (learner, log) = Ranks::agree(job.ranks(), begun())?;
        let run = Run {
            context,
            job,
            out,
            log,
            learner,
            steps: BTreeMap::new(),
            in_flight: VecDeque::new(),
            idle: Vec::new(),
            done: Instant::now(),
            timed: None,
            evaluations: BTreeMap::new(),
            features: None,
            profile: request.profile,
            unprofiled: request.profile,
            retrieval_sets: &retrieval_sets,
            observer,
        };
        run.train()
    };
    if let Some(ranks) = ranks {
        options.local_rank = ranks.local_rank();
        let context = Ranks::agree(Some(ranks), Context::open(&options).map_err(Error::from))?;
        context.adapter.notes().iter().for_each(|note| observer.note_once(note));
        Ranks::agree(Some(ranks), check_adapters(&context, ranks))?;
        return train(&mut (job, resumes), &context);
    }
    let goes_on = ", and the run continues from its last checkpoint";
    retry(&options, observer, goes_on, &mut (job, resumes), train, |(job, resumes), _| {
        *resumes = last.exists();
        // The saved configuration includes all settings that overrode it, except for the limits.
        *job = if *resumes {
            Job::resume(out, &limits, None, observer)?
        } else {
            let job = Job::start(source.config()?, None, observer)?;
            job.images.write(out)?;
            job
        };
        Ok(job.position.step)
    })
}

/// Notes that the saved run had another number of ranks.
fn note_other_ranks(out: &Path, job: &Job, observer: &dyn Observer) -> Result<()> {
    let steps = logged_steps(&out.join("log.jsonl"))?;
    let saved = steps.iter().rev().find(|line| line.step <= job.position.step);
    let (before, now) = match saved {
        Some(line) => (line.ranks.unwrap_or(1), job.ranks().map_or(1, Ranks::size)),
        None => return Ok(()),
    };
    if before != now {
        observer.note(&format!(
            "the saved run had {before} {}, and this one has {now}: {OTHER_PIECES}",
            if before == 1 { "process" } else { "processes" }
        ));
    }
    Ok(())
}

/// Opens the log of a new or resumed run.
fn open_log(out: &Path, job: &Job, resumes: bool) -> Result<Log> {
    let log = out.join("log.jsonl");
    let log = match resumes {
        true => Log::resume(&log, job.position.step, job.position.epoch)?,
        false => Log::create(&log)?,
    };
    match job.config.schedule.log {
        OtherLog::Tensorboard => log.with_events(),
        OtherLog::None => Ok(log),
    }
}

/// Checks that all ranks compute on adapters of one kind by the same kernels: only then are their results equal.
fn check_adapters(context: &Context, ranks: &Ranks) -> Result<()> {
    let Context { adapter: AdapterSummary { name, backend, driver, .. }, .. } = context;
    let kernels = (context.family(), context.storage(), context.fragments(), context.max_tensor_bytes());
    let own = format!("{name}, {backend}, {driver}, {kernels:?}");
    let all = ranks.gather_each(own.as_bytes())?;
    let Some(rank) = all.iter().position(|other| *other != all[0]) else { return Ok(()) };
    let [first, other] = [&all[0], &all[rank]].map(|text| String::from_utf8_lossy(text).into_owned());
    Err(Error::Usage(format!("rank 0 computes on {first}, and rank {rank} on {other}")).hinted(
        "ranks need adapters of one kind and the same variables LAT_…, for all to have the same results",
    ))
}

/// Checks that all ranks have the same images and the same state of the run.
fn check_job(job: &Job, ranks: &Ranks) -> Result<()> {
    let Position { step, epoch, batch, .. } = job.position;
    let own = [step, epoch as u64, batch as u64, job.images.hash(), hash::number(&job.config.to_toml())];
    let all = ranks.gather_each(&own)?;
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::Usage(format!(
            "rank {rank} has other images, settings or another state of the run than rank 0"
        ))
        .hinted("the data set and the run folder must be the same on all machines")),
    }
}

/// Most steps in flight: the host prepares one while the adapter computes another.
const MAX_IN_FLIGHT: usize = 2;

/// Interval between polls of the adapter while the host waits for a batch. Sets the resolution of step times.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The readbacks of a step's results.
struct Results {
    losses: Readback,
    control: Readback,
    /// Capacity of `losses`, in words.
    capacity: usize,
}

/// A step in flight.
struct SentStep {
    /// Position before the step.
    before: Position,
    lr: f64,
    names: Vec<String>,
    gpu_bytes: u64,
    results: Results,
}

/// A step's line in the log, with the time since the end of the previous step.
struct Timed {
    line: StepLine,
    images: usize,
    seconds: f64,
    /// True if the time is shared with another step.
    shares: bool,
}

impl Timed {
    /// Averages the times of this step and of `before` if the host probably noticed both ends together: on a busy
    /// machine it notices the first end late, which leaves almost no time for the second step.
    fn share(&mut self, before: &mut Timed) {
        let rate = |timed: &Timed| timed.images as f64 / timed.seconds;
        if before.shares || self.seconds > TOGETHER || rate(self) < FASTER * rate(before) {
            return;
        }
        let each = (before.seconds + self.seconds) / (before.images + self.images) as f64;
        for timed in [before, self] {
            timed.seconds = each * timed.images as f64;
            timed.line.images_per_s = 1.0 / each;
            timed.shares = true;
        }
    }
}

/// Longest time between ends that the host may have noticed together, in seconds.
const TOGETHER: f64 = 0.01;
/// A step this many times as fast as the previous one was noticed together with it.
const FASTER: f64 = 3.0;

/// A run on an adapter.
struct Run<'c, 'o> {
    context: &'c Context,
    job: &'o mut Job,
    out: &'o Path,
    /// `None` for a rank that writes no files.
    log: Option<Log>,
    learner: Learner<'c>,
    /// Recorded steps of this stage, by batch size. The last batch of an epoch may be smaller.
    steps: BTreeMap<usize, TrainingStep>,
    /// Steps in flight, oldest first.
    in_flight: VecDeque<SentStep>,
    /// Readbacks to reuse.
    idle: Vec<Results>,
    /// End of the last step whose results were read.
    done: Instant,
    /// The line of that step, not yet in the log.
    timed: Option<Timed>,
    evaluations: BTreeMap<usize, EvaluationStep>,
    /// With clusters: embeddings of all images by the model of the last epoch's end.
    features: Option<Features>,
    /// True to profile a step of each stage.
    profile: bool,
    /// True until the step of this stage is profiled.
    unprofiled: bool,
    retrieval_sets: &'o RetrievalSets,
    observer: &'o dyn Follower<Event>,
}

impl Run<'_, '_> {
    fn train(mut self) -> Result<RunEnd> {
        if self.job.is_finished() {
            self.save_all()?;
        }
        while !self.job.is_finished() {
            self.epoch()?;
        }
        Ok(RunEnd::of(self.job))
    }

    /// Saves the checkpoint, and the best model too if that is the last one.
    fn save_all(&mut self) -> Result<()> {
        if !self.job.keeps_last() {
            return self.save(LAST);
        }
        if self.job.is_clustered() && self.features.is_none() {
            self.features = Some(self.embed_all()?);
        }
        // The checkpoint is written last: a run that is killed in between repeats its last steps.
        self.save(BEST)?;
        if self.job.config.optim.averages().is_some() || self.job.is_clustered() {
            return self.save(LAST);
        }
        match self.log {
            Some(_) => atomic::copy_atomically(&self.out.join(BEST), &self.out.join(LAST)),
            None => Ok(()),
        }
    }

    /// Trains to the end of the epoch or of the run.
    fn epoch(&mut self) -> Result<()> {
        let start = Instant::now();
        let epoch = self.job.position.epoch;
        self.enter_stage(epoch)?;
        let features = self.features.take();
        if self.job.position.batch == 0 {
            if self.job.is_clustered() {
                self.renew_clusters(features)?;
            } else if self.job.config.loss.prototypes > 0.0 {
                self.rebuild_prototypes()?;
            }
        }
        let job = &self.job;
        let (seed, batch_size) = (job.config.data.seed, job.config.schedule.batch_size);
        let first = job.position.batch;
        let left = job.schedule.steps().saturating_sub(job.position.step) as usize;
        let samples: Vec<Vec<Sample>> = (job.batches(epoch).into_iter())
            .map(|batch| batch.into_iter().map(|i| job.set.images[i].clone()).collect())
            .collect();
        let batches = samples.len();
        let reader = Reader::new(job);
        let share = job.share();
        let changes =
            Changes { augment: job.augment(), flip: job.config.data.flip, seed, epoch: epoch as u64 };

        let done: Result<()> = std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let wanted = &samples[first..batches.min(first + left)];
            scope.spawn(move || {
                for (i, samples) in wanted.iter().enumerate() {
                    let place = (first + i) * batch_size;
                    let own = share.places(samples.len());
                    if sender.send(reader.read(samples, own, Some((&changes, place)))).is_err() {
                        return;
                    }
                }
            });
            self.done = Instant::now();
            loop {
                let batch = match receiver.recv_timeout(POLL_INTERVAL) {
                    Ok(batch) => batch,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        self.context.poll();
                        continue;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                };
                self.send_step(batch?)?;
                self.drain(MAX_IN_FLIGHT - 1)?;
                let every = self.job.config.schedule.save_every;
                let signalled = Ranks::agree(self.job.ranks(), self.observer.check(SAVED));
                let at_save = every > 0 && self.job.position.step.is_multiple_of(every);
                if signalled.is_err() || at_save {
                    self.drain(0)?;
                    self.save(LAST)?;
                    self.done = Instant::now();
                }
                signalled?;
            }
            self.drain(0)
        });
        done?;
        self.describe_exchange(epoch);
        if self.job.position.batch == batches {
            self.end_epoch(start)?;
        }
        self.save_all()
    }

    /// Describes the time that the ranks exchanged gradients in an epoch.
    fn describe_exchange(&mut self, epoch: usize) {
        let all = self.steps.values_mut().map(TrainingStep::take_exchange_times);
        let [total, overlapped] = all.fold([0.0; 2], |[total, overlapped], times| {
            [total + times.total.as_secs_f64(), overlapped + times.overlapped.as_secs_f64()]
        });
        if total > 0.0 {
            self.observer.detail(&format!(
                "epoch {epoch}: gradients exchanged in {total:.2} s, {:.0} % of it during the backward pass",
                100.0 * overlapped / total
            ));
        }
    }

    /// Calls `take` with the index in [`Job::set`] and the embedding of each of some images, without augmentation. The
    /// ranks embed one batch each at a time.
    fn embed(&self, indices: &[usize], mut take: impl FnMut(usize, &[f32])) -> Result<()> {
        let reader = Reader::new(self.job);
        let mut recorded: BTreeMap<usize, EvaluationStep> = BTreeMap::new();
        let stage = Stage::new(self.observer, "embedding", indices.len(), SAVED);
        let ranks = self.job.ranks();
        let (rank, count) = ranks.map_or((0, 1), |ranks| (ranks.rank(), ranks.size()));
        let batches: Vec<&[usize]> = indices.chunks(self.job.micro_batch()).collect();
        for round in batches.chunks(count) {
            let images = round.concat();
            let mut embedded = || {
                let own =
                    round.get(rank).map_or(Ok(Vec::new()), |own| self.rows(own, &reader, &mut recorded))?;
                stage.advance(images.len())?;
                Ok(own)
            };
            let own = self.saved_if_interrupted(Ranks::agree(ranks, embedded()))?;
            let rows = match ranks {
                Some(ranks) => ranks.gather(&own)?,
                None => own,
            };
            let length = rows.len() / images.len();
            images.iter().zip(rows.chunks(length)).for_each(|(&index, row)| take(index, row));
        }
        Ok(())
    }

    /// Embeds one batch.
    fn rows(
        &self,
        indices: &[usize],
        reader: &Reader,
        recorded: &mut BTreeMap<usize, EvaluationStep>,
    ) -> Result<Vec<f32>> {
        let samples: Vec<Sample> = indices.iter().map(|&i| self.job.set.images[i].clone()).collect();
        let count = samples.len();
        let batch = reader.read(&samples, 0..count, None)?;
        let step = match recorded.entry(count) {
            Entry::Occupied(step) => step.into_mut(),
            Entry::Vacant(place) => place.insert(self.learner.record_embedding(count)?),
        };
        step.write(self.context, &batch.bytes);
        step.write_cameras(self.context, &self.job.camera_rows(&batch.cameras));
        step.plan.run(self.context)?;
        Ok(self.context.read(&step.output)?)
    }

    /// Saves the state if a signal ended an operation between two steps.
    fn saved_if_interrupted<T>(&self, result: Result<T>) -> Result<T> {
        result.or_else(|error| {
            if error.is_interruption() {
                self.save(LAST)?;
            }
            Err(error.with_outcome(SAVED))
        })
    }

    /// Sets each person's prototype to the mean embedding of its training images without augmentation, to unit length.
    fn rebuild_prototypes(&mut self) -> Result<()> {
        let mut means = Prototypes::default();
        let images = &self.job.set.images;
        self.embed(&self.job.train, |index, row| means.add(images[index].class, row))?;
        self.write_prototypes(means)
    }

    fn write_prototypes(&mut self, means: Prototypes) -> Result<()> {
        let prototypes = means.finish(self.job.prototypes(), self.job.config.loss.temperature);
        self.learner.write_prototypes(&prototypes)
    }

    /// Embeds all images, without augmentation.
    fn embed_all(&self) -> Result<Features> {
        let TrainingSet { images, cameras, .. } = &self.job.set;
        let all: Vec<usize> = (0..images.len()).collect();
        let (mut rows, mut sums) = (Vec::new(), None);
        self.embed(&all, |index, row| {
            let camera = cameras.get(&images[index].camera).map(String::as_str);
            sums.get_or_insert_with(|| CameraSums::new(row.len())).add(camera, row);
            rows.extend_from_slice(row);
        })?;
        let sums = sums.ok_or_else(|| Error::NothingToDo("there is no image".to_string()))?;
        Ok(Features { dim: rows.len() / images.len(), rows, statistics: sums.rows(None) })
    }

    /// Groups the images by their embeddings less the camera statistics, and sets each cluster's prototype to the mean of
    /// its embeddings. `features` are those of all images, if they are known.
    fn renew_clusters(&mut self, features: Option<Features>) -> Result<()> {
        let Features { rows: features, dim, statistics } = features.map_or_else(|| self.embed_all(), Ok)?;
        let (job, context, observer) = (&*self.job, self.context, self.observer);
        let TrainingSet { images, cameras, .. } = &job.set;
        let parts = job.network.config.parts();
        let mut rows = features.clone();
        for (row, sample) in rows.chunks_exact_mut(dim).zip(images) {
            statistics.subtract_mean(cameras.get(&sample.camera).map(String::as_str), row, parts);
        }
        let rows = Embeddings { paths: Vec::new(), dim, rows };
        let mut options = job.config.cluster.options();
        options.radius = job.eps.map_or(options.radius, Radius::Fixed);
        let memory = context.default_memory().min(MOST_FOR_CLUSTERS);
        let grouping = group(context, &rows, &options, memory, job.ranks(), observer, SAVED);
        let Grouping { eps, clusters, tried, .. } = self.saved_if_interrupted(grouping)?;
        for Choice { eps, clusters, silhouette } in &tried {
            let silhouette = silhouette.map_or("none".to_string(), |value| format!("{value:.4}"));
            observer.detail(&format!(
                "eps {eps:.2}: {} clusters of {:.1} % of the images, silhouette {silhouette}",
                clusters.count,
                100.0 * clusters.share()
            ));
        }
        let epoch = job.position.epoch;
        observer.note(&format!(
            "epoch {epoch}: {} clusters of {} images, {} outliers, eps {eps}",
            clusters.count,
            clusters.labels.len() - clusters.outliers(),
            clusters.outliers()
        ));
        for size in clusters.suspicious() {
            observer.note(&format!(
                "epoch {epoch}: a cluster of {size} of {} images is hardly one person",
                images.len()
            ));
        }
        self.job.eps = Some(eps);
        self.job.take_clusters(clusters);
        let mut means = Prototypes::default();
        for &index in &self.job.train {
            means.add(self.job.set.images[index].class, &features[index * dim..][..dim]);
        }
        self.write_prototypes(means)?;
        // They read as many prototypes as there were.
        self.steps.clear();
        Ok(())
    }

    /// Opens the groups that train in the epoch, and notes the cost of a step.
    fn enter_stage(&mut self, epoch: usize) -> Result<()> {
        let stage = self.job.schedule.stage(epoch);
        if self.learner.trainable() != stage {
            self.learner.open(stage)?;
            self.steps.clear();
            self.unprofiled = self.profile;
        }
        if self.steps.is_empty() {
            let batch = self.job.largest_batch();
            self.step_for(batch)?;
            let recorded = &self.steps[&batch];
            let plan = recorded.plan.summary();
            let depth = self.job.network.config.depth;
            let open = depth - stage.first_open;
            let (forward, backward) = recorded.dispatches_of_block(depth - 1);
            self.observer.note(&format!(
                "epoch {epoch}: {}, {} parameters train",
                unfrozen(open, stage.embeddings),
                self.learner.trainable_parameters(),
            ));
            self.observer.detail(&format!(
                "epoch {epoch}: {} dispatches per step{}, {} MiB of device memory",
                plan.dispatches,
                if open > 0 {
                    format!(" ({forward} forward and {backward} backward for the last block)")
                } else {
                    String::new()
                },
                self.device_bytes() >> 20
            ));
            if let (Some(ranks), Some(traffic)) = (self.job.ranks(), recorded.traffic()) {
                let Traffic { parts, gradients } = traffic;
                self.observer.note(&format!(
                    "epoch {epoch}: each of {} ranks sends {} bytes per step: gradients {gradients}, parts {parts}",
                    ranks.size(),
                    gradients + parts
                ));
            }
            let micro_batch = self.job.micro_batch();
            if micro_batch < self.job.share().places(batch).len() {
                let whole = self.learner.need(stage, batch, batch)?;
                self.observer.detail(&format!(
                    "micro-batch {micro_batch}: a step of {batch} images needs {} MiB instead of {} MiB, and {:.2} times the work",
                    recorded.bytes() >> 20,
                    whole.step_bytes >> 20,
                    plan.flops / whole.step.flops
                ));
            }
        }
        Ok(())
    }

    fn step_for(&mut self, batch: usize) -> Result<()> {
        if !self.steps.contains_key(&batch) {
            self.steps.insert(batch, self.learner.record_step(batch, self.job.micro_batch())?);
        }
        Ok(())
    }

    fn device_bytes(&self) -> u64 {
        let steps: u64 = self.steps.values().map(TrainingStep::bytes).sum();
        let evaluations: u64 = self.evaluations.values().map(EvaluationStep::bytes).sum();
        self.learner.state_bytes() + steps + evaluations
    }

    /// Profiles the step for `count` images, after its inputs are written. Restores the state that the replays change.
    fn profile(&mut self, count: usize) -> Result<()> {
        let state = self.learner.save_state()?;
        let profile = self.steps[&count].plan.profile(self.context);
        self.learner.restore_state(&state);
        let open = self.job.network.config.depth - self.learner.trainable().first_open;
        let epoch = self.job.position.epoch;
        let stage = format!(
            "epoch {epoch}, {}, a step of {count}",
            unfrozen(open, self.learner.trainable().embeddings)
        );
        self.observer.event(Event::Profile { stage, profile: profile? })
    }

    /// Submits a step.
    fn send_step(&mut self, batch: Batch) -> Result<()> {
        let count = batch.labels.len();
        self.step_for(count)?;
        let before = self.job.position;
        let Position { step, epoch, batch: place, .. } = before;
        let number = step + 1;
        let Job { config, schedule, network, .. } = &self.job;
        let lr = schedule.lr(epoch, place);
        let values = StepValues {
            seed: config.data.seed,
            number: number as u32,
            place: (place * config.schedule.batch_size) as u32,
            epoch: epoch as u32,
            weight_decay: config.optim.weight_decay as f32,
            clip_norm: config.optim.clip_norm as f32,
            groups: schedule.groups(epoch, place),
        };
        let recorded = &self.steps[&count];
        let context = self.context;
        recorded.write(context, &batch.bytes, &batch.labels, &batch.flips);
        recorded.write_erased(context, &batch.erased);
        recorded.write_cameras(context, &self.job.camera_rows(&batch.cameras));
        let rate = config.model.drop_path as f32;
        if rate > 0.0 {
            let (seed, first) = (config.data.seed, place * config.schedule.batch_size);
            let epoch = epoch as u64;
            let mut masks = DropPath::masks(rate, network.config.depth, count, seed, epoch, first);
            if network.config.jigsaw {
                masks.extend(DropPath::jigsaw_masks(rate, network.config.depth, count, seed, epoch, first));
            }
            recorded.write_drop_path(context, &masks);
        }
        context.write(&recorded.step, bytemuck::cast_slice(&values.words()));
        if std::mem::take(&mut self.unprofiled) {
            self.profile(count)?;
            self.done = Instant::now();
        }
        let Some(recorded) = self.steps.get_mut(&count) else {
            unreachable!("the step for {count} images is recorded");
        };
        recorded.run(context, self.job.ranks())?;
        let words = recorded.losses.words;
        let mut results = match self.idle.pop().filter(|results| results.capacity >= words) {
            Some(results) => results,
            None => {
                let losses = Readback::new(context, words)?;
                Results { losses, control: Readback::new(context, CONTROL_WORDS)?, capacity: words }
            }
        };
        results.losses.start(context, &recorded.losses, words);
        results.control.start(context, &recorded.control, CONTROL_WORDS);
        let gpu_bytes = self.device_bytes();
        self.in_flight.push_back(SentStep { before, lr, names: batch.names, gpu_bytes, results });
        self.job.position.step = number;
        self.job.position.batch += 1;
        Ok(())
    }

    /// Reads the results of the oldest steps until at most `most` are in flight.
    fn drain(&mut self, most: usize) -> Result<()> {
        while self.in_flight.len() > most
            && let Some(sent) = self.in_flight.pop_front()
        {
            self.finish_step(sent)?;
        }
        if self.in_flight.is_empty() { self.log_step() } else { Ok(()) }
    }

    /// Logs the last finished step.
    fn log_step(&mut self) -> Result<()> {
        let Some(Timed { line, .. }) = self.timed.take() else { return Ok(()) };
        if let Some(log) = &mut self.log {
            log.step(&line)?;
        }
        self.observer.event(Event::Step { line, steps: self.job.schedule.steps() })
    }

    /// Reads the results of a step. Its line is logged after the next step, which may share its time.
    fn finish_step(&mut self, sent: SentStep) -> Result<()> {
        let SentStep { before, lr, names, gpu_bytes, mut results } = sent;
        let rows = results.losses.finish(self.context)?;
        let control = Control::from_words(&results.control.finish(self.context)?);
        // The adapter computes one step at a time, so a step's time starts at the end of the previous one.
        let now = results.control.arrived().unwrap_or_else(Instant::now).max(self.done);
        let seconds = (now - self.done).as_secs_f64().max(1e-6);
        self.done = now;
        self.idle.push(results);
        let number = before.step + 1;
        if control.stopped {
            // The kernels left parameters, moments and statistics unchanged, in later steps in flight too.
            self.in_flight.clear();
            self.log_step()?;
            let Position { step, batch, .. } = before;
            self.job.position = Position { step, batch, ..self.job.position };
            self.save(LAST)?;
            return Err(Error::NotFinite { step: number, images: names.join(", ") });
        }
        let count = names.len();
        let loss = rows.iter().map(|&row| f64::from(row)).sum::<f64>() / count as f64;
        if control.counted {
            let position = &mut self.job.position;
            position.loss_sum += loss * count as f64;
            position.images += count as u64;
        }
        let line = StepLine {
            step: number,
            epoch: before.epoch,
            loss,
            loss_scale: (self.context.precision() == Precision::F16).then_some(control.last_scale),
            skipped: !control.counted,
            lr,
            trainable_params: self.learner.trainable_parameters() as u64,
            images_per_s: count as f64 / seconds,
            gpu_bytes,
            ranks: self.job.ranks().map(Ranks::size),
        };
        let mut timed = Timed { line, images: count, seconds, shares: false };
        if let Some(before) = &mut self.timed {
            timed.share(before);
        }
        self.log_step()?;
        self.timed = Some(timed);
        Ok(())
    }

    fn end_epoch(&mut self, start: Instant) -> Result<()> {
        if self.job.is_clustered() {
            self.features = Some(self.embed_all()?);
        }
        let validation = self.validate()?;
        let best_by = self.job.config.schedule.best;
        let holds_out = best_by == BestBy::ValMap;
        let held_out =
            if holds_out { Some(self.score_retrieval(&self.retrieval_sets.held_out)?) } else { None };
        let retrieval =
            if self.is_tested() { Some(self.score_retrieval(&self.retrieval_sets.test)?) } else { None };
        let clusters = self.job.clusters.as_ref().zip(self.job.eps).map(|(clusters, eps)| ClusterCounts {
            clusters: clusters.count,
            outliers: clusters.outliers(),
            largest: clusters.sizes().into_iter().max().unwrap_or(0),
            eps,
        });
        let position = &mut self.job.position;
        let epoch = position.epoch;
        let line = EpochLine {
            epoch: position.epoch,
            train_loss: position.loss_sum / position.images.max(1) as f64,
            val_loss: validation.map(|validation| validation.loss),
            val_accuracy: validation.map(|validation| validation.score),
            clusters,
            retrieval,
            val_map: held_out.map(|scores| scores.map),
            val_rank1: held_out.map(|scores| scores.rank1),
            chosen_on_test_set: best_by == BestBy::TestMap,
            seconds: start.elapsed().as_secs_f64(),
        };
        *position = Position { epoch: position.epoch + 1, batch: 0, loss_sum: 0.0, images: 0, ..*position };
        let by_map = |scores: RetrievalScores| Best { score: scores.map, loss: 0.0, epoch: Some(epoch) };
        let score = match best_by {
            BestBy::Last => None,
            BestBy::Accuracy => validation,
            BestBy::ValMap => held_out.map(by_map),
            BestBy::TestMap => retrieval.map(by_map),
        };
        if let Some(score) = score
            && position.best.is_none_or(|best| best.is_beaten_by(&score))
        {
            position.best = Some(score);
            self.save(BEST)?;
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        log.epoch(&line)?;
        self.observer.event(Event::Epoch(line))?;
        let epochs = logged_epochs(&self.out.join("log.jsonl"))?;
        let best = self.job.position.best.and_then(|best| best.epoch);
        write_csv(&self.out.join("log.csv"), &epochs)?;
        curves::write(&self.out.join("curves.svg"), &epochs, &self.job.schedule.openings(), best)
    }

    /// Returns true if this epoch's model is scored on the test set.
    fn is_tested(&self) -> bool {
        let schedule = &self.job.config.schedule;
        let (every, done) = (schedule.eval_every, self.job.position.epoch + 1);
        every > 0 && (done.is_multiple_of(every) || done == schedule.epochs)
    }

    /// Returns the current model: the averaged weights if there are any.
    fn model(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.learner.read_averages()?.map_or_else(|| self.learner.read_parameters(), Ok)
    }

    /// Replaces the statistics of a model's tensors and settings by those of the cameras, if it trains on clusters.
    fn store_statistics(&self, tensors: &mut BTreeMap<String, HostTensor>, config: &mut VitConfig) {
        if let Some(Features { statistics, .. }) = &self.features {
            let cluster = &self.job.config.cluster;
            statistics.clone().store(tensors, config, cluster.deviation, cluster.cameras == "folders");
        }
    }

    /// Scores the current model.
    fn score_retrieval(&self, retrieval_set: &Option<RetrievalSet>) -> Result<RetrievalScores> {
        let Job { config, network, .. } = &self.job;
        let mut saved = config.saved_network(&network.config);
        let mut learned = self.model()?;
        let embedding = checkpoint::parameter_shapes(&saved).into_iter();
        let tensors = embedding.filter_map(|(name, _)| Some((name.clone(), learned.remove(&name)?)));
        let mut tensors = tensors.collect();
        self.store_statistics(&mut tensors, &mut saved);
        let network = Network {
            tensors,
            config: saved,
            file_positions: None,
            classifiers: BTreeMap::new(),
            ..network.clone()
        };
        let Some(retrieval_set) = retrieval_set else {
            return Err(Error::Usage("no test images were listed".to_string()));
        };
        // The epoch's steps are done, so a resumed run continues with validation.
        let scores = (self.retrieval_sets.score)(retrieval_set, self.context, &network, self.observer);
        let scores = Ranks::agree(self.job.ranks(), scores);
        self.saved_if_interrupted(scores)
    }

    /// Returns loss and accuracy (argmax of summed softmax, paper eq. 8-9) on the validation images; `None` without
    /// any.
    fn validate(&mut self) -> Result<Option<Best>> {
        if self.job.validation.is_empty() {
            return Ok(None);
        }
        let reader = Reader::new(self.job);
        let most = self.job.micro_batch();
        let classes = self.job.set.classes.len();
        let (mut loss, mut right) = (0.0, 0usize);
        for indices in self.job.validation.chunks(most) {
            let samples: Vec<Sample> = indices.iter().map(|&i| self.job.set.images[i].clone()).collect();
            let count = samples.len();
            let batch = reader.read(&samples, 0..count, None)?;
            if !self.evaluations.contains_key(&count) {
                self.evaluations.insert(count, self.learner.record_evaluation(count)?);
            }
            let recorded = &self.evaluations[&count];
            recorded.write(self.context, &batch.bytes);
            recorded.write_cameras(self.context, &self.job.camera_rows(&batch.cameras));
            recorded.plan.run(self.context)?;
            let logits = self.context.read(&recorded.output)?;
            for (b, &label) in batch.labels.iter().enumerate() {
                let weights = self.learner.loss_weights().map(f64::from);
                let (image_loss, class) = weighted_vote(&logits, b, count, classes, label as usize, weights);
                loss += image_loss;
                right += usize::from(class == label as usize);
            }
        }
        let count = self.job.validation.len() as f64;
        let epoch = Some(self.job.position.epoch);
        Ok(Some(Best { score: right as f64 / count, loss: loss / count, epoch }))
    }

    /// Writes the best model, or a checkpoint with everything that a resumed run needs. They differ if weights are
    /// averaged. Does nothing on a rank that writes no files.
    fn save(&self, name: &str) -> Result<()> {
        if self.log.is_none() {
            return Ok(());
        }
        let Job { config, network, set, images, trained_on, position, .. } = &self.job;
        let mut tensors = if name == BEST { self.model()? } else { self.learner.read_parameters()? };
        let mut state = BTreeMap::from([
            (POSITION.to_string(), position.tensor()),
            (IMAGES.to_string(), StateTensor::counts(vec![images.hash()])),
            (TRAINED_ON.to_string(), StateTensor::counts(trained_on.clone())),
            // The random number generator is counter-based: seed and position are its state.
            ("rng".to_string(), StateTensor::counts(vec![config.data.seed, position.step])),
        ]);
        if self.context.precision() == Precision::F16 {
            let Control { scale, steps, .. } = self.learner.read_control()?;
            let data = StateData::F32(vec![scale, steps as f32]);
            state.insert("loss_scale".to_string(), StateTensor { shape: vec![2], data });
        }
        if let Some(data) = self.learner.read_prototypes()? {
            let shape = vec![self.job.prototypes(), data.len() / self.job.prototypes()];
            state.insert(PROTOTYPES.to_string(), StateTensor { shape, data: StateData::F32(data) });
        }
        if let Some(clusters) = &self.job.clusters {
            let labels = clusters.labels.iter().map(|label| label.map_or(0, |label| u64::from(label) + 1));
            state.insert(CLUSTERS.to_string(), StateTensor::counts(labels.collect()));
        }
        state.extend(self.job.eps.map(|eps| (EPS.to_string(), StateTensor::counts(vec![eps.to_bits()]))));
        if name == LAST {
            // The average of a frozen group equals its weights.
            let mut averages = self.learner.read_averages()?.unwrap_or_default();
            averages.retain(|name, _| self.learner.changes(GroupKind::of(name)));
            state.extend(averages.into_iter().map(|(name, HostTensor { shape, data })| {
                (format!("{AVERAGE}{name}"), StateTensor { shape, data: StateData::F32(data) })
            }));
        }
        for HostMoments { kind, first, second } in self.learner.read_moments()? {
            for (which, data) in [("m", Some(first)), ("v", second)] {
                let Some(data) = data else { continue };
                let tensor = StateTensor { shape: vec![data.len()], data: StateData::F32(data) };
                state.insert(format!("{which}.{kind}"), tensor);
            }
        }
        let mut saved = config.saved_network(&network.config);
        let mut classes = &set.classes[..];
        if name == BEST && self.job.is_clustered() {
            self.store_statistics(&mut tensors, &mut saved);
            tensors.retain(|name, _| !name.ends_with(".classifier.weight"));
            classes = &[];
        }
        let heads = ClassifiersInfo {
            kind: config.head.classifier(),
            relu: config.head.relu,
            classes: classes.len(),
        };
        let metadata = checkpoint::trained_metadata(&saved, &network.preprocess, classes, heads);
        checkpoint::save(&self.out.join(name), &tensors, &state, metadata.text())
    }
}

/// Embeddings of all images.
struct Features {
    /// The embeddings, in the order of the images.
    rows: Vec<f32>,
    /// Length of an embedding.
    dim: usize,
    /// Camera statistics of the embeddings.
    statistics: CameraRows,
}

/// Sums of the embeddings of each person or cluster.
#[derive(Default)]
struct Prototypes {
    sums: Vec<Vec<f64>>,
}

impl Prototypes {
    /// Adds an embedding of a class.
    fn add(&mut self, class: usize, row: &[f32]) {
        let most = self.sums.len().max(class + 1);
        self.sums.resize_with(most, || vec![0.0; row.len()]);
        self.sums[class].iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }

    /// The prototypes of `count` classes, to unit length, divided by the temperature.
    fn finish(self, count: usize, temperature: f64) -> Vec<f32> {
        let Prototypes { mut sums } = self;
        let dim = sums.first().map_or(0, Vec::len);
        sums.resize_with(count, || vec![0.0; dim]);
        let unit = |sum: &Vec<f64>| {
            let norm = sum.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            sum.iter().map(|v| (v / (norm * temperature)) as f32).collect::<Vec<f32>>()
        };
        sums.iter().flat_map(unit).collect()
    }
}

/// Loads images at the input size.
struct Reader {
    options: DecodeOptions,
    size: ImageSize,
    crowd: Option<Arc<Crowd>>,
}

/// The random changes to the images of an epoch.
struct Changes {
    augment: Option<Augment>,
    flip: f64,
    seed: u64,
    epoch: u64,
}

impl Reader {
    fn new(job: &Job) -> Reader {
        let options = DecodeOptions { ignore_exif: job.config.data.ignore_exif };
        Reader { options, size: job.network.config.image, crowd: job.set.crowd.clone() }
    }

    /// Loads the `own` images of a batch. `changes` are given with the index in the epoch of the batch's first image.
    fn read(
        &self,
        samples: &[Sample],
        own: Range<usize>,
        changes: Option<(&Changes, usize)>,
    ) -> Result<Batch> {
        let start = own.start;
        let load = |(i, sample): (usize, &Sample)| {
            let i = start + i;
            // Drawn images differ from visit to visit. Without changes, each has one form.
            let visit = changes.map_or(0, |(changes, first)| (changes.epoch + 1) << 40 | (first + i) as u64);
            let mut image = match (&sample.source, &self.crowd) {
                (Source::File(path), _) => preprocess::load(path, self.options, self.size)?,
                (&Source::Drawn { person, camera }, Some(crowd)) => {
                    let image = crowd.draw(person, camera, visit);
                    let (width, height) = (image.width() as usize, image.height() as usize);
                    preprocess::resize_bicubic(&Rgb { width, height, pixels: image.into_raw() }, self.size)
                }
                (Source::Drawn { .. }, None) => unreachable!("{}: nothing draws it", sample.name),
            };
            let Some((Changes { augment, flip, seed, epoch }, first)) = changes else {
                return Ok((image, 0, [0; 4]));
            };
            let place = first + i;
            let erased = augment.map_or([0; 4], |it| it.apply(&mut image, *seed, *epoch, place).words());
            Ok((image, u32::from(sampler::flips(*seed, *epoch, place, *flip)), erased))
        };
        let read = samples[own.clone()].par_iter().enumerate().map(load).collect::<Result<Vec<_>>>()?;
        Ok(Batch {
            flips: read.iter().map(|(_, flip, _)| *flip).collect(),
            erased: read.iter().map(|(.., erased)| *erased).collect(),
            bytes: read.into_iter().flat_map(|(image, ..)| image.pixels).collect(),
            labels: samples.iter().map(|sample| sample.class as u32).collect(),
            cameras: samples[own].iter().map(|sample| sample.camera).collect(),
            names: samples.iter().map(|sample| sample.name.clone()).collect(),
        })
    }
}

/// Returns the loss of image `b`, summed over parts, and the class with the highest sum of softmax scores, given logits
/// (R, B, K) (paper eq. 8-9).
pub fn vote(logits: &[f32], b: usize, batch: usize, classes: usize, label: usize) -> (f64, usize) {
    weighted_vote(logits, b, batch, classes, label, [1.0; 2])
}

/// As [`vote`], with factors of the losses of the first part and of each other part.
pub fn weighted_vote(
    logits: &[f32],
    b: usize,
    batch: usize,
    classes: usize,
    label: usize,
    [first, other]: [f64; 2],
) -> (f64, usize) {
    let mut scores = vec![0.0; classes];
    let mut loss = 0.0;
    for (index, part) in logits.chunks(batch * classes).enumerate() {
        let row = &part[b * classes..(b + 1) * classes];
        let highest = row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
        let total: f64 = row.iter().map(|&v| (f64::from(v) - highest).exp()).sum();
        for (score, &v) in scores.iter_mut().zip(row) {
            *score += (f64::from(v) - highest).exp() / total;
        }
        let weight = if index == 0 { first } else { other };
        loss -= weight * (f64::from(row[label]) - highest - total.ln());
    }
    // Ties go to the first class.
    let class = (1..classes).fold(0, |best, k| if scores[k] > scores[best] { k } else { best });
    (loss, class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_that_are_noticed_together_share_their_time() {
        let timed = |images: usize, seconds: f64| {
            let line = StepLine { images_per_s: images as f64 / seconds, ..StepLine::default() };
            Timed { line, images, seconds, shares: false }
        };
        let rates =
            |steps: &[Timed]| steps.iter().map(|step| step.line.images_per_s.round()).collect::<Vec<_>>();
        let shared = |steps: &[(usize, f64)]| {
            let mut steps: Vec<Timed> =
                steps.iter().map(|&(images, seconds)| timed(images, seconds)).collect();
            for next in 1..steps.len() {
                let (first, second) = steps.split_at_mut(next);
                second[0].share(&mut first[next - 1]);
            }
            rates(&steps)
        };
        // The third step's end came 1 ms after the second's, which was noticed late.
        assert_eq!(shared(&[(6, 0.1), (6, 0.199), (6, 0.001), (6, 0.1)]), [60.0, 60.0, 60.0, 60.0]);
        // A step may be faster than a first one that compiled its kernels, and a smaller batch slower.
        assert_eq!(shared(&[(8, 2.0), (8, 0.1), (2, 0.05)]), [4.0, 80.0, 40.0]);
        // A slow step shares its time with one fast step only.
        let many = [(8, 0.5), (8, 0.001), (8, 0.001), (8, 0.001)];
        assert_eq!(shared(&many), [32.0, 32.0, 8000.0, 8000.0]);
    }
}
