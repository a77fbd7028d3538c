//! Converts foreign weights to a model file that loads without flags.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::safetensors::Container;
use super::{Network, Settings, lat_wgpu_metadata, network_of, pytorch, releases, save, timm};
use crate::error::{Error, Result};
use crate::shape::Preprocess;
use crate::storage::entry::KEY;

/// Result of a conversion.
#[derive(Debug)]
pub struct Converted {
    /// The release that the file was recognised as.
    pub release: &'static str,
    /// Licence of the weights, as far as it is known.
    pub licence: &'static str,
    /// Parts of the file that were left out, and why.
    pub dropped: Vec<String>,
    /// Interpolation that the release resizes images by.
    pub interpolation: String,
    /// The network. Its notes name the tensors that were left out because of their names.
    pub network: Network,
}

/// Reads weights of PyTorch or safetensors, and writes the network in timm's names, with the metadata that the release
/// needs. Settings win over the release's. Executes nothing in the file.
///
/// # Errors
/// Those of [`super::load`]; [`Error::Weights`] if the file asks for more than tensors and plain containers, or is a
/// model of this program.
pub fn convert(path: &Path, settings: &Settings, target: &Path) -> Result<Converted> {
    let mut weights = match pytorch::open(path)? {
        Some(weights) => weights,
        None => pytorch::Weights::of(Container::open(path)?),
    };
    let unusable = |reason: String| Error::Weights { path: path.to_path_buf(), reason };
    if weights.container.metadata.contains_key(KEY) {
        return Err(unusable("it is a model of this program already".to_string()));
    }
    let release = releases::recognise(path, &mut weights, settings)?;
    let length = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    let bytes: u64 = weights.container.tensors.iter().fold(0, |sum, tensor| tensor.bytes.saturating_add(sum));
    if bytes > pytorch::allowance(length) {
        return Err(unusable(format!("its tensors would have {bytes} bytes, the file has {length}")));
    }
    let interpolation = release.metadata.preprocess.interpolation.clone();
    let mut network = network_of(path, weights.container, release.metadata, settings)?;
    network.notes.splice(0..0, release.notes);

    let interpolation = interpolation.unwrap_or_else(|| network.preprocess.interpolation.clone());
    let preprocess = Preprocess { interpolation: interpolation.clone(), ..network.preprocess.clone() };
    let metadata = lat_wgpu_metadata(&network.config, &preprocess, None)
        .with("timm", timm::create_model(&network.config))
        .with("heads", json!({ "embed": network.config.head_embed }))
        .with("source", json!({ "release": release.name, "licence": release.licence }));
    let mut tensors = Cow::Borrowed(&network.tensors);
    if !network.classifiers.is_empty() {
        tensors.to_mut().extend(network.classifiers.clone());
    }
    save(target, &tensors, &BTreeMap::new(), metadata.text())?;
    let (release, licence, dropped) = (release.name, release.licence, release.dropped);
    Ok(Converted { release, licence, dropped, interpolation, network })
}
