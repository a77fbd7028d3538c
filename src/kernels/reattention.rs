//! Re-attention: the attention maps of all heads, mixed and normalised before they weight the values, and the backward
//! pass. Not fused: every map is in memory.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, Tensors};

static FILE: ShaderFile = ShaderFile::new("reattention", include_str!("../../shaders/reattention.wgsl"))
    .helpers(&[include_str!("../../shaders/common/reduction.wgsl")])
    .quads();

entry_points! {
    struct Params in 32 bytes {
        batch: u32, tokens: u32, heads: u32, head_dim: u32, chunks: u32, factor: f32, eps: f32
    }
    fn reattention_softmax(qkv: read_quads, maps: write);
    fn reattention_mix(kept_maps: read, theta: read, mixed: write);
    fn reattention_moment(source: read, mean: read if CENTRED, partials: write);
    fn reattention_sum(kept_partials: read, sums: write);
    fn reattention_norm(
        bn_weight: read, mean: read, variance: read, bn_bias: read, mix_bias: read, norm: write
    );
    fn reattention_context(qkv: read_quads, kept_mixed: read, kept_norm: read, out: write_quads);
    fn reattention_dmaps(qkv: read_quads, out_gradient: read_quads, dp: write);
    fn reattention_dnorm(
        kept_dp: read, kept_mixed: read, kept_norm: read, bias_partials: write, weight_partials: write
    );
    fn reattention_dmix(gradient: update, kept_mixed: read, kept_norm: read, dbias: read, dweight: read);
    fn reattention_dheads(kept_dm: read, theta: read, da: write);
    fn reattention_dtheta(kept_dm: read, own_maps: read, theta_partials: write);
    fn reattention_dscores(score_gradient: update, own_maps: read);
    fn reattention_dqkv(
        qkv: read_quads, kept_mixed: read, kept_norm: read, kept_ds: read, dout: read_quads, dqkv: write_quads
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let entries = [
        FILE.kernel::<reattention_softmax>(),
        FILE.kernel::<reattention_mix>(),
        FILE.kernel::<reattention_moment>(),
        FILE.kernel::<reattention_sum>(),
        FILE.kernel::<reattention_norm>(),
        FILE.kernel::<reattention_context>(),
        FILE.kernel::<reattention_dmaps>(),
        FILE.kernel::<reattention_dnorm>(),
        FILE.kernel::<reattention_dmix>(),
        FILE.kernel::<reattention_dheads>(),
        FILE.kernel::<reattention_dtheta>(),
        FILE.kernel::<reattention_dscores>(),
        FILE.kernel::<reattention_dqkv>(),
    ];
    entries.map(|entry| (entry, vec![])).to_vec()
}

/// Elements of a head that a workgroup adds.
const CHUNK: usize = 1024;

/// The dimensions that all calls share.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Heads H.
    pub heads: usize,
    /// Width of a head Dh, a multiple of 4.
    pub head_dim: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl Shape {
    /// Elements of a head in the maps of all images: B·T².
    pub fn elements(&self) -> usize {
        self.batch * self.tokens * self.tokens
    }

    /// Elements of all maps: B·H·T².
    pub fn maps_len(&self) -> usize {
        self.heads * self.elements()
    }

    /// Elements of the output: B·T·H·Dh.
    pub fn out_len(&self) -> usize {
        self.batch * self.tokens * self.heads * self.head_dim
    }

    /// Chunks of a head, whose sums are added later.
    fn chunks(&self) -> usize {
        self.elements().div_ceil(CHUNK)
    }

    /// Multiply-adds of a product over all heads.
    fn product(&self) -> f64 {
        2.0 * (self.maps_len() * self.head_dim) as f64
    }

    /// 1/√Dh.
    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// 1/N.
    fn share(&self) -> f32 {
        1.0 / self.elements() as f32
    }

    fn params(&self, factor: f32) -> Params {
        let Shape { batch, tokens, heads, head_dim, eps } = *self;
        assert!(head_dim.is_multiple_of(4), "head width {head_dim} isn't a multiple of 4");
        let [batch, tokens, heads, head_dim] = [batch, tokens, heads, head_dim].map(u32_of);
        Params { batch, tokens, heads, head_dim, chunks: u32_of(self.chunks()), factor, eps }
    }

    fn expect_qkv(&self, recorder: &Recorder<'_>, name: &str, tensor: Tensor) {
        expect(recorder, name, tensor, &[self.batch, self.tokens, 3, self.heads, self.head_dim]);
    }

    fn expect_maps(&self, recorder: &Recorder<'_>, name: &str, tensor: Tensor) {
        expect(recorder, name, tensor, &[self.batch, self.heads, self.tokens, self.tokens]);
    }

    fn expect_norm(&self, recorder: &Recorder<'_>, tensor: Tensor) {
        expect(recorder, "norm", tensor, &[self.heads, 4]);
    }

    /// Records a kernel with an invocation for each element of the maps.
    fn record_maps<T>(&self, recorder: &mut Recorder<'_>, name: &str, tensors: T, factor: f32, flops: f64)
    where
        T: Tensors<Params = Params>,
    {
        FILE.launch(self.params(factor), tensors).invocations(self.maps_len()).record(recorder, name, flops);
    }

    /// Records a kernel with a workgroup for each of `rows` rows or chunks.
    fn record_rows<T>(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        tensors: T,
        (rows, factor): (usize, f32),
        flops: f64,
    ) where
        T: Tensors<Params = Params>,
    {
        FILE.launch(self.params(factor), tensors).workgroups(rows).record(recorder, name, flops);
    }

    /// Records `sums` (K) = `factor`·(sums of the rows of `partials` (K, C)).
    fn record_sums(
        &self,
        recorder: &mut Recorder<'_>,
        name: &str,
        [partials, sums]: [Tensor; 2],
        factor: f32,
    ) {
        expect(recorder, "partials", partials, &[sums.len, self.chunks()]);
        let tensors = reattention_sum { kept_partials: partials, sums };
        self.record_rows(recorder, name, tensors, (sums.len, factor), partials.len as f64);
    }
}

/// a = softmax(Q·Kᵀ/√Dh) of every image and head.
#[derive(Debug, Clone, Copy)]
pub struct Softmax {
    /// Queries, keys and values (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// Attention maps (B, H, T, T), written.
    pub maps: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Softmax {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or Dh isn't a multiple of 4.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Softmax { qkv, maps, shape } = *self;
        shape.expect_qkv(recorder, "qkv", qkv);
        shape.expect_maps(recorder, "maps", maps);
        let rows = maps.len / shape.tokens;
        let tensors = reattention_softmax { qkv, maps };
        shape.record_rows(recorder, name, tensors, (rows, shape.scale()), shape.product());
    }
}

/// m = theta·a, over the heads.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Attention maps a (B, H, T, T).
    pub maps: Tensor,
    /// Weights of the heads (H, H): one row for each head of the output.
    pub theta: Tensor,
    /// Mixed maps m (B, H, T, T), written.
    pub mixed: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Mix {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Mix { maps, theta, mixed, shape } = *self;
        let heads = shape.heads;
        shape.expect_maps(recorder, "maps", maps);
        expect(recorder, "theta", theta, &[heads, heads]);
        shape.expect_maps(recorder, "mixed", mixed);
        let tensors = reattention_mix { kept_maps: maps, theta, mixed };
        shape.record_maps(recorder, name, tensors, 0.0, 2.0 * (heads * mixed.len) as f64);
    }
}

/// Mean and biased variance of each head's mixed maps.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// Mixed maps m (B, H, T, T).
    pub mixed: Tensor,
    /// Mean (H), written.
    pub mean: Tensor,
    /// Variance (H), written.
    pub var: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Moments {
    /// Records two kernels for each of `name.mean` and `name.var`.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Moments { mixed, mean, var, shape } = *self;
        shape.expect_maps(recorder, "mixed", mixed);
        expect(recorder, "mean", mean, &[shape.heads]);
        expect(recorder, "var", var, &[shape.heads]);
        let rows = shape.heads * shape.chunks();
        // An addition; then a subtraction and a multiply-add.
        for (moment, centre, sums, flops) in [("mean", None, mean, 1.0), ("var", Some(mean), var, 3.0)] {
            let name = format!("{name}.{moment}");
            let partials = recorder.tensor(&format!("{name}.partials"), rows);
            let tensors = reattention_moment { source: mixed, mean: centre, partials };
            shape.record_rows(recorder, &name, tensors, (rows, 0.0), flops * mixed.len as f64);
            shape.record_sums(recorder, &name, [partials, sums], shape.share());
        }
    }
}

