//! Progress of long work on stderr, and signals that stop it.

use super::profile::Profiles;
use super::signals::Signals;
use crate::error::Error;
use crate::observer::Observer;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;

/// Prints notes, and shows a bar; hidden unless stderr is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    signals: Option<Signals>,
    /// Where a step of each stage of a run is profiled.
    pub profiles: Option<Mutex<Profiles>>,
}

impl Progress {
    /// Shows nothing before the first stage begins; without `signals` nothing stops the work.
    pub fn new(signals: Option<Signals>) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress { bar: ProgressBar::hidden(), signals, profiles: None };
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left {msg}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, signals, profiles: None }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Shows a place on the bar.
    pub fn show(&self, message: String, done: u64, total: u64) {
        if self.bar.is_finished() {
            self.bar.reset();
        }
        self.bar.set_message(message);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Observer for Progress {
    fn note(&self, text: &str) {
        self.say(&format!("note: {text}"));
    }

    fn skipped(&self, reason: &Error) {
        self.say(&format!("skipped {reason}"));
    }

    fn progress(&self, stage: &str, done: usize, total: usize) {
        self.show(stage.to_string(), done as u64, total as u64);
        if done == total && total > 0 {
            self.finish();
        }
    }

    fn signal(&self) -> Option<u8> {
        self.signals.as_ref().and_then(Signals::received)
    }
}
