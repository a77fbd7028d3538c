//! The overhead of dispatches and submits, measured with dispatches of one workgroup that do almost nothing.

use super::report::{Machine, Roof};
use super::roof::Roofs;
use super::{Options, next, samples};
use crate::error::Result;
use crate::gpu::{self, Context, Plan, Recorder};
use crate::kernels::roof::MultiplyAdd;
use crate::observer::Follower;
use serde::Serialize;
use std::fmt::Write;

/// Default number of samples of a figure.
pub const DEFAULT_SAMPLES: usize = 5;

/// Dispatches of a plan.
const DISPATCHES: usize = 1024;
/// Dispatches in a quick run and on CPU adapters, which take a hundred times as long.
const FEW_DISPATCHES: usize = 64;

/// Submits of a sample.
const SUBMITS: usize = 64;

/// The results of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The adapter and how it was opened.
    #[serde(flatten)]
    pub machine: Machine,
    /// True if every figure was measured.
    pub complete: bool,
    /// The adapter's roofs.
    pub roof: Option<Roof>,
    /// Figures, in the order of measurement.
    pub overheads: Vec<Overhead>,
}

/// One figure, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overhead {
    /// The measured action.
    pub name: &'static str,
    /// Median of the samples.
    pub microseconds: f64,
    /// Minimum of the samples.
    pub min: f64,
    /// Maximum of the samples.
    pub max: f64,
    /// Number of samples.
    pub samples: usize,
}

impl Overhead {
    fn new(name: &'static str, seconds: &[f64]) -> Overhead {
        let microseconds: Vec<f64> = seconds.iter().map(|seconds| 1e6 * seconds).collect();
        Overhead {
            name,
            microseconds: samples::median(&microseconds),
            min: microseconds.iter().copied().fold(f64::INFINITY, f64::min),
            max: microseconds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            samples: seconds.len(),
        }
    }
}

/// A dispatch that depends on the previous one.
pub const DEPENDENT: &str = "empty dispatch, dependent";
/// A dispatch that depends on no other.
pub const INDEPENDENT: &str = "empty dispatch, independent";
/// Encoding a dispatch, on the CPU.
pub const ENCODE: &str = "encoding of a dispatch";
/// An additional submit of one dispatch, without a wait.
pub const SUBMIT: &str = "submit of a dispatch";
/// A submit without commands, and the wait for it.
pub const ROUND_TRIP: &str = "empty submit and its wait";

/// Measures the figures and the roofs.
///
/// # Errors
/// Those of the adapter and of `observer`.
pub fn run(context: &Context, options: Options<'_>, observer: &dyn Follower<Report>) -> Result<Report> {
    type Sample<'s> = &'s dyn Fn() -> Result<f64>;
    let samples = options.samples(DEFAULT_SAMPLES);
    let dispatches = if options.quick || context.is_cpu() { FEW_DISPATCHES } else { DISPATCHES };
    let (dependent, independent, single) =
        (empty(context, dispatches, false)?, empty(context, dispatches, true)?, empty(context, 1, false)?);
    // Without the time of an empty submit.
    let dispatch = |plan: &Plan| -> Result<f64> {
        let all = plan.time_submit(context, 1)?.run;
        Ok(((all - plan.time_submit(context, 0)?.run) / dispatches as f64).max(0.0))
    };
    let submit = || -> Result<f64> {
        let all = single.time_submits(context, SUBMITS)?;
        Ok(((all - single.time_submits(context, 1)?) / (SUBMITS - 1) as f64).max(0.0))
    };
    let figures: [(&'static str, Sample<'_>); 5] = [
        (DEPENDENT, &|| dispatch(&dependent)),
        (INDEPENDENT, &|| dispatch(&independent)),
        (ENCODE, &|| Ok(dependent.time_submit(context, 1)?.encode / dispatches as f64)),
        (SUBMIT, &submit),
        (ROUND_TRIP, &|| Ok(single.time_submit(context, 0)?.run)),
    ];
    let of = figures.len() + 1;
    let mut report =
        Report { machine: Machine::of(context), complete: false, roof: None, overheads: Vec::new() };
    for (done, (name, sample)) in figures.into_iter().enumerate() {
        next(observer, done, of, name)?;
        if options.is_over() {
            return Ok(report);
        }
        // The first sample includes compilation and the first use of memory.
        sample()?;
        let seconds = (0..samples).map(|_| sample()).collect::<Result<Vec<f64>>>()?;
        report.overheads.push(Overhead::new(name, &seconds));
        observer.event(report.clone())?;
    }
    next(observer, of - 1, of, "roofs")?;
    if options.is_over() {
        return Ok(report);
    }
    let mut roofs = Roofs::find(context, options.quick)?;
    roofs.sample(context, samples)?;
    Ok(Report { roof: Some(roofs.report()), complete: true, ..report })
}

/// Records dispatches of one workgroup that write four words: all the same words, or each its own.
fn empty(context: &Context, dispatches: usize, apart: bool) -> gpu::Result<Plan> {
    let mut recorder = Recorder::new(context);
    let mut y = recorder.import(&context.buffer("y", 4)?);
    for dispatch in 0..dispatches {
        if apart && dispatch > 0 {
            y = recorder.import(&context.buffer("y", 4)?);
        }
        let call = MultiplyAdd { y, accumulators: 1, turns: 0, multiplier: 0.0, addend: 0.0 };
        call.record(&mut recorder, "empty");
    }
    recorder.finish()
}

impl Report {
    /// Returns the figures as a table for the terminal.
    pub fn table(&self) -> String {
        let Report { machine, complete, roof, overheads } = self;
        let mut text = format!("{machine}\n");
        // Writing to a string doesn't fail.
        if let Some(roof) = roof {
            let _ = writeln!(text, "roofs: {roof}");
        }
        let width = overheads.iter().map(|overhead| overhead.name.len()).max().unwrap_or(0).max(6);
        let _ = writeln!(text, "{:<width$} {:>10} {:>10} {:>10}", "action", "µs", "min", "max");
        for Overhead { name, microseconds, min, max, .. } in overheads {
            let _ = writeln!(text, "{name:<width$} {microseconds:>10.3} {min:>10.3} {max:>10.3}");
        }
        if !complete {
            text.push_str("the time was up before the last figure\n");
        }
        text
    }
}