/// The mean that a [`Norm`] stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mean {
    /// The given one: that of m in the batch.
    AsGiven,
    /// The given one minus the bias of the mixed maps: that of m by the running mean.
    WithoutBias,
    /// The given one plus that bias: the mean that the running one follows.
    WithBias,
}

/// Statistics and parameters of the normalisation of each head, together: mean, variance, weight and bias.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// Mean (H), of the batch or running.
    pub mean: Tensor,
    /// Bias of the mixed maps (H).
    pub mix_bias: Tensor,
    /// The mean to store.
    pub stored_mean: Mean,
    /// Variance (H).
    pub var: Tensor,
    /// Weight (H).
    pub weight: Tensor,
    /// Bias (H).
    pub bias: Tensor,
    /// All of them (H, 4), written.
    pub norm: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Norm {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Norm { mean, mix_bias, stored_mean, var, weight, bias, norm, shape } = *self;
        for tensor in [mean, mix_bias, var, weight, bias] {
            expect(recorder, "an operand", tensor, &[shape.heads]);
        }
        shape.expect_norm(recorder, norm);
        let factor = match stored_mean {
            Mean::AsGiven => 0.0,
            Mean::WithoutBias => -1.0,
            Mean::WithBias => 1.0,
        };
        let (bn_weight, bn_bias, variance) = (weight, bias, var);
        let tensors = reattention_norm { bn_weight, mean, variance, bn_bias, mix_bias, norm };
        FILE.launch(shape.params(factor), tensors).invocations(shape.heads).record(recorder, name, 0.0);
    }
}

