//! What commands open alike, and what they tell the user about it.

use crate::checkpoint::{self, Network, Settings};
use crate::error::{Error, Result};
use crate::images::walk::{self, Listing};
use std::path::{Path, PathBuf};

/// Loads a model.
pub fn network(path: &Path, settings: &Settings) -> Result<Network> {
    let network = checkpoint::load(path, settings).map_err(about_tensors)?;
    tell(&network.notes);
    Ok(network)
}

/// Prints notes.
pub fn tell(notes: &[impl std::fmt::Display]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}

/// An error about a tensor with where to see them all; others as they are.
pub fn about_tensors(error: Error) -> Error {
    match &error {
        Error::Tensor { path, .. } => {
            let hint = format!("`lat-wgpu inspect {}` lists the tensors of the file", path.display());
            error.hinted(hint)
        }
        _ => error,
    }
}

/// An error of images none of which could be read with where the reasons are; others as they are.
pub fn about_skipped(error: Error) -> Error {
    match error {
        Error::NothingToDo(_) => error.hinted("the lines above that begin with `skipped` say why"),
        _ => error,
    }
}

/// Lists the images of inputs.
pub fn images(inputs: &[PathBuf], follow_links: bool) -> Result<Listing> {
    walk::list_images(inputs, follow_links).map_err(|error| match error {
        Error::NothingToDo(_) => error
            .hinted(format!("inputs are files, or folders with images: .{}", walk::EXTENSIONS.join(" ."))),
        _ => error,
    })
}
