//! Stochastic depth: a residual branch scaled by one factor per image, forward and backward.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("drop_path", include_str!("../../shaders/drop_path.wgsl")).quads();

entry_points! {
    struct Params in 16 bytes { batch: u32, length: u32, first: u32 }
    fn drop_path(x: read_quads, factors: read, residual: read_quads if HAS_RESIDUAL, y: write_quads);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<drop_path>(), vec![])]
}

/// y = x·factor (+ residual), with one factor per image.
#[derive(Debug, Clone, Copy)]
pub struct DropPath {
    /// Output of the branch (B, T, D); in the backward pass the gradient of y.
    pub x: Tensor,
    /// Residual stream (B, T, D); `None` in the backward pass.
    pub residual: Option<Tensor>,
    /// Sum (B, T, D), written; in the backward pass the gradient of x.
    pub y: Tensor,
    /// Factors of images: 0, or 1/(1 - p) with the probability p of a 0.
    pub factors: Tensor,
    /// Index of the first image's factor.
    pub first: usize,
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl DropPath {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let DropPath { x, residual, y, factors, first, batch, tokens, dim } = *self;
        expect(recorder, "x", x, &[batch, tokens, dim]);
        expect(recorder, "residual", residual, &[batch, tokens, dim]);
        expect(recorder, "y", y, &[batch, tokens, dim]);
        expect_quads(recorder, dim);
        assert!(first + batch <= factors.len, "{name}: {} factors for {batch} from {first}", factors.len);
        let params = Params { batch: u32_of(batch), length: u32_of(tokens * dim), first: u32_of(first) };
        let operations = if residual.is_some() { 2.0 } else { 1.0 };
        FILE.launch(params, drop_path { x, factors, residual, y }).invocations(x.len / 4).record(
            recorder,
            name,
            operations * x.len as f64,
        );
    }
}