/// out = p·V with the normalised maps p.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Queries, keys and values (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// Mixed maps m (B, H, T, T).
    pub mixed: Tensor,
    /// `norm` of [`Norm`] (H, 4).
    pub norm: Tensor,
    /// Output (B, T, H·Dh), written.
    pub out: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Context {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or Dh isn't a multiple of 4.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Context { qkv, mixed, norm, out, shape } = *self;
        shape.expect_qkv(recorder, "qkv", qkv);
        shape.expect_maps(recorder, "mixed", mixed);
        shape.expect_norm(recorder, norm);
        expect(recorder, "out", out, &[shape.out_len()]);
        let tensors = reattention_context { qkv, kept_mixed: mixed, kept_norm: norm, out };
        FILE.launch(shape.params(0.0), tensors).invocations(out.len / 4).record(
            recorder,
            name,
            shape.product(),
        );
    }
}

/// dp = dout·Vᵀ, the gradient of the normalised maps.
#[derive(Debug, Clone, Copy)]
pub struct MapGradient {
    /// Queries, keys and values (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// Gradient of the output (B, T, H·Dh).
    pub dout: Tensor,
    /// Gradient of the normalised maps (B, H, T, T), written.
    pub dp: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl MapGradient {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or Dh isn't a multiple of 4.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let MapGradient { qkv, dout, dp, shape } = *self;
        shape.expect_qkv(recorder, "qkv", qkv);
        expect(recorder, "dout", dout, &[shape.out_len()]);
        shape.expect_maps(recorder, "dp", dp);
        let tensors = reattention_dmaps { qkv, out_gradient: dout, dp };
        shape.record_maps(recorder, name, tensors, 0.0, shape.product());
    }
}

/// Gradients of the normalisation's weight and bias.
#[derive(Debug, Clone, Copy)]
pub struct NormGradient {
    /// Gradient of the normalised maps (B, H, T, T).
    pub dp: Tensor,
    /// Mixed maps m (B, H, T, T).
    pub mixed: Tensor,
    /// `norm` of [`Norm`] (H, 4).
    pub norm: Tensor,
    /// Gradient of the weight (H), written.
    pub dweight: Tensor,
    /// Gradient of the bias (H), written.
    pub dbias: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl NormGradient {
    /// Records three kernels.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let NormGradient { dp, mixed, norm, dweight, dbias, shape } = *self;
        shape.expect_maps(recorder, "dp", dp);
        shape.expect_maps(recorder, "mixed", mixed);
        shape.expect_norm(recorder, norm);
        expect(recorder, "dweight", dweight, &[shape.heads]);
        expect(recorder, "dbias", dbias, &[shape.heads]);
        let rows = shape.heads * shape.chunks();
        let [bias_partials, weight_partials] =
            ["bias", "weight"].map(|of| recorder.tensor(&format!("{name}.{of}_partials"), rows));
        let tensors = reattention_dnorm {
            kept_dp: dp,
            kept_mixed: mixed,
            kept_norm: norm,
            bias_partials,
            weight_partials,
        };
        // An addition, x̂ 2 and a multiply-add.
        shape.record_rows(recorder, name, tensors, (rows, 0.0), 5.0 * dp.len as f64);
        shape.record_sums(recorder, &format!("{name}.bias"), [bias_partials, dbias], 1.0);
        shape.record_sums(recorder, &format!("{name}.weight"), [weight_partials, dweight], 1.0);
    }
}

/// dm, the gradient of the mixed maps, in place of that of the normalised maps.
#[derive(Debug, Clone, Copy)]
pub struct MixGradient {
    /// Gradient of the normalised maps (B, H, T, T), read; gradient of the mixed maps, written.
    pub gradient: Tensor,
    /// Mixed maps m (B, H, T, T).
    pub mixed: Tensor,
    /// `norm` of [`Norm`] (H, 4).
    pub norm: Tensor,
    /// Gradient of the weight (H).
    pub dweight: Tensor,
    /// Gradient of the bias (H).
    pub dbias: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl MixGradient {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let MixGradient { gradient, mixed, norm, dweight, dbias, shape } = *self;
        shape.expect_maps(recorder, "gradient", gradient);
        shape.expect_maps(recorder, "mixed", mixed);
        shape.expect_norm(recorder, norm);
        expect(recorder, "dweight", dweight, &[shape.heads]);
        expect(recorder, "dbias", dbias, &[shape.heads]);
        let tensors = reattention_dmix { gradient, kept_mixed: mixed, kept_norm: norm, dbias, dweight };
        // x̂ 2, a multiply-add, the share 1, the difference 1 and its factor 1.
        shape.record_maps(recorder, name, tensors, shape.share(), 7.0 * gradient.len as f64);
    }
}

