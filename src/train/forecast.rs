//! The forecast of a run: memory, operations and time of each stage.

use super::config;
use super::job::Job;
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::kernels::adam::{GroupValues, StepValues};
use crate::model::{Learner, StageNeed, Trainable};
use crate::observer::Observer;
use std::ops::Range;
use std::time::Instant;

/// Most tokens that a weight's gradient is summed over at once on CPU adapters. Mesa's llvmpipe silently ends a loop
/// after 65,535 iterations.
const MOST_ROWS_ON_CPU: usize = 32_768;
/// Images of the measured step.
const MEASURED_BATCH: usize = 4;

/// The forecast of a run.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// The adapter's name.
    pub adapter: String,
    /// Number of training images.
    pub images: usize,
    /// Number of validation images.
    pub validation_images: usize,
    /// Number of persons; `None` for clusters, whose number changes.
    pub classes: Option<usize>,
    /// Number of steps.
    pub steps: u64,
    /// Measured floating-point operations per second.
    pub flops_per_second: f64,
    /// Stages in order.
    pub stages: Vec<StageForecast>,
}

/// The forecast of a stage.
#[derive(Debug, Clone)]
pub struct StageForecast {
    /// Epochs.
    pub epochs: Range<usize>,
    /// Number of open blocks.
    pub open_blocks: usize,
    /// True if patch projection, prefix tokens and positions train.
    pub embeddings: bool,
    /// Number of parameters that train.
    pub trainable: usize,
    /// Dispatches of a step.
    pub dispatches: usize,
    /// Bytes of device memory: parameters, gradients, moments and all recorded steps.
    pub bytes: u64,
    /// Floating-point operations of a step.
    pub flops: f64,
    /// Steps of the stage.
    pub steps: u64,
    /// Estimated seconds of a step.
    pub seconds_per_step: f64,
}

impl Forecast {
    /// Returns the estimated seconds of all steps, without validation and saves.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.steps as f64 * stage.seconds_per_step).sum()
    }
}

/// Forecasts a run. Writes nothing.
///
/// # Errors
/// Those of a run, such as [`Error::TooLarge`] for a batch that needs more than `memory` bytes.
pub fn forecast(layers: &config::Layers, memory: Option<u64>, observer: &dyn Observer) -> Result<Forecast> {
    let job = Job::start(config::Config::resolve(layers)?, None, observer)?;
    let context = Context::open(&ContextOptions::from_environment(job.config.device.adapter.clone()))?;
    context.adapter.notes().iter().for_each(|note| observer.note_once(note));
    let learner = job.learner(&context)?;
    check_memory(&job, &learner, &context, memory)?;
    let micro_batch = job.micro_batch();
    let flops_per_second = measure(&context, &job, &learner)?;
    let mut stages: Vec<StageForecast> = Vec::new();
    for (stage, epochs, steps) in stages_of(&job) {
        let (need, bytes) = stage_need(&job, &learner, stage, micro_batch)?;
        stages.push(StageForecast {
            epochs,
            open_blocks: job.network.config.depth - stage.first_open,
            embeddings: stage.embeddings,
            trainable: need.trainable,
            dispatches: need.step.dispatches,
            bytes,
            flops: need.step.flops,
            steps,
            seconds_per_step: need.step.flops / flops_per_second,
        });
    }
    Ok(Forecast {
        adapter: context.adapter.name.clone(),
        images: job.train.len(),
        validation_images: job.validation.len(),
        classes: (!job.is_clustered()).then_some(job.set.classes.len()),
        steps: job.schedule.steps(),
        flops_per_second,
        stages,
    })
}

