//! Batch normalisation, ReLU and dropout of the part classifiers, and its backward pass.

use super::{THREADS, expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

const fn kernel(entry: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel {
        name: "batchnorm",
        source: include_str!("../../shaders/batchnorm.wgsl"),
        helpers: &[
            include_str!("../../shaders/common/random.wgsl"),
            include_str!("../../shaders/common/step.wgsl"),
        ],
        entry,
        bindings,
        uniform_bytes: size_of::<Params>(),
        subgroups: false,
        quads: false,
    }
}

/// The forward pass over a batch's own statistics.
pub static TRAIN: Kernel = kernel(
    "batchnorm_train",
    &[
        Binding::read("x"),
        Binding::read("weight"),
        Binding::read("bias"),
        Binding::write("y"),
        Binding::write("saved"),
        Binding::read("step"),
    ],
);
/// The forward pass over running statistics.
pub static EVALUATE: Kernel = kernel(
    "batchnorm_evaluate",
    &[
        Binding::read("x"),
        Binding::read("weight"),
        Binding::read("bias"),
        Binding::write("y"),
        Binding::read("running_mean"),
        Binding::read("running_var"),
    ],
);
/// The running statistics' step towards the batch's.
pub static UPDATE: Kernel = kernel(
    "batchnorm_update",
    &[Binding::read("control"), Binding::read("kept"), Binding::write("new_mean"), Binding::write("new_var")],
);
/// The backward pass.
pub static BACKWARD: Kernel = kernel(
    "batchnorm_backward",
    &[
        Binding::read("x"),
        Binding::read("kept"),
        Binding::read("dy"),
        Binding::write("x_gradient"),
        Binding::write("dweight"),
        Binding::read("step"),
        Binding::write("dbias"),
    ],
);

/// High word of the random stream that dropout masks are drawn from; the low word is the step's number.
pub const DROPOUT_STREAM: u32 = 0x6472_6f70;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    batch: u32,
    parts: u32,
    dim: u32,
    drop: f32,
    keep_scale: f32,
    eps: f32,
    momentum: f32,
    unbias: f32,
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    [&TRAIN, &EVALUATE, &UPDATE, &BACKWARD].map(|kernel| (kernel, vec![])).to_vec()
}

/// The part of a layer's launch that differs from the others.
struct Launch {
    kernel: &'static Kernel,
    tensors: Vec<Tensor>,
    flops: f64,
}

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

    fn record(&self, recorder: &mut Recorder<'_>, name: &str, launch: Launch) {
        let Launch { kernel, tensors, flops } = launch;
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
        recorder.dispatch(Dispatch {
            kernel,
            constants: vec![],
            overrides: vec![("RELU", f64::from(u8::from(relu)))],
            tensors,
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d((parts * dim).div_ceil(THREADS)),
            flops,
            label: recorder.label(name),
        });
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
        let tensors = vec![x, weight, bias, y, saved, step];
        layer.record(recorder, name, Launch { kernel: &TRAIN, tensors, flops });
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
        let tensors = vec![x, weight, bias, y, running_mean, running_var];
        layer.record(recorder, name, Launch { kernel: &EVALUATE, tensors, flops });
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
        let tensors = vec![control, saved, running_mean, running_var];
        layer.record(recorder, name, Launch { kernel: &UPDATE, tensors, flops });
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
        let tensors = vec![x, saved, dy, dx, dweight, step, dbias];
        layer.record(recorder, name, Launch { kernel: &BACKWARD, tensors, flops });
    }
}
