//! `lat-wgpu merge`: writes the shards of a list, or an index folder, as one file.

use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use crate::embeddings::merge::{Merge, Merged};
use crate::embeddings::provenance::{NPY_NOTE, has_place};
use crate::error::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu merge`.
#[derive(Debug, Args)]
pub struct MergeArguments {
    /// Folder of shard-I-of-N folders, or an index folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Output file: .safetensors, .npy (with .paths.txt beside it) or .parquet
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Accepts embeddings of different weights; otherwise they are an error
    #[arg(long)]
    pub allow_other_weights: bool,
    /// Writes a summary as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

pub fn run(arguments: &MergeArguments) -> Result<ExitCode> {
    let paths = Paths::new().reads("DIR", [&arguments.dir]).writes_embeddings("--out", &arguments.out);
    paths.writes("--json", &arguments.json).check()?;
    let merge = Merge::open_with(&arguments.dir, arguments.allow_other_weights)?;
    open::print_notes(&merge.other_weights());
    if !has_place(&arguments.out) {
        eprintln!("note: {NPY_NOTE}");
    }
    let dim = merge.dim();
    let progress = Progress::new(Some(Signals::listen()?));
    let Merged { rows, skipped, segments } = merge.write(&arguments.out, &progress)?;
    eprintln!(
        "merged {rows} rows of {dim} dimensions from {segments} segments into {} ({skipped} images were skipped)",
        arguments.out.display()
    );
    if let Some(target) = &arguments.json {
        let value = json!({
            "out": arguments.out.to_string_lossy(),
            "rows": rows,
            "dim": dim,
            "parts": segments,
            "skipped": skipped,
        });
        json::write(target, &value)?;
    }
    Ok(ExitCode::SUCCESS)
}
