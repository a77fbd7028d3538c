//! Submissions: launches that the adapter works on, and the faults that its driver reports meanwhile.

use super::error::Error;
use super::faults::{Faults, fault};
use super::locked;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Launches that were submitted together, and aren't known to be done.
pub(super) struct Submitted {
    /// Counts submissions of a context.
    number: u64,
    pub index: wgpu::SubmissionIndex,
    /// Their places in the plan, and their labels.
    pub launches: String,
}

/// Submissions that may be running, oldest first.
#[derive(Default)]
pub(super) struct Running {
    pub submitted: VecDeque<Submitted>,
    count: u64,
}

impl Running {
    /// Submissions that are remembered though no call waits for any.
    const MOST: usize = 64;

    pub fn push(&mut self, index: wgpu::SubmissionIndex, launches: String) {
        self.count += 1;
        self.submitted.push_back(Submitted { number: self.count, index, launches });
        if self.submitted.len() > Self::MOST {
            self.submitted.pop_front();
        }
    }

    /// Forgets all up to a number.
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
