//! `lat-wgpu inspect`: prints the configuration and the tensors of a model file.

use super::arguments::NetworkArguments;
use super::json;
use super::open;
use super::paths::Paths;
use super::words::word;
use crate::checkpoint::{self, Network};
use crate::error::Result;
use crate::shape::{CameraStatistics, CameraTable, HeadEmbed};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// A .safetensors file, or another model as --model of `embed` takes it
    #[arg(value_name = "MODEL")]
    pub file: PathBuf,
    /// Writes configuration and tensors as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &InspectArguments) -> Result<ExitCode> {
    let file = open::model(Some(&arguments.file))?;
    Paths::new().reads("MODEL", [&file]).writes("--json", &arguments.json).check()?;
    let (tensors, metadata) = checkpoint::list(&file)?;
    let network = checkpoint::load(&file, &arguments.network.settings());
    if let Some(target) = &arguments.json {
        let listed: Vec<_> = tensors
            .iter()
            .map(|t| json!({"name": t.name, "dtype": t.dtype, "shape": t.shape, "bytes": t.bytes}))
            .collect();
        let value = json!({
            "model": network.as_ref().ok().map(|network| &network.config),
            "preprocess": network.as_ref().ok().map(|network| &network.preprocess),
            "classes": network.as_ref().ok().and_then(|network| network.class_names.as_ref().map(Vec::len)),
            "weights_sha256": network.as_ref().ok().map(Network::weights_sha256),
            "notes": network.as_ref().ok().map(|network| &network.notes),
            "not_a_model": network.as_ref().err().map(ToString::to_string),
            "metadata": metadata,
            "tensors": listed,
        });
        json::write(target, &value)?;
        return Ok(ExitCode::SUCCESS);
    }

    let mut text = String::new();
    match &network {
        Ok(network) => text.push_str(&describe(network)),
        Err(error) => text.push_str(&format!("this file cannot be run as a model: {error}\n")),
    }
    for (key, value) in &metadata {
        let short: String = value.chars().take(200).collect();
        let more = if short.len() < value.len() { "…" } else { "" };
        text.push_str(&format!("metadata {key}: {}{more}\n", short.escape_debug()));
    }
    let bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
    text.push_str(&format!("{} tensors, {bytes} bytes\n", tensors.len()));
    for tensor in &tensors {
        text.push_str(&format!("  {:<44} {:<5} {:?}\n", tensor.name, tensor.dtype, tensor.shape));
    }
    // A closed pager is no failure.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// Describes a network, with its notes.
pub fn describe(network: &Network) -> String {
    let Network { config, preprocess, notes, classifiers, class_names, threshold, .. } = network;
    let (rows, columns) = config.grid();
    let parameters: usize = network.tensors.values().map(|t| t.data.len()).sum();
    let mut text = format!(
        "ViT: width {}, depth {}, heads {}, MLP {}, patch {} stride {}, {:.1} M parameters\n",
        config.dim,
        config.depth,
        config.heads,
        config.mlp_hidden,
        config.patch,
        config.stride,
        parameters as f64 / 1e6
    );
    text.push_str(&format!(
        "input {} ({:?} mean, {:?} deviation), grid {rows}x{columns}, {} prefix tokens, {}, LayerNorm eps {:e}{}{}\n",
        config.image,
        preprocess.mean,
        preprocess.std,
        config.prefix(),
        word(&config.act),
        config.ln_eps,
        if config.norm_pre { ", norm before the blocks" } else { "" },
        if config.layer_scale { ", LayerScale" } else { "" },
    ));
    text.push_str(&format!(
        "embedding: {} parts × {} = {} dimensions, {}, λ {} on {}{}\n",
        config.parts(),
        config.dim,
        config.embedding_len(),
        word(&config.gelt.tokens),
        config.gelt.lambda,
        word(&config.gelt.lambda_on),
        if config.head_embed == HeadEmbed::After { ", after the BatchNorm of the heads" } else { "" },
    ));
    if config.reattention {
        text.push_str("re-attention: the heads of each block exchange their attention maps\n");
    }
    if config.jigsaw {
        text.push_str("jigsaw: the class token, and those of 4 sequences of shuffled patches\n");
    }
    if let Some(CameraTable { weight, names }) = &config.cameras {
        text.push_str(&format!("camera embedding: {} cameras, factor {weight}\n", names.len()));
    }
    if let Some(CameraStatistics { cameras, images, deviation, .. }) = &config.statistics {
        let what = if *deviation { "means and deviations" } else { "means" };
        let rows = cameras.iter().zip(images).map(|(camera, images)| format!("{camera} ({images} images), "));
        let all = images.last().copied().unwrap_or(0);
        text.push_str(&format!("camera statistics: {what} of {}all ({all})\n", rows.collect::<String>()));
    }
    if !classifiers.is_empty() {
        let classes = class_names.as_ref().map_or(0, Vec::len);
        text.push_str(&format!("part classifiers: {} tensors, {classes} class names\n", classifiers.len()));
    }
    if let Some(threshold) = threshold {
        text.push_str(&format!(
            "same person up to a squared distance of {}: at most {} of the pairs of different persons\n",
            threshold.distance, threshold.fpr
        ));
    }
    for note in notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}
