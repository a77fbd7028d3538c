//! `lat-wgpu ablate`: the paper's Table 2 on a data set.

use super::arguments::{SetArguments, Training};
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use super::train::run_paths;
use crate::error::Result;
use crate::observer::Follower;
use crate::storage::lock;
use crate::tasks::ablate::{Request, TABLE_FILES, Variant, ablate, is_own};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu ablate`.
///
/// Private fields are read as keys of the configuration, by their ids: see [`Training`].
#[derive(Debug, Args)]
pub struct AblateArguments {
    /// Folder of a data set with train images, query and gallery, or a table of images (.csv)
    #[arg(id = "dir", long = "data", value_name = "DIR")]
    pub data: String,
    /// Weights to start from
    #[arg(long, value_name = "FILE")]
    backbone: String,
    /// Pass over tensors of the backbone's file that are not known
    #[arg(long)]
    ignore_unknown: bool,
    /// Folder for the twelve run folders, table.md and table.json; the same command again goes on where it stopped
    #[arg(long, value_name = "FOLDER", default_value = "ablation")]
    pub out: PathBuf,
    /// Write the table as JSON instead of printing Markdown; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Input size in pixels
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Passes over the images
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// Images in a step
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// Seed of every random choice
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Part of the adapter's name, see `lat-wgpu info`
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Keys of the training runs from a file
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One key of the training runs, such as optim.lr=1e-4; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    data_set: SetArguments,
}

pub fn run(given: &Training<AblateArguments>) -> Result<ExitCode> {
    check_paths(given)?;
    let Training { arguments, layers } = given;
    let AblateArguments { out, adapter, json, .. } = arguments;
    let request = Request { out: out.clone(), layers: layers.clone(), adapter: adapter.clone() };
    let progress = Progress::new(Some(Signals::listen()?));
    let done = ablate(&request, &progress);
    progress.finish();
    let table = done.map_err(open::about_tensors)?;
    match json {
        Some(target) => json::write(target, &table.json())?,
        None => print!("{}", table.markdown()),
    }
    Ok(ExitCode::SUCCESS)
}

impl Follower<Variant> for Progress {
    fn event(&self, variant: Variant) -> Result<()> {
        self.finish();
        self.say(&variant.name());
        Ok(())
    }
}

/// Fails if an output cannot be written or would replace an input.
fn check_paths(Training { arguments, layers }: &Training<AblateArguments>) -> Result<()> {
    let AblateArguments { data, out, json, .. } = arguments;
    let mut paths = Paths::new().reads_sets("--data", [data]).writes("--json", json);
    let mut is_begun = false;
    for variant in Variant::all() {
        let folder = out.join(variant.name());
        is_begun |= lock::was_taken(&folder);
        paths = run_paths(paths, &folder, true, &variant.layers(layers), is_own)?;
    }
    paths.writes_into("--out", out, |name| TABLE_FILES.contains(&name), is_begun).check()
}
