//! Readback: copies words of a buffer to the host while the adapter goes on working.

use super::WORD;
use super::buffer::Buffer;
use super::context::Context;
use super::error::{Error, Result};
use super::locked;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest time between the end of the work and the callback.
const CALLBACK_PATIENCE: Duration = Duration::from_secs(10);

impl Context {
    /// Reads a whole buffer after all submitted work.
    ///
    /// # Errors
    /// As [`Readback::new`] and [`Readback::finish`].
    pub fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut readback = Readback::new(self, buffer.words)?;
        readback.start(self, buffer, buffer.words);
        readback.finish(self)
    }

    /// Reads a buffer and its guard words after all submitted work.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_guarded(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        self.read(&Buffer { words: buffer.bound, ..buffer.clone() })
    }
}

/// The result of mapping a staging buffer.
///
/// Another thread's poll may run the callback. This thread's poll can then return before the callback has run, and
/// waits here.
#[derive(Debug, Default)]
struct Mapped {
    /// The result, and when it arrived.
    outcome: Mutex<Option<(std::result::Result<(), wgpu::BufferAsyncError>, Instant)>>,
    came: Condvar,
}

/// A staging buffer for readback.
#[derive(Debug)]
pub struct Readback {
    staging: wgpu::Buffer,
    capacity: usize,
    words: usize,
    mapped: Arc<Mapped>,
    /// The submission of the copy, and its number.
    submission: Option<(wgpu::SubmissionIndex, u64)>,
    /// When the words of the last readback arrived.
    arrived: Option<Instant>,
}

impl Readback {
    /// Creates a staging buffer of `capacity` words.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is not enough.
    pub fn new(context: &Context, capacity: usize) -> Result<Readback> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = context.allocate("readback", capacity as u64 * WORD, usage)?;
        Ok(Readback { staging, capacity, words: 0, mapped: Arc::default(), submission: None, arrived: None })
    }

    /// Starts copying the first `words` words of a buffer, after all submitted work.
    ///
    /// # Panics
    /// If they exceed the buffer or the capacity.
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

    /// Returns when the words that [`Self::finish`] returned last arrived. [`Context::poll`] sets the resolution.
    pub fn arrived(&self) -> Option<Instant> {
        self.arrived
    }

    /// Waits for the words and returns them.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Lost`] or [`Error::Memory`] if the adapter has failed.
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
