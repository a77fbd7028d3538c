//! Linear layer: y = epilogue(x·Wᵀ + b).

use super::Grad;
use crate::gpu::{Buffer, Recorder, Storage, Tensor, WORD};
use crate::kernels::gemm;
use crate::shape::Activation;

/// Weight and bias of a linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// (outputs, inputs).
    pub weight: Buffer,
    /// How the weight's elements are stored.
    pub storage: Storage,
    /// (outputs).
    pub bias: Buffer,
}

impl Linear {
    fn outputs(&self) -> usize {
        self.bias.words
    }

    fn inputs(&self) -> usize {
        self.weight.words * (WORD / self.storage.bytes()) as usize / self.outputs()
    }

    /// Records y (rows, outputs) of x (rows, inputs); the layer's bias goes before the rest of `epilogue`.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        x: Tensor,
        rows: usize,
        epilogue: gemm::Epilogue,
    ) -> Tensor {
        let y = recorder.activation(name, rows * self.outputs());
        let weight = recorder.import_as(&self.weight, self.storage);
        let bias = Some(recorder.import(&self.bias));
        gemm::Nt {
            a: x,
            b: weight,
            c: y,
            m: rows,
            n: self.outputs(),
            k: self.inputs(),
            epilogue: gemm::Epilogue { bias, ..epilogue },
        }
        .record(recorder, name);
        y
    }

    /// Records dx = dy·W, where the forward pass was y = x·Wᵀ + b; times the derivative of the activation that made x,
    /// if its input is given.
    pub fn backward_input(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        dy: Tensor,
        rows: usize,
        derivative: Option<(Activation, Tensor)>,
    ) -> Tensor {
        let dx = recorder.activation(name, rows * self.inputs());
        let weight = recorder.import_as(&self.weight, self.storage);
        let (m, n, k) = (rows, self.inputs(), self.outputs());
        gemm::Nn { a: dy, b: weight, c: dx, m, n, k, derivative, residual: None }.record(recorder, name);
        dx
    }
}

impl Grad<&Linear> {
    /// Records the gradients dW = dyᵀ·x and db = Σ dy.
    pub fn backward_parameters(
        self,
        recorder: &mut Recorder<'_>,
        name: &str,
        dy: Tensor,
        x: Tensor,
        rows: usize,
    ) {
        let Grad(layer) = self;
        let (dweight, dbias) = (recorder.import(&layer.weight), recorder.import(&layer.bias));
        gemm::Tn {
            a: dy,
            b: x,
            c: dweight,
            column_sum: Some(dbias),
            m: layer.outputs(),
            n: layer.inputs(),
            k: rows,
        }
        .record(recorder, name);
    }
}
