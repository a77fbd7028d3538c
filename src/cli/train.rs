//! `lat-wgpu train`: fine-tune a backbone into a re-identification model.

use super::arguments::{SetArguments, Training, bytes};
use super::open;
use super::paths::{Paths, same};
use super::profile::{Profiles, TRACE};
use super::progress::Progress;
use super::signals::Signals;
use super::words::{word, words};
use crate::datasets::{LoadOptions, TestSet};
use crate::error::{Error, Result};
use crate::observer::Follower;
use crate::shape::Activation;
use crate::storage::lock;
use crate::tasks::train::train;
use crate::train::config::{Config, Layers, keys};
use crate::train::forecast::{self, Forecast, StageForecast};
use crate::train::log::{EpochLine, RetrievalScores};
use crate::train::trainer::{self, Event, Request, Summary};
use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

/// `lat-wgpu train`.
///
/// Private fields are read as keys of the configuration, by their ids: see [`Training`].
#[derive(Debug, Args)]
#[command(after_long_help = keys_help(), args_override_self = true)]
pub struct TrainArguments {
    /// Weights to start from: a plain ViT, or a trained model (its part classifiers are dropped)
    #[arg(long, value_name = "FILE")]
    backbone: Option<String>,
    /// Folder of a data set, or a table of images (.csv): its train split trains, or without a split all of it
    #[arg(id = "dir", long = "data", value_name = "DIR")]
    data: Option<String>,
    /// Run folder: config.toml, log.jsonl, curves.svg, best.safetensors, last.safetensors
    #[arg(long, value_name = "RUN", required_unless_present = "dry_run")]
    pub out: Option<PathBuf>,
    /// Recipe: paper, released-code, full or strong [default: paper]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Go on from RUN/last.safetensors, to the bit as if never stopped
    #[arg(long)]
    pub resume: bool,
    /// Keys from a file; flags and --set win over it
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One key of the configuration, such as optim.lr=1e-4; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Passes over the images
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// Images in a step
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// Run the backbone on N images at a time: the same step in less memory and more time [default: the whole batch]
    #[arg(long, value_name = "N")]
    micro_batch: Option<String>,
    /// Device memory to stay within, such as 800M or 4G; a run that needs more is refused [default: any]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Print memory, operations and an estimate of time for each stage, and train nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the time of kernels and layers in a step of each stage, and write it as a trace for Chrome and Perfetto [default FILE: RUN/trace.json]
    #[arg(long, value_name = "FILE", require_equals = true, conflicts_with = "dry_run")]
    pub profile: Option<Option<PathBuf>>,
    /// Learning rate before any decay
    #[arg(long, value_name = "F")]
    lr: Option<String>,
    /// What the learning rate is multiplied by when a block opens
    #[arg(long, value_name = "F")]
    lr_decay: Option<String>,
    /// Weight decay on every trainable parameter
    #[arg(long, value_name = "F")]
    weight_decay: Option<String>,
    /// Longest gradient over all parameters; 0: any
    #[arg(long, value_name = "F")]
    clip_norm: Option<String>,
    /// Share of the target that is spread over all classes
    #[arg(long, value_name = "F")]
    label_smoothing: Option<String>,
    /// Probability that a hidden value of a part classifier is dropped
    #[arg(long, value_name = "P")]
    dropout: Option<String>,
    /// Probability that an image is mirrored
    #[arg(id = "flip", long = "flip-prob", value_name = "P")]
    flip_prob: Option<String>,
    /// Take the images in sorted path order in every epoch
    #[arg(id = "shuffle", long = "no-shuffle", action = ArgAction::SetFalse)]
    no_shuffle: bool,
    /// Seed of every random choice
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Stop after N steps in all; 0 writes the initial model
    #[arg(long, value_name = "N")]
    max_steps: Option<String>,
    /// Share of each person's images that validates [default: none; with --best accuracy the first of every person with two or more]
    #[arg(long, value_name = "F")]
    val_fraction: Option<String>,
    /// With --best val-map: share of the persons, at least ten, that is held out of training
    #[arg(long, value_name = "F")]
    val_persons: Option<String>,
    /// Save every so many steps, beside every epoch's end
    #[arg(long, value_name = "STEPS")]
    save_every: Option<String>,
    /// Score query against gallery every E epochs and after the last one; needs both in the data set
    #[arg(long, value_name = "E")]
    eval_every: Option<String>,
    /// Model that becomes best.safetensors: last (the last epoch's model), or the best by val-map (mAP among the persons of --val-persons),
    /// accuracy (on validation images) or test-map (with --eval-every: chooses on the test set) [default: last; of released-code accuracy]
    #[arg(long, value_name = "WHAT")]
    best: Option<String>,
    /// With --best val-map: then train all persons from the start, for as many epochs as were best
    #[arg(long)]
    refit: bool,
    /// Epochs from one opening of a block to the next
    #[arg(long, value_name = "T")]
    unfreeze_every: Option<String>,
    /// Blocks that are open in epoch 0
    #[arg(long, value_name = "N")]
    first_unfreeze: Option<String>,
    /// Leave patch embedding, tokens and positions as they are
    #[arg(long, value_name = "true|false")]
    freeze_embeddings: Option<String>,
    /// Part of the adapter's name, see `lat-wgpu info`
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// How weights and activations are stored: f32 or f16; sums and updates are f32 [default: f32]
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// Do not turn images as their EXIF orientation says
    #[arg(long)]
    ignore_exif: bool,
    /// Input size in pixels
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Pixels from one patch to the next
    #[arg(long, value_name = "N")]
    stride: Option<String>,
    /// Attention heads
    #[arg(long, value_name = "N")]
    heads: Option<String>,
    /// Non-linearity of the MLP
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(words::<Activation>()))]
    act: Option<String>,
    /// ε of every LayerNorm
    #[arg(long, value_name = "F")]
    ln_eps: Option<String>,
    /// Mean and deviation of the input: imagenet, half or clip
    #[arg(long, value_name = "NAME")]
    normalize: Option<String>,
    /// λ, the weight of one operand of the blend
    #[arg(long, value_name = "F")]
    lambda: Option<String>,
    /// Which operand carries λ: class or local
    #[arg(long, value_name = "OPERAND")]
    lambda_on: Option<String>,
    /// Parts in training: gelt, local or global
    #[arg(long, value_name = "NAME")]
    tokens: Option<String>,
    /// One part per grid row (rows), or one in all (1)
    #[arg(long, value_name = "NAME")]
    parts: Option<String>,
    /// Pass over tensors of the backbone's file that are not known
    #[arg(long)]
    ignore_unknown: bool,
    #[command(flatten)]
    data_set: SetArguments,
}

