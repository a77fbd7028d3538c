//! The embedding: every part scaled to unit length, then divided by √R.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("l2norm", include_str!("../../shaders/l2norm.wgsl"))
    .helpers(&[include_str!("../../shaders/common/reduction.wgsl")])
    .workgroup_size(WorkgroupSize::Constant("LANES"));

entry_points! {
    struct Params in 16 bytes { rows: u32, dim: u32, parts: u32 }
    fn l2norm_forward(x: read, y: write);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    [4, 8, 16, 64].map(|lanes| (FILE.kernel::<l2norm_forward>(), vec![("LANES", lanes)])).to_vec()
}

/// y = x / (‖x‖·√R) for each part.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Parts (B, R, D).
    pub x: Tensor,
    /// Embeddings (B, R·D), written.
    pub y: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Width of a part D.
    pub dim: usize,
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
        let Forward { x, y, batch, parts, dim } = *self;
        expect(recorder, "x", x, &[batch, parts, dim]);
        expect(recorder, "y", y, &[batch, parts, dim]);
        let params = Params { rows: u32_of(batch * parts), dim: u32_of(dim), parts: u32_of(parts) };
        FILE.launch(params, l2norm_forward { x, y })
            .constants(vec![("LANES", lanes)])
            .workgroups(batch * parts)
            // A multiply-add for the norm, and a product.
            .record(recorder, name, 3.0 * x.len as f64);
    }
}
