//! Tests of the harness: each of its checks fails when it should.

use crate::common::compare::compare;
use crate::common::context;
use crate::common::recordings::outputs;
use crate::common::tolerance::{self, UNIT};
use lat_wgpu::entry_points;
use lat_wgpu::gpu::ShaderFile;
use lat_wgpu::reference::Exact;

/// Writes y[i] = x[i] for `first` ≤ i < `end`, even beyond the tensors' length.
static COPY: ShaderFile = ShaderFile::new(
    "copy",
    "
struct Params { first: u32, end: u32 }
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
);

entry_points! {
    struct Params in 8 bytes { first: u32, end: u32 }
    fn copy(x: read, y: write);
}

const LEN: usize = 10;

fn copied(first: u32, end: u32) -> Vec<f32> {
    let data: Vec<f32> = (0..LEN).map(|i| i as f32).collect();
    outputs("copy", |run| {
        let (x, y) = (run.operand("x", &data).tensor, run.output("y", LEN));
        let launch = COPY.launch(Params { first, end }, copy { x, y }).workgroups((end - first) as usize);
        launch.record(&mut run.recorder, "copy", 0.0);
    })
    .remove(0)
}

#[test]
fn a_good_kernel_passes() {
    assert_eq!(copied(0, LEN as u32)[LEN - 1], (LEN - 1) as f32);
}

#[test]
#[should_panic(expected = "a word that nothing wrote")]
fn an_unwritten_first_word_is_caught() {
    copied(1, LEN as u32);
}

#[test]
#[should_panic(expected = "a word that nothing wrote")]
fn an_unwritten_last_word_is_caught() {
    copied(0, LEN as u32 - 1);
}

#[test]
#[should_panic(expected = "written past its end")]
fn a_word_past_the_end_is_caught() {
    copied(0, LEN as u32 + 1);
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
fn a_nan_is_caught() {
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
