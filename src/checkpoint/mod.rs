//! Weights on the host: loads any plain pre-norm ViT from a safetensors file, and checks that it is complete.
//!
//! `safetensors` reads the header, `names` maps every name to timm's, and `recognise` decides the configuration and
//! checks shapes. Only then is tensor data read, one tensor at a time.
//!
//! `convert` takes files of PyTorch, too: `pytorch` reads them, and `releases` knows published weights. `named` lists
//! models by name.

mod convert;
mod foreign;
mod metadata;
pub mod named;
mod names;
mod parameters;
mod positions;
mod pytorch;
mod random;
mod recognise;
mod releases;
mod safetensors;
mod save;
mod timm;

use std::collections::BTreeMap;
use std::path::Path;

pub use convert::{Converted, convert};
pub use metadata::{MatchRate, Threshold, lat_wgpu_metadata};
pub use parameters::{
    CAMERAS, ClassifierTensor, JIGSAW, JIGSAW_BLOCK, JIGSAW_NORM, REDUCTION, STATISTICS,
    STATISTICS_DEVIATION, STATISTICS_MEAN, classifier_tensors, is_block_statistic, is_prefix, jigsaw_names,
    parameter_shapes,
};
pub use random::random_backbone;
pub use recognise::{Settings, check_jigsaw};
pub use safetensors::{FileTensor, list};
pub use save::{
    ClassifiersInfo, StateData, StateTensor, TRAINED_ON, check_exportable, export, read_state,
    read_trained_on, save, save_with_statistics, store_reduction, store_threshold, to_f16, trained_metadata,
};

use crate::error::{Error, Result};
use crate::shape::{HeadEmbed, Preprocess, VitConfig};
use crate::storage::entry::KEY;
use crate::storage::hash::Hash;
use metadata::Metadata;
use names::{Extras, Source};
use parameters::POSITIONS;
use recognise::recognise;
use safetensors::Container;

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f32>,
}

/// Transposes a row-major matrix of `columns` columns.
///
/// # Panics
/// If there are fewer values than columns.
pub fn transpose<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| values[column..].iter().step_by(columns).copied()).collect()
}

/// A network from a file: complete, with correct shapes and finite values.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Dimensions and options.
    pub config: VitConfig,
    /// Preprocessing of its images.
    pub preprocess: Preprocess,
    /// The backbone in timm's names: the tensors that [`parameter_shapes`] lists for `config`.
    pub tensors: BTreeMap<String, HostTensor>,
    /// The position table of the file, if the one in `tensors` was resized.
    pub file_positions: Option<HostTensor>,
    /// Part classifiers (`heads.{i}.…`) of the file; empty for a backbone.
    pub classifiers: BTreeMap<String, HostTensor>,
    /// Names of the classes, in the order of the classifiers' outputs.
    pub class_names: Option<Vec<String>>,
    /// Largest distance between images of the same person, if it was measured with these settings.
    pub threshold: Option<Threshold>,
    /// Shares of the pairs of different persons within rising distances, if they were measured with these settings.
    pub match_rates: Vec<MatchRate>,
    /// Remarks for the user.
    pub notes: Vec<String>,
}

impl Network {
    /// Returns the share of the pairs of different persons within a distance: at most that of the next measured distance.
    /// `None` unless it was measured.
    pub fn match_rate(&self, distance: f32) -> Option<f64> {
        let next = self.match_rates.partition_point(|measured| measured.distance < distance);
        self.match_rates.last()?;
        Some(self.match_rates.get(next).map_or(1.0, |measured| measured.rate))
    }

    /// SHA-256 of the names, shapes and f32 values of the file's backbone. Metadata, such as a threshold, and a resized
    /// position table don't change it.
    pub fn weights_sha256(&self) -> String {
        let mut hash = Hash::default();
        for (name, tensor) in &self.tensors {
            let stored = self.file_positions.as_ref().filter(|_| name == POSITIONS);
            let HostTensor { shape, data } = stored.unwrap_or(tensor);
            hash.update(format!("{name} {shape:?} ").as_bytes());
            for values in data.chunks(1 << 12) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        }
        hash.hex()
    }
}

