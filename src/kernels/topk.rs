//! Streaming top-k: the nearest rows of a gallery that is read tile by tile.

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
    fn topk_merge(distances: read, tile: read, nearest_distance: update, nearest_index: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let families = [Family::Tiled, Family::Subgroup(4), Family::Subgroup(8), Family::Subgroup(16)];
    let mut all: Vec<_> = families.map(|family| file_of(family, SHORT)).to_vec();
    for family in [Family::Tiled, Family::Subgroup(8)] {
        all.extend(CAPACITIES[1..].iter().map(|&capacity| file_of(family, capacity)));
    }
    all.into_iter().map(|(file, constants)| (file.kernel::<topk_merge>(), constants)).collect()
}

/// ShaderFile and constants. GPUs use 64 invocations per query. CPU adapters keep a short list in the registers of a
/// subgroup. For a longer one they use few invocations where barriers and ranking among many cost most.
fn file_of(family: Family, capacity: u32) -> (&'static ShaderFile, Constants) {
    match family {
        Family::Subgroup(lanes) if capacity == SHORT => (&SUBGROUP, vec![("SUB", lanes)]),
        Family::Subgroup(_) => (&FILE, vec![("LANES", (capacity / 8).min(64)), ("CAPACITY", capacity)]),
        Family::Tiled => (&FILE, vec![("LANES", 64), ("CAPACITY", capacity)]),
    }
}

/// Largest k. More pairs don't fit into workgroup memory.
pub const MAX_K: usize = 1024;
/// Distance of an unused slot if the gallery has fewer than k rows: FAR of `topk.wgsl`.
pub const FAR: f32 = 1e30;
/// Index of an unused slot if the gallery has fewer than k rows: NOBODY of `topk.wgsl`.
pub const NOBODY: u32 = u32::MAX;
/// Words of `tile`.
pub const TILE_WORDS: usize = 3;

/// Position of a tile in the gallery. It changes from replay to replay.
#[derive(Debug, Clone, Copy)]
pub struct GalleryTile {
    /// Gallery index of the tile's first row.
    pub first: u32,
    /// Number of the tile's rows. Further columns are ignored.
    pub count: u32,
    /// True for the first tile, before which nothing is kept.
    pub fresh: bool,
}

impl GalleryTile {
    /// The words to upload.
    pub fn words(&self) -> [u32; TILE_WORDS] {
        [self.first, self.count, u32::from(self.fresh)]
    }
}

/// Capacity of `topk_subgroup.wgsl`.
const SHORT: u32 = 64;
/// Values of CAPACITY, in ascending order.
pub const CAPACITIES: [u32; 3] = [SHORT, 256, MAX_K as u32];
/// Largest number of columns per dispatch.
const COLUMNS: usize = 4096;

/// nearest = the k nearest of the rows found so far and of a tile. Equal distances are ordered by index.
#[derive(Debug, Clone, Copy)]
pub struct Merge {
    /// Distances of the tile (Q, G).
    pub distances: Tensor,
    /// [`GalleryTile::words`].
    pub tile: Tensor,
    /// Distances of the nearest rows (Q, k), ascending, read and written. [`FAR`] in unused slots.
    pub nearest_distance: Tensor,
    /// Indices of the nearest rows (Q, k), read and written. [`NOBODY`] in unused slots.
    pub nearest_index: Tensor,
    /// Queries Q.
    pub queries: usize,
    /// Columns of the tile G.
    pub gallery: usize,
    /// Neighbours to keep, from 1 to [`MAX_K`].
    pub k: usize,
}

impl Merge {
    /// Records the kernel in the variant that suits the adapter.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel in the variant for a family of adapters, once for every 4096 columns.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or k is out of range.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Merge { distances, tile, nearest_distance, nearest_index, queries, gallery, k } = *self;
        expect(recorder, "distances", distances, &[queries, gallery]);
        expect(recorder, "tile", tile, &[TILE_WORDS]);
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
            file.launch(params, topk_merge { distances, tile, nearest_distance, nearest_index })
                .constants(constants.clone())
                .workgroups(queries)
                // At least one comparison per column. The exact number depends on the distances.
                .record(recorder, name, (queries * (end - start)) as f64);
        }
    }
}
