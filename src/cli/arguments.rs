//! Arguments that several commands share, and the parsers of their values.

pub use super::keys::{NetworkArguments, SetArguments, Training, Trains};
use super::open;
use super::words::named;
use crate::checkpoint::named::DEFAULT;
use crate::checkpoint::{Network, Settings};
use crate::datasets;
use crate::datasets::cameras::{Cameras, NO_CAMERA};
use crate::embeddings::gallery::Gallery;
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions, Precision};
use crate::report;
use crate::retrieval::combined::{ExpandOver, ExpansionOptions};
use crate::retrieval::pca::Projection;
use crate::shape::VitConfig;
use crate::tasks::search::{check_fits, check_weights};
use clap::Args;
use std::path::{Path, PathBuf};

/// The model.
#[derive(Debug, Args)]
pub struct ModelArgument {
    #[arg(long, value_name = "MODEL", help = model_help())]
    model: Option<PathBuf>,
}

fn model_help() -> String {
    format!(
        "Model: a .safetensors file, a name from `lat-wgpu models`, or hf:OWNER/NAME[@REVISION] [default: {DEFAULT}]"
    )
}

impl ModelArgument {
    /// Returns the file of the model, after a download if it needs one. Without --model it is the default model's.
    ///
    /// # Errors
    /// Those of [`crate::tasks::models::file`].
    pub fn file(&self) -> Result<PathBuf> {
        open::model(self.model.as_deref())
    }

    /// Returns the model as given.
    pub fn shown(&self) -> &Path {
        self.model.as_deref().unwrap_or(Path::new(DEFAULT))
    }

    /// Returns whether --model is given.
    pub fn is_given(&self) -> bool {
        self.model.is_some()
    }
}

/// The gallery that is searched, and the model that it was embedded with.
#[derive(Debug, Args)]
pub struct TargetArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Embeddings from `lat-wgpu embed`: a file or an index folder
    #[arg(long, value_name = "FILE|DIR")]
    pub gallery: PathBuf,
    /// Accepts embeddings of different weights; otherwise they are an error
    #[arg(long)]
    pub allow_other_weights: bool,
}

impl TargetArguments {
    /// Opens the gallery and the projection, and checks that both fit the network and its weights.
    ///
    /// # Errors
    /// Those of the files and the checks.
    pub fn open(
        &self,
        model: &Path,
        network: &Network,
        reduction: &ReductionArguments,
        flip: bool,
    ) -> Result<(Gallery, Option<Projection>)> {
        let gallery = Gallery::open(&self.gallery)?;
        let projection = reduction.projection(model, network, flip)?;
        let file = reduction.reduce.as_deref().unwrap_or(model);
        let components = projection.as_ref().map(|projection| (file, projection));
        // Other weights often have other settings, too. They are the better reason.
        let notes = check_weights(model, network, &gallery, components, self.allow_other_weights)?;
        check_fits(&gallery, network, projection.as_ref(), flip)?;
        open::print_notes(&notes);
        Ok((gallery, projection))
    }
}

/// The projection of embeddings to fewer dimensions.
#[derive(Debug, Args)]
pub struct ReductionArguments {
    /// Reduces embeddings by the principal components of `lat-wgpu reduce`; gallery and queries need the same
    #[arg(long, value_name = "FILE", conflicts_with = "dim")]
    pub reduce: Option<PathBuf>,
    #[command(flatten)]
    pub dim: DimArgument,
}

impl ReductionArguments {
    /// Reads the projection.
    ///
    /// # Errors
    /// Those of [`DimArgument::projection`] and of the file.
    pub fn projection(&self, model: &Path, network: &Network, flip: bool) -> Result<Option<Projection>> {
        match &self.reduce {
            Some(file) => Projection::read(file).map(Some),
            None => self.dim.projection(model, network, flip),
        }
    }
}

/// The projection that a model keeps.
#[derive(Debug, Args)]
pub struct DimArgument {
    /// Reduces embeddings to N numbers by the principal components that `lat-wgpu reduce --into` stored in the model, and
    /// scales them to length 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub dim: Option<u32>,
}

impl DimArgument {
    /// Reads the projection from the model.
    ///
    /// # Errors
    /// Those of [`Projection::of_model`].
    pub fn projection(&self, model: &Path, network: &Network, flip: bool) -> Result<Option<Projection>> {
        self.dim.map(|dim| Projection::of_model(model, network, dim as usize, flip)).transpose()
    }
}

/// Query expansion.
#[derive(Debug, Args)]
pub struct ExpansionArguments {
    /// Replaces embeddings by weighted sums of their nearest (α-QE); the results are then those after it
    #[arg(long)]
    pub query_expansion: bool,
    /// Query expansion: number of embeddings in a sum, with the image's own
    #[arg(long, value_name = "N", default_value_t = ExpansionOptions::default().k, requires = "query_expansion")]
    expansion_k: usize,
    /// Query expansion: exponent of the cosine similarity; 0 weighs all alike
    #[arg(long, value_name = "F", default_value_t = ExpansionOptions::default().alpha, requires = "query_expansion")]
    expansion_alpha: f64,
}

impl ExpansionArguments {
    /// Returns the options of --query-expansion.
    ///
    /// # Errors
    /// `Usage` for impossible values.
    pub fn options(&self, over: ExpandOver) -> Result<Option<ExpansionOptions>> {
        let options = ExpansionOptions { k: self.expansion_k, alpha: self.expansion_alpha, over };
        options.check()?;
        Ok(self.query_expansion.then_some(options))
    }
}

