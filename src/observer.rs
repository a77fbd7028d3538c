//! Observers of long work: they receive notes, skipped images, progress and results, and can stop the work.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Observes long work. The default methods do nothing; `()` ignores everything and never stops the work.
pub trait Observer: Sync {
    /// Receives a note for the user.
    fn note(&self, _text: &str) {}

    /// Receives a note that may repeat and is to be shown once, such as one on the adapter.
    fn note_once(&self, text: &str) {
        self.note(text);
    }

    /// Receives a detail, such as dispatches and memory.
    fn detail(&self, _text: &str) {}

    /// Receives the reason for skipping an image.
    fn skipped(&self, _reason: &Error) {}

    /// Receives the progress of a stage, in pieces. The main stage has an empty name.
    fn progress(&self, _stage: &str, _done: usize, _total: usize) {}

    /// Returns the number of the signal that asks the work to stop, if there was one.
    fn signal(&self) -> Option<u8> {
        None
    }

    /// Checks for a signal; `outcome` describes the result of stopping.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a signal.
    fn check(&self, outcome: &'static str) -> Result<()> {
        self.signal().map_or(Ok(()), |signal| Err(Error::Interrupted { signal, outcome }))
    }
}

impl Observer for () {}

/// An observer that also receives results during the work, such as the lines of a training log.
pub trait Follower<E>: Observer {
    /// Receives a result.
    ///
    /// # Errors
    /// An error ends the work.
    fn event(&self, event: E) -> Result<()>;
}

impl<E> Follower<E> for () {
    fn event(&self, _: E) -> Result<()> {
        Ok(())
    }
}

/// Counts the pieces of a stage that are done.
pub struct Stage<'o> {
    observer: &'o dyn Observer,
    name: &'static str,
    done: AtomicUsize,
    total: usize,
    outcome: &'static str,
}

impl<'o> Stage<'o> {
    /// Begins a stage of `total` pieces; `outcome` describes the result if a signal stops it.
    pub fn new(
        observer: &'o dyn Observer,
        name: &'static str,
        total: usize,
        outcome: &'static str,
    ) -> Stage<'o> {
        Stage { observer, name, done: AtomicUsize::new(0), total, outcome }
    }

    /// Returns the observer.
    pub fn observer(&self) -> &'o dyn Observer {
        self.observer
    }

    /// Reports `pieces` more pieces as done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a signal.
    pub fn advance(&self, pieces: usize) -> Result<()> {
        let done = self.done.fetch_add(pieces, Ordering::Relaxed) + pieces;
        self.observer.progress(self.name, done, self.total);
        self.observer.check(self.outcome)
    }
}
