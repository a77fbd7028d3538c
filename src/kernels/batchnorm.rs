//! Batch normalisation, ReLU and dropout of the part classifiers, and its backward pass.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, Tensors};

static FILE: ShaderFile =
    ShaderFile::new("batchnorm", include_str!("../../shaders/batchnorm.wgsl")).helpers(&[
        include_str!("../../shaders/common/random.wgsl"),
        include_str!("../../shaders/common/step.wgsl"),
    ]);

entry_points! {
    struct Params in 32 bytes {
        batch: u32, parts: u32, dim: u32, drop: f32, keep_scale: f32, eps: f32, momentum: f32, unbias: f32
    }
    /// The forward pass over a batch's own statistics.
    fn batchnorm_train(x: read, weight: read, bias: read, y: write, saved: write, step: read);
    /// The forward pass over running statistics.
    fn batchnorm_evaluate(x: read, weight: read, bias: read, y: write, running_mean: read, running_var: read);
    /// The running statistics' step towards the batch's.
    fn batchnorm_update(control: read, kept: read, new_mean: update, new_var: update);
    /// The backward pass.
    fn batchnorm_backward(
        x: read, kept: read, dy: read, x_gradient: write, dweight: write, step: read, dbias: write
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![
        (FILE.kernel::<batchnorm_train>(), vec![]),
        (FILE.kernel::<batchnorm_evaluate>(), vec![]),
        (FILE.kernel::<batchnorm_update>(), vec![]),
        (FILE.kernel::<batchnorm_backward>(), vec![]),
    ]
}

/// High word of the random stream that dropout masks are drawn from; the low word is the step's number.
pub const DROPOUT_STREAM: u32 = 0x6472_6f70;

/// B, R, E and the settings that all launches of a layer share.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// B.
    pub batch: usize,
    /// R.
    pub parts: usize,
    /// E, units per part.
    pub dim: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether negative outputs become 0.
    pub relu: bool,
    /// Share of outputs that training sets to 0, in 0..1.
    pub drop: f32,
    /// How far one step takes the running statistics towards the batch's, in 0..=1.
    pub momentum: f32,
}

impl Layer {
    /// Words of the saved statistics.
    pub fn saved_words(&self) -> usize {
        4 * self.parts * self.dim
    }

    #[track_caller]
    fn check_training(&self, name: &str) {
        assert!(self.batch >= 2, "{name}: one sample has no variance");
        assert!((0.0..1.0).contains(&self.drop), "{name}: drops {} of all", self.drop);
    }

    /// Elements of x, and what ReLU does to each.
    fn elements(&self) -> (f64, f64) {
        ((self.batch * self.parts * self.dim) as f64, f64::from(u8::from(self.relu)))
    }

    fn record<T>(&self, recorder: &mut Recorder<'_>, name: &str, tensors: T, flops: f64)
    where
        T: Tensors<Params = Params>,
    {
        let Layer { batch, parts, dim, eps, relu, drop, momentum } = *self;
        let params = Params {
            batch: u32_of(batch),
            parts: u32_of(parts),
            dim: u32_of(dim),
            drop,
            keep_scale: 1.0 / (1.0 - drop),
            eps,
            momentum,
            unbias: batch as f32 / batch.saturating_sub(1).max(1) as f32,
        };
        FILE.launch(params, tensors)
            .switch("RELU", relu)
            .invocations(parts * dim)
            .record(recorder, name, flops);
    }
}

/// y = dropout(relu(x̂·weight + bias)) with the batch's own mean and variance.
#[derive(Debug, Clone, Copy)]
pub struct Train {
    /// (R, B, E).
    pub x: Tensor,
    /// (R, E).
    pub weight: Tensor,
    /// (R, E).
    pub bias: Tensor,
    /// (R, B, E), written.
    pub y: Tensor,
    /// (R, E, 4), written: mean, biased variance, weight, bias.
    pub saved: Tensor,
    /// The step's words.
    pub step: Tensor,
    /// Dimensions and settings.
    pub layer: Layer,
}

impl Train {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, B is below 2 or the share to drop is not in 0..1.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Train { x, weight, bias, y, saved, step, layer } = *self;
        let Layer { batch, parts, dim, .. } = layer;
        layer.check_training(name);
        expect(recorder, "x", x, &[parts, batch, dim]);
        expect(recorder, "weight", weight, &[parts, dim]);
        expect(recorder, "bias", bias, &[parts, dim]);
        expect(recorder, "y", y, &[parts, batch, dim]);
        expect(recorder, "saved", saved, &[layer.saved_words()]);
        let (elements, relu) = layer.elements();
        // The mean 1, the variance 3, z 4, the mask's comparison, its number and its product 3.
        let flops = (11.0 + relu) * elements;
        let tensors = batchnorm_train { x, weight, bias, y, saved, step };
        layer.record(recorder, name, tensors, flops);
    }
}

