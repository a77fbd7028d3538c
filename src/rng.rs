//! Counter-based random numbers: a number depends on (seed, stream, index) alone, not on earlier numbers.
//!
//! Any thread, or a GPU kernel, can compute any number in any order. All arithmetic is wrapping u32, as in WGSL. The
//! upper 32 bits of a seed, stream or index are one more word.

use std::f64::consts::TAU;

/// A uniform number in [0, 1), a multiple of 2⁻²⁴.
///
/// `stream` separates uses, for example layers; `index` counts within a stream.
pub fn uniform(seed: u64, stream: u64, index: u64) -> f32 {
    // f32 holds 24 bits exactly.
    (bits(seed, stream, index) >> 8) as f32 / (1 << 24) as f32
}

/// A normal number with mean 0 and deviation 1, by the Box–Muller transform.
pub fn normal(seed: u64, stream: u64, index: u64) -> f64 {
    // 1 − u is in (0, 1]: its logarithm is finite.
    let radius = (-2.0 * (1.0 - f64::from(uniform(seed, stream, 2 * index))).ln()).sqrt();
    let angle = TAU * f64::from(uniform(seed, stream, 2 * index + 1));
    radius * angle.cos()
}

/// 32 random bits.
pub fn bits(seed: u64, stream: u64, index: u64) -> u32 {
    [seed, stream, index]
        .into_iter()
        .flat_map(|word| [word as u32, (word >> 32) as u32])
        .fold(0x9e37_79b9, |hash, word| mix(hash ^ word).wrapping_add(0x85eb_ca6b))
}

/// Mixes the bits of a word reversibly, with the constants of `lowbias32`.
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        // Training with a seed must be reproducible.
        assert_eq!(bits(0, 0, 0), 2_899_088_435);
        assert_eq!(bits(1, 0, 0), 1_588_218_696);
        assert_eq!(bits(0, 1, 0), 3_814_425_976);
        assert_eq!(bits(0, 0, 1), 3_291_199_712);
        assert_eq!(uniform(0, 0, 0), (2_899_088_435u32 >> 8) as f32 / 16_777_216.0);
    }

    #[test]
    fn upper_words_count() {
        let high = 1 << 32;
        let all = [bits(0, 0, 0), bits(high, 0, 0), bits(0, high, 0), bits(0, 0, high)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn uniform_is_flat_and_uncorrelated() {
        const COUNT: u64 = 100_000;
        for (seed, stream) in [(0, 0), (1, 0), (0, 1), (u64::MAX, 12)] {
            let numbers: Vec<f64> = (0..COUNT).map(|i| f64::from(uniform(seed, stream, i))).collect();
            assert!(numbers.iter().all(|v| (0.0..1.0).contains(v)));
            let mean = numbers.iter().sum::<f64>() / COUNT as f64;
            assert!((mean - 0.5).abs() < 0.004, "mean {mean}");
            let step: f64 = numbers.windows(2).map(|w| (w[0] - 0.5) * (w[1] - 0.5)).sum();
            assert!((step / COUNT as f64).abs() < 0.0012, "neighbours {step}");
            let mut buckets = [0u32; 16];
            numbers.iter().for_each(|v| buckets[(v * 16.0) as usize] += 1);
            assert!(buckets.iter().all(|b| b.abs_diff(6_250) < 400), "{buckets:?}");
        }
    }
}
