//! Weights on the host: any plain pre-norm ViT in a safetensors file becomes a complete, checked network.
//!
//! The way through: `safetensors` reads the header, `names` brings every name to timm's, `recognise` settles the
//! configuration and checks shapes, and only then is tensor data read, one tensor at a time.

mod foreign;
mod metadata;
mod names;
mod parameters;
mod positions;
mod random;
mod recognise;
mod safetensors;
mod save;
mod timm;

use std::collections::BTreeMap;
use std::path::Path;

pub use metadata::{Threshold, lat_wgpu_metadata};
pub use parameters::{HeadTensor, head_tensors, is_prefix, parameter_shapes};
pub use random::random_backbone;
pub use recognise::Settings;
pub use safetensors::{FileTensor, list};
pub use save::{
    HeadsInfo, StateData, StateTensor, TRAINED_ON, export, read_state, read_trained_on, save,
    store_threshold, trained_metadata,
};

use crate::error::Result;
use crate::shape::{Preprocess, VitConfig};
use crate::storage::entry::KEY;
use crate::storage::hash::Hash;
use names::Source;
use parameters::POSITIONS;
use recognise::recognise;
use safetensors::Container;

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements in row-major order; as many as the product of the dimensions.
    pub data: Vec<f32>,
}

/// A network as read from a file: complete, of the right shapes, every value finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Dimensions and options.
    pub config: VitConfig,
    /// How its images are prepared.
    pub preprocess: Preprocess,
    /// The backbone in timm's names: exactly what [`parameter_shapes`] lists for `config`.
    pub tensors: BTreeMap<String, HostTensor>,
    /// The position table as the file has it, where the one in `tensors` was resized.
    pub file_positions: Option<HostTensor>,
    /// Part classifiers (`heads.{i}.…`) as the file has them; empty for a bare backbone.
    pub heads: BTreeMap<String, HostTensor>,
    /// Names of the classes, in the order of the classifiers' outputs.
    pub class_names: Option<Vec<String>>,
    /// The distance up to which two embeddings count as the same person, if it was measured with these settings.
    pub threshold: Option<Threshold>,
    /// What the user should be told.
    pub notes: Vec<String>,
}

impl Network {
    /// SHA-256 of the backbone's names, shapes and values as the file has them, in f32: neither what is stored beside
    /// them, such as a threshold, nor a resized position table changes it.
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

/// Opens a network.
///
/// Names, shapes and settings are checked from the header alone, before any tensor data is read.
///
/// # Errors
/// [`Io`](crate::error::Error::Io); [`Weights`](crate::error::Error::Weights) when the file as a whole is unusable;
/// [`Tensor`](crate::error::Error::Tensor) when a tensor is missing, misshaped, duplicate, cut off, not finite, or
/// stands for a network that is not a plain ViT; [`Usage`](crate::error::Error::Usage) when a setting is needed or
/// can't be met; [`TooLarge`](crate::error::Error::TooLarge).
pub fn load(path: &Path, settings: &Settings) -> Result<Network> {
    let mut container = Container::open(path)?;
    let metadata = metadata::read(path, container.metadata.get(KEY))?;
    let sorted = names::sort(path, &container, settings.ignore_unknown)?;
    let recognised = recognise(path, &container, &sorted, &metadata, settings)?;
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
        tensors.insert(name, HostTensor { shape, data });
    }
    let mut heads = BTreeMap::new();
    for (name, index) in sorted.classifiers {
        let shape = container.tensors[index].shape.clone();
        heads.insert(name, HostTensor { shape, data: container.read_f32(index)? });
    }
    let mut notes = sorted.notes;
    notes.extend(recognised.notes);
    let stored = metadata.threshold.as_ref();
    let threshold = stored.and_then(|stored| stored.valid_for(&config, &recognised.preprocess));
    if stored.is_some() && threshold.is_none() {
        notes.push("the stored threshold was measured with other settings: it is not used".to_string());
    }
    Ok(Network {
        config,
        preprocess: recognised.preprocess,
        tensors,
        file_positions,
        heads,
        class_names: metadata.class_names,
        threshold,
        notes,
    })
}
