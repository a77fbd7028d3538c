//! Readback: words of a buffer brought to the host while the adapter goes on.

use super::WORD;
use super::buffer::Buffer;
use super::context::Context;
use super::error::{Error, Result};
use super::locked;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a callback may be on its way after the work that it waits for is done.
const CALLBACK_PATIENCE: Duration = Duration::from_secs(10);

impl Context {
    /// Reads a whole buffer back, after all submitted work.
    pub fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut readback = Readback::new(self, buffer.words)?;
        readback.start(self, buffer, buffer.words);
        readback.finish(self)
    }

    /// Reads a buffer and the guard words behind it back, after all submitted work.
    pub fn read_guarded(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        self.read(&Buffer { words: buffer.bound, ..buffer.clone() })
    }
}

/// The outcome of mapping a staging buffer, once it is known.
///
/// Another thread's poll may run the callback: then this thread's returns before the callback has, and waits here.
#[derive(Debug, Default)]
struct Mapped {
    /// With the time at which it came.
    outcome: Mutex<Option<(std::result::Result<(), wgpu::BufferAsyncError>, Instant)>>,
    came: Condvar,
}

/// A staging buffer that brings words back while the adapter goes on.
#[derive(Debug)]
pub struct Readback {
    staging: wgpu::Buffer,
    capacity: usize,
    words: usize,
    mapped: Arc<Mapped>,
    /// The submission that it waits for, and its number.
    submission: Option<(wgpu::SubmissionIndex, u64)>,
    /// When the words that were read last had come.
    arrived: Option<Instant>,
}

impl Readback {
    /// Room for `capacity` words.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is none.
    pub fn new(context: &Context, capacity: usize) -> Result<Readback> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = context.allocate("readback", capacity as u64 * WORD, usage)?;
        Ok(Readback { staging, capacity, words: 0, mapped: Arc::default(), submission: None, arrived: None })
    }

    /// Asks for the first `words` of a buffer, after all work submitted so far.
    ///
    /// # Panics
    /// If they don't fit.
    pub fn start(&mut self, context: &Context, buffer: &Buffer, words: usize) {
        assert!(words <= self.capacity && words <= buffer.words, "{}: readback too small", buffer.label);
        self.words = words;
        if words == 0 {
            return;
        }
        let bytes = words as u64 * WORD;
        let mut encoder = context.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&buffer.raw, buffer.start as u64 * WORD, &self.staging, 0, bytes);
        self.submission = Some((context.queue.submit([encoder.finish()]), context.submissions.count()));
        *locked(&self.mapped.outcome) = None;
        let mapped = self.mapped.clone();
        self.staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
            *locked(&mapped.outcome) = Some((result, Instant::now()));
            mapped.came.notify_all();
        });
    }

    /// When the words that [`Self::finish`] returned last had come; as exact as [`Context::poll`] was called often.
    pub fn arrived(&self) -> Option<Instant> {
        self.arrived
    }

    /// Waits for the words asked for.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Lost`] or [`Error::Memory`] if the adapter failed in the meantime.
    pub fn finish(&mut self, context: &Context) -> Result<Vec<f32>> {
        if self.words == 0 {
            return Ok(Vec::new());
        }
        let (index, number) = self.submission.take().unzip();
        context.wait_for(index, number.unwrap_or(u64::MAX))?;
        let bytes = self.words as u64 * WORD;
        let mut outcome = locked(&self.mapped.outcome);
        while outcome.is_none() {
            let waited = self.mapped.came.wait_timeout(outcome, CALLBACK_PATIENCE);
            let (guard, patience) = waited.unwrap_or_else(PoisonError::into_inner);
            if patience.timed_out() && guard.is_none() {
                return Err(Error::Failed("read back: the adapter never answered".to_string()));
            }
            outcome = guard;
        }
        let arrived = outcome.take();
        drop(outcome);
        if let Some((result, at)) = arrived {
            result.map_err(|error| Error::Failed(format!("read back: {error}")))?;
            self.arrived = Some(at);
        }
        let view = self
            .staging
            .slice(..bytes)
            .get_mapped_range()
            .map_err(|error| Error::Failed(format!("read back: {error}")))?;
        let data = bytemuck::pod_collect_to_vec(&view);
        drop(view);
        self.staging.unmap();
        Ok(data)
    }
}
