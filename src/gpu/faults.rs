//! Faults that a driver reports, and rehearsals of them.

use super::error::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// The failure that a driver reports.
pub(super) fn fault(error: wgpu::Error) -> Error {
    let text = error.to_string();
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::Memory(text),
        // wgpu has no kind of its own for what is tried on a lost device before its callback was heard.
        _ if text.contains("device is lost") || text.contains("Device is lost") => Error::Lost(text),
        _ => Error::Failed(text),
    }
}

/// The faults of a device that no call has returned yet.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Error>);

impl Faults {
    pub fn push(&mut self, fault: Error) {
        self.0.push(fault);
    }

    /// Puts faults that came from several threads in an order of their own.
    pub fn sort(&mut self) {
        self.0.sort_by_key(Error::to_string);
    }

    /// The first of the gravest kind; all are forgotten, but for the loss of the device.
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

/// Launches and buffers of this process that rehearsals have counted: a device that is opened anew goes on counting.
static LAUNCHES: AtomicU64 = AtomicU64::new(0);
static BUFFERS: AtomicU64 = AtomicU64::new(0);

/// Failures at given places, to test that work survives them: `lose@N` loses the device before the N-th launch of this
/// process, `refuse@N` refuses the N-th buffer for want of memory, `hang@N` never answers from the N-th launch on. Several are
/// joined by commas; N counts from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rehearsal {
    lose: Vec<u64>,
    refuse: Vec<u64>,
    hang: Vec<u64>,
}

impl Rehearsal {
    /// Reads `lose@120,refuse@7`.
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
                        "LAT_REHEARSE={text}: `{part}` is none of lose@N, refuse@N and hang@N"
                    )));
                }
            }
        }
        Ok(rehearsal)
    }

    /// Of the next `count` launches, how many come before the device is lost; `None` if all do.
    pub fn launches_before_loss(&self, count: usize) -> Option<usize> {
        let start = LAUNCHES.load(Ordering::Relaxed);
        let before = |at: &u64| at.checked_sub(start + 1).map(|before| before as usize);
        let loss = self.lose.iter().filter_map(before).filter(|&before| before < count).min();
        let tried = loss.map_or(count, |before| before + 1);
        LAUNCHES.fetch_add(tried as u64, Ordering::Relaxed);
        loss
    }

    /// Returns true if the launches so far hang.
    pub fn hangs(&self) -> bool {
        let launches = LAUNCHES.load(Ordering::Relaxed);
        self.hang.iter().any(|&at| at <= launches)
    }

    /// Returns true if the next buffer is refused.
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
