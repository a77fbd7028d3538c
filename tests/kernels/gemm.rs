//! More tests of gemm: rows on their own, products in several dispatches, bounds of activations, and finite differences
//! of the reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::{drawn, normal};
use crate::common::recordings::{judged, outputs};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::cases::gemm::{nn, nt, tn};
use lat_wgpu::kernels::gemm::{BIAS, Epilogue, Form, Nn, Nt, Operations, Tile};
use lat_wgpu::reference::{Exact, gelu, gemm as reference};
use lat_wgpu::shape::Activation;

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let a = normal(1, 131 * 64);
    let run = |m: usize, tile| judged("gemm rows", |run| nt(run, &a[..m * 64], 96, 64, BIAS, tile)).remove(0);
    let all = run(131, None);
    for m in [1, 8, 37, 64, 130] {
        for tile in Tile::every(Form::Nt, context().family()).into_iter().map(Some).chain([None]) {
            assert_same_bits(&format!("first {m} rows, {tile:?}"), &all[..m * 96], &run(m, tile));
        }
    }
}

#[test]
fn reference_gradients_of_a_linear_layer_match_finite_differences() {
    let (m, n, k) = (5, 7, 3);
    let (x, weight, bias) = (coarse(1, m * k), coarse(2, n * k), coarse(3, n));
    let dy = normal(4, m * n);
    let loss = |a: &[f32], b: &[f32], bias: &[f32]| -> f64 {
        let forward =
            reference::Nt { a, b, n, k, bias: Some(bias), activation: None, scale: None, residual: None };
        let terms = dy.iter().enumerate();
        terms.map(|(i, &dy)| f64::from(dy) * forward.at(i / n, i % n).value).sum()
    };
    let dx = reference::Nn { a: &dy, b: &weight, n: k, k: n, derivative: None, residual: None };
    let dx: Vec<f64> = (0..m * k).map(|i| dx.at(i / k, i % k).value).collect();
    check_gradient("gemm dx", &x, &dx, |x| loss(x, &weight, &bias));
    let product = reference::Tn { a: &dy, b: &x, m: n, n: k, k: m };
    let dweight: Vec<f64> = (0..n * k).map(|i| product.at(i / k, i % k).value).collect();
    check_gradient("gemm dweight", &weight, &dweight, |weight| loss(&x, weight, &bias));
    let dbias: Vec<f64> = (0..n).map(|m| product.column_sum(m).value).collect();
    check_gradient("gemm dbias", &bias, &dbias, |bias| loss(&x, &weight, bias));
}

#[test]
fn reference_gradients_before_an_activation_match_finite_differences() {
    // x has two paths to the loss: y = activation(x)·Wᵀ, and x itself.
    let (m, n, k) = (50, 10, 2);
    let (x, weight) = (coarse(1, m * n), normal(2, k * n));
    let (dy, straight) = (normal(3, m * k), normal(4, m * n));
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let loss = |x: &[f32]| -> f64 {
            let direct: f64 = x.iter().zip(&straight).map(|(&x, &dx)| f64::from(x) * f64::from(dx)).sum();
            let through = dy.iter().enumerate().map(|(i, &dy)| {
                let (x, weight) = (&x[i / k * n..][..n], &weight[i % k * n..][..n]);
                let terms = x.iter().zip(weight);
                let y: f64 =
                    terms.map(|(&x, &w)| gelu::activation(activation, f64::from(x)) * f64::from(w)).sum();
                f64::from(dy) * y
            });
            direct + through.sum::<f64>()
        };
        let derivative = Some((activation, &x[..]));
        let dx = reference::Nn { a: &dy, b: &weight, n, k, derivative, residual: Some(&straight) };
        let dx: Vec<f64> = (0..m * n).map(|i| dx.at(i / n, i % n).value).collect();
        check_gradient(&format!("gemm dx before {activation:?}"), &x, &dx, loss);
    }
}

/// Sizes of a product whose rows of tiles don't divide evenly, with any tile.
const UNEVEN: [usize; 3] = [300, 36, 68];

/// Number of dispatches if none may take more than the `share`th part of a product, and the outputs.
fn in_dispatches(form: Form, tile: Tile, share: f64) -> (usize, Vec<Vec<f32>>) {
    let ([m, n, k], tile, activation) = (UNEVEN, Some(tile), Some(Activation::Gelu));
    let mut dispatches = 0;
    let found = outputs(&format!("gemm {form:?} {tile:?} in dispatches"), |run| {
        run.recorder.dispatch_flops = 2.0 * (m * n * k) as f64 / share;
        match form {
            Form::Nt => nt(run, drawn(1, m * k), n, k, Operations { pre: true, activation, ..BIAS }, tile),
            Form::Nn => nn(run, [m, n, k], (None, true), tile),
            Form::Tn => tn(run, [m, n, k], true, tile),
        }
        dispatches = run.recorder.summary().dispatches;
    });
    (dispatches, found)
}

