//! The update of the prototypes, one vector per person.

use super::gradnorm::CONTROL_WORDS;
use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("prototypes", include_str!("../../shaders/prototypes.wgsl"))
    .helpers(&[
        include_str!("../../shaders/common/reduction.wgsl"),
        include_str!("../../shaders/common/step.wgsl"),
    ])
    .workgroup_size(WorkgroupSize::Constant("LANES"));

entry_points! {
    struct Params in 16 bytes { batch: u32, length: u32, momentum: f32, temperature: f32 }
    fn prototypes_update(labels: read, embeddings: read, memory: update, control: read);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    [4, 8, 16, 64].map(|lanes| (FILE.kernel::<prototypes_update>(), vec![("LANES", lanes)])).to_vec()
}

/// memory\[k\] = unit(momentum·m\[k\] + (1 − momentum)·x\[b\])/temperature for the images of each person.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// Labels (B), u32, each below K.
    pub labels: Tensor,
    /// Embeddings (B, L) of unit length.
    pub embeddings: Tensor,
    /// Prototypes divided by the temperature (K, L), read and written.
    pub memory: Tensor,
    /// Words of [`Control`](super::gradnorm::Control).
    pub control: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Length of an embedding L.
    pub length: usize,
    /// Share of the old prototype, in 0..1.
    pub momentum: f32,
    /// Temperature of the logits.
    pub temperature: f32,
    /// Takes only the image of a person that is least similar to the prototype.
    pub hard: bool,
}

impl Update {
    /// Records the kernel with the number of invocations per person that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with `lanes` invocations per person, a power of two.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let Update { labels, embeddings, memory, control, batch, length, momentum, temperature, hard } =
            *self;
        expect(recorder, "labels", labels, &[batch]);
        expect(recorder, "embeddings", embeddings, &[batch, length]);
        expect(recorder, "memory", memory, &[memory.len / length, length]);
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        let params = Params { batch: u32_of(batch), length: u32_of(length), momentum, temperature };
        FILE.launch(params, prototypes_update { labels, embeddings, memory, control })
            .constants(vec![("LANES", lanes)])
            .switch("HARD", hard)
            .workgroups(batch)
            // The sum twice 6, its square 2 and the quotient 1 for each image. With HARD a product 2 for each image and
            // the rest for one image of a person, whose number isn't known here: counted as for each image.
            .record(recorder, name, if hard { 11.0 } else { 9.0 } * embeddings.len as f64);
    }
}
