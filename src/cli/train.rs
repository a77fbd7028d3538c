//! `lat-wgpu train`: fine-tune a backbone into a re-identification model.

use super::QUIET;
use super::arguments::{SetArguments, Training, Trains, bytes};
use super::open;
use super::paths::{Paths, same};
use super::profile::{Profiles, TRACE};
use super::progress::Progress;
use super::signals::Signals;
use super::words::word;
use crate::datasets::TestSet;
use crate::datasets::cameras::Cameras;
use crate::error::{Error, Result};
use crate::figures::CrowdSize;
use crate::observer::{Follower, Observer};
use crate::ranks::Ranks;
use crate::storage::lock;
use crate::tasks::train::train;
use crate::train::config::{ClusterConfig, Config, Layers, Preset, keys};
use crate::train::forecast::{self, Forecast, StageForecast};
use crate::train::log::{ClusterCounts, EpochLine, RetrievalScores};
use crate::train::trainer::{self, Event, Request, Summary};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// `lat-wgpu train`.
///
/// Private fields are read as keys of the configuration, by their ids: see [`Training`].
#[derive(Debug, Args)]
#[command(override_usage = USAGE, after_help = keys_help(), args_override_self = true)]
pub struct TrainArguments {
    /// Run folder: config.toml, log.jsonl, curves.svg, best.safetensors, last.safetensors
    #[arg(short, long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArguments,
    /// Prints the presets, the keys that each sets and its published scores, and trains nothing
    #[arg(long)]
    pub list_presets: bool,
}

/// A run that `train` and `adapt` begin or resume.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Resumes from RUN/last.safetensors, bit for bit as if never stopped
    #[arg(long)]
    pub resume: bool,
    /// Configuration file; flags and --set win over it
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Sets one key of the configuration, such as optim.lr=1e-4; may be repeated, wins over flags
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Limit of device memory, such as 800M or 4G; a run that needs more is an error [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Prints memory, operations and estimated time of each stage, and trains nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Profiles one step of each stage: prints the time of kernels and layers, and writes a trace for Chrome and
    /// Perfetto [default FILE: RUN/trace.json]
    #[arg(long, value_name = "FILE", require_equals = true, conflicts_with = "dry_run")]
    pub profile: Option<Option<PathBuf>>,
}

/// A new run and a resumed one.
const USAGE: &str = "lat-wgpu train --backbone <MODEL> --data <DIR> --out <RUN> [OPTIONS]
       lat-wgpu train --resume --out <RUN> [OPTIONS]";

impl Trains for TrainArguments {
    fn has(key: &str) -> bool {
        !key.starts_with("cluster.")
    }
}

