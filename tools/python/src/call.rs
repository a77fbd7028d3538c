//! A call from Python while a thread works for it: it waits without the interpreter's lock, handles signals, and passes
//! on notes and epochs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lat_wgpu::cli::Progress;
use lat_wgpu::error::{Error, Result};
use lat_wgpu::observer::{Follower, Observer};
use lat_wgpu::storage::json;
use lat_wgpu::train::trainer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::{raised, words};

/// Interval at which a waiting call checks for signals.
const LISTEN_EVERY: Duration = Duration::from_millis(50);

/// Levels of Python's `logging`.
const DEBUG: u8 = 10;
const INFO: u8 = 20;
const WARNING: u8 = 30;

/// An event of the work.
enum Event {
    /// A message for the log, with its level.
    Message(u8, String),
    /// A line of an epoch as JSON. The work continues when the sender is dropped.
    Epoch(String, Sender<()>),
}

/// Observes the work on the thread that does it.
pub struct Listener {
    /// Set when the call asks the work to stop.
    stop: Arc<AtomicBool>,
    events: Sender<Event>,
    bar: Option<Progress>,
    /// True if the call wants epochs.
    wants_epochs: bool,
}

impl Listener {
    fn send(&self, level: u8, text: &str) {
        // The call may be gone.
        let _ = self.events.send(Event::Message(level, text.to_string()));
    }

    /// Passes on a warning.
    pub fn warn(&self, text: &str) {
        self.send(WARNING, text);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

impl Observer for Listener {
    fn note(&self, text: &str) {
        self.send(INFO, text);
    }

    fn detail(&self, text: &str) {
        self.send(DEBUG, text);
    }

    fn skipped(&self, reason: &Error) {
        self.warn(&format!("skipped {}", words(reason)));
    }

    fn progress(&self, stage: &str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.progress(stage, done, total);
        }
    }

    fn signal(&self) -> Option<u8> {
        self.stop.load(Ordering::Relaxed).then_some(2)
    }
}

impl Follower<trainer::Event> for Listener {
    fn event(&self, event: trainer::Event) -> Result<()> {
        if let (trainer::Event::Epoch(line), true) = (&event, self.wants_epochs) {
            let (sender, handled) = mpsc::channel();
            let _ = self.events.send(Event::Epoch(json::text(&line.json()), sender));
            // Fails when the call has handled it.
            let _ = handled.recv();
        }
        self.bar.as_ref().map_or(Ok(()), |bar| bar.event(event))
    }
}

/// The waiting side of a call.
pub struct Call<'py> {
    py: Python<'py>,
    stop: Arc<AtomicBool>,
    /// The mutex, never contended, allows the reference without the interpreter's lock.
    events: Mutex<Receiver<Event>>,
    on_epoch: Option<Bound<'py, PyAny>>,
    /// The exception that asked the work to stop.
    failed: Option<PyErr>,
}

impl<'py> Call<'py> {
    /// Makes both sides of a call. `progress` shows a bar on stderr if that is a terminal.
    pub fn new(py: Python<'py>, progress: bool, on_epoch: Option<Bound<'py, PyAny>>) -> (Self, Listener) {
        let stop = Arc::new(AtomicBool::new(false));
        let (events, received) = mpsc::channel();
        let wants_epochs = on_epoch.is_some();
        let listener =
            Listener { stop: stop.clone(), events, bar: progress.then(Progress::bar), wants_epochs };
        (Call { py, stop, events: Mutex::new(received), on_epoch, failed: None }, listener)
    }

    /// Asks the work to stop; the call then raises the exception.
    pub fn fail(&mut self, error: PyErr) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.get_or_insert(error);
    }

    /// Returns whether the work was asked to stop.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Handles signals, and an event if there is one within the time. Returns false when the work has ended.
    ///
    /// # Errors
    /// A signal that came after the work was asked to stop: the call doesn't wait for its end.
    pub fn listen(&mut self, wait: Duration) -> PyResult<bool> {
        let events = &self.events;
        let event = self.py.detach(|| match events.lock() {
            Ok(events) => events.recv_timeout(wait),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        });
        match event {
            Ok(Event::Message(level, text)) => {
                let logger = self.py.import("logging")?.call_method1("getLogger", ("lat_wgpu",))?;
                if let Err(error) = logger.call_method1("log", (level, "%s", text)) {
                    self.fail(error);
                }
            }
            Ok(Event::Epoch(line, _handled)) => {
                if let Err(error) = self.take_epoch(&line) {
                    self.fail(error);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
        if let Err(signal) = self.py.check_signals() {
            if self.has_failed() {
                return Err(signal);
            }
            self.fail(signal);
        }
        Ok(true)
    }

    fn take_epoch(&self, line: &str) -> PyResult<()> {
        if let (Some(on_epoch), false) = (&self.on_epoch, self.has_failed()) {
            on_epoch.call1((parsed(self.py, line)?,))?;
        }
        Ok(())
    }

    /// Waits for the end of the work and returns its result.
    pub fn finish<T>(mut self, result: &Receiver<Result<T>>) -> PyResult<T> {
        while self.listen(LISTEN_EVERY)? {}
        if let Some(error) = self.failed {
            return Err(error);
        }
        // A thread that fails may send its error after the listener is gone.
        match result.recv() {
            Ok(result) => result.map_err(|error| raised(self.py, &error)),
            Err(_) => {
                Err(PyRuntimeError::new_err("the engine stopped by an internal error, printed on stderr"))
            }
        }
    }
}

/// Reads JSON as Python's values.
pub fn parsed<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (text,))
}