#[test]
fn a_product_in_several_dispatches_has_the_same_bits() {
    for form in Form::ALL {
        let (whole, wanted) = in_dispatches(form, Tile::Plain, 1.0);
        assert_eq!(whole, 1, "{form:?}");
        let menu = Tile::menu(form, context().family(), context().class());
        for tile in menu {
            // There are no more dispatches than rows of tiles.
            for (share, least) in [(2.5, 2), (1e6, 3)] {
                let (dispatches, found) = in_dispatches(form, tile, share);
                assert!(dispatches >= least, "{form:?} {tile:?}: {dispatches} dispatches");
                assert!(share > 10.0 || dispatches <= 3, "{form:?} {tile:?}: {dispatches} dispatches");
                for (wanted, found) in wanted.iter().zip(&found) {
                    assert_same_bits(&format!("{form:?} {tile:?} in {dispatches}"), wanted, found);
                }
            }
        }
    }
}

/// An activation and its derivative at `x`, compared with the bounds of common/gelu.wgsl. The products are `x` and 1.
fn activated(case: &str, form: Activation, x: &[f32]) -> Vec<Vec<f32>> {
    judged(&format!("{form:?} {case}"), |run| {
        let (m, n, k) = (x.len(), 1, 1);
        let ones = vec![1.0; m];
        let [a, one, dy] = [x, &ones[..1], &ones].map(|numbers| run.operand("operand", numbers).tensor);
        let [y, slope] = ["y", "slope"].map(|label| run.output(label, m));
        let epilogue = Epilogue { activation: Some(form), ..Epilogue::default() };
        Nt { a, b: one, c: y, m, n, k, epilogue }.record_with(&mut run.recorder, "y", Tile::Plain);
        let slope_of_one =
            Nn { a: dy, b: one, c: slope, m, n, k, derivative: Some((form, a)), residual: None };
        slope_of_one.record_with(&mut run.recorder, "slope", Tile::Plain);
        let points = || x.iter().map(|&x| f64::from(x)).enumerate();
        let tail = || points().filter(|(_, x)| *x > -9.0);
        let exact = |value: f64, scale: f64| Exact { value, scale };
        run.near("slope", slope, tolerance::GELU_DERIVATIVE, || {
            points().map(|(i, x)| (i, exact(gelu::derivative(form, x), 1.0)))
        });
        if form == Activation::QuickGelu {
            return run.near("y", y, tolerance::QUICK_GELU, || {
                points().map(|(i, x)| {
                    let value = gelu::quick_gelu(x);
                    // The kernel clamps at -52, where σ is 4e-39.
                    (i, exact(value, value.abs() * (1.0 + 1.702 * x.abs().min(52.0)) + 1e-31 * x.abs()))
                })
            });
        }
        run.near("y", y, tolerance::GELU, || points().map(|(i, x)| (i, exact(gelu::gelu(x), x.abs()))));
        run.near("y of itself", y, tolerance::GELU_TAIL, || {
            tail().map(|(i, x)| (i, exact(gelu::gelu(x), gelu::gelu(x).abs())))
        });
        run.near("slope of its terms", slope, tolerance::GELU_DERIVATIVE_TAIL, || {
            let terms = |x: f64| gelu::normal_below(x) + x.abs() * gelu::normal_density(x);
            tail().map(move |(i, x)| (i, exact(gelu::gelu_derivative(x), terms(x))))
        });
    })
}

#[test]
fn activations_and_their_derivatives_keep_the_stated_bounds() {
    let range: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
    let tiny: Vec<f32> = (0..=2000).map(|i| (0.01 * i as f32 - 20.0).exp2()).flat_map(|x| [x, -x]).collect();
    let huge = [13.0, 20.0, 51.0, 52.0, 60.0, 100.0, 1e4, 1e20, 3e38].map(|x| [x, -x]).concat();
    for form in [Activation::Gelu, Activation::QuickGelu] {
        activated("over [-12, 12]", form, &range);
        activated("near 0", form, &tiny);
        let found = activated("far out", form, &huge);
        for (x, (y, slope)) in huge.iter().zip(found[0].iter().zip(&found[1])) {
            let (end, flat) = if *x > 0.0 { (*y == *x, 1.0) } else { (*y <= 0.0 && *y >= 1e-8 * x, 0.0) };
            // At 13 quick_gelu' differs from 1 by 2e-8.
            assert!(end && (slope - flat).abs() <= 1e-7, "{form:?} at {x}: {y}, slope {slope}");
        }
        assert_eq!(activated("at 0", form, &[0.0]), [[0.0], [0.5]], "{form:?}");
    }
}
