//! `lat-wgpu runs`: compares run folders.

use super::json;
use super::paths::Paths;
use crate::error::Result;
use crate::storage::atomic::write_atomically;
use crate::tasks::runs::{Difference, Run, differences};
use crate::train::curves;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu runs`.
#[derive(Debug, Args)]
pub struct RunsArguments {
    /// Run folders of `lat-wgpu train` or `adapt`
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Writes the curves of all runs over each other
    #[arg(long, value_name = "FILE.svg")]
    pub svg: Option<PathBuf>,
    /// Writes the comparison as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

pub fn run(arguments: &RunsArguments) -> Result<ExitCode> {
    let RunsArguments { runs: folders, svg, json: target } = arguments;
    let paths = Paths::new().reads("RUN", folders).writes("--svg", svg).writes("--json", target);
    paths.check()?;
    let runs = folders.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<Run>>>()?;
    let differences = differences(&runs);
    json::print_or_write(target.as_deref(), &text(&runs, &differences), || value(&runs, &differences))?;
    if let Some(file) = svg {
        let names: Vec<String> = runs.iter().map(name).collect();
        let lines: Vec<_> =
            names.iter().map(String::as_str).zip(runs.iter().map(|run| &run.epochs[..])).collect();
        write_atomically(file, curves::overlay(&lines).as_bytes())?;
        eprintln!("wrote {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn name(run: &Run) -> String {
    run.folder.display().to_string()
}

/// A table with the first row as its head; all columns but the first are flush right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The figures of the runs, and the keys in which they differ.
fn text(runs: &[Run], differences: &[Difference]) -> String {
    let head = ["run", "epochs", "loss", "R1", "mAP", "in epoch", "images/s", "MiB", "seconds"];
    let mut rows = vec![head.map(str::to_string).to_vec()];
    for run in runs {
        let or_dash = |text: Option<String>| text.unwrap_or("–".to_string());
        let scores = run.last_scores();
        rows.push(vec![
            name(run),
            format!("{}/{}", run.epochs.len(), run.config.schedule.epochs),
            or_dash(run.epochs.last().map(|line| format!("{:.4}", line.train_loss))),
            or_dash(scores.map(|(_, rank1, _)| format!("{:.1} %", 100.0 * rank1))),
            or_dash(scores.map(|(.., map)| format!("{:.1} %", 100.0 * map))),
            or_dash(scores.map(|(epoch, ..)| epoch.to_string())),
            or_dash(run.images_per_second().map(|rate| format!("{rate:.1}"))),
            run.gpu_bytes().div_ceil(1 << 20).to_string(),
            format!("{:.0}", run.seconds()),
        ]);
    }
    let mut text = table(&rows);
    if !differences.is_empty() {
        let mut rows =
            vec![std::iter::once("key".to_string()).chain(runs.iter().map(name)).collect::<Vec<_>>()];
        for Difference { key, values } in differences {
            let values = values.iter().map(|value| value.clone().unwrap_or("–".to_string()));
            rows.push(std::iter::once(key.to_string()).chain(values).collect());
        }
        text.push_str(&format!("\n{}", table(&rows)));
    }
    text
}

/// The value of --json.
fn value(runs: &[Run], differences: &[Difference]) -> Value {
    let of_run = |run: &Run| {
        let scores = run.last_scores();
        json!({
            "run": name(run),
            "preset": run.config.preset,
            "epochs": run.epochs.len(),
            "of_epochs": run.config.schedule.epochs,
            "train_loss": run.epochs.last().map(|line| line.train_loss),
            "rank1": scores.map(|(_, rank1, _)| rank1),
            "map": scores.map(|(.., map)| map),
            "scored_epoch": scores.map(|(epoch, ..)| epoch),
            "images_per_s": run.images_per_second(),
            "gpu_bytes": run.gpu_bytes(),
            "seconds": run.seconds(),
        })
    };
    let keys = differences.iter().map(|Difference { key, values }| (key.to_string(), json!(values)));
    json!({
        "runs": runs.iter().map(of_run).collect::<Vec<_>>(),
        "differences": keys.collect::<serde_json::Map<String, Value>>(),
    })
}
