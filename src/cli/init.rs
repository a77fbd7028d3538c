//! `lat-wgpu init`: writes a backbone with random weights, for training from scratch.

use super::paths::Paths;
use super::words::named;
use crate::error::{Error, Result};
use crate::shape::{ImageSize, Normalize, VitConfig};
use crate::tasks::init::init;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu init`.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// Input size in pixels
    #[arg(long, value_name = "HxW", default_value = "224x224")]
    pub size: ImageSize,
    /// Side of a patch in pixels
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub patch: u32,
    /// Width of a token
    #[arg(long, value_name = "N", default_value_t = 192, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub dim: u32,
    /// Number of blocks
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub depth: u32,
    /// Attention heads
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub heads: u32,
    /// Lets the heads of each block exchange their attention maps, as in DeepViT
    #[arg(long)]
    pub reattention: bool,
    /// Seed; the same seed gives the same weights
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Mean and standard deviation of the input
    #[arg(long, default_value = "imagenet", value_parser = named::<Normalize>())]
    pub normalize: Normalize,
    /// Output file, as .safetensors
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
}

pub fn run(arguments: &InitArguments) -> Result<ExitCode> {
    let InitArguments { size, patch, dim, depth, heads, reattention, seed, normalize, out } = arguments;
    let [patch, dim, depth, heads] = [*patch, *dim, *depth, *heads].map(|number| number as usize);
    if dim % heads != 0 {
        return Err(Error::Usage(format!("--dim {dim} is not a multiple of --heads {heads}")));
    }
    if size.height < patch || size.width < patch {
        return Err(Error::Usage(format!("--size {size} is smaller than one patch of {patch}x{patch}")));
    }
    Paths::new().writes("--out", [out]).check()?;
    let config = VitConfig { reattention: *reattention, ..VitConfig::plain(*size, patch, dim, depth, heads) };
    let parameters = init(out, &config, *normalize, *seed)?;
    eprintln!("{}: {parameters} random parameters", out.display());
    Ok(ExitCode::SUCCESS)
}
