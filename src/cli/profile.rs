//! Writes `--profile` of `embed` and `train`: tables on stderr, and a trace file.

use crate::bench::profile;
use crate::error::Result;
use crate::gpu::PlanProfile;
use crate::storage::atomic::write_atomically;
use std::path::PathBuf;

/// Default name of the trace file.
pub const TRACE: &str = "trace.json";

/// The profiles of a command, written to one trace.
pub struct Profiles {
    file: PathBuf,
    profiles: Vec<(String, PlanProfile)>,
}

impl Profiles {
    /// Makes an empty collection. The file is written with the first profile.
    pub fn new(file: PathBuf) -> Profiles {
        Profiles { file, profiles: Vec::new() }
    }

    /// Adds a profile and rewrites the trace. Returns the profile's tables and the name of the trace.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io) if the trace cannot be written.
    pub fn add(&mut self, title: &str, plan: &PlanProfile) -> Result<String> {
        self.profiles.push((title.to_string(), plan.clone()));
        let trace = profile::trace(&self.profiles);
        write_atomically(&self.file, format!("{trace}\n").as_bytes())?;
        Ok(format!("{}trace: {}\n", profile::tables(title, plan), self.file.display()))
    }
}
