//! Timing and memory for benches: replays between timestamps, the cost of submits, tensors that are filled on the
//! adapter, and single words read back.

use super::WORD;
use super::buffer::Buffer;
use super::context::Context;
use super::error::Result;
use super::plan::Plan;
use super::profile::Timestamps;
use super::readback::Readback;
use std::time::Instant;

/// The time of a submit, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubmitTime {
    /// Encoding of the commands, on the CPU.
    pub encode: f64,
    /// From the submit to the end of the wait.
    pub run: f64,
}

impl Plan {
    /// Returns the seconds of one replay by timestamps around a pass of `replays` replays. Uses the wall clock, as
    /// [`Plan::time`], if [`Context::times_itself`] returns false.
    ///
    /// # Errors
    /// Those that the driver has reported so far.
    pub fn time_on_adapter(&self, context: &Context, replays: usize) -> Result<f64> {
        if !context.times_itself() {
            return self.time(context, replays);
        }
        context.wait()?;
        let timestamps = Timestamps::new(context, 1)?;
        let commands = self.commands(context, replays, Some(timestamps.of(0)));
        Ok(timestamps.submit(context, commands)?[0] / replays as f64)
    }

    /// Times one submit of `replays` replays. With 0 replays, the submit does nothing.
    ///
    /// # Errors
    /// Those that the driver has reported so far.
    pub fn time_submit(&self, context: &Context, replays: usize) -> Result<SubmitTime> {
        context.wait()?;
        let start = Instant::now();
        let commands = self.commands(context, replays, None).finish();
        let encode = start.elapsed().as_secs_f64();
        let start = Instant::now();
        context.queue.submit([commands]);
        context.wait()?;
        Ok(SubmitTime { encode, run: start.elapsed().as_secs_f64() })
    }

    /// Returns the seconds of `count` submits of one replay each, with one wait. Encoding doesn't count.
    ///
    /// # Errors
    /// Those that the driver has reported so far.
    pub fn time_submits(&self, context: &Context, count: usize) -> Result<f64> {
        context.wait()?;
        let all: Vec<_> = (0..count).map(|_| self.commands(context, 1, None).finish()).collect();
        let start = Instant::now();
        for commands in all {
            context.queue.submit([commands]);
        }
        context.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn commands(
        &self,
        context: &Context,
        replays: usize,
        timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> wgpu::CommandEncoder {
        let mut encoder = context.device.create_command_encoder(&Default::default());
        let steps = 0..self.dispatches.len();
        self.encode(&mut encoder, (0..replays).flat_map(|_| steps.clone()), timestamps);
        encoder
    }
}

impl Context {
    /// Returns true if [`Plan::time_on_adapter`] uses timestamps. Those of CPU adapters merge dispatches.
    pub fn times_itself(&self) -> bool {
        self.has_timestamps() && !self.is_cpu()
    }

    /// Fills a buffer with repetitions of `period`, by copies on the adapter.
    ///
    /// # Panics
    /// If `period` is empty or in the same buffer.
    pub fn fill(&self, buffer: &Buffer, period: &Buffer) {
        assert!(period.words > 0 && period.raw != buffer.raw, "{}: no period to fill it with", buffer.label);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for start in (0..buffer.words).step_by(period.words) {
            let words = period.words.min(buffer.words - start) as u64;
            let (from, to) = (period.start as u64 * WORD, (buffer.start + start) as u64 * WORD);
            encoder.copy_buffer_to_buffer(&period.raw, from, &buffer.raw, to, words * WORD);
        }
        self.queue.submit([encoder.finish()]);
    }

    /// Reads single words of a buffer after all submitted work.
    ///
    /// # Errors
    /// Those that the driver has reported so far.
    ///
    /// # Panics
    /// If a place is past the end.
    pub fn read_words(&self, buffer: &Buffer, places: &[usize]) -> Result<Vec<u32>> {
        let gathered = self.storage_buffer("gathered", places.len() as u64 * WORD)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for (i, &place) in places.iter().enumerate() {
            assert!(place < buffer.words, "{}: no word {place}", buffer.label);
            let from = (buffer.start + place) as u64 * WORD;
            encoder.copy_buffer_to_buffer(&buffer.raw, from, &gathered.raw, i as u64 * WORD, WORD);
        }
        self.queue.submit([encoder.finish()]);
        let mut readback = Readback::new(self, places.len())?;
        readback.start(self, &gathered, places.len());
        Ok(readback.finish(self)?.into_iter().map(f32::to_bits).collect())
    }
}