/// The camera of all images, for a model with a camera embedding or statistics.
#[derive(Debug, Args)]
pub struct CameraArgument {
    /// With a model that has a camera embedding or statistics: camera of all images, or none for no camera's row
    /// [default: from Market-1501 names, from folders if the statistics are by folders, or from the labels of a data
    /// set]
    #[arg(long, value_name = "NAME|none")]
    pub camera: Option<String>,
}

impl CameraArgument {
    /// Returns the settings of a network, without its camera embedding if the argument says so.
    pub fn settings(&self, network: &NetworkArguments) -> Settings {
        Settings { no_cameras: self.camera.as_deref() == Some(NO_CAMERA), ..network.settings() }
    }

    /// Returns the name of the camera, if one is given.
    pub fn name(&self) -> Option<&str> {
        self.camera.as_deref().filter(|&camera| camera != NO_CAMERA)
    }

    /// Returns the source of the cameras of images.
    pub fn cameras(&self) -> Cameras {
        Cameras::given(self.camera.as_deref())
    }
}

/// The cameras of images, each with its own.
#[derive(Debug, Args)]
pub struct CamerasArgument {
    #[command(flatten)]
    pub all: CameraArgument,
    /// With a model that has a camera embedding or statistics: cameras of the images, as a table with the columns path
    /// and camera
    #[arg(long, value_name = "CSV", conflicts_with = "camera")]
    pub cameras: Option<PathBuf>,
}

impl CamerasArgument {
    /// Returns the source of the cameras of images.
    ///
    /// # Errors
    /// `Usage` for a table if the network needs no cameras; those of the table.
    pub fn source(&self, config: &VitConfig) -> Result<Cameras> {
        match &self.cameras {
            Some(table) if !config.has_camera_rows() => Err(Error::Usage(format!(
                "--cameras {}: the model has no camera embedding and no camera statistics",
                table.display()
            ))),
            Some(table) => Ok(Cameras::Labels(datasets::read_cameras(table)?)),
            None => Ok(self.all.cameras()),
        }
    }
}

/// The limit of device memory.
#[derive(Debug, Args)]
pub struct MemoryArgument {
    /// Limit of device memory, such as 800M or 4G [default: 2G, on discrete GPUs 8G; at most half of a GPU's memory]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
}

/// The adapter that a command runs on.
#[derive(Debug, Args)]
pub struct AdapterArgument {
    /// Index of the adapter, or a part of its name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

impl AdapterArgument {
    /// Returns the options for opening the adapter with a precision.
    pub fn options(&self, precision: Precision) -> ContextOptions {
        ContextOptions { precision, ..ContextOptions::from_environment(self.adapter.clone()) }
    }

    /// Opens the adapter and prints its notes.
    ///
    /// # Errors
    /// Those of [`Context::open`].
    pub fn open(&self, precision: Precision) -> Result<Context> {
        let context = Context::open(&self.options(precision))?;
        open::print_notes(&context.adapter.notes());
        Ok(context)
    }
}

/// The adapter that a command runs a network on, and how it stores tensors.
#[derive(Debug, Args)]
pub struct DeviceArguments {
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Storage of weights and activations; sums are f32
    #[arg(long, value_name = "STORAGE", default_value = "f32", value_parser = named::<Precision>())]
    pub precision: Precision,
}

impl DeviceArguments {
    /// Returns the options for opening the adapter.
    pub fn options(&self) -> ContextOptions {
        self.adapter.options(self.precision)
    }

    /// Opens the adapter.
    pub fn open(&self) -> Result<Context> {
        self.adapter.open(self.precision)
    }
}

/// An HTML report.
#[derive(Debug, Args)]
pub struct PageArguments {
    /// Writes an HTML report with images, in one file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// With --html: limit of bytes for embedded images, such as 800K; further images are linked; 0 links all [default:
    /// 8M]
    #[arg(long, value_name = "BYTES", default_value_t = report::DEFAULT_LIMIT, hide_default_value = true, value_parser = bytes_or_none, requires = "html")]
    pub thumbnails: u64,
    /// With --html: number of ranked lists; search shows the first, eval the worst and the best half and half
    #[arg(long, value_name = "N", default_value_t = 100, requires = "html")]
    pub lists: usize,
}

/// Parses a number from 0 to 1.
pub fn fraction(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".to_string()),
    }
}

/// Parses bytes such as `800M`, `4G` or `1500000`. Units are powers of 1,024.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 1u64,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err("expected bytes with K, M, G or T, such as 800M".to_string()),
    };
    let number: f64 = digits.parse().map_err(|_| "expected bytes, such as 800M or 4G".to_string())?;
    if number > 0.0 && number * (unit as f64) < 1e18 {
        Ok((number * unit as f64) as u64)
    } else {
        Err("must be above 0".to_string())
    }
}

/// Parses bytes or 0.
pub fn bytes_or_none(text: &str) -> std::result::Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit() {
        for (text, wanted) in [("1", 1), ("2K", 2048), ("1.5M", 3 << 19), ("4G", 4 << 30), ("4GiB", 4 << 30)]
        {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for bad in ["", "G", "-1", "0", "1X", "nan", "1e99"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
