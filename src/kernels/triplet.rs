//! Batch-hard triplet loss on the parts of a picture concatenated: distances, mining, gradient.

use super::gradnorm::CONTROL_WORDS;
use super::{THREADS, expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Family, Kernel, Recorder, Tensor, grid_1d};

const fn kernel(entry: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel {
        name: "triplet",
        source: include_str!("../../shaders/triplet.wgsl"),
        helpers: &[include_str!("../../shaders/common/step.wgsl")],
        entry,
        bindings,
        uniform_bytes: size_of::<Params>(),
        subgroups: false,
        quads: false,
    }
}

/// Distances of all pairs.
pub static DISTANCES: Kernel =
    kernel("triplet_distances", &[Binding::read("parts"), Binding::write("distances")]);
/// The same for rows of whole quads, one subgroup per workgroup.
pub static DISTANCES_SUBGROUP: Kernel = Kernel {
    name: "triplet_subgroup",
    source: include_str!("../../shaders/triplet_subgroup.wgsl"),
    helpers: &[],
    subgroups: true,
    ..DISTANCES
};
/// Every anchor's hardest pictures, and its loss.
pub static MINE: Kernel = kernel(
    "triplet_mine",
    &[Binding::read("labels"), Binding::read("measured"), Binding::write("loss"), Binding::write("choice")],
);
/// The gradient, added to what is there.
pub static BACKWARD: Kernel = kernel(
    "triplet_backward",
    &[
        Binding::read("parts"),
        Binding::read("measured"),
        Binding::read("chosen"),
        Binding::write("dparts"),
        Binding::read("control"),
    ],
);

/// ROWS of `triplet_subgroup.wgsl`.
const ROWS: u32 = 16;

/// In `choice`: the anchor has no loss.
pub const NONE: u32 = u32::MAX;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    batch: u32,
    length: u32,
    margin: f32,
    unused: u32,
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    let mut all = [&DISTANCES, &MINE, &BACKWARD].map(|kernel| (kernel, vec![])).to_vec();
    all.extend([4, 8, 16].map(|lanes| (&DISTANCES_SUBGROUP, subgroup(lanes))));
    all
}

fn subgroup(lanes: u32) -> Constants {
    vec![("SUB", lanes), ("ROWS", ROWS)]
}

/// distances\[i,j\] = √max(Σ_k (parts\[i,k\] - parts\[j,k\])², 1e-12).
#[derive(Debug, Clone, Copy)]
pub struct Distances {
    /// (B, L): the unnormalised parts (B, R, D) of a picture as one row.
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
        let params = Params { batch: u32_of(batch), length: u32_of(length), margin: 0.0, unused: 0 };
        let (kernel, constants, grid) = match family {
            Family::Subgroup(lanes) if length.is_multiple_of(4) => {
                let [columns, rows] = [lanes, ROWS].map(|side| u32_of(batch.div_ceil(side as usize)));
                (&DISTANCES_SUBGROUP, subgroup(lanes), [columns, rows, 1])
            }
            _ => (&DISTANCES, vec![], grid_1d(distances.len.div_ceil(THREADS))),
        };
        recorder.dispatch(Dispatch {
            kernel,
            constants,
            overrides: vec![],
            tensors: vec![parts, distances],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid,
            // A difference and a multiply-add.
            flops: 3.0 * (distances.len * length) as f64,
            label: recorder.label(name),
        });
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
    /// (B, 2), u32, written: the two pictures, or [`NONE`] twice where the loss is 0.
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
        let params = Params { batch: u32_of(batch), length: 0, margin, unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: &MINE,
            constants: vec![],
            overrides: vec![],
            tensors: vec![labels, distances, loss, choice],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(batch.div_ceil(THREADS)),
            // One comparison each; whether a distance is finite its bits say.
            flops: distances.len as f64,
            label: recorder.label(name),
        });
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
        let params = Params { batch: u32_of(batch), length: u32_of(length), margin: 0.0, unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: &BACKWARD,
            constants: vec![],
            overrides: vec![],
            tensors: vec![parts, distances, choice, dparts, control],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(length.div_ceil(THREADS)),
            // For each anchor, which has a choice at most, and each column two differences with their two factors 6, the
            // shares 6 and what is added to three rows 4.
            flops: 16.0 * (batch * length) as f64,
            label: recorder.label(name),
        });
    }
}
