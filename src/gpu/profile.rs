//! Profile mode: one launch at a time, timed.

use super::context::{Buffer, Context};
use super::plan::Plan;
use crate::error::Result;
use std::time::Instant;

/// How long one launch took.
#[derive(Debug, Clone)]
pub struct DispatchTime {
    /// What it computes.
    pub label: String,
    /// The kernel's name.
    pub kernel: &'static str,
    /// Seconds on the adapter.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: f64,
}

impl Plan {
    /// Replays the recording one launch at a time and times each.
    ///
    /// GPUs are timed by their own timestamps where they have them. CPU adapters, whose timestamps lump launches
    /// together, are timed by the wall clock around a submit of each launch alone.
    pub fn profile(&self, context: &Context) -> Result<Vec<DispatchTime>> {
        let seconds = if context.has_timestamps() && !context.is_cpu() {
            self.timestamps(context)?
        } else {
            self.wall_times(context)?
        };
        let named = self.dispatches.iter().zip(seconds).map(|(dispatch, seconds)| DispatchTime {
            label: dispatch.label.clone(),
            kernel: dispatch.kernel.name,
            seconds,
            flops: dispatch.flops,
        });
        Ok(named.collect())
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
        // wgpu allows 4,096 queries in a set: two for each launch.
        const CHUNK: usize = 2048;
        let mut seconds = Vec::with_capacity(self.dispatches.len());
        for start in (0..self.dispatches.len()).step_by(CHUNK) {
            let count = CHUNK.min(self.dispatches.len() - start);
            let queries = context.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * count as u32,
            });
            let resolved = Buffer {
                raw: context.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("profile"),
                    size: 16 * count as u64,
                    usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                }),
                start: 0,
                bound: 4 * count,
                words: 4 * count,
                label: "profile".into(),
            };
            let mut encoder = context.device.create_command_encoder(&Default::default());
            for i in 0..count {
                let writes = wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * i as u32),
                    end_of_pass_write_index: Some(2 * i as u32 + 1),
                };
                self.encode(&mut encoder, start + i..start + i + 1, Some(writes));
            }
            encoder.resolve_query_set(&queries, 0..2 * count as u32, &resolved.raw, 0);
            context.queue.submit([encoder.finish()]);
            // Each timestamp is two words, the lower one first.
            let words: Vec<u64> = context.read(&resolved)?.iter().map(|w| u64::from(w.to_bits())).collect();
            let ticks: Vec<u64> = words.chunks(2).map(|w| w[0] | w[1] << 32).collect();
            let period = f64::from(context.queue.get_timestamp_period()) * 1e-9;
            seconds.extend(ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
        }
        Ok(seconds)
    }
}
