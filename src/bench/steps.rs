//! Times training steps (forward, loss, backward, optimiser) of ViT-S and ViT-B, with one open block and with all
//! groups open.
//!
//! Images have 224 × 224 pixels, and the 14 part classifiers distinguish 751 persons, as in Market-1501. Weights are
//! random; the time doesn't depend on them.

use super::report::{Machine, Roof, Work};
use super::roof::Roofs;
use super::{Options, is_too_large, next, samples};
use crate::cases::{MODELS, Model, PATCH, SIZE};
use crate::checkpoint::{HostTensor, Network, parameter_shapes};
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::kernels::adam::{Betas, GroupValues, StepValues};
use crate::model::{ClassifierSettings, Learner, Optimizer, Trainable, UpdateRule};
use crate::observer::Follower;
use crate::rng;
use crate::shape::{ClassifierKind, Normalize, Preprocess, VitConfig};
use crate::train::classifiers::init_classifiers;
use serde::Serialize;
use std::fmt::Write;
use std::time::Instant;

/// Default number of samples of a step.
pub const DEFAULT_SAMPLES: usize = 5;

/// Smallest batch: BatchNorm needs two images.
const LEAST: usize = 2;

const CLASSES: usize = 751;
const KIND: ClassifierKind = ClassifierKind::Parts { hidden: 256 };
const DEPTH: usize = 12;

/// The results of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The adapter and how it was opened.
    #[serde(flatten)]
    pub machine: Machine,
    /// Batch size.
    pub batch: usize,
    /// True if every row was measured.
    pub complete: bool,
    /// The adapter's roofs.
    pub roof: Roof,
    /// One row per model and stage.
    pub rows: Vec<StepReport>,
}

/// The steps of a model in a stage. Times are of one step, in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// Name, such as "training step vit-s 1 block".
    pub name: String,
    /// "vit-s" or "vit-b".
    pub model: &'static str,
    /// "1 block", or "all" for all blocks and the embeddings.
    pub open: &'static str,
    /// The figures; `None` if the step doesn't fit the adapter.
    #[serde(flatten)]
    pub figures: Option<Figures>,
    /// The reason why there are no figures.
    pub note: Option<String>,
}

/// Figures of a step.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Median of the samples.
    pub seconds: f64,
    /// Minimum of the samples.
    pub min: f64,
    /// Maximum of the samples.
    pub max: f64,
    /// Median absolute deviation of the samples.
    pub deviation: f64,
    /// Number of samples.
    pub samples: usize,
    /// Images per second.
    pub images_per_second: f64,
    /// Floating-point operations.
    pub flops: f64,
    /// 10⁹ operations per second.
    pub gflops: f64,
    /// The least time that the roofs of arithmetic allow, as a percentage of `seconds`.
    pub percent_of_roof: f64,
    /// The work, which the roofs are compared with.
    #[serde(skip)]
    pub work: Work,
    /// Number of dispatches.
    pub launches: usize,
    /// Bytes of device memory: parameters, gradients, moments and activations.
    pub memory_bytes: u64,
}

/// Measures the steps whose name matches the filter.
///
/// # Errors
/// [`Error::NothingToDo`] if no name matches; [`Error::Usage`] for a batch of one; those of the adapter and of
/// `observer`. A step that doesn't fit the adapter gives a row without figures.
pub fn run(context: &Context, options: Options<'_>, observer: &dyn Follower<Report>) -> Result<Report> {
    let samples = options.samples(DEFAULT_SAMPLES);
    let default = if context.is_cpu() || options.quick { LEAST } else { 32 };
    let batch = options.batch.unwrap_or(default);
    if batch < LEAST {
        return Err(Error::Usage(format!(
            "a training step needs at least {LEAST} images, because BatchNorm normalises over the batch"
        )));
    }
    let models = if options.quick { &MODELS[..1] } else { &MODELS[..] };
    let mut todo: Vec<(String, Model, Stage)> = Vec::new();
    for &model in models {
        todo.extend(STAGES.map(|stage| (format!("training step {} {}", model.name, stage.0), model, stage)));
    }
    let names: Vec<String> = todo.iter().map(|(name, ..)| name.clone()).collect();
    todo.retain(|(name, ..)| name.contains(options.filter));
    if todo.is_empty() {
        return Err(Error::no_row(options.filter, &names));
    }
    next(observer, 0, todo.len(), "roofs")?;
    let mut roofs = Roofs::find(context, options.quick)?;
    roofs.sample(context, 1)?;
    let mut rows: Vec<StepReport> = Vec::new();
    let report = |rows: &[StepReport], roofs: &Roofs| {
        let roof = roofs.report();
        let mut rows = rows.to_vec();
        for figures in rows.iter_mut().filter_map(|row| row.figures.as_mut()) {
            figures.percent_of_roof = 100.0 * roof.arithmetic_seconds(figures.work).0 / figures.seconds;
        }
        Report { machine: Machine::of(context), batch, complete: rows.len() == todo.len(), roof, rows }
    };
    for (done, (name, model, stage)) in todo.iter().enumerate() {
        next(observer, done, todo.len(), name)?;
        if options.is_over() {
            break;
        }
        let step = Step { model: *model, stage: stage.1, batch, samples };
        let (figures, note) = match step.measure(context, &options, &mut roofs) {
            Ok(figures) => (Some(figures), None),
            Err(error) if is_too_large(&error) => (None, Some(error.to_string())),
            Err(error) => return Err(error),
        };
        rows.push(StepReport { name: name.clone(), model: model.name, open: stage.0, figures, note });
        observer.event(report(&rows, &roofs))?;
    }
    Ok(report(&rows, &roofs))
}

