//! Cases of ranking: distances with every tile, the nearest with every capacity.

use super::cases::{Expected, List};
use super::guard::Guarded;
use super::random::{normal, sample};
use super::tolerance;
use crate::gpu::Family;
use crate::kernels::distance::{Distances, Norms, slabs};
use crate::kernels::gemm::{Form, Tile};
use crate::kernels::topk::{CAPACITIES, FAR, Merge, NOBODY, Place};
use crate::reference;
use crate::rng;

pub(super) fn add(list: &mut List) {
    for (count, dim) in [(1, 4), (13, 516)] {
        list.add("distance", "norms", format!("{count}x{dim}"), move |run| {
            let rows = normal(1, count * dim);
            let norms = run.output("norms", count);
            let call = Norms { rows: run.input("rows", &cut(&rows, dim).concat()), norms, count, dim };
            call.record(&mut run.recorder, "norms");
            let values = rows.chunks(dim).map(reference::distance::norm);
            vec![Expected::all("norms", norms, values, tolerance::distance(dim))]
        });
    }
    for tile in Tile::menu(Form::Nt, list.family, list.class) {
        for (query_count, gallery_count, dim) in [(1, 4, 4), (35, 68, 516)] {
            let shape = format!("{query_count}x{gallery_count}x{dim}");
            list.add("distance", format!("{tile}"), shape, move |run| {
                distances(run, tile, query_count, gallery_count, dim)
            });
        }
    }
    // Lists of every length that a kernel is made for, and one less; ties among them. Of those for CPU adapters only the short
    // ones need subgroups: the others run everywhere.
    let mut families: Vec<(Family, &[u32])> =
        list.families().into_iter().map(|family| (family, &CAPACITIES[..])).collect();
    if families.len() == 1 {
        families.push((Family::Subgroup(8), &CAPACITIES[1..]));
    }
    for (family, capacities) in families {
        for &capacity in capacities {
            for k in [capacity as usize, capacity as usize - 1] {
                let (queries, gallery) = (2, 1501);
                let variant = format!("{capacity} places, {family}");
                list.add("topk", variant, format!("{k} of {queries}x{gallery}"), move |run| {
                    nearest(run, family, k, queries, gallery)
                });
            }
        }
    }
}

/// Rows slab by slab.
fn cut(rows: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let count = rows.len() / dim;
    slabs(count, dim)
        .map(|(start, width)| {
            let first = start / count;
            rows.chunks(dim).flat_map(|row| row[first..first + width].to_vec()).collect()
        })
        .collect()
}

fn distances(
    run: &mut Guarded<'_>,
    tile: Tile,
    query_count: usize,
    gallery_count: usize,
    dim: usize,
) -> Vec<Expected> {
    let (queries, gallery) = (normal(1, query_count * dim), normal(2, gallery_count * dim));
    let norms = |rows: &[f32]| -> Vec<f32> {
        rows.chunks(dim).map(|row| reference::distance::norm(row).value as f32).collect()
    };
    let distances = run.output("distances", query_count * gallery_count);
    let call = Distances {
        queries: cut(&queries, dim).iter().map(|slab| run.input("queries", slab)).collect(),
        gallery: cut(&gallery, dim).iter().map(|slab| run.input("gallery", slab)).collect(),
        query_norms: run.input("query_norms", &norms(&queries)),
        gallery_norms: run.input("gallery_norms", &norms(&gallery)),
        distances,
        partial: run.recorder.tensor("partial", query_count * gallery_count),
        query_count,
        gallery_count,
        dim,
    };
    call.record_with(&mut run.recorder, "distances", tile);
    let at = |i: usize| {
        let (query, row) = (&queries[i / gallery_count * dim..], &gallery[i % gallery_count * dim..]);
        reference::distance::distance(&query[..dim], &row[..dim])
    };
    let values = sample(distances.len, 2000).into_iter().map(|i| (i, at(i)));
    vec![Expected::near("distances", distances, values, tolerance::distance(dim))]
}

fn nearest(run: &mut Guarded<'_>, family: Family, k: usize, queries: usize, gallery: usize) -> Vec<Expected> {
    // About every fortieth is the same.
    let all: Vec<f32> =
        (0..(queries * gallery) as u64).map(|i| (rng::bits(6, 4, i) % 40) as f32 / 4.0).collect();
    let nearest_distance = run.output("nearest_distance", queries * k);
    let nearest_index = run.output("nearest_index", queries * k);
    // Two tiles of the gallery, one after the other.
    let columns = gallery.div_ceil(2);
    for first in [0, columns] {
        let count = columns.min(gallery - first);
        let tile: Vec<f32> = all
            .chunks(gallery)
            .flat_map(|row| {
                let mut tile = row[first..first + count].to_vec();
                tile.resize(columns, 0.0);
                tile
            })
            .collect();
        let place = Place { first: first as u32, count: count as u32, fresh: first == 0 };
        let call = Merge {
            distances: run.input("distances", &tile),
            place: run.words("place", &place.words()),
            nearest_distance,
            nearest_index,
            queries,
            gallery: columns,
            k,
        };
        call.record_with(&mut run.recorder, "topk", family);
    }
    let found: Vec<(f32, u32)> = all
        .chunks(gallery)
        .flat_map(|row| {
            let mut nearest = reference::topk::nearest(row, k);
            nearest.resize(k, (FAR, NOBODY));
            nearest
        })
        .collect();
    let distances = found.iter().map(|(distance, _)| distance.to_bits()).enumerate();
    let indices = found.iter().map(|(_, index)| *index).enumerate();
    vec![
        Expected::same("nearest_index", nearest_index, indices),
        Expected::same("nearest_distance", nearest_distance, distances),
    ]
}
