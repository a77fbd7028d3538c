//! Submissions: launches that the adapter works on, waits for them, and the faults that its driver reports meanwhile.

use super::context::Context;
use super::error::{Error, Result};
use super::faults::{Faults, Rehearsal, fault};
use super::guard::guarded;
use super::locked;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Launches that were submitted together, and aren't known to be done.
struct Submitted {
    /// Counts submissions of a context.
    number: u64,
    index: wgpu::SubmissionIndex,
    /// Their places in the plan, and their labels.
    launches: String,
}

/// Submissions that may be running, oldest first.
#[derive(Default)]
struct Running {
    submitted: VecDeque<Submitted>,
    count: u64,
}

impl Running {
    /// Submissions that are remembered though no call waits for any.
    const MOST: usize = 64;

    fn push(&mut self, index: wgpu::SubmissionIndex, launches: String) {
        self.count += 1;
        self.submitted.push_back(Submitted { number: self.count, index, launches });
        if self.submitted.len() > Self::MOST {
            self.submitted.pop_front();
        }
    }

    /// Forgets all up to a number.
    fn done(&mut self, number: u64) {
        while self.submitted.front().is_some_and(|first| first.number <= number) {
            self.submitted.pop_front();
        }
    }
}

/// The submissions of a context.
pub(super) struct Submissions {
    faults: Arc<Mutex<Faults>>,
    running: Mutex<Running>,
    /// Time without an answer after which the adapter counts as hung.
    patience: Duration,
}

impl Submissions {
    /// Listens to what the driver reports of a device.
    pub fn new(device: &wgpu::Device, patience: Duration) -> Submissions {
        let faults: Arc<Mutex<Faults>> = Arc::default();
        let record = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            locked(&record).push(fault(error));
        }));
        let record = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device on purpose isn't a fault.
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                locked(&record).push(Error::Lost(message));
            }
        });
        Submissions { faults, running: Mutex::default(), patience }
    }

    /// Number of submissions so far: what a later wait may be for.
    pub fn count(&self) -> u64 {
        locked(&self.running).count
    }

    /// Puts faults that came from several threads in an order of their own.
    pub fn sort_faults(&self) {
        locked(&self.faults).sort();
    }
}

impl Context {
    /// The gravest error that the driver reported since the last call, if any. A device that is lost stays so.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Memory`] or [`Error::Failed`].
    pub fn check(&self) -> Result<()> {
        locked(&self.submissions.faults).take()
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// What the driver reported; [`Error::Failed`] with the launches in question if it doesn't answer.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None, u64::MAX)
    }

    /// Waits for a submission, or for all, and for those numbered before it.
    pub(super) fn wait_for(&self, index: Option<wgpu::SubmissionIndex>, number: u64) -> Result<()> {
        self.check()?;
        let Submissions { running, patience, .. } = &self.submissions;
        if !self.answers(index, *patience)? {
            let mut text = format!("no answer within {} s", patience.as_secs());
            // The first that isn't done, by another look at each.
            for submitted in &locked(running).submitted {
                if !self.answers(Some(submitted.index.clone()), Duration::ZERO)? {
                    text += &format!("; it hangs in {}", submitted.launches);
                    break;
                }
            }
            return Err(Error::Failed(text));
        }
        locked(running).done(number);
        self.check()
    }

    /// Notices work that is done, without waiting: readbacks learn that their words have come.
    pub fn look(&self) {
        // A failure is returned to the caller that waits for the work.
        let _ = guarded(|| self.device.poll(wgpu::PollType::Poll));
    }

    /// Returns true if a submission, or all, are done within a time.
    fn answers(&self, submission_index: Option<wgpu::SubmissionIndex>, within: Duration) -> Result<bool> {
        if self.rehearsal.as_ref().is_some_and(Rehearsal::hangs) {
            std::thread::sleep(within);
            return Ok(false);
        }
        let wait = wgpu::PollType::Wait { submission_index, timeout: Some(within) };
        match guarded(|| self.device.poll(wait)) {
            Some(Ok(_)) => Ok(true),
            Some(Err(wgpu::PollError::Timeout)) => Ok(false),
            Some(Err(error)) => Err(Error::Failed(error.to_string())),
            // wgpu panics if the device is lost meanwhile, or the driver finds no memory for the wait itself.
            None => self.check().and(Err(Error::Lost("waiting for it failed".into()))),
        }
    }

    /// Submits a range of a plan's `of` launches; `label` names each in messages.
    pub(super) fn submit(
        &self,
        range: Range<usize>,
        of: usize,
        label: impl Fn(usize) -> String,
        encode: impl Fn(&mut wgpu::CommandEncoder, Range<usize>),
    ) {
        let rehearsal = self.rehearsal.as_ref();
        let before_loss = rehearsal.and_then(|rehearsal| rehearsal.launches_before_loss(range.len()));
        let (first, end) = (range.start, before_loss.map_or(range.end, |count| range.start + count));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encode(&mut encoder, first..end);
        let index = self.queue.submit([encoder.finish()]);
        let last = end.max(first + 1);
        let names = (label(first), label(last - 1));
        let launches = format!("launches {} to {last} of {of}, {} to {}", first + 1, names.0, names.1);
        locked(&self.submissions.running).push(index, launches);
        if before_loss.is_some() {
            locked(&self.submissions.faults).push(Error::Lost("as rehearsed".into()));
            self.device.destroy();
        }
    }
}
