//! Batch-hard triplet loss on the concatenated parts of an image: distances, mining, gradient.

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
    struct Params in 32 bytes {
        batch: u32, length: u32, margin: f32, soft: u32, first: u32, stride: u32, weight: f32
    }
    /// Distances of all pairs.
    fn triplet_distances(parts: read, distances: write);
    /// The hardest images of every anchor, and its loss.
    fn triplet_mine(labels: read, measured: read, loss: write, choice: write);
    /// The gradient, added to the existing one.
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

/// Value in `choice` of an anchor without a gradient.
pub const NONE: u32 = u32::MAX;

/// The loss of an anchor, for z, its largest distance to its label minus its smallest distance to another label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// max(0, z + margin).
    Hard(f32),
    /// log(1 + exp(z)).
    Soft,
}

/// The columns of longer rows that are the rows of a triplet loss.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// The first column.
    pub first: usize,
    /// Length of a row.
    pub stride: usize,
}

impl Columns {
    /// All `length` columns.
    pub fn all(length: usize) -> Columns {
        Columns { first: 0, stride: length }
    }
}

impl Params {
    fn new(batch: usize, length: usize, margin: Margin) -> Params {
        let (margin, soft) = match margin {
            Margin::Hard(margin) => (margin, 0),
            Margin::Soft => (0.0, 1),
        };
        let [batch, length] = [batch, length].map(u32_of);
        Params { batch, length, margin, soft, first: 0, stride: length, weight: 1.0 }
    }

    /// Takes columns of the rows.
    fn of(self, columns: Columns) -> Params {
        Params { first: u32_of(columns.first), stride: u32_of(columns.stride), ..self }
    }
}

/// distances\[i,j\] = √max(Σ_k (parts\[i,k\] - parts\[j,k\])², 1e-12).
#[derive(Debug, Clone, Copy)]
pub struct Distances {
    /// Parts (B, L): the unnormalised parts (B, R, D) of each image as one row.
    pub parts: Tensor,
    /// Distances (B, B), written.
    pub distances: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Number of columns L: R·D, or D for one part.
    pub length: usize,
    /// The columns of the rows of `parts`.
    pub columns: Columns,
}

impl Distances {
    /// Records the kernel in the variant that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel in the variant for a family of adapters. All give the same bits.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Distances { parts, distances, batch, length, columns } = *self;
        expect(recorder, "parts", parts, &[batch, columns.stride]);
        expect(recorder, "distances", distances, &[batch, batch]);
        let params = Params::new(batch, length, Margin::Hard(0.0)).of(columns);
        let in_quads = [length, columns.first, columns.stride].iter().all(|n| n.is_multiple_of(4));
        let (file, constants, grid) = match family {
            Family::Subgroup(lanes) if in_quads => {
                let [columns, rows] = [lanes, ROWS].map(|side| u32_of(batch.div_ceil(side as usize)));
                (&SUBGROUP, subgroup(lanes), [columns, rows, 1])
            }
            _ => (&FILE, vec![], grid_1d(distances.len.div_ceil(THREADS))),
        };
        file.launch(params, triplet_distances { parts, distances })
            .constants(constants)
            .grid(grid)
            // A subtraction and a multiply-add.
            .record(recorder, name, 3.0 * (distances.len * length) as f64);
    }
}

/// loss\[i\]: the [`Margin`] of z = largest distance to its label - smallest distance to another label.
#[derive(Debug, Clone, Copy)]
pub struct Mine {
    /// [`Distances`] (B, B).
    pub distances: Tensor,
    /// Labels (B), u32.
    pub labels: Tensor,
    /// Losses (B), written; not divided by B. 0 if an anchor lacks one of the two images.
    pub loss: Tensor,
    /// The two images of each anchor (B, 2), u32, written. [`NONE`] twice without a gradient: if it lacks one of the two
    /// images, or at a loss of 0 with a hard margin.
    pub choice: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// The loss of the two distances.
    pub margin: Margin,
    /// Factor of the loss.
    pub weight: f32,
}

impl Mine {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Mine { distances, labels, loss, choice, batch, margin, weight } = *self;
        expect(recorder, "distances", distances, &[batch, batch]);
        expect(recorder, "labels", labels, &[batch]);
        expect(recorder, "loss", loss, &[batch]);
        expect(recorder, "choice", choice, &[batch, 2]);
        let params = Params { weight, ..Params::new(batch, 0, margin) };
        FILE.launch(params, triplet_mine { labels, measured: distances, loss, choice })
            .invocations(batch)
            // One comparison per pair. Tests of bits are not counted.
            .record(recorder, name, distances.len as f64);
    }
}

/// dparts += loss scale times the gradient of (1/B) Σ_i loss\[i\].
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Parts (B, L).
    pub parts: Tensor,
    /// [`Distances`] (B, B).
    pub distances: Tensor,
    /// `choice` of [`Mine`] (B, 2), u32.
    pub choice: Tensor,
    /// Gradient of the parts (B, L), read and written.
    pub dparts: Tensor,
    /// The `control` words with the loss scale.
    pub control: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Number of columns L: R·D, or D for one part.
    pub length: usize,
    /// The columns of the rows of `parts` and `dparts`.
    pub columns: Columns,
    /// The loss of the two distances.
    pub margin: Margin,
    /// Factor of the loss.
    pub weight: f32,
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { parts, distances, choice, dparts, control, batch, length, columns, margin, weight } =
            *self;
        expect(recorder, "parts", parts, &[batch, columns.stride]);
        expect(recorder, "distances", distances, &[batch, batch]);
        expect(recorder, "choice", choice, &[batch, 2]);
        expect(recorder, "dparts", dparts, &[batch, columns.stride]);
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        let params = Params { weight, ..Params::new(batch, length, margin).of(columns) };
        FILE.launch(params, triplet_backward { parts, measured: distances, chosen: choice, dparts, control })
            .invocations(length)
            // For each anchor (it has one choice at most) and each column: two differences with two factors 6, the
            // shares 6, and the additions to three rows 4. The weight of the soft margin takes 5.
            .record(recorder, name, if params.soft == 1 { 21.0 } else { 16.0 } * (batch * length) as f64);
    }
}
