//! The linear layer: y = epilogue(x·Wᵀ + b).

use super::Grad;
use crate::gpu::{Buffer, Recorder, Storage, Tensor, WORD};
use crate::kernels::gemm;
use crate::shape::Activation;

/// Weight and bias of a linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Weight (outputs, inputs).
    pub weight: Buffer,
    /// Storage of the weight.
    pub storage: Storage,
    /// Bias (outputs).
    pub bias: Buffer,
}

impl Linear {
    fn outputs(&self) -> usize {
        self.bias.words
    }

    fn inputs(&self) -> usize {
        self.weight.words * (WORD / self.storage.bytes()) as usize / self.outputs()
    }

    /// Records y (rows, outputs) of x (rows, inputs). The bias is added before the rest of `epilogue`.
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

    /// Records dx = dy·W (rows, inputs) for dy (rows, outputs). Multiplies it with the derivative of the activation
    /// whose output was x, if the activation and its input are given.
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
    /// Records the gradients dW = dyᵀ·x (outputs, inputs) and db = Σ dy (outputs).
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
