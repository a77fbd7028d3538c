//! Streaming top-k: the nearest rows of a gallery that comes tile by tile.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Family, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("topk", include_str!("../../shaders/topk.wgsl"))
    .workgroup_size(WorkgroupSize::Constant("LANES"));
/// The same for lists of up to 64, one subgroup per workgroup.
static SUBGROUP: ShaderFile =
    ShaderFile::new("topk_subgroup", include_str!("../../shaders/topk_subgroup.wgsl")).subgroups();

entry_points! {
    struct Params in 32 bytes { queries: u32, gallery: u32, k: u32, start: u32, end: u32 }
    fn topk_merge(distances: read, place: read, nearest_distance: update, nearest_index: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let families = [Family::Tiled, Family::Subgroup(4), Family::Subgroup(8), Family::Subgroup(16)];
    let mut all: Vec<_> = families.map(|family| file_of(family, SHORT)).to_vec();
    for family in [Family::Tiled, Family::Subgroup(8)] {
        all.extend(CAPACITIES[1..].iter().map(|&capacity| file_of(family, capacity)));
    }
    all.into_iter().map(|(file, constants)| (file.kernel::<topk_merge>(), constants)).collect()
}

/// As many invocations to a query as a GPU likes. On CPU adapters a short list lies in the registers of a subgroup, and a longer
/// one gets few invocations where waiting for each other and ranking among many costs most.
fn file_of(family: Family, capacity: u32) -> (&'static ShaderFile, Constants) {
    match family {
        Family::Subgroup(lanes) if capacity == SHORT => (&SUBGROUP, vec![("SUB", lanes)]),
        Family::Subgroup(_) => (&FILE, vec![("LANES", (capacity / 8).min(64)), ("CAPACITY", capacity)]),
        Family::Tiled => (&FILE, vec![("LANES", 64), ("CAPACITY", capacity)]),
    }
}

/// Most rows that can be asked for: more don't fit into workgroup memory.
pub const MAX_K: usize = 1024;
/// Distance where the gallery has fewer than k rows: FAR of `topk.wgsl`.
pub const FAR: f32 = 1e30;
/// Index where the gallery has fewer than k rows: NOBODY of `topk.wgsl`.
pub const NOBODY: u32 = u32::MAX;
/// Words of `place`.
pub const PLACE_WORDS: usize = 3;

/// Which part of the gallery a tile is: what changes from replay to replay.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Index of its first row in the gallery.
    pub first: u32,
    /// Number of its rows; further columns of the tile are left out.
    pub count: u32,
    /// Whether it is the first tile: nothing is near yet.
    pub fresh: bool,
}

impl Place {
    /// The words that the kernel reads.
    pub fn words(&self) -> [u32; PLACE_WORDS] {
        [self.first, self.count, u32::from(self.fresh)]
    }
}

/// CAPACITY of `topk_subgroup.wgsl`.
const SHORT: u32 = 64;
/// Values of CAPACITY, ascending.
pub const CAPACITIES: [u32; 3] = [SHORT, 256, MAX_K as u32];
/// Most columns of one launch.
const COLUMNS: usize = 4096;

/// nearest = the k nearest of what was nearest so far and a tile of distances, equal distances by index.
#[derive(Debug, Clone, Copy)]
pub struct Merge {
    /// (Q, G).
    pub distances: Tensor,
    /// [`Place::words`].
    pub place: Tensor,
    /// (Q, k), ascending, read and written; [`FAR`] where nothing is.
    pub nearest_distance: Tensor,
    /// (Q, k), read and written; [`NOBODY`] where nothing is.
    pub nearest_index: Tensor,
    /// Q.
    pub queries: usize,
    /// G.
    pub gallery: usize,
    /// k, from 1 to [`MAX_K`].
    pub k: usize,
}

impl Merge {
    /// Records the kernel as it suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel as it suits a family of adapters, once for every 4096 columns.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or k is out of range.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Merge { distances, place, nearest_distance, nearest_index, queries, gallery, k } = *self;
        expect(recorder, "distances", distances, &[queries, gallery]);
        expect(recorder, "place", place, &[PLACE_WORDS]);
        expect(recorder, "nearest_distance", nearest_distance, &[queries, k]);
        expect(recorder, "nearest_index", nearest_index, &[queries, k]);
        let capacity = CAPACITIES.into_iter().find(|&capacity| (1..=capacity as usize).contains(&k));
        let Some(capacity) = capacity else { panic!("{name}: k is {k}, not from 1 to {MAX_K}") };
        let (file, constants) = file_of(family, capacity);
        for start in (0..gallery).step_by(COLUMNS) {
            let end = gallery.min(start + COLUMNS);
            let params = Params {
                queries: u32_of(queries),
                gallery: u32_of(gallery),
                k: u32_of(k),
                start: u32_of(start),
                end: u32_of(end),
            };
            file.launch(params, topk_merge { distances, place, nearest_distance, nearest_index })
                .constants(constants.clone())
                .workgroups(queries)
                // One comparison a column at least; how many more depends on the distances.
                .record(recorder, name, (queries * (end - start)) as f64);
        }
    }
}
