//! Work that goes on after an adapter was lost or found no memory.

use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::observer::Observer;
use std::time::{Duration, Instant};

/// After a failure that passed once, another within this time is final: the adapter doesn't bear the work.
const BETWEEN_FAILURES: Duration = Duration::from_secs(60);

/// Opens an adapter and works on it. If the adapter is lost or finds no memory, opens it anew for the rest: `saved` brings the
/// state back to where the work goes on, and returns how far that is. `goes_on` is the end of the note that says so.
///
/// # Errors
/// Those of the adapter, `work` and `saved`; the adapter's failure where another came within a minute, or before anything was
/// saved since.
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
            context.adapter.notes().iter().for_each(|note| observer.note(note));
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
        observer.note(&format!("{error}; the adapter is opened anew{goes_on}"));
    }
}

/// The adapter's last failure: when, and how much was saved then.
#[derive(Default)]
struct Failures(Option<(Instant, u64)>);

impl Failures {
    /// Returns whether one more ends the work: it comes within a minute, or the adapter didn't last from one save to the next,
    /// and might do so for ever.
    fn are_too_many(&mut self, at: Instant, saved: u64) -> bool {
        let last = self.0.replace((at, saved));
        last.is_some_and(|(before, then)| at.duration_since(before) < BETWEEN_FAILURES || saved == then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_that_never_lasts_to_the_next_save_ends_the_work() {
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
