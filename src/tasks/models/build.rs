//! Models that a user trains on drawn persons: they are too large for the program.

use super::{State, file, make_folder, place, state};
use crate::checkpoint::named::{MODELS, Named, Origin};
use crate::checkpoint::{self, Settings};
use crate::embeddings::Dtype;
use crate::error::{Error, Result};
use crate::observer::Follower;
use crate::tasks::train::train;
use crate::train::config::Layers;
use crate::train::trainer::{Event, Request};
use std::path::{Path, PathBuf};

/// Keys of the run that trains `person-m`: the last six blocks of `dinov2-s14`, on 100,000 drawn images.
const PERSON_M: [(&str, &str); 31] = [
    ("model.size", "112x56"),
    ("model.parts", "2"),
    ("model.tokens", "gelt"),
    ("model.lambda", "1"),
    ("data.dir", "synth:persons=1000,cameras=48,seed=1"),
    ("data.flip", "0.5"),
    ("data.erasing", "0.2"),
    ("data.crop_pad", "4"),
    ("data.sampler", "cameras"),
    ("data.persons_per_batch", "16"),
    ("data.images_per_person", "4"),
    ("optim.optimizer", "adamw"),
    ("optim.lr", "1e-4"),
    ("optim.lr_decay", "1"),
    ("optim.layer_decay", "0.75"),
    ("optim.weight_decay", "0.05"),
    ("optim.clip_norm", "1"),
    ("optim.warmup_epochs", "1"),
    ("optim.cosine", "true"),
    ("schedule.epochs", "17"),
    ("schedule.batch_size", "64"),
    ("schedule.first_unfreeze", "6"),
    ("schedule.unfreeze_every", "17"),
    ("schedule.freeze_embeddings", "true"),
    ("schedule.save_every", "100"),
    ("head.kind", "bnneck"),
    ("head.embed", "after"),
    ("loss.label_smoothing", "0.1"),
    ("loss.triplet", "true"),
    ("loss.soft_margin", "true"),
    ("loss.identity", "1"),
];

/// A request to build a model.
#[derive(Debug, Clone)]
pub struct Build<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// Settings that change its recipe, as `section.key=value`.
    pub set: Vec<String>,
    /// True to open no connection.
    pub offline: bool,
    /// Limit of device memory, in bytes.
    pub memory: Option<u64>,
}

/// Trains a model by its recipe, in a run folder of the cache, and stores it in the cache under its name. Continues a run
/// that a signal ended. Returns the file, or the run folder if a step limit ended it.
///
/// # Errors
/// [`Error::Usage`] for a name without a recipe; [`Error::Interrupted`] after a signal; those of training and of the
/// network that it starts from.
pub fn build(request: &Build<'_>, observer: &dyn Follower<Event>) -> Result<PathBuf> {
    let Build { name, set, offline, memory } = request;
    let Some(model @ Named { origin: Origin::Built { from }, .. }) = Named::find(name) else {
        let is_built = |model: &&Named| matches!(model.origin, Origin::Built { .. });
        let names: Vec<&str> = MODELS.iter().filter(is_built).map(|model| model.name).collect();
        return Err(Error::Usage(format!(
            "{name}: no recipe has this name; there is one for {}",
            names.join(", ")
        )));
    };
    if let State::Stored(file) = state(model) {
        observer.note(&format!("{name} is built already; remove its file to build it again"));
        return Ok(file);
    }
    let target = place(model)?;
    let out = target.with_extension("run");
    make_folder(&target)?;
    let mut base: Vec<(String, String)> =
        PERSON_M.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    if !out.join("last.safetensors").exists() {
        let backbone = file(Path::new(from), *offline, observer)?;
        base.push(("model.backbone".to_string(), backbone.to_string_lossy().into_owned()));
    }
    let layers = Layers { base, set: set.clone(), ..Layers::default() };
    let request =
        Request { out: out.clone(), resume: true, memory: *memory, layers, profile: false, ranks: None };
    let summary = train(&request, observer)?;
    if let Some(unfinished) = summary.unfinished {
        observer.note(&format!("{unfinished}; the same command continues"));
        return Ok(out);
    }
    let best = out.join("best.safetensors");
    let network = checkpoint::load(&best, &Settings::default())?;
    checkpoint::export(&best, &network, false, Dtype::F16, &target)?;
    Ok(target)
}