/// da = thetaᵀ·dm, the gradient of the attention maps.
#[derive(Debug, Clone, Copy)]
pub struct HeadGradient {
    /// Gradient of the mixed maps (B, H, T, T).
    pub dm: Tensor,
    /// Weights of the heads (H, H).
    pub theta: Tensor,
    /// Gradient of the attention maps (B, H, T, T), written.
    pub da: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl HeadGradient {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let HeadGradient { dm, theta, da, shape } = *self;
        shape.expect_maps(recorder, "dm", dm);
        expect(recorder, "theta", theta, &[shape.heads, shape.heads]);
        shape.expect_maps(recorder, "da", da);
        let tensors = reattention_dheads { kept_dm: dm, theta, da };
        shape.record_maps(recorder, name, tensors, 0.0, 2.0 * (shape.heads * da.len) as f64);
    }
}

/// Gradient of the weights that mix the heads. That of their bias is zero, since the norm subtracts it.
#[derive(Debug, Clone, Copy)]
pub struct ThetaGradient {
    /// Gradient of the mixed maps (B, H, T, T).
    pub dm: Tensor,
    /// Attention maps a (B, H, T, T).
    pub maps: Tensor,
    /// Gradient of the weights (H, H), written.
    pub dtheta: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl ThetaGradient {
    /// Records two kernels.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let ThetaGradient { dm, maps, dtheta, shape } = *self;
        let (heads, chunks) = (shape.heads, shape.chunks());
        shape.expect_maps(recorder, "dm", dm);
        shape.expect_maps(recorder, "maps", maps);
        expect(recorder, "dtheta", dtheta, &[heads, heads]);
        let rows = heads * heads * chunks;
        let theta_partials = recorder.tensor(&format!("{name}.partials"), rows);
        let tensors = reattention_dtheta { kept_dm: dm, own_maps: maps, theta_partials };
        shape.record_rows(recorder, name, tensors, (rows, 0.0), (2 * heads * dm.len) as f64);
        shape.record_sums(recorder, &format!("{name}.sum"), [theta_partials, dtheta], 1.0);
    }
}

/// ds, the gradient of the scores, in place of that of the attention maps.
#[derive(Debug, Clone, Copy)]
pub struct ScoreGradient {
    /// Gradient of the attention maps (B, H, T, T), read; gradient of the scores, written.
    pub gradient: Tensor,
    /// Attention maps a (B, H, T, T).
    pub maps: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl ScoreGradient {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let ScoreGradient { gradient, maps, shape } = *self;
        shape.expect_maps(recorder, "gradient", gradient);
        shape.expect_maps(recorder, "maps", maps);
        let tensors = reattention_dscores { score_gradient: gradient, own_maps: maps };
        // The sum 2, the difference and the product.
        let flops = 4.0 * maps.len as f64;
        shape.record_rows(recorder, name, tensors, (maps.len / shape.tokens, 0.0), flops);
    }
}

/// Gradients of queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Queries, keys and values (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// Mixed maps m (B, H, T, T).
    pub mixed: Tensor,
    /// `norm` of [`Norm`] (H, 4).
    pub norm: Tensor,
    /// Gradient of the scores (B, H, T, T).
    pub ds: Tensor,
    /// Gradient of the output (B, T, H·Dh).
    pub dout: Tensor,
    /// Gradient of `qkv` (B, T, 3, H, Dh), written.
    pub dqkv: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or Dh isn't a multiple of 4.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { qkv, mixed, norm, ds, dout, dqkv, shape } = *self;
        shape.expect_qkv(recorder, "qkv", qkv);
        shape.expect_maps(recorder, "mixed", mixed);
        shape.expect_norm(recorder, norm);
        shape.expect_maps(recorder, "ds", ds);
        expect(recorder, "dout", dout, &[shape.out_len()]);
        shape.expect_qkv(recorder, "dqkv", dqkv);
        let tensors = reattention_dqkv { qkv, kept_mixed: mixed, kept_norm: norm, kept_ds: ds, dout, dqkv };
        FILE.launch(shape.params(shape.scale()), tensors).invocations(dout.len / 4).record(
            recorder,
            name,
            3.0 * shape.product(),
        );
    }
}
