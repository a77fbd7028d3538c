//! Times and memory for benches: replays between timestamps, what launches and submits cost by themselves, large
//! tensors that are filled on the adapter and looked at in a few places.

use super::WORD;
use super::buffer::Buffer;
use super::context::Context;
use super::error::Result;
use super::plan::Plan;
use super::profile::Timestamps;
use super::readback::Readback;
use std::time::Instant;

/// How long the parts of a submit took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubmitTime {
    /// Recording the commands, on the CPU.
    pub encode: f64,
    /// From the hand-over until all is done, waiting included.
    pub run: f64,
}

impl Plan {
    /// Seconds of one replay by the adapter's own clock: `replays` in one pass, between two timestamps. By the wall
    /// clock, as [`Plan::time`], where [`Context::times_itself`] says no.
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

    /// Times `replays` of the recording as one submit; 0 replays are a submit that does nothing.
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

    /// Seconds of `count` submits of one replay each, waited for once; the commands are recorded before.
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
    /// True if [`Plan::time_on_adapter`] reads timestamps; those of CPU adapters lump launches together.
    pub fn times_itself(&self) -> bool {
        self.has_timestamps() && !self.is_cpu()
    }

    /// Fills a buffer with the words of another, over and over, by copies on the adapter.
    ///
    /// # Panics
    /// If `period` is empty or a slice of the same buffer.
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

    /// Reads single words of a buffer back, after all submitted work.
    ///
    /// # Errors
    /// Those that the driver has reported so far.
    ///
    /// # Panics
    /// If a place lies past the end.
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
