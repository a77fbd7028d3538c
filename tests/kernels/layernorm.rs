//! layernorm against the reference, with every number of lanes.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::{normal, sample, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::kernels::layernorm::{BackwardInput, BackwardParameters, Forward, Parameters};
use lat_wgpu::reference::Exact;
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
        stats: None,
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
    for dim in [1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33, 61, 63, 64, 65].map(|quads| 4 * quads) {
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
    let x: Vec<f32> = normal(5, 11 * 384).into_iter().map(|v| v + 10.0).collect();
    check("mean 10", &x, 384, 1e-6, usize::MAX);
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
fn more_rows_than_one_row_of_workgroups_holds() {
    // The grid folds into a second dimension and has a workgroup too many.
    let (x, weight, bias) = (normal(8, 65_537 * 4), normal(2, 4), normal(3, 4));
    let y = run(&x, &weight, &bias, 1e-6, 4);
    let wanted = x.chunks(4).flat_map(|row| reference::row(row, &weight, &bias, 1e-6)).enumerate();
    compare("layernorm folded", &y, wanted, tolerance::layernorm(4));
}

#[test]
fn the_adapter_picks_a_count_of_lanes_that_is_tested() {
    assert!(LANES.contains(&context().row_lanes()));
}

#[test]
fn keeping_statistics_changes_nothing_else() {
    for (rows, dim) in [(1, 4), (5, 52), (3, 64), (2, 384)] {
        let (x, weight, bias) = (normal(8, rows * dim), normal(2, dim), normal(3, dim));
        for lanes in LANES {
            let name = format!("layernorm {rows}x{dim} {lanes} lanes with statistics");
            let mut run_kept = Guarded::new(&name);
            let layernorm = Forward {
                x: run_kept.input("x", &x),
                weight: run_kept.input("weight", &weight),
                bias: run_kept.input("bias", &bias),
                y: run_kept.output("y", x.len()),
                stats: Some(run_kept.output("stats", 2 * rows)),
                rows,
                dim,
                eps: 1e-6,
            };
            layernorm.record_with(&mut run_kept.recorder, "layernorm", lanes);
            let results = run_kept.run();
            assert_same_bits(&name, &results[0], &run(&x, &weight, &bias, 1e-6, lanes));
            let wanted = x.chunks(dim).flat_map(|row| reference::stats(row, 1e-6)).enumerate();
            compare(&name, &results[1], wanted, tolerance::layernorm(dim));
        }
    }
}

/// Data of one backward: x, weight, dy and addend, with the statistics of x rounded to f32.
struct Case {
    x: Vec<f32>,
    weight: Vec<f32>,
    dy: Vec<f32>,
    addend: Option<Vec<f32>>,
    stats: Vec<f32>,
    eps: f32,
}

impl Case {
    fn new(x: Vec<f32>, dim: usize, has_addend: bool) -> Case {
        let eps = 1e-6;
        let stats =
            x.chunks(dim).flat_map(|row| reference::stats(row, eps)).map(|s| s.value as f32).collect();
        Case {
            weight: normal(9, dim),
            dy: normal(10, x.len()),
            addend: has_addend.then(|| normal(11, x.len())),
            stats,
            eps,
            x,
        }
    }

    /// dx, dweight and dbias.
    fn run(&self, lanes: u32) -> Vec<Vec<f32>> {
        let dim = self.weight.len();
        let rows = self.x.len() / dim;
        let mut run = Guarded::new(&format!("layernorm backward {rows}x{dim} {lanes} lanes"));
        let (x, stats) = (run.input("x", &self.x), run.input("stats", &self.stats));
        let (dy, weight) = (run.input("dy", &self.dy), run.input("weight", &self.weight));
        let addend = self.addend.as_ref().map(|addend| run.input("addend", addend));
        let dx = run.output("dx", self.x.len());
        let (dweight, dbias) = (run.output("dweight", dim), run.output("dbias", dim));
        let input = BackwardInput { x, stats, dy, weight, addend, dx, rows, dim };
        input.record_with(&mut run.recorder, "layernorm.input", lanes);
        let norm = Parameters { x, stats, dy, dweight, dbias };
        let parameters = BackwardParameters { norm, other: None, rows, dim };
        parameters.record_with(&mut run.recorder, "layernorm.parameters", lanes);
        run.run()
    }

    fn check(&self) {
        let Case { x, weight, dy, addend, eps, .. } = self;
        let dim = weight.len();
        let rows = x.len() / dim;
        let exact = reference::gradients(x, weight, *eps, dy, addend.as_deref());
        for lanes in LANES {
            let results = self.run(lanes);
            let name = format!("layernorm backward {rows}x{dim} addend {} {lanes} lanes", addend.is_some());
            for (part, got, wanted, allowed) in [
                ("dx", &results[0], &exact.dx, tolerance::layernorm_backward(dim)),
                ("dweight", &results[1], &exact.dweight, tolerance::layernorm_parameters(rows)),
                ("dbias", &results[2], &exact.dbias, tolerance::layernorm_parameters(rows)),
            ] {
                compare(&format!("{name}: {part}"), got, wanted.iter().copied().enumerate(), allowed);
            }
        }
    }
}

#[test]
fn backward_of_the_reference_against_differences() {
    let (rows, dim, eps) = (3, 12, 1e-2);
    let (x, weight, bias) = (coarse(12, rows * dim), coarse(13, dim), coarse(14, dim));
    let (dy, addend) = (normal(15, rows * dim), normal(16, rows * dim));
    let loss = |x: &[f32], weight: &[f32], bias: &[f32]| -> f64 {
        let y = x.chunks(dim).flat_map(|row| reference::row(row, weight, bias, eps));
        let through = y.zip(&dy).map(|(y, &dy)| y.value * f64::from(dy)).sum::<f64>();
        through + x.iter().zip(&addend).map(|(&x, &a)| f64::from(x) * f64::from(a)).sum::<f64>()
    };
    let exact = reference::gradients(&x, &weight, eps, &dy, Some(&addend));
    let values = |exact: &[Exact]| exact.iter().map(|g| g.value).collect::<Vec<f64>>();
    prove("layernorm: dx", &x, &values(&exact.dx), |x| loss(x, &weight, &bias));
    prove("layernorm: dweight", &weight, &values(&exact.dweight), |weight| loss(&x, weight, &bias));
    prove("layernorm: dbias", &bias, &values(&exact.dbias), |bias| loss(&x, &weight, bias));
}

#[test]
fn backward_of_one_primes_and_around_every_count_of_lanes() {
    for dim in [1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33, 61, 63, 64, 65].map(|quads| 4 * quads) {
        for rows in [1, 7] {
            // Of two columns dx is zero but for eps: alone it would be all rounding.
            Case::new(normal(17, rows * dim), dim, rows == 1 || dim < 4).check();
        }
    }
    // Around a chunk of 16 rows, and where chunks grow past it: 64 chunks of 16 are 1024 rows.
    for rows in [15, 16, 17, 33, 1023, 1024, 1025, 1061] {
        Case::new(normal(18, rows * 12), 12, true).check();
    }
}

#[test]
fn backward_of_vit_s() {
    Case::new(normal(19, 2 * 197 * 384), 384, true).check();
}

#[test]
fn backward_about_a_large_mean_does_not_cancel() {
    Case::new(normal(20, 11 * 384).into_iter().map(|v| v + 30.0).collect(), 384, false).check();
}

#[test]
fn parameters_have_the_same_bits_for_every_count_of_lanes() {
    let case = Case::new(normal(21, 100 * 52), 52, false);
    let first = case.run(LANES[0]);
    for lanes in LANES {
        let other = case.run(lanes);
        assert_same_bits(&format!("dweight, {lanes} lanes"), &first[1], &other[1]);
        assert_same_bits(&format!("dbias, {lanes} lanes"), &first[2], &other[2]);
    }
}

#[test]
fn two_norms_at_once_are_each_alone_to_the_bit() {
    // Several chunks, and columns that are no whole workgroup.
    let (rows, dim) = (37, 52);
    let gradients = |streams: &[u64], lanes: u32| -> Vec<Vec<f32>> {
        let mut run = Guarded::new(&format!("layernorm parameters of {streams:?}"));
        let mut norms = streams.iter().map(|&stream| Parameters {
            x: run.input("x", &normal(stream, rows * dim)),
            stats: run.input("stats", &[0.1 * stream as f32, 0.9].repeat(rows)),
            dy: run.input("dy", &normal(stream + 1, rows * dim)),
            dweight: run.output("dweight", dim),
            dbias: run.output("dbias", dim),
        });
        let (norm, other) = (norms.next().unwrap(), norms.next());
        drop(norms);
        BackwardParameters { norm, other, rows, dim }.record_with(&mut run.recorder, "parameters", lanes);
        run.run()
    };
    for lanes in LANES {
        let (both, alone) = (gradients(&[22, 24], lanes), [gradients(&[22], lanes), gradients(&[24], lanes)]);
        for (i, wanted) in alone.iter().flatten().enumerate() {
            assert_same_bits(&format!("gradient {i}, {lanes} lanes"), wanted, &both[i]);
        }
    }
}