/// Name of a stage, and the groups that train.
type Stage = (&'static str, Trainable);
const STAGES: [Stage; 2] = [
    ("1 block", Trainable { embeddings: false, first_open: DEPTH - 1 }),
    ("all", Trainable { embeddings: true, first_open: 0 }),
];

struct Step {
    model: Model,
    stage: Trainable,
    batch: usize,
    samples: usize,
}

impl Step {
    fn measure(&self, context: &Context, options: &Options<'_>, roofs: &mut Roofs) -> Result<Figures> {
        let Step { model, stage, batch, samples } = *self;
        let settings = ClassifierSettings { kind: KIND, classes: CLASSES, relu: true, dropout: 0.5 };
        let betas = Betas { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
        let optimizer = Optimizer::Adam { betas, decoupled: false };
        let rule = UpdateRule { optimizer, ..UpdateRule::default() };
        let learner = Learner::new(context, &network(model), settings, rule, stage)?;
        let step = learner.record_step(batch, batch)?;
        let pixels: Vec<u8> =
            (0..batch * SIZE.height * SIZE.width * 3).map(|i| rng::bits(1, 0, i as u64) as u8).collect();
        let labels: Vec<u32> = (0..batch).map(|i| (i % CLASSES) as u32).collect();
        step.write(context, &pixels, &labels, &vec![0; batch]);
        let groups = vec![GroupValues::new(0.0, betas.corrections(1)); learner.groups().len()];
        let values = StepValues { number: 1, groups, ..StepValues::default() };
        context.write(&step.step, bytemuck::cast_slice(&values.words()));
        let time = || -> Result<f64> {
            context.wait()?;
            let start = Instant::now();
            step.plan.run(context)?;
            context.wait()?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first step includes compilation.
        time()?;
        let mut all = Vec::with_capacity(samples);
        while all.len() < samples && (all.is_empty() || !options.is_over()) {
            roofs.sample(context, 1)?;
            all.push(time()?);
        }
        let seconds = samples::median(&all);
        let summary = step.plan.summary();
        Ok(Figures {
            seconds,
            min: all.iter().copied().fold(f64::INFINITY, f64::min),
            max: all.iter().copied().fold(0.0, f64::max),
            deviation: samples::deviation(&all),
            samples: all.len(),
            images_per_second: batch as f64 / seconds,
            flops: summary.flops,
            gflops: summary.flops / seconds / 1e9,
            percent_of_roof: 0.0,
            work: Work::of(&step.plan),
            launches: summary.dispatches,
            memory_bytes: learner.state_bytes() + step.bytes(),
        })
    }
}

fn network(Model { dim, heads, .. }: Model) -> Network {
    let config = VitConfig::plain(SIZE, PATCH, dim, DEPTH, heads);
    let tensors = parameter_shapes(&config).into_iter().enumerate().map(|(stream, (name, shape))| {
        let len = shape.iter().product::<usize>() as u64;
        let data = (0..len).map(|i| 0.04 * rng::uniform(1, stream as u64, i) - 0.02).collect();
        (name, HostTensor { shape, data })
    });
    Network {
        tensors: tensors.collect(),
        file_positions: None,
        classifiers: init_classifiers(1, config.parts(), dim, KIND, CLASSES),
        preprocess: Preprocess::new(config.image, Normalize::Imagenet.mean_std()),
        config,
        class_names: None,
        threshold: None,
        match_rates: Vec::new(),
        notes: Vec::new(),
    }
}

impl Report {
    /// Returns the figures as a table for the terminal.
    pub fn table(&self) -> String {
        let Report { machine, batch, complete, roof, rows } = self;
        let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(3);
        let mut text = format!("{machine}; batch {batch}\nroofs: {roof}\n");
        // Writing to a string doesn't fail.
        let _ = writeln!(
            text,
            "{:<width$} {:>10} {:>7} {:>10} {:>9} {:>9} {:>10} {:>7}",
            "row", "ms", "±", "images/s", "GFLOP/s", "% of roof", "dispatches", "MiB"
        );
        for StepReport { name, figures, note, .. } in rows {
            let Some(row) = figures else {
                let _ = writeln!(text, "{name:<width$} left out: {}", note.as_deref().unwrap_or_default());
                continue;
            };
            let _ = writeln!(
                text,
                "{name:<width$} {:>10.3} {:>5.1} % {:>10.2} {:>9.1} {:>9.1} {:>10} {:>7}",
                1e3 * row.seconds,
                100.0 * row.deviation / row.seconds,
                row.images_per_second,
                row.gflops,
                row.percent_of_roof,
                row.launches,
                row.memory_bytes >> 20
            );
        }
        if !complete {
            text.push_str("the time was up before the last row\n");
        }
        text
    }
}
