//! Cross-entropy of logits with labels, fused with its gradient.

use super::gradnorm::CONTROL_WORDS;
use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("cross_entropy", include_str!("../../shaders/cross_entropy.wgsl"))
    .helpers(&[
        include_str!("../../shaders/common/reduction.wgsl"),
        include_str!("../../shaders/common/step.wgsl"),
    ])
    .workgroup_size(WorkgroupSize::Constant("LANES"));

entry_points! {
    struct Params in 32 bytes { rows: u32, batch: u32, classes: u32, smoothing: f32, weight: f32, first_weight: f32 }
    fn cross_entropy(
        logits: read, labels: read, loss: write, dlogits: write if WITH_GRADIENT, control: read if WITH_GRADIENT
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    [4, 8, 16, 64].map(|lanes| (FILE.kernel::<cross_entropy>(), vec![("LANES", lanes)])).to_vec()
}

/// loss = -weight·Σ target·log softmax(logits) for each row, and the gradient of its mean over the batch, summed over parts.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy {
    /// Logits (R, B, K).
    pub logits: Tensor,
    /// Labels (B), u32, each below K.
    pub labels: Tensor,
    /// Losses (R, B), written; not divided by B.
    pub loss: Tensor,
    /// Gradient of the logits (R, B, K), written, and the `control` words with the loss scale.
    pub gradient: Option<(Tensor, Tensor)>,
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Classes K.
    pub classes: usize,
    /// Label smoothing: share of the target that is spread evenly over all classes, in 0..=1.
    pub smoothing: f32,
    /// Factor of the losses and the gradient of the first part, and of the other parts.
    pub weights: [f32; 2],
}

impl CrossEntropy {
    /// Records the kernel with the number of invocations per row that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations per row, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let CrossEntropy { logits, labels, loss, gradient, batch, parts, classes, smoothing, weights } =
            *self;
        expect(recorder, "logits", logits, &[parts, batch, classes]);
        expect(recorder, "labels", labels, &[batch]);
        expect(recorder, "loss", loss, &[parts, batch]);
        if let Some((dlogits, control)) = gradient {
            expect(recorder, "dlogits", dlogits, &[parts, batch, classes]);
            expect(recorder, "control", control, &[CONTROL_WORDS]);
        }
        let rows = parts * batch;
        let (batch, classes) = (u32_of(batch), u32_of(classes));
        let [first_weight, weight] = weights;
        let params = Params { rows: u32_of(rows), batch, classes, smoothing, weight, first_weight };
        let (dlogits, control) = gradient.unzip();
        FILE.launch(params, cross_entropy { logits, labels, loss, dlogits, control })
            .constants(vec![("LANES", lanes)])
            .workgroups(rows)
            // Maximum 1, the two sums 5, the gradient 6; the products with weight are as few as the rows.
            .record(recorder, name, if gradient.is_some() { 12.0 } else { 6.0 } * logits.len as f64);
    }
}
