//! Finite differences of camera's reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use lat_wgpu::reference::camera::{forward, gradient};

#[test]
fn reference_gradients_match_finite_differences() {
    let (tokens, dim, rows, cameras, weight) = (3, 4, 3, [2, 0, 2, 2], 3.0);
    let length = tokens * dim;
    let len = cameras.len() * length;
    let (x, table, dy) = (coarse(1, len), coarse(2, rows * dim), normal(3, len));
    let loss = |x: &[f32], table: &[f32]| -> f64 {
        let y = |i: usize| forward(x[i], weight, table[cameras[i / length] as usize * dim + i % dim]).value;
        dy.iter().enumerate().map(|(i, &dy)| f64::from(dy) * y(i)).sum()
    };
    let dtable: Vec<f64> = (0..rows * dim)
        .map(|i| gradient(&dy, &cameras, weight, [length, dim], [i / dim, i % dim]).value)
        .collect();
    check_gradient("camera dtable", &table, &dtable, |table| loss(&x, table));
    assert!(dtable[dim..2 * dim].iter().all(|&v| v == 0.0), "a camera without images has a gradient");
    let dx: Vec<f64> = dy.iter().map(|&dy| f64::from(dy)).collect();
    check_gradient("camera dx", &x, &dx, |x| loss(x, &table));
}
