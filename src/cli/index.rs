//! `lat-wgpu index`: changes an index folder of embeddings.

use super::paths::Paths;
use crate::embeddings::gallery::Filter;
use crate::embeddings::index::{self, remove_images};
use crate::error::{Error, Result};
use crate::storage::lock;
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu index`.
#[derive(Debug, Args)]
pub struct IndexArguments {
    #[command(subcommand)]
    pub action: IndexAction,
}

#[derive(Debug, Subcommand)]
pub enum IndexAction {
    /// Delete the embeddings of some images, such as those of a person
    Remove(RemoveArguments),
}

/// `lat-wgpu index remove`.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// The index folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Deletes the images that match: camera=1,2 by Market-1501 names, or path=GLOB; may be repeated, all must match
    #[arg(long, value_name = "FILTER", required_unless_present = "names")]
    pub filter: Vec<Filter>,
    /// Deletes the images of this list, one name on each line; with --filter those of them that match
    #[arg(long, value_name = "FILE")]
    pub names: Option<PathBuf>,
    /// Prints the names and deletes nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub fn run(arguments: &IndexArguments) -> Result<ExitCode> {
    let IndexAction::Remove(arguments) = &arguments.action;
    let RemoveArguments { dir, filter, names, dry_run } = arguments;
    let paths = Paths::new().reads("--names", names);
    if *dry_run {
        paths.reads("DIR", [dir])
    } else {
        paths.writes_into("DIR", dir, index::is_own, lock::was_taken(dir))
    }
    .check()?;
    let listed: Option<BTreeSet<String>> = match names {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
            Some(text.lines().filter(|line| !line.is_empty()).map(str::to_string).collect())
        }
    };
    let goes = |name: &str| -> Result<bool> {
        if listed.as_ref().is_some_and(|listed| !listed.contains(name)) {
            return Ok(false);
        }
        filter.iter().try_fold(true, |all, filter| Ok(all && filter.admits(name)?))
    };
    let removed = remove_images(dir, *dry_run, goes)?;
    let missing: Vec<&String> =
        listed.iter().flatten().filter(|name| removed.binary_search(name).is_err()).collect();
    if let (Some(first), true) = (missing.first(), filter.is_empty()) {
        eprintln!("note: {} names of the list are not in the index, such as {first}", missing.len());
    }
    if removed.is_empty() {
        return Err(Error::NothingToDo(format!("{}: no image of the index matches", dir.display())));
    }
    if *dry_run {
        removed.iter().for_each(|name| println!("{name}"));
        eprintln!("{} images would be deleted from {}", removed.len(), dir.display());
    } else {
        eprintln!("deleted {} images from {}", removed.len(), dir.display());
    }
    Ok(ExitCode::SUCCESS)
}
