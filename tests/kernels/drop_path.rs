//! Finite differences of drop_path's reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use lat_wgpu::reference::drop_path::forward;

#[test]
fn reference_gradients_match_finite_differences() {
    let (image, factors) = (12, [0.0, 1.25, 2.0]);
    let len = factors.len() * image;
    let (x, residual, dy) = (coarse(1, len), coarse(2, len), normal(3, len));
    let loss = |x: &[f32], residual: &[f32]| -> f64 {
        let terms = dy.iter().enumerate();
        terms.map(|(i, &dy)| f64::from(dy) * forward(x[i], factors[i / image], residual[i]).value).sum()
    };
    let dx: Vec<f64> =
        dy.iter().enumerate().map(|(i, &dy)| forward(dy, factors[i / image], 0.0).value).collect();
    check_gradient("drop_path dx", &x, &dx, |x| loss(x, &residual));
    let dresidual: Vec<f64> = dy.iter().map(|&dy| f64::from(dy)).collect();
    check_gradient("drop_path dresidual", &residual, &dresidual, |residual| loss(&x, residual));
}