/// y = relu(x̂·weight + bias) with running mean and variance.
#[derive(Debug, Clone, Copy)]
pub struct Evaluate {
    /// (R, B, E).
    pub x: Tensor,
    /// (R, E).
    pub weight: Tensor,
    /// (R, E).
    pub bias: Tensor,
    /// (R, E).
    pub running_mean: Tensor,
    /// (R, E).
    pub running_var: Tensor,
    /// (R, B, E), written.
    pub y: Tensor,
    /// Dimensions and settings.
    pub layer: Layer,
}

impl Evaluate {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Evaluate { x, weight, bias, running_mean, running_var, y, layer } = *self;
        let Layer { batch, parts, dim, .. } = layer;
        expect(recorder, "x", x, &[parts, batch, dim]);
        expect(recorder, "weight", weight, &[parts, dim]);
        expect(recorder, "bias", bias, &[parts, dim]);
        expect(recorder, "running_mean", running_mean, &[parts, dim]);
        expect(recorder, "running_var", running_var, &[parts, dim]);
        expect(recorder, "y", y, &[parts, batch, dim]);
        let (elements, relu) = layer.elements();
        let flops = (4.0 + relu) * elements;
        let tensors = batchnorm_evaluate { x, weight, bias, y, running_mean, running_var };
        layer.record(recorder, name, tensors, flops);
    }
}

/// running = (1 - momentum)·running + momentum·batch, unless control forbids it; the variance is made unbiased first.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// What [`Train`] saved.
    pub saved: Tensor,
    /// Whether the step counts.
    pub control: Tensor,
    /// (R, E), read and written.
    pub running_mean: Tensor,
    /// (R, E), read and written.
    pub running_var: Tensor,
    /// Dimensions and settings.
    pub layer: Layer,
}

impl Update {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or B is below 2.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Update { saved, control, running_mean, running_var, layer } = *self;
        layer.check_training(name);
        expect(recorder, "saved", saved, &[layer.saved_words()]);
        expect(recorder, "running_mean", running_mean, &[layer.parts, layer.dim]);
        expect(recorder, "running_var", running_var, &[layer.parts, layer.dim]);
        // Two moments of a unit: a multiply-add and a product each, one more product for the variance, and 1 - momentum.
        let flops = 8.0 * (layer.parts * layer.dim) as f64;
        let tensors = batchnorm_update { control, kept: saved, new_mean: running_mean, new_var: running_var };
        layer.record(recorder, name, tensors, flops);
    }
}

/// The gradients of [`Train`]'s x, weight and bias.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// (R, B, E), as in the forward pass.
    pub x: Tensor,
    /// What [`Train`] saved.
    pub saved: Tensor,
    /// (R, B, E).
    pub dy: Tensor,
    /// The step's words, as in the forward pass.
    pub step: Tensor,
    /// (R, B, E), written.
    pub dx: Tensor,
    /// (R, E), written.
    pub dweight: Tensor,
    /// (R, E), written.
    pub dbias: Tensor,
    /// Dimensions and settings.
    pub layer: Layer,
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, B is below 2 or the share to drop is not in 0..1.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { x, saved, dy, step, dx, dweight, dbias, layer } = *self;
        let Layer { batch, parts, dim, .. } = layer;
        layer.check_training(name);
        expect(recorder, "x", x, &[parts, batch, dim]);
        expect(recorder, "saved", saved, &[layer.saved_words()]);
        expect(recorder, "dy", dy, &[parts, batch, dim]);
        expect(recorder, "dx", dx, &[parts, batch, dim]);
        expect(recorder, "dweight", dweight, &[parts, dim]);
        expect(recorder, "dbias", dbias, &[parts, dim]);
        let (elements, relu) = layer.elements();
        // x̂ 2, g and its mask 3, ReLU's z and comparison 3, the two sums 3; then x̂ again 2 and dx 5, the two factors'
        // product among them.
        let flops = (15.0 + 3.0 * relu) * elements;
        let tensors = batchnorm_backward { x, kept: saved, dy, x_gradient: dx, dweight, step, dbias };
        layer.record(recorder, name, tensors, flops);
    }
}
