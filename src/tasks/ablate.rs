//! Trains and scores the twelve models of the paper's Table 2: one classifier or one per row, three kinds of tokens,
//! with and without blockwise fine-tuning.

use super::evaluate::{self, evaluate_one};
use super::train::train;
use crate::checkpoint::{self, Settings};
use crate::datasets::TestSet;
use crate::error::{Error, Result};
use crate::gpu::ContextOptions;
use crate::observer::Follower;
use crate::retrieval::metrics::Scores;
use crate::storage::atomic::write_atomically;
use crate::storage::json;
use crate::train::config::{Config, Layers};
use crate::train::trainer::{self, Event};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Name and layout of the classifiers.
const MODELS: [(&str, &str); 2] = [("ViT", "1"), ("LA", "rows")];
/// Heading and kind of tokens.
const TOKENS: [(&str, &str); 3] = [("Global", "global"), ("Local", "local"), ("Global+Local", "gelt")];
/// Without and with blockwise fine-tuning.
const PRESETS: [&str; 2] = ["full", "paper"];

/// The files of the table, beside the run folders.
pub const TABLE_FILES: [&str; 2] = ["table.md", "table.json"];
/// The file with a model's scores, in its run folder.
const SCORES_FILE: &str = "scores.json";

/// Settings of an ablation.
#[derive(Debug, Clone)]
pub struct Request {
    /// The folder of the run folders and the table.
    pub out: PathBuf,
    /// The configuration of the runs. The keys of a [`Variant`] are added.
    pub layers: Layers,
}

/// Scores of one model.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ModelScores {
    /// Rank-1.
    pub rank1: f64,
    /// mAP.
    pub map: f64,
    /// mINP.
    pub minp: f64,
    /// Queries with a true match.
    pub valid_queries: usize,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `ViT` or `LA`.
    pub model: &'static str,
    /// Number of part classifiers.
    pub classifiers: usize,
    /// Heading of the tokens.
    pub tokens: &'static str,
    /// All blocks trained at once.
    pub without_blockwise: ModelScores,
    /// Blocks opened one after another.
    pub with_blockwise: ModelScores,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    /// Six rows of two models each.
    pub rows: Vec<Row>,
}

/// One of the twelve models.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    model: &'static str,
    parts: &'static str,
    tokens: &'static str,
    preset: &'static str,
}

impl Variant {
    /// Returns all variants in the order of the table.
    pub fn all() -> Vec<Variant> {
        let mut all = Vec::new();
        for (model, parts) in MODELS {
            for (_, tokens) in TOKENS {
                all.extend(PRESETS.map(|preset| Variant { model, parts, tokens, preset }));
            }
        }
        all
    }

    /// Returns the name of the run folder.
    pub fn name(&self) -> String {
        let Variant { model, tokens, preset, .. } = self;
        format!("{}-{tokens}-{preset}", model.to_lowercase())
    }

    /// Returns the configuration of the run: `common` with the variant's keys.
    pub fn layers(&self, common: &Layers) -> Layers {
        let Variant { parts, tokens, preset, .. } = *self;
        let keys = [
            ("model.parts", parts),
            ("model.tokens", tokens),
            ("model.embed_tokens", tokens),
            ("preset", preset),
        ];
        let mut layers = common.clone();
        layers.flags.extend(keys.map(|(key, value)| (key.to_string(), value.to_string())));
        layers
    }
}

/// Returns true if an ablation writes a file of this name into a run folder.
pub fn is_own(name: &str) -> bool {
    name == SCORES_FILE || trainer::is_own(name)
}

