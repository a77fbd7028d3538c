//! `lat-wgpu adapt`: adapts a model to cameras without labels.

use super::arguments::{DeviceArguments, MemoryArgument, ModelArgument, NetworkArguments};
use super::export::print_written;
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use crate::checkpoint::{self, Settings};
use crate::datasets;
use crate::error::Result;
use crate::images::decode::DecodeOptions;
use crate::images::walk::Listing;
use crate::shape::CameraStatistics;
use crate::tasks::adapt::{Adapted, Request, adapt};
use crate::tasks::cameras::Cameras;
use crate::tasks::embed::ImageOptions;
use clap::Args;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// `lat-wgpu adapt`.
#[derive(Debug, Args)]
pub struct AdaptArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Folder of images by the cameras, which is searched recursively; no labels are needed
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// Output model, as .safetensors
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Stores the mean embedding of each camera, which embedding then subtracts, and trains nothing; required, since
    /// there is no other form yet
    #[arg(long, required = true)]
    pub statistics_only: bool,
    /// Stores the deviation of each camera's embeddings too, which embedding then divides by
    #[arg(long)]
    pub deviation: bool,
    /// Cameras of the images: names as in Market-1501, folders (the first one below --images), or a table with the
    /// columns path and camera
    #[arg(long, value_name = "names|folders|CSV", default_value = "names")]
    pub cameras: CameraSource,
    /// Images per batch [default: enough to fill the adapter, within --memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Writes a summary as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Follows links to files and folders; enters each folder once
    #[arg(long)]
    pub follow_links: bool,
    /// Ignores the EXIF orientation of images
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// The source of the images' cameras.
#[derive(Debug, Clone)]
pub enum CameraSource {
    Names,
    Folders,
    Table(PathBuf),
}

impl FromStr for CameraSource {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<CameraSource, Infallible> {
        Ok(match text {
            "names" => CameraSource::Names,
            "folders" => CameraSource::Folders,
            table => CameraSource::Table(table.into()),
        })
    }
}

impl CameraSource {
    /// The table.
    fn table(&self) -> Option<&PathBuf> {
        match self {
            CameraSource::Table(table) => Some(table),
            CameraSource::Names | CameraSource::Folders => None,
        }
    }
}

pub fn run(arguments: &AdaptArguments) -> Result<ExitCode> {
    let AdaptArguments { model, images, out, cameras, follow_links, .. } = arguments;
    let model = &model.file()?;
    let paths = Paths::new().following(*follow_links).reads("--model", [model]).reads("--images", [images]);
    let paths = paths.reads("--cameras", cameras.table());
    paths.writes("--out", [out]).writes("--json", &arguments.json).check()?;
    let cameras = match cameras {
        CameraSource::Names => Cameras::Names,
        CameraSource::Folders => Cameras::Folders,
        CameraSource::Table(table) => Cameras::Labels(datasets::read_cameras(table)?),
    };
    let settings = Settings { no_statistics: true, ..arguments.network.settings() };
    let network = open::network(model, &settings)?;
    if network.threshold.is_some() {
        eprintln!("note: the model's threshold is left out: it applies to distances without the statistics");
    }
    let Listing { images, left_out } = open::images(std::slice::from_ref(images), *follow_links)?;
    if !left_out.counts().is_empty() {
        eprintln!("note: left out: {left_out}");
    }
    let request = Request {
        adapter: arguments.device.options(),
        batch: arguments.batch_size.map(|batch| batch as usize),
        memory: arguments.memory.memory,
        image_options: ImageOptions {
            decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
            flip: false,
        },
        cameras,
        deviation: arguments.deviation,
    };
    let progress = Progress::new(Some(Signals::listen()?));
    let adapted = adapt(network, &images, &request, &progress);
    progress.finish();
    let adapted = adapted.map_err(open::about_skipped)?;
    if let Some(warning) = adapted.warning() {
        eprintln!("warning: {warning}");
    }
    checkpoint::save_with_statistics(model, &adapted.network, out)?;
    json::print_or_write(arguments.json.as_deref(), &text(&adapted), || value(arguments, &adapted))?;
    print_written(out, checkpoint::list(out)?.0.len())?;
    Ok(ExitCode::SUCCESS)
}

/// Lists the images of each camera.
fn text(adapted: &Adapted) -> String {
    let CameraStatistics { cameras, images, .. } = &adapted.statistics;
    let width = cameras.iter().map(String::len).chain(["camera".len()]).max().unwrap_or(0);
    let mut text = format!("{:<width$}  images\n", "camera");
    for (camera, images) in cameras.iter().map(String::as_str).chain(["all"]).zip(images) {
        text.push_str(&format!("{camera:<width$}{images:>8}\n"));
    }
    if adapted.without_camera() > 0 {
        text.push_str(&format!("{} of all are by an unknown camera\n", adapted.without_camera()));
    }
    text
}

/// The value of --json.
fn value(arguments: &AdaptArguments, adapted: &Adapted) -> Value {
    let CameraStatistics { cameras, images, deviation, .. } = &adapted.statistics;
    let rows = cameras.iter().zip(images).map(|(camera, images)| json!({"camera": camera, "images": images}));
    json!({
        "out": arguments.out.to_string_lossy(),
        "cameras": rows.collect::<Vec<_>>(),
        "images": images.last(),
        "without_camera": adapted.without_camera(),
        "skipped": adapted.skipped,
        "deviation": deviation,
        "weights_sha256": adapted.network.weights_sha256(),
        "adapter": adapted.adapter,
    })
}
