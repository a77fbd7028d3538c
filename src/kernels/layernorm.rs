//! Layer normalisation of each row.

use super::{expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The declaration of `layernorm.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "layernorm",
    source: include_str!("../../shaders/layernorm.wgsl"),
    helpers: &[include_str!("../../shaders/common/reduce.wgsl")],
    entry: "layernorm_forward",
    bindings: &[Binding::read("x"), Binding::read("weight"), Binding::read("bias"), Binding::write("y")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    unused: u32,
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    [4, 8, 16, 64].map(|lanes| (&KERNEL, vec![("LANES", lanes)])).to_vec()
}

/// y = (x - mean)·rstd·weight + bias, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (rows, D).
    pub x: Tensor,
    /// (D).
    pub weight: Tensor,
    /// (D).
    pub bias: Tensor,
    /// (rows, D), written.
    pub y: Tensor,
    /// Number of rows.
    pub rows: usize,
    /// D.
    pub dim: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl Forward {
    /// Records the kernel with as many lanes to a row as suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations to a row, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let Forward { x, weight, bias, y, rows, dim, eps } = *self;
        expect(recorder, "x", x, &[rows, dim]);
        expect(recorder, "weight", weight, &[dim]);
        expect(recorder, "bias", bias, &[dim]);
        expect(recorder, "y", y, &[rows, dim]);
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), eps, unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![("LANES", lanes)],
            overrides: vec![],
            tensors: vec![x, weight, bias, y],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(rows),
            flops: 8.0 * x.len as f64,
            label: recorder.label(name),
        });
    }
}
