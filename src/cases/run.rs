//! Runs recorded dispatches in memory that reveals wrong accesses and compares the outputs, or makes a plan to time.
//!
//! Every buffer is followed by guard words that a faulty kernel could access. Before a run, outputs are filled with a
//! NaN of known bits. After the run every output must have been written, and guard words and inputs must be unchanged.
//! A second run must give the same bits. Guard words are NaN too, so a result computed from one shows it.
//!
//! A recording to time has buffers without guard words, filled on the adapter. The host computes no operand and no
//! reference.

use super::compare::Expected;
use super::numbers;
use super::random::{Numbers, sample};
use super::tolerance::Tolerance;
use crate::error::{Error, Result};
use crate::gpu::{self, Buffer, Context, Plan, Recorder, Storage, Tensor};
use crate::reference::Exact;
use half::f16;
use std::ops::Deref;
use std::time::Instant;

/// After every input; longer than the widest row of a tile.
const INPUT_GUARD: [u32; 256] = [0x7fc0_9a4d; 256];
/// After every output. Another pattern, so that a word copied from one guard to the other shows.
const OUTPUT_GUARD: [u32; 256] = [0x7fc0_57e1; 256];
/// Fills outputs before a run.
const UNWRITTEN: u32 = 0x7fc0_0bad;

/// The purpose of a recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Purpose {
    /// Outputs are compared with the reference.
    Judge,
    /// Outputs are checked as for `Judge`, except that there is no reference.
    Check,
    /// The plan is timed.
    Time,
}

/// A recording that makes its own tensors.
pub struct Run<'c> {
    /// Records the dispatches.
    pub recorder: Recorder<'c>,
    storage: Storage,
    purpose: Purpose,
    /// True if activations are rounded to f16, whatever their storage.
    pub in_f16: bool,
    /// Largest number of outputs that [`Self::sampled`] compares.
    pub samples: usize,
    inputs: Vec<(Buffer, Vec<u32>)>,
    outputs: Vec<Output>,
    expected: Vec<Expected>,
    /// The first error while making a buffer.
    failure: Option<gpu::Error>,
}

struct Output {
    tensor: Tensor,
    buffer: Buffer,
    /// The words before a run.
    before: Vec<u32>,
}

/// Outputs of a run, and the results of the comparisons.
pub struct Found {
    /// The outputs in the order in which they were made, as numbers.
    pub outputs: Vec<(Tensor, Vec<f32>)>,
    /// For each comparison the share of the tolerance used (infinite if a value is NaN), and a report.
    pub judged: Vec<(f64, String)>,
    /// Duration of the second replay from submission to completion, in seconds.
    pub seconds: f64,
}

/// A tensor and its numbers before a run. A timed tensor has no numbers.
pub struct Operand {
    /// The tensor to pass to a kernel.
    pub tensor: Tensor,
    numbers: Vec<f32>,
}

impl Deref for Operand {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers
    }
}

impl<'c> Run<'c> {
    /// An empty recording with activations in `storage`.
    pub fn new(context: &'c Context, storage: Storage, purpose: Purpose) -> Self {
        Run {
            recorder: Recorder::with_storage(context, storage),
            storage,
            purpose,
            in_f16: storage != Storage::F32,
            samples: usize::MAX,
            inputs: Vec::new(),
            outputs: Vec::new(),
            expected: Vec::new(),
            failure: None,
        }
    }

    /// Stores activations in f16: packed if the recording's storage is f32.
    pub fn store_as_f16(&mut self) {
        if self.storage == Storage::F32 {
            self.storage = Storage::Packed;
        }
    }

    /// True if outputs are compared with the reference.
    pub fn is_judged(&self) -> bool {
        self.purpose == Purpose::Judge
    }

