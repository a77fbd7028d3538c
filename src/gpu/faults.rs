//! Faults that a driver reports, and rehearsals that inject such faults.

use super::error::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Converts wgpu's error.
pub(super) fn fault(error: wgpu::Error) -> Error {
    let text = error.to_string();
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::Memory(text),
        // wgpu has no variant for calls on a lost device before the callback has run.
        _ if text.contains("device is lost") || text.contains("Device is lost") => Error::Lost(text),
        _ => Error::Failed(text),
    }
}

/// The faults of a device that no call has returned to its caller yet.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Error>);

impl Faults {
    pub fn push(&mut self, fault: Error) {
        self.0.push(fault);
    }

    /// Sorts faults that several threads reported, so that the result doesn't depend on their timing.
    pub fn sort(&mut self) {
        self.0.sort_by_key(Error::to_string);
    }

    /// Returns the first fault of the most severe kind, and forgets all faults except for the loss of the device.
    ///
    /// # Errors
    /// That fault.
    pub fn take(&mut self) -> Result<()> {
        let gravity = |fault: &&Error| match fault {
            Error::Lost(_) => 0,
            Error::Memory(_) => 1,
            _ => 2,
        };
        let gravest = self.0.iter().min_by_key(gravity).cloned();
        self.0.retain(|fault| matches!(fault, Error::Lost(_)));
        gravest.map_or(Ok(()), Err)
    }
}

/// Dispatches and buffers of this process that rehearsals have counted, over all devices that it opens.
static DISPATCHES: AtomicU64 = AtomicU64::new(0);
static BUFFERS: AtomicU64 = AtomicU64::new(0);

/// Faults to inject, for tests of recovery, separated by commas. N counts from 1 over the whole process:
///
/// - `lose@N` loses the device before the Nth dispatch.
/// - `refuse@N` reports that there is no memory for the Nth buffer.
/// - `hang@N` never answers from the Nth dispatch on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rehearsal {
    lose: Vec<u64>,
    refuse: Vec<u64>,
    hang: Vec<u64>,
}

impl Rehearsal {
    /// Parses text such as `lose@120,refuse@7`.
    ///
    /// # Errors
    /// [`Error::Rehearsal`] for anything else.
    pub fn parse(text: &str) -> Result<Rehearsal> {
        let mut rehearsal = Rehearsal::default();
        for part in text.split(',') {
            let (what, at) = part.split_once('@').unwrap_or((part, ""));
            let list = match what {
                "lose" => Some(&mut rehearsal.lose),
                "refuse" => Some(&mut rehearsal.refuse),
                "hang" => Some(&mut rehearsal.hang),
                _ => None,
            };
            match (list, at.parse()) {
                (Some(list), Ok(at)) if at > 0 => list.push(at),
                _ => {
                    return Err(Error::Rehearsal(format!(
                        "LAT_REHEARSE={text}: `{part}` is not lose@N, refuse@N or hang@N"
                    )));
                }
            }
        }
        Ok(rehearsal)
    }

    /// Counts the next `count` dispatches. Returns how many of them come before the loss of the device; `None` if it
    /// isn't lost.
    pub fn dispatches_before_loss(&self, count: usize) -> Option<usize> {
        let start = DISPATCHES.load(Ordering::Relaxed);
        let before = |at: &u64| at.checked_sub(start + 1).map(|before| before as usize);
        let loss = self.lose.iter().filter_map(before).filter(|&before| before < count).min();
        let tried = loss.map_or(count, |before| before + 1);
        DISPATCHES.fetch_add(tried as u64, Ordering::Relaxed);
        loss
    }

    /// Returns true if a dispatch so far hangs.
    pub fn hangs(&self) -> bool {
        let dispatches = DISPATCHES.load(Ordering::Relaxed);
        self.hang.iter().any(|&at| at <= dispatches)
    }

    /// Counts the next buffer and returns true if it is refused.
    pub fn refuses(&self) -> bool {
        let number = BUFFERS.fetch_add(1, Ordering::Relaxed) + 1;
        self.refuse.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_fault_is_returned_and_a_loss_stays() {
        let mut faults = Faults::default();
        assert!(faults.take().is_ok());
        faults.push(Error::Failed("one".into()));
        faults.push(Error::Memory("two".into()));
        faults.push(Error::Memory("three".into()));
        assert_eq!(faults.take(), Err(Error::Memory("two".into())));
        assert_eq!(faults.take(), Ok(()));
        faults.push(Error::Lost("four".into()));
        faults.push(Error::Failed("five".into()));
        for _ in 0..2 {
            assert_eq!(faults.take(), Err(Error::Lost("four".into())));
        }
    }

    #[test]
    fn rehearsals_are_read_and_nonsense_refused() {
        let wanted = Rehearsal { lose: vec![120, 3], refuse: vec![7], hang: vec![] };
        assert_eq!(Rehearsal::parse("lose@120,refuse@7,lose@3").ok(), Some(wanted));
        for wrong in ["", "lose", "lose@", "lose@0", "lose@-1", "win@3", "lose@3,", "lose@3 "] {
            assert!(matches!(Rehearsal::parse(wrong), Err(Error::Rehearsal(_))), "{wrong:?}");
        }
    }
}
