//! `lat-wgpu demo`: from nothing to a report: figures, blockwise fine-tuning, scores before and after.

use super::arguments::AdapterArgument;
use super::eval_report::{PLACES, Page};
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use crate::checkpoint::{self, Settings};
use crate::datasets::{LoadOptions, TestSet};
use crate::error::{Error, Result};
use crate::figures::{Figures, draw_figures};
use crate::gpu::{Context, ContextOptions};
use crate::images::decode::DecodeOptions;
use crate::report::DEFAULT_LIMIT;
use crate::retrieval::metrics::Scores;
use crate::storage::atomic::write_atomically;
use crate::tasks::evaluate::{Look, Outcome, Plan, Task, evaluate};
use crate::tasks::train::train;
use crate::train::config::Layers;
use crate::train::trainer::Request;
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// A small ViT that was trained on other drawn figures, all seen by one camera; `weights/README.md` tells how.
const BACKBONE: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/demo.safetensors"));

/// The recipe, beside the preset's.
const RECIPE: [(&str, &str); 4] = [
    ("preset", "paper"),
    ("schedule.unfreeze_every", "1"),
    ("data.val_fraction", "0"),
    ("optim.lr", "0.001"),
];

/// `lat-wgpu demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Folder for everything that is made
    #[arg(long, value_name = "DIR", default_value = "lat-wgpu-demo")]
    pub out: PathBuf,
    /// Persons who are drawn; every second one is for training
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=9999))]
    pub persons: u32,
    /// Epochs of fine-tuning; one more block opens in each
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub epochs: u32,
    /// Same seed, same images, and the same scores on the same adapter
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub adapter: AdapterArgument,
}

pub fn run(arguments: &DemoArguments) -> Result<ExitCode> {
    let DemoArguments { out, persons, epochs, seed, adapter: AdapterArgument { adapter } } = arguments;
    if out.exists() {
        return Err(Error::Usage(format!(
            "{} is there already: remove it, or give another --out",
            out.display()
        )));
    }
    Paths::new().makes_folder("--out", out).check()?;
    let start = Instant::now();
    let say = |text: &str| eprintln!("\n== {text} (after {:.0} s)", start.elapsed().as_secs_f64());
    let signals = Signals::listen()?;
    let progress = Progress::new(Some(signals.clone()));
    let context = Context::open(&ContextOptions::from_environment(adapter.clone()))?;
    eprintln!("{}", context.adapter.name);

    say("Draw: persons who walk past four cameras");
    let figures = out.join("figures");
    let count = draw_figures(&figures, Figures { persons: *persons, cameras: 4, images: 2, seed: *seed })?;
    eprintln!(
        "{count} images in {}: half of the persons to train with, half to be found again",
        figures.display()
    );
    let backbone = out.join("backbone.safetensors");
    write_atomically(&backbone, BACKBONE)?;

    say("Score the backbone as it is");
    let plan = Plan { places: PLACES, ..Plan::default() };
    let score = |model: &Path| -> Result<Outcome> {
        let network = checkpoint::load(model, &Settings::default())?;
        let look = Look::default();
        let set = TestSet::load(&figures, &LoadOptions::default(), plan.rules.across_cameras())?;
        let task = Task::embed(set, &network, &context, look, &progress)?;
        evaluate(task, &plan, &context, &progress)
    };
    let before = score(&backbone)?;

    say("Fine-tune, block by block from the last to the first");
    let mut flags = RECIPE.map(|(key, value)| (key.to_string(), value.to_string())).to_vec();
    for (key, value) in [
        ("model.backbone", backbone.to_string_lossy().into_owned()),
        ("data.dir", figures.to_string_lossy().into_owned()),
        ("data.seed", seed.to_string()),
        ("schedule.epochs", epochs.to_string()),
    ] {
        flags.push((key.to_string(), value));
    }
    flags.extend(adapter.iter().map(|name| ("device.adapter".to_string(), name.clone())));
    let run = out.join("run");
    let layers = Layers { flags, ..Layers::default() };
    let request = Request { out: run.clone(), resume: false, memory: None, layers, profile: false };
    let trained = train(&request, &progress);
    progress.finish();
    trained.map_err(|error| match error {
        Error::Interrupted { signal, .. } => {
            Error::Interrupted { signal, outcome: "the demo is not complete" }
        }
        error => error,
    })?;

    say("Score the trained model on persons it has never seen");
    let after = score(&run.join("last.safetensors"))?;
    let page = Page {
        target: out.join("report.html"),
        source: [("before", &before), ("after", &after)]
            .map(|(when, outcome)| (when.to_string(), line(outcome)))
            .to_vec(),
        lists: before.plain.valid_queries,
        thumbnails: DEFAULT_LIMIT,
        decode: DecodeOptions::default(),
        images: Vec::new(),
    };
    page.write(&after, &plan)?;
    println!("before: {}\nafter: {}\nreport: {}", line(&before), line(&after), page.target.display());
    Ok(ExitCode::SUCCESS)
}

/// The scores in a few words.
fn line(outcome: &Outcome) -> String {
    let Scores { ranks, map, .. } = &outcome.plain;
    format!("rank-1 {:.1} %, mAP {:.1} %", 100.0 * ranks[0], 100.0 * map)
}
