//! How fast the kernels are, as a share of what the adapter can do: `lat-wgpu bench`, `cargo bench` and `--profile`.
//!
//! A row is one kernel at one shape ([`crate::cases`]). The adapter's roofs are measured in the same run, between samples of
//! rows ([`roof`]): operations a second of a kernel of nothing but multiply-adds, and bytes a second of a kernel of
//! nothing but copies. A kernel of f operations on b bytes can't take less than max(f / multiply-adds, b / copies)
//! seconds; that time as a share of the time it takes is its percent of the roof, and the larger of the two is what
//! limits it [Roofline, Williams 2009 §3]. Bytes are those of the tensors bound, each once per launch, as if each word
//! moved once between memory and kernel. What matrix units multiply is held against their own roof.
//!
//! From there: [`report`] (figures and their table), [`roofline`] (the image), [`baseline`] (against a saved run).
//! [`lab`] compares the tiles of matrix products, [`steps`] times training steps, [`overheads`] launches and submits
//! that do nothing. [`profile`] shows where the time of a whole plan goes.

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

/// Samples of a row unless the user says otherwise.
pub const DEFAULT_SAMPLES: usize = 11;

/// Samples of a quick run.
const QUICK_SAMPLES: usize = 3;

/// Samples of a row between two of the roofs.
const ROOF_EVERY: usize = 4;

/// Choices of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Rows whose name contains this; empty: all.
    pub filter: &'a str,
    /// Samples of every row, from 1 on; `None`: as many as the kind of run has by default.
    pub samples: Option<usize>,
    /// Images at once; `None`: the default of the adapter and the kind of run.
    pub batch: Option<usize>,
    /// Lengths of the sequences in the rows of attention; none: that of the models.
    pub tokens: &'a [usize],
    /// As little as shows that everything runs: one shape of a kernel, one image, few samples.
    pub quick: bool,
    /// When the run ends with what was measured until then.
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

/// Names the row that is next.
fn next(observer: &dyn Observer, done: usize, of: usize, name: &str) -> Result<()> {
    observer.progress(name, done, of);
    observer.check("nothing was written")
}

/// True if the adapter may simply be too small.
fn is_too_large(error: &Error) -> bool {
    matches!(error.plain(), Error::TooLarge(_)) || error.is_out_of_memory()
}

/// Images at once in the rows of kernels.
pub fn batch(context: &Context, options: &Options<'_>) -> usize {
    options.batch.unwrap_or(if options.quick { 1 } else { default_batch(context) })
}

/// The same without a choice: one image on CPU adapters, 32 on others.
pub fn default_batch(context: &Context) -> usize {
    if context.is_cpu() { 1 } else { 32 }
}

/// Measures the rows that the filter leaves, and the roofs; after each, `observer` receives what a run that ends here would report.
///
/// # Errors
/// [`Error::NothingToDo`] if no row has such a name; those of the adapter and of `observer`.
pub fn run(context: &Context, options: Options<'_>, observer: &dyn Follower<Report>) -> Result<Report> {
    let samples = options.samples(DEFAULT_SAMPLES);
    let batch = batch(context, &options);
    let mut rows = cases::rows(batch, options.tokens, options.quick);
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
        // The roofs' samples come from the same minutes as the rows': what slows the machine down in between slows
        // both.
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