pub fn run(Training { arguments, layers }: Training<TrainArguments>) -> Result<ExitCode> {
    if arguments.list_presets {
        // A closed pager is no failure.
        let _ = std::io::stdout().lock().write_all(list_of_presets().as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    let resume = arguments.run.resume;
    let begin = || {
        let mut missing = Vec::new();
        if !resume {
            let config = Config::resolve(&layers)?;
            missing.extend(config.model.backbone.is_none().then_some("--backbone"));
            missing.extend(config.data.dir.is_none().then_some("--data"));
        }
        Ok((missing, layers))
    };
    go("train", begin, arguments.out, arguments.run, |layers, _| Ok(layers))
}

/// Begins or resumes a run, or describes it. `command` is the user's. `begin` returns the flags without which it can't
/// begin, and the configuration. `complete` adds keys that depend on the contents of files. Of several ranks, the first
/// one prints.
///
/// # Errors
/// Those of [`train`]; `Usage` with all that is missing.
pub(super) fn go(
    command: &str,
    begin: impl FnOnce() -> Result<(Vec<&'static str>, Layers)>,
    out: Option<PathBuf>,
    arguments: RunArguments,
    complete: impl FnOnce(Layers, &dyn Observer) -> Result<Layers>,
) -> Result<ExitCode> {
    let ranks = Ranks::join()?.map(Arc::new);
    if !Ranks::is_first(ranks.as_deref()) {
        QUIET.store(true, Ordering::Relaxed);
    }
    let dry_run = arguments.dry_run;
    let prepared = prepare(begin, out, arguments, complete, ranks.clone());
    let done = Ranks::agree(ranks.as_deref(), prepared).and_then(|(request, progress)| {
        if dry_run {
            let forecast = forecast::forecast(&request.layers, request.memory, &progress);
            print_forecast(&forecast.map_err(about_training)?);
            return Ok(());
        }
        let done = train(&request, &progress);
        progress.finish();
        print_summary(command, &done.map_err(about_training)?);
        Ok(())
    });
    match (done, ranks) {
        (Err(error), Some(ranks)) if !ranks.is_known(&error) => {
            errorln!("error: rank {}: {}", ranks.rank(), error.with_causes());
            ranks.abort(error.exit_code())
        }
        (Err(_), Some(ranks)) if ranks.rank() > 0 => Ok(ExitCode::SUCCESS),
        (done, _) => done.map(|()| ExitCode::SUCCESS),
    }
}

/// Checks the arguments of a run and its paths.
fn prepare(
    begin: impl FnOnce() -> Result<(Vec<&'static str>, Layers)>,
    out: Option<PathBuf>,
    arguments: RunArguments,
    complete: impl FnOnce(Layers, &dyn Observer) -> Result<Layers>,
    ranks: Option<Arc<Ranks>>,
) -> Result<(Request, Progress)> {
    let RunArguments { resume, memory, dry_run, profile, .. } = arguments;
    if ranks.is_some() && (dry_run || profile.is_some()) {
        return Err(Error::Usage(
            "--dry-run and --profile measure one process: start it without mpirun, with --micro-batch for its share"
                .to_string(),
        ));
    }
    let (mut missing, layers) = begin()?;
    missing.extend((out.is_none() && !dry_run).then_some("--out"));
    if !missing.is_empty() {
        return Err(Error::Usage(format!("missing {}", missing.join(", "))));
    }
    let layers = open::backbone(layers)?;
    let mut progress = Progress::new(Some(Signals::listen()?));
    let trace = profile.zip(out.as_ref());
    let trace = trace.map(|(file, out)| file.unwrap_or_else(|| out.join(TRACE)));
    progress.profiles = trace.clone().map(Profiles::new).map(Mutex::new);
    let out = out.filter(|_| !dry_run);
    if let Some(out) = &out {
        let paths = run_paths(Paths::new(), out, resume, &layers, trainer::is_own)?;
        paths.writes("--profile", &trace).check()?;
    }
    let layers = complete(layers, &progress).map_err(open::about_tensors)?;
    let out = out.unwrap_or_default();
    Ok((Request { out, resume, memory, layers, profile: trace.is_some(), ranks }, progress))
}

/// Describes each preset: the recipe, its published scores, and the keys in which it differs from the default preset.
fn list_of_presets() -> String {
    let mut text = String::new();
    for preset in Preset::ALL {
        let default = if preset == Preset::Paper { " (default)" } else { "" };
        text.push_str(&format!("{}{default}\n  {}\n", word(&preset), preset.about()));
        match preset.published() {
            Some(scores) => {
                text.push_str(&format!("  published on Market-1501: {scores}; not reproduced here\n"))
            }
            None => text.push_str("  no published scores\n"),
        }
        for (key, value) in Config::differences(preset) {
            text.push_str(&format!("  {key} = {value}\n"));
        }
        text.push('\n');
    }
    text
}

/// Prints the best model, the reason for the choice, and the next command.
fn print_summary(command: &str, summary: &Summary) {
    let Summary { out, config, unfinished, epoch, reason, line, refit } = summary;
    let best = out.join("best.safetensors");
    if let Some(unfinished) = unfinished {
        eprintln!("{unfinished}; next: lat-wgpu {command} --resume --out {}", quoted(&out.to_string_lossy()));
    }
    match (epoch, refit) {
        (Some(epoch), Some(epochs)) => eprintln!(
            "best.safetensors: all persons, trained for {epochs} epochs, since epoch {epoch} was {reason}"
        ),
        (Some(epoch), None) => eprintln!("best.safetensors: epoch {epoch}, {reason}"),
        (None, _) if best.exists() => eprintln!("best.safetensors: {reason}"),
        (None, _) => eprintln!("best.safetensors: not yet, no epoch is done"),
    }
    if let Some(line) = line {
        eprintln!("  of epoch {}", describe(line));
    }
    eprintln!("run folder: {}", out.display());
    if best.exists() {
        let data = config.data.dir.as_deref().unwrap_or_default();
        let options = config.data.load_options();
        let has_test = TestSet::load(Path::new(data), &options, true).is_ok_and(|set| set.has_split);
        let (note, data) = match has_test {
            true => ("", quoted(data) + &data_flags(config)),
            false => (" (DIR: images of persons that it was not trained on)", "DIR".to_string()),
        };
        eprintln!("next: lat-wgpu eval --model {} --data {data}{note}", quoted(&best.to_string_lossy()));
    }
}

/// Returns the flags with which `eval` reads the data set as the run did.
fn data_flags(config: &Config) -> String {
    let flags = config.flags(|key| SetArguments::has(key.name) || key.name == "data.ignore_exif");
    let flag = |(flag, value): (String, String)| match value.as_str() {
        "true" => format!(" --{flag}"),
        _ => format!(" --{flag} {value}"),
    };
    flags.into_iter().map(flag).collect()
}

/// Quotes a path for a shell. A leading dash gets `./` before it.
fn quoted(path: &str) -> String {
    let path = if path.starts_with('-') { &format!("./{path}") } else { path };
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@".contains(c);
    if path.chars().all(plain) { path.to_string() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// Returns the figures of an epoch in words.
fn describe(line: &EpochLine) -> String {
    let EpochLine { epoch, train_loss, val_loss, val_accuracy, retrieval, val_map, val_rank1, .. } = line;
    let mut text = format!("{epoch}: loss {train_loss:.4}");
    if let (Some(loss), Some(accuracy)) = (val_loss, val_accuracy) {
        text.push_str(&format!(", validation loss {loss:.4} accuracy {accuracy:.4}"));
    }
    if let Some(ClusterCounts { clusters, outliers, .. }) = line.clusters {
        text.push_str(&format!(", {clusters} clusters, {outliers} outliers"));
    }
    if let (Some(rank1), Some(map)) = (val_rank1, val_map) {
        text.push_str(&format!(", persons held out R1 {:.2} % mAP {:.2} %", 100.0 * rank1, 100.0 * map));
    }
    if let Some(RetrievalScores { rank1, map, .. }) = retrieval {
        text.push_str(&format!(", R1 {:.2} % mAP {:.2} %", 100.0 * rank1, 100.0 * map));
    }
    text
}

/// Adds the inputs of a run, and its folder with the files that `owns` accepts.
///
/// # Errors
/// Those of the configuration.
pub fn run_paths(
    paths: Paths,
    out: &Path,
    resume: bool,
    layers: &Layers,
    owns: fn(&str) -> bool,
) -> Result<Paths> {
    let saved = out.join("config.toml");
    let goes_on = resume && out.join("last.safetensors").exists();
    let config = if goes_on { Config::resume(&saved, layers)? } else { Config::resolve(layers)? };
    // A resumed run reads only the images again. The configuration may be its own.
    let backbone = config.model.backbone.filter(|_| !goes_on);
    let file = layers.file.iter().filter(|file| !(goes_on && same(file, &saved)));
    let ClusterConfig { images, cameras, .. } = &config.cluster;
    let weights = if images.is_some() { "--model" } else { "--backbone" };
    let paths = paths.reads(weights, &backbone).reads("--config", file);
    let paths = paths.reads("--images", images).reads("--cameras", Cameras::table(cameras));
    let files = config.data.dir.iter().filter(|data| !CrowdSize::is_meant(data));
    let paths = paths.following(config.data.follow_links).reads_sets("--data", files);
    Ok(paths.writes_into("--out", out, owns, lock::was_taken(out)))
}

/// Adds a hint about flags to the error of a run.
pub(super) fn about_training(error: Error) -> Error {
    match error.plain() {
        _ if error.is_out_of_memory() => {
            error.hinted("a smaller --micro-batch needs less; do other programs use the adapter's memory?")
        }
        Error::NotFinite { .. } => {
            error.hinted("the state before this step is saved; try a lower --lr, or --clip-norm 1")
        }
        _ => open::about_tensors(error),
    }
}

fn print_forecast(forecast: &Forecast) {
    let Forecast { adapter, images, validation_images, classes, steps, flops_per_second, stages } = forecast;
    let classes = classes.map_or("clusters as".to_string(), |classes| classes.to_string());
    println!("{images} images train, {validation_images} validate, {classes} classes, {steps} steps");
    println!("{adapter}: {:.1} GFLOP/s in a short step", flops_per_second / 1e9);
    println!("epochs   blocks open  parameters  dispatches  memory MiB  GFLOP/step  steps  s/step");
    for stage in stages {
        let StageForecast { epochs, open_blocks, trainable, dispatches, bytes, flops, steps, .. } = stage;
        println!(
            "{:<8} {:<11} {trainable:>11} {dispatches:>11} {:>11} {:>11.1} {steps:>6} {:>7.2}",
            format!("{}-{}", epochs.start, epochs.end - 1),
            format!("{open_blocks}{}", if stage.embeddings { " + emb." } else { "" }),
            bytes.div_ceil(1 << 20),
            flops / 1e9,
            stage.seconds_per_step
        );
    }
    let seconds = forecast.seconds();
    println!("about {:.0} min for all steps; validation and saves come on top", (seconds / 60.0).ceil());
}

/// Lists the keys of the configuration for `--help`.
fn keys_help() -> String {
    let mut text = "Keys of --config and --set:".to_string();
    let mut last = None;
    for key in keys() {
        let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
        let is_new = last.replace(section) != Some(section);
        let line = text.rsplit('\n').next().map_or(0, str::len);
        if is_new || line + name.len() > 90 {
            text.push_str(&format!("\n  {:<10}", if is_new { section } else { "" }));
        }
        text.push_str(&format!(" {name}"));
    }
    text
}

impl Follower<Event> for Progress {
    fn event(&self, event: Event) -> Result<()> {
        match event {
            Event::Step { line, steps } => {
                let message = format!("epoch {} loss {:.3} lr {:.2e}", line.epoch, line.loss, line.lr);
                self.show(message, line.step, steps);
            }
            Event::Epoch(line) => {
                let test_set =
                    if line.chosen_on_test_set { "; best.safetensors is chosen on the test set" } else { "" };
                self.say(&format!("epoch {}, {:.1} s{test_set}", describe(&line), line.seconds));
            }
            Event::Profile { stage, profile } => {
                if let Some(profiles) = &self.profiles {
                    let mut profiles = profiles.lock().unwrap_or_else(PoisonError::into_inner);
                    self.say(profiles.add(&stage, &profile)?.trim_end());
                }
            }
        }
        Ok(())
    }
}
