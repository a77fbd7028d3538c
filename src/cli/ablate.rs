//! `lat-wgpu ablate`: the paper's Table 2 on a data set: one classifier or one per row, three kinds of tokens, with and
//! without blockwise fine-tuning.

use super::arguments::{SetArguments, Training};
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use super::train::run_paths;
use crate::checkpoint::{self, Settings};
use crate::datasets::TestSet;
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::images::decode::DecodeOptions;
use crate::retrieval::metrics::Scores;
use crate::storage::atomic::write_atomically;
use crate::storage::lock;
use crate::tasks::embed::LookOptions;
use crate::tasks::evaluate::{Look, Plan, Task, evaluate};
use crate::tasks::train::train;
use crate::train::config::{Config, Layers};
use crate::train::trainer::{self, Request};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// (name, classifiers' layout) as in the first columns of the table.
const MODELS: [(&str, &str); 2] = [("ViT", "1"), ("LA", "rows")];
/// (heading, tokens).
const TOKENS: [(&str, &str); 3] = [("Global", "global"), ("Local", "local"), ("Global+Local", "gelt")];
/// Without and with blockwise fine-tuning.
const PRESETS: [&str; 2] = ["full", "paper"];

/// What one of the twelve models reached.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Reached {
    rank1: f64,
    map: f64,
    minp: f64,
    valid_queries: usize,
}

/// A row of the table.
#[derive(Debug, Serialize)]
struct Row {
    model: &'static str,
    classifiers: usize,
    tokens: &'static str,
    without_blockwise: Reached,
    with_blockwise: Reached,
}

/// Files of the table, beside the run folders.
const TABLES: [&str; 2] = ["table.md", "table.json"];
/// The scores of a run's model, in its folder.
const SCORES: &str = "scores.json";

/// `lat-wgpu ablate`.
///
/// Private fields are read as keys of the configuration, by their ids: see [`Training`].
#[derive(Debug, Args)]
pub struct AblateArguments {
    /// Folder of a data set with train images, query and gallery, or a table of images (.csv)
    #[arg(id = "dir", long = "data", value_name = "DIR")]
    pub data: String,
    /// Weights to start from
    #[arg(long, value_name = "FILE")]
    backbone: String,
    /// Pass over tensors of the backbone's file that are not known
    #[arg(long)]
    ignore_unknown: bool,
    /// Folder for the twelve run folders, table.md and table.json; the same command again goes on where it stopped
    #[arg(long, value_name = "FOLDER", default_value = "ablation")]
    pub out: PathBuf,
    /// Write the table as JSON instead of printing Markdown; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Input size in pixels
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Passes over the images
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// Images in a step
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// Seed of every random choice
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Part of the adapter's name, see `lat-wgpu info`
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Keys of the training runs from a file
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One key of the training runs, such as optim.lr=1e-4; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    data_set: SetArguments,
}

