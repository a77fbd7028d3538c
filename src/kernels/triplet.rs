//! Batch-hard triplet loss on the parts of an image concatenated: distances, mining, gradient.

use super::gradnorm::CONTROL_WORDS;
use super::{THREADS, expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Family, Kernel, Recorder, ShaderFile, Tensor, grid_1d};

static FILE: ShaderFile = ShaderFile::new("triplet", include_str!("../../shaders/triplet.wgsl"))
    .helpers(&[include_str!("../../shaders/common/step.wgsl")]);
/// Distances for rows of whole quads, one subgroup per workgroup.
static SUBGROUP: ShaderFile =
    ShaderFile::new("triplet_subgroup", include_str!("../../shaders/triplet_subgroup.wgsl")).subgroups();

entry_points! {
    struct Params in 16 bytes { batch: u32, length: u32, margin: f32 }
    /// Distances of all pairs.
    fn triplet_distances(parts: read, distances: write);
    /// Every anchor's hardest images, and its loss.
    fn triplet_mine(labels: read, measured: read, loss: write, choice: write);
    /// The gradient, added to what is there.
    fn triplet_backward(parts: read, measured: read, chosen: read, dparts: update, control: read);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let mut all = vec![
        (FILE.kernel::<triplet_distances>(), vec![]),
        (FILE.kernel::<triplet_mine>(), vec![]),
        (FILE.kernel::<triplet_backward>(), vec![]),
    ];
    all.extend([4, 8, 16].map(|lanes| (SUBGROUP.kernel::<triplet_distances>(), subgroup(lanes))));
    all
}

fn subgroup(lanes: u32) -> Constants {
    vec![("SUB", lanes), ("ROWS", ROWS)]
}

/// ROWS of `triplet_subgroup.wgsl`.
const ROWS: u32 = 16;

/// In `choice`: the anchor has no loss.
pub const NONE: u32 = u32::MAX;

/// distances\[i,j\] = √max(Σ_k (parts\[i,k\] - parts\[j,k\])², 1e-12).
#[derive(Debug, Clone, Copy)]
pub struct Distances {
    /// (B, L): the unnormalised parts (B, R, D) of an image as one row.
    pub parts: Tensor,
    /// (B, B), written.
    pub distances: Tensor,
    /// B.
    pub batch: usize,
    /// L = R·D.
    pub length: usize,
}

impl Distances {
    /// Records the kernel as it suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel as it suits a family of adapters; all give the same bits.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Distances { parts, distances, batch, length } = *self;
        expect(recorder, "parts", parts, &[batch, length]);
        expect(recorder, "distances", distances, &[batch, batch]);
        let params = Params { batch: u32_of(batch), length: u32_of(length), margin: 0.0 };
        let (file, constants, grid) = match family {
            Family::Subgroup(lanes) if length.is_multiple_of(4) => {
                let [columns, rows] = [lanes, ROWS].map(|side| u32_of(batch.div_ceil(side as usize)));
                (&SUBGROUP, subgroup(lanes), [columns, rows, 1])
            }
            _ => (&FILE, vec![], grid_1d(distances.len.div_ceil(THREADS))),
        };
        file.launch(params, triplet_distances { parts, distances })
            .constants(constants)
            .grid(grid)
            // A difference and a multiply-add.
            .record(recorder, name, 3.0 * (distances.len * length) as f64);
    }
}

/// loss\[i\] = max(0, distance to the farthest of the same label - distance to the nearest of another + margin).
#[derive(Debug, Clone, Copy)]
pub struct Mine {
    /// (B, B).
    pub distances: Tensor,
    /// (B), u32.
    pub labels: Tensor,
    /// (B), written: not yet divided by B; 0 where an anchor lacks one of the two.
    pub loss: Tensor,
    /// (B, 2), u32, written: the two images, or [`NONE`] twice where the loss is 0.
    pub choice: Tensor,
    /// B.
    pub batch: usize,
    /// How much nearer than any other person the same one shall be.
    pub margin: f32,
}

impl Mine {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Mine { distances, labels, loss, choice, batch, margin } = *self;
        expect(recorder, "distances", distances, &[batch, batch]);
        expect(recorder, "labels", labels, &[batch]);
        expect(recorder, "loss", loss, &[batch]);
        expect(recorder, "choice", choice, &[batch, 2]);
        let params = Params { batch: u32_of(batch), length: 0, margin };
        FILE.launch(params, triplet_mine { labels, measured: distances, loss, choice })
            .invocations(batch)
            // One comparison each; whether a distance is finite its bits say.
            .record(recorder, name, distances.len as f64);
    }
}

/// dparts += scale times the gradient of (1/B) Σ_i loss\[i\].
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// (B, L).
    pub parts: Tensor,
    /// (B, B).
    pub distances: Tensor,
    /// (B, 2), u32.
    pub choice: Tensor,
    /// (B, L), read and written.
    pub dparts: Tensor,
    /// The `control` words, whose scale multiplies what is added.
    pub control: Tensor,
    /// B.
    pub batch: usize,
    /// L = R·D.
    pub length: usize,
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { parts, distances, choice, dparts, control, batch, length } = *self;
        expect(recorder, "parts", parts, &[batch, length]);
        expect(recorder, "distances", distances, &[batch, batch]);
        expect(recorder, "choice", choice, &[batch, 2]);
        expect(recorder, "dparts", dparts, &[batch, length]);
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        let params = Params { batch: u32_of(batch), length: u32_of(length), margin: 0.0 };
        FILE.launch(params, triplet_backward { parts, measured: distances, chosen: choice, dparts, control })
            .invocations(length)
            // For each anchor, which has a choice at most, and each column two differences with their two factors 6, the
            // shares 6 and what is added to three rows 4.
            .record(recorder, name, 16.0 * (batch * length) as f64);
    }
}
