//! Norm and finiteness of all gradients of a step, and what follows from them: the `control` words.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("gradnorm", include_str!("../../shaders/gradnorm.wgsl"))
    .helpers(&[
        include_str!("../../shaders/common/reduce.wgsl"),
        include_str!("../../shaders/common/step.wgsl"),
    ])
    .workgroup_size(WorkgroupSize::Constant("LANES"));

entry_points! {
    struct Params in 16 bytes { count: u32, limit: u32 }
    /// Sums of squares over chunks of one group's gradients.
    fn gradnorm_partial(gradients: read, partials: write);
    /// From all groups' sums to `control`.
    fn gradnorm_finish(sums: read, losses: read, step: read, control: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let mut all = [64, 4, 8, 16].map(|lanes| (FILE.kernel::<gradnorm_partial>(), constants(lanes))).to_vec();
    all.push((FILE.kernel::<gradnorm_finish>(), vec![]));
    all
}

/// For `lanes` invocations to a chunk.
fn constants(lanes: u32) -> Constants {
    if lanes == 64 { vec![] } else { vec![("LANES", lanes), ("FOLD", 64 / lanes)] }
}

/// Words of gradients per chunk: 4·64·QUADS of `gradnorm.wgsl`.
const CHUNK: usize = 4 * 64 * 16;
/// Words of a chunk's partial sum.
const PARTIAL_WORDS: usize = 2;
/// Words that a group's partial sums are rounded up to: the alignment of slices, so that those of all groups touch.
const ALIGN_WORDS: usize = 64;

/// Words of `control`, as `common/step.wgsl` lays them out.
pub const CONTROL_WORDS: usize = 8;

/// What `control` holds, as `common/step.wgsl` lays it out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Control {
    /// Whether the last step counted: all was finite.
    pub counted: bool,
    /// Norm of its gradients, the loss's scale taken out.
    pub norm: f32,
    /// What the next step's loss gradient is multiplied with.
    pub scale: f32,
    /// The largest that this may become.
    pub most_scale: f32,
    /// Steps that counted since it last changed.
    pub steps: u32,
    /// Whether a step was not finite at a scale of 1, so that none counts any more.
    pub stopped: bool,
    /// What the last step's loss gradient was multiplied with.
    pub last_scale: f32,
}

impl Control {
    /// Before the first step, with the loss's gradient multiplied with `scale` or less.
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

    /// The words for the adapter.
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

    /// What was read back.
    ///
    /// # Panics
    /// If `words` aren't [`CONTROL_WORDS`].
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

/// Words of the partial sums of `len` words of gradients, a multiple of a slice's alignment.
pub fn partial_words(len: usize) -> usize {
    (len.div_ceil(CHUNK) * PARTIAL_WORDS).next_multiple_of(ALIGN_WORDS)
}

/// partials\[c\] = sum of squares and number of non-finite places in chunk c of one group's gradients.
#[derive(Debug, Clone, Copy)]
pub struct Partial {
    /// Any shape, a multiple of 4 words.
    pub gradients: Tensor,
    /// [`partial_words`] of it, written.
    pub partials: Tensor,
}

impl Partial {
    /// Records the kernel as it suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.row_lanes());
    }

    /// Records the kernel with 4, 8, 16 or 64 invocations to a chunk; all give the same bits.
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

/// control = (all finite, clipping factor, norm, the loss's next scale), from all partial sums and the losses.
#[derive(Debug, Clone, Copy)]
pub struct Finish {
    /// The partial sums of all groups, one behind the other.
    pub partials: Tensor,
    /// (rows): the losses, which must be finite as well.
    pub losses: Tensor,
    /// The step's words.
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
            // Both words of a chunk; losses are looked at as words.
            .record(recorder, name, partials.len as f64);
    }
}
