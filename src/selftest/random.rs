//! Seeded data: the same numbers on every machine.

use crate::rng;
use std::collections::BTreeSet;

/// `count` normally distributed values; `stream` tells tensors apart.
pub fn normal(stream: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| rng::normal(1, stream, i) as f32).collect()
}

/// Normally distributed values times `factor`.
pub fn scaled(stream: u64, count: usize, factor: f32) -> Vec<f32> {
    normal(stream, count).into_iter().map(|v| v * factor).collect()
}

/// Random bytes.
pub fn bytes(stream: u64, count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| rng::bits(2, stream, i) as u8).collect()
}

/// All indices below `len`, or about `count` of them with the first and the last.
pub fn sample(len: usize, count: usize) -> Vec<usize> {
    if len <= count {
        return (0..len).collect();
    }
    let drawn = (0..count as u64).map(|i| rng::bits(3, len as u64, i) as usize % len);
    drawn.chain([0, len - 1]).collect::<BTreeSet<_>>().into_iter().collect()
}
