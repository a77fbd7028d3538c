//! `--profile`, the same in `embed` and `train`: tables for stderr, a trace in a file.

use crate::bench::profile;
use crate::error::Result;
use crate::gpu::PlanProfile;
use crate::storage::atomic::write_atomically;
use std::path::PathBuf;

/// The trace's name unless the user gives one.
pub const TRACE: &str = "trace.json";

/// Profiles of one command, kept in one trace.
pub struct Profiles {
    file: PathBuf,
    profiles: Vec<(String, PlanProfile)>,
}

impl Profiles {
    /// None yet; nothing is written before the first.
    pub fn new(file: PathBuf) -> Profiles {
        Profiles { file, profiles: Vec::new() }
    }

    /// Writes the trace with one more profile in it, and gives the profile's tables with the trace's name below them.
    pub fn add(&mut self, title: &str, plan: &PlanProfile) -> Result<String> {
        self.profiles.push((title.to_string(), plan.clone()));
        let trace = profile::trace(&self.profiles);
        write_atomically(&self.file, format!("{trace}\n").as_bytes())?;
        Ok(format!("{}trace: {}\n", profile::tables(title, plan), self.file.display()))
    }
}
