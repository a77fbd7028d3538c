//! Layer normalisation with its parameters.

use super::Sequence;
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::layernorm;

/// Weight and bias of a LayerNorm, or their gradients.
#[derive(Debug, Clone)]
pub struct Norm {
    /// (D).
    pub weight: Buffer,
    /// (D).
    pub bias: Buffer,
    /// Added to the variance.
    pub eps: f32,
}

/// What the backward pass of a LayerNorm reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// (B, T, D).
    x: Tensor,
    /// Mean and 1/√(var + eps) of each row (B·T, 2).
    stats: Tensor,
}

impl Norm {
    /// Records y of x, both (B, T, D).
    pub fn forward(&self, recorder: &mut Recorder<'_>, name: &str, x: Tensor, shape: Sequence) -> Tensor {
        let y = recorder.activation(name, shape.len());
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
        self.record(recorder, name, x, y, shape, None);
    }

    /// Records y of x and keeps what the backward pass reads.
    pub fn forward_saving(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        x: Tensor,
        shape: Sequence,
    ) -> (Tensor, Saved) {
        let y = recorder.activation(name, shape.len());
        let stats = recorder.tensor(&format!("{name}.stats"), 2 * shape.rows());
        self.record(recorder, name, x, y, shape, Some(stats));
        (y, Saved { x, stats })
    }

    fn record(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        x: Tensor,
        y: Tensor,
        shape: Sequence,
        stats: Option<Tensor>,
    ) {
        let (weight, bias) = (recorder.import(&self.weight), recorder.import(&self.bias));
        let (rows, dim, eps) = (shape.rows(), shape.dim, self.eps);
        layernorm::Forward { x, weight, bias, y, stats, rows, dim, eps }.record(recorder, name);
    }

    /// Records dx (B, T, D) = gradient through the norm + `addend`, the gradient that goes round it.
    pub fn backward_input(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        saved: Saved,
        dy: Tensor,
        addend: Option<Tensor>,
        shape: Sequence,
    ) -> Tensor {
        let dx = recorder.activation(name, shape.len());
        let weight = recorder.import(&self.weight);
        let (Saved { x, stats }, rows, dim) = (saved, shape.rows(), shape.dim);
        layernorm::BackwardInput { x, stats, dy, weight, addend, dx, rows, dim }.record(recorder, name);
        dx
    }

    /// Records the gradients of weight and bias into `self`, a norm's gradients.
    pub fn backward_parameters(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        saved: Saved,
        dy: Tensor,
        shape: Sequence,
    ) {
        let norm = self.parameters(recorder, saved, dy);
        let (rows, dim) = (shape.rows(), shape.dim);
        layernorm::BackwardParameters { norm, other: None, rows, dim }.record(recorder, name);
    }

    /// Records those of two norms at once: each with its gradients, what it kept, and dy.
    pub fn backward_parameters_of_two(
        recorder: &mut Recorder<'_>,
        name: &str,
        [first, second]: [(&Norm, Saved, Tensor); 2],
        shape: Sequence,
    ) {
        let [norm, other] = [first, second].map(|(norm, saved, dy)| norm.parameters(recorder, saved, dy));
        let (rows, dim) = (shape.rows(), shape.dim);
        layernorm::BackwardParameters { norm, other: Some(other), rows, dim }.record(recorder, name);
    }

    fn parameters(&self, recorder: &mut Recorder<'_>, saved: Saved, dy: Tensor) -> layernorm::Parameters {
        let (dweight, dbias) = (recorder.import(&self.weight), recorder.import(&self.bias));
        let Saved { x, stats } = saved;
        layernorm::Parameters { x, stats, dy, dweight, dbias }
    }
}
