//! `lat-wgpu draw`: figures for demos and tests.

use super::args::DrawArguments;
use crate::data::figures::{Figures, draw_figures};
use crate::error::Result;
use std::process::ExitCode;

pub fn run(arguments: &DrawArguments) -> Result<ExitCode> {
    let DrawArguments { dir, persons, cameras, images, seed } = arguments;
    let figures = Figures { persons: *persons, cameras: *cameras, images: *images, seed: *seed };
    let count = draw_figures(dir, figures)?;
    eprintln!("drew {count} pictures in {}", dir.display());
    Ok(ExitCode::SUCCESS)
}
