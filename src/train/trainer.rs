//! The loop: batches, steps, validation, saves; goes on from where a saved run stopped, to the bit.

use super::config::{Config, Optimizer};
use super::heads::init_heads;
use super::lock::{RunLock, holds_files};
use super::log::{EpochLine, Log, StepLine, epochs as logged_epochs};
use super::schedule::Schedule;
use super::{config, curves};
use crate::checkpoint::{self, HeadsInfo, Network, StateData, StateTensor};
use crate::data::dataset::{self, Sample, TrainingSet};
use crate::data::decode::DecodeOptions;
use crate::data::{files, preprocess};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions, WORD};
use crate::kernels::adam::{Betas, StepValues};
use crate::model::{EvaluationStep, GroupKind, HeadSettings, HostMoments, Learner, TrainingStep, UpdateRule};
use crate::shape::ImageSize;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

/// What is asked of a run.
#[derive(Debug, Clone)]
pub struct Request {
    /// Run folder.
    pub out: PathBuf,
    /// Go on from its `last.safetensors`, if it has one.
    pub resume: bool,
    /// What was said on the command line and in files.
    pub layers: config::Layers,
}

/// Is told what happens in a run.
pub trait Watch {
    /// Something that the user should know.
    fn note(&mut self, text: &str);
    /// A step is done; `steps` is the number of the last one.
    fn step(&mut self, line: &StepLine, steps: u64);
    /// An epoch is done.
    fn epoch(&mut self, line: &EpochLine);
    /// The number of a signal that asks to stop.
    fn signal(&mut self) -> Option<u8>;
}

/// Where a run stands: what a save holds beside parameters and moments.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Position {
    /// Steps done.
    step: u64,
    /// Epoch of the next step.
    epoch: usize,
    /// Batch of the next step in its epoch.
    batch: usize,
    /// Sum of the epoch's losses so far, by picture.
    loss_sum: f64,
    /// Pictures of the epoch so far.
    pictures: u64,
    best: Option<Best>,
}

/// The best epoch so far.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Best {
    accuracy: f64,
    loss: f64,
}

impl Best {
    /// Highest accuracy, then lowest loss, then the earlier epoch.
    fn is_beaten_by(&self, other: &Best) -> bool {
        other.accuracy > self.accuracy || (other.accuracy == self.accuracy && other.loss < self.loss)
    }
}

const START: Position = Position { step: 0, epoch: 0, batch: 0, loss_sum: 0.0, pictures: 0, best: None };

impl Position {
    fn tensor(&self) -> StateTensor {
        let best = self.best.map_or([0, 0, 0], |best| [1, best.accuracy.to_bits(), best.loss.to_bits()]);
        let mut words = vec![self.step, self.epoch as u64, self.batch as u64];
        words.extend([self.loss_sum.to_bits(), self.pictures]);
        words.extend(best);
        StateTensor::counts(words)
    }

