//! SIGINT and SIGTERM as a flag that long commands ask between steps.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Remembers the last signal; a second SIGINT ends the process at once.
#[derive(Debug, Clone)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// From now on signals are remembered instead of ending the process.
    pub fn listen() -> Result<Signals> {
        let received = Arc::new(AtomicUsize::new(0));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let number = signal as usize;
            signal_hook::flag::register_usize(signal, received.clone(), number)
                .map_err(Error::io("listen to", "signals"))?;
        }
        Ok(Signals(received))
    }

    /// The number of the signal that came, if one did.
    pub fn received(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as u8),
        }
    }
}
