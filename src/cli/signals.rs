//! Records SIGINT and SIGTERM. Long commands check them between steps.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The last signal received. A second SIGINT exits at once.
#[derive(Debug, Clone)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Starts to record signals instead of exiting on them.
    ///
    /// # Errors
    /// [`Error::Io`] if the handlers cannot be installed.
    pub fn listen() -> Result<Signals> {
        let failed = Error::io("listen to", "signals");
        let interrupted = Arc::new(AtomicBool::new(false));
        // The order matters: the first SIGINT sets the flag after the check, so only the second one exits.
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

    /// Returns the number of the last signal, if any.
    pub fn received(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as u8),
        }
    }
}
