//! How fast the kernels are, as a share of what the adapter can do: `lat-wgpu bench`, `cargo bench` and `--profile`.
//!
//! A row is one kernel at one shape ([`rows`]). The adapter's roofs are measured in the same run, between samples of rows ([`roof`]):
//! operations a second of a kernel of nothing but multiply-adds, and bytes a second of a kernel of nothing but copies. A
//! kernel of f operations on b bytes can't take less than max(f / multiply-adds, b / copies) seconds; that time as a share of
//! the time it takes is its percent of the roof, and the larger of the two is what limits it [Roofline, Williams 2009 §3].
//! Bytes are those of the tensors bound, each once per launch, as if each word moved once between memory and kernel.
//!
//! From there: [`report`] (figures and their table), [`roofline`] (the picture), [`baseline`] (against a saved run).
//! [`profile`] tells where the time of a whole plan goes.

pub mod baseline;
pub mod profile;
pub mod report;
pub mod roof;
pub mod roofline;
pub mod rows;
pub mod samples;

use crate::error::{Error, Result};
use crate::gpu::Context;
use report::{Report, Roof, RowReport};
use roof::Roofs;

/// Samples of a row unless the user says otherwise.
pub const DEFAULT_SAMPLES: usize = 11;

/// Samples of a row between two of the roofs.
const ROOF_EVERY: usize = 4;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Rows whose name contains this; empty: all.
    pub filter: &'a str,
    /// Samples of every row, from 1 on.
    pub samples: usize,
}

/// What sort of adapter it is, and the kernels that it is served.
pub fn class(context: &Context) -> String {
    format!("{}, {}", context.adapter.kind, context.family())
}

/// Measures the rows that the filter leaves, and the roofs; `next` is told how many are done, of how many, and the next one's
/// name, and may stop the run.
///
/// # Errors
/// [`Error::NothingToDo`] if no row has such a name; what the adapter or `next` reports.
pub fn run(
    context: &Context,
    options: Options<'_>,
    next: &mut dyn FnMut(usize, usize, &str) -> Result<()>,
) -> Result<Report> {
    let Options { filter, samples } = options;
    let mut rows = rows::rows(context);
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    rows.retain(|row| row.name.contains(filter));
    if rows.is_empty() {
        return Err(Error::no_row(filter, &names));
    }
    next(0, rows.len(), "roofs")?;
    let mut roofs = Roofs::find(context)?;
    let mut measured = Vec::new();
    for (done, row) in rows.iter().enumerate() {
        next(done, rows.len(), &row.name)?;
        let plan = row.plan(context)?;
        let replays = samples::replays(&plan, context)?;
        let mut seconds = Vec::with_capacity(samples);
        // The roofs' samples come from the same minutes as the rows': what slows the machine down in between slows both.
        for _ in 0..samples.div_ceil(ROOF_EVERY) {
            roofs.sample(context, 1)?;
            let wanted = ROOF_EVERY.min(samples - seconds.len());
            seconds.extend(samples::take(&plan, context, replays, wanted)?);
        }
        measured.push((row, seconds, plan.summary().flops, plan.summary().moved_bytes));
    }
    let roof: Roof = roofs.report();
    let rows = measured
        .into_iter()
        .map(|(row, seconds, flops, bytes)| RowReport::new(&row.name, &seconds, flops, bytes, &roof))
        .collect();
    let adapter = &context.adapter;
    Ok(Report {
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        class: class(context),
        precision: "f32".to_string(),
        roof,
        rows,
    })
}