    fn from_words(words: &[u64]) -> Option<Position> {
        let &[step, epoch, batch, loss_sum, pictures, has_best, accuracy, loss] = words else { return None };
        let best = Best { accuracy: f64::from_bits(accuracy), loss: f64::from_bits(loss) };
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

/// A batch in host memory.
struct Batch {
    bytes: Vec<u8>,
    labels: Vec<u32>,
    flips: Vec<u32>,
    names: Vec<String>,
}

/// What a run works on, settled before the adapter is touched.
struct Job {
    config: Config,
    network: Network,
    set: TrainingSet,
    train: Vec<usize>,
    validation: Vec<usize>,
    schedule: Schedule,
    position: Position,
    state: BTreeMap<String, StateTensor>,
}

/// Trains as asked; everything that comes of it stands in the run folder.
///
/// # Errors
/// [`Error::Usage`] for a folder that holds a run already, or settings that contradict the saved ones;
/// [`Error::NotFinite`] when loss or gradients overflow, after the state before it was saved; [`Error::Interrupted`] after
/// the state was saved; whatever weights, pictures and adapter may say.
pub fn run(request: &Request, watch: &mut dyn Watch) -> Result<()> {
    let out = &request.out;
    if !request.resume && holds_files(out)? {
        return Err(Error::Usage(format!(
            "{} is not empty: --resume goes on with its run, another --out begins a new one",
            out.display()
        )));
    }
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let _lock = RunLock::acquire(out)?;
    let last = out.join("last.safetensors");
    let resumes = request.resume && last.exists();
    if request.resume && !resumes {
        watch.note(&format!("nothing to resume in {}: the run starts afresh", out.display()));
    }
    let job = prepare(request, resumes, watch)?;
    files::write_atomically(&out.join("config.toml"), job.config.to_toml().as_bytes())?;
    if resumes && job.is_finished() {
        watch.note(&format!("the run in {} is finished", out.display()));
        return Ok(());
    }
    let context = Context::open(&ContextOptions::from_environment(job.config.device.adapter.clone()))?;
    if context.is_cpu() {
        watch.note(&format!("{} is a CPU adapter: right, but slow", context.adapter.name));
    }
    let log = out.join("log.jsonl");
    let log =
        if resumes { Log::resume(&log, job.position.step, job.position.epoch)? } else { Log::create(&log)? };
    Run::new(&context, job, out, log)?.go(watch)
}

fn prepare(request: &Request, resumes: bool, watch: &mut dyn Watch) -> Result<Job> {
    let out = &request.out;
    let last = out.join("last.safetensors");
    let mut config = if resumes {
        Config::resume(&out.join("config.toml"), &request.layers)?
    } else {
        Config::resolve(&request.layers)?
    };
    refuse_what_is_missing(&config)?;
    let needed = |value: &Option<String>, flag: &str| {
        value.clone().map(PathBuf::from).ok_or_else(|| Error::Usage(format!("--{flag} is needed")))
    };
    let backbone = needed(&config.model.backbone, "backbone")?;
    let dir = needed(&config.data.dir, "data")?;

    let set = dataset::load_training(&dir)?;
    let (train, validation) = set.split(config.data.val_fraction, config.data.seed);
    let batch_size = config.schedule.batch_size;
    if batch_size < 2 || train.len() < 2 {
        return Err(Error::Usage(format!(
            "BatchNorm needs two pictures or more in a batch: --batch-size is {batch_size}, {} pictures train",
            train.len()
        )));
    }
    let mut network = checkpoint::load(if resumes { &last } else { &backbone }, &config.settings())?;
    let state = if resumes { checkpoint::read_state(&last)? } else { BTreeMap::new() };
    let classes = set.classes.len();
    if resumes {
        if network.class_names.as_ref() != Some(&set.classes) {
            return Err(Error::Usage(format!(
                "{}: the persons differ from those of the saved run",
                dir.display()
            )));
        }
    } else {
        for note in &network.notes {
            watch.note(note);
        }
        config.settle(&network.config, &network.preprocess);
        let (parts, dim, hidden) = (network.config.parts(), network.config.dim, config.head.hidden);
        network.heads = init_heads(config.data.seed, parts, dim, hidden, classes);
        network.class_names = Some(set.classes.clone());
        if set.skipped > 0 {
            watch.note(&format!("{} files are junk, distractors or outside the layout", set.skipped));
        }
        if dataset::drops_last(train.len(), batch_size) {
            watch.note("each epoch's last batch would hold one picture and is dropped");
        }
    }
    check_heads(&last, &network, config.head.hidden, classes)?;
    let steps_per_epoch = dataset::steps_per_epoch(train.len(), batch_size);
    let schedule = Schedule::new(&config, network.config.depth, steps_per_epoch);
    let position = match state.get("position") {
        None if !resumes => START,
        Some(StateTensor { data: StateData::U64(words), .. }) if words.len() == 8 => {
            Position::from_words(words).unwrap_or(START)
        }
        _ => {
            let reason = "it holds no position to resume from".to_string();
            return Err(Error::Weights { path: last, reason });
        }
    };
    Ok(Job { config, network, set, train, validation, schedule, position, state })
}

/// Refuses settings whose kernels or samplers this version doesn't have.
fn refuse_what_is_missing(config: &Config) -> Result<()> {
    let missing = [
        ("loss.triplet", config.loss.triplet),
        ("data.erasing", config.data.erasing > 0.0),
        ("data.crop_pad", config.data.crop_pad > 0),
        ("data.persons_per_batch", config.data.persons_per_batch > 0),
    ];
    match missing.iter().find(|(_, on)| *on) {
        None => Ok(()),
        Some((key, _)) => Err(Error::Usage(format!(
            "{key} is not available yet: switch it off by --set (the preset strong needs it)"
        ))),
    }
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

impl Job {
    fn is_finished(&self) -> bool {
        self.position.step >= self.schedule.steps()
    }
}

/// A run on an adapter.
struct Run<'c, 'o> {
    context: &'c Context,
    job: Job,
    out: &'o Path,
    log: Log,
    learner: Learner<'c>,
    /// Of this stage, by batch size: the whole batch and the last one of an epoch.
    steps: BTreeMap<usize, TrainingStep>,
    evaluations: BTreeMap<usize, EvaluationStep>,
}

impl<'c, 'o> Run<'c, 'o> {
    fn new(context: &'c Context, job: Job, out: &'o Path, log: Log) -> Result<Run<'c, 'o>> {
        let config = &job.config;
        let settings = HeadSettings {
            hidden: config.head.hidden,
            classes: job.set.classes.len(),
            relu: config.head.relu,
            dropout: config.head.dropout as f32,
        };
        let rule = UpdateRule {
            betas: betas(config),
            decoupled: config.optim.optimizer == Optimizer::Adamw,
            label_smoothing: config.loss.label_smoothing as f32,
        };
        let stage = job.schedule.stage(job.position.epoch);
        let mut learner = Learner::new(context, &job.network, settings, rule, stage)?;
        let kinds: Vec<(GroupKind, usize)> = learner.groups().iter().map(|g| (g.kind, g.words)).collect();
        for (kind, words) in kinds {
            let moment = |which: &str| match job.state.get(&format!("{which}.{kind}")) {
                Some(StateTensor { data: StateData::F32(data), .. }) if data.len() == words => Some(data),
                _ => None,
            };
            if let (Some(first), Some(second)) = (moment("m"), moment("v")) {
                let (first, second) = (first.clone(), second.clone());
                learner.write_moments(&HostMoments { kind, first, second })?;
            }
        }
        let (steps, evaluations) = (BTreeMap::new(), BTreeMap::new());
        Ok(Run { context, job, out, log, learner, steps, evaluations })
    }

    fn go(mut self, watch: &mut dyn Watch) -> Result<()> {
        let steps = self.job.schedule.steps();
        if self.job.is_finished() {
            return self.save("last.safetensors");
        }
        while self.job.position.step < steps {
            self.epoch(watch)?;
        }
        Ok(())
    }

    /// Trains to the end of the epoch, or of the run.
    fn epoch(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let start = Instant::now();
        let epoch = self.job.position.epoch;
        self.enter_stage(epoch, watch)?;
        let Job { config, schedule, .. } = &self.job;
        let (seed, batch_size) = (config.data.seed, config.schedule.batch_size);
        let order = dataset::epoch_order(self.job.train.len(), seed, epoch as u64, config.data.shuffle);
        let first = self.job.position.batch;
        let left = (schedule.steps() - self.job.position.step) as usize;
        let options = DecodeOptions { ignore_exif: config.data.ignore_exif };
        let (size, flip) = (self.job.network.config.image, config.data.flip);
        let samples: Vec<Vec<Sample>> = dataset::batches(&order, batch_size)
            .map(|batch| batch.iter().map(|&i| self.job.set.pictures[self.job.train[i]].clone()).collect())
            .collect();
        let batches = samples.len();

        let done: Result<()> = std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let wanted = &samples[first..batches.min(first + left)];
            scope.spawn(move || {
                for (i, samples) in wanted.iter().enumerate() {
                    let place = (first + i) * batch_size;
                    let flips = |j: usize| dataset::flips(seed, epoch as u64, place + j, flip);
                    if sender.send(decode(samples, options, size, &flips)).is_err() {
                        return;
                    }
                }
            });
            for batch in receiver {
                self.step(&batch?, watch)?;
                let every = self.job.config.schedule.save_every;
                let signal = watch.signal();
                let at_save = every > 0 && self.job.position.step.is_multiple_of(every);
                if signal.is_some() || at_save {
                    self.save("last.safetensors")?;
                }
                if let Some(signal) = signal {
                    return Err(Error::Interrupted {
                        signal,
                        outcome: "the state is saved; --resume goes on",
                    });
                }
            }
            Ok(())
        });
        done?;
        if self.job.position.batch == batches {
            self.end_epoch(start, watch)?;
        }
        self.save("last.safetensors")?;
        if self.job.validation.is_empty() {
            self.save("best.safetensors")?;
        }
        Ok(())
    }

    /// Opens what the epoch trains; says what that costs.
    fn enter_stage(&mut self, epoch: usize, watch: &mut dyn Watch) -> Result<()> {
        let stage = self.job.schedule.stage(epoch);
        if self.learner.trainable() != stage {
            self.learner.open(stage)?;
            self.steps.clear();
        }
        if self.steps.is_empty() {
            let batch = self.job.config.schedule.batch_size.min(self.job.train.len());
            self.step_for(batch)?;
            let plan = self.steps[&batch].plan.summary().clone();
            let open = self.job.network.config.depth - stage.first_open;
            watch.note(&format!(
                "epoch {epoch}: {open} blocks{} open, {} parameters train, {} launches a step, {} MiB of device memory",
                if stage.embeddings { " and the embeddings" } else { "" },
                self.learner.trainable_parameters(),
                plan.dispatches,
                self.device_bytes() >> 20
            ));
        }
        Ok(())
    }

    fn step_for(&mut self, batch: usize) -> Result<()> {
        if !self.steps.contains_key(&batch) {
            self.steps.insert(batch, self.learner.record_step(batch)?);
        }
        Ok(())
    }

    fn device_bytes(&self) -> u64 {
        let of = |plan: &crate::gpu::Plan, io: &[&crate::gpu::Buffer]| {
            plan.summary().heap_bytes + io.iter().map(|b| b.words as u64 * WORD).sum::<u64>()
        };
        let steps: u64 = self.steps.values().map(|s| of(&s.plan, &[&s.pixels, &s.losses])).sum();
        let evaluations: u64 = self.evaluations.values().map(|e| of(&e.plan, &[&e.pixels, &e.logits])).sum();
        self.learner.state_bytes() + steps + evaluations
    }

    fn step(&mut self, batch: &Batch, watch: &mut dyn Watch) -> Result<()> {
        let start = Instant::now();
        let count = batch.labels.len();
        self.step_for(count)?;
        let Position { step, epoch, batch: place, .. } = self.job.position;
        let number = step + 1;
        let Job { config, schedule, network, .. } = &self.job;
        let lr = schedule.lr(epoch, place);
        let corrections = GroupKind::all(network.config.depth)
            .into_iter()
            .map(|group| betas(config).corrections(schedule.adam_step(group, number) as u32))
            .collect();
        let values = StepValues {
            learning_rate: lr as f32,
            seed: config.data.seed,
            number: number as u32,
            place: (place * config.schedule.batch_size) as u32,
            epoch: epoch as u32,
            weight_decay: config.optim.weight_decay as f32,
            clip_norm: config.optim.clip_norm as f32,
            corrections,
        };
        let recorded = &self.steps[&count];
        let context = self.context;
        context.write(&recorded.pixels, &batch.bytes);
        context.write(&recorded.labels, bytemuck::cast_slice(&batch.labels));
        context.write(&recorded.flips, bytemuck::cast_slice(&batch.flips));
        context.write(&recorded.step, bytemuck::cast_slice(&values.words()));
        recorded.plan.run(context)?;
        let rows = context.read(&recorded.losses)?;
        let control = context.read(&recorded.control)?;
        if control.first().map(|word| word.to_bits()) != Some(1) {
            // The adapter has left parameters, moments and statistics as they were.
            self.save("last.safetensors")?;
            return Err(Error::NotFinite { step: number, pictures: batch.names.join(", ") });
        }
        let loss = rows.iter().map(|&row| f64::from(row)).sum::<f64>() / count as f64;
        let position = &mut self.job.position;
        position.step = number;
        position.batch += 1;
        position.loss_sum += loss * count as f64;
        position.pictures += count as u64;
        let line = StepLine {
            step: number,
            epoch,
            loss,
            lr,
            trainable_params: self.learner.trainable_parameters() as u64,
            images_per_s: count as f64 / start.elapsed().as_secs_f64(),
            gpu_bytes: self.device_bytes(),
        };
        self.log.step(&line)?;
        watch.step(&line, self.job.schedule.steps());
        Ok(())
    }

    fn end_epoch(&mut self, start: Instant, watch: &mut dyn Watch) -> Result<()> {
        let score = self.validate()?;
        let position = &mut self.job.position;
        let line = EpochLine {
            epoch: position.epoch,
            train_loss: position.loss_sum / position.pictures.max(1) as f64,
            val_loss: score.map(|score| score.loss),
            val_accuracy: score.map(|score| score.accuracy),
            seconds: start.elapsed().as_secs_f64(),
        };
        *position = Position { epoch: position.epoch + 1, batch: 0, loss_sum: 0.0, pictures: 0, ..*position };
        if let Some(score) = score
            && position.best.is_none_or(|best| best.is_beaten_by(&score))
        {
            position.best = Some(score);
            self.save("best.safetensors")?;
        }
        self.log.epoch(&line)?;
        watch.epoch(&line);
        let epochs = logged_epochs(&self.out.join("log.jsonl"))?;
        curves::write(&self.out.join("curves.svg"), &epochs, &self.job.schedule.openings())
    }

    /// Loss and accuracy (argmax of summed softmax, paper eq. 8-9) on the validation pictures; `None` without any.
    fn validate(&mut self) -> Result<Option<Best>> {
        if self.job.validation.is_empty() {
            return Ok(None);
        }
        let config = &self.job.config;
        let options = DecodeOptions { ignore_exif: config.data.ignore_exif };
        let (size, most) = (self.job.network.config.image, config.schedule.batch_size);
        let classes = self.job.set.classes.len();
        let (mut loss, mut right) = (0.0, 0usize);
        for indices in self.job.validation.chunks(most) {
            let samples: Vec<Sample> = indices.iter().map(|&i| self.job.set.pictures[i].clone()).collect();
            let batch = decode(&samples, options, size, &|_| false)?;
            let count = samples.len();
            if !self.evaluations.contains_key(&count) {
                self.evaluations.insert(count, self.learner.record_evaluation(count)?);
            }
            let recorded = &self.evaluations[&count];
            self.context.write(&recorded.pixels, &batch.bytes);
            recorded.plan.run(self.context)?;
            let logits = self.context.read(&recorded.logits)?;
            for (b, &label) in batch.labels.iter().enumerate() {
                let (picture_loss, class) = vote(&logits, b, count, classes, label as usize);
                loss += picture_loss;
                right += usize::from(class == label as usize);
            }
        }
        let count = self.job.validation.len() as f64;
        Ok(Some(Best { accuracy: right as f64 / count, loss: loss / count }))
    }

    /// Saves everything that a resumed run needs.
    fn save(&self, name: &str) -> Result<()> {
        let Job { config, network, set, position, .. } = &self.job;
        let tensors = self.learner.read_parameters()?;
        let mut state = BTreeMap::from([
            ("position".to_string(), position.tensor()),
            // The generator is counter-based: seed and position are its whole state.
            ("rng".to_string(), StateTensor::counts(vec![config.data.seed, position.step])),
        ]);
        for HostMoments { kind, first, second } in self.learner.read_moments()? {
            for (which, data) in [("m", first), ("v", second)] {
                let tensor = StateTensor { shape: vec![data.len()], data: StateData::F32(data) };
                state.insert(format!("{which}.{kind}"), tensor);
            }
        }
        let heads =
            HeadsInfo { hidden: config.head.hidden, relu: config.head.relu, classes: set.classes.len() };
        let saved = config.saved_network(&network.config);
        let metadata = checkpoint::trained_metadata(&saved, &network.preprocess, &set.classes, heads);
        checkpoint::save(&self.out.join(name), &tensors, &state, &metadata)
    }
}

fn betas(config: &Config) -> Betas {
    Betas { beta1: config.optim.beta1, beta2: config.optim.beta2, eps: config.optim.eps }
}

/// Reads the pictures of a batch.
fn decode(
    samples: &[Sample],
    options: DecodeOptions,
    size: ImageSize,
    flips: &dyn Fn(usize) -> bool,
) -> Result<Batch> {
    let pictures = samples
        .par_iter()
        .map(|sample| preprocess::load(&sample.path, options, size))
        .collect::<Result<Vec<_>>>()?;
    let mut bytes: Vec<u8> = pictures.into_iter().flat_map(|picture| picture.pixels).collect();
    bytes.resize(bytes.len().next_multiple_of(WORD as usize), 0);
    Ok(Batch {
        bytes,
        labels: samples.iter().map(|sample| sample.class as u32).collect(),
        flips: (0..samples.len()).map(|i| u32::from(flips(i))).collect(),
        names: samples.iter().map(|sample| sample.name.clone()).collect(),
    })
}

/// The loss of picture `b` of logits (R, B, K) summed over its parts, and the class with the highest sum of softmax scores (eq. 8-9).
pub fn vote(logits: &[f32], b: usize, batch: usize, classes: usize, label: usize) -> (f64, usize) {
    let mut scores = vec![0.0; classes];
    let mut loss = 0.0;
    for part in logits.chunks(batch * classes) {
        let row = &part[b * classes..(b + 1) * classes];
        let highest = row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
        let total: f64 = row.iter().map(|&v| (f64::from(v) - highest).exp()).sum();
        for (score, &v) in scores.iter_mut().zip(row) {
            *score += (f64::from(v) - highest).exp() / total;
        }
        loss -= f64::from(row[label]) - highest - total.ln();
    }
    // The first of equal scores.
    let class = (1..classes).fold(0, |best, k| if scores[k] > scores[best] { k } else { best });
    (loss, class)
}
