//! SIGINT and SIGTERM as a flag that long commands ask between steps.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Remembers the last signal; a second SIGINT ends the process at once.
#[derive(Debug, Clone)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// From now on signals are remembered instead of ending the process.
    pub fn listen() -> Result<Signals> {
        let failed = Error::io("listen to", "signals");
        let interrupted = Arc::new(AtomicBool::new(false));
        // In this order: the first SIGINT only sets the flag that lets the second one end the process.
        signal_hook::flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, interrupted.clone())
            .and_then(|_| signal_hook::flag::register(SIGINT, interrupted))
            .map_err(failed)?;
        let received = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM] {
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
