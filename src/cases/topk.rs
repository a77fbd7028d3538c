//! Cases of topk, with every capacity.

use super::random::{Numbers, normal};
use super::run::Run;
use super::{List, TimedCases};
use crate::gpu::Family;
use crate::kernels::topk::{CAPACITIES, FAR, GalleryTile, MAX_K, Merge, NOBODY};
use crate::reference::topk::nearest as reference;
use crate::rng;

/// The dimensions of a case.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Queries: rows of distances.
    pub queries: usize,
    /// Gallery rows: columns of distances.
    pub gallery: usize,
    /// Columns of a tile.
    pub columns: usize,
}

/// Records a merge for each tile of the distances (Q, N), in reverse order if `reversed`.
pub fn nearest(
    run: &mut Run<'_>,
    all: impl Fn() -> Vec<f32>,
    shape: Shape,
    k: usize,
    reversed: bool,
    family: Family,
) {
    let Shape { queries, gallery, columns } = shape;
    let nearest_distance = run.output("nearest_distance", queries * k);
    let nearest_index = run.output("nearest_index", queries * k);
    let mut tiles: Vec<usize> = (0..gallery).step_by(columns).collect();
    if reversed {
        tiles.reverse();
    }
    for (number, first) in tiles.into_iter().enumerate() {
        let count = columns.min(gallery - first);
        // Unused columns hold 0, which would be nearest.
        let rest = vec![0.0; columns - count];
        let row = |row: &[f32]| [&row[first..first + count], &rest].concat();
        let tile = Numbers::new(queries * columns, || all().chunks(gallery).flat_map(row).collect());
        let position = GalleryTile { first: first as u32, count: count as u32, fresh: number == 0 };
        let call = Merge {
            distances: run.operand("distances", tile).tensor,
            tile: run.words("tile", &position.words()),
            nearest_distance,
            nearest_index,
            queries,
            gallery: columns,
            k,
        };
        call.record_with(&mut run.recorder, "topk", family);
    }
    // Unused slots hold NOBODY.
    let found = || {
        all().chunks(gallery).flat_map(|row| {
            let mut nearest = reference(row, k);
            nearest.resize(k, (FAR, NOBODY));
            nearest
        }).enumerate().collect::<Vec<_>>()
    };
    run.same("nearest_index", nearest_index, || found().into_iter().map(|(i, (_, index))| (i, index)));
    run.same("nearest_distance", nearest_distance, || {
        found().into_iter().map(|(i, (distance, _))| (i, distance.to_bits()))
    });
}

/// Distances with `values` different values, so that many are equal.
pub fn tied(stream: u64, count: usize, values: u32) -> Vec<f32> {
    (0..count as u64).map(|i| (rng::bits(6, stream, i) % values) as f32 / 4.0).collect()
}

pub(super) fn list(list: &mut List) {
    // Lists as long as each capacity, and one shorter, with ties. Of the variants for CPU adapters only the short lists
    // need subgroups; the others run everywhere.
    let mut families: Vec<(Family, &[u32])> =
        list.families().into_iter().map(|family| (family, &CAPACITIES[..])).collect();
    if families.len() == 1 {
        families.push((Family::Subgroup(8), &CAPACITIES[1..]));
    }
    let shape = |queries, gallery, columns| Shape { queries, gallery, columns };
    for (family, capacities) in families {
        for &capacity in capacities {
            for k in [capacity as usize, capacity as usize - 1] {
                // Two tiles of the gallery.
                list.add(format!("{capacity} slots, {family}"), format!("{k} of 2x1501"), move |run| {
                    nearest(run, || tied(4, 2 * 1501, 40), shape(2, 1501, 751), k, false, family);
                });
            }
        }
    }
    let ways = [Family::Tiled, list.family];
    let mut full = |name: &str, shape: Shape, k: usize, number: fn(usize, usize) -> f32| {
        list.full_ways(usize::MAX, format!("{name} {shape:?} k {k}"), ways, move |run, family| {
            let len = shape.queries * shape.gallery;
            let all = || (0..len).map(|i| number(i, len)).collect();
            nearest(run, all, shape, k, false, family);
        });
    };
    // Falling: every distance displaces all kept ones. Rising: none does. Then all equal. They take several dispatches.
    const GALLERY: usize = 2 * 4096 + 3;
    for k in [1, 50, 256, MAX_K] {
        for columns in [GALLERY, 5000] {
            full("falling", shape(1, GALLERY, columns), k, |i, len| (len - i) as f32);
            full("rising", shape(1, GALLERY, columns), k, |i, _| i as f32);
            full("ones", shape(1, GALLERY, columns), k, |_, _| 1.0);
            full("zeros", shape(1, GALLERY, columns), k, |_, _| 0.0);
        }
    }
    let mut full = |shape: Shape, k: usize, values: Option<u32>| {
        list.full_ways(usize::MAX, format!("{shape:?} k {k} values {values:?}"), ways, move |run, family| {
            let len = shape.queries * shape.gallery;
            let distinct = || normal(1, len).into_iter().map(f32::abs).collect();
            nearest(run, || values.map_or_else(distinct, |values| tied(2, len, values)), shape, k, false, family);
        });
    };
    // One, primes, and sizes around every round.
    for (queries, gallery) in [(1, 1), (3, 7), (2, 63), (5, 64), (2, 65), (3, 257)] {
        for k in [1, 2, 13, 63, 64, 65] {
            [None, Some(5)].into_iter().for_each(|values| full(shape(queries, gallery, gallery), k, values));
        }
    }
    for k in [64, 255, 256, 257, 1023, MAX_K] {
        for columns in [97, 640] {
            [None, Some(40)].into_iter().for_each(|values| full(shape(2, 1501, columns), k, values));
        }
    }
    // Galleries smaller than k leave unused slots.
    for (gallery, k) in [(1, 2), (5, 64), (100, MAX_K)] {
        full(shape(3, gallery, 32), k, Some(3));
    }
    // The grid folds into a second dimension.
    full(shape(65_537, 3, 3), 2, Some(4));
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    // The first tile of a gallery, in which most pairs are kept.
    let (queries, gallery) = timed.retrieval();
    let shape = Shape { queries, gallery, columns: gallery };
    timed.add("", move |run| {
        let family = run.recorder.context.family();
        nearest(run, Vec::new, shape, 50, false, family);
    });
}
