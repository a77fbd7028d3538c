//! The time of a plan, as a whole and by dispatch.

use super::WORD;
use super::buffer::Buffer;
use super::context::Context;
use super::error::Result;
use super::plan::Plan;
use super::recorder::Phase;
use std::time::Instant;

/// Target duration of a profile, in seconds; bounded by [`ROUNDS`].
const PROFILE_SECONDS: f64 = 2.0;

/// Fewest and most replays of a profile.
const ROUNDS: (f64, f64) = (2.0, 10.0);

/// The time of one dispatch.
#[derive(Debug, Clone, PartialEq)]
pub struct DispatchTime {
    /// Phase of the step.
    pub phase: Phase,
    /// Name of its result.
    pub label: String,
    /// The shader file's name.
    pub kernel: &'static str,
    /// The entry point.
    pub entry: &'static str,
    /// Seconds on the adapter.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes of the bound tensors.
    pub bytes: f64,
}

/// The times of a plan's dispatches, each run alone.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanProfile {
    /// Every dispatch in order, with the minimum of its times.
    pub dispatches: Vec<DispatchTime>,
    /// Wall-clock seconds of a whole replay: the minimum of two.
    pub whole: f64,
    /// Number of times that each dispatch was timed.
    pub rounds: usize,
}

impl Plan {
    /// Returns the wall-clock seconds of one replay: the mean of `replays` replays in one submit.
    ///
    /// Every replay changes what a dispatch updates in place.
    ///
    /// # Errors
    /// Those that the driver has reported so far.
    pub fn time(&self, context: &Context, replays: usize) -> Result<f64> {
        Ok(self.time_submit(context, replays)?.run / replays as f64)
    }

    /// Replays the recording one dispatch at a time, a few times, and returns the minimum time of each dispatch.
    ///
    /// GPUs with timestamps time each dispatch in a pass of its own. On CPU adapters, timestamps merge dispatches;
    /// there and on other GPUs the wall clock times a submit of each dispatch.
    ///
    /// Every replay changes what a dispatch updates in place, such as the parameters of a training step.
    ///
    /// # Errors
    /// Those that the driver has reported so far.
    pub fn profile(&self, context: &Context) -> Result<PlanProfile> {
        // The first replay includes compilation.
        self.whole_time(context)?;
        let mut whole = self.whole_time(context)?;
        let rounds = (PROFILE_SECONDS / whole).ceil().clamp(ROUNDS.0, ROUNDS.1) as usize;
        let mut least = vec![f64::INFINITY; self.dispatches.len()];
        for _ in 0..rounds {
            let seconds =
                if context.times_itself() { self.timestamps(context)? } else { self.wall_times(context)? };
            for (least, seconds) in least.iter_mut().zip(seconds) {
                *least = least.min(seconds);
            }
        }
        whole = whole.min(self.whole_time(context)?);
        let dispatches = self.dispatches.iter().zip(least).map(|(dispatch, seconds)| DispatchTime {
            phase: dispatch.phase,
            label: dispatch.label.clone(),
            kernel: dispatch.kernel.file.name,
            entry: dispatch.kernel.entry,
            seconds,
            flops: dispatch.flops,
            bytes: dispatch.bytes(),
        });
        Ok(PlanProfile { dispatches: dispatches.collect(), whole, rounds })
    }

    fn whole_time(&self, context: &Context) -> Result<f64> {
        context.wait()?;
        let start = Instant::now();
        self.run(context)?;
        context.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn wall_times(&self, context: &Context) -> Result<Vec<f64>> {
        context.wait()?;
        (0..self.dispatches.len())
            .map(|i| {
                let start = Instant::now();
                let mut encoder = context.device.create_command_encoder(&Default::default());
                self.encode(&mut encoder, i..i + 1, None);
                context.queue.submit([encoder.finish()]);
                context.wait()?;
                Ok(start.elapsed().as_secs_f64())
            })
            .collect()
    }

    fn timestamps(&self, context: &Context) -> Result<Vec<f64>> {
        // wgpu allows 4,096 queries in a set, and each dispatch needs two.
        const CHUNK: usize = 2048;
        let mut seconds = Vec::with_capacity(self.dispatches.len());
        for start in (0..self.dispatches.len()).step_by(CHUNK) {
            let count = CHUNK.min(self.dispatches.len() - start);
            let timestamps = Timestamps::new(context, count)?;
            let mut encoder = context.device.create_command_encoder(&Default::default());
            for i in 0..count {
                self.encode(&mut encoder, start + i..start + i + 1, Some(timestamps.of(i)));
            }
            seconds.extend(timestamps.submit(context, encoder)?);
        }
        Ok(seconds)
    }
}

/// Timestamps at the beginning and end of each pass.
pub(super) struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: Buffer,
    count: u32,
}

impl Timestamps {
    /// Creates timestamps for up to 2,048 passes.
    pub fn new(context: &Context, passes: usize) -> Result<Timestamps> {
        let count = 2 * passes as u32;
        let queries = context.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        // Each timestamp is two words.
        let bytes = 2 * u64::from(count) * WORD;
        let resolved = Buffer::whole(context.allocate("profile", bytes, usage)?, "profile", bytes);
        Ok(Timestamps { queries, resolved, count })
    }

    /// Returns the timestamps of a pass.
    pub fn of(&self, pass: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * pass as u32),
            end_of_pass_write_index: Some(2 * pass as u32 + 1),
        }
    }

    /// Submits the passes, waits for them and returns the seconds of each.
    pub fn submit(&self, context: &Context, mut encoder: wgpu::CommandEncoder) -> Result<Vec<f64>> {
        encoder.resolve_query_set(&self.queries, 0..self.count, &self.resolved.raw, 0);
        context.queue.submit([encoder.finish()]);
        // Little-endian: the lower word comes first.
        let words: Vec<u64> = context.read(&self.resolved)?.iter().map(|w| u64::from(w.to_bits())).collect();
        let ticks: Vec<u64> = words.chunks(2).map(|w| w[0] | w[1] << 32).collect();
        let period = f64::from(context.queue.get_timestamp_period()) * 1e-9;
        Ok(ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period).collect())
    }
}
