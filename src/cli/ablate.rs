//! `lat-wgpu ablate`: the paper's Table 2 on a data set.

use super::arguments::{SetArguments, Training, Trains};
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
use crate::train::config::Layers;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu ablate`.
#[derive(Debug, Args)]
pub struct AblateArguments {
    /// Folder for the twelve run folders, table.md and table.json; the same command again resumes it
    #[arg(short, long, value_name = "FOLDER", default_value = "ablation")]
    pub out: PathBuf,
    /// Writes the table as JSON instead of printing Markdown; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Configuration file of the training runs; flags and --set win over it
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Sets one key of the configuration, such as optim.lr=1e-4; may be repeated, wins over flags
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Trains for AblateArguments {
    const REQUIRED: &'static [&'static str] = &["data.dir", "model.backbone"];

    fn has(key: &str) -> bool {
        let keys = [
            "data.dir",
            "model.backbone",
            "model.ignore_unknown",
            "model.size",
            "schedule.epochs",
            "schedule.batch_size",
            "data.seed",
            "device.adapter",
        ];
        keys.contains(&key) || SetArguments::has(key)
    }
}

pub fn run(Training { arguments, layers }: Training<AblateArguments>) -> Result<ExitCode> {
    let layers = open::backbone(layers)?;
    check_paths(&arguments, &layers)?;
    let AblateArguments { out, json, .. } = &arguments;
    let request = Request { out: out.clone(), layers };
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
fn check_paths(arguments: &AblateArguments, layers: &Layers) -> Result<()> {
    let AblateArguments { out, json, .. } = arguments;
    let mut paths = Paths::new().writes("--json", json);
    let mut is_begun = false;
    for variant in Variant::all() {
        let folder = out.join(variant.name());
        is_begun |= lock::was_taken(&folder);
        paths = run_paths(paths, &folder, true, &variant.layers(layers), is_own)?;
    }
    paths.writes_into("--out", out, |name| TABLE_FILES.contains(&name), is_begun).check()
}
