//! gelu: the error bounds that common/gelu.wgsl states, measured.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::tolerance;
use lat_wgpu::kernels::gelu::{Backward, Forward};
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::gelu::{
    activation, derivative, gelu, gelu_derivative, normal_below, normal_density, quick_gelu,
    quick_gelu_derivative,
};
use lat_wgpu::shape::Activation;

fn run(x: &[f32], activation: Activation) -> Vec<f32> {
    let mut run = Guarded::new(&format!("{activation:?} {}", x.len()));
    let (x, y) = (run.input("x", x), run.output("y", x.len()));
    Forward { x, y, activation }.record(&mut run.recorder, "gelu");
    run.run().remove(0)
}

fn check(name: &str, x: &[f32]) {
    let y = run(x, Activation::Gelu);
    let points = || x.iter().map(|&x| f64::from(x)).enumerate();
    let everywhere = points().map(|(i, x)| (i, Exact { value: gelu(x), scale: x.abs() }));
    compare(&format!("gelu {name}: of |x|"), &y, everywhere, tolerance::GELU);
    let right: Vec<_> = points()
        .filter(|(_, x)| *x > -9.0)
        .map(|(i, x)| (i, Exact { value: gelu(x), scale: gelu(x).abs() }))
        .collect();
    if !right.is_empty() {
        compare(&format!("gelu {name}: of the value"), &y, right, tolerance::GELU_TAIL);
    }
    let y = run(x, Activation::QuickGelu);
    let quick = points().map(|(i, x)| {
        let value = quick_gelu(x);
        // The kernel clamps at -52, where σ is 4e-39.
        (i, Exact { value, scale: value.abs() * (1.0 + 1.702 * x.abs().min(52.0)) + 1e-31 * x.abs() })
    });
    compare(&format!("quick_gelu {name}"), &y, quick, tolerance::QUICK_GELU);
}

#[test]
fn one_primes_and_around_a_workgroup() {
    for len in [1, 2, 7, 61, 63, 64, 65, 127, 128, 129] {
        check(&format!("{len} values"), &normal(1, len));
    }
}

#[test]
fn the_stated_bound_holds_from_minus_twelve_to_twelve() {
    let x: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
    check("over [-12, 12]", &x);
    let tiny: Vec<f32> =
        (0..=2000).flat_map(|i| [1.0, -1.0].map(|s| s * (0.01 * i as f32 - 20.0).exp2())).collect();
    check("near 0", &tiny);
}

#[test]
fn huge_arguments_give_finite_results() {
    let x = [1e4, -1e4, 3e38, -3e38, 13.0, -13.0, 52.0, -52.0, -51.0, -60.0, 100.0, -100.0, 0.0];
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let y = run(&x, activation);
        assert!(y.iter().all(|v| v.is_finite()), "{activation:?}: {y:?}");
        for (x, y) in x.iter().zip(y) {
            if *x > 12.0 {
                assert_eq!(y, *x, "{activation:?}");
            } else if *x < -12.0 {
                assert!(y <= 0.0 && y >= -1e-8 * x.abs(), "{activation:?}({x}) = {y}");
            }
        }
    }
    check("huge", &x);
}

#[test]
fn more_values_than_one_row_of_workgroups_holds() {
    // 65,535 workgroups of 64 and one more value: the grid folds into a second dimension.
    let x: Vec<f32> = (0..65_535 * 64 + 1).map(|i| (i % 1000) as f32 * 0.01 - 5.0).collect();
    let y = run(&x, Activation::Gelu);
    let ends = (0..1000).chain(x.len() - 1000..x.len());
    let wanted = ends.map(|i| (i, Exact { value: gelu(f64::from(x[i])), scale: f64::from(x[i]).abs() }));
    compare("gelu folded", &y, wanted, tolerance::GELU);
}

fn run_backward(x: &[f32], dy: &[f32], activation: Activation) -> Vec<f32> {
    let mut run = Guarded::new(&format!("{activation:?} backward {}", x.len()));
    let (x, dy, dx) = (run.input("x", x), run.input("dy", dy), run.output("dx", x.len()));
    Backward { x, dy, dx, activation }.record(&mut run.recorder, "gelu");
    run.run().remove(0)
}

/// With dy = 1 the slopes themselves; their product with a random dy rounds once more.
fn check_backward(name: &str, x: &[f32]) {
    let points = || x.iter().map(|&x| f64::from(x)).enumerate();
    let dx = run_backward(x, &vec![1.0; x.len()], Activation::Gelu);
    let everywhere = points().map(|(i, x)| (i, Exact { value: gelu_derivative(x), scale: 1.0 }));
    compare(&format!("gelu' {name}: absolute"), &dx, everywhere, tolerance::GELU_DERIVATIVE);
    let right: Vec<_> = points()
        .filter(|(_, x)| *x > -9.0)
        .map(|(i, x)| {
            let scale = normal_below(x) + x.abs() * normal_density(x);
            (i, Exact { value: gelu_derivative(x), scale })
        })
        .collect();
    if !right.is_empty() {
        compare(&format!("gelu' {name}: of its terms"), &dx, right, tolerance::GELU_DERIVATIVE_TAIL);
    }
    let dx = run_backward(x, &vec![1.0; x.len()], Activation::QuickGelu);
    let quick = points().map(|(i, x)| (i, Exact { value: quick_gelu_derivative(x), scale: 1.0 }));
    compare(&format!("quick_gelu' {name}: absolute"), &dx, quick, tolerance::GELU_DERIVATIVE);
    let dy = normal(9, x.len());
    for form in [Activation::Gelu, Activation::QuickGelu] {
        let dx = run_backward(x, &dy, form);
        let wanted = points().map(|(i, x)| {
            let dy = f64::from(dy[i]);
            // One more unit for the product itself.
            (i, Exact { value: dy * derivative(form, x), scale: 1.25 * dy.abs() })
        });
        compare(&format!("{form:?} backward {name}"), &dx, wanted, tolerance::GELU_DERIVATIVE);
    }
}

#[test]
fn backward_one_primes_and_around_a_workgroup() {
    for len in [1, 2, 7, 61, 63, 64, 65, 127, 128, 129] {
        check_backward(&format!("{len} values"), &normal(1, len));
    }
}

#[test]
fn the_stated_bound_of_the_derivatives_holds_from_minus_twelve_to_twelve() {
    let x: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
    check_backward("over [-12, 12]", &x);
}

#[test]
fn huge_arguments_give_the_slopes_of_the_ends() {
    let x = [1e4, -1e4, 3e38, -3e38, 13.0, -13.0, 20.0, -20.0, 51.0, -51.0, 60.0, -60.0, 1e20, -1e20, 0.0];
    for form in [Activation::Gelu, Activation::QuickGelu] {
        let dx = run_backward(&x, &[1.0; 15], form);
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