pub fn run(given: &Training<AblateArguments>) -> Result<ExitCode> {
    check_paths(given)?;
    let Training { arguments, layers } = given;
    let Config { data, .. } = Config::resolve(layers)?;
    let dir = data.dir.clone().unwrap_or_default();
    let set = TestSet::load(Path::new(&dir), &data.load_options(), true)?;
    if !set.has_split {
        return Err(Error::Usage(format!(
            "{dir} has no query and gallery apart from the images that train: there is nothing to score on"
        )));
    }
    let signals = Signals::listen()?;
    let mut rows = Vec::new();
    for (model, parts) in MODELS {
        for (tokens, tokens_key) in TOKENS {
            let mut reached = Vec::new();
            let mut classifiers = 0;
            for preset in PRESETS {
                let variant = Variant { model, parts, tokens: tokens_key, preset };
                eprintln!("{}", variant.name());
                let (scores, parts) = one(given, &variant, &set, &signals)?;
                reached.push(scores);
                classifiers = parts;
            }
            if let [without_blockwise, with_blockwise] = reached[..] {
                rows.push(Row { model, classifiers, tokens, without_blockwise, with_blockwise });
            }
        }
    }
    let table = markdown(&rows);
    let [markdown, json] = TABLES.map(|name| arguments.out.join(name));
    write_atomically(&markdown, table.as_bytes())?;
    let value = serde_json::json!({ "protocol": "standard", "rows": rows });
    json::write(&json, &value)?;
    match &arguments.json {
        Some(target) => json::write(target, &value)?,
        None => print!("{table}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// One of the twelve models.
struct Variant {
    model: &'static str,
    parts: &'static str,
    tokens: &'static str,
    preset: &'static str,
}

impl Variant {
    fn all() -> Vec<Variant> {
        let mut all = Vec::new();
        for (model, parts) in MODELS {
            for (_, tokens) in TOKENS {
                all.extend(PRESETS.map(|preset| Variant { model, parts, tokens, preset }));
            }
        }
        all
    }

    /// Of its run folder.
    fn name(&self) -> String {
        let Variant { model, tokens, preset, .. } = self;
        format!("{}-{tokens}-{preset}", model.to_lowercase())
    }

    /// Configuration of its run.
    fn layers(&self, given: &Layers) -> Layers {
        let Variant { parts, tokens, preset, .. } = *self;
        let keys = [
            ("model.parts", parts),
            ("model.tokens", tokens),
            ("model.embed_tokens", tokens),
            ("preset", preset),
        ];
        let mut layers = given.clone();
        layers.flags.extend(keys.map(|(key, value)| (key.to_string(), value.to_string())));
        layers
    }
}

/// Finds outputs that can't be written, or would replace what is read.
fn check_paths(Training { arguments, layers }: &Training<AblateArguments>) -> Result<()> {
    let AblateArguments { data, out, json, .. } = arguments;
    let mut paths = Paths::new().reads_sets("--data", [data]).writes("--json", json);
    let mut is_begun = false;
    for variant in Variant::all() {
        let folder = out.join(variant.name());
        is_begun |= lock::was_taken(&folder);
        let owns = |name: &str| name == SCORES || trainer::is_own(name);
        paths = run_paths(paths, &folder, true, &variant.layers(layers), owns)?;
    }
    paths.writes_into("--out", out, |name| TABLES.contains(&name), is_begun).check()
}

/// Trains one model, or goes on with it, and scores it; what is done already is only read.
fn one(
    Training { arguments, layers }: &Training<AblateArguments>,
    variant: &Variant,
    set: &TestSet,
    signals: &Signals,
) -> Result<(Reached, usize)> {
    let out = arguments.out.join(variant.name());
    let layers = variant.layers(layers);
    let request = Request { out: out.clone(), resume: true, memory: None, layers, profile: false };
    let progress = Progress::new(Some(signals.clone()));
    let trained = train(&request, &progress);
    progress.finish();
    trained.map_err(|error| match error {
        Error::Interrupted { signal, .. } => {
            Error::Interrupted { signal, outcome: "the state is saved; the same command goes on" }
        }
        error => open::about_tensors(error),
    })?;

    // A run that is told to stop inside its first epoch has no best one.
    let best = ["best.safetensors", "last.safetensors"].map(|name| out.join(name));
    let best = best.into_iter().find(|path| path.exists()).unwrap_or_else(|| out.join("best.safetensors"));
    let network = checkpoint::load(&best, &Settings::default())?;
    let parts = network.config.parts();
    let stored = out.join(SCORES);
    // Scores belong to the model that they were written after.
    let time = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    if time(&stored) >= time(&best)
        && let Ok(text) = std::fs::read_to_string(&stored)
        && let Ok(reached) = serde_json::from_str(&text)
    {
        return Ok((reached, parts));
    }
    let context = Context::open(&ContextOptions::from_environment(arguments.adapter.clone()))?;
    let options = LookOptions { decode: DecodeOptions::default(), flip: false };
    let look = Look { options, ..Look::default() };
    let task = Task::embed(set.clone(), &network, &context, look, &progress)?;
    let plan = Plan::default();
    let Scores { ranks, map, minp, valid_queries, .. } = evaluate(task, &plan, &context, &progress)?.plain;
    let reached = Reached { rank1: ranks[0], map, minp, valid_queries };
    json::write(&stored, &serde_json::json!(reached))?;
    Ok((reached, parts))
}

/// The table as the paper prints it, in percent.
fn markdown(rows: &[Row]) -> String {
    let mut text = "| # | Model | Classifiers | Tokens | Rank-1 without BW-FT | mAP without BW-FT | Rank-1 with BW-FT | mAP with BW-FT |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_string();
    for (i, row) in rows.iter().enumerate() {
        let Row { model, classifiers, tokens, without_blockwise, with_blockwise } = row;
        text.push_str(&format!("| {} | {model} | {classifiers} | {tokens} |", i + 1));
        for Reached { rank1, map, .. } in [without_blockwise, with_blockwise] {
            text.push_str(&format!(" {:.2} | {:.2} |", 100.0 * rank1, 100.0 * map));
        }
        text.push('\n');
    }
    text
}