/// Trains and scores all variants, and writes the table. Continues a run that was stopped, and does not repeat a run
/// that is complete. The observer receives each variant before its run starts.
///
/// # Errors
/// [`Error::Usage`] for a data set without test images; those of [`train`] and [`evaluate_one`].
pub fn ablate<O: Follower<Event> + Follower<Variant>>(request: &Request, observer: &O) -> Result<Table> {
    let Config { data, .. } = Config::resolve(&request.layers)?;
    let dir = data.dir.clone().unwrap_or_default();
    let set = TestSet::load(Path::new(&dir), &data.load_options(), true)?;
    if !set.has_split {
        return Err(Error::Usage(format!(
            "{dir} has no test images: scoring needs a query and a gallery folder besides the training images"
        )));
    }
    let mut rows = Vec::new();
    for (model, parts) in MODELS {
        for (heading, tokens) in TOKENS {
            let score = |preset: &'static str| {
                let variant = Variant { model, parts, tokens, preset };
                observer.event(variant)?;
                train_and_score(request, variant, &set, observer)
            };
            let [without, with] = PRESETS;
            let (without_blockwise, _) = score(without)?;
            let (with_blockwise, classifiers) = score(with)?;
            rows.push(Row { model, classifiers, tokens: heading, without_blockwise, with_blockwise });
        }
    }
    let table = Table { rows };
    let [markdown, table_file] = TABLE_FILES.map(|name| request.out.join(name));
    write_atomically(&markdown, table.markdown().as_bytes())?;
    json::write(&table_file, &table.json())?;
    Ok(table)
}

/// Returns the model's scores and its number of part classifiers.
fn train_and_score<O: Follower<Event>>(
    request: &Request,
    variant: Variant,
    set: &TestSet,
    observer: &O,
) -> Result<(ModelScores, usize)> {
    let out = request.out.join(variant.name());
    let layers = variant.layers(&request.layers);
    let adapter = Config::resolve(&layers)?.device.adapter;
    let run = trainer::Request {
        out: out.clone(),
        resume: true,
        memory: None,
        layers,
        profile: false,
        ranks: None,
    };
    train(&run, observer)
        .map_err(|error| error.with_outcome("the state is saved; run the same command again to continue"))?;

    // A run that was stopped in its first epoch has no best.safetensors.
    let best = ["best.safetensors", "last.safetensors"].map(|name| out.join(name));
    let best = best.into_iter().find(|path| path.exists()).unwrap_or_else(|| out.join("best.safetensors"));
    let network = checkpoint::load(&best, &Settings::default())?;
    let parts = network.config.parts();
    let stored = out.join(SCORES_FILE);
    // Scores older than the model belong to an earlier one.
    let time = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    if time(&stored) >= time(&best)
        && let Ok(text) = std::fs::read_to_string(&stored)
        && let Ok(scores) = serde_json::from_str(&text)
    {
        return Ok((scores, parts));
    }
    let adapter = ContextOptions::from_environment(adapter);
    let settings = evaluate::Request::default();
    let Scores { ranks, map, minp, valid_queries, .. } =
        evaluate_one(set, &network, &adapter, &settings, observer)?.plain;
    let scores = ModelScores { rank1: ranks[0], map, minp, valid_queries };
    json::write(&stored, &json!(scores))?;
    Ok((scores, parts))
}

impl Table {
    /// Returns the content of `table.json`.
    pub fn json(&self) -> Value {
        json!({ "protocol": "standard", "rows": self.rows })
    }

    /// Returns the content of `table.md`: the paper's table, in percent.
    pub fn markdown(&self) -> String {
        let mut text = "| # | Model | Classifiers | Tokens | Rank-1 without BW-FT | mAP without BW-FT | Rank-1 with BW-FT | mAP with BW-FT |\n\
                        |---|---|---|---|---|---|---|---|\n"
            .to_string();
        for (i, row) in self.rows.iter().enumerate() {
            let Row { model, classifiers, tokens, without_blockwise, with_blockwise } = row;
            text.push_str(&format!("| {} | {model} | {classifiers} | {tokens} |", i + 1));
            for ModelScores { rank1, map, .. } in [without_blockwise, with_blockwise] {
                text.push_str(&format!(" {:.2} | {:.2} |", 100.0 * rank1, 100.0 * map));
            }
            text.push('\n');
        }
        text
    }
}
