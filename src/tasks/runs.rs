//! Compares run folders: what each was configured to do, and what it logged.

use crate::error::{Error, Result};
use crate::train::config::Config;
use crate::train::log::{EpochLine, StepLine, epochs, steps};
use std::path::{Path, PathBuf};

/// A run folder.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// Its epochs, in order.
    pub epochs: Vec<EpochLine>,
    /// Its steps.
    pub steps: Vec<StepLine>,
}

/// A key in which runs differ, with its value in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: &'static str,
    /// Its values as typed on the command line; `None` if it has none.
    pub values: Vec<Option<String>>,
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder without `config.toml` or `log.jsonl`; those of the files.
    pub fn read(folder: &Path) -> Result<Run> {
        let [config, log] = ["config.toml", "log.jsonl"].map(|name| folder.join(name));
        if let Some(missing) = [&config, &log].into_iter().find(|file| !file.is_file()) {
            return Err(Error::Usage(format!(
                "{} is no run folder: there is no {}",
                folder.display(),
                missing.display()
            )));
        }
        Ok(Run {
            folder: folder.to_path_buf(),
            config: Config::read(&config)?,
            epochs: epochs(&log)?,
            steps: steps(&log)?,
        })
    }

    /// The last epoch with scores, see [`EpochLine::scores`]: (epoch, rank-1, mAP).
    pub fn last_scores(&self) -> Option<(usize, f64, f64)> {
        let scores = |line: &EpochLine| line.scores().map(|(rank1, map)| (line.epoch, rank1, map));
        self.epochs.iter().rev().find_map(scores)
    }

    /// Median of the images per second of all steps; `None` without a step.
    pub fn images_per_second(&self) -> Option<f64> {
        let mut rates: Vec<f64> = self.steps.iter().map(|step| step.images_per_s).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }

    /// Largest number of bytes of device memory; 0 without a step.
    pub fn gpu_bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.gpu_bytes).max().unwrap_or(0)
    }

    /// Seconds of all epochs.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|line| line.seconds).sum()
    }
}

/// Lists the keys in which runs differ, in the order of the configuration.
pub fn differences(runs: &[Run]) -> Vec<Difference> {
    let all: Vec<_> = runs.iter().map(|run| run.config.values()).collect();
    let Some(first) = all.first() else { return Vec::new() };
    let of_key = |(place, &(key, _)): (usize, &(&'static str, Option<String>))| {
        let values: Vec<Option<String>> = all.iter().map(|values| values[place].1.clone()).collect();
        values.windows(2).any(|pair| pair[0] != pair[1]).then_some(Difference { key, values })
    };
    first.iter().enumerate().filter_map(of_key).collect()
}
