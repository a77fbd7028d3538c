//! Submissions in flight, and the faults that the driver reports.

use super::error::Error;
use super::faults::{Faults, fault};
use super::locked;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A submission that isn't known to be done.
pub(super) struct Submitted {
    /// Number of the submission in its context, from 1.
    number: u64,
    pub index: wgpu::SubmissionIndex,
    /// Numbers and labels of its dispatches, for messages.
    pub dispatches: String,
}

/// Submissions in flight, oldest first.
#[derive(Default)]
pub(super) struct Running {
    pub submitted: VecDeque<Submitted>,
    count: u64,
}

impl Running {
    /// Most submissions to remember.
    const MOST: usize = 64;

    pub fn push(&mut self, index: wgpu::SubmissionIndex, dispatches: String) {
        self.count += 1;
        self.submitted.push_back(Submitted { number: self.count, index, dispatches });
        if self.submitted.len() > Self::MOST {
            self.submitted.pop_front();
        }
    }

    /// Forgets submissions up to a number.
    pub fn done(&mut self, number: u64) {
        while self.submitted.front().is_some_and(|first| first.number <= number) {
            self.submitted.pop_front();
        }
    }
}

/// The submissions of a context.
pub(super) struct Submissions {
    pub faults: Arc<Mutex<Faults>>,
    pub running: Mutex<Running>,
    /// Time without an answer after which the adapter counts as hung.
    pub patience: Duration,
}

impl Submissions {
    /// Registers callbacks for the errors and the loss of a device.
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

    /// Returns the number of submissions so far.
    pub fn count(&self) -> u64 {
        locked(&self.running).count
    }

    /// Sorts faults that several threads reported, so that the result doesn't depend on their timing.
    pub fn sort_faults(&self) {
        locked(&self.faults).sort();
    }
}
