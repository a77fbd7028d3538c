//! layernorm against the reference, with every number of lanes.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{normal, sample, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::kernels::layernorm::Forward;
use lat_wgpu::reference::layernorm as reference;

const LANES: [u32; 4] = [4, 8, 16, 64];

fn run(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, lanes: u32) -> Vec<f32> {
    let dim = weight.len();
    let rows = x.len() / dim;
    let mut run = Guarded::new(&format!("layernorm {rows}x{dim} {lanes} lanes"));
    let layernorm = Forward {
        x: run.input("x", x),
        weight: run.input("weight", weight),
        bias: run.input("bias", bias),
        y: run.output("y", x.len()),
        rows,
        dim,
        eps,
    };
    layernorm.record_with(&mut run.recorder, "layernorm", lanes);
    run.run().remove(0)
}

/// Compares about `count` rows of x, which is (rows, dim).
fn check(name: &str, x: &[f32], dim: usize, eps: f32, count: usize) {
    let (weight, bias) = (normal(2, dim), normal(3, dim));
    let rows = sample(x.len() / dim, count);
    for lanes in LANES {
        let y = run(x, &weight, &bias, eps, lanes);
        let wanted = rows.iter().flat_map(|&r| {
            let row = reference::row(&x[r * dim..][..dim], &weight, &bias, eps);
            (r * dim..).zip(row)
        });
        compare(&format!("layernorm {name} {lanes} lanes"), &y, wanted, tolerance::layernorm(dim));
    }
}

#[test]
fn one_primes_and_around_every_count_of_lanes() {
    for dim in [1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33, 61, 63, 64, 65, 127, 128, 129] {
        for rows in [1, 7] {
            check(&format!("{rows}x{dim}"), &normal(1, rows * dim), dim, 1e-6, usize::MAX);
        }
    }
}

#[test]
fn shapes_of_vit_b_and_of_clip() {
    let x = normal(4, 197 * 768);
    check("197x768", &x, 768, 1e-6, 8);
    check("197x768 eps 1e-5", &x, 768, 1e-5, 8);
}

#[test]
fn a_large_mean_does_not_cancel() {
    let x: Vec<f32> = normal(5, 11 * 384).into_iter().map(|v| v + 100.0).collect();
    check("mean 100", &x, 384, 1e-6, usize::MAX);
}

#[test]
fn a_row_that_is_nearly_flat_stays_finite() {
    let x = scaled(6, 5 * 96, 1e-5);
    check("deviation 1e-5", &x, 96, 1e-6, usize::MAX);
    check("zeros", &[0.0; 3 * 96], 96, 1e-6, usize::MAX);
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let (x, weight, bias) = (normal(7, 9 * 100), normal(2, 100), normal(3, 100));
    for lanes in LANES {
        let all = run(&x, &weight, &bias, 1e-6, lanes);
        for r in 0..9 {
            let alone = run(&x[r * 100..][..100], &weight, &bias, 1e-6, lanes);
            assert_same_bits(&format!("row {r}, {lanes} lanes"), &all[r * 100..][..100], &alone);
        }
    }
}

#[test]
fn the_adapter_picks_a_count_of_lanes_that_is_tested() {
    assert!(LANES.contains(&context().row_lanes()));
}
