//! The embedding: every part scaled to unit length, then all by 1/√R.

use super::{expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The declaration of `l2norm.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "l2norm",
    source: include_str!("../../shaders/l2norm.wgsl"),
    helpers: &[include_str!("../../shaders/common/reduce.wgsl")],
    entry: "l2norm_forward",
    bindings: &[Binding::read("x"), Binding::write("y")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: false,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    dim: u32,
    parts: u32,
    unused: u32,
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    [4, 8, 16, 64].map(|lanes| (&KERNEL, vec![("LANES", lanes)])).to_vec()
}

/// y = x / (‖x‖·√R), part by part.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B, R, D).
    pub x: Tensor,
    /// (B, R·D), written.
    pub y: Tensor,
    /// B.
    pub batch: usize,
    /// R.
    pub parts: usize,
    /// D.
    pub dim: usize,
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
        let Forward { x, y, batch, parts, dim } = *self;
        expect(recorder, "x", x, &[batch, parts, dim]);
        expect(recorder, "y", y, &[batch, parts, dim]);
        let params =
            Params { rows: u32_of(batch * parts), dim: u32_of(dim), parts: u32_of(parts), unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![("LANES", lanes)],
            overrides: vec![],
            tensors: vec![x, y],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(batch * parts),
            // A multiply-add for the length and a product.
            flops: 3.0 * x.len as f64,
            label: recorder.label(name),
        });
    }
}
