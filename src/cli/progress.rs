//! Shows progress on stderr, and passes on signals.

use super::open;
use super::profile::Profiles;
use super::signals::Signals;
use super::{QUIET, VERBOSE};
use crate::error::Error;
use crate::observer::Observer;
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time before the bar estimates the rest.
const WARM_UP: Duration = Duration::from_secs(3);

/// Prints notes, and shows a progress bar if stderr is a terminal.
pub struct Progress {
    bar: ProgressBar,
    signals: Option<Signals>,
    /// Collects the profiles of a run's stages.
    pub(super) profiles: Option<Mutex<Profiles>>,
}

impl Progress {
    /// Makes a bar for work that something else can stop.
    pub fn bar() -> Progress {
        Progress::new(None)
    }

    /// Makes a bar that is hidden until the first stage begins. Without `signals` nothing stops the work.
    pub(super) fn new(signals: Option<Signals>) -> Progress {
        if QUIET.load(Ordering::Relaxed) || !std::io::stderr().is_terminal() {
            return Progress { bar: ProgressBar::hidden(), signals, profiles: None };
        }
        let style = ProgressStyle::with_template("{msg:16} {bar:30} {count} {rate}{left}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("count", |state: &ProgressState, text: &mut dyn Write| {
            let _ = match state.len() {
                Some(total) => write!(text, "{}/{total}", state.pos()),
                None => write!(text, "{}", state.pos()),
            };
        });
        let style = style.with_key("rate", |state: &ProgressState, text: &mut dyn Write| {
            let _ = write!(text, "{:.1}/s", state.per_sec());
        });
        // The first pieces load and compile; an estimate from them is wrong.
        let style = style.with_key("left", |state: &ProgressState, text: &mut dyn Write| {
            if state.elapsed() >= WARM_UP && state.pos() > 0 && state.len().is_some() {
                let _ = write!(text, ", {} left", HumanDuration(state.eta()));
            }
        });
        Progress { bar: ProgressBar::new(0).with_style(style), signals, profiles: None }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Updates the bar. A total of 0 isn't known.
    pub fn show(&self, message: String, done: u64, total: u64) {
        if self.bar.is_finished() {
            self.bar.reset();
        }
        self.bar.set_message(message);
        if total > 0 {
            self.bar.set_length(total);
        } else {
            self.bar.unset_length();
        }
        self.bar.set_position(done);
    }
}

impl Observer for Progress {
    fn note(&self, text: &str) {
        self.say(&format!("note: {text}"));
    }

    fn note_once(&self, text: &str) {
        if open::is_new(text) {
            self.note(text);
        }
    }

    fn detail(&self, text: &str) {
        if VERBOSE.load(Ordering::Relaxed) {
            self.say(text);
        }
    }

    fn skipped(&self, reason: &Error) {
        self.say(&format!("skipped {reason}"));
    }

    fn progress(&self, stage: &str, done: usize, total: usize) {
        // The rate and the remaining time of a new stage start from zero.
        if self.bar.length().unwrap_or(0) != total as u64 {
            self.bar.reset();
        }
        let label = if stage.is_empty() { "progress" } else { stage };
        self.show(label.to_string(), done as u64, total as u64);
        if done == total && total > 0 {
            self.finish();
        }
    }

    fn signal(&self) -> Option<u8> {
        self.signals.as_ref().and_then(Signals::received)
    }
}
