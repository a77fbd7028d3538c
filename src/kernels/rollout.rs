//! Attention rollout for one image: the attention of a block as a T × T matrix, and a row multiplied by it.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("rollout", include_str!("../../shaders/rollout.wgsl"));

entry_points! {
    struct Params in 16 bytes { tokens: u32, heads: u32, quads: u32, scale: f32 }
    /// Mean attention over a block's heads, blended with the identity for the residual path.
    fn rollout_probabilities(qkv: read, lse: read, mixed: write);
    /// Multiplies a row by such a matrix.
    fn rollout_multiply(row: read, matrix: read, carried: write);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<rollout_probabilities>(), vec![]), (FILE.kernel::<rollout_multiply>(), vec![])]
}

/// mixed = ½·mean over heads of softmax(Q·Kᵀ/√Dh) + ½·identity, for one image.
#[derive(Debug, Clone, Copy)]
pub struct Probabilities {
    /// Queries, keys and values (T, 3, H, Dh).
    pub qkv: Tensor,
    /// Log-sum-exp of each row of scores (H, T), from [`attention::Forward`](super::attention::Forward).
    pub lse: Tensor,
    /// Blended attention (T, T), written. Rows are queries and sum to 1.
    pub mixed: Tensor,
    /// Tokens per image T.
    pub tokens: usize,
    /// Heads H.
    pub heads: usize,
    /// Width of a head Dh, a multiple of 4.
    pub head_dim: usize,
}

impl Probabilities {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or Dh isn't a multiple of 4.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Probabilities { qkv, lse, mixed, tokens, heads, head_dim } = *self;
        assert!(head_dim.is_multiple_of(4), "{name}: head width {head_dim} isn't a multiple of 4");
        expect(recorder, "qkv", qkv, &[tokens, 3, heads, head_dim]);
        expect(recorder, "lse", lse, &[heads, tokens]);
        expect(recorder, "mixed", mixed, &[tokens, tokens]);
        let params = Params {
            tokens: u32_of(tokens),
            heads: u32_of(heads),
            quads: u32_of(head_dim / 4),
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        FILE.launch(params, rollout_probabilities { qkv, lse, mixed })
            .invocations(mixed.len)
            // Per head a product of rows, then scale, lse, exp and sum; then the mean and the residual path.
            .record(recorder, name, (mixed.len * (heads * (2 * head_dim + 4) + 2)) as f64);
    }
}

/// carried\[j\] = Σ_i row\[i\]·matrix\[i,j\].
#[derive(Debug, Clone, Copy)]
pub struct Multiply {
    /// Row (T).
    pub row: Tensor,
    /// Matrix (T, T).
    pub matrix: Tensor,
    /// Product (T), written.
    pub carried: Tensor,
    /// Tokens T.
    pub tokens: usize,
}

impl Multiply {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Multiply { row, matrix, carried, tokens } = *self;
        expect(recorder, "row", row, &[tokens]);
        expect(recorder, "matrix", matrix, &[tokens, tokens]);
        expect(recorder, "carried", carried, &[tokens]);
        let params = Params { tokens: u32_of(tokens), heads: 0, quads: 0, scale: 0.0 };
        let launch = FILE.launch(params, rollout_multiply { row, matrix, carried }).invocations(tokens);
        launch.record(recorder, name, 2.0 * matrix.len as f64);
    }
}
