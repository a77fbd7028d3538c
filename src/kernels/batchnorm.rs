//! Batch normalisation, ReLU and dropout of the part classifiers, and the backward pass.

use super::part_linear::Layout;
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
    /// Forward pass with the statistics of the batch.
    fn batchnorm_train(x: read, weight: read, bias: read if BIAS, y: write, saved: write, step: read);
    /// Forward pass with running statistics.
    fn batchnorm_evaluate(
        x: read, weight: read, bias: read if BIAS, y: write, running_mean: read, running_var: read
    );
    /// Moves the running statistics towards those of the batch.
    fn batchnorm_update(control: read, kept: read, new_mean: update, new_var: update);
    /// Backward pass.
    fn batchnorm_backward(
        x: read, kept: read, dy: read, x_gradient: write, dweight: write, step: read, dbias: write if BIAS
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

/// High word of the random stream of dropout masks. The low word is the step's number.
pub const DROPOUT_STREAM: u32 = 0x6472_6f70;

/// Dimensions and settings that all calls of a layer share.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Units per part E.
    pub dim: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Applies ReLU.
    pub relu: bool,
    /// Probability of dropout in training, in 0..1.
    pub drop: f32,
    /// Weight of the batch in the running statistics, in 0..=1.
    pub momentum: f32,
    /// Order of the inputs and their gradient.
    pub inputs: Layout,
    /// Order of the outputs and their gradient.
    pub outputs: Layout,
}

impl Layer {
    /// Words of the saved statistics.
    pub fn saved_words(&self) -> usize {
        4 * self.parts * self.dim
    }

    #[track_caller]
    fn check_training(&self, name: &str) {
        assert!(self.batch >= 2, "{name}: one sample has no variance");
        assert!((0.0..1.0).contains(&self.drop), "{name}: dropout probability {} is not in 0..1", self.drop);
    }

    /// Elements of x, and the operations of ReLU on each.
    fn elements(&self) -> (f64, f64) {
        ((self.batch * self.parts * self.dim) as f64, f64::from(u8::from(self.relu)))
    }

    fn record<T>(&self, recorder: &mut Recorder<'_>, name: &str, tensors: T, flops: f64)
    where
        T: Tensors<Params = Params>,
    {
        let Layer { batch, parts, dim, eps, relu, drop, momentum, inputs, outputs } = *self;
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
            .switch("X_SAMPLE_FIRST", inputs == Layout::SampleFirst)
            .switch("Y_SAMPLE_FIRST", outputs == Layout::SampleFirst)
            .invocations(parts * dim)
            .record(recorder, name, flops);
    }
}

/// y = dropout(relu(x̂·weight + bias)) with the batch's own mean and variance.
#[derive(Debug, Clone, Copy)]
pub struct Train {
    /// Inputs (R, B, E) or (B, R, E).
    pub x: Tensor,
    /// Weights (R, E).
    pub weight: Tensor,
    /// Biases (R, E); `None` for zeros.
    pub bias: Option<Tensor>,
    /// Outputs (R, B, E) or (B, R, E), written.
    pub y: Tensor,
    /// Mean, biased variance, weight and bias of each unit (R, E, 4), written.
    pub saved: Tensor,
    /// Words of [`StepValues`](super::adam::StepValues).
    pub step: Tensor,
    /// Dimensions and settings.
    pub layer: Layer,
}

impl Train {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, B is below 2 or the dropout probability is not in 0..1.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Train { x, weight, bias, y, saved, step, layer } = *self;
        let Layer { batch, parts, dim, .. } = layer;
        layer.check_training(name);
        expect(recorder, "x", x, &[parts, batch, dim]);
        expect(recorder, "weight", weight, &[parts, dim]);
        bias.inspect(|&bias| expect(recorder, "bias", bias, &[parts, dim]));
        expect(recorder, "y", y, &[parts, batch, dim]);
        expect(recorder, "saved", saved, &[layer.saved_words()]);
        let (elements, relu) = layer.elements();
        // Mean 1, variance 3, z 4; mask 3: random number, comparison and product.
        let flops = (11.0 + relu) * elements;
        let tensors = batchnorm_train { x, weight, bias, y, saved, step };
        layer.record(recorder, name, tensors, flops);
    }
}

