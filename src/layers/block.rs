//! One transformer block, pre-norm [LAT eq. 3-4].

use super::attention::{self, Attention};
use super::mlp::{self, Mlp};
use super::norm::{self, Norm};
use super::{Drop, Grad, Sequence};
use crate::gpu::{Recorder, Tensor};

/// Parameters of one block.
#[derive(Debug, Clone)]
pub struct Block {
    /// Norm before attention.
    pub norm1: Norm,
    /// Self-attention.
    pub attn: Attention,
    /// Norm before the MLP.
    pub norm2: Norm,
    /// MLP.
    pub mlp: Mlp,
}

/// Tensors that the backward pass of a block reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    norm1: norm::Saved,
    attn: attention::Saved,
    norm2: norm::Saved,
    mlp: mlp::Saved,
}

impl Block {
    /// Records the block's output (B, T, D) for its input z (B, T, D): seven dispatches, and two more if its two branches
    /// may be dropped. Re-attention takes more, and uses the statistics of the batch if `training`.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        z: Tensor,
        (drop, training): (Option<[Drop; 2]>, bool),
        shape: Sequence,
    ) -> (Tensor, Saved) {
        // z' = z + MSA(LN(z))
        let (normed, norm1) = self.norm1.forward(recorder, "norm1", z, None, shape);
        let (z, attn) = self.attn.forward(recorder, normed, z, (drop.map(|[attn, _]| attn), training), shape);
        // z = z' + MLP(LN(z'))
        let (normed, norm2) = self.norm2.forward(recorder, "norm2", z, None, shape);
        let (z, mlp) = self.mlp.forward(recorder, normed, z, drop.map(|[_, mlp]| mlp), shape);
        (z, Saved { norm1, attn, norm2, mlp })
    }

    /// Records `carried` (T) = `row` (T) · (½·mean attention over heads + ½·identity), for one image.
    pub fn rollout(
        &self,
        recorder: &mut Recorder<'_>,
        saved: Saved,
        row: Tensor,
        carried: Tensor,
        shape: Sequence,
    ) {
        self.attn.rollout(recorder, saved.attn, row, carried, shape);
    }

    /// Records the gradients of the parameters into `gradients`, and returns the gradient of z (B, T, D) if
    /// `input_wanted`. Both take 15 dispatches, two more with LayerScale, and two
    /// more if the branches may be dropped.
    pub fn backward(
        &self,
        recorder: &mut Recorder<'_>,
        saved: Saved,
        dz: Tensor,
        gradients: Option<&Grad<Block>>,
        input_wanted: bool,
        shape: Sequence,
    ) -> Option<Tensor> {
        // Forward: z = z' + MLP(LN(z')).
        let mlp = gradients.map(|gradients| gradients.field(|block| &block.mlp));
        let dnormed2 = self.mlp.backward(recorder, saved.mlp, dz, mlp, shape);
        let dz = self.norm2.backward_input(recorder, "dz'", saved.norm2, dnormed2, Some(dz), shape);
        // Forward: z' = z + MSA(LN(z)).
        let attn = gradients.map(|gradients| gradients.field(|block| &block.attn));
        let dnormed1 = self.attn.backward(recorder, saved.attn, dz, attn, shape);
        if let Some(gradients) = gradients {
            let first = (gradients.field(|block| &block.norm1), saved.norm1, dnormed1);
            let second = (gradients.field(|block| &block.norm2), saved.norm2, dnormed2);
            norm::backward_parameters(recorder, "norms.dweight", first, Some(second), shape);
        }
        input_wanted
            .then(|| self.norm1.backward_input(recorder, "dz", saved.norm1, dnormed1, Some(dz), shape))
    }

    /// Records the update of the running statistics of re-attention, if the block has it.
    pub fn update_running(&self, recorder: &mut Recorder<'_>, saved: Saved, control: Tensor) {
        self.attn.update_running(recorder, saved.attn, control);
    }
}
