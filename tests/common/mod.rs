//! Helpers of tests that use the adapter.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod compare;
pub mod differences;
pub mod recordings;

pub use lat_wgpu::cases::{random, tolerance};
use lat_wgpu::gpu::{Context, ContextOptions};
use std::sync::OnceLock;

/// The adapter shared by all tests of a binary, chosen by `LAT_ADAPTER` and `LAT_LIMITS=default`.
pub fn context() -> &'static Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT.get_or_init(|| {
        let context = Context::open(&ContextOptions::from_environment(None)).expect("an adapter");
        println!("{context:?}");
        context
    })
}

/// The bits of every value. Comparing floats would take NaN as unequal to itself, and -0 as equal to 0.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Asserts that two results are bit-identical.
#[track_caller]
pub fn assert_same_bits(case: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{case}: lengths");
    if let Some(i) = (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits()) {
        panic!("{case}: bits differ at {i}: {} and {}", a[i], b[i]);
    }
}

/// Asserts that each of `count` equal pieces of `data` gives the same bits alone as among all.
#[track_caller]
pub fn alone(data: &[f32], count: usize, run: impl Fn(&[f32]) -> Vec<Vec<f32>>) {
    let all = run(data);
    for (i, piece) in data.chunks(data.len() / count).enumerate() {
        for (output, (all, alone)) in all.iter().zip(run(piece)).enumerate() {
            let of_all = &all[i * alone.len()..][..alone.len()];
            assert_same_bits(&format!("output {output} of piece {i}"), of_all, &alone);
        }
    }
}