/// y = relu(x̂·weight + bias) with running mean and variance.
#[derive(Debug, Clone, Copy)]
pub struct Evaluate {
    /// Inputs (R, B, E) or (B, R, E).
    pub x: Tensor,
    /// Weights (R, E).
    pub weight: Tensor,
    /// Biases (R, E); `None` for zeros.
    pub bias: Option<Tensor>,
    /// Running mean (R, E).
    pub running_mean: Tensor,
    /// Running variance (R, E).
    pub running_var: Tensor,
    /// Outputs (R, B, E) or (B, R, E), written.
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
        bias.inspect(|&bias| expect(recorder, "bias", bias, &[parts, dim]));
        expect(recorder, "running_mean", running_mean, &[parts, dim]);
        expect(recorder, "running_var", running_var, &[parts, dim]);
        expect(recorder, "y", y, &[parts, batch, dim]);
        let (elements, relu) = layer.elements();
        let flops = (4.0 + relu) * elements;
        let tensors = batchnorm_evaluate { x, weight, bias, y, running_mean, running_var };
        layer.record(recorder, name, tensors, flops);
    }
}

/// running = (1 - momentum)·running + momentum·batch with the unbiased variance. Does nothing if `control` says that
/// the step does not count.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// `saved` of [`Train`].
    pub saved: Tensor,
    /// Words of [`Control`](super::gradnorm::Control).
    pub control: Tensor,
    /// Running mean (R, E), read and written.
    pub running_mean: Tensor,
    /// Running variance (R, E), read and written.
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
        // Per unit: a multiply-add and a product for each of two moments, one more product for the variance, and
        // 1 - momentum.
        let flops = 8.0 * (layer.parts * layer.dim) as f64;
        let tensors = batchnorm_update { control, kept: saved, new_mean: running_mean, new_var: running_var };
        layer.record(recorder, name, tensors, flops);
    }
}

/// Gradients of the inputs, weights and biases of [`Train`].
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Inputs (R, B, E) or (B, R, E), as in the forward pass.
    pub x: Tensor,
    /// `saved` of [`Train`].
    pub saved: Tensor,
    /// Gradient of the outputs (R, B, E) or (B, R, E).
    pub dy: Tensor,
    /// Words of [`StepValues`](super::adam::StepValues), as in the forward pass.
    pub step: Tensor,
    /// Gradient of the inputs (R, B, E) or (B, R, E), written.
    pub dx: Tensor,
    /// Gradient of the weights (R, E), written.
    pub dweight: Tensor,
    /// Gradient of the biases (R, E), written if it is given.
    pub dbias: Option<Tensor>,
    /// Dimensions and settings.
    pub layer: Layer,
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, B is below 2 or the dropout probability is not in 0..1.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { x, saved, dy, step, dx, dweight, dbias, layer } = *self;
        let Layer { batch, parts, dim, .. } = layer;
        layer.check_training(name);
        expect(recorder, "x", x, &[parts, batch, dim]);
        expect(recorder, "saved", saved, &[layer.saved_words()]);
        expect(recorder, "dy", dy, &[parts, batch, dim]);
        expect(recorder, "dx", dx, &[parts, batch, dim]);
        expect(recorder, "dweight", dweight, &[parts, dim]);
        dbias.inspect(|&dbias| expect(recorder, "dbias", dbias, &[parts, dim]));
        let (elements, relu) = layer.elements();
        // x̂ 2, g and its mask 3, the z of ReLU and its comparison 3, the two sums 3; then x̂ again 2 and dx 5, which
        // includes the product weight·rstd.
        let flops = (15.0 + 3.0 * relu) * elements;
        let tensors = batchnorm_backward { x, kept: saved, dy, x_gradient: dx, dweight, step, dbias };
        layer.record(recorder, name, tensors, flops);
    }
}
