//! `lat-wgpu export`: a model for other programs.

use super::args::{ExportArguments, ExportForm};
use super::open;
use crate::checkpoint;
use crate::error::Result;
use std::process::ExitCode;

pub fn run(arguments: &ExportArguments) -> Result<ExitCode> {
    let ExportArguments { model, to, backbone_only, dtype, out, network } = arguments;
    let network = open::network(model, &network.settings())?;
    match to {
        ExportForm::Timm => checkpoint::export(model, &network, !backbone_only, (*dtype).into(), out)?,
    }
    Ok(ExitCode::SUCCESS)
}
