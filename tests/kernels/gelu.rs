//! gelu: the error bound that common/gelu.wgsl states, measured.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::tolerance;
use lat_wgpu::kernels::gelu::Forward;
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::gelu::{gelu, quick_gelu};
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
