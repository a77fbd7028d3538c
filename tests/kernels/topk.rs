//! topk against sorting: exact, with every capacity.

use crate::common::context;
use crate::common::guard::Guarded;
use crate::common::random::normal;
use lat_wgpu::gpu::Family;
use lat_wgpu::kernels::topk::{FAR, MAX_K, Merge, NOBODY, Place};
use lat_wgpu::reference::topk as reference;
use lat_wgpu::rng;

/// A tile of distances, row after row, with its place in the gallery.
struct Tile {
    distances: Vec<f32>,
    /// Columns, of which the first `count` hold distances.
    columns: usize,
    first: usize,
    count: usize,
}

/// Cuts (Q, N) distances into tiles of `columns`; the last one has 0 in the columns that are left over.
fn tiles(all: &[f32], queries: usize, columns: usize) -> Vec<Tile> {
    let gallery = all.len() / queries;
    (0..gallery)
        .step_by(columns)
        .map(|first| {
            let count = columns.min(gallery - first);
            let rest = vec![0.0; columns - count];
            let row = |row: &[f32]| [&row[first..first + count], &rest].concat();
            Tile { distances: all.chunks(gallery).flat_map(row).collect(), columns, first, count }
        })
        .collect()
}

/// The same with the kernels for GPUs and the adapter's own.
fn merge(tiles: &[Tile], queries: usize, k: usize) -> Vec<Vec<(f32, u32)>> {
    let [gpu, own] = [Family::Tiled, context().family()].map(|family| merge_with(tiles, queries, k, family));
    assert_eq!(gpu, own, "families");
    gpu
}

fn merge_with(tiles: &[Tile], queries: usize, k: usize, family: Family) -> Vec<Vec<(f32, u32)>> {
    let mut run = Guarded::new(&format!("topk of {queries}, {} tiles, k {k}, {family:?}", tiles.len()));
    let nearest_distance = run.output("nearest_distance", queries * k);
    let nearest_index = run.output("nearest_index", queries * k);
    for (i, tile) in tiles.iter().enumerate() {
        let place = Place { first: tile.first as u32, count: tile.count as u32, fresh: i == 0 };
        let place = place.words().map(f32::from_bits);
        let call = Merge {
            distances: run.input("distances", &tile.distances),
            place: run.input("place", &place),
            nearest_distance,
            nearest_index,
            queries,
            gallery: tile.columns,
            k,
        };
        call.record_with(&mut run.recorder, "topk", family);
    }
    let found = run.run();
    let pairs: Vec<(f32, u32)> = found[0].iter().copied().zip(found[1].iter().map(|i| i.to_bits())).collect();
    pairs.chunks(k).map(<[_]>::to_vec).collect()
}

/// Every row as the reference has it, nobody in the places left over.
fn check(name: &str, all: &[f32], queries: usize, k: usize, columns: usize) {
    let found = merge(&tiles(all, queries, columns), queries, k);
    for (query, (found, row)) in found.iter().zip(all.chunks(all.len() / queries)).enumerate() {
        let mut wanted = reference::nearest(row, k);
        wanted.resize(k, (FAR, NOBODY));
        let wrong = (0..k).find(|&i| found[i] != wanted[i]);
        let case = || format!("topk {name}, query {query} of {queries}, k {k}, {columns} columns");
        assert_eq!(wrong.map(|i| (i, found[i], wanted[i])), None, "{}", case());
    }
}

/// Distances of which about every `values`-th is the same.
fn tied(stream: u64, count: usize, values: u32) -> Vec<f32> {
    (0..count as u64).map(|i| (rng::bits(6, stream, i) % values) as f32 / 4.0).collect()
}

fn distinct(stream: u64, count: usize) -> Vec<f32> {
    normal(stream, count).into_iter().map(f32::abs).collect()
}

#[test]
fn one_primes_and_around_every_round() {
    for (queries, gallery) in [(1, 1), (3, 7), (2, 63), (5, 64), (2, 65), (3, 257)] {
        for k in [1, 2, 13, 63, 64, 65] {
            check("distinct", &distinct(1, queries * gallery), queries, k, gallery);
            check("tied", &tied(2, queries * gallery, 5), queries, k, gallery);
        }
    }
}

#[test]
fn all_capacities_fill_over_many_tiles() {
    for k in [64, 255, 256, 257, 1023, MAX_K] {
        for columns in [97, 640] {
            check("distinct", &distinct(3, 2 * 1501), 2, k, columns);
            check("tied", &tied(4, 2 * 1501, 40), 2, k, columns);
        }
    }
    println!("topk: the same as sorting, 0 % off");
}

#[test]
fn the_worst_order_is_no_worse() {
    // Every distance pushes out all that were kept; then none does; then all are the same. More than one launch takes.
    const GALLERY: usize = 2 * 4096 + 3;
    let falling: Vec<f32> = (0..GALLERY).map(|i| (GALLERY - i) as f32).collect();
    let rising: Vec<f32> = (0..GALLERY).map(|i| i as f32).collect();
    for k in [1, 50, 256, MAX_K] {
        for all in [&falling, &rising, &vec![1.0; GALLERY], &vec![0.0; GALLERY]] {
            check("in order", all, 1, k, GALLERY);
            check("in order", all, 1, k, 5000);
        }
    }
}

#[test]
fn a_gallery_smaller_than_k_leaves_places() {
    for (gallery, k) in [(1, 2), (5, 64), (100, MAX_K)] {
        check("few", &tied(5, 3 * gallery, 3), 3, k, 32);
    }
}

#[test]
fn what_is_no_distance_is_left_out() {
    // A NaN of another sign and payload, and what would come first, too.
    let odd = f32::from_bits(0xff80_0001);
    let all = [f32::NAN, 2.0, f32::INFINITY, FAR, 1.0, 2e30, odd, f32::NEG_INFINITY];
    let found = merge(&tiles(&all, 1, 4), 1, 5).remove(0);
    assert_eq!(found, [(1.0, 4), (2.0, 1), (FAR, 3), (FAR, NOBODY), (FAR, NOBODY)]);
}

#[test]
fn the_order_of_tiles_does_not_matter() {
    let all = tied(7, 4 * 900, 60);
    let mut tiles = tiles(&all, 4, 128);
    let forward = merge(&tiles, 4, 100);
    tiles.reverse();
    assert_eq!(forward, merge(&tiles, 4, 100));
}

#[test]
fn more_queries_than_one_row_of_workgroups_holds() {
    check("folded", &tied(8, 65_537 * 3, 4), 65_537, 2, 3);
}
