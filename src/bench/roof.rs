//! The adapter's roofs: the best of a few kernels of nothing but multiply-adds, and of nothing but copies;
//! beside them the multiply-adds of matrix units.

use super::report::{MatrixRoof, Roof};
use super::samples;
use crate::cases::numbers;
use crate::error::Result;
use crate::gpu::{Context, Plan, Recorder};
use crate::kernels::roof::{ACCUMULATORS, BLOCKS, CopyWords, EACH, MultiplyAdd, MultiplyFragments};

/// Links of an invocation's chains in turns of the loop, all chains together.
const TURNS: u32 = 768;

/// Samples by which the best kernel is chosen.
const TRIALS: usize = 5;

/// A kernel that may be the best of its sort.
struct Candidate {
    name: String,
    plan: Plan,
    /// Operations or bytes of a replay.
    work: f64,
    /// Of a sample.
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

    /// Work a second, in units of 10⁹.
    fn rates(&self) -> Vec<f64> {
        self.seconds.iter().map(|seconds| self.work / seconds / 1e9).collect()
    }
}

/// The best kernels of both sorts, and their samples so far.
pub struct Roofs {
    multiply_add: Candidate,
    copy: Candidate,
    matrix_units: Option<Candidate>,
}

impl Roofs {
    /// Tries kernels of both sorts and keeps the best of each.
    ///
    /// How many chains of multiply-adds fill an adapter depends on its registers and latencies. GPUs copy 128 MiB, more
    /// than their caches hold: the roof is that of their memory, and a row above it found its tensors in a cache. CPU
    /// adapters are bound by instructions rather than by memory, and take the best of three sizes. A quick run tries
    /// one kernel of a sort.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn find(context: &Context, quick: bool) -> Result<Roofs> {
        let trials = if quick { 1 } else { TRIALS };
        let mut multiply_adds = Vec::new();
        // Enough threads for the largest GPUs; on a CPU a few hundred workgroups are shared out evenly.
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
            matrix_units: context.fragments().map(|side| fragments(context, side)).transpose()?,
        })
    }

    /// Takes so many more samples of both.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn sample(&mut self, context: &Context, count: usize) -> Result<()> {
        for candidate in [&mut self.multiply_add, &mut self.copy].into_iter().chain(&mut self.matrix_units) {
            candidate.sample(context, count)?;
        }
        Ok(())
    }

    /// Medians over all samples.
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

/// The one with the quickest sample; these samples are dropped, so that the choice doesn't flatter it.
fn best(context: &Context, mut candidates: Vec<Candidate>, trials: usize) -> Result<Candidate> {
    // In turns: a moment in which the machine is busy falls on all alike.
    for _ in 0..trials {
        for candidate in &mut candidates {
            candidate.sample(context, 1)?;
        }
    }
    // A sample may be disturbed, but none is quicker than the adapter is.
    let quickest = |candidate: &Candidate| candidate.rates().into_iter().fold(0.0, f64::max);
    let best = candidates.into_iter().max_by(|a, b| quickest(a).total_cmp(&quickest(b)));
    let Some(mut best) = best else { unreachable!("there are candidates") };
    best.seconds.clear();
    Ok(best)
}

fn multiply_add(context: &Context, threads: usize, accumulators: u32) -> Result<Candidate> {
    let mut recorder = Recorder::new(context);
    let y = recorder.tensor("y", 4 * threads);
    // Chains end near addend / (1 - multiplier) = 1: never slow denormal numbers.
    let (multiplier, addend) = (0.984_375, 0.015_625);
    let turns = TURNS / accumulators;
    MultiplyAdd { y, accumulators, turns, multiplier, addend }.record(&mut recorder, "multiply_add");
    let plan = recorder.finish()?;
    let work = plan.summary().flops;
    let plural = if accumulators == 1 { "chain" } else { "chains" };
    let name = format!("{accumulators} {plural} of four");
    Candidate::new(context, name, plan, work)
}

/// 16 × 1,024 blocks of four sums: 64 subgroups and more for each of a hundred multiprocessors.
fn fragments(context: &Context, side: u32) -> Result<Candidate> {
    // Software units take a thousand times as long.
    let (groups, turns) = if context.is_cpu() { (4, 2) } else { (1024, 64) };
    let area = (side * side) as usize;
    let mut recorder = Recorder::new(context);
    let halves = context.storage();
    let operands = numbers::tensor(context, "operands", 1, (2 * BLOCKS + 2) * area, halves)?;
    let operands = recorder.import_as(&operands, halves);
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