/// Checks that the last stage, which is the largest, fits the memory limit and the adapter.
///
/// # Errors
/// [`Error::TooLarge`] with the bytes needed and the largest `--micro-batch` tried that fits.
pub(super) fn check_memory(
    job: &Job,
    learner: &Learner<'_>,
    context: &Context,
    memory: Option<u64>,
) -> Result<()> {
    let Some((stage, ..)) = stages_of(job).pop() else { return Ok(()) };
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let (micro_batch, tokens) = (job.micro_batch(), job.network.config.tokens());
    let most_rows = if context.is_cpu() { MOST_ROWS_ON_CPU } else { usize::MAX };
    // The reason why so many images at once don't fit, if any.
    let obstacle = |need: &StageNeed, bytes: u64, micro_batch: usize| {
        let largest = need.step.largest_tensor_bytes;
        if let Some(memory) = memory.filter(|&memory| bytes > memory) {
            Some(format!("--memory allows {} MiB", mib(memory)))
        } else if largest > context.max_tensor_bytes() {
            let most = mib(context.max_tensor_bytes());
            Some(format!("the largest tensor has {} MiB, and a binding holds {most} MiB", mib(largest)))
        } else if micro_batch * tokens > most_rows {
            Some(format!("{} sums over at most {most_rows} tokens", context.adapter.name))
        } else {
            None
        }
    };
    let (need, bytes) = stage_need(job, learner, stage, micro_batch)?;
    let Some(reason) = obstacle(&need, bytes, micro_batch) else { return Ok(()) };
    let mut smaller = micro_batch / 2;
    let advice = loop {
        // Re-attention needs the whole batch at once.
        if smaller == 0 || job.network.config.reattention {
            break "no --micro-batch fits: a smaller --size or --batch-size may".to_string();
        }
        let (need, bytes) = stage_need(job, learner, stage, smaller)?;
        if obstacle(&need, bytes, smaller).is_none() {
            break format!("--micro-batch {smaller} needs {} MiB", mib(bytes));
        }
        smaller /= 2;
    };
    Err(Error::TooLarge(format!(
        "{micro_batch} images at once need {} MiB in the last stage, but {reason}; {advice}",
        mib(bytes)
    )))
}

/// Returns the stages of the rest of the run: groups that train, epochs, number of steps.
fn stages_of(job: &Job) -> Vec<(Trainable, Range<usize>, u64)> {
    let schedule = &job.schedule;
    let mut stages: Vec<(Trainable, Range<usize>, u64)> = Vec::new();
    for epoch in job.position.epoch..job.config.schedule.epochs {
        let before = schedule.steps_before(epoch);
        let steps = schedule.steps().saturating_sub(before).min(schedule.steps_of(epoch) as u64);
        if steps == 0 && !stages.is_empty() {
            break;
        }
        let stage = schedule.stage(epoch);
        match stages.last_mut() {
            Some((last, epochs, count)) if *last == stage => {
                epochs.end = epoch + 1;
                *count += steps;
            }
            _ => stages.push((stage, epoch..epoch + 1, steps)),
        }
    }
    stages
}

/// Returns the cost of a step of the whole batch, and the bytes of everything that a stage allocates.
fn stage_need(
    job: &Job,
    learner: &Learner<'_>,
    stage: Trainable,
    micro_batch: usize,
) -> Result<(StageNeed, u64)> {
    let mut first = None;
    let mut bytes = 0;
    for batch in job.batch_sizes() {
        let need = learner.need(stage, batch, micro_batch)?;
        bytes += need.step_bytes;
        first.get_or_insert(need);
    }
    if job.config.loss.prototypes > 0.0 {
        bytes += learner.evaluation_need(micro_batch);
    }
    for batch in job.evaluation_sizes(micro_batch) {
        bytes += learner.evaluation_need(batch);
    }
    let need = first.ok_or_else(|| Error::Usage("no batch has two images".to_string()))?;
    bytes += need.state_bytes;
    Ok((need, bytes))
}

/// Measures the floating-point operations per second of a small training step on grey images.
fn measure(context: &Context, job: &Job, learner: &Learner<'_>) -> Result<f64> {
    let batch = MEASURED_BATCH.min(job.largest_batch());
    let step = learner.record_step(batch, batch)?;
    let size = job.network.config.image;
    step.write(context, &vec![128; batch * size.height * size.width * 3], &vec![0; batch], &vec![0; batch]);
    // A learning rate of 0, so that the parameters don't change.
    let group = GroupValues::new(0.0, job.config.optim.betas().corrections(1));
    let groups = vec![group; learner.groups().len()];
    let values = StepValues { number: 1, groups, ..StepValues::default() };
    context.write(&step.step, bytemuck::cast_slice(&values.words()));
    // The first run includes compilation.
    step.plan.run(context)?;
    context.wait()?;
    let start = Instant::now();
    step.plan.run(context)?;
    context.wait()?;
    Ok(step.plan.summary().flops / start.elapsed().as_secs_f64())
}
