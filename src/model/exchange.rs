//! The exchange of values between ranks that compute a training step together.
//!
//! Each rank runs the backbone forward on its piece of the batch. The ranks gather the parts (B, R, D): part classifiers
//! and losses then see the whole batch, and have the same bits on every rank. In the backward pass a rank computes the
//! gradients of its piece, and the sums over all ranks in their order replace them. A process alone adds the gradients
//! of its micro-batches in the same order, so the bits are the same.
//!
//! The gradients of a group of parameters are exchanged as soon as the backward pass has completed them, while the
//! adapter goes on with the groups below. Frozen groups have no gradients, and so cost nothing.

use crate::error::Result;
use crate::gpu::{Buffer, Context, Plan, Readback, WORD};
use crate::ranks::{Ranks, Share};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The gradients of a group of parameters.
struct Bucket {
    gradients: Buffer,
    readback: Readback,
}

/// The values of a training step that ranks exchange.
pub struct Exchange {
    share: Share,
    /// Images of the whole batch.
    batch: usize,
    /// Parts (B, R, D).
    parts: Buffer,
    /// Reads the parts of the own piece.
    readback: Readback,
    /// In the order in which the backward pass completes them.
    buckets: Vec<Bucket>,
    times: ExchangeTimes,
}

/// Durations of the exchange of gradients.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExchangeTimes {
    /// All of it.
    pub total: Duration,
    /// As much as passed before the backward pass was done.
    pub overlapped: Duration,
}

/// Bytes that a rank sends in a step; it receives as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// For the parts.
    pub parts: u64,
    /// For the gradients.
    pub gradients: u64,
}

impl Exchange {
    /// Creates the exchange of a step of `batch` images with the given parts and gradients, in the order in which
    /// the backward pass completes them.
    ///
    /// # Errors
    /// If there is no memory for readbacks.
    pub(super) fn new<'a>(
        context: &Context,
        share: Share,
        batch: usize,
        parts: Buffer,
        gradients: impl Iterator<Item = &'a Buffer>,
    ) -> Result<Exchange> {
        let bucket = |gradients: &Buffer| {
            let readback = Readback::new(context, gradients.words)?;
            Ok(Bucket { gradients: gradients.clone(), readback })
        };
        Ok(Exchange {
            share,
            batch,
            readback: Readback::new(context, parts.words)?,
            parts,
            buckets: gradients.map(bucket).collect::<Result<_>>()?,
            times: ExchangeTimes::default(),
        })
    }

    /// Replays the sections of a step: the forward pass, one section per group of gradients, and the optimiser.
    pub(super) fn run(&mut self, context: &Context, plan: &Plan, ranks: &Ranks) -> Result<()> {
        let width = self.parts.words / self.batch;
        let own = self.share.places(self.batch);
        plan.run_section(context, 0)?;
        self.readback.start(context, &self.parts, own.end * width);
        let parts = self.readback.finish(context)?;
        let parts = ranks.gather(&parts[own.start * width..])?;
        context.write(&self.parts, bytemuck::cast_slice(&parts));
        let count = self.buckets.len();
        let (sender, receiver) = mpsc::channel();
        let (mut sums, mut exchanged) = (Vec::new(), Vec::new());
        let buckets = &mut self.buckets;
        // Another thread submits, since some drivers compute during a submit. MPI is only for this one.
        let done = std::thread::scope(|scope| -> Result<Instant> {
            let backward = scope.spawn(move || -> Result<Instant> {
                for (section, Bucket { gradients, readback }) in (1..).zip(buckets) {
                    plan.run_section(context, section)?;
                    readback.start(context, gradients, gradients.words);
                    if sender.send((&*gradients, readback)).is_err() {
                        break;
                    }
                }
                context.wait()?;
                Ok(Instant::now())
            });
            for (gradients, readback) in receiver {
                let mut values = readback.finish(context)?;
                let start = Instant::now();
                ranks.sum(&mut values, self.share.busy(self.batch))?;
                exchanged.push((start, Instant::now()));
                sums.push((gradients, values));
            }
            backward.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        for (gradients, sums) in sums {
            context.write(gradients, bytemuck::cast_slice(&sums));
        }
        for (start, end) in exchanged {
            self.times.total += end - start;
            self.times.overlapped += done.min(end).saturating_duration_since(start);
        }
        Ok(plan.run_section(context, 1 + count)?)
    }

    /// Returns the durations since the last call.
    pub fn take_times(&mut self) -> ExchangeTimes {
        std::mem::take(&mut self.times)
    }

    /// Returns the traffic of a step.
    pub fn traffic(&self) -> Traffic {
        let others = self.share.ranks as u64 - 1;
        let width = (self.parts.words / self.batch) as u64;
        let words: usize = self.buckets.iter().map(|bucket| bucket.gradients.words).sum();
        Traffic {
            parts: others * self.share.places(self.batch).len() as u64 * width * WORD,
            // Pieces to those who add them, and the sum of the own piece to all.
            gradients: 2 * others * words as u64 * WORD / self.share.ranks as u64,
        }
    }
}
