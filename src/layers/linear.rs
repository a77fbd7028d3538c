//! Linear layer: y = epilogue(x·Wᵀ + b).

use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::gemm;

/// Weight and bias of a linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// (outputs, inputs).
    pub weight: Buffer,
    /// (outputs).
    pub bias: Buffer,
}

impl Linear {
    /// Records y (rows, outputs) of x (rows, inputs); the layer's bias goes before the rest of `epilogue`.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        x: Tensor,
        rows: usize,
        epilogue: gemm::Epilogue,
    ) -> Tensor {
        let outputs = self.bias.words;
        let inputs = self.weight.words / outputs;
        let y = recorder.tensor(name, rows * outputs);
        let weight = recorder.import(&self.weight);
        let bias = Some(recorder.import(&self.bias));
        gemm::Nt {
            a: x,
            b: weight,
            c: y,
            m: rows,
            n: outputs,
            k: inputs,
            epilogue: gemm::Epilogue { bias, ..epilogue },
        }
        .record(recorder, name);
        y
    }
}
