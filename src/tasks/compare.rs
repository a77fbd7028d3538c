//! Compares two images.

use super::embed::Embedder;
use crate::checkpoint::Network;
use crate::datasets::cameras::Cameras;
use crate::error::Result;
use crate::gpu::Context;
use crate::images::decode::DecodeOptions;
use crate::images::preprocess;
use crate::images::walk::readable;
use std::path::Path;

/// Comparison of two images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Squared Euclidean distance between the embeddings.
    pub distance: f32,
    /// Share of the pairs of different persons that are as near, at most. `None` unless the model is calibrated.
    pub false_match_rate: Option<f64>,
    /// True if the distance is within the model's threshold for the same person. `None` unless it is calibrated.
    pub same: Option<bool>,
}

/// Embeds two images and compares them.
///
/// # Errors
/// Those of images and adapter, and of a camera that the network's camera embedding lacks.
pub fn compare(
    context: &Context,
    network: &Network,
    files: [&Path; 2],
    decode: DecodeOptions,
    cameras: &Cameras,
) -> Result<Comparison> {
    let names = files.map(|file| readable(file.as_os_str()));
    cameras.check(&network.config, &names)?;
    let mut images = Vec::new();
    let mut rows = Vec::new();
    for (file, name) in files.into_iter().zip(&names) {
        images.push(preprocess::load(file, decode, network.config.image)?);
        rows.push(cameras.row(&network.config, name)?);
    }
    let mut embedder = Embedder::new(context, network, Some(2), context.default_memory())?;
    let embeddings = embedder.embed_by(&images, &rows)?;
    let (a, b) = embeddings.split_at(embeddings.len() / 2);
    let distance: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let distance = distance as f32;
    Ok(Comparison {
        distance,
        false_match_rate: network.match_rate(distance),
        same: network.threshold.map(|threshold| distance <= threshold.distance),
    })
}
