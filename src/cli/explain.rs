//! `lat-wgpu explain`: draws the share of each patch in an embedding, or the agreement of the parts of two images.

use super::arguments::{AdapterArgument, CameraArgument, ModelArgument, NetworkArguments};
use super::json;
use super::open;
use super::paths::Paths;
use crate::checkpoint::Network;
use crate::error::{Error, Result};
use crate::gpu::{Context, Precision};
use crate::images::decode::{self, DecodeOptions, Rgb};
use crate::images::walk::readable;
use crate::tasks::explain::{self, Explanation};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// The image
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    /// Draws how the parts of this image agree with those of IMG, instead of attention rollout
    #[arg(long, value_name = "IMG")]
    pub against: Option<PathBuf>,
    /// Output file, as .png: the image, its attention rollout and its parts, or both images with the agreement of their
    /// parts
    #[arg(short, long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// Writes the shares of patches and parts, or the agreement of parts, as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Ignores the EXIF orientation of the image
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub camera: CameraArgument,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &ExplainArguments) -> Result<ExitCode> {
    let ExplainArguments { out, image, against, .. } = arguments;
    if !out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        return Err(Error::Usage(format!(
            "--out {}: the drawing is a PNG; use the extension .png",
            out.display()
        )));
    }
    let model = arguments.model.file()?;
    let paths = Paths::new().reads("--model", [&model]).reads("IMG", [image]).reads("--against", against);
    paths.writes("--out", [out]).writes("--json", &arguments.json).check()?;
    let network = open::network(&model, &arguments.camera.settings(&arguments.network))?;
    let cameras = arguments.camera.cameras();
    let names: Vec<String> = [Some(image), against.as_ref()]
        .into_iter()
        .flatten()
        .map(|file| readable(file.as_os_str()))
        .collect();
    cameras.check(&network.config, &names)?;
    if against.is_some() {
        open::print_notes(cameras.note(&network.config, &names).as_slice());
    }
    let rows = names.iter().map(|name| cameras.row(&network.config, name)).collect::<Result<Vec<u32>>>()?;
    let read = |file: &PathBuf| decode::read(file, DecodeOptions { ignore_exif: arguments.ignore_exif });
    let image = read(image)?;
    let against = against.as_ref().map(read).transpose()?;

    let context = arguments.adapter.open(Precision::F32)?;
    if let Some(other) = &against {
        return compare(arguments, &context, &network, (&image, rows[0]), (other, rows[1]));
    }
    let config = &network.config;
    let explanation = explain::explain(&context, &network, &image, rows[0])?;
    explain::write_png(out, &explain::draw(&image, config, &explanation))?;

    let Explanation { patches, parts, prefix } = &explanation;
    let (rows, columns) = config.grid();
    let largest = |shares: &[f64]| (0..shares.len()).max_by(|&a, &b| shares[a].total_cmp(&shares[b]));
    let (patch, part) = (largest(patches).unwrap_or(0), largest(parts).unwrap_or(0));
    eprintln!(
        "drew {}: the largest share of the patches is in part {} of {} ({:.1} %) and in row {} of {rows}, column {} of {columns} ({:.2} %)",
        out.display(),
        part + 1,
        parts.len(),
        100.0 * parts[part],
        patch / columns + 1,
        patch % columns + 1,
        100.0 * patches[patch],
    );
    if let Some(target) = &arguments.json {
        let value = json!({
            "image": arguments.image.to_string_lossy(),
            "out": out.to_string_lossy(),
            "rows": rows,
            "columns": columns,
            "rollout": patches.chunks(columns).collect::<Vec<_>>(),
            "parts": parts,
            "prefix": prefix,
            "adapter": context.adapter.name,
            "model": config,
            "preprocess": network.preprocess,
            "notes": network.notes,
        });
        json::write(target, &value)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the agreement of the parts of two images.
fn compare(
    arguments: &ExplainArguments,
    context: &Context,
    network: &Network,
    query: (&Rgb, u32),
    found: (&Rgb, u32),
) -> Result<ExitCode> {
    let (out, config) = (&arguments.out, &network.config);
    let agreement = explain::agreement(context, network, query, found)?;
    explain::write_png(out, &explain::draw_against(query.0, found.0, config, &agreement))?;

    let distance = (2.0 - 2.0 * agreement.iter().sum::<f64>() / agreement.len() as f64).max(0.0);
    let best = (0..agreement.len()).max_by(|&a, &b| agreement[a].total_cmp(&agreement[b])).unwrap_or(0);
    let worst = (0..agreement.len()).min_by(|&a, &b| agreement[a].total_cmp(&agreement[b])).unwrap_or(0);
    eprintln!(
        "drew {}: distance {distance:.4}; of {} parts, part {} agrees most, cosine {:.5}, and part {} least, {:.5}",
        out.display(),
        agreement.len(),
        best + 1,
        agreement[best],
        worst + 1,
        agreement[worst],
    );
    if let Some(target) = &arguments.json {
        let value = json!({
            "image": arguments.image.to_string_lossy(),
            "against": arguments.against.as_ref().map(|file| file.to_string_lossy()),
            "out": out.to_string_lossy(),
            "agreement": agreement,
            "distance": distance,
            "adapter": context.adapter.name,
            "model": config,
            "preprocess": network.preprocess,
            "notes": network.notes,
        });
        json::write(target, &value)?;
    }
    Ok(ExitCode::SUCCESS)
}
