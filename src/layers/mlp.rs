//! The block's two-layer perceptron [LAT eq. 4].

use super::Sequence;
use super::linear::Linear;
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::gemm;
use crate::shape::Activation;

/// Parameters of the perceptron.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// D → M.
    pub fc1: Linear,
    /// M → D.
    pub fc2: Linear,
    /// LayerScale of the branch (D).
    pub scale: Option<Buffer>,
    /// Between the two.
    pub act: Activation,
}

impl Mlp {
    /// Records residual + scale·fc2(act(fc1(x))), all (B, T, D).
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        x: Tensor,
        residual: Tensor,
        shape: Sequence,
    ) -> Tensor {
        let epilogue = gemm::Epilogue { activation: Some(self.act), ..Default::default() };
        let hidden = self.fc1.forward(recorder, "mlp.fc1", x, shape.rows(), epilogue);
        let scale = self.scale.as_ref().map(|scale| recorder.import(scale));
        let epilogue = gemm::Epilogue { scale, residual: Some(residual), ..Default::default() };
        self.fc2.forward(recorder, "mlp.fc2", hidden, shape.rows(), epilogue)
    }
}
