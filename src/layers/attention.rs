//! Multi-head self-attention with its two projections [LAT eq. 3].

use super::Sequence;
use super::linear::Linear;
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{attention, gemm};

/// Parameters of self-attention.
#[derive(Debug, Clone)]
pub struct Attention {
    /// D → 3·D: queries, keys, values.
    pub qkv: Linear,
    /// D → D.
    pub proj: Linear,
    /// LayerScale of the branch (D).
    pub scale: Option<Buffer>,
    /// H.
    pub heads: usize,
}

impl Attention {
    /// Records residual + scale·proj(attention(qkv(x))), all (B, T, D).
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        x: Tensor,
        residual: Tensor,
        shape: Sequence,
    ) -> Tensor {
        // 1. Queries, keys and values of all heads in one product.
        let qkv = self.qkv.forward(recorder, "attn.qkv", x, shape.rows(), gemm::Epilogue::default());
        // 2. Heads, scores, softmax and context in one kernel.
        let out = recorder.tensor("attn.context", shape.len());
        attention::Forward {
            qkv,
            out,
            lse: None,
            batch: shape.batch,
            tokens: shape.tokens,
            heads: self.heads,
            head_dim: shape.dim / self.heads,
        }
        .record(recorder, "attn.softmax");
        // 3. Back to the residual stream.
        let scale = self.scale.as_ref().map(|scale| recorder.import(scale));
        let epilogue = gemm::Epilogue { scale, residual: Some(residual), ..Default::default() };
        self.proj.forward(recorder, "attn.proj", out, shape.rows(), epilogue)
    }
}
