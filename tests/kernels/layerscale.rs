//! Finite differences of layerscale's reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use lat_wgpu::reference::layerscale as reference;

#[test]
fn reference_gradients_match_finite_differences() {
    let (rows, dim) = (5, 8);
    let (x, weight, dy) = (coarse(1, rows * dim), coarse(2, dim), normal(3, rows * dim));
    let loss = |x: &[f32], weight: &[f32]| -> f64 {
        let terms = dy.iter().enumerate();
        terms.map(|(i, &dy)| f64::from(dy) * reference::forward(x[i], weight[i % dim]).value).sum()
    };
    let dx: Vec<f64> =
        dy.iter().enumerate().map(|(i, &dy)| reference::forward(dy, weight[i % dim]).value).collect();
    check_gradient("layerscale dx", &x, &dx, |x| loss(x, &weight));
    let dweight: Vec<f64> = (0..dim).map(|d| reference::dweight(&x, &dy, dim, d).value).collect();
    check_gradient("layerscale dweight", &weight, &dweight, |weight| loss(&x, weight));
}
