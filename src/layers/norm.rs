//! Layer normalisation with its parameters.

use super::Sequence;
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::layernorm;

/// Weight and bias of a LayerNorm.
#[derive(Debug, Clone)]
pub struct Norm {
    /// (D).
    pub weight: Buffer,
    /// (D).
    pub bias: Buffer,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    /// Records y of x, both (B, T, D).
    pub fn forward(&self, recorder: &mut Recorder<'_>, name: &str, x: Tensor, shape: Sequence) -> Tensor {
        let y = recorder.tensor(name, shape.len());
        self.forward_into(recorder, name, x, y, shape);
        y
    }

    /// Records y of x into a tensor made before.
    pub fn forward_into(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        x: Tensor,
        y: Tensor,
        shape: Sequence,
    ) {
        let (weight, bias) = (recorder.import(&self.weight), recorder.import(&self.bias));
        layernorm::Forward { x, weight, bias, y, rows: shape.rows(), dim: shape.dim, eps: self.eps }
            .record(recorder, name);
    }
}
