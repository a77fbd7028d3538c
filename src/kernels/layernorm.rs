//! Layer normalisation of each row.

use super::{expect, expect_quads, u32_of};
use crate::gpu::{Access, Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The forward of `layernorm.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "layernorm",
    source: include_str!("../../shaders/layernorm.wgsl"),
    helpers: &[include_str!("../../shaders/common/reduce.wgsl")],
    entry: "layernorm_forward",
    bindings: &[
        Binding::read("x").in_quads(),
        Binding::write("y").in_quads(),
        Binding::read("bias"),
        Binding::read("weight"),
        Binding::write("stats"),
    ],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: true,
};

/// The gradient of its input.
pub static BACKWARD: Kernel = Kernel {
    entry: "layernorm_backward",
    bindings: &[
        Binding::read("x").in_quads(),
        Binding::read("kept_stats"),
        Binding::read("dy").in_quads(),
        Binding::read("weight"),
        Binding::read("addend").in_quads(),
        Binding::write("x_gradient").in_quads(),
    ],
    ..KERNEL
};

/// The gradients of its parameters, a chunk of rows at a time.
pub static PARTIALS: Kernel = Kernel {
    entry: "layernorm_partials",
    bindings: &[
        Binding::read("x").in_quads(),
        Binding::read("kept_stats"),
        Binding::read("dy").in_quads(),
        Binding::read("other_x").in_quads(),
        Binding::read("other_stats"),
        Binding::read("other_dy").in_quads(),
        Binding::write("partials"),
    ],
    ..KERNEL
};

/// The sum of the chunks.
pub static PARAMETERS: Kernel = Kernel {
    entry: "layernorm_parameters",
    bindings: &[
        Binding::read("kept_partials"),
        Binding::write("dweight"),
        Binding::write("dbias"),
        Binding::write("other_dweight"),
        Binding::write("other_dbias"),
    ],
    ..KERNEL
};

/// Most chunks that rows are cut into: with a workgroup per 64 columns enough for a GPU, and little memory.
const MOST_CHUNKS: usize = 64;
/// Fewest rows to a chunk.
const LEAST_ROWS: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    chunk: u32,
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    [&KERNEL, &BACKWARD, &PARTIALS, &PARAMETERS]
        .into_iter()
        .flat_map(|kernel| [4, 8, 16, 64].map(|lanes| (kernel, vec![("LANES", lanes)])))
        .collect()
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
    /// (rows, 2), written: mean and 1/√(variance + eps) of each row, for a backward pass.
    pub stats: Option<Tensor>,
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
        let Forward { x, weight, bias, y, stats, rows, dim, eps } = *self;
        expect(recorder, "x", x, &[rows, dim]);
        expect_quads(recorder, dim);
        expect(recorder, "weight", weight, &[dim]);
        expect(recorder, "bias", bias, &[dim]);
        expect(recorder, "y", y, &[rows, dim]);
        if let Some(stats) = stats {
            expect(recorder, "stats", stats, &[rows, 2]);
        }
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), eps, chunk: 0 };
        let unused = recorder.unused(Access::Write);
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![("LANES", lanes)],
            overrides: vec![("KEEP_STATS", f64::from(u8::from(stats.is_some())))],
            tensors: vec![x, y, bias, weight, stats.unwrap_or(unused)],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(rows),
            // The mean 1, the variance 3, y 4.
            flops: 8.0 * x.len as f64,
            label: recorder.label(name),
        });
    }
}

/// dx = rstd·(g - mean of g - x̂·mean of g·x̂) + addend, row by row, where g = dy·weight and x̂ = (x - mean)·rstd.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInput {
    /// (rows, D).
    pub x: Tensor,
    /// (rows, 2), as the forward kept it.
    pub stats: Tensor,
    /// (rows, D).
    pub dy: Tensor,
    /// (D).
    pub weight: Tensor,
    /// (rows, D): the gradient that reaches x past the norm.
    pub addend: Option<Tensor>,
    /// (rows, D), written.
    pub dx: Tensor,
    /// Number of rows.
    pub rows: usize,
    /// D.
    pub dim: usize,
}

impl BackwardInput {
    /// Records the kernel with as many lanes to a row as suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations to a row, a power of two.
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
        if let Some(addend) = addend {
            expect(recorder, "addend", addend, &[rows, dim]);
        }
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), eps: 0.0, chunk: 0 };
        let unused = recorder.unused(Access::Read);
        recorder.dispatch(Dispatch {
            kernel: &BACKWARD,
            constants: vec![("LANES", lanes)],
            overrides: vec![("HAS_ADDEND", f64::from(u8::from(addend.is_some())))],
            tensors: vec![x, stats, dy, weight, addend.unwrap_or(unused), dx],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(rows),
            // The two means 6, of which g 1 and x̂ 2, then dx 7 with both again, and the addend.
            flops: if addend.is_some() { 14.0 } else { 13.0 } * x.len as f64,
            label: recorder.label(name),
        });
    }
}

/// What the gradients of one norm's parameters come from, and where they go.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// (rows, D).
    pub x: Tensor,
    /// (rows, 2), as the forward kept it.
    pub stats: Tensor,
    /// (rows, D).
    pub dy: Tensor,
    /// (D), written.
    pub dweight: Tensor,
    /// (D), written.
    pub dbias: Tensor,
}

/// dweight = Σ dy·x̂ and dbias = Σ dy over all rows, of one norm or of two at once.
#[derive(Debug, Clone, Copy)]
pub struct BackwardParameters {
    /// The norm.
    pub norm: Parameters,
    /// Another one of as many rows.
    pub other: Option<Parameters>,
    /// Number of rows.
    pub rows: usize,
    /// D.
    pub dim: usize,
}

impl BackwardParameters {
    /// Records both stages, with as many columns to a workgroup as suits the adapter: same bits for any number.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records both stages with `lanes` columns to a workgroup.
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
        let (read, write) = (recorder.unused(Access::Read), recorder.unused(Access::Write));
        let none = Parameters { x: read, stats: read, dy: read, dweight: write, dbias: write };
        let second = other.unwrap_or(none);
        let chunk = rows.div_ceil(MOST_CHUNKS).max(LEAST_ROWS);
        let chunks = rows.div_ceil(chunk);
        let partials = recorder.tensor(&format!("{name}.partials"), norms * chunks * 2 * dim);
        let params = Params { rows: u32_of(rows), dim: u32_of(dim), eps: 0.0, chunk: u32_of(chunk) };
        let workgroups = |columns: usize| u32_of(columns.div_ceil(lanes as usize));
        recorder.dispatch(Dispatch {
            kernel: &PARTIALS,
            constants: vec![("LANES", lanes)],
            overrides: vec![],
            tensors: vec![norm.x, norm.stats, norm.dy, second.x, second.stats, second.dy, partials],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: [workgroups(dim / 4), u32_of(chunks), u32_of(norms)],
            // x̂ 2, its multiply-add 2, the bias 1.
            flops: 5.0 * (norms * rows * dim) as f64,
            label: recorder.label(&format!("{name}.partials")),
        });
        recorder.dispatch(Dispatch {
            kernel: &PARAMETERS,
            constants: vec![("LANES", lanes)],
            overrides: vec![],
            tensors: vec![partials, norm.dweight, norm.dbias, second.dweight, second.dbias],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: [workgroups(dim), 1, u32_of(norms)],
            flops: partials.len as f64,
            label: recorder.label(name),
        });
    }
}
