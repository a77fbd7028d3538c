//! What commands open alike, and what they tell the user about it.

use crate::checkpoint::{self, Network, Settings};
use crate::error::Result;
use crate::gpu::{Context, ContextOptions};
use crate::shape::Precision;
use std::path::Path;

/// Loads a model.
pub fn network(path: &Path, settings: &Settings) -> Result<Network> {
    let network = checkpoint::load(path, settings)?;
    tell(&network.notes);
    Ok(network)
}

/// Prints notes.
pub fn tell(notes: &[String]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}

/// Opens the adapter whose name holds this, or the best one.
pub fn adapter(name: Option<&String>) -> Result<Context> {
    adapter_with(name, Precision::F32)
}

/// The same with weights and activations stored in a precision.
pub fn adapter_with(name: Option<&String>, precision: Precision) -> Result<Context> {
    let options = ContextOptions { precision, ..ContextOptions::from_environment(name.cloned()) };
    let context = Context::open(&options)?;
    if context.is_cpu() {
        eprintln!("note: {} is a CPU adapter: right, but slow", context.adapter.name);
    }
    Ok(context)
}
