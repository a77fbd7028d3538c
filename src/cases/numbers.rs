//! Tensors of random numbers. Large ones repeat a period and are filled on the adapter: the host makes a million
//! numbers at most.

use crate::gpu::{Buffer, Context, Result, Storage, WORD};
use crate::rng;
use half::f16;

/// After so many numbers they repeat: four times a prime, so that no two rows of a matrix whose width is a multiple of
/// four begin alike.
pub const PERIOD: usize = 4 * 262_139;

/// Words of so many elements.
pub fn words(len: usize, storage: Storage) -> usize {
    len * storage.bytes() as usize / WORD as usize
}

/// The first `len` numbers of a stream, in [-1, 1), as `storage` holds them.
pub fn period(stream: u64, len: usize, storage: Storage) -> Vec<f32> {
    let value = |i: u64| 2.0 * rng::uniform(0, stream, i) - 1.0;
    let exact = (0..len as u64).map(value);
    match storage {
        Storage::F32 => exact.collect(),
        Storage::F16 | Storage::Packed => exact.map(|value| f16::from_f32(value).to_f32()).collect(),
    }
}

/// A buffer that holds these numbers in `storage`.
///
/// # Errors
/// If the adapter can't hold it.
pub fn upload(context: &Context, label: &str, numbers: &[f32], storage: Storage) -> Result<Buffer> {
    let buffer = context.buffer(label, words(numbers.len(), storage))?;
    match storage {
        Storage::F32 => context.write(&buffer, bytemuck::cast_slice(numbers)),
        Storage::F16 | Storage::Packed => {
            let halves: Vec<f16> = numbers.iter().map(|&value| f16::from_f32(value)).collect();
            context.write(&buffer, bytemuck::cast_slice(&halves));
        }
    }
    Ok(buffer)
}

/// A buffer of `len` numbers of a stream, an even count in halves: element i is number i mod [`PERIOD`].
///
/// # Errors
/// If the adapter can't hold it.
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
                    // The lower half of an even place, the upper one of an odd place.
                    _ => f16::from_bits((word >> (16 * (i % 2))) as u16).to_f32(),
                };
                assert_eq!(value, wanted, "{storage:?} {i}");
                assert!((-1.0..1.0).contains(&value));
            }
        }
    }
}
