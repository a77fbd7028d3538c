//! `lat-wgpu embed`: folders of person crops to embeddings.

use super::arguments::{DeviceArguments, MemoryArgument, NetworkArguments};
use super::json;
use super::open;
use super::paths::Paths;
use super::profile::{Profiles, TRACE};
use super::progress::Progress;
use super::signals::Signals;
use super::words::{named, word};
use crate::checkpoint::Network;
use crate::embeddings::index::{
    self, Found, IndexOptions, IndexWriter, Origin, SEGMENT_ROWS, Shard, ShardNumber, Weights,
};
use crate::embeddings::provenance::{NPY_NOTE, Provenance, Source, check_same_weights, has_place};
use crate::embeddings::{Dtype, EmbeddingWriter};
use crate::error::{Error, Result};
use crate::images::decode::DecodeOptions;
use crate::images::walk::{self, Image, LeftOut, Listing};
use crate::retrieval::pca::{self, Reduction};
use crate::shape::PartTokens;
use crate::storage::lock;
use crate::tasks::embed::{Device, Embedded, LookOptions, Output, Request, embed};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// `lat-wgpu embed`.
#[derive(Debug, Args)]
pub struct EmbedArguments {
    /// Weights of a plain ViT, or a trained model, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Folders (with all below them) and image files
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Where to write: FILE.safetensors, .npy (with .paths.txt beside it) or .parquet; with --append or --shard a folder
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Extend an index folder: images that are there with the same name, size and modification time are not embedded again
    #[arg(long, group = "folder")]
    pub append: bool,
    /// With --append: take rows out whose images are not among the inputs (they stay otherwise)
    #[arg(long, requires = "append")]
    pub prune: bool,
    /// Embed share I (from 1) of N into the folder shard-I-of-N inside --out; every share needs the same inputs, see `lat-wgpu merge`
    #[arg(long, value_name = "I/N", group = "folder")]
    pub shard: Option<ShardNumber>,
    /// With --append or --shard: most rows of one file, which is what a kill loses [default: 16384]
    #[arg(long, value_name = "N", requires = "folder", value_parser = clap::value_parser!(u32).range(1..))]
    pub part_rows: Option<u32>,
    /// Embed each image and its mirror image, and take the mean
    #[arg(long)]
    pub flip: bool,
    /// Write each vector in fewer numbers, by the principal components that `lat-wgpu reduce` found
    #[arg(long, value_name = "FILE")]
    pub reduce: Option<PathBuf>,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long, requires = "reduce")]
    pub allow_other_weights: bool,
    /// How a number is stored
    #[arg(long, default_value = "f32", value_parser = named::<Dtype>())]
    pub dtype: Dtype,
    /// Images per batch [default: what fills an adapter of its class, within --memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Write a summary as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Exit with 1 if an image had to be skipped, is a link that isn't followed, or is .heic .heif .avif .jxl .jp2
    #[arg(long)]
    pub strict: bool,
    /// Follow links to files and folders; a folder is entered once
    #[arg(long)]
    pub follow_links: bool,
    /// Do not turn images as their EXIF orientation says
    #[arg(long)]
    pub ignore_exif: bool,
    /// Print the time of kernels and layers for one batch, and write it as a trace for Chrome and Perfetto [default FILE: trace.json]
    #[arg(long, value_name = "FILE", require_equals = true)]
    pub profile: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &EmbedArguments) -> Result<ExitCode> {
    let start = Instant::now();
    // Everything that can be wrong on the host is found before the adapter is touched.
    check_paths(arguments)?;
    let network = open::network(&arguments.model, &arguments.network.settings())?;
    let Listing { images, left_out } = open::images(&arguments.inputs, arguments.follow_links)?;
    let reduction = arguments.reduce.as_deref().map(Reduction::read).transpose()?;
    if let Some(reduction) = &reduction {
        reduction.check_fits(&network, arguments.flip)?;
    }
    let weights_sha256 = network.weights_sha256();
    if let (Some(file), Some(reduction)) = (&arguments.reduce, &reduction) {
        let source = |file: &PathBuf, weights: Option<&String>| Source {
            file: file.clone(),
            weights_sha256: weights.cloned(),
        };
        let sources =
            [source(&arguments.model, Some(&weights_sha256)), source(file, reduction.weights_sha256())];
        open::tell(&check_same_weights(&sources, arguments.allow_other_weights)?);
    }
    let dim = reduction.as_ref().map_or(network.config.embedding_len(), Reduction::dim);
    let (images, output) = open_output(arguments, &network, weights_sha256, reduction.as_ref(), images)?;
    let request = Request {
        device: arguments.device.options(),
        batch: arguments.batch_size.map(|batch| batch as usize),
        memory: arguments.memory.memory,
        look: LookOptions {
            decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
            flip: arguments.flip,
        },
        dtype: arguments.dtype,
        profile: arguments.profile.is_some(),
    };
    let progress = Progress::new(Some(Signals::listen()?));
    let done = embed(&network, reduction.as_ref(), &images, output, &request, &progress);
    progress.finish();
    let Embedded { rows, skipped, found, total, first, device } = done.map_err(open::about_skipped)?;
    let seconds = start.elapsed().as_secs_f64();
    // Loading and compiling come before the first vector; the rate is that of the work after it.
    let first = first.map_or(0.0, |first| (first - start).as_secs_f64());
    let per_second = rows as f64 / seconds;

    match &device {
        Some(device) => eprintln!(
            "embedded {rows} images ({skipped} skipped{}) in {seconds:.1} s, {per_second:.2} images/s: {}; {} in batches of {}, {} MiB",
            left_out.after(", left out: "),
            describe(&network),
            device.adapter,
            device.batch,
            device.bytes >> 20,
        ),
        None => {
            eprintln!("embedded no images: there is nothing new{}", left_out.after("; left out: "));
        }
    }
    if let (Some(Found { known, changed, pruned }), Some(total)) = (found, total) {
        eprintln!(
            "{}: {total} images; {known} were there, {changed} had changed, {pruned} were taken out",
            arguments.out.display()
        );
    }
    if let Some(file) = &arguments.profile
        && let Some(Device { profile: Some(profile), batch, .. }) = &device
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
            "dim": dim,
            "parts": config.parts(),
            "flip": arguments.flip,
            "reduce": arguments.reduce.as_ref().map(|path| path.to_string_lossy()),
            "index": index,
            "seconds": seconds,
            "first_vector_seconds": first,
            "images_per_s": per_second,
            "batch": device.as_ref().map(|device| device.batch),
            "gpu_bytes": device.as_ref().map(|device| device.bytes),
            "adapter": device.as_ref().map(|device| device.adapter.as_str()),
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

/// Images that are named where --strict fails.
const NAMED: usize = 5;

/// Names the images that were left out.
fn name_images(left_out: &LeftOut) {
    let images = left_out.images();
    for (name, reason) in images.iter().take(NAMED) {
        eprintln!("left out: {name} {reason}");
    }
    if images.len() > NAMED {
        eprintln!("left out: {} more", images.len() - NAMED);
    }
}

/// Finds outputs that can't be written, or would replace what is read.
fn check_paths(arguments: &EmbedArguments) -> Result<()> {
    let EmbedArguments { model, inputs, out, reduce, json, profile, .. } = arguments;
    let paths = Paths::new().following(arguments.follow_links).reads("--model", [model]);
    let paths = paths.reads("INPUT", inputs).reads("--reduce", reduce);
    let paths = if arguments.append || arguments.shard.is_some() {
        if out.is_file() {
            return Err(Error::Usage(format!(
                "--out {} is a file: --append and --shard write into a folder",
                out.display()
            )));
        }
        let folder = index_folder(arguments);
        paths.writes_into("--out", &folder, index::is_own, lock::was_taken(&folder))
    } else {
        paths.writes_embeddings("--out", out)
    };
    let trace = profile.as_ref().map(|file| file.clone().unwrap_or_else(|| PathBuf::from(TRACE)));
    paths.writes("--json", json).writes("--profile", &trace).check()
}

/// The folder of an index, or of a shard of it.
fn index_folder(arguments: &EmbedArguments) -> PathBuf {
    match arguments.shard {
        Some(number) => arguments.out.join(number.folder()),
        None => arguments.out.clone(),
    }
}

/// Opens what is written to, and tells which images it lacks.
fn open_output(
    arguments: &EmbedArguments,
    network: &Network,
    weights_sha256: String,
    reduction: Option<&Reduction>,
    images: Vec<Image>,
) -> Result<(Arc<Vec<Image>>, Output)> {
    let settings = Some(pca::settings(network, arguments.flip, reduction));
    let inputs: Vec<String> =
        arguments.inputs.iter().map(|input| walk::readable(input.as_os_str())).collect();
    let provenance = Provenance { settings, weights_sha256: Some(weights_sha256.clone()), inputs };
    let metadata = provenance.add_to(&BTreeMap::new());
    let (out, dtype) = (&arguments.out, arguments.dtype);
    let dim = reduction.map_or(network.config.embedding_len(), Reduction::dim);
    if !arguments.append && arguments.shard.is_none() {
        let names: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
        if !has_place(out) {
            eprintln!("note: {NPY_NOTE}");
        }
        let writer = EmbeddingWriter::create(out, dim, dtype, &names, &metadata)?;
        return Ok((Arc::new(images), Output::File(writer)));
    }
    let name = arguments.model.file_name().unwrap_or_default();
    let model = Weights { name: walk::readable(name), sha256: weights_sha256 };
    let origin = Origin { model, metadata, ignore_exif: arguments.ignore_exif, dim, dtype };
    let segment_rows = arguments.part_rows.map_or(SEGMENT_ROWS, |rows| rows as usize);
    let writer = match arguments.shard {
        None => {
            let options = IndexOptions { shard: None, prune: arguments.prune, segment_rows };
            IndexWriter::open(out, origin, images, &options)?
        }
        Some(number) => {
            let (shard, images) = Shard::of_list(number, images)?;
            let options = IndexOptions { shard: Some(shard), prune: true, segment_rows };
            IndexWriter::open(&index_folder(arguments), origin, images, &options)?
        }
    };
    Ok((writer.todo(), Output::Index(Box::new(writer))))
}

/// Size, normalisation, λ and parts in a few words.
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
