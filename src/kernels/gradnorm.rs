//! Norm and finiteness of all gradients of a step, and the `control` words that follow from them.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("gradnorm", include_str!("../../shaders/gradnorm.wgsl"))
    .helpers(&[
        include_str!("../../shaders/common/reduction.wgsl"),
        include_str!("../../shaders/common/step.wgsl"),
    ])
    .workgroup_size(WorkgroupSize::Constant("LANES"));

entry_points! {
    struct Params in 16 bytes { count: u32, limit: u32 }
    /// Sums of squares over chunks of the gradients of one group.
    fn gradnorm_partial(gradients: read, partials: write);
    /// Reduces the sums of all groups to `control`.
    fn gradnorm_finish(sums: read, losses: read, step: read, control: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let mut all = [64, 4, 8, 16].map(|lanes| (FILE.kernel::<gradnorm_partial>(), constants(lanes))).to_vec();
    all.push((FILE.kernel::<gradnorm_finish>(), vec![]));
    all
}

/// For `lanes` invocations per chunk.
fn constants(lanes: u32) -> Constants {
    if lanes == 64 { vec![] } else { vec![("LANES", lanes), ("FOLD", 64 / lanes)] }
}

/// Words of gradients per chunk: 4·64·QUADS of `gradnorm.wgsl`.
const CHUNK: usize = 4 * 64 * 16;
/// Words of the partial sum of a chunk.
const PARTIAL_WORDS: usize = 2;
/// Alignment of a group's partial sums in words: that of a slice, so that the sums of all groups are contiguous.
const ALIGN_WORDS: usize = 64;

/// Words of `control`, laid out as in `common/step.wgsl`.
pub const CONTROL_WORDS: usize = 8;

/// Content of `control`, laid out as in `common/step.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Control {
    /// True if the last step counted: loss and gradients were finite.
    pub counted: bool,
    /// L2 norm over its gradients, divided by the loss scale.
    pub norm: f32,
    /// Loss scale of the next step.
    pub scale: f32,
    /// Largest loss scale.
    pub most_scale: f32,
    /// Steps that counted since the loss scale last changed.
    pub steps: u32,
    /// True if a step at a loss scale of 1 was not finite. No later step counts.
    pub stopped: bool,
    /// Loss scale of the last step.
    pub last_scale: f32,
}

impl Control {
    /// The state before the first step. `scale` is the first and the largest loss scale.
    pub fn start(scale: f32) -> Control {
        Control {
            counted: false,
            norm: 0.0,
            scale,
            most_scale: scale,
            steps: 0,
            stopped: false,
            last_scale: scale,
        }
    }

    /// The words to upload.
    pub fn words(&self) -> [u32; CONTROL_WORDS] {
        let Control { counted, norm, scale, most_scale, steps, stopped, last_scale } = *self;
        [
            u32::from(counted),
            0,
            norm.to_bits(),
            scale.to_bits(),
            most_scale.to_bits(),
            steps,
            u32::from(stopped),
            last_scale.to_bits(),
        ]
    }

    /// Decodes words that were read back.
    ///
    /// # Panics
    /// If there are fewer than [`CONTROL_WORDS`] words.
    pub fn from_words(words: &[f32]) -> Control {
        Control {
            counted: words[0].to_bits() == 1,
            norm: words[2],
            scale: words[3],
            most_scale: words[4],
            steps: words[5].to_bits(),
            stopped: words[6].to_bits() == 1,
            last_scale: words[7],
        }
    }
}

/// Words of the partial sums of `len` words of gradients, rounded up to the alignment of a slice.
pub fn partial_words(len: usize) -> usize {
    (len.div_ceil(CHUNK) * PARTIAL_WORDS).next_multiple_of(ALIGN_WORDS)
}

/// partials\[c\] = (sum of squares, number of non-finite quads) over chunk c of the gradients of one group.
#[derive(Debug, Clone, Copy)]
pub struct Partial {
    /// Gradients, of any shape; the length is a multiple of 4.
    pub gradients: Tensor,
    /// Partial sums ([`partial_words`]), written.
    pub partials: Tensor,
}

impl Partial {
    /// Records the kernel in the variant that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with 4, 8, 16 or 64 invocations per chunk. All give the same bits.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, lanes: u32) {
        let Partial { gradients, partials } = *self;
        assert!(gradients.len.is_multiple_of(4), "{name}: {} isn't a multiple of 4", gradients.len);
        expect(recorder, "partials", partials, &[partial_words(gradients.len)]);
        let chunks = partials.len / PARTIAL_WORDS;
        let params = Params { count: u32_of(gradients.len / 4), limit: u32_of(chunks) };
        FILE.launch(params, gradnorm_partial { gradients, partials })
            .constants(constants(lanes))
            .workgroups(chunks)
            .record(recorder, name, 2.0 * gradients.len as f64);
    }
}

/// control = (all finite, clipping factor, norm, next loss scale), from all partial sums and the losses.
#[derive(Debug, Clone, Copy)]
pub struct Finish {
    /// The partial sums of all groups, concatenated.
    pub partials: Tensor,
    /// Losses (rows), which must be finite too.
    pub losses: Tensor,
    /// Words of [`StepValues`](super::adam::StepValues).
    pub step: Tensor,
    /// [`CONTROL_WORDS`], read and written.
    pub control: Tensor,
}

impl Finish {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Finish { partials, losses, step, control } = *self;
        let chunks = partials.len / PARTIAL_WORDS;
        expect(recorder, "partials", partials, &[chunks, PARTIAL_WORDS]);
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        let params = Params { count: u32_of(chunks), limit: u32_of(losses.len) };
        FILE.launch(params, gradnorm_finish { sums: partials, losses, step, control })
            // One operation for each word of a partial sum. Losses are read as words, which counts nothing.
            .record(recorder, name, partials.len as f64);
    }
}
