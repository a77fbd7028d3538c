//! Runs launches in memory that shows what they touched.
//!
//! Every buffer has guard words behind it that the kernel could reach. Outputs are filled with a NaN of known bits
//! beforehand. After the run all outputs must have been written, all guards and inputs be as they were; then everything
//! runs once more and must give the same bits. Guard words are NaN too: reading one into a result shows.

use super::{assert_same_bits, bits, context};
use half::f16;
use lat_wgpu::gpu::{Buffer, Recorder, Storage, Tensor};

/// Behind every input: more than the widest row of a tile.
const INPUT_GUARD: [u32; 256] = [0x7fc0_9a4d; 256];
/// Behind every output: another pattern, so that a word copied from guard to guard shows.
const OUTPUT_GUARD: [u32; 256] = [0x7fc0_57e1; 256];
/// In outputs before a run.
const UNWRITTEN: u32 = 0x7fc0_0bad;

/// A recording whose tensors are guarded buffers.
pub struct Guarded {
    case: String,
    /// Launches are recorded here.
    pub recorder: Recorder<'static>,
    storage: Storage,
    inputs: Vec<(Buffer, Vec<u32>)>,
    /// With the bits that they hold before a run, and how their elements are stored.
    outputs: Vec<(Buffer, Vec<u32>, Storage)>,
}

impl Guarded {
    /// An empty recording; `case` stands in messages.
    pub fn new(case: &str) -> Self {
        Self::with_storage(case, Storage::F32)
    }

    /// An empty recording with activations stored so.
    pub fn with_storage(case: &str, storage: Storage) -> Self {
        let recorder = Recorder::with_storage(context(), storage);
        Guarded { case: case.to_string(), recorder, storage, inputs: Vec::new(), outputs: Vec::new() }
    }

    /// A tensor that holds `data`, which no launch may change.
    pub fn input(&mut self, label: &str, data: &[f32]) -> Tensor {
        self.input_of(label, bits(data), Storage::F32)
    }

    /// The same in the recording's storage; halves round `data`.
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
        let buffer = context().guarded_buffer(label, words.len(), &INPUT_GUARD).unwrap();
        context().write(&buffer, &to_bytes(&words));
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
        let buffer = context().guarded_buffer(label, words, &OUTPUT_GUARD).unwrap();
        let tensor = self.recorder.import_as(&buffer, storage);
        self.outputs.push((buffer, vec![UNWRITTEN; words], storage));
        tensor
    }

    /// A tensor that holds `data` before a run and is read and written; it counts as an output.
    pub fn in_place(&mut self, label: &str, data: &[f32]) -> Tensor {
        let tensor = self.output(label, data.len());
        if let Some((_, before, _)) = self.outputs.last_mut() {
            *before = bits(data);
        }
        tensor
    }

    /// Runs twice; gives the outputs in the order of their making.
    ///
    /// # Panics
    /// If anything is unwritten, overwritten or not the same twice.
    #[track_caller]
    pub fn run(self) -> Vec<Vec<f32>> {
        let Guarded { case, recorder, inputs, outputs, .. } = self;
        let plan = recorder.finish().unwrap();
        let mut results: Vec<Vec<f32>> = Vec::new();
        for round in 0..2 {
            for (output, before, _) in &outputs {
                context().write(output, &to_bytes(before));
            }
            plan.run(context()).unwrap();
            for (i, (output, ..)) in outputs.iter().enumerate() {
                let found = read(&case, output, &OUTPUT_GUARD);
                let hole = found.iter().position(|v| v.to_bits() == UNWRITTEN);
                assert_eq!(hole, None, "{case}: {} has a word that nothing wrote", output.label);
                if round == 0 {
                    results.push(found);
                } else {
                    assert_same_bits(&format!("{case}: {} a second time", output.label), &results[i], &found);
                }
            }
        }
        for (input, words) in &inputs {
            assert!(bits(&read(&case, input, &INPUT_GUARD)) == *words, "{case}: {} was changed", input.label);
        }
        let storages = outputs.iter().map(|(.., storage)| *storage);
        results.into_iter().zip(storages).map(|(found, storage)| widened(found, storage)).collect()
    }
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
#[track_caller]
fn read(case: &str, buffer: &Buffer, wanted: &[u32]) -> Vec<f32> {
    let mut found = context().read_guarded(buffer).unwrap();
    let guard = found.split_off(buffer.words);
    assert!(bits(&guard) == wanted, "{case}: {} was written past its end", buffer.label);
    found
}

fn to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
