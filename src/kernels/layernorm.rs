//! Layer normalisation of each row.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("layernorm", include_str!("../../shaders/layernorm.wgsl"))
    .helpers(&[include_str!("../../shaders/common/reduction.wgsl")])
    .workgroup_size(WorkgroupSize::Constant("LANES"))
    .quads();

entry_points! {
    struct Params in 16 bytes { rows: u32, dim: u32, eps: f32, chunk: u32 }
    fn layernorm_forward(x: read_quads, y: write_quads, bias: read, weight: read, stats: write if KEEP_STATS);
    /// Gradient of the input.
    fn layernorm_backward(
        x: read_quads, kept_stats: read, dy: read_quads, weight: read, addend: read_quads if HAS_ADDEND,
        x_gradient: write_quads
    );
    /// Gradients of the parameters, summed over chunks of rows.
    fn layernorm_partials(
        x: read_quads, kept_stats: read, dy: read_quads,
        other_x: read_quads if _, other_stats: read if _, other_dy: read_quads if _, partials: write
    );
    /// Sums of the chunks.
    fn layernorm_parameters(
        kept_partials: read, dweight: write, dbias: write, other_dweight: write if _, other_dbias: write if _
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let kernels = [
        FILE.kernel::<layernorm_forward>(),
        FILE.kernel::<layernorm_backward>(),
        FILE.kernel::<layernorm_partials>(),
        FILE.kernel::<layernorm_parameters>(),
    ];
    let lanes = |kernel| [4, 8, 16, 64].map(|lanes| (kernel, vec![("LANES", lanes)]));
    kernels.into_iter().flat_map(lanes).collect()
}

/// Largest number of chunks of rows. With one workgroup per 64 columns this occupies a GPU and takes little memory.
const MOST_CHUNKS: usize = 64;
/// Smallest number of rows per chunk.
const LEAST_ROWS: usize = 16;

/// y = (x - mean)·rstd·weight + bias for each row.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Input (rows, D).
    pub x: Tensor,
    /// Weight (D).
    pub weight: Tensor,
    /// Bias (D).
    pub bias: Tensor,
    /// Output (rows, D), written.
    pub y: Tensor,
    /// Mean and 1/√(variance + eps) of each row (rows, 2), written: needed for a backward pass.
    pub stats: Option<Tensor>,
    /// Number of rows.
    pub rows: usize,
    /// Row length D.
    pub dim: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl Forward {
    /// Records the kernel with the number of invocations per row that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations per row, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let Forward { x, weight, bias, y, stats, rows, dim, eps } = *self;
        expect(recorder, "x", x, &[rows, dim]);
        expect_quads(recorder, dim);
        expect(recorder, "weight", weight, &[dim]);
        expect(recorder, "bias", bias, &[dim]);
        expect(recorder, "y", y, &[rows, dim]);
        expect(recorder, "stats", stats, &[rows, 2]);
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), eps, chunk: 0 };
        FILE.launch(params, layernorm_forward { x, y, bias, weight, stats })
            .constants(vec![("LANES", lanes)])
            .workgroups(rows)
            // Mean 1, variance 3, y 4.
            .record(recorder, name, 8.0 * x.len as f64);
    }
}

/// dx = rstd·(g - mean of g - x̂·mean of g·x̂) + addend for each row, with g = dy·weight and x̂ = (x - mean)·rstd.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInput {
    /// Input of [`Forward`] (rows, D).
    pub x: Tensor,
    /// Statistics of [`Forward`] (rows, 2).
    pub stats: Tensor,
    /// Gradient of the output (rows, D).
    pub dy: Tensor,
    /// Weight (D).
    pub weight: Tensor,
    /// Gradient of the residual path around the norm (rows, D), added to dx.
    pub addend: Option<Tensor>,
    /// Gradient of the input (rows, D), written.
    pub dx: Tensor,
    /// Number of rows.
    pub rows: usize,
    /// Row length D.
    pub dim: usize,
}

