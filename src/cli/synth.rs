//! `lat-wgpu synth`: figures for demos and tests.

use super::paths::Paths;
use crate::error::Result;
use crate::figures::{CrowdSize, Figures, draw_crowd, draw_figures};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu synth`.
#[derive(Debug, Args)]
pub struct SynthArguments {
    /// New or empty folder for the data set, in Market-1501's layout
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Number of persons; every second one is in the train split
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub persons: u32,
    /// Number of cameras
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub cameras: u32,
    /// Images of each person by each camera
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub images: u32,
    /// Draws some of a crowd instead, as `train --data synth:…` sees it, such as persons=200,cameras=48,seed=1; --images is
    /// the number of images by each of the six cameras that see a person
    #[arg(long, value_name = "SIZE", value_parser = crowd, conflicts_with_all = ["persons", "cameras", "seed"])]
    pub crowd: Option<CrowdSize>,
    /// Seed; the same seed gives the same bytes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

fn crowd(text: &str) -> std::result::Result<CrowdSize, String> {
    text.parse::<CrowdSize>().map_err(|error| error.to_string())
}

pub fn run(arguments: &SynthArguments) -> Result<ExitCode> {
    let SynthArguments { dir, persons, cameras, images, crowd, seed } = arguments;
    // A second set would mix with the first.
    Paths::new().makes_folder("DIR", dir).check()?;
    let figures = Figures { persons: *persons, cameras: *cameras, images: *images, seed: *seed };
    let count = match crowd {
        Some(crowd) => draw_crowd(dir, *crowd, *images)?,
        None => draw_figures(dir, figures)?,
    };
    eprintln!("drew {count} images in {}", dir.display());
    Ok(ExitCode::SUCCESS)
}
