//! The speed of kernels as a percentage of the adapter's roof: `lat-wgpu bench`, `cargo bench` and `--profile`.
//!
//! A row is one kernel at one shape ([`crate::cases`]). The adapter's roofs are measured in the same run, between the
//! samples of rows ([`roof`]): F operations per second of a kernel that only does multiply-adds, and M bytes per second
//! of a kernel that only copies. A kernel with f operations on b bytes takes at least max(f / F, b / M) seconds
//! [Roofline, Williams 2009 §3]. Its percentage of the roof is that time relative to its measured time, and the larger
//! of the two terms is its limit. Bytes are those of the bound tensors, counted once per dispatch. Operations of
//! dispatches on matrix units are divided by the rate of matrix units instead, and their time is added to that of the
//! others.
//!
//! [`report`] holds the figures and their table, [`roofline`] draws them, and [`baseline`] compares them with a saved
//! run. [`lab`] compares the tiles of matrix products, [`steps`] times training steps, and [`overheads`] times
//! dispatches and submits that do nothing. [`profile`] breaks down the time of a plan.

pub mod baseline;
pub mod lab;
pub mod overheads;
pub mod profile;
pub mod report;
pub mod roof;
pub mod roofline;
pub mod samples;
pub mod steps;

use crate::cases;
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::observer::{Follower, Observer};
use report::{Machine, Report, RowReport, Work};
use roof::Roofs;
use std::time::Instant;

/// Default number of samples of a row.
pub const DEFAULT_SAMPLES: usize = 11;

/// Samples of a quick run.
const QUICK_SAMPLES: usize = 3;

/// Samples of a row per sample of the roofs.
const ROOF_EVERY: usize = 4;

/// Options of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Only rows whose name contains this; empty: all.
    pub filter: &'a str,
    /// Samples of each row, at least 1; `None`: the default of the kind of run.
    pub samples: Option<usize>,
    /// Batch size; `None`: the default of the adapter and the kind of run.
    pub batch: Option<usize>,
    /// Tokens per image in the rows of attention; empty: those of the models.
    pub tokens: &'a [usize],
    /// A quick check that everything runs: one shape per kernel, one image, few samples.
    pub quick: bool,
    /// Time at which the run ends and reports what it has measured.
    pub until: Option<Instant>,
}

impl Options<'_> {
    fn samples(&self, default: usize) -> usize {
        self.samples.unwrap_or(if self.quick { default.min(QUICK_SAMPLES) } else { default })
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Reports the name of the next row, and checks for signals.
fn next(observer: &dyn Observer, done: usize, of: usize, name: &str) -> Result<()> {
    observer.progress(name, done, of);
    observer.check("nothing was written")
}

/// Returns true if the adapter's limits or memory are too small.
fn is_too_large(error: &Error) -> bool {
    matches!(error.plain(), Error::TooLarge(_)) || error.is_out_of_memory()
}

/// Returns the batch size of the rows of kernels.
pub fn batch(context: &Context, options: &Options<'_>) -> usize {
    options.batch.unwrap_or(if options.quick { 1 } else { default_batch(context) })
}

/// Returns the default batch size: 1 on CPU adapters, 32 on GPUs.
pub fn default_batch(context: &Context) -> usize {
    if context.is_cpu() { 1 } else { 32 }
}

/// Measures the roofs and the rows that match the filter. After each row, `observer` receives the report so far.
///
/// # Errors
/// [`Error::NothingToDo`] if no row matches; those of the adapter and of `observer`.
pub fn run(context: &Context, options: Options<'_>, observer: &dyn Follower<Report>) -> Result<Report> {
    let samples = options.samples(DEFAULT_SAMPLES);
    let batch = batch(context, &options);
    let mut rows = cases::timed(batch, options.tokens, options.quick);
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    rows.retain(|row| row.name.contains(options.filter));
    if rows.is_empty() {
        return Err(Error::no_row(options.filter, &names));
    }
    next(observer, 0, rows.len(), "roofs")?;
    let mut roofs = Roofs::find(context, options.quick)?;
    let mut measured = Vec::new();
    let report = |measured: &[(&str, Vec<f64>, Work)], roofs: &Roofs| {
        let roof = roofs.report();
        let row =
            |(name, seconds, work): &(&str, Vec<f64>, Work)| RowReport::new(name, seconds, *work, &roof);
        let done: Vec<RowReport> = measured.iter().map(row).collect();
        Report { machine: Machine::of(context), batch, complete: done.len() == rows.len(), rows: done, roof }
    };
    for (done, row) in rows.iter().enumerate() {
        next(observer, done, rows.len(), &row.name)?;
        if options.is_over() {
            break;
        }
        let plan = row.plan(context)?;
        let replays = samples::replays(&plan, context)?;
        let mut seconds = Vec::with_capacity(samples);
        // Samples of roofs and rows alternate, so that a temporarily slow machine affects both.
        for _ in 0..samples.div_ceil(ROOF_EVERY) {
            roofs.sample(context, 1)?;
            let wanted = ROOF_EVERY.min(samples - seconds.len());
            seconds.extend(samples::take(&plan, context, replays, wanted)?);
            if options.is_over() {
                break;
            }
        }
        measured.push((&*row.name, seconds, Work::of(&plan)));
        observer.event(report(&measured, &roofs))?;
    }
    if measured.is_empty() {
        roofs.sample(context, 1)?;
    }
    Ok(report(&measured, &roofs))
}
