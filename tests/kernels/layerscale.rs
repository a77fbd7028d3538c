//! layerscale's backward pass against the reference.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::tolerance;
use lat_wgpu::kernels::layerscale::Backward;
use lat_wgpu::reference::layerscale as reference;

/// dx and dweight.
fn run(x: &[f32], weight: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
    let dim = weight.len();
    let rows = x.len() / dim;
    let mut run = Guarded::new(&format!("layerscale {rows}x{dim}"));
    let backward = Backward {
        x: run.input("x", x),
        weight: run.input("weight", weight),
        dy: run.input("dy", dy),
        dx: run.output("dx", x.len()),
        dweight: run.output("dweight", dim),
        rows,
        dim,
    };
    backward.record(&mut run.recorder, "layerscale");
    run.run()
}

fn check(rows: usize, dim: usize) {
    let (x, weight, dy) = (normal(1, rows * dim), normal(2, dim), normal(3, rows * dim));
    let results = run(&x, &weight, &dy);
    let name = format!("layerscale {rows}x{dim}");
    let dx = (0..rows * dim).map(|i| (i, reference::forward(dy[i], weight[i % dim])));
    compare(&format!("{name}: dx"), &results[0], dx, tolerance::layerscale(0));
    let dweight = (0..dim).map(|d| (d, reference::dweight(&x, &dy, dim, d)));
    compare(&format!("{name}: dweight"), &results[1], dweight, tolerance::layerscale(rows));
}

#[test]
fn one_primes_and_around_a_chunk_and_a_workgroup() {
    for rows in [1, 2, 7, 63, 64, 65, 127, 128, 129, 193] {
        for dim in [1, 3, 13, 15, 16, 17].map(|quads| 4 * quads) {
            check(rows, dim);
        }
    }
}

#[test]
fn shape_of_vit_s() {
    check(8 * 257, 384);
}

#[test]
fn reference_gradients_are_the_difference_quotients() {
    let (rows, dim) = (5, 8);
    let (x, weight, dy) = (coarse(1, rows * dim), coarse(2, dim), normal(3, rows * dim));
    let loss = |x: &[f32], weight: &[f32]| -> f64 {
        let terms = dy.iter().enumerate();
        terms.map(|(i, &dy)| f64::from(dy) * reference::forward(x[i], weight[i % dim]).value).sum()
    };
    let dx: Vec<f64> =
        dy.iter().enumerate().map(|(i, &dy)| reference::forward(dy, weight[i % dim]).value).collect();
    prove("layerscale dx", &x, &dx, |x| loss(x, &weight));
    let dweight: Vec<f64> = (0..dim).map(|d| reference::dweight(&x, &dy, dim, d).value).collect();
    prove("layerscale dweight", &weight, &dweight, |weight| loss(&x, weight));
}
