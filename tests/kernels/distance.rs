//! distance against the reference, with every tile; whole numbers are exact, equal rows are equally far.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{normal, sample, scaled};
use crate::common::tolerance::{self, UNIT};
use crate::common::{assert_same_bits, context};
use lat_wgpu::kernels::distance::{Distances, FAR, MAX_DIM, Norms, slabs};
use lat_wgpu::kernels::gemm::{Form, Tile};
use lat_wgpu::reference::distance as reference;
use lat_wgpu::rng;

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

fn norms(rows: &[f32], dim: usize) -> Vec<f32> {
    let count = rows.len() / dim;
    let rows = &cut(rows, dim).concat();
    let mut run = Guarded::new(&format!("norms {count}x{dim}"));
    let norms = Norms { rows: run.input("rows", rows), norms: run.output("norms", count), count, dim };
    norms.record(&mut run.recorder, "norms");
    run.run().remove(0)
}

fn distances(queries: &[f32], gallery: &[f32], dim: usize, tile: Option<Tile>) -> Vec<f32> {
    let (query_count, gallery_count) = (queries.len() / dim, gallery.len() / dim);
    let mut run = Guarded::new(&format!("distances {query_count}x{gallery_count}x{dim} {tile:?}"));
    let call = Distances {
        queries: cut(queries, dim).iter().map(|slab| run.input("queries", slab)).collect(),
        gallery: cut(gallery, dim).iter().map(|slab| run.input("gallery", slab)).collect(),
        query_norms: run.input("query_norms", &norms(queries, dim)),
        gallery_norms: run.input("gallery_norms", &norms(gallery, dim)),
        distances: run.output("distances", query_count * gallery_count),
        partial: run.recorder.tensor("partial", query_count * gallery_count),
        query_count,
        gallery_count,
        dim,
    };
    match tile {
        None => call.record(&mut run.recorder, "distances"),
        Some(tile) => call.record_with(&mut run.recorder, "distances", tile),
    }
    run.run().remove(0)
}

/// Compares the plain kernel with the reference, and all others with the plain kernel.
fn check(name: &str, queries: &[f32], gallery: &[f32], dim: usize) -> Vec<f32> {
    let (query_count, gallery_count) = (queries.len() / dim, gallery.len() / dim);
    let plain = distances(queries, gallery, dim, Some(Tile::Plain));
    let name = format!("distance {name} {query_count}x{gallery_count}x{dim}");
    let at =
        |i| reference::distance(row(queries, dim, i / gallery_count), row(gallery, dim, i % gallery_count));
    let wanted = sample(plain.len(), 4000).into_iter().map(|i| (i, at(i)));
    compare(&name, &plain, wanted, tolerance::distance(dim));
    assert!(plain.iter().all(|d| (0.0..=FAR).contains(d)), "{name}: out of range");
    let fits = |tile: &Tile| *tile == Tile::Plain || gallery_count.is_multiple_of(4);
    for tile in Tile::menu(Form::Nt, context().family(), context().class()).into_iter().filter(fits) {
        assert_same_bits(&format!("{name} {tile:?}"), &plain, &distances(queries, gallery, dim, Some(tile)));
    }
    assert_same_bits(&name, &plain, &distances(queries, gallery, dim, None));
    plain
}

fn row(rows: &[f32], dim: usize, i: usize) -> &[f32] {
    &rows[i * dim..][..dim]
}

/// Whole numbers from -3 to 3.
fn whole(stream: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (rng::bits(5, stream, i) % 7) as f32 - 3.0).collect()
}

#[test]
fn one_primes_and_around_every_tile() {
    for (query_count, gallery_count, dim) in [
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
        // Around a slab, and several.
        (5, 9, 508),
        (5, 8, 512),
        (5, 12, 516),
        (3, 68, 1540),
    ] {
        let queries = normal(1, query_count * dim);
        check("normal", &queries, &normal(2, gallery_count * dim), dim);
        let wanted = queries.chunks(dim).map(reference::norm).enumerate();
        compare(
            &format!("norms {query_count}x{dim}"),
            &norms(&queries, dim),
            wanted,
            tolerance::distance(dim),
        );
    }
}

#[test]
fn whole_numbers_are_exact() {
    for (query_count, gallery_count, dim) in [(1, 1, 4), (17, 129, 64), (33, 70, 388), (9, 33, 1100)] {
        let (queries, gallery) = (whole(1, query_count * dim), whole(2, gallery_count * dim));
        let found = check("whole numbers", &queries, &gallery, dim);
        for (i, d) in found.into_iter().enumerate() {
            let (query, row) = (row(&queries, dim, i / gallery_count), row(&gallery, dim, i % gallery_count));
            assert_eq!(f64::from(d), reference::distance(query, row).value, "at {i}");
        }
    }
}

