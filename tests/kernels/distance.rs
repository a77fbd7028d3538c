//! More tests of distance: integers are exact, and equal rows have equal distances.

use crate::common::random::{normal, scaled};
use crate::common::recordings::{judged, outputs};
use crate::common::tolerance::{self, UNIT};
use crate::common::{assert_same_bits, context};
use lat_wgpu::cases::distance::distances as record;
use lat_wgpu::cases::run::Run;
use lat_wgpu::kernels::distance::{FAR, MAX_DIM};
use lat_wgpu::kernels::gemm::{Form, Tile};
use lat_wgpu::reference::distance as reference;
use lat_wgpu::rng;

fn recorded(queries: &[f32], gallery: &[f32], dim: usize, tile: Option<Tile>) -> impl Fn(&mut Run<'static>) {
    let (queries, gallery) = (queries.to_vec(), gallery.to_vec());
    let counts = [queries.len() / dim, gallery.len() / dim];
    move |run| record(run, [&|| queries.clone(), &|| gallery.clone()], counts, dim, true, tile)
}

fn distances(queries: &[f32], gallery: &[f32], dim: usize, tile: Option<Tile>) -> Vec<f32> {
    outputs("distances", recorded(queries, gallery, dim, tile)).remove(0)
}

/// Compares the plain kernel with the reference, and all other tiles with the plain kernel.
fn check(name: &str, queries: &[f32], gallery: &[f32], dim: usize) -> Vec<f32> {
    let plain = judged(name, recorded(queries, gallery, dim, Some(Tile::Plain))).remove(0);
    assert!(plain.iter().all(|d| (0.0..=FAR).contains(d)), "{name}: out of range");
    let fits = |tile: &Tile| *tile == Tile::Plain || (gallery.len() / dim).is_multiple_of(4);
    let menu = Tile::menu(Form::Nt, context().family(), context().class()).into_iter().filter(fits);
    for tile in menu.map(Some).chain([None]) {
        assert_same_bits(&format!("{name} {tile:?}"), &plain, &distances(queries, gallery, dim, tile));
    }
    plain
}

fn row(rows: &[f32], dim: usize, i: usize) -> &[f32] {
    &rows[i * dim..][..dim]
}

/// Integers from -3 to 3.
fn whole(stream: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (rng::bits(5, stream, i) % 7) as f32 - 3.0).collect()
}

#[test]
fn integers_are_exact() {
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
fn equal_rows_have_equal_distances_at_every_position() {
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
    // The gallery twice, the second time in reverse order.
    let reversed: Vec<f32> = rows.chunks(dim).chain(rows.chunks(dim).rev()).flatten().copied().collect();
    let twice = distances(&rows, &reversed, dim, None);
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
    // The length of ViT-B's embeddings with 14 parts. Queries have distances of many magnitudes.
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
        // Slabs keep this error small: with one sum over all columns it reached 3e-6. It is up to 6e-7 with llvmpipe of
        // Mesa 26, below 5e-7 with older versions.
        assert!(error <= 1e-6, "{error:.1e}");
    }
}

#[test]
fn overflows_become_far() {
    let dim = 4;
    let rows = [[0.0; 4], [1e19; 4], [-3e19; 4], [1e14; 4]].concat();
    let found = distances(&rows, &rows, dim, None);
    // 1e19² is finite, but larger than FAR.
    for (i, j) in [(0, 1), (0, 2), (1, 2), (2, 2), (1, 3)] {
        let d = found[i * 4 + j];
        assert!(d == FAR || i == j && d == 0.0, "{i} to {j}: {d}");
    }
    assert_eq!(found[0], 0.0);
    assert!((f64::from(found[3]) - 4e28).abs() < 1e22, "{}", found[3]);
}

#[test]
fn more_rows_than_one_row_of_workgroups_holds() {
    // The grid folds into a second dimension and has one workgroup too many.
    let (queries, gallery) = (whole(7, 65_537 * 4), scaled(8, 4, 2.0));
    judged("distance folded", recorded(&queries, &gallery, 4, None));
}

#[test]
fn the_longest_rows_are_summed_to_their_end() {
    // llvmpipe silently ends loops that take too many iterations.
    let one = [1.0; MAX_DIM];
    let found = check("longest", &one, &[[-1.0; MAX_DIM], one, [2.0; MAX_DIM]].concat(), MAX_DIM);
    assert_eq!(found, [4.0 * MAX_DIM as f32, 0.0, MAX_DIM as f32]);
}
