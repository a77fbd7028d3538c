//! Layer normalisation.

use super::{Grad, Sequence};
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::layernorm;

/// Weight and bias of a LayerNorm.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Weight (D).
    pub weight: Buffer,
    /// Bias (D).
    pub bias: Buffer,
    /// ε, added to the variance.
    pub eps: f32,
}

/// Tensors that the backward pass of a LayerNorm reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Input (B, T, D).
    x: Tensor,
    /// Mean and 1/√(var + ε) of each row (B·T, 2).
    stats: Tensor,
}

impl Norm {
    /// Records y of x, both (B, T, D). Writes into `y` if it is given.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        x: Tensor,
        y: Option<Tensor>,
        shape: Sequence,
    ) -> (Tensor, Saved) {
        let y = y.unwrap_or_else(|| recorder.activation(name, shape.len()));
        let (rows, dim, eps) = (shape.rows(), shape.dim, self.eps);
        let stats = recorder.tensor(&format!("{name}.stats"), 2 * rows);
        let (weight, bias) = (recorder.import(&self.weight), recorder.import(&self.bias));
        layernorm::Forward { x, weight, bias, y, stats: Some(stats), rows, dim, eps }.record(recorder, name);
        (y, Saved { x, stats })
    }

    /// Records dx (B, T, D): the gradient through the norm, plus `addend`, the gradient through the residual
    /// connection.
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
}

/// Memory for a norm's gradients, its saved tensors, and dy (B, T, D).
pub type Backward<'a> = (Grad<&'a Norm>, Saved, Tensor);

/// Records the gradients of weight and bias of one norm, or of two in one dispatch.
pub fn backward_parameters(
    recorder: &mut Recorder<'_>,
    name: &str,
    first: Backward<'_>,
    other: Option<Backward<'_>>,
    shape: Sequence,
) {
    let mut of = |(Grad(norm), Saved { x, stats }, dy): Backward<'_>| {
        let (dweight, dbias) = (recorder.import(&norm.weight), recorder.import(&norm.bias));
        layernorm::Parameters { x, stats, dy, dweight, dbias }
    };
    let (norm, other, rows, dim) = (of(first), other.map(&mut of), shape.rows(), shape.dim);
    layernorm::BackwardParameters { norm, other, rows, dim }.record(recorder, name);
}
