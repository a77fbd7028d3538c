//! Adapts a model to cameras without labels: by statistics of the embeddings of their images, or by clusters of them.

use super::embed::{Embedder, ImageOptions};
use crate::checkpoint::{self, Network, STATISTICS, Settings};
use crate::datasets::cameras::Cameras;
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::images::walk::Image;
use crate::observer::Observer;
use crate::retrieval::statistics::{CameraSums, ENOUGH_IMAGES};
use crate::retry::retry;
use crate::shape::{CameraStatistics, GeltConfig};
use crate::train::config::{Config, Layers, Preset, word};
use serde_json::{Value, json};
use std::path::Path;

/// Settings of the statistics.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The adapter and the precision.
    pub adapter: ContextOptions,
    /// Images per batch; `None` chooses the number that fills the adapter.
    pub batch: Option<usize>,
    /// Limit of device memory in bytes; `None` takes the default of the adapter's class.
    pub memory: Option<u64>,
    /// Options for reading images.
    pub image_options: ImageOptions,
    /// Source of the images' cameras.
    pub cameras: Cameras,
    /// True to divide by deviations, too.
    pub deviation: bool,
}

/// A network with the statistics of images.
#[derive(Debug)]
pub struct Adapted {
    /// The network. It has no threshold, since its distances are new.
    pub network: Network,
    /// The statistics' cameras and counts of images.
    pub statistics: CameraStatistics,
    /// Images that could not be read.
    pub skipped: usize,
    /// Name of the adapter.
    pub adapter: String,
}

impl Adapted {
    /// Returns the number of images whose camera isn't known.
    pub fn without_camera(&self) -> usize {
        let CameraStatistics { images, .. } = &self.statistics;
        images.last().map_or(0, |all| 2 * all - images.iter().sum::<usize>())
    }

    /// Returns a warning about cameras with few images.
    pub fn warning(&self) -> Option<String> {
        let CameraStatistics { cameras, images, .. } = &self.statistics;
        let few = cameras.iter().zip(images).filter(|(_, images)| **images < ENOUGH_IMAGES);
        let few: Vec<String> = few.map(|(camera, images)| format!("{camera} ({images})")).collect();
        (!few.is_empty()).then(|| {
            format!(
                "cameras with few images: {}; their means are near that of all images, and {ENOUGH_IMAGES} images make \
                 them accurate",
                few.join(", ")
            )
        })
    }

    /// Describes the statistics that were stored in the model `out`.
    pub fn json(&self, out: &Path) -> Value {
        let CameraStatistics { cameras, images, deviation, .. } = &self.statistics;
        let rows =
            cameras.iter().zip(images).map(|(camera, images)| json!({"camera": camera, "images": images}));
        json!({
            "out": out.to_string_lossy(),
            "cameras": rows.collect::<Vec<_>>(),
            "images": images.last(),
            "without_camera": self.without_camera(),
            "skipped": self.skipped,
            "deviation": deviation,
            "weights_sha256": self.network.weights_sha256(),
            "adapter": self.adapter,
        })
    }
}

/// Computes the statistics of the cameras of images, see [`crate::retrieval::statistics`], and adds them to the network
/// in place of those that it has. If the adapter is lost or runs out of memory, reopens it once and starts again.
///
/// # Errors
/// Those of [`Cameras::check`]; [`Error::Data`] for a single image; [`Error::NothingToDo`] if no image can be
/// read; [`Error::Interrupted`] after a signal; those of the adapter.
pub fn adapt(
    mut network: Network,
    images: &[Image],
    request: &Request,
    observer: &dyn Observer,
) -> Result<Adapted> {
    network.config.statistics = None;
    network.tensors.retain(|name, _| !name.starts_with(STATISTICS));
    // A camera embedding decides the rows.
    let table = network.config.cameras.clone();
    if table.is_some() {
        request.cameras.check(&network.config, images.iter().map(|image| &image.name))?;
    }
    let camera_of = |image: &str| match &table {
        None => request.cameras.of(image, |_| true),
        Some(table) => {
            let row = request.cameras.row(&network.config, image).ok()?;
            Some(table.names[row as usize].clone())
        }
    };
    let work = |_: &mut (), context: &Context| {
        let memory = request.memory.unwrap_or(context.default_memory());
        let mut embedder = Embedder::new(context, &network, request.batch, memory)?;
        embedder.set_cameras(request.cameras.clone());
        let (mut sums, mut skipped) = (CameraSums::new(embedder.dim()), 0);
        for embedded in embedder.embed_images(images.to_vec(), request.image_options, observer) {
            match embedded? {
                (_, Err(error)) => {
                    skipped += 1;
                    observer.skipped(&error);
                }
                (image, Ok(row)) => sums.add(camera_of(&image.name).as_deref(), &row),
            }
        }
        Ok((sums, skipped, context.adapter.name.clone()))
    };
    let goes_on = ", and the statistics begin again";
    let (sums, skipped, adapter) = retry(&request.adapter, observer, goes_on, &mut (), work, |_, _| Ok(0))?;
    match sums.count() {
        0 => return Err(Error::NothingToDo("no image could be read".to_string())),
        1 => return Err(Error::Data("camera statistics need more than one image".to_string())),
        _ => {}
    }
    let folders = matches!(request.cameras, Cameras::Folders);
    let rows = sums.rows(table.map(|table| table.names));
    let statistics = rows.store(&mut network.tensors, &mut network.config, request.deviation, folders);
    (network.threshold, network.match_rates) = (None, Vec::new());
    Ok(Adapted { network, statistics, skipped, adapter })
}

/// Adds the keys of a run that adapts a model by clusters. All other settings win over them.
pub fn with_clusters(layers: Layers) -> Layers {
    let mut base = vec![("preset".to_string(), word(&Preset::ClusterContrast))];
    base.extend(Config::of_clusters());
    Layers { base, ..layers }
}

/// Adds the keys of the parts that the model embeds, if a run may begin with it.
///
/// # Errors
/// Those of the configuration and of the model.
pub fn take_parts(mut layers: Layers, observer: &dyn Observer) -> Result<Layers> {
    let config = Config::resolve(&layers)?;
    let Some(model) = &config.model.backbone else { return Ok(layers) };
    let own = Settings { lambda: None, lambda_on: None, tokens: None, parts: None, ..config.settings() };
    let settings = Settings { head_embed: None, ..own };
    let network = checkpoint::load(Path::new(model), &settings)?;
    network.notes.iter().for_each(|note| observer.note_once(note));
    let GeltConfig { lambda, lambda_on, tokens, parts } = network.config.gelt;
    let is_tokens = |(key, _): &&(String, String)| key == "model.tokens";
    let embeds = layers.flags.iter().find(is_tokens).map_or(word(&tokens), |(_, tokens)| tokens.clone());
    let keys = [
        ("model.lambda", lambda.to_string()),
        ("model.lambda_on", word(&lambda_on)),
        ("model.tokens", word(&tokens)),
        ("model.embed_tokens", embeds),
        ("model.parts", String::from(parts)),
    ];
    layers.base.extend(keys.map(|(key, value)| (key.to_string(), value)));
    Ok(layers)
}
