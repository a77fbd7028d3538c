//! The MLP of a block [LAT eq. 4].

use super::linear::Linear;
use super::{Branch, Drop, Grad, Sequence};
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::gemm;
use crate::shape::Activation;

/// Parameters of the MLP.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// First linear layer: D → M.
    pub fc1: Linear,
    /// Second linear layer: M → D.
    pub fc2: Linear,
    /// LayerScale of the branch (D), if any.
    pub scale: Option<Buffer>,
    /// Activation between the two.
    pub act: Activation,
}

/// Tensors that the backward pass of the MLP reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Input (B, T, D).
    x: Tensor,
    /// Input of the activation (B, T, M).
    pre: Tensor,
    /// Output of the activation (B, T, M).
    hidden: Tensor,
    branch: Branch,
}

impl Mlp {
    /// Records residual + drop·scale·fc2(act(fc1(x))), all (B, T, D).
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        x: Tensor,
        residual: Tensor,
        drop: Option<Drop>,
        shape: Sequence,
    ) -> (Tensor, Saved) {
        let rows = shape.rows();
        // 1. To the hidden width M, with the activation.
        let pre = recorder.activation("mlp.pre", rows * self.fc1.bias.words);
        let epilogue = gemm::Epilogue { activation: Some(self.act), pre: Some(pre), ..Default::default() };
        let hidden = self.fc1.forward(recorder, "mlp.fc1", x, rows, epilogue);
        // 2. Back to the residual stream.
        let branch = Branch::new(recorder, "mlp.branch", self.scale.as_ref(), drop, shape);
        let epilogue = branch.epilogue(recorder, self.scale.as_ref(), residual);
        let product = self.fc2.forward(recorder, "mlp.fc2", hidden, rows, epilogue);
        let z = branch.finish(recorder, "mlp", product, residual, shape);
        (z, Saved { x, pre, hidden, branch })
    }

    /// Records the gradient of x (B, T, D), given that of the output, and those of the parameters into `gradients`.
    pub fn backward(
        &self,
        recorder: &mut Recorder<'_>,
        saved: Saved,
        dz: Tensor,
        gradients: Option<Grad<&Mlp>>,
        shape: Sequence,
    ) -> Tensor {
        let Saved { x, pre, hidden, branch } = saved;
        let rows = shape.rows();
        // 2. Forward: z = residual + drop·scale·fc2(hidden).
        let scales = gradients.and_then(|Grad(mlp)| mlp.scale.as_ref()).map(Grad);
        let dbranch = branch.backward(recorder, "mlp.branch", dz, self.scale.as_ref(), scales, shape);
        if let Some(gradients) = gradients {
            gradients.field(|mlp| &mlp.fc2).backward_parameters(
                recorder,
                "mlp.fc2.dweight",
                dbranch,
                hidden,
                rows,
            );
        }
        // 1. Forward: hidden = act(x·Wᵀ + b).
        let dpre = self.fc2.backward_input(recorder, "mlp.dpre", dbranch, rows, Some((self.act, pre)));
        if let Some(gradients) = gradients {
            gradients.field(|mlp| &mlp.fc1).backward_parameters(recorder, "mlp.fc1.dweight", dpre, x, rows);
        }
        self.fc1.backward_input(recorder, "mlp.dx", dpre, rows, None)
    }
}
