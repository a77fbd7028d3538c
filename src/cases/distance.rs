//! Cases of distance, with every tile.

use super::random::{Numbers, normal};
use super::run::Run;
use super::{GRID, List, TimedCases, tolerance};
use crate::kernels::distance::{Distances, Norms, slabs};
use crate::kernels::gemm::{Form, Tile};
use crate::reference::distance::{distance, norm};

/// Cuts rows into slabs.
fn cut(rows: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let count = rows.len() / dim;
    let slab = |(start, width): (usize, usize)| {
        let first = start / count;
        rows.chunks(dim).flat_map(|row| row[first..first + width].to_vec()).collect()
    };
    slabs(count, dim).map(slab).collect()
}

/// Records the norms of `rows` (count, dim).
pub fn norms(run: &mut Run<'_>, rows: impl Fn() -> Vec<f32>, count: usize, dim: usize) {
    let norms = run.output("norms", count);
    let slabs = Numbers::new(count * dim, || cut(&rows(), dim).concat());
    let call = Norms { rows: run.operand("rows", slabs).tensor, norms, count, dim };
    call.record(&mut run.recorder, "norms");
    run.all("norms", norms, tolerance::distance(dim), || rows().chunks(dim).map(norm).collect::<Vec<_>>());
}

/// Records the distances of queries (`counts[0]`, dim) from a gallery (`counts[1]`, dim). Norms are computed on the
/// adapter if `own_norms`, otherwise by the reference. Without a `tile` the built-in table decides.
pub fn distances(
    run: &mut Run<'_>,
    [queries, gallery]: [&dyn Fn() -> Vec<f32>; 2],
    counts: [usize; 2],
    dim: usize,
    own_norms: bool,
    tile: Option<Tile>,
) {
    let [query_count, gallery_count] = counts;
    let distances = run.output("distances", query_count * gallery_count);
    let mut side = |name: &str, rows: &dyn Fn() -> Vec<f32>, count: usize| {
        let norms = if own_norms {
            let norms = run.recorder.tensor("norms", count);
            let rows = run.operand("rows", Numbers::new(count * dim, || cut(&rows(), dim).concat())).tensor;
            Norms { rows, norms, count, dim }.record(&mut run.recorder, "norms");
            norms
        } else {
            let exact = || rows().chunks(dim).map(|row| norm(row).value as f32).collect();
            run.operand("norms", Numbers::new(count, exact)).tensor
        };
        let slab = |(i, (_, width)): (usize, (usize, usize))| {
            let slab = Numbers::new(count * width, || cut(&rows(), dim).swap_remove(i));
            run.operand(name, slab).tensor
        };
        (norms, slabs(count, dim).enumerate().map(slab).collect())
    };
    let (query_norms, query_slabs) = side("queries", queries, query_count);
    let (gallery_norms, gallery_slabs) = side("gallery", gallery, gallery_count);
    let call = Distances {
        queries: query_slabs,
        gallery: gallery_slabs,
        query_norms,
        gallery_norms,
        distances,
        partial: run.recorder.tensor("partial", query_count * gallery_count),
        query_count,
        gallery_count,
        dim,
    };
    match tile {
        None => call.record(&mut run.recorder, "distances"),
        Some(tile) => call.record_with(&mut run.recorder, "distances", tile),
    }
    let (queries, gallery) = (queries(), gallery());
    run.sampled("distances", distances, tolerance::distance(dim), |i| {
        distance(&queries[i / gallery_count * dim..][..dim], &gallery[i % gallery_count * dim..][..dim])
    });
}

pub(super) fn list(list: &mut List) {
    for (count, dim) in [(1, 4), (13, 516)] {
        list.add("norms", format!("{count}x{dim}"), move |run| norms(run, || normal(1, count * dim), count, dim));
    }
    let menu = Tile::menu(Form::Nt, list.family, list.class);
    let of = |counts: [usize; 2], dim: usize, own: bool| {
        move |run: &mut Run<'_>, tile| {
            let rows = [0, 1].map(|side| move || normal(1 + side as u64, counts[side] * dim));
            distances(run, [&rows[0], &rows[1]], counts, dim, own, tile);
        }
    };
    for &tile in &menu {
        for (queries, gallery, dim) in [(1, 4, 4), (35, 68, 516)] {
            let one = of([queries, gallery], dim, false);
            list.add(format!("{tile}"), format!("{queries}x{gallery}x{dim}"), move |run| one(run, Some(tile)));
        }
    }
    // One, primes, and sizes around every tile; then around a slab, and several slabs.
    for (queries, gallery, dim) in [
        (1, 1, 4),
        (1, 13, 20),
        (11, 1, 28),
        (7, 67, 44),
        (63, 65, 12),
        (65, 63, 64),
        (129, 127, 68),
        (31, 33, 4),
        (7, 68, 44),
        (63, 64, 12),
        (65, 60, 64),
        (129, 128, 68),
        (31, 36, 4),
        (5, 9, 508),
        (5, 8, 512),
        (5, 12, 516),
        (3, 68, 1540),
    ] {
        let tiles = menu.iter().filter(|_| gallery % 4 == 0).copied().map(Some);
        let ways = [Some(Tile::Plain)].into_iter().chain(tiles).chain([None]);
        list.full_ways(4000, format!("{queries}x{gallery}x{dim}"), ways, of([queries, gallery], dim, true));
        list.full(format!("norms {queries}x{dim}"), move |run| norms(run, || normal(1, queries * dim), queries, dim));
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let ((queries, gallery), dim) = (timed.retrieval(), GRID * timed.model.dim);
    timed.add("", move |run| {
        distances(run, [&Vec::new, &Vec::new], [queries, gallery], dim, false, None);
    });
    timed.add("norms", move |run| norms(run, Vec::new, gallery, dim));
}
