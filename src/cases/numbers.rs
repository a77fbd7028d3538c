//! Tensors of random numbers. Large ones repeat with a period and are filled on the adapter, so the host makes about a
//! million numbers at most.

use crate::gpu::{Buffer, Context, Result, Storage, WORD};
use crate::rng;
use half::f16;

/// Numbers repeat with this period. It is four times a prime, so no two rows of a matrix begin with the same numbers if
/// its width is a multiple of four.
pub const PERIOD: usize = 4 * 262_139;

/// Words that `len` elements take in `storage`.
pub fn words(len: usize, storage: Storage) -> usize {
    len * storage.bytes() as usize / WORD as usize
}

/// The first `len` numbers of a stream, in [-1, 1), rounded to `storage`.
pub fn period(stream: u64, len: usize, storage: Storage) -> Vec<f32> {
    let value = |i: u64| 2.0 * rng::uniform(0, stream, i) - 1.0;
    let exact = (0..len as u64).map(value);
    match storage {
        Storage::F32 => exact.collect(),
        Storage::F16 | Storage::Packed => exact.map(|value| f16::from_f32(value).to_f32()).collect(),
    }
}

/// A buffer that holds `numbers` in `storage`.
///
/// # Errors
/// If the adapter has too little memory.
pub fn upload(context: &Context, label: &str, numbers: &[f32], storage: Storage) -> Result<Buffer> {
    let buffer = context.buffer(label, words(numbers.len(), storage))?;
    match storage {
        Storage::F32 => context.write(&buffer, bytemuck::cast_slice(numbers)),
        Storage::F16 | Storage::Packed => {
            let rounded: Vec<f16> = numbers.iter().map(|&value| f16::from_f32(value)).collect();
            context.write(&buffer, bytemuck::cast_slice(&rounded));
        }
    }
    Ok(buffer)
}

/// A buffer of `len` numbers of a stream; `len` must be even for f16. Element i is number i mod [`PERIOD`].
///
/// # Errors
/// If the adapter has too little memory.
pub fn tensor(context: &Context, label: &str, stream: u64, len: usize, storage: Storage) -> Result<Buffer> {
    let first = period(stream, len.min(PERIOD), storage);
    if len <= PERIOD {
        return upload(context, label, &first, storage);
    }
    let buffer = context.buffer(label, words(len, storage))?;
    context.fill(&buffer, &upload(context, "period", &first, storage)?);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::ContextOptions;

    #[test]
    fn long_tensors_repeat_their_period_on_the_adapter() {
        let context = Context::open(&ContextOptions::from_environment(None)).unwrap();
        let len = 2 * PERIOD + 12;
        for storage in [Storage::F32, Storage::Packed] {
            let first = period(3, PERIOD, storage);
            let buffer = tensor(&context, "long", 3, len, storage).unwrap();
            let places = [0, 1, PERIOD - 2, PERIOD, PERIOD + 6, 2 * PERIOD, len - 2];
            let found = context.read_words(&buffer, &places.map(|i| words(i, storage))).unwrap();
            for (i, word) in places.into_iter().zip(found) {
                let wanted = first[i % PERIOD];
                let value = match storage {
                    Storage::F32 => f32::from_bits(word),
                    // The low half of the word at an even place, the high half at an odd one.
                    _ => f16::from_bits((word >> (16 * (i % 2))) as u16).to_f32(),
                };
                assert_eq!(value, wanted, "{storage:?} {i}");
                assert!((-1.0..1.0).contains(&value));
            }
        }
    }
}
