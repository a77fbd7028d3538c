//! Multi-head self-attention with its two projections [LAT eq. 3].

use super::linear::Linear;
use super::reattention::{self, ReAttention};
use super::{Branch, Drop, Grad, Sequence};
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{attention, gemm, rollout};

/// Parameters of self-attention.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Queries, keys and values: D → 3·D.
    pub qkv: Linear,
    /// Output projection: D → D.
    pub proj: Linear,
    /// LayerScale of the branch (D), if any.
    pub scale: Option<Buffer>,
    /// Number of attention heads H.
    pub heads: usize,
    /// Exchange of attention maps between the heads, if any.
    pub reattention: Option<ReAttention>,
}

/// Tensors that the backward pass of self-attention reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Input (B, T, D).
    x: Tensor,
    /// Queries, keys and values (B, T, 3, H, Dh).
    qkv: Tensor,
    /// Weights of the values, as the backward pass needs them.
    weights: Weights,
    /// Output of the heads (B, T, H·Dh).
    context: Tensor,
    branch: Branch,
}

/// The weights of the values.
#[derive(Debug, Clone, Copy)]
enum Weights {
    /// Never stored: log-sum-exp of the scores (B, H, T) gives them again.
    Fused(Tensor),
    /// Re-attention.
    Mixed(reattention::Saved),
}

impl Attention {
    /// Records residual + drop·scale·proj(attention(qkv(x))), all (B, T, D). Re-attention uses the statistics of the
    /// batch if `training`.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        x: Tensor,
        residual: Tensor,
        (drop, training): (Option<Drop>, bool),
        shape: Sequence,
    ) -> (Tensor, Saved) {
        let Sequence { batch, tokens, dim } = shape;
        let (rows, heads) = (shape.rows(), self.heads);
        // 1. Queries, keys and values of all heads in one product.
        let qkv = self.qkv.forward(recorder, "attn.qkv", x, rows, gemm::Epilogue::default());
        // 2. Scores, softmax and weighted values of all heads, in one kernel without re-attention.
        let (context, weights) = match &self.reattention {
            None => {
                let lse = recorder.tensor("attn.lse", rows * heads);
                let out = recorder.activation("attn.context", shape.len());
                let head_dim = dim / heads;
                attention::Forward { qkv, out, lse: Some(lse), batch, tokens, heads, head_dim }
                    .record(recorder, "attn.softmax");
                (out, Weights::Fused(lse))
            }
            Some(own) => {
                let (out, saved) = own.forward(recorder, qkv, training, shape);
                (out, Weights::Mixed(saved))
            }
        };
        // 3. Back to the residual stream.
        let branch = Branch::new(recorder, "attn.branch", self.scale.as_ref(), drop, shape);
        let epilogue = branch.epilogue(recorder, self.scale.as_ref(), residual);
        let product = self.proj.forward(recorder, "attn.proj", context, rows, epilogue);
        let z = branch.finish(recorder, "attn", product, residual, shape);
        (z, Saved { x, qkv, weights, context, branch })
    }

    /// Records `carried` (T) = `row` (T) · (½·mean attention over heads + ½·identity), for one image.
    ///
    /// # Panics
    /// With re-attention, whose weights may be negative.
    pub fn rollout(
        &self,
        recorder: &mut Recorder<'_>,
        saved: Saved,
        row: Tensor,
        carried: Tensor,
        shape: Sequence,
    ) {
        let Sequence { tokens, dim, .. } = shape;
        let (heads, head_dim) = (self.heads, dim / self.heads);
        let Saved { qkv, weights: Weights::Fused(lse), .. } = saved else {
            panic!("re-attention has no rollout")
        };
        let mixed = recorder.tensor("attn.mixed", tokens * tokens);
        rollout::Probabilities { qkv, lse, mixed, tokens, heads, head_dim }.record(recorder, "attn.mixed");
        rollout::Multiply { row, matrix: mixed, carried, tokens }.record(recorder, "attn.rollout");
    }

    /// Records the gradient of x (B, T, D), given that of the output, and those of the parameters into `gradients`.
    pub fn backward(
        &self,
        recorder: &mut Recorder<'_>,
        saved: Saved,
        dz: Tensor,
        gradients: Option<Grad<&Attention>>,
        shape: Sequence,
    ) -> Tensor {
        let Saved { x, qkv, weights, context, branch } = saved;
        let rows = shape.rows();
        // 3. Forward: z = residual + drop·scale·proj(context).
        let scales = gradients.and_then(|Grad(attn)| attn.scale.as_ref()).map(Grad);
        let dbranch = branch.backward(recorder, "attn.branch", dz, self.scale.as_ref(), scales, shape);
        if let Some(gradients) = gradients {
            gradients.field(|attn| &attn.proj).backward_parameters(
                recorder,
                "attn.proj.dweight",
                dbranch,
                context,
                rows,
            );
        }
        let dcontext = self.proj.backward_input(recorder, "attn.dcontext", dbranch, rows, None);
        // 2. Forward: context = softmax(Q·Kᵀ/√Dh)·V, or re-attention.
        let dqkv = match (weights, &self.reattention) {
            (Weights::Mixed(saved), Some(own)) => {
                let gradients = gradients.and_then(|Grad(attn)| attn.reattention.as_ref()).map(Grad);
                own.backward(recorder, saved, [qkv, dcontext], gradients)
            }
            (Weights::Fused(lse), None) => {
                let dqkv = recorder.activation("attn.dqkv", 3 * shape.len());
                let Sequence { batch, tokens, dim } = shape;
                attention::Backward {
                    qkv,
                    out: context,
                    dout: dcontext,
                    lse,
                    dqkv,
                    batch,
                    tokens,
                    heads: self.heads,
                    head_dim: dim / self.heads,
                }
                .record(recorder, "attn.softmax");
                dqkv
            }
            _ => unreachable!("the forward pass was that of another attention"),
        };
        // 1. Forward: qkv = x·Wᵀ + b.
        if let Some(gradients) = gradients {
            gradients.field(|attn| &attn.qkv).backward_parameters(
                recorder,
                "attn.qkv.dweight",
                dqkv,
                x,
                rows,
            );
        }
        self.qkv.backward_input(recorder, "attn.dx", dqkv, rows, None)
    }

    /// Records the update of the running statistics of re-attention, if there is one.
    pub fn update_running(&self, recorder: &mut Recorder<'_>, saved: Saved, control: Tensor) {
        if let (Weights::Mixed(saved), Some(own)) = (saved.weights, &self.reattention) {
            own.update_running(recorder, saved, control);
        }
    }
}
