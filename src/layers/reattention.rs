//! Re-attention: the heads of self-attention exchange their attention maps [DeepViT].

use super::{Grad, Sequence};
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::batchnorm;
use crate::kernels::part_linear::Layout;
use crate::kernels::reattention::{
    Backward, Context, HeadGradient, MapGradient, Mean, Mix, MixGradient, Moments, Norm, NormGradient,
    ScoreGradient, Shape, Softmax, ThetaGradient,
};
use crate::shape::BATCHNORM_EPS;

/// Weight of a batch in the running statistics: PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Parameters of re-attention.
#[derive(Debug, Clone)]
pub struct ReAttention {
    /// Weights of the heads (H, H, 1, 1), a row for each mixed map.
    pub theta: Buffer,
    /// Bias of the mixed maps (H). It is in the running mean alone, see the kernel; its gradient is zero and isn't written.
    pub mix_bias: Buffer,
    /// Weight of the norm (H).
    pub weight: Buffer,
    /// Bias of the norm (H).
    pub bias: Buffer,
    /// Running mean and variance of the norm (H). Gradients have none.
    pub running: Option<[Buffer; 2]>,
}

/// Tensors that the backward pass and the update of the running statistics read.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    maps: Tensor,
    mixed: Tensor,
    mean: Tensor,
    var: Tensor,
    norm: Tensor,
    shape: Shape,
}

impl ReAttention {
    /// # Panics
    /// If there are none: these are gradients.
    fn running(&self) -> &[Buffer; 2] {
        self.running.as_ref().unwrap_or_else(|| panic!("gradients have no running statistics"))
    }

    /// Records the output of the heads (B, T, D) of `qkv` (B, T, 3, H, Dh), with the statistics of the batch if `training`,
    /// else with the running ones.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        qkv: Tensor,
        training: bool,
        shape: Sequence,
    ) -> (Tensor, Saved) {
        let heads = self.mix_bias.words;
        let Sequence { batch, tokens, dim } = shape;
        let shape = Shape { batch, tokens, heads, head_dim: dim / heads, eps: BATCHNORM_EPS };
        let [theta, mix_bias, weight, bias] =
            [&self.theta, &self.mix_bias, &self.weight, &self.bias].map(|buffer| recorder.import(buffer));
        // 1. Attention maps of all heads, and their mixtures.
        let [maps, mixed] = ["attn.maps", "attn.mixed"].map(|name| recorder.tensor(name, shape.maps_len()));
        Softmax { qkv, maps, shape }.record(recorder, "attn.softmax");
        Mix { maps, theta, mixed, shape }.record(recorder, "attn.mix");
        // 2. Statistics of the norm.
        let ([mean, var], stored_mean) = if training {
            let [mean, var] = ["attn.mean", "attn.var"].map(|name| recorder.tensor(name, heads));
            Moments { mixed, mean, var, shape }.record(recorder, "attn");
            ([mean, var], Mean::AsGiven)
        } else {
            (self.running().each_ref().map(|buffer| recorder.import(buffer)), Mean::WithoutBias)
        };
        let norm = recorder.tensor("attn.norm", 4 * heads);
        Norm { mean, mix_bias, stored_mean, var, weight, bias, norm, shape }.record(recorder, "attn.norm");
        // 3. Normalised mixtures weight the values.
        let out = recorder.activation("attn.context", shape.out_len());
        Context { qkv, mixed, norm, out, shape }.record(recorder, "attn.context");
        (out, Saved { maps, mixed, mean, var, norm, shape })
    }

    /// Records the gradient of `qkv` (B, T, 3, H, Dh), given that of the output, and those of the parameters into
    /// `gradients`.
    pub fn backward(
        &self,
        recorder: &mut Recorder<'_>,
        Saved { maps, mixed, norm, shape, .. }: Saved,
        [qkv, dout]: [Tensor; 2],
        gradients: Option<Grad<&ReAttention>>,
    ) -> Tensor {
        let theta = recorder.import(&self.theta);
        // 3. Forward: context = p·V.
        let gradient = recorder.tensor("attn.dmaps", shape.maps_len());
        MapGradient { qkv, dout, dp: gradient, shape }.record(recorder, "attn.dmaps");
        // 2. Forward: p = x̂·weight + bias. Both gradients enter that of m, even if the parameters are frozen.
        let [dweight, dbias] = match gradients {
            Some(Grad(own)) => [&own.weight, &own.bias].map(|buffer| recorder.import(buffer)),
            None => ["attn.dweight", "attn.dbias"].map(|name| recorder.tensor(name, shape.heads)),
        };
        NormGradient { dp: gradient, mixed, norm, dweight, dbias, shape }.record(recorder, "attn.dnorm");
        MixGradient { gradient, mixed, norm, dweight, dbias, shape }.record(recorder, "attn.dmix");
        // 1. Forward: m = theta·a.
        if let Some(Grad(own)) = gradients {
            let dtheta = recorder.import(&own.theta);
            ThetaGradient { dm: gradient, maps, dtheta, shape }.record(recorder, "attn.dtheta");
        }
        let scores = recorder.tensor("attn.dscores", shape.maps_len());
        HeadGradient { dm: gradient, theta, da: scores, shape }.record(recorder, "attn.dheads");
        ScoreGradient { gradient: scores, maps, shape }.record(recorder, "attn.dscores");
        let dqkv = recorder.activation("attn.dqkv", 3 * shape.out_len());
        Backward { qkv, mixed, norm, ds: scores, dout, dqkv, shape }.record(recorder, "attn.dqkv");
        dqkv
    }

    /// Records the update of the running statistics. The kernel skips it if the gradients in `control` aren't finite.
    pub fn update_running(&self, recorder: &mut Recorder<'_>, saved: Saved, control: Tensor) {
        let Saved { mean, var, shape, .. } = saved;
        let [running_mean, running_var] = self.running().each_ref().map(|buffer| recorder.import(buffer));
        let [mix_bias, weight, bias] =
            [&self.mix_bias, &self.weight, &self.bias].map(|buffer| recorder.import(buffer));
        let norm = recorder.tensor("attn.norm_with_bias", 4 * shape.heads);
        let stored_mean = Mean::WithBias;
        Norm { mean, mix_bias, stored_mean, var, weight, bias, norm, shape }
            .record(recorder, "attn.norm_with_bias");
        let layout = Layout::PartFirst;
        let layer = batchnorm::Layer {
            batch: shape.elements(),
            parts: 1,
            dim: shape.heads,
            eps: BATCHNORM_EPS,
            relu: false,
            drop: 0.0,
            momentum: MOMENTUM,
            inputs: layout,
            outputs: layout,
        };
        batchnorm::Update { saved: norm, control, running_mean, running_var, layer }
            .record(recorder, "attn.running");
    }
}
