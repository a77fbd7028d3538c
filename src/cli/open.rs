//! What commands open alike, and what they tell the user about it.

use crate::checkpoint::{self, Network, Settings};
use crate::error::Result;
use crate::gpu::{Context, ContextOptions};
use std::path::Path;

/// Loads a model.
pub fn network(path: &Path, settings: &Settings) -> Result<Network> {
    let network = checkpoint::load(path, settings)?;
    for note in &network.notes {
        eprintln!("note: {note}");
    }
    Ok(network)
}

/// Opens the adapter whose name holds this, or the best one.
pub fn adapter(name: Option<&String>) -> Result<Context> {
    let context = Context::open(&ContextOptions::from_environment(name.cloned()))?;
    if context.is_cpu() {
        eprintln!("note: {} is a CPU adapter: right, but slow", context.adapter.name);
    }
    Ok(context)
}
