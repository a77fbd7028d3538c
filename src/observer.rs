//! How long work reports to its caller: notes, images left out, progress, results as they come; and how it is stopped.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Follows long work. Methods that are not given do nothing; `()` follows without a word and never stops the work.
pub trait Observer: Sync {
    /// Receives something that the user should know.
    fn note(&self, _text: &str) {}

    /// Receives the reason why an image is left out.
    fn skipped(&self, _reason: &Error) {}

    /// Receives how many of all pieces of a stage are done; the main stage of a work has no name.
    fn progress(&self, _stage: &str, _done: usize, _total: usize) {}

    /// Returns the number of the signal that asks the work to stop, if one came.
    fn signal(&self) -> Option<u8> {
        None
    }

    /// Checks for a signal; `outcome` says what becomes of the work.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if one came.
    fn check(&self, outcome: &'static str) -> Result<()> {
        self.signal().map_or(Ok(()), |signal| Err(Error::Interrupted { signal, outcome }))
    }
}

impl Observer for () {}

/// An observer that also receives results while the work goes on, such as the lines of a training log.
pub trait Follower<E>: Observer {
    /// Receives a result.
    ///
    /// # Errors
    /// The error that the work is to end with.
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
    /// Begins a stage of `total` pieces; `outcome` says what becomes of the work when a signal stops it.
    pub fn new(
        observer: &'o dyn Observer,
        name: &'static str,
        total: usize,
        outcome: &'static str,
    ) -> Stage<'o> {
        Stage { observer, name, done: AtomicUsize::new(0), total, outcome }
    }

    /// Returns the observer that follows.
    pub fn observer(&self) -> &'o dyn Observer {
        self.observer
    }

    /// Reports that so many more pieces are done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a signal.
    pub fn advance(&self, pieces: usize) -> Result<()> {
        let done = self.done.fetch_add(pieces, Ordering::Relaxed) + pieces;
        self.observer.progress(self.name, done, self.total);
        self.observer.check(self.outcome)
    }
}
