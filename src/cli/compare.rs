//! `lat-wgpu compare`: the distance of two images, and how often two strangers are as near.

use super::arguments::{AdapterArgument, CameraArgument, ModelArgument, NetworkArguments};
use super::json;
use super::open;
use super::paths::Paths;
use crate::error::Result;
use crate::gpu::Precision;
use crate::images::decode::DecodeOptions;
use crate::images::walk::readable;
use crate::tasks::compare::{Comparison, compare};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu compare`.
#[derive(Debug, Args)]
pub struct CompareArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// An image
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// Another image
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Writes the result as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Ignores the EXIF orientation of the images
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub camera: CameraArgument,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &CompareArguments) -> Result<ExitCode> {
    let CompareArguments { model, a, b, json: target, adapter, ignore_exif, camera, network } = arguments;
    let model = &model.file()?;
    let paths = Paths::new().reads("--model", [model]).reads("A", [a]).reads("B", [b]);
    paths.writes("--json", target).check()?;
    let network = open::network(model, &camera.settings(network))?;
    let names = [a, b].map(|file| readable(file.as_os_str()));
    open::print_notes(camera.cameras().note(&network.config, &names).as_slice());
    let context = adapter.open(Precision::F32)?;
    let decode = DecodeOptions { ignore_exif: *ignore_exif };
    let comparison = compare(&context, &network, [a, b], decode, &camera.cameras())?;
    let threshold = network.threshold.map(|threshold| threshold.distance);
    json::print_or_write(target.as_deref(), &text(&comparison, threshold), || {
        let Comparison { distance, false_match_rate, same } = comparison;
        json!({
            "a": a.to_string_lossy(),
            "b": b.to_string_lossy(),
            "distance": distance,
            "false_match_rate": false_match_rate,
            "same": same,
            "threshold": threshold,
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(comparison: &Comparison, threshold: Option<f32>) -> String {
    let Comparison { distance, false_match_rate, same } = comparison;
    let mut text = format!("distance          {distance:.4}\n");
    if let Some(rate) = false_match_rate {
        text.push_str(&format!(
            "false-match rate  {rate:.3e}: the share of pairs of strangers that are as near\n"
        ));
    }
    if let (Some(same), Some(threshold)) = (same, threshold) {
        let (verdict, side) = if *same { ("same", "within") } else { ("different", "above") };
        text.push_str(&format!(
            "person            {verdict}: {side} the model's threshold of {threshold:.4}\n"
        ));
    }
    text
}
