//! What goes wrong on an adapter, which work it happens in, and rehearsals of it.

use super::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// After a failure that passed once, another within this time is final: the adapter doesn't bear the work.
pub const BETWEEN_FAILURES: Duration = Duration::from_secs(60);

/// What a driver reported, the gravest kind first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The device is gone; nothing works on it any more.
    Lost(String),
    /// There is no memory for a buffer.
    Memory(String),
    /// Whatever else.
    Other(String),
}

impl Fault {
    fn gravity(&self) -> u8 {
        match self {
            Fault::Lost(_) => 0,
            Fault::Memory(_) => 1,
            Fault::Other(_) => 2,
        }
    }

    fn error(&self) -> Error {
        match self.clone() {
            Fault::Lost(text) => Error::Lost(text),
            Fault::Memory(text) => Error::Memory(text),
            Fault::Other(text) => Error::Failed(text),
        }
    }
}

impl From<wgpu::Error> for Fault {
    fn from(error: wgpu::Error) -> Fault {
        let text = error.to_string();
        match error {
            wgpu::Error::OutOfMemory { .. } => Fault::Memory(text),
            // wgpu has no kind of its own for what is tried on a lost device before its callback was heard.
            _ if text.contains("device is lost") || text.contains("Device is lost") => Fault::Lost(text),
            _ => Fault::Other(text),
        }
    }
}

/// The faults of a device that no call has returned yet.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Puts faults that came from several threads in an order of their own.
    pub fn sort(&mut self) {
        self.0.sort_by_key(|fault| match fault {
            Fault::Lost(text) | Fault::Memory(text) | Fault::Other(text) => text.clone(),
        });
    }

    /// The first of the gravest kind; all are forgotten, but for the loss of the device.
    pub fn take(&mut self) -> Result<()> {
        let gravest = self.0.iter().min_by_key(|fault| fault.gravity()).map(Fault::error);
        self.0.retain(|fault| matches!(fault, Fault::Lost(_)));
        gravest.map_or(Ok(()), Err)
    }
}

/// Launches that were submitted together, and aren't known to be done.
#[derive(Debug)]
pub(super) struct Submitted {
    /// Counts submissions of a context.
    pub number: u64,
    pub index: wgpu::SubmissionIndex,
    /// Places in the plan, from 1, and how many it has.
    pub first: (usize, String),
    pub last: (usize, String),
    pub of: usize,
}

impl std::fmt::Display for Submitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Submitted { first: (from, first), last: (to, last), of, .. } = self;
        write!(f, "launches {from} to {to} of {of}, {first} to {last}")
    }
}

/// Submissions that may be running, oldest first.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub submitted: VecDeque<Submitted>,
    pub count: u64,
}

impl Running {
    /// Submissions that are remembered though nobody waits for any.
    const MOST: usize = 64;

    pub fn push(
        &mut self,
        index: wgpu::SubmissionIndex,
        first: (usize, String),
        last: (usize, String),
        of: usize,
    ) {
        self.count += 1;
        self.submitted.push_back(Submitted { number: self.count, index, first, last, of });
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

/// Launches and buffers of this process that rehearsals have counted: a device that is opened anew goes on counting.
static LAUNCHES: AtomicU64 = AtomicU64::new(0);
static BUFFERS: AtomicU64 = AtomicU64::new(0);

/// Failures at appointed times, to see what becomes of the work: `lose@N` loses the device before the N-th launch of this
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

    /// Whether the launches so far hang.
    pub fn hangs(&self) -> bool {
        let launches = LAUNCHES.load(Ordering::Relaxed);
        self.hang.iter().any(|&at| at <= launches)
    }

    /// Whether the next buffer is refused.
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
        faults.push(Fault::Other("one".into()));
        faults.push(Fault::Memory("two".into()));
        faults.push(Fault::Memory("three".into()));
        assert_eq!(faults.take(), Err(Error::Memory("two".into())));
        assert_eq!(faults.take(), Ok(()));
        faults.push(Fault::Lost("four".into()));
        faults.push(Fault::Other("five".into()));
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
