//! The harness itself: each of its checks fails when it should.

use crate::common::compare::compare;
use crate::common::context;
use crate::common::guard::Guarded;
use crate::common::tolerance::{self, UNIT};
use lat_wgpu::gpu::{Binding, Dispatch, Kernel};
use lat_wgpu::reference::Exact;

/// Writes y[i] = x[i] for `first` ≤ i < `end`, whatever the tensors' length.
static COPY: Kernel = Kernel {
    name: "copy",
    source: "
struct Params { first: u32, end: u32, unused_0: u32, unused_1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1)
fn copy(@builtin(workgroup_id) group: vec3u) {
    let i = params.first + group.x;
    if (i < params.end) {
        y[i] = x[i];
    }
}
",
    helpers: &[],
    entry: "copy",
    bindings: &[Binding::read("x"), Binding::write("y")],
    uniform_bytes: 16,
    subgroups: false,
    quads: false,
};

const LEN: usize = 10;

fn copy(first: u32, end: u32) -> Vec<f32> {
    let data: Vec<f32> = (0..LEN).map(|i| i as f32).collect();
    let mut run = Guarded::new("copy");
    let (x, y) = (run.input("x", &data), run.output("y", LEN));
    run.recorder.dispatch(Dispatch {
        kernel: &COPY,
        constants: vec![],
        overrides: vec![],
        tensors: vec![x, y],
        params: [first, end, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect(),
        grid: [end - first, 1, 1],
        flops: 0.0,
        label: "copy".to_string(),
    });
    run.run().remove(0)
}

#[test]
fn a_good_kernel_passes() {
    assert_eq!(copy(0, LEN as u32)[LEN - 1], (LEN - 1) as f32);
}

#[test]
#[should_panic(expected = "a word that nothing wrote")]
fn an_unwritten_first_word_is_caught() {
    copy(1, LEN as u32);
}

#[test]
#[should_panic(expected = "a word that nothing wrote")]
fn an_unwritten_last_word_is_caught() {
    copy(0, LEN as u32 - 1);
}

#[test]
#[should_panic(expected = "written past its end")]
fn a_word_past_the_end_is_caught() {
    copy(0, LEN as u32 + 1);
}

fn compare_with(error: f64, values: &[f64]) -> f64 {
    let got: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    let wanted = values.iter().enumerate().map(|(i, &value)| {
        let value = if i == 0 { value + error } else { value };
        (i, Exact { value, scale: value.abs() })
    });
    compare("harness", &got, wanted, tolerance::gemm(0))
}

#[test]
fn half_the_tolerance_is_fifty_percent() {
    assert!((compare_with(UNIT, &[1.0, -2.0]) - 50.0).abs() < 0.1);
}

#[test]
#[should_panic(expected = "of tolerance at [0]")]
fn one_wrong_value_among_many_is_caught() {
    compare_with(3.0 * UNIT, &[1.0; 1000]);
}

#[test]
#[should_panic(expected = "of tolerance at [0]")]
fn a_missing_number_is_caught() {
    compare("harness", &[f32::NAN], [(0, Exact { value: 1.0, scale: 1.0 })], tolerance::gemm(0));
}

#[test]
#[should_panic(expected = "NMSE")]
fn a_loose_bound_does_not_hide_a_bad_mean() {
    let exact = Exact { value: 1.0, scale: 1e6 };
    compare("harness", &[1.001], [(0, exact)], tolerance::gemm(0));
}

#[test]
fn the_adapter_reported_nothing() {
    context().check().unwrap();
}
