//! The measured roofs of an adapter: the best of a few kernels that only do multiply-adds, and of a few that only copy;
//! and the multiply-adds of matrix units.

use super::report::{MatrixRoof, Roof};
use super::samples;
use crate::cases::numbers;
use crate::error::Result;
use crate::gpu::{Context, Plan, Recorder};
use crate::kernels::roof::{ACCUMULATORS, BLOCKS, CopyWords, EACH, MultiplyAdd, MultiplyFragments};

/// Loop iterations of an invocation, times its number of chains.
const TURNS: u32 = 768;

/// Samples per kernel to choose the best one.
const TRIALS: usize = 5;

/// A candidate for the best kernel of its kind.
struct Candidate {
    name: String,
    plan: Plan,
    /// Operations or bytes of a replay.
    work: f64,
    /// Replays per sample.
    replays: usize,
    seconds: Vec<f64>,
}

impl Candidate {
    fn new(context: &Context, name: String, plan: Plan, work: f64) -> Result<Candidate> {
        let replays = samples::replays(&plan, context)?;
        Ok(Candidate { name, plan, work, replays, seconds: Vec::new() })
    }

    fn sample(&mut self, context: &Context, count: usize) -> Result<()> {
        self.seconds.extend(samples::take(&self.plan, context, self.replays, count)?);
        Ok(())
    }

    /// Returns the rate of each sample, in 10⁹ operations or bytes per second.
    fn rates(&self) -> Vec<f64> {
        self.seconds.iter().map(|seconds| self.work / seconds / 1e9).collect()
    }
}

/// The best kernels and their samples so far.
pub struct Roofs {
    multiply_add: Candidate,
    copy: Candidate,
    matrix_units: Option<Candidate>,
}

impl Roofs {
    /// Finds the best kernel of multiply-adds and the best kernel of copies.
    ///
    /// The number of chains of multiply-adds that saturates an adapter depends on its registers and latencies. GPUs
    /// copy 128 MiB, which exceeds their caches: the roof is that of memory, and a row above it has its tensors in a
    /// cache. On CPU adapters instructions limit copies more than memory does, so the best of three sizes counts. A
    /// quick run tries one kernel of each kind.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn find(context: &Context, quick: bool) -> Result<Roofs> {
        let trials = if quick { 1 } else { TRIALS };
        let mut multiply_adds = Vec::new();
        // Enough invocations for the largest GPUs. On a CPU, a few hundred workgroups spread evenly over the cores.
        let threads = if context.is_cpu() { 256 * 64 } else { 16_384 * 64 };
        let (chains, each) =
            if quick { (&ACCUMULATORS[3..4], &EACH[..1]) } else { (&ACCUMULATORS[..], &EACH[..]) };
        for &accumulators in chains {
            multiply_adds.push(multiply_add(context, threads, accumulators)?);
        }
        let most = context.max_tensor_bytes();
        let sizes: &[u64] = match context.is_cpu() {
            true if quick => &[8 << 20],
            true => &[1 << 20, 8 << 20, 64 << 20],
            false => &[128 << 20],
        };
        let mut copies = Vec::new();
        for &bytes in sizes {
            for &each in each {
                copies.push(copy(context, bytes.min(most), each)?);
            }
        }
        Ok(Roofs {
            multiply_add: best(context, multiply_adds, trials)?,
            copy: best(context, copies, trials)?,
            matrix_units: context.fragments().map(|units| fragments(context, units.side)).transpose()?,
        })
    }

    /// Takes `count` more samples of each roof.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn sample(&mut self, context: &Context, count: usize) -> Result<()> {
        for candidate in [&mut self.multiply_add, &mut self.copy].into_iter().chain(&mut self.matrix_units) {
            candidate.sample(context, count)?;
        }
        Ok(())
    }

    /// Returns the medians over all samples.
    pub fn report(&self) -> Roof {
        let (flops, bytes) = (self.multiply_add.rates(), self.copy.rates());
        Roof {
            gflops: samples::median(&flops),
            gbps: samples::median(&bytes),
            gflops_deviation: samples::deviation(&flops),
            gbps_deviation: samples::deviation(&bytes),
            multiply_add: self.multiply_add.name.clone(),
            copy: self.copy.name.clone(),
            matrix_units: self.matrix_units.as_ref().map(|units| MatrixRoof {
                gflops: samples::median(&units.rates()),
                gflops_deviation: samples::deviation(&units.rates()),
                kernel: units.name.clone(),
            }),
        }
    }
}

