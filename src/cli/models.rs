//! `lat-wgpu models`: lists the models that have names, downloads them, and trains those that have a recipe.

use super::OFFLINE;
use super::arguments::bytes;
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use super::train::about_training;
use crate::checkpoint::named::{DEFAULT, MODELS, Origin};
use crate::error::Result;
use crate::tasks::models::build::Build;
use crate::tasks::models::{self, State};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// `lat-wgpu models`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ModelsArguments {
    #[command(subcommand)]
    pub action: Option<ModelsAction>,
    /// Writes the list as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ModelsAction {
    /// Download models into the cache, and print their files
    Fetch(FetchArguments),
    /// Train a model by its recipe, on drawn persons, and store it in the cache
    Build(BuildArguments),
}

/// `lat-wgpu models fetch`.
#[derive(Debug, Args)]
pub struct FetchArguments {
    /// Names from `lat-wgpu models`, or hf:OWNER/NAME[@REVISION]
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<PathBuf>,
}

/// `lat-wgpu models build`.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// The model: person-m
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Changes one key of the recipe, such as device.precision=f16; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Limit of device memory, such as 800M or 4G; a run that needs more is an error [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
}

fn build(arguments: &BuildArguments) -> Result<ExitCode> {
    let BuildArguments { name, set, memory } = arguments;
    let progress = Progress::new(Some(Signals::listen()?));
    let offline = OFFLINE.load(Ordering::Relaxed);
    let built = models::build::build(&Build { name, set: set.clone(), offline, memory: *memory }, &progress);
    progress.finish();
    println!("{}", built.map_err(about_training)?.display());
    Ok(ExitCode::SUCCESS)
}

pub fn run(arguments: &ModelsArguments) -> Result<ExitCode> {
    match &arguments.action {
        Some(ModelsAction::Fetch(FetchArguments { names })) => {
            for name in names {
                println!("{}", open::model(Some(name))?.display());
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(ModelsAction::Build(arguments)) => return build(arguments),
        None => {}
    }
    Paths::new().writes("--json", &arguments.json).check()?;
    let rows = rows();
    json::print_or_write(arguments.json.as_deref(), &text(&rows), || rows.iter().map(Row::json).collect())?;
    Ok(ExitCode::SUCCESS)
}

/// A model of the list.
struct Row {
    name: String,
    bytes: Option<u64>,
    /// Bytes to download, unless the model is here.
    download: Option<u64>,
    licence: String,
    trained_on: &'static str,
    scores: &'static str,
    state: State,
}

/// The models of the table, and those of the hub that are in the cache.
fn rows() -> Vec<Row> {
    let named = MODELS.iter().map(|model| Row {
        name: model.name.to_string(),
        bytes: Some(model.bytes),
        download: match (&model.origin, models::state(model)) {
            (Origin::Packaged(package), State::Missing) => Some(package.bytes),
            _ => None,
        },
        licence: model.licence.to_string(),
        trained_on: model.trained_on,
        scores: model.scores,
        state: models::state(model),
    });
    let cached = models::cached().into_iter().map(|model| Row {
        name: model.name,
        bytes: std::fs::metadata(&model.file).ok().map(|found| found.len()),
        download: None,
        licence: model.licence,
        trained_on: "",
        scores: "",
        state: State::Stored(model.file),
    });
    named.chain(cached).collect()
}

impl Row {
    fn json(&self) -> Value {
        let (state, file) = match &self.state {
            State::Bundled => ("bundled", None),
            State::Stored(file) => ("stored", Some(file.to_string_lossy())),
            State::Missing => ("missing", None),
        };
        let known = |text: &str| (!text.is_empty()).then(|| text.to_string());
        json!({
            "name": self.name,
            "default": self.name == DEFAULT,
            "bytes": self.bytes,
            "download_bytes": self.download,
            "licence": known(&self.licence),
            "trained_on": known(self.trained_on),
            "scores": known(self.scores),
            "state": state,
            "file": file,
        })
    }
}

/// The list, with the facts of a model below its name.
fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let default = if row.name == DEFAULT { ", the default" } else { "" };
        let place = match (&row.state, row.download) {
            (State::Bundled, _) => "bundled".to_string(),
            (State::Stored(file), _) => file.display().to_string(),
            (State::Missing, None) => format!("not built: lat-wgpu models build {}", row.name),
            (State::Missing, Some(bytes)) => format!("not downloaded: {}", megabytes(bytes)),
        };
        text.push_str(&format!("{}{default}\n", row.name));
        let size = row.bytes.map_or(String::new(), megabytes);
        for (name, value) in [
            ("size", size.as_str()),
            ("licence", &row.licence),
            ("trained on", row.trained_on),
            ("scores", row.scores),
            ("place", &place),
        ] {
            let value = if value.is_empty() { "–" } else { value };
            text.push_str(&format!("    {name:<11} {value}\n"));
        }
    }
    text.push_str(
        "--model NAME takes one, and downloads it once; so does hf:OWNER/NAME of the Hugging Face hub\n",
    );
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