/// Loads a network.
///
/// Checks names, shapes and settings in the header before it reads tensor data.
///
/// # Errors
/// [`Io`](crate::error::Error::Io); [`Weights`](crate::error::Error::Weights) if the file is unusable;
/// [`Tensor`](crate::error::Error::Tensor) if a tensor is missing, duplicate, cut off, not finite, of another shape, or
/// not of a plain ViT; [`Usage`](crate::error::Error::Usage) if a setting is missing or impossible;
/// [`TooLarge`](crate::error::Error::TooLarge) if the position table is.
pub fn load(path: &Path, settings: &Settings) -> Result<Network> {
    let container = Container::open(path)?;
    if container.tensors.iter().any(|tensor| tensor.name == "embeddings") {
        let reason = "it holds embeddings, not a model".to_string();
        return Err(Error::Weights { path: path.to_path_buf(), reason });
    }
    let metadata = metadata::read(path, container.metadata.get(KEY))?;
    network_of(path, container, metadata, settings)
}

/// Loads the network of an open file.
fn network_of(
    path: &Path,
    mut container: Container,
    mut metadata: Metadata,
    settings: &Settings,
) -> Result<Network> {
    let extras = Extras {
        cameras: metadata.model.cameras.is_some(),
        jigsaw: metadata.model.jigsaw,
        statistics: metadata.model.statistics.is_some(),
    };
    let mut sorted = names::sort(path, &container, settings.ignore_unknown, extras)?;
    // Statistics are those of the whole network's embeddings.
    let mut no_statistics = settings.no_statistics;
    if settings.no_jigsaw && std::mem::take(&mut metadata.model.jigsaw) {
        sorted.parameters.retain(|name, _| !name.starts_with(JIGSAW));
        sorted.notes.push("the model's jigsaw is left out".to_string());
        no_statistics = true;
    }
    if settings.no_cameras && metadata.model.cameras.take().is_some() {
        sorted.parameters.remove(CAMERAS);
        sorted.notes.push("the model's camera embedding is left out".to_string());
        no_statistics = true;
    }
    if no_statistics && metadata.model.statistics.take().is_some() {
        sorted.notes.push("the model's camera statistics are left out".to_string());
    }
    let embed = settings.head_embed.unwrap_or(metadata.heads.embed);
    if embed == HeadEmbed::After {
        // The BatchNorm of the classifiers embeds too, so it belongs to the network.
        let necks = sorted.classifiers.iter().filter(|(name, _)| name.contains(".bn."));
        let necks = necks.map(|(name, &index)| (name.clone(), Source::Whole(index)));
        sorted.parameters.extend(necks);
    }
    let recognised = recognise(path, &container, &sorted, &metadata, settings, embed)?;
    let config = recognised.config;

    let mut tensors = BTreeMap::new();
    let mut file_positions = None;
    for (name, shape) in parameter_shapes(&config) {
        let mut data = Vec::new();
        match sorted.parameters.get(&name) {
            Some(Source::Whole(index)) => data = container.read_f32(*index)?,
            Some(Source::Qkv(parts)) => {
                for index in parts.iter().flatten() {
                    data.extend(container.read_f32(*index)?);
                }
            }
            None => {}
        }
        if name == POSITIONS {
            let fitted = recognised.table.fit(&data, config.grid(), config.dim);
            if fitted != data {
                let shape = vec![1, data.len() / config.dim, config.dim];
                file_positions = Some(HostTensor { shape, data });
            }
            data = fitted;
        }
        debug_assert_eq!(data.len(), shape.iter().product::<usize>(), "{name}");
        if name == STATISTICS_DEVIATION && data.iter().any(|&deviation| deviation <= 0.0) {
            return Err(Error::Tensor {
                path: path.to_path_buf(),
                tensor: name,
                expected: "deviations above 0".to_string(),
                found: "one that isn't".to_string(),
            });
        }
        tensors.insert(name, HostTensor { shape, data });
    }
    let mut classifiers = BTreeMap::new();
    for (name, index) in sorted.classifiers {
        let shape = container.tensors[index].shape.clone();
        classifiers.insert(name, HostTensor { shape, data: container.read_f32(index)? });
    }
    let mut notes = sorted.notes;
    notes.extend(recognised.notes);
    let stored = metadata.threshold.as_ref();
    let valid = stored.and_then(|stored| stored.valid_for(&config, &recognised.preprocess));
    if stored.is_some() && valid.is_none() {
        notes.push("the stored threshold is not used: it was measured with other settings".to_string());
    }
    Ok(Network {
        config,
        preprocess: recognised.preprocess,
        tensors,
        file_positions,
        classifiers,
        class_names: metadata.class_names,
        threshold: valid.map(|(threshold, _)| threshold),
        match_rates: valid.map_or(Vec::new(), |(_, rates)| rates.to_vec()),
        notes,
    })
}
