//! The embedding: every part scaled to unit length, then divided by √R; and the backward pass.

use super::part_linear::Layout;
use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("l2norm", include_str!("../../shaders/l2norm.wgsl"))
    .helpers(&[include_str!("../../shaders/common/reduction.wgsl")])
    .workgroup_size(WorkgroupSize::Constant("LANES"));

entry_points! {
    struct Params in 16 bytes { rows: u32, dim: u32, parts: u32 }
    fn l2norm_forward(x: read, y: write);
    /// Adds the gradient of x.
    fn l2norm_backward(x: read, dy: read, x_gradient: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let kernels = [FILE.kernel::<l2norm_forward>(), FILE.kernel::<l2norm_backward>()];
    let with = |lanes: u32| kernels.map(|kernel| (kernel, vec![("LANES", lanes)]));
    [4, 8, 16, 64].into_iter().flat_map(with).collect()
}

/// y = x / (‖x‖·√R) for each part.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Parts (B, R, D) or (R, B, D).
    pub x: Tensor,
    /// Embeddings (B, R·D), written.
    pub y: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Width of a part D.
    pub dim: usize,
    /// Order of the parts.
    pub layout: Layout,
}

impl Forward {
    /// Records the kernel with the number of invocations per part that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations per part, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let Forward { x, y, batch, parts, dim, layout } = *self;
        expect(recorder, "x", x, &[batch, parts, dim]);
        expect(recorder, "y", y, &[batch, parts, dim]);
        let params = Params { rows: u32_of(batch * parts), dim: u32_of(dim), parts: u32_of(parts) };
        FILE.launch(params, l2norm_forward { x, y })
            .constants(vec![("LANES", lanes)])
            .switch("PART_FIRST", layout == Layout::PartFirst)
            .workgroups(batch * parts)
            // A multiply-add for the norm, and a product.
            .record(recorder, name, 3.0 * x.len as f64);
    }
}

/// Adds the gradient of the parts of [`Forward`].
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Parts (B, R, D) or (R, B, D), as in the forward pass.
    pub x: Tensor,
    /// Gradient of the embeddings (B, R·D).
    pub dy: Tensor,
    /// Gradient of the parts in their order, read and written.
    pub dx: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Width of a part D.
    pub dim: usize,
    /// Order of the parts.
    pub layout: Layout,
}

impl Backward {
    /// Records the kernel with the number of invocations per part that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations per part, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let Backward { x, dy, dx, batch, parts, dim, layout } = *self;
        expect(recorder, "x", x, &[batch, parts, dim]);
        expect(recorder, "dy", dy, &[batch, parts, dim]);
        expect(recorder, "dx", dx, &[batch, parts, dim]);
        let params = Params { rows: u32_of(batch * parts), dim: u32_of(dim), parts: u32_of(parts) };
        FILE.launch(params, l2norm_backward { x, dy, x_gradient: dx })
            .constants(vec![("LANES", lanes)])
            .switch("PART_FIRST", layout == Layout::PartFirst)
            .workgroups(batch * parts)
            // Two multiply-adds for the sums, and two for the gradient.
            .record(recorder, name, 8.0 * x.len as f64);
    }
}