#[test]
fn equal_rows_are_equally_far_wherever_they_stand() {
    let (count, dim) = (70, 1540);
    let rows = normal(3, count * dim);
    let all = check("with itself", &rows, &rows, dim);
    for i in 0..count {
        assert_eq!(all[i * count + i].to_bits(), 0, "{i} to itself");
        for j in 0..i {
            assert_eq!(all[i * count + j].to_bits(), all[j * count + i].to_bits(), "{i} to {j}, and back");
        }
        let alone = distances(row(&rows, dim, i), &rows, dim, None);
        assert_same_bits(&format!("query {i} alone"), &alone, &all[i * count..][..count]);
    }
    // The gallery twice, the second time turned round.
    let turned: Vec<f32> = rows.chunks(dim).chain(rows.chunks(dim).rev()).flatten().copied().collect();
    let twice = distances(&rows, &turned, dim, None);
    for (found, once) in twice.chunks(2 * count).zip(all.chunks(count)) {
        let mut back = found[count..].to_vec();
        back.reverse();
        assert_same_bits("first copy", &found[..count], once);
        assert_same_bits("second copy", &back, once);
    }
}

#[test]
fn padding_with_zeros_changes_nothing() {
    let (count, dim) = (9, 52);
    let rows = normal(4, count * dim);
    let padded: Vec<f32> = rows.chunks(dim).flat_map(|row| row.iter().copied().chain([0.0; 4])).collect();
    let narrow = distances(&rows, &rows, dim, None);
    assert_same_bits("padded", &narrow, &distances(&padded, &padded, dim + 4, None));
}

#[test]
fn embeddings_of_unit_length_near_and_far() {
    // As long as those of ViT-B in 14 parts; the queries lie at all distances from their rows.
    let (count, dim) = (8, 10_752);
    let unit = |row: &[f32]| {
        let norm = reference::norm(row).value.sqrt();
        row.iter().map(|&v| (f64::from(v) / norm) as f32).collect::<Vec<f32>>()
    };
    let gallery: Vec<f32> = normal(5, count * dim).chunks(dim).flat_map(unit).collect();
    let noise = normal(6, count * dim);
    let moved = |(i, (row, noise)): (usize, (&[f32], &[f32]))| {
        let step = 0.1f32.powi(i as i32) / (dim as f32).sqrt();
        unit(&row.iter().zip(noise).map(|(v, n)| v + step * n).collect::<Vec<f32>>())
    };
    let queries: Vec<f32> = gallery.chunks(dim).zip(noise.chunks(dim)).enumerate().flat_map(moved).collect();
    let found = check("of unit length", &queries, &gallery, dim);
    for i in 0..count {
        let exact = reference::distance(row(&queries, dim, i), row(&gallery, dim, i));
        let error = (f64::from(found[i * count + i]) - exact.value).abs();
        println!("distance {:.1e}: off by {error:.1e}, scale {:.2}", exact.value, exact.scale);
        assert!(error <= tolerance::distance(dim).c * UNIT * exact.scale);
        // Slabs keep this error small: one sum over all columns was off by up to 3e-6. llvmpipe of Mesa 26 is off by up to
        // 6e-7; older ones stay below 5e-7.
        assert!(error <= 1e-6, "{error:.1e}");
    }
}

#[test]
fn what_overflows_is_far() {
    let dim = 4;
    let rows = [[0.0; 4], [1e19; 4], [-3e19; 4], [1e14; 4]].concat();
    let found = distances(&rows, &rows, dim, None);
    // 1e19² is finite, and farther than FAR.
    for (i, j) in [(0, 1), (0, 2), (1, 2), (2, 2), (1, 3)] {
        let d = found[i * 4 + j];
        assert!(d == FAR || i == j && d == 0.0, "{i} to {j}: {d}");
    }
    assert_eq!(found[0], 0.0);
    assert!((f64::from(found[3]) - 4e28).abs() < 1e22, "{}", found[3]);
}

#[test]
fn more_rows_than_one_row_of_workgroups_holds() {
    // The grid folds into a second dimension and has a workgroup too many.
    let (queries, gallery) = (whole(7, 65_537 * 4), scaled(8, 4, 2.0));
    let found = distances(&queries, &gallery, 4, None);
    let wanted = queries.chunks(4).map(|query| reference::distance(query, &gallery)).enumerate();
    compare("distance folded", &found, wanted, tolerance::distance(4));
}

#[test]
fn the_longest_rows_are_summed_to_their_end() {
    // llvmpipe ends loops early, without a word, that take too many turns.
    let one = [1.0; MAX_DIM];
    let found = check("longest", &one, &[[-1.0; MAX_DIM], one, [2.0; MAX_DIM]].concat(), MAX_DIM);
    assert_eq!(found, [4.0 * MAX_DIM as f32, 0.0, MAX_DIM as f32]);
}
