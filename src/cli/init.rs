//! `lat-wgpu init`: a backbone with random weights, to train from nothing.

use super::args::InitArguments;
use super::paths::Paths;
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::shape::{Normalize, Preprocess, VitConfig};
use std::collections::BTreeMap;
use std::process::ExitCode;

pub fn run(arguments: &InitArguments) -> Result<ExitCode> {
    let InitArguments { size, patch, dim, depth, heads, seed, normalize, out } = arguments;
    let [patch, dim, depth, heads] = [*patch, *dim, *depth, *heads].map(|number| number as usize);
    if dim % heads != 0 {
        return Err(Error::Usage(format!("--heads {heads} doesn't divide --dim {dim}")));
    }
    if size.height < patch || size.width < patch {
        return Err(Error::Usage(format!("--size {size}: smaller than one patch of {patch}x{patch}")));
    }
    Paths::new().writes("--out", [out]).check()?;
    let config = VitConfig::plain(*size, patch, dim, depth, heads);
    let preprocess = Preprocess::new(*size, Normalize::from(*normalize).mean_std());
    let tensors = checkpoint::random_backbone(&config, *seed);
    let parameters: usize = tensors.values().map(|tensor| tensor.data.len()).sum();
    let metadata = checkpoint::lat_wgpu_metadata(&config, &preprocess, None);
    checkpoint::save(out, &tensors, &BTreeMap::new(), &metadata)?;
    eprintln!("{}: {parameters} random parameters", out.display());
    Ok(ExitCode::SUCCESS)
}
