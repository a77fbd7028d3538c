//! `lat-wgpu embed`: turns folders of person crops into embeddings.

use super::arguments::{
    CamerasArgument, DeviceArguments, MemoryArgument, ModelArgument, NetworkArguments, ReductionArguments,
};
use super::json;
use super::open;
use super::paths::Paths;
use super::profile::{Profiles, TRACE};
use super::progress::Progress;
use super::signals::Signals;
use super::words::{counted, named, word};
use crate::checkpoint::Network;
use crate::embeddings::Dtype;
use crate::embeddings::index::{self, Found, SEGMENT_ROWS, ShardNumber};
use crate::embeddings::provenance::{NPY_NOTE, has_place};
use crate::error::{Error, Result};
use crate::images::decode::DecodeOptions;
use crate::images::walk::{LeftOut, Listing};
use crate::observer::Observer;
use crate::shape::PartTokens;
use crate::storage::lock;
use crate::tasks::embed::{
    AdapterUse, EmbeddingSource, ImageOptions, Request, Summary, Target, embed, open_output,
};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// `lat-wgpu embed`.
#[derive(Debug, Args)]
pub struct EmbedArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Image files, and folders that are searched recursively
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Output file: .safetensors, .npy (with .paths.txt beside it) or .parquet; with --append or --shard a folder
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Extends an index folder; skips images that it holds with the same name, size and modification time
    #[arg(long, group = "folder")]
    pub append: bool,
    /// With --append: removes rows of images that are not among the inputs
    #[arg(long, requires = "append")]
    pub prune: bool,
    /// Embeds shard I of N, from 1, into the folder shard-I-of-N inside --out; all shards need the same inputs, see
    /// `lat-wgpu merge`
    #[arg(long, value_name = "I/N", group = "folder")]
    pub shard: Option<ShardNumber>,
    /// With --append or --shard: maximum rows of a segment, which is what a kill loses [default: 16384]
    #[arg(long, value_name = "N", requires = "folder", value_parser = clap::value_parser!(u32).range(1..))]
    pub part_rows: Option<u32>,
    /// Averages the embeddings of each image and its mirror image
    #[arg(long)]
    pub flip: bool,
    #[command(flatten)]
    pub reduction: ReductionArguments,
    /// Accepts embeddings of different weights; otherwise they are an error
    #[arg(long, requires = "reduce")]
    pub allow_other_weights: bool,
    /// Data type of the embeddings
    #[arg(long, default_value = "f32", value_parser = named::<Dtype>())]
    pub dtype: Dtype,
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
    /// Exits with 1 if an image is skipped, is a link that is not followed, or is .heic .heif .avif .jxl .jp2
    #[arg(long)]
    pub strict: bool,
    /// Follows links to files and folders; enters each folder once
    #[arg(long)]
    pub follow_links: bool,
    /// Ignores the EXIF orientation of images
    #[arg(long)]
    pub ignore_exif: bool,
    /// Profiles one batch: prints the time of kernels and layers, and writes a trace for Chrome and Perfetto [default
    /// FILE: trace.json]
    #[arg(long, value_name = "FILE", require_equals = true)]
    pub profile: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub cameras: CamerasArgument,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &EmbedArguments) -> Result<ExitCode> {
    let start = Instant::now();
    let model = arguments.model.file()?;
    check_paths(arguments, &model)?;
    let network = open::network(&model, &arguments.cameras.all.settings(&arguments.network))?;
    let Listing { images, left_out } = open::images(&arguments.inputs, arguments.follow_links)?;
    let cameras = arguments.cameras.source(&network.config)?;
    cameras.check(&network.config, images.iter().map(|image| &image.name))?;
    let projection = arguments.reduction.projection(&model, &network, arguments.flip)?;
    if let Some(projection) = &projection {
        projection.check_fits(&network, arguments.flip)?;
    }
    let source = EmbeddingSource { model: &model, network: &network, projection: projection.as_ref() };
    if let Some(file) = &arguments.reduction.reduce {
        open::print_notes(&source.check_weights(file, arguments.allow_other_weights)?);
    }
    let request = Request {
        adapter: arguments.device.options(),
        batch: arguments.batch_size.map(|batch| batch as usize),
        memory: arguments.memory.memory,
        image_options: ImageOptions {
            decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
            flip: arguments.flip,
        },
        cameras,
        dtype: arguments.dtype,
        profile: arguments.profile.is_some(),
    };
    let target = arguments.target();
    if matches!(target, Target::File(_)) && !has_place(&arguments.out) {
        eprintln!("note: {NPY_NOTE}");
    }
    let (images, output) = open_output(&target, source, &arguments.inputs, images, &request)?;
    let progress = Progress::new(Some(Signals::listen()?));
    let done = embed(&network, projection.as_ref(), &images, output, &request, &progress);
    progress.finish();
    let Summary { rows, skipped, found, total, first, adapter } = done.map_err(open::about_skipped)?;
    let seconds = start.elapsed().as_secs_f64();
    let first = first.map_or(0.0, |first| (first - start).as_secs_f64());
    let per_second = rows as f64 / seconds;

    match &adapter {
        Some(adapter) => {
            eprintln!(
                "embedded {} ({skipped} skipped{}) in {seconds:.1} s, {per_second:.2} images/s: {}; {}",
                counted(rows, "image"),
                left_out.after(", left out: "),
                describe(&network),
                adapter.name,
            );
            progress.detail(&format!("batches of {}, {} MiB", adapter.batch, adapter.bytes >> 20));
        }
        None => {
            eprintln!("embedded no images: the index holds all of them{}", left_out.after("; left out: "));
        }
    }
    if let (Some(Found { known, changed, pruned }), Some(total)) = (found, total) {
        eprintln!(
            "{}: {}; {known} known, {changed} changed, {pruned} pruned",
            arguments.out.display(),
            counted(total, "image")
        );
    } else {
        eprintln!("wrote {}", arguments.out.display());
    }
    if let Some(file) = &arguments.profile
        && let Some(AdapterUse { profile: Some(profile), batch, .. }) = &adapter
    {
        let file = file.clone().unwrap_or_else(|| PathBuf::from(TRACE));
        eprint!("{}", Profiles::new(file).add(&format!("a batch of {batch}"), profile)?);
    }
    if let Some(target) = &arguments.json {
        let config = &network.config;
        let index = found.map(|Found { known, changed, pruned }| {
            json!({
                "pictures": total,
                "known": known,
                "changed": changed,
                "pruned": pruned,
                "shard": arguments.shard.map(|shard| shard.to_string()),
            })
        });
        let value = json!({
            "out": arguments.out.to_string_lossy(),
            "images": rows,
            "skipped": skipped,
            "left_out": left_out.counts(),
            "dim": source.dim(),
            "parts": config.parts(),
            "flip": arguments.flip,
            "reduce": arguments.reduction.reduce.as_ref().map(|path| path.to_string_lossy()),
            "index": index,
            "seconds": seconds,
            "first_vector_seconds": first,
            "images_per_s": per_second,
            "batch": adapter.as_ref().map(|adapter| adapter.batch),
            "gpu_bytes": adapter.as_ref().map(|adapter| adapter.bytes),
            "adapter": adapter.as_ref().map(|adapter| adapter.name.as_str()),
            "precision": arguments.device.precision,
            "model": config,
            "preprocess": network.preprocess,
            "notes": network.notes,
        });
        json::write(target, &value)?;
    }
    let strict = arguments.strict;
    if strict {
        name_images(&left_out);
    }
    let complete = skipped == 0 && left_out.images().is_empty();
    Ok(if strict && !complete { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Most images to name when --strict fails.
const NAMED: usize = 5;

/// Prints the images that were left out.
fn name_images(left_out: &LeftOut) {
    let images = left_out.images();
    for (name, reason) in images.iter().take(NAMED) {
        eprintln!("left out: {name} {reason}");
    }
    if images.len() > NAMED {
        eprintln!("left out: {} more", images.len() - NAMED);
    }
}

/// Fails if an output cannot be written or would replace an input.
fn check_paths(arguments: &EmbedArguments, model: &Path) -> Result<()> {
    let EmbedArguments { inputs, out, reduction, json, profile, .. } = arguments;
    let paths = Paths::new().following(arguments.follow_links).reads("--model", [model]);
    let paths = paths.reads("INPUT", inputs).reads("--reduce", &reduction.reduce);
    let paths = paths.reads("--cameras", &arguments.cameras.cameras);
    let paths = if let Some(folder) = arguments.target().folder() {
        if out.is_file() {
            return Err(Error::Usage(format!(
                "--out {} is a file: --append and --shard write into a folder; name a folder",
                out.display()
            )));
        }
        paths.writes_into("--out", &folder, index::is_own, lock::was_taken(&folder))
    } else {
        if out.join(index::MANIFEST).is_file() {
            let error = Error::Data(format!("--out {} is an index folder", out.display()));
            return Err(error.hinted("add --append to extend it"));
        }
        paths.writes_embeddings("--out", out)
    };
    let trace = profile.as_ref().map(|file| file.clone().unwrap_or_else(|| PathBuf::from(TRACE)));
    paths.writes("--json", json).writes("--profile", &trace).check()
}

impl EmbedArguments {
    /// The target of --out.
    fn target(&self) -> Target {
        let segment_rows = self.part_rows.map_or(SEGMENT_ROWS, |rows| rows as usize);
        match self.shard {
            Some(number) => Target::Shard { parent: self.out.clone(), number, segment_rows },
            None if self.append => {
                Target::Index { folder: self.out.clone(), prune: self.prune, segment_rows }
            }
            None => Target::File(self.out.clone()),
        }
    }
}

/// Describes size, normalisation, λ and parts.
fn describe(network: &Network) -> String {
    let (config, preprocess) = (&network.config, &network.preprocess);
    let blend = match config.gelt.tokens {
        PartTokens::Gelt => format!("λ {} on {}", config.gelt.lambda, word(&config.gelt.lambda_on)),
        PartTokens::Local => "local tokens".to_string(),
        PartTokens::Global => "global token".to_string(),
    };
    let name = preprocess.normalize().map_or("custom".to_string(), |normalize| word(&normalize));
    format!("{} {name}, {blend}, {} parts of {}", config.image, config.parts(), config.dim)
}
