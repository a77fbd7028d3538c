//! One transformer block, pre-norm [LAT eq. 3-4].

use super::Sequence;
use super::attention::Attention;
use super::mlp::Mlp;
use super::norm::Norm;
use crate::gpu::{Recorder, Tensor};

/// Parameters of one block.
#[derive(Debug, Clone)]
pub struct Block {
    /// Before attention.
    pub norm1: Norm,
    /// Self-attention.
    pub attn: Attention,
    /// Before the perceptron.
    pub norm2: Norm,
    /// Perceptron.
    pub mlp: Mlp,
}

impl Block {
    /// Records the block's output (B, T, D) for its input z: seven launches.
    pub fn forward(&self, recorder: &mut Recorder<'_>, z: Tensor, shape: Sequence) -> Tensor {
        // z' = z + MSA(LN(z))
        let normed = self.norm1.forward(recorder, "norm1", z, shape);
        let z = self.attn.forward(recorder, normed, z, shape);
        // z = z' + MLP(LN(z'))
        let normed = self.norm2.forward(recorder, "norm2", z, shape);
        self.mlp.forward(recorder, normed, z, shape)
    }
}
