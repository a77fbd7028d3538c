//! Cross-entropy of logits with labels, fused with its gradient.

use super::gradnorm::CONTROL_WORDS;
use super::{expect, u32_of};
use crate::gpu::{Access, Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The declaration of `cross_entropy.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "cross_entropy",
    source: include_str!("../../shaders/cross_entropy.wgsl"),
    helpers: &[
        include_str!("../../shaders/common/reduce.wgsl"),
        include_str!("../../shaders/common/step.wgsl"),
    ],
    entry: "cross_entropy",
    bindings: &[
        Binding::read("logits"),
        Binding::read("labels"),
        Binding::write("loss"),
        Binding::write("dlogits"),
        Binding::read("control"),
    ],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: false,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    batch: u32,
    classes: u32,
    smoothing: f32,
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    [4, 8, 16, 64].map(|lanes| (&KERNEL, vec![("LANES", lanes)])).to_vec()
}

/// loss = -Σ target·log softmax(logits) row by row, and the gradient of its mean over the batch, summed over parts.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy {
    /// (R, B, K).
    pub logits: Tensor,
    /// (B), u32: the classes, each below K.
    pub labels: Tensor,
    /// (R, B), written: not yet divided by B.
    pub loss: Tensor,
    /// (R, B, K), written, and the `control` words, whose scale multiplies it.
    pub gradient: Option<(Tensor, Tensor)>,
    /// B.
    pub batch: usize,
    /// R.
    pub parts: usize,
    /// K.
    pub classes: usize,
    /// Share of the target that all classes get alike, in 0..=1.
    pub smoothing: f32,
}

impl CrossEntropy {
    /// Records the kernel with as many lanes to a row as suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations to a row, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let CrossEntropy { logits, labels, loss, gradient, batch, parts, classes, smoothing } = *self;
        expect(recorder, "logits", logits, &[parts, batch, classes]);
        expect(recorder, "labels", labels, &[batch]);
        expect(recorder, "loss", loss, &[parts, batch]);
        if let Some((dlogits, control)) = gradient {
            expect(recorder, "dlogits", dlogits, &[parts, batch, classes]);
            expect(recorder, "control", control, &[CONTROL_WORDS]);
        }
        let rows = parts * batch;
        let params = Params { rows: u32_of(rows), batch: u32_of(batch), classes: u32_of(classes), smoothing };
        let (dlogits, control) =
            gradient.unwrap_or((recorder.unused(Access::Write), recorder.unused(Access::Read)));
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![("LANES", lanes)],
            overrides: vec![("WITH_GRADIENT", f64::from(u8::from(gradient.is_some())))],
            tensors: vec![logits, labels, loss, dlogits, control],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(rows),
            // The largest 1, the two sums 5; the gradient 6.
            flops: if gradient.is_some() { 12.0 } else { 6.0 } * logits.len as f64,
            label: recorder.label(name),
        });
    }
}
