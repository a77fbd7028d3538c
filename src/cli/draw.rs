//! `lat-wgpu draw`: figures for demos and tests.

use super::args::DrawArguments;
use super::paths::Paths;
use crate::error::Result;
use crate::figures::{Figures, draw_figures};
use std::process::ExitCode;

pub fn run(arguments: &DrawArguments) -> Result<ExitCode> {
    let DrawArguments { dir, persons, cameras, images, seed } = arguments;
    // In one folder two sets would be mixed up.
    Paths::new().makes_folder("DIR", dir).check()?;
    let figures = Figures { persons: *persons, cameras: *cameras, images: *images, seed: *seed };
    let count = draw_figures(dir, figures)?;
    eprintln!("drew {count} pictures in {}", dir.display());
    Ok(ExitCode::SUCCESS)
}
