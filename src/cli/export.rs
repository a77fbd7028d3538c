//! `lat-wgpu export`: writes a model for other programs.

use super::arguments::{CameraArgument, ModelArgument, NetworkArguments};
use super::open;
use super::paths::Paths;
use super::words::named;
use crate::checkpoint;
use crate::embeddings::Dtype;
use crate::error::{Error, Result};
use crate::export::onnx::{self, Input};
use crate::export::web;
use crate::gpu::{Context, ContextOptions};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `lat-wgpu export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Format: timm is backbone and part classifiers in timm's and PyTorch's names; onnx maps pixels to embeddings; web
    /// is a folder with a page that embeds images in the browser
    #[arg(long, value_name = "FORM")]
    pub to: ExportForm,
    /// With --to timm: omits the part classifiers
    #[arg(long)]
    pub backbone_only: bool,
    /// With --to onnx: images that the model takes; f32 (N, 3, H, W) is normalized, u8 (N, H, W, 3) is R, G and B as
    /// bytes [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub input: Option<InputType>,
    /// With --to onnx: takes the images of a tracker, and stretches and normalizes them in the model
    #[arg(long = "for", value_name = "TRACKER", conflicts_with = "input")]
    pub tracker: Option<Tracker>,
    /// With --to timm or onnx: data type of the weights [default: f32]
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

/// Images that an ONNX model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InputType {
    F32,
    U8,
}

/// Trackers that embed by an ONNX model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tracker {
    Boxmot,
    Ultralytics,
}

pub fn run(arguments: &ExportArguments) -> Result<ExitCode> {
    let ExportArguments {
        model,
        to,
        backbone_only,
        input,
        tracker,
        dtype,
        batch_size,
        flip,
        out,
        camera,
        network,
    } = arguments;
    let [timm, onnx, web] = [ExportForm::Timm, ExportForm::Onnx, ExportForm::Web].map(|form| *to == form);
    let flags = [
        ("--backbone-only", *backbone_only && !timm, "--to timm"),
        ("--input", input.is_some() && !onnx, "--to onnx"),
        ("--for", tracker.is_some() && !onnx, "--to onnx"),
        ("--dtype", dtype.is_some() && web, "--to timm or onnx"),
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
    let dtype = dtype.unwrap_or(Dtype::F32);
    match to {
        ExportForm::Timm => {
            checkpoint::export(model, &network, !backbone_only, dtype, out)?;
            print_written(out, checkpoint::list(out)?.0.len())?;
        }
        ExportForm::Onnx => {
            let input = match (tracker, input) {
                (Some(Tracker::Boxmot), _) => Input::Boxmot,
                (Some(Tracker::Ultralytics), _) => Input::Ultralytics,
                (None, Some(InputType::U8)) => Input::U8,
                (None, _) => Input::F32,
            };
            print_written(out, onnx::export(model, &network, input, dtype, out)?)?;
        }
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
