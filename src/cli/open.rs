//! Opens what several commands read, and adds hints to the errors.

use super::OFFLINE;
use super::progress::Progress;
use crate::checkpoint::{self, Network, Settings};
use crate::error::{Error, Result};
use crate::images::walk::{self, Listing};
use crate::tasks::models;
use crate::tasks::train::with_backbone;
use crate::train::config::Layers;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// Says why a page shows no image of a gallery.
pub const NO_IMAGES: &str = "the page shows no gallery images: name their folder with --images";

/// Returns the file of a model, after a download if it needs one. Without a name it is the default model's, and a line
/// says so once.
pub fn model(given: Option<&Path>) -> Result<PathBuf> {
    let default = models::default();
    if given.is_none() && is_new(default.name) {
        eprintln!("no --model: using {} (trained on {})", default.name, default.trained_on);
    }
    let progress = Progress::new(None);
    let file =
        models::file(given.unwrap_or(Path::new(default.name)), OFFLINE.load(Ordering::Relaxed), &progress);
    progress.finish();
    file
}

/// Replaces the name of a backbone by its file, after a download if it needs one.
pub fn backbone(layers: Layers) -> Result<Layers> {
    let progress = Progress::new(None);
    let layers = with_backbone(layers, OFFLINE.load(Ordering::Relaxed), &progress);
    progress.finish();
    layers
}

/// Loads a model and prints its notes.
pub fn network(path: &Path, settings: &Settings) -> Result<Network> {
    let network = checkpoint::load(path, settings).map_err(about_tensors)?;
    print_notes(&network.notes);
    Ok(network)
}

/// Prints notes to stderr, each once in the life of the program.
pub fn print_notes(notes: &[impl std::fmt::Display]) {
    for note in notes.iter().map(ToString::to_string) {
        if is_new(&note) {
            eprintln!("note: {note}");
        }
    }
}

/// Records a note; returns whether it was not recorded before.
pub fn is_new(note: &str) -> bool {
    static NOTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).insert(note.to_string())
}

/// Adds a hint to an error about a tensor. Other errors are unchanged.
pub fn about_tensors(error: Error) -> Error {
    match &error {
        Error::Tensor { path, .. } => {
            let hint = format!("`lat-wgpu inspect {}` lists the tensors of the file", path.display());
            error.hinted(hint)
        }
        _ => error,
    }
}

/// Adds a hint to the error that no image could be read. Other errors are unchanged.
pub fn about_skipped(error: Error) -> Error {
    match error {
        Error::NothingToDo(_) => {
            error.hinted("see the reasons above, in the lines that begin with `skipped`")
        }
        _ => error,
    }
}

/// Lists the images of files and folders.
pub fn images(inputs: &[PathBuf], follow_links: bool) -> Result<Listing> {
    walk::list_images(inputs, follow_links).map_err(|error| match error {
        Error::NothingToDo(_) => error.hinted(format!(
            "pass image files, or folders that contain images: .{}",
            walk::EXTENSIONS.join(" .")
        )),
        _ => error,
    })
}
