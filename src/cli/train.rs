//! `lat-wgpu train`: fine-tune a backbone into a re-identification model.

use super::args::TrainArguments;
use super::embed::progress_bar;
use super::signals::Signals;
use crate::error::Result;
use crate::train::config::{Layers, keys};
use crate::train::forecast::{self, Forecast, StageForecast};
use crate::train::log::{EpochLine, StepLine};
use crate::train::trainer::{self, Request, Watch};
use indicatif::ProgressBar;
use std::process::ExitCode;

pub fn run(arguments: &TrainArguments) -> Result<ExitCode> {
    let layers =
        Layers { file: arguments.config.clone(), flags: arguments.flags(), set: arguments.set.clone() };
    let mut progress = Progress { bar: None, signals: Signals::listen()? };
    let out = match &arguments.out {
        Some(out) if !arguments.dry_run => out.clone(),
        _ => {
            print_forecast(&forecast::forecast(&layers, arguments.memory, &mut progress)?);
            return Ok(ExitCode::SUCCESS);
        }
    };
    let request = Request { out, resume: arguments.resume, memory: arguments.memory, layers };
    let done = trainer::run(&request, &mut progress);
    if let Some(bar) = progress.bar {
        bar.finish_and_clear();
    }
    done?;
    eprintln!("trained: {}", request.out.join("last.safetensors").display());
    Ok(ExitCode::SUCCESS)
}

fn print_forecast(forecast: &Forecast) {
    let Forecast { adapter, images, validation_images, classes, steps, flops_per_second, stages } = forecast;
    println!("{images} images train, {validation_images} validate, {classes} classes, {steps} steps");
    println!("{adapter}: {:.1} GFLOP/s in a short step", flops_per_second / 1e9);
    println!("epochs   blocks open  parameters  launches  memory MiB  GFLOP/step  steps  s/step");
    for stage in stages {
        let StageForecast { epochs, open_blocks, trainable, launches, bytes, flops, steps, .. } = stage;
        println!(
            "{:<8} {:<11} {trainable:>11} {launches:>9} {:>11} {:>11.1} {steps:>6} {:>7.2}",
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

/// Prints what happens in a run.
struct Progress {
    /// Made at the first step, which tells the number of the last.
    bar: Option<ProgressBar>,
    signals: Signals,
}

impl Progress {
    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Watch for Progress {
    fn note(&mut self, text: &str) {
        self.say(&format!("note: {text}"));
    }

    fn step(&mut self, line: &StepLine, steps: u64) {
        let bar = self.bar.get_or_insert_with(|| progress_bar(steps));
        bar.set_position(line.step);
        bar.set_message(format!("epoch {} loss {:.3} lr {:.2e}", line.epoch, line.loss, line.lr));
    }

    fn epoch(&mut self, line: &EpochLine) {
        let EpochLine { epoch, train_loss, val_loss, val_accuracy, seconds } = line;
        let validation = match (val_loss, val_accuracy) {
            (Some(loss), Some(accuracy)) => format!(", validation loss {loss:.4} accuracy {accuracy:.4}"),
            _ => String::new(),
        };
        self.say(&format!("epoch {epoch}: loss {train_loss:.4}{validation}, {seconds:.1} s"));
    }

    fn signal(&mut self) -> Option<u8> {
        self.signals.received()
    }
}