    /// An f32 tensor that no dispatch may change.
    pub fn operand<'n>(&mut self, label: &str, numbers: impl Into<Numbers<'n>>) -> Operand {
        self.operand_of(label, numbers.into(), Storage::F32)
    }

    /// A tensor in the storage of activations that no dispatch may change. Rounds numbers if it is f16.
    pub fn quads<'n>(&mut self, label: &str, numbers: impl Into<Numbers<'n>>) -> Operand {
        let in_f16 = self.in_f16;
        let round = move |value| if in_f16 { f16::from_f32(value).to_f32() } else { value };
        self.operand_of(label, numbers.into().map(round), self.storage)
    }

    fn operand_of(&mut self, label: &str, numbers: Numbers<'_>, storage: Storage) -> Operand {
        if self.purpose == Purpose::Time {
            return Operand { tensor: self.filled(label, numbers.len, storage), numbers: Vec::new() };
        }
        let numbers = numbers.make();
        let words = match storage {
            Storage::F32 => bits(&numbers),
            Storage::F16 | Storage::Packed => {
                let bits_of = |value: f32| u32::from(f16::from_f32(value).to_bits());
                numbers.chunks(2).map(|pair| bits_of(pair[0]) | bits_of(pair[1]) << 16).collect()
            }
        };
        Operand { tensor: self.input_of(label, words, storage), numbers }
    }

    /// A tensor of `words` that no dispatch may change.
    pub fn words(&mut self, label: &str, words: &[u32]) -> Tensor {
        self.input_of(label, words.to_vec(), Storage::F32)
    }

    fn input_of(&mut self, label: &str, words: Vec<u32>, storage: Storage) -> Tensor {
        let buffer = self.buffer(label, words.len(), &INPUT_GUARD);
        if self.failure.is_none() {
            self.recorder.context.write(&buffer, bytemuck::cast_slice(&words));
        }
        let tensor = self.recorder.import_as(&buffer, storage);
        self.inputs.push((buffer, words));
        tensor
    }

    /// An f32 tensor. The dispatches must write every word of it.
    pub fn output(&mut self, label: &str, len: usize) -> Tensor {
        self.output_of(label, len, Storage::F32)
    }

    /// A tensor in the storage of activations. The dispatches must write every word of it.
    pub fn quads_output(&mut self, label: &str, len: usize) -> Tensor {
        self.output_of(label, len, self.storage)
    }

    fn output_of(&mut self, label: &str, len: usize, storage: Storage) -> Tensor {
        if self.purpose == Purpose::Time {
            return self.filled(label, len, storage);
        }
        let words = numbers::words(len, storage);
        let buffer = self.buffer(label, words, &OUTPUT_GUARD);
        let tensor = self.recorder.import_as(&buffer, storage);
        self.outputs.push(Output { tensor, buffer, before: vec![UNWRITTEN; words] });
        tensor
    }

    /// A tensor that the dispatches read and write. It counts as an output.
    pub fn updated<'n>(&mut self, label: &str, numbers: impl Into<Numbers<'n>>) -> Operand {
        let numbers = numbers.into();
        let tensor = self.output(label, numbers.len);
        let numbers = if self.purpose == Purpose::Time { Vec::new() } else { numbers.make() };
        if let Some(output) = self.outputs.last_mut() {
            output.before = bits(&numbers);
        }
        Operand { tensor, numbers }
    }

    fn buffer(&mut self, label: &str, words: usize, guard: &[u32]) -> Buffer {
        let context = self.recorder.context;
        let made = match self.purpose {
            Purpose::Time => context.buffer(label, words),
            Purpose::Judge | Purpose::Check => context.guarded_buffer(label, words, guard),
        };
        self.made(made, label, words)
    }

    /// A tensor of random numbers in [-1, 1). Zeros could run faster than real activations.
    fn filled(&mut self, label: &str, len: usize, storage: Storage) -> Tensor {
        let made = numbers::tensor(self.recorder.context, label, len as u64, len, storage);
        let buffer = self.made(made, label, numbers::words(len, storage));
        self.recorder.import_as(&buffer, storage)
    }

    fn made(&mut self, made: gpu::Result<Buffer>, label: &str, words: usize) -> Buffer {
        made.unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            self.recorder.context.unallocated(label, words)
        })
    }

    /// Expects all of `values` in the output `tensor`, in order.
    pub fn all<Values: IntoIterator<Item = Exact>>(
        &mut self,
        name: &'static str,
        tensor: Tensor,
        tolerance: Tolerance,
        values: impl FnOnce() -> Values,
    ) {
        self.near(name, tensor, tolerance, || values().into_iter().enumerate());
    }

    /// Expects `values` at these places of the output `tensor`. If the tensor is stored in f16, the tolerance includes
    /// its rounding.
    pub fn near<Values: IntoIterator<Item = (usize, Exact)>>(
        &mut self,
        name: &'static str,
        tensor: Tensor,
        tolerance: Tolerance,
        values: impl FnOnce() -> Values,
    ) {
        if self.purpose == Purpose::Judge {
            self.expected.push(Expected::near(name, tensor, values(), tolerance));
        }
    }

    /// Expects `value(i)` at every place i of the output `tensor`. Compares a sample if there are more than
    /// [`Self::samples`].
    pub fn sampled(
        &mut self,
        name: &'static str,
        tensor: Tensor,
        tolerance: Tolerance,
        value: impl Fn(usize) -> Exact,
    ) {
        let samples = self.samples;
        self.near(name, tensor, tolerance, || {
            sample(tensor.len, samples).into_iter().map(move |i| (i, value(i)))
        });
    }

    /// Expects exactly these words at these places of the output `tensor`.
    pub fn same<Words: IntoIterator<Item = (usize, u32)>>(
        &mut self,
        name: &'static str,
        tensor: Tensor,
        words: impl FnOnce() -> Words,
    ) {
        if self.purpose == Purpose::Judge {
            self.expected.push(Expected::same(name, tensor, words()));
        }
    }

    /// Finishes the plan to time.
    ///
    /// # Errors
    /// If the adapter has too little memory.
    pub fn plan(self) -> gpu::Result<Plan> {
        match self.failure {
            Some(error) => Err(error),
            None => self.recorder.finish(),
        }
    }

    /// Runs the plan twice, then compares the outputs.
    ///
    /// # Errors
    /// [`Error::Gpu`] and [`Error::TooLarge`] with the driver's message; [`Error::Data`] if a word was not written, a
    /// guard word or input was changed, or the two runs differ.
    pub fn run(self) -> Result<Found> {
        let Run { recorder, inputs, outputs, expected, failure, .. } = self;
        if let Some(error) = failure {
            return Err(error.into());
        }
        let context = recorder.context;
        let plan = recorder.finish()?;
        let mut results: Vec<Vec<f32>> = Vec::new();
        let mut seconds = 0.0;
        for round in 0..2 {
            for output in &outputs {
                context.write(&output.buffer, bytemuck::cast_slice(&output.before));
            }
            context.wait()?;
            let start = Instant::now();
            plan.run(context)?;
            context.wait()?;
            seconds = start.elapsed().as_secs_f64();
            for (i, Output { buffer, .. }) in outputs.iter().enumerate() {
                let found = read(context, buffer, &OUTPUT_GUARD)?;
                let label = &buffer.label;
                if found.iter().any(|v| v.to_bits() == UNWRITTEN) {
                    return Err(Error::Data(format!("{label} has a word that nothing wrote")));
                }
                if round == 0 {
                    results.push(found);
                } else if let Some(at) =
                    (0..found.len()).find(|&at| found[at].to_bits() != results[i][at].to_bits())
                {
                    let (first, second) = (results[i][at], found[at]);
                    return Err(Error::Data(format!(
                        "{label} differs from run to run at [{at}]: {first:e} and {second:e}"
                    )));
                }
            }
        }
        for (input, words) in &inputs {
            if bits(&read(context, input, &INPUT_GUARD)?) != *words {
                return Err(Error::Data(format!("{} was changed", input.label)));
            }
        }
        let widened =
            |(output, found): (&Output, Vec<f32>)| (output.tensor, widened(found, output.tensor.storage));
        let outputs: Vec<_> = outputs.iter().zip(results).map(widened).collect();
        let judged = expected.iter().map(|expected| expected.judge(&outputs)).collect();
        Ok(Found { outputs, judged, seconds })
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The elements as f32.
fn widened(found: Vec<f32>, storage: Storage) -> Vec<f32> {
    if storage == Storage::F32 {
        return found;
    }
    let bits = found.iter().flat_map(|pair| [pair.to_bits() as u16, (pair.to_bits() >> 16) as u16]);
    bits.map(|bits| f16::from_bits(bits).to_f32()).collect()
}

/// Reads a buffer back and checks its guard words.
fn read(context: &Context, buffer: &Buffer, wanted: &[u32]) -> Result<Vec<f32>> {
    let mut found = context.read_guarded(buffer)?;
    let guard = found.split_off(buffer.words);
    if bits(&guard) != wanted {
        return Err(Error::Data(format!("{} was written past its end", buffer.label)));
    }
    Ok(found)
}
