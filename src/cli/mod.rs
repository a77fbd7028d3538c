//! The command line. Only this module and `main` print or choose an exit code.

// These replace the macros of std, which panic if the reader of a pipe has closed it. They are declared before the
// modules, so that the modules use them too.
macro_rules! print {
    ($($text:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!($($text)*));
    }};
}
macro_rules! println {
    ($($text:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!("{}\n", format_args!($($text)*)));
    }};
}
macro_rules! eprint {
    ($($text:tt)*) => {
        if !$crate::cli::QUIET.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = std::io::Write::write_fmt(&mut std::io::stderr().lock(), format_args!($($text)*));
        }
    };
}
macro_rules! eprintln {
    ($($text:tt)*) => { eprint!("{}\n", format_args!($($text)*)) };
}
// An error, which --quiet prints too.
macro_rules! errorln {
    ($($text:tt)*) => {{
        let text = format_args!($($text)*);
        let _ = std::io::Write::write_fmt(&mut std::io::stderr().lock(), format_args!("{text}\n"));
    }};
}

mod ablate;
mod adapt;
mod arguments;
mod autotune;
mod bench;
mod cluster;
mod compare;
mod completions;
mod convert;
mod data;
mod demo;
mod doctor;
mod embed;
mod eval;
mod eval_report;
mod examples;
mod explain;
mod export;
mod index;
mod info;
mod init;
mod inspect;
mod json;
mod keys;
mod merge;
mod models;
mod open;
mod origin;
mod paths;
mod profile;
mod progress;
#[cfg(feature = "reduce")]
mod reduce;
mod runs;
mod search;
mod search_report;
mod selftest;
#[cfg(feature = "serve")]
mod serve;
mod signals;
mod synth;
mod train;
mod words;

use crate::error::Error;
use crate::gpu::silence_caught_panics;
use arguments::Training;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

pub use adapt::store_statistics;
pub use paths::Paths;
pub use progress::Progress;
pub use train::run_paths;

/// Person re-identification with the Locally Aware Transformer on any Vulkan, Metal or DX12 adapter.
///
/// The input is person crops; there is no detector.
#[derive(Debug, Parser)]
#[command(name = "lat-wgpu", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Prints errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Prints dispatches, memory and stages too
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Opens no connection: models by name come from the program or the cache, as with LAT_OFFLINE=1
    #[arg(long, global = true)]
    offline: bool,
}

/// The words after the name of the program.
static WORDS: OnceLock<Vec<OsString>> = OnceLock::new();
/// True to print errors only.
static QUIET: AtomicBool = AtomicBool::new(false);
/// True to print details too.
static VERBOSE: AtomicBool = AtomicBool::new(false);
/// True to open no connection.
static OFFLINE: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn folders of person crops into embeddings
    Embed(embed::EmbedArguments),
    /// Verify shards or an index folder, and merge them into one file
    Merge(merge::MergeArguments),
    /// Fit principal components to embeddings, or reduce embeddings by them
    #[cfg(feature = "reduce")]
    Reduce(Box<reduce::ReduceArguments>),
    /// List adapters, their features and limits
    Info(info::InfoArguments),
    /// Check that the machine has all that the program needs, and print what to install
    Doctor(doctor::DoctorArguments),
    /// Time every kernel and compare it with the adapter's roofline
    Bench(bench::BenchArguments),
    /// Check every kernel on an adapter against the reference, for bug reports
    Selftest(selftest::SelftestArguments),
    /// List the models that have names, or download them
    Models(models::ModelsArguments),
    /// Print a model file's configuration and tensors
    Inspect(inspect::InspectArguments),
    /// Fine-tune a backbone into a re-identification model
    Train(Box<Training<train::TrainArguments>>),
    /// Compare run folders: scores, speed, memory, and the keys in which they differ
    Runs(runs::RunsArguments),
    /// Train and score the twelve variants of the paper's Table 2
    Ablate(Training<ablate::AblateArguments>),
    /// Score a model or embeddings on data sets: rank-k, mAP, mINP, verification
    Eval(Box<eval::EvalArguments>),
    /// Find the persons of images in a gallery of embeddings
    Search(Box<search::SearchArguments>),
    /// Print the distance of two images, and how often two strangers are as near
    Compare(compare::CompareArguments),
    /// Change an index folder of embeddings
    Index(index::IndexArguments),
    /// Group the images of a gallery into persons, without labels
    Cluster(Box<cluster::ClusterArguments>),
    /// Adapt a model to cameras without labels
    Adapt(Box<Training<adapt::AdaptArguments>>),
    /// Serve search as a web page and a JSON API
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArguments>),
    /// Count a data set's persons, images and cameras, and report problems
    Data(data::DataArguments),
    /// Draw a small data set of synthetic images
    Synth(synth::SynthArguments),
    /// Draw a small data set, fine-tune on it, and report the scores before and after
    Demo(demo::DemoArguments),
    /// Write a backbone with random weights
    Init(init::InitArguments),
    /// Make a model of PyTorch's files: PersonViT, TransReID, DeiT, MAE and other plain ViTs
    Convert(convert::ConvertArguments),
    /// Measure the fastest tiles on this adapter, and save them for later runs
    Autotune(autotune::AutotuneArguments),
    /// Export a model to timm, ONNX or the browser
    Export(export::ExportArguments),
    /// Show which patches of an image a model uses
    Explain(explain::ExplainArguments),
    /// Print completions for a shell
    Completions(completions::CompletionsArguments),
}

/// Returns the command line as clap has it.
pub fn command() -> clap::Command {
    examples::add(Arguments::command())
}

/// Runs the command line of the process.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os().skip(1).collect()))
}

/// Parses the words after the name of the program, runs the command and reports its failure.
///
/// Returns 0 for success, 1 for a failure, 2 for bad usage, and 130 or 143 after a signal.
pub fn run(words: Vec<OsString>) -> u8 {
    silence_caught_panics();
    // A Python process may run several lines; a page names the first.
    WORDS.get_or_init(|| words.clone());
    let line = [OsString::from("lat-wgpu")].into_iter().chain(words);
    let matches = command().try_get_matches_from(line);
    let parsed = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no failures. A closed pipe needs no message.
            let _ = error.print();
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    QUIET.store(arguments.quiet, Ordering::Relaxed);
    VERBOSE.store(arguments.verbose, Ordering::Relaxed);
    OFFLINE.store(arguments.offline, Ordering::Relaxed);
    let done = match arguments.command {
        Command::Embed(arguments) => embed::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
        #[cfg(feature = "reduce")]
        Command::Reduce(arguments) => reduce::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Selftest(arguments) => selftest::run(&arguments),
        Command::Models(arguments) => models::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Train(arguments) => train::run(*arguments),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::Ablate(arguments) => ablate::run(arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Search(arguments) => search::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Index(arguments) => index::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Adapt(arguments) => adapt::run(*arguments),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Data(arguments) => data::run(&arguments),
        Command::Synth(arguments) => synth::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Autotune(arguments) => autotune::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match done {
        Ok(code) => u8::from(code != ExitCode::SUCCESS),
        Err(error) => {
            report(&error);
            error.exit_code()
        }
    }
}

/// Prints `error:` with its causes, then `hint:`.
fn report(error: &Error) {
    errorln!("error: {}", error.with_causes());
    if let Some(hint) = error.hint() {
        errorln!("hint: {hint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_arguments_are_consistent() {
        command().debug_assert();
    }
}