pub fn run(Training { arguments, layers }: Training<TrainArguments>) -> Result<ExitCode> {
    let mut progress = Progress::new(Some(Signals::listen()?));
    let trace = arguments.profile.as_ref().zip(arguments.out.as_ref());
    let trace = trace.map(|(file, out)| file.clone().unwrap_or_else(|| out.join(TRACE)));
    progress.profiles = trace.clone().map(Profiles::new).map(Mutex::new);
    let out = match &arguments.out {
        Some(out) if !arguments.dry_run => out.clone(),
        _ => {
            let forecast = forecast::forecast(&layers, arguments.memory, &progress);
            print_forecast(&forecast.map_err(about_training)?);
            return Ok(ExitCode::SUCCESS);
        }
    };
    let paths = run_paths(Paths::new(), &out, arguments.resume, &layers, trainer::is_own)?;
    paths.writes("--profile", &trace).check()?;
    let request =
        Request { out, resume: arguments.resume, memory: arguments.memory, layers, profile: trace.is_some() };
    let done = train(&request, &progress);
    progress.finish();
    print_summary(&done.map_err(about_training)?);
    Ok(ExitCode::SUCCESS)
}

/// Prints which model came out, why this one, and what to do with it.
fn print_summary(summary: &Summary) {
    let Summary { out, data, options, ignore_exif, unfinished, epoch, reason, line, refit } = summary;
    let best = out.join("best.safetensors");
    if let Some(unfinished) = unfinished {
        eprintln!("{unfinished}; next: lat-wgpu train --resume --out {}", quoted(&out.to_string_lossy()));
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
        let has_test = TestSet::load(data, options, true).is_ok_and(|set| set.has_split);
        let (note, data) = match has_test {
            true => ("", quoted(&data.to_string_lossy()) + &data_flags(options, *ignore_exif)),
            false => (" (DIR: images of persons that it was not trained on)", "DIR".to_string()),
        };
        eprintln!("next: lat-wgpu eval --model {} --data {data}{note}", quoted(&best.to_string_lossy()));
    }
}

