//! Backward pass of LayerScale. The forward pass is [`super::gemm::Epilogue::scale`].

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile =
    ShaderFile::new("layerscale", include_str!("../../shaders/layerscale.wgsl")).quads();

entry_points! {
    struct Params in 16 bytes { rows: u32, dim: u32 }
    fn layerscale_backward(x: read_quads, weight: read, dy: read_quads, x_gradient: write_quads, partial: write);
    /// Sums of the chunks.
    fn layerscale_sum(chunk_sums: read, dweight: write);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<layerscale_backward>(), vec![]), (FILE.kernel::<layerscale_sum>(), vec![])]
}

/// CHUNK of `layerscale.wgsl`: rows that one invocation sums.
const CHUNK: usize = 64;

/// dx = dy·weight and dweight = Σ_rows dy·x, where y = x·weight.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Input of the scaling (rows, D), stored by [`super::gemm::Epilogue::pre`].
    pub x: Tensor,
    /// Weight (D).
    pub weight: Tensor,
    /// Gradient of the output (rows, D).
    pub dy: Tensor,
    /// Gradient of the input (rows, D), written.
    pub dx: Tensor,
    /// Gradient of the weight (D), written.
    pub dweight: Tensor,
    /// Number of rows.
    pub rows: usize,
    /// Row length D.
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
        let params = Params { rows: u32_of(rows), dim: u32_of(dim) };
        FILE.launch(params, layerscale_backward { x, weight, dy, x_gradient: dx, partial })
            .invocations(sums / 4)
            // A product, and a multiply-add for dweight.
            .record(recorder, name, 3.0 * x.len as f64);
        let launch = FILE.launch(params, layerscale_sum { chunk_sums: partial, dweight }).invocations(dim);
        launch.record(recorder, &format!("{name}.sum"), sums as f64);
    }
}
