//! Continues work after an adapter was lost or had no memory.

use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::observer::Observer;
use std::time::{Duration, Instant};

/// A second failure within this time is final.
const BETWEEN_FAILURES: Duration = Duration::from_secs(60);

/// Opens an adapter and runs `work` on it. If the adapter is lost or has no memory, opens it again and continues:
/// `saved` restores the last saved state and returns its position. `goes_on` is the end of the note about that.
///
/// # Errors
/// Those of the adapter, `work` and `saved`; the adapter's failure if another one came within a minute, or if nothing
/// was saved since then.
pub fn retry<S, T>(
    options: &ContextOptions,
    observer: &dyn Observer,
    goes_on: &str,
    state: &mut S,
    mut work: impl FnMut(&mut S, &Context) -> Result<T>,
    mut saved: impl FnMut(&mut S, &Error) -> Result<u64>,
) -> Result<T> {
    let mut failures = Failures::default();
    loop {
        let done = Context::open(options).map_err(Error::from).and_then(|context| {
            context.adapter.notes().iter().for_each(|note| observer.note_once(note));
            work(state, &context)
        });
        let error = match done {
            Err(error) if error.may_pass() => error,
            done => return done,
        };
        let saved = saved(state, &error)?;
        if failures.are_too_many(Instant::now(), saved) {
            return Err(error);
        }
        observer.note(&format!("{error}; the adapter is opened again{goes_on}"));
    }
}

/// Time of the adapter's last failure, and the position that was saved then.
#[derive(Default)]
struct Failures(Option<(Instant, u64)>);

impl Failures {
    /// Returns whether another failure ends the work: within a minute, or without progress since the last one, which
    /// could repeat without limit.
    fn are_too_many(&mut self, at: Instant, saved: u64) -> bool {
        let last = self.0.replace((at, saved));
        last.is_some_and(|(before, then)| at.duration_since(before) < BETWEEN_FAILURES || saved == then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_without_progress_end_the_work() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut failures = Failures::default();
        assert!(!failures.are_too_many(at(0), 0));
        assert!(!failures.are_too_many(at(90), 7));
        assert!(!failures.are_too_many(at(180), 8));
        assert!(failures.are_too_many(at(270), 8), "nothing was saved since");
        assert!(failures.are_too_many(at(280), 9), "a second one within a minute");
    }
}
