//! gelu beside its cases.

use crate::common::differences::{coarse, prove};
use crate::common::guard::{judged, outputs};
use crate::common::random::normal;
use lat_wgpu::cases::gelu::{backward, forward};
use lat_wgpu::reference::gelu::{activation, derivative};
use lat_wgpu::shape::Activation;

#[test]
fn huge_arguments_give_finite_results() {
    let x = [1e4, -1e4, 3e38, -3e38, 13.0, -13.0, 52.0, -52.0, -51.0, -60.0, 100.0, -100.0, 0.0];
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let y = judged("gelu of huge arguments", |run| forward(run, &x[..], activation, true)).remove(0);
        assert!(y.iter().all(|v| v.is_finite()), "{activation:?}: {y:?}");
        for (x, y) in x.iter().zip(y) {
            if *x > 12.0 {
                assert_eq!(y, *x, "{activation:?}");
            } else if *x < -12.0 {
                assert!(y <= 0.0 && y >= -1e-8 * x.abs(), "{activation:?}({x}) = {y}");
            }
        }
    }
}

#[test]
fn more_values_than_one_row_of_workgroups_holds() {
    // 65,535 workgroups of 64 and one more value: the grid folds into a second dimension.
    let x: Vec<f32> = (0..65_535 * 64 + 1).map(|i| (i % 1000) as f32 * 0.01 - 5.0).collect();
    judged("gelu folded", |run| forward(run, &x, Activation::Gelu, false));
}

#[test]
fn huge_arguments_give_the_slopes_of_the_ends() {
    let x = [1e4, -1e4, 3e38, -3e38, 13.0, -13.0, 20.0, -20.0, 51.0, -51.0, 60.0, -60.0, 1e20, -1e20, 0.0];
    for form in [Activation::Gelu, Activation::QuickGelu] {
        let dx = outputs("gelu' of huge arguments", |run| backward(run, &x[..], None, form)).remove(0);
        for (x, dx) in x.iter().zip(dx) {
            let wanted = if *x > 0.0 { 1.0 } else { 0.0 };
            // quick_gelu' still has 2e-8 of its bend at 13.
            let near = if *x == 0.0 { dx == 0.5 } else { (dx - wanted).abs() <= 1e-7 };
            assert!(near, "{form:?}'({x}) = {dx}");
        }
    }
}

#[test]
fn reference_gradients_are_the_difference_quotients() {
    let (x, dy) = (coarse(1, 500), normal(2, 500));
    for form in [Activation::Gelu, Activation::QuickGelu] {
        let terms = || x.iter().zip(&dy).map(|(&x, &dy)| (f64::from(x), f64::from(dy)));
        let dx: Vec<f64> = terms().map(|(x, dy)| dy * derivative(form, x)).collect();
        prove(&format!("{form:?} dx"), &x, &dx, |x| {
            let terms = x.iter().zip(&dy).map(|(&x, &dy)| f64::from(dy) * activation(form, f64::from(x)));
            terms.sum()
        });
    }
}
