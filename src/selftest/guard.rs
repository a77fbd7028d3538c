//! Runs launches in memory that shows what they touched.
//!
//! Every buffer has guard words behind it that the kernel could reach. Outputs are filled with a NaN of known bits
//! beforehand. After the run all outputs must have been written, all guards and inputs be as they were; then everything
//! runs once more and must give the same bits. Guard words are NaN too: reading one into a result shows.

use crate::error::{Error, Result};
use crate::gpu::{self, Buffer, Context, Recorder, Storage, Tensor};
use half::f16;
use std::time::Instant;

/// Behind every input: more than the widest row of a tile.
const INPUT_GUARD: [u32; 256] = [0x7fc0_9a4d; 256];
/// Behind every output: another pattern, so that a word copied from guard to guard shows.
const OUTPUT_GUARD: [u32; 256] = [0x7fc0_57e1; 256];
/// In outputs before a run.
const UNWRITTEN: u32 = 0x7fc0_0bad;

/// A recording whose tensors are guarded buffers.
pub struct Guarded<'c> {
    /// Launches are recorded here.
    pub recorder: Recorder<'c>,
    storage: Storage,
    inputs: Vec<(Buffer, Vec<u32>)>,
    outputs: Vec<Output>,
    /// The first tensor that the adapter couldn't hold.
    failure: Option<gpu::Error>,
}

struct Output {
    tensor: Tensor,
    buffer: Buffer,
    /// The bits that it holds before a run.
    before: Vec<u32>,
}

/// What a run left.
pub struct Run {
    /// The outputs in the order of their making, as numbers.
    pub outputs: Vec<(Tensor, Vec<f32>)>,
    /// Of the second replay, from its submission to its end, in seconds.
    pub seconds: f64,
}

impl<'c> Guarded<'c> {
    /// An empty recording with activations stored so.
    pub fn new(context: &'c Context, storage: Storage) -> Self {
        let recorder = Recorder::with_storage(context, storage);
        Guarded { recorder, storage, inputs: Vec::new(), outputs: Vec::new(), failure: None }
    }

    /// `data` as activations of this recording hold it: halves round.
    pub fn rounded(&self, mut data: Vec<f32>) -> Vec<f32> {
        if self.storage != Storage::F32 {
            data.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
        }
        data
    }

    /// A tensor that holds `data`, which no launch may change.
    pub fn input(&mut self, label: &str, data: &[f32]) -> Tensor {
        self.input_of(label, bits(data), Storage::F32)
    }

    /// A tensor of these words, which no launch may change.
    pub fn words(&mut self, label: &str, words: &[u32]) -> Tensor {
        self.input_of(label, words.to_vec(), Storage::F32)
    }

    /// The same as [`Self::input`] in the recording's storage; halves round `data`.
    pub fn activation(&mut self, label: &str, data: &[f32]) -> Tensor {
        let words = match self.storage {
            Storage::F32 => bits(data),
            Storage::F16 | Storage::Packed => {
                let half = |value: f32| u32::from(f16::from_f32(value).to_bits());
                data.chunks(2).map(|pair| half(pair[0]) | half(pair[1]) << 16).collect()
            }
        };
        self.input_of(label, words, self.storage)
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

    /// A tensor of which launches must write every word.
    pub fn output(&mut self, label: &str, len: usize) -> Tensor {
        self.output_of(label, len, Storage::F32)
    }

    /// The same in the recording's storage.
    pub fn activation_output(&mut self, label: &str, len: usize) -> Tensor {
        self.output_of(label, len, self.storage)
    }

    fn output_of(&mut self, label: &str, len: usize, storage: Storage) -> Tensor {
        let words = len * storage.bytes() as usize / 4;
        let buffer = self.buffer(label, words, &OUTPUT_GUARD);
        let tensor = self.recorder.import_as(&buffer, storage);
        self.outputs.push(Output { tensor, buffer, before: vec![UNWRITTEN; words] });
        tensor
    }

    /// A tensor that holds `data` before a run and is read and written; it counts as an output.
    pub fn in_place(&mut self, label: &str, data: &[f32]) -> Tensor {
        let tensor = self.output(label, data.len());
        if let Some(output) = self.outputs.last_mut() {
            output.before = bits(data);
        }
        tensor
    }

    fn buffer(&mut self, label: &str, words: usize, guard: &[u32]) -> Buffer {
        let context = self.recorder.context;
        context.guarded_buffer(label, words, guard).unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            context.unallocated(label, words)
        })
    }

    /// Runs twice.
    ///
    /// # Errors
    /// [`Error::Gpu`] and [`Error::TooLarge`] in the driver's words; [`Error::Data`] if anything is unwritten, overwritten or
    /// not the same twice.
    pub fn run(self) -> Result<Run> {
        let Guarded { recorder, inputs, outputs, failure, .. } = self;
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
        Ok(Run { outputs: outputs.iter().zip(results).map(widened).collect(), seconds })
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Elements as numbers.
fn widened(found: Vec<f32>, storage: Storage) -> Vec<f32> {
    if storage == Storage::F32 {
        return found;
    }
    let halves = found.iter().flat_map(|pair| [pair.to_bits() as u16, (pair.to_bits() >> 16) as u16]);
    halves.map(|half| f16::from_bits(half).to_f32()).collect()
}

/// Reads a buffer back and checks the words behind it.
fn read(context: &Context, buffer: &Buffer, wanted: &[u32]) -> Result<Vec<f32>> {
    let mut found = context.read_guarded(buffer)?;
    let guard = found.split_off(buffer.words);
    if bits(&guard) != wanted {
        return Err(Error::Data(format!("{} was written past its end", buffer.label)));
    }
    Ok(found)
}