/// The flags by which `eval` reads a data set as the run did; those at their defaults are left out.
fn data_flags(options: &LoadOptions, ignore_exif: bool) -> String {
    let LoadOptions { layout, boxes, protocol, split, seed, follow_links } = options;
    let default = LoadOptions::default();
    let given = [
        ("layout", layout.map(|layout| word(&layout))),
        ("boxes", (*boxes != default.boxes).then(|| word(boxes))),
        ("cuhk03", (*protocol != default.protocol).then(|| word(protocol))),
        ("split", (*split != default.split).then(|| split.to_string())),
        ("split-seed", (*seed != default.seed).then(|| seed.to_string())),
        ("follow-links", follow_links.then(String::new)),
        ("ignore-exif", ignore_exif.then(String::new)),
    ];
    let flag =
        |(name, value): (_, Option<String>)| Some(format!(" --{name} {}", value?).trim_end().to_string());
    given.into_iter().filter_map(flag).collect()
}

/// A path as a shell takes it, and no flag.
fn quoted(path: &str) -> String {
    let path = if path.starts_with('-') { &format!("./{path}") } else { path };
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@".contains(c);
    if path.chars().all(plain) { path.to_string() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// Figures of an epoch in words.
fn describe(line: &EpochLine) -> String {
    let EpochLine { epoch, train_loss, val_loss, val_accuracy, retrieval, val_map, val_rank1, .. } = line;
    let mut text = format!("{epoch}: loss {train_loss:.4}");
    if let (Some(loss), Some(accuracy)) = (val_loss, val_accuracy) {
        text.push_str(&format!(", validation loss {loss:.4} accuracy {accuracy:.4}"));
    }
    if let (Some(rank1), Some(map)) = (val_rank1, val_map) {
        text.push_str(&format!(", persons held out R1 {:.2} % mAP {:.2} %", 100.0 * rank1, 100.0 * map));
    }
    if let Some(RetrievalScores { rank1, map, .. }) = retrieval {
        text.push_str(&format!(", R1 {:.2} % mAP {:.2} %", 100.0 * rank1, 100.0 * map));
    }
    text
}

/// Adds what a run reads, and its folder with the files in it that `owns` admits.
///
/// # Errors
/// Where its configuration can't be settled.
pub(super) fn run_paths(
    paths: Paths,
    out: &Path,
    resume: bool,
    layers: &Layers,
    owns: fn(&str) -> bool,
) -> Result<Paths> {
    let saved = out.join("config.toml");
    let goes_on = resume && out.join("last.safetensors").exists();
    let config = if goes_on { Config::resume(&saved, layers)? } else { Config::resolve(layers)? };
    // Nothing but the images is read again; the configuration may be the run's own.
    let backbone = config.model.backbone.filter(|_| !goes_on);
    let file = layers.file.iter().filter(|file| !(goes_on && same(file, &saved)));
    let paths = paths.reads("--backbone", &backbone).reads("--config", file);
    let paths = paths.following(config.data.follow_links).reads_sets("--data", &config.data.dir);
    Ok(paths.writes_into("--out", out, owns, lock::was_taken(out)))
}

/// A run's error with what its flags can do about it.
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

/// Every key of the configuration with its default, for `--help`.
pub fn keys_help() -> String {
    let mut text =
        "Keys of --config FILE.toml and --set KEY=VALUE (defaults of the preset paper):\n".to_string();
    for (key, default, help) in keys() {
        let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        text.push_str(&format!("  {key:<28} {help}{default}\n"));
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
