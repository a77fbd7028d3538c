//! `lat-wgpu bench`: times kernels against the adapter's roofs and a saved run; also tiles, training steps and
//! launches.

use super::arguments::AdapterArgument;
use super::json;
use super::paths::{Paths, same};
use super::progress::Progress;
use super::signals::Signals;
use super::words::named;
use crate::bench::baseline::{self, Verdict};
use crate::bench::report::{Machine, Report};
use crate::bench::{self, Options, lab, overheads, roofline, steps};
use crate::error::{Error, Result};
use crate::gpu::{Context, Precision};
use crate::kernels::gemm::tiles::Table;
use crate::observer::{Follower, Observer};
use crate::storage::atomic::write_atomically;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `lat-wgpu bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// Times the tiles of matrix products instead, at the shapes of ViT-S and ViT-B; checks results in f64, and exits
    /// with 1 if one is wrong
    #[arg(long, group = "mode")]
    pub lab: bool,
    /// Times empty dispatches and submits instead, and the roofs
    #[arg(long, group = "mode")]
    pub overheads: bool,
    /// Times whole training steps of ViT-S and ViT-B instead, with one block unfrozen and with all
    #[arg(long, group = "mode")]
    pub steps: bool,
    /// Only rows whose name contains this, such as "gemm vit-s"; with --lab shapes and tiles, such as "vit-b fc1 nt"
    /// [default: all]
    #[arg(long = "match", value_name = "TEXT", conflicts_with = "overheads")]
    pub matching: Option<String>,
    /// Samples of each row, of at least 5 ms; the median counts [default: 11; 5 with --lab, --overheads and --steps; 3
    /// with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub samples: Option<u32>,
    /// Images per batch [default: 32, on CPU adapters 1; with --steps 32 and 2, with --lab 32, 128 and 256]
    #[arg(long, value_name = "N", conflicts_with = "overheads", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch_size: Option<u32>,
    /// Storage of weights and activations; sums are f32
    #[arg(long, default_value = "f32", conflicts_with = "overheads", value_parser = named::<Precision>())]
    pub precision: Precision,
    /// Tokens of an image in the rows of attention, one or several, such as 33,129,197,257 [default: 197]
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "mode", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub tokens: Vec<u32>,
    /// Runs the minimum: one shape of each kernel, one model, one image, few samples
    #[arg(long)]
    pub quick: bool,
    /// Ends after this many seconds with the results so far
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,
    /// Writes the results as JSON after every row; - for stdout, at the end
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// With --lab: writes the table of the fastest tiles for this class of adapter, for src/kernels/gemm/tiles.toml
    #[arg(long, value_name = "FILE", requires = "lab")]
    pub write_tiles: Option<PathBuf>,
    /// Draws the roofline: operations per second over operations per byte
    #[arg(long, value_name = "FILE", conflicts_with = "mode")]
    pub svg: Option<PathBuf>,
    /// Compares with the run of this adapter, batch and precision in FILE; exits with 1 if a row is slower by more than
    /// noise
    #[arg(long, value_name = "FILE", conflicts_with = "mode")]
    pub baseline: Option<PathBuf>,
    /// Saves this run in FILE for this adapter, batch and precision, after the comparison with --baseline
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mode", "matching", "tokens", "quick", "seconds"])]
    pub save_baseline: Option<PathBuf>,
    #[command(flatten)]
    pub adapter: AdapterArgument,
}

pub fn run(arguments: &BenchArguments) -> Result<ExitCode> {
    let BenchArguments { json, svg, baseline, save_baseline, .. } = arguments;
    let limit = arguments.seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
    let until = limit.map(|limit| Instant::now() + limit);
    // A run may be compared with the baseline that it replaces.
    let kept = baseline.iter().filter(|file| !save_baseline.as_ref().is_some_and(|saved| same(saved, file)));
    let paths = Paths::new().reads("--baseline", kept).updates("--save-baseline", save_baseline);
    let paths = paths.writes("--json", json).writes("--svg", svg);
    paths.writes("--write-tiles", &arguments.write_tiles).check()?;
    // Unusable files fail before the measurements.
    let saved = arguments.baseline.as_deref().map(baseline::read).transpose()?;
    let kept = arguments.save_baseline.as_deref().map(baseline::read).transpose()?;
    let signals = Signals::listen()?;
    // Launches cost the same in f32 and f16. The roof of matrix units needs f16.
    let precision = if arguments.overheads { Precision::F16 } else { arguments.precision };
    let context = arguments.adapter.open(precision)?;
    let tokens: Vec<usize> = arguments.tokens.iter().map(|&tokens| tokens as usize).collect();
    let options = Options {
        filter: arguments.matching.as_deref().unwrap_or_default(),
        samples: arguments.samples.map(|samples| samples as usize),
        batch: arguments.batch_size.map(|batch| batch as usize),
        tokens: &tokens,
        quick: arguments.quick,
        until,
    };
    let json = arguments.json.as_deref();
    let progress = Progress::new(Some(signals));
    let run = Run { progress, json, wrote: AtomicBool::new(false) };
    if arguments.lab {
        let report = run.finish(lab::run(&context, options, &run), lab::Report::table)?;
        if let Some(path) = &arguments.write_tiles {
            let table = Table::built_in().with_winners(context.class(), &report.winners);
            write_atomically(path, table.text().as_bytes())?;
        }
        return Ok(if report.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if arguments.overheads {
        run.finish(overheads::run(&context, options, &run), overheads::Report::table)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.steps {
        run.finish(steps::run(&context, options, &run), steps::Report::table)?;
        return Ok(ExitCode::SUCCESS);
    }
    kernels(arguments, &context, options, &run, saved, kept)
}

/// Times kernels, and compares them with a saved run.
fn kernels(
    arguments: &BenchArguments,
    context: &Context,
    options: Options<'_>,
    run: &Run<'_>,
    saved: Option<baseline::Baselines>,
    kept: Option<baseline::Baselines>,
) -> Result<ExitCode> {
    let (batch, default) = (bench::batch(context, &options), bench::default_batch(context));
    let then = match (saved, &arguments.baseline) {
        (Some(mut saved), Some(path)) => {
            let then = baseline::take(&mut saved, &Machine::of(context), batch, default);
            let path = path.display();
            Some(then.map_err(|error| {
                let hint =
                    format!("to save one, replace --baseline by --save-baseline {path} in this command");
                Error::Data(format!("{path}: {error}")).hinted(hint)
            })?)
        }
        _ => None,
    };
    let report = run.finish(bench::run(context, options, run), Report::table)?;
    if let Some(path) = &arguments.svg {
        write_atomically(path, roofline::draw(&report).as_bytes())?;
    }
    let mut code = ExitCode::SUCCESS;
    if let Some(mut then) = then {
        // Rows that this run did not measure do not count as removed.
        let whole =
            report.complete && !options.quick && options.filter.is_empty() && options.tokens.is_empty();
        if !whole {
            then.rows.retain(|old| report.rows.iter().any(|row| row.name == old.name));
        }
        let judged = baseline::judge(&then, &report);
        eprint!("{}", baseline::table(&judged));
        if judged.iter().any(|row| row.verdict == Verdict::Loss) {
            code = ExitCode::FAILURE;
        }
    }
    if let (Some(mut kept), Some(path)) = (kept, &arguments.save_baseline) {
        baseline::keep(&mut kept, report, default);
        write_atomically(path, baseline::text(&kept)?.as_bytes())?;
    }
    Ok(code)
}

/// Writes the results so far to the file of `--json`.
struct Run<'a> {
    progress: Progress,
    json: Option<&'a Path>,
    /// True once the file has results of this run.
    wrote: AtomicBool,
}

impl Run<'_> {
    /// Prints and writes the report. After a signal, the error says that the file has the results so far.
    fn finish<R: Serialize>(&self, report: Result<R>, table: fn(&R) -> String) -> Result<R> {
        self.progress.finish();
        let report = match report {
            Err(Error::Interrupted { signal, .. }) if self.wrote.load(Ordering::Relaxed) => {
                let outcome = "the file of --json has the results so far";
                return Err(Error::Interrupted { signal, outcome });
            }
            report => report?,
        };
        json::print_or_write(self.json, &table(&report), || json!(report))?;
        Ok(report)
    }
}

impl Observer for Run<'_> {
    fn progress(&self, row: &str, done: usize, rows: usize) {
        self.progress.progress(row, done, rows);
    }

    fn signal(&self) -> Option<u8> {
        self.progress.signal()
    }
}

impl<R: Serialize> Follower<R> for Run<'_> {
    fn event(&self, report: R) -> Result<()> {
        let Some(path) = self.json.filter(|path| *path != Path::new("-")) else { return Ok(()) };
        self.wrote.store(true, Ordering::Relaxed);
        json::write(path, &json!(report))
    }
}
