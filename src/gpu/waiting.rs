//! Submits, and waits for them.

use super::context::Context;
use super::error::{Error, Result};
use super::faults::Rehearsal;
use super::locked;
use super::panics::catch_panic;
use super::submission::Submissions;
use std::ops::Range;
use std::time::Duration;

impl Context {
    /// Returns the most severe error that the driver has reported since the last call. A lost device is reported by
    /// every call.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Memory`] or [`Error::Failed`].
    pub fn check(&self) -> Result<()> {
        locked(&self.submissions.faults).take()
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// Those that the driver reported; [`Error::Failed`] with the dispatches that hang if it doesn't answer.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None, u64::MAX)
    }

    /// Waits for the submission `index`, or for all with `None`. Forgets submissions up to `number`.
    pub(super) fn wait_for(&self, index: Option<wgpu::SubmissionIndex>, number: u64) -> Result<()> {
        self.check()?;
        let Submissions { running, patience, .. } = &self.submissions;
        if !self.answers(index, *patience)? {
            let mut text = format!("no answer within {} s", patience.as_secs());
            // Find the first submission that isn't done.
            for submitted in &locked(running).submitted {
                if !self.answers(Some(submitted.index.clone()), Duration::ZERO)? {
                    text += &format!("; it hangs in {}", submitted.dispatches);
                    break;
                }
            }
            return Err(Error::Failed(text));
        }
        locked(running).done(number);
        self.check()
    }

    /// Polls the device without waiting, so that callbacks of readbacks run.
    pub fn poll(&self) {
        // Whoever waits for the work receives the error.
        let _ = catch_panic(|| self.device.poll(wgpu::PollType::Poll));
    }

    /// Returns true if a submission, or all with `None`, are done within a time.
    fn answers(&self, submission_index: Option<wgpu::SubmissionIndex>, within: Duration) -> Result<bool> {
        if self.rehearsal.as_ref().is_some_and(Rehearsal::hangs) {
            std::thread::sleep(within);
            return Ok(false);
        }
        let wait = wgpu::PollType::Wait { submission_index, timeout: Some(within) };
        match catch_panic(|| self.device.poll(wait)) {
            Some(Ok(_)) => Ok(true),
            Some(Err(wgpu::PollError::Timeout)) => Ok(false),
            Some(Err(error)) => Err(Error::Failed(error.to_string())),
            // wgpu panics if the device is lost during the wait, or if the driver has no memory for the wait.
            None => self.check().and(Err(Error::Lost("waiting for it failed".into()))),
        }
    }

    /// Submits a range of a plan's `of` dispatches. `label` returns the label of each, for messages.
    pub(super) fn submit(
        &self,
        range: Range<usize>,
        of: usize,
        label: impl Fn(usize) -> String,
        encode: impl Fn(&mut wgpu::CommandEncoder, Range<usize>),
    ) {
        let rehearsal = self.rehearsal.as_ref();
        let before_loss = rehearsal.and_then(|rehearsal| rehearsal.dispatches_before_loss(range.len()));
        let (first, end) = (range.start, before_loss.map_or(range.end, |count| range.start + count));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encode(&mut encoder, first..end);
        let index = self.queue.submit([encoder.finish()]);
        let last = end.max(first + 1);
        let names = (label(first), label(last - 1));
        let dispatches = format!("dispatches {} to {last} of {of}, {} to {}", first + 1, names.0, names.1);
        locked(&self.submissions.running).push(index, dispatches);
        if before_loss.is_some() {
            locked(&self.submissions.faults).push(Error::Lost("as rehearsed".into()));
            self.device.destroy();
        }
    }
}
