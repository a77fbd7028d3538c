//! `lat-wgpu export`: writes a model for other programs.

use super::arguments::{CameraArgument, ModelArgument, NetworkArguments};
use super::open;
use super::paths::Paths;
use super::words::named;
use crate::checkpoint;
use crate::embeddings::Dtype;
use crate::error::{Error, Result};
use crate::export::{onnx, web};
use crate::gpu::{Context, ContextOptions};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `lat-wgpu export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Format: timm is backbone and part classifiers in timm's and PyTorch's names; onnx maps pixels to embeddings, and
    /// needs Python (LAT_PYTHON, else python3) with onnx; web is a folder with a page that embeds images in the browser
    #[arg(long, value_name = "FORM")]
    pub to: ExportForm,
    /// With --to timm: omits the part classifiers
    #[arg(long)]
    pub backbone_only: bool,
    /// With --to timm: data type of the weights [default: f32]
    #[arg(long, value_parser = named::<Dtype>())]
    pub dtype: Option<Dtype>,
    /// With --to web: images per batch [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub batch_size: Option<u32>,
    /// With --to web: averages the embeddings of each image and its mirror image
    #[arg(long)]
    pub flip: bool,
    /// Output: a .safetensors file, an .onnx file, or a new folder
    #[arg(short, long, value_name = "PATH")]
    pub out: PathBuf,
    #[command(flatten)]
    pub camera: CameraArgument,
    #[command(flatten)]
    pub network: NetworkArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportForm {
    Timm,
    Onnx,
    Web,
}

pub fn run(arguments: &ExportArguments) -> Result<ExitCode> {
    let ExportArguments { model, to, backbone_only, dtype, batch_size, flip, out, camera, network } =
        arguments;
    let (timm, web) = (*to == ExportForm::Timm, *to == ExportForm::Web);
    let flags = [
        ("--backbone-only", *backbone_only && !timm, "--to timm"),
        ("--dtype", dtype.is_some() && !timm, "--to timm"),
        ("--batch-size", batch_size.is_some() && !web, "--to web"),
        ("--flip", *flip && !web, "--to web"),
    ];
    if let Some((flag, _, form)) = flags.into_iter().find(|(_, misplaced, _)| *misplaced) {
        return Err(Error::Usage(format!("{flag} requires {form}")));
    }
    let model = &model.file()?;
    let paths = Paths::new().reads("--model", [model]);
    if web { paths.makes_folder("--out", out) } else { paths.writes("--out", [out]) }.check()?;
    if let Some(name) = camera.name() {
        return Err(Error::Usage(format!(
            "--camera {name}: an export has no cameras; --camera none leaves a camera embedding out"
        )));
    }
    let network = open::network(model, &camera.settings(network))?;
    checkpoint::check_exportable(&network)?;
    match to {
        ExportForm::Timm => {
            let dtype = dtype.unwrap_or(Dtype::F32);
            checkpoint::export(model, &network, !backbone_only, dtype, out)?;
            print_written(out, checkpoint::list(out)?.0.len())?;
        }
        ExportForm::Onnx => print_written(out, onnx::export(model, &network, out)?)?,
        ExportForm::Web => {
            let options = ContextOptions { portable: true, ..ContextOptions::from_environment(None) };
            let context = Context::open(&options)?;
            open::print_notes(&context.adapter.notes());
            let exported = web::export(&context, &network, batch_size.unwrap_or(1) as usize, *flip, out)?;
            eprintln!(
                "wrote {}: {} dispatches of {} shaders, {} MiB of weights and {} MiB of other memory; serve the folder, for example with `python3 -m http.server --directory {}`",
                out.display(),
                exported.dispatches,
                exported.shaders,
                exported.weight_bytes >> 20,
                exported.other_bytes >> 20,
                out.display(),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the name, the tensors and the size of an exported file.
pub fn print_written(out: &Path, tensors: usize) -> Result<()> {
    let bytes = std::fs::metadata(out).map_err(Error::io("read", out))?.len();
    eprintln!("wrote {}: {tensors} tensors, {bytes} bytes", out.display());
    Ok(())
}
