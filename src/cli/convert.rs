//! `lat-wgpu convert`: makes a model file of foreign weights.

use super::arguments::NetworkArguments;
use super::export::print_written;
use super::inspect::describe;
use super::paths::Paths;
use crate::checkpoint::{self, Converted};
use crate::error::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu convert`.
#[derive(Debug, Args)]
pub struct ConvertArguments {
    /// Weights that PyTorch's torch.save wrote, or a .safetensors; nothing in it is executed
    #[arg(value_name = "IN")]
    pub file: PathBuf,
    /// Output file, as .safetensors
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &ConvertArguments) -> Result<ExitCode> {
    let ConvertArguments { file, out, network } = arguments;
    Paths::new().reads("IN", [file]).writes("--out", [out]).check()?;
    let Converted { release, licence, dropped, interpolation, network } =
        checkpoint::convert(file, &network.settings(), out)?;
    eprintln!("release: {release}");
    eprintln!("licence of the weights: {licence}");
    for part in dropped {
        eprintln!("dropped: {part}");
    }
    eprint!("{}", describe(&network));
    eprintln!("resized by the release: {interpolation}");
    print_written(out, network.tensors.len() + network.classifiers.len())?;
    Ok(ExitCode::SUCCESS)
}
