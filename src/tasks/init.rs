//! Writes a backbone with random weights.

use crate::checkpoint;
use crate::error::Result;
use crate::shape::{Normalize, Preprocess, VitConfig};
use std::collections::BTreeMap;
use std::path::Path;

/// Writes a backbone with random weights, for training from scratch. Returns the number of parameters. The same seed
/// gives the same weights.
///
/// # Errors
/// [`Error::Io`](crate::error::Error::Io) if the file cannot be written.
pub fn init(out: &Path, config: &VitConfig, normalize: Normalize, seed: u64) -> Result<usize> {
    let preprocess = Preprocess::new(config.image, normalize.mean_std());
    let tensors = checkpoint::random_backbone(config, seed);
    let metadata = checkpoint::lat_wgpu_metadata(config, &preprocess, None);
    checkpoint::save(out, &tensors, &BTreeMap::new(), metadata.text())?;
    Ok(tensors.values().map(|tensor| tensor.data.len()).sum())
}
