//! l2norm against the reference, with every number of lanes.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{normal, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::kernels::l2norm::Forward;
use lat_wgpu::reference::l2norm as reference;

const LANES: [u32; 4] = [4, 8, 16, 64];

fn run(x: &[f32], parts: usize, dim: usize, lanes: u32) -> Vec<f32> {
    let batch = x.len() / (parts * dim);
    let mut run = Guarded::new(&format!("l2norm {batch}x{parts}x{dim} {lanes} lanes"));
    let norm = Forward { x: run.input("x", x), y: run.output("y", x.len()), batch, parts, dim };
    norm.record_with(&mut run.recorder, "l2norm", lanes);
    run.run().remove(0)
}

fn check(name: &str, x: &[f32], parts: usize, dim: usize) {
    for lanes in LANES {
        let y = run(x, parts, dim, lanes);
        let wanted = x.chunks(dim).flat_map(|part| reference::part(part, parts)).enumerate();
        compare(&format!("l2norm {name} {lanes} lanes"), &y, wanted, tolerance::l2norm(dim));
    }
}

#[test]
fn one_primes_and_around_every_count_of_lanes() {
    for dim in [1, 2, 3, 7, 8, 9, 13, 15, 16, 17, 31, 61, 63, 64, 65, 127, 128, 129] {
        for (batch, parts) in [(1, 1), (3, 7)] {
            let x = normal(1, batch * parts * dim);
            check(&format!("{batch}x{parts}x{dim}"), &x, parts, dim);
        }
    }
}

#[test]
fn shape_of_vit_b() {
    check("2x14x768", &normal(2, 2 * 14 * 768), 14, 768);
}

#[test]
fn lengths_from_zero_to_huge_are_scaled() {
    for factor in [0.0, 1e-8, 1e8] {
        check(&format!("times {factor:e}"), &scaled(3, 14 * 40, factor), 14, 40);
    }
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let x = normal(4, 5 * 14 * 96);
    for lanes in LANES {
        let all = run(&x, 14, 96, lanes);
        for (i, x) in x.chunks(14 * 96).enumerate() {
            let alone = run(x, 14, 96, lanes);
            assert_same_bits(
                &format!("image {i}, {lanes} lanes"),
                &all[i * alone.len()..][..alone.len()],
                &alone,
            );
        }
    }
}

#[test]
fn more_parts_than_one_row_of_workgroups_holds() {
    // The grid folds into a second dimension and has a workgroup too many.
    let x = normal(5, 65_537 * 4);
    let y = run(&x, 1, 4, 4);
    let wanted = x.chunks(4).flat_map(|part| reference::part(part, 1)).enumerate();
    compare("l2norm folded", &y, wanted, tolerance::l2norm(4));
}

#[test]
fn the_adapter_picks_a_count_of_lanes_that_is_tested() {
    assert!(LANES.contains(&context().row_lanes()));
}