/// Returns the candidate with the fastest sample. Drops these samples, so that the choice doesn't bias the result.
fn best(context: &Context, mut candidates: Vec<Candidate>, trials: usize) -> Result<Candidate> {
    // Alternate, so that a temporarily busy machine affects all candidates.
    for _ in 0..trials {
        for candidate in &mut candidates {
            candidate.sample(context, 1)?;
        }
    }
    // A disturbance makes a sample slower, never faster.
    let fastest = |candidate: &Candidate| candidate.rates().into_iter().fold(0.0, f64::max);
    let best = candidates.into_iter().max_by(|a, b| fastest(a).total_cmp(&fastest(b)));
    let Some(mut best) = best else { unreachable!("there are candidates") };
    best.seconds.clear();
    Ok(best)
}

fn multiply_add(context: &Context, threads: usize, accumulators: u32) -> Result<Candidate> {
    let mut recorder = Recorder::new(context);
    let y = recorder.tensor("y", 4 * threads);
    // Values converge to addend / (1 - multiplier) = 1, so there are no slow denormal numbers.
    let (multiplier, addend) = (0.984_375, 0.015_625);
    let turns = TURNS / accumulators;
    MultiplyAdd { y, accumulators, turns, multiplier, addend }.record(&mut recorder, "multiply_add");
    let plan = recorder.finish()?;
    let work = plan.summary().flops;
    let plural = if accumulators == 1 { "chain" } else { "chains" };
    let name = format!("{accumulators} {plural} of four");
    Candidate::new(context, name, plan, work)
}

/// Creates the candidate of matrix units: 16 × 2,048 blocks of four independent sums.
///
/// On 200 compute units with subgroups of 32, each unit has at least 40 subgroups to hide latency, and the last
/// workgroups cost it at most a tenth of its time.
fn fragments(context: &Context, side: u32) -> Result<Candidate> {
    // Matrix units in software take a thousand times as long.
    let (groups, turns) = if context.is_cpu() { (4, 2) } else { (2048, 64) };
    let area = (side * side) as usize;
    let mut recorder = Recorder::new(context);
    let storage = context.storage();
    let operands = numbers::tensor(context, "operands", 1, (2 * BLOCKS + 2) * area, storage)?;
    let operands = recorder.import_as(&operands, storage);
    let y = recorder.tensor("y", groups * BLOCKS * 4 * area);
    MultiplyFragments { operands, y, side, turns }.record(&mut recorder, "multiply_fragments");
    let plan = recorder.finish()?;
    let work = plan.summary().flops;
    Candidate::new(context, format!("fragments of {side}x{side}"), plan, work)
}

fn copy(context: &Context, bytes: u64, each: u32) -> Result<Candidate> {
    let mut recorder = Recorder::new(context);
    let words = (bytes / 16) as usize * 4;
    let from = context.upload("from", &vec![1.0; words])?;
    let (from_words, to_words) = (recorder.import(&from), recorder.tensor("to", words));
    CopyWords { from_words, to_words, each }.record(&mut recorder, "copy");
    let plan = recorder.finish()?;
    let work = plan.summary().moved_bytes;
    let name = format!("{} MiB, {each} × 16 bytes a thread", bytes >> 20);
    Candidate::new(context, name, plan, work)
}