impl BackwardInput {
    /// Records the kernel with the number of invocations per row that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations per row, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let BackwardInput { x, stats, dy, weight, addend, dx, rows, dim } = *self;
        expect(recorder, "x", x, &[rows, dim]);
        expect_quads(recorder, dim);
        expect(recorder, "stats", stats, &[rows, 2]);
        expect(recorder, "dy", dy, &[rows, dim]);
        expect(recorder, "weight", weight, &[dim]);
        expect(recorder, "dx", dx, &[rows, dim]);
        expect(recorder, "addend", addend, &[rows, dim]);
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), eps: 0.0, chunk: 0 };
        FILE.launch(params, layernorm_backward { x, kept_stats: stats, dy, weight, addend, x_gradient: dx })
            .constants(vec![("LANES", lanes)])
            .workgroups(rows)
            // The two means 6 (of these g 1 and x̂ 2), then dx 7 (with both again), and the addend 1.
            .record(recorder, name, if addend.is_some() { 14.0 } else { 13.0 } * x.len as f64);
    }
}

/// Operands and results of the parameter gradients of one norm.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// Input of [`Forward`] (rows, D).
    pub x: Tensor,
    /// Statistics of [`Forward`] (rows, 2).
    pub stats: Tensor,
    /// Gradient of the output (rows, D).
    pub dy: Tensor,
    /// Gradient of the weight (D), written.
    pub dweight: Tensor,
    /// Gradient of the bias (D), written.
    pub dbias: Tensor,
}

/// dweight = Σ dy·x̂ and dbias = Σ dy over all rows, for one norm or two.
#[derive(Debug, Clone, Copy)]
pub struct BackwardParameters {
    /// The norm.
    pub norm: Parameters,
    /// A second norm with as many rows.
    pub other: Option<Parameters>,
    /// Number of rows.
    pub rows: usize,
    /// Row length D.
    pub dim: usize,
}

impl BackwardParameters {
    /// Records both stages with the number of columns per workgroup that suits the adapter. The bits are the same.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records both stages with `lanes` columns per workgroup.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let BackwardParameters { norm, other, rows, dim } = *self;
        for Parameters { x, stats, dy, dweight, dbias } in std::iter::once(norm).chain(other) {
            expect(recorder, "x", x, &[rows, dim]);
            expect(recorder, "stats", stats, &[rows, 2]);
            expect(recorder, "dy", dy, &[rows, dim]);
            expect(recorder, "dweight", dweight, &[dim]);
            expect(recorder, "dbias", dbias, &[dim]);
        }
        expect_quads(recorder, dim);
        let norms = 1 + usize::from(other.is_some());
        let chunk = rows.div_ceil(MOST_CHUNKS).max(LEAST_ROWS);
        let chunks = rows.div_ceil(chunk);
        let partials = recorder.tensor(&format!("{name}.partials"), norms * chunks * 2 * dim);
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), eps: 0.0, chunk: u32_of(chunk) };
        let workgroups = |columns: usize| u32_of(columns.div_ceil(lanes as usize));
        let tensors = layernorm_partials {
            x: norm.x,
            kept_stats: norm.stats,
            dy: norm.dy,
            other_x: other.map(|norm| norm.x),
            other_stats: other.map(|norm| norm.stats),
            other_dy: other.map(|norm| norm.dy),
            partials,
        };
        FILE.launch(params, tensors)
            .constants(vec![("LANES", lanes)])
            .grid([workgroups(dim / 4), u32_of(chunks), u32_of(norms)])
            // x̂ 2, its multiply-add 2, the bias 1.
            .record(recorder, &format!("{name}.partials"), 5.0 * (norms * rows * dim) as f64);
        let tensors = layernorm_parameters {
            kept_partials: partials,
            dweight: norm.dweight,
            dbias: norm.dbias,
            other_dweight: other.map(|norm| norm.dweight),
            other_dbias: other.map(|norm| norm.dbias),
        };
        FILE.launch(params, tensors)
            .constants(vec![("LANES", lanes)])
            .grid([workgroups(dim), 1, u32_of(norms)])
            .record(recorder, name, partials.len as f64);
    }
}
