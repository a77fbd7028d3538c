//! LayerScale's backward pass; forward it is [`super::gemm::Epilogue::scale`].

use super::{THREADS, expect, expect_quads, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The declaration of `layerscale.wgsl`, first stage.
pub static BACKWARD: Kernel = Kernel {
    name: "layerscale",
    source: include_str!("../../shaders/layerscale.wgsl"),
    helpers: &[],
    entry: "layerscale_backward",
    bindings: &[
        Binding::read("x").in_quads(),
        Binding::read("weight"),
        Binding::read("dy").in_quads(),
        Binding::write("x_gradient").in_quads(),
        Binding::write("partial"),
    ],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: true,
};

/// The declaration of `layerscale.wgsl`, second stage.
pub static SUM: Kernel = Kernel {
    entry: "layerscale_sum",
    bindings: &[Binding::read("chunk_sums"), Binding::write("dweight")],
    ..BACKWARD
};

/// Rows that one invocation sums, as in the WGSL.
const CHUNK: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    dim: u32,
    unused: [u32; 2],
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    vec![(&BACKWARD, vec![]), (&SUM, vec![])]
}

/// dx = dy·weight and dweight = Σ over rows of dy·x, where y = x·weight.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// (rows, D): what was scaled, kept by [`super::gemm::Epilogue::pre`].
    pub x: Tensor,
    /// (D).
    pub weight: Tensor,
    /// (rows, D).
    pub dy: Tensor,
    /// (rows, D), written.
    pub dx: Tensor,
    /// (D), written.
    pub dweight: Tensor,
    /// Number of rows.
    pub rows: usize,
    /// D.
    pub dim: usize,
}

impl Backward {
    /// Records both stages.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { x, weight, dy, dx, dweight, rows, dim } = *self;
        expect(recorder, "x", x, &[rows, dim]);
        expect_quads(recorder, dim);
        expect(recorder, "weight", weight, &[dim]);
        expect(recorder, "dy", dy, &[rows, dim]);
        expect(recorder, "dx", dx, &[rows, dim]);
        expect(recorder, "dweight", dweight, &[dim]);
        let sums = rows.div_ceil(CHUNK) * dim;
        let partial = recorder.tensor(&format!("{name}.partial"), sums);
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), unused: [0; 2] };
        recorder.dispatch(Dispatch {
            kernel: &BACKWARD,
            constants: vec![],
            overrides: vec![],
            tensors: vec![x, weight, dy, dx, partial],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d((sums / 4).div_ceil(THREADS)),
            // A product, and a multiply-add for the weight.
            flops: 3.0 * x.len as f64,
            label: recorder.label(name),
        });
        recorder.dispatch(Dispatch {
            kernel: &SUM,
            constants: vec![],
            overrides: vec![],
            tensors: vec![partial, dweight],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(dim.div_ceil(THREADS)),
            flops: sums as f64,
            label: recorder.label(&format!("{name}.sum")),
        });
    }
}
