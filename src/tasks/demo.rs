//! A whole example: draws a data set, scores a backbone, fine-tunes it and scores it again.

use super::evaluate::{self, Outcome, evaluate_one};
use super::train::train;
use crate::checkpoint::{self, Settings, named::DEMO};
use crate::datasets::{LoadOptions, TestSet};
use crate::error::Result;
use crate::figures::{Figures, draw_figures};
use crate::gpu::{Context, ContextOptions};
use crate::observer::Follower;
use crate::storage::atomic::write_atomically;
use crate::train::config::Layers;
use crate::train::trainer;
use std::path::{Path, PathBuf};

/// Keys of the training run.
const RECIPE: [(&str, &str); 4] = [
    ("preset", "paper"),
    ("schedule.unfreeze_every", "1"),
    ("data.val_fraction", "0"),
    ("optim.lr", "0.001"),
];

/// Settings of a demo.
#[derive(Debug, Clone)]
pub struct Request {
    /// A new folder for everything that is written.
    pub out: PathBuf,
    /// Number of persons. Every second one is for training.
    pub persons: u32,
    /// Epochs of fine-tuning. One more block opens in each.
    pub epochs: u32,
    /// Seed of the images and of training.
    pub seed: u64,
    /// Index of the adapter, or a part of its name; `None` for the best adapter.
    pub adapter: Option<String>,
    /// Settings of both evaluations.
    pub evaluation: evaluate::Request,
}

/// Progress of a demo.
#[derive(Debug, Clone)]
pub enum Event {
    /// The adapter's name.
    Adapter(String),
    /// A step begins.
    Begins(Step),
    /// The data set is drawn.
    Drawn {
        /// Number of images.
        images: usize,
        /// Folder of the data set.
        folder: PathBuf,
    },
}

/// Steps of a demo, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Draws the data set.
    Draw,
    /// Scores the backbone.
    ScoreBackbone,
    /// Fine-tunes the backbone.
    FineTune,
    /// Scores the trained model.
    ScoreModel,
}

/// Results of a demo.
pub struct Outcomes {
    /// Evaluation of the backbone.
    pub before: Outcome,
    /// Evaluation of the trained model.
    pub after: Outcome,
}

/// Draws a data set, scores a backbone on it, fine-tunes the backbone and scores the trained model.
///
/// # Errors
/// Those of [`draw_figures`], [`evaluate_one`] and [`train`].
pub fn demo<O: Follower<trainer::Event> + Follower<Event>>(
    request: &Request,
    observer: &O,
) -> Result<Outcomes> {
    let Request { out, persons, epochs, seed, adapter, evaluation } = request;
    let options = ContextOptions::from_environment(adapter.clone());
    let name = Context::open(&options)?.adapter.name.clone();
    observer.event(Event::Adapter(name))?;

    observer.event(Event::Begins(Step::Draw))?;
    let folder = out.join("figures");
    let figures = Figures { persons: *persons, cameras: 4, images: 2, seed: *seed };
    let images = draw_figures(&folder, figures)?;
    observer.event(Event::Drawn { images, folder: folder.clone() })?;
    let backbone = out.join("backbone.safetensors");
    write_atomically(&backbone, DEMO)?;

    let score = |model: &Path| -> Result<Outcome> {
        let network = checkpoint::load(model, &Settings::default())?;
        let set = TestSet::load(&folder, &LoadOptions::default(), evaluation.rules.across_cameras())?;
        evaluate_one(&set, &network, &options, evaluation, observer)
    };
    observer.event(Event::Begins(Step::ScoreBackbone))?;
    let before = score(&backbone)?;

    observer.event(Event::Begins(Step::FineTune))?;
    let mut flags = RECIPE.map(|(key, value)| (key.to_string(), value.to_string())).to_vec();
    for (key, value) in [
        ("model.backbone", backbone.to_string_lossy().into_owned()),
        ("data.dir", folder.to_string_lossy().into_owned()),
        ("data.seed", seed.to_string()),
        ("schedule.epochs", epochs.to_string()),
    ] {
        flags.push((key.to_string(), value));
    }
    flags.extend(adapter.iter().map(|name| ("device.adapter".to_string(), name.clone())));
    let run = out.join("run");
    let layers = Layers { flags, ..Layers::default() };
    let training = trainer::Request {
        out: run.clone(),
        resume: false,
        memory: None,
        layers,
        profile: false,
        ranks: None,
    };
    train(&training, observer).map_err(|error| error.with_outcome("the demo is not complete"))?;

    observer.event(Event::Begins(Step::ScoreModel))?;
    let after = score(&run.join("last.safetensors"))?;
    Ok(Outcomes { before, after })
}
