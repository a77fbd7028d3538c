//! More tests of cross_entropy: extreme logits, the loss scale, and finite differences of the reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use crate::common::recordings::outputs;
use lat_wgpu::cases::LANES;
use lat_wgpu::cases::cross_entropy::{Shape, losses};
use lat_wgpu::reference::cross_entropy as reference;

fn shape(batch: usize, parts: usize, classes: usize, smoothing: f32) -> Shape {
    Shape { batch, parts, classes, smoothing, weights: [1.0; 2] }
}

/// Losses, and gradients times a loss scale.
fn run(shape: Shape, logits: &[f32], labels: &[u32], lanes: u32, scale: f32) -> Vec<Vec<f32>> {
    outputs("cross_entropy", |run| losses(run, logits, labels, shape, Some(scale), lanes))
}

#[test]
fn large_logits_do_not_overflow() {
    let shape = shape(2, 1, 5, 0.0);
    let logits = [1e4, -1e4, 0.0, 3e4, 1.0, -2e30, -1e30, -3e30, -1e30, -2e30];
    for lanes in LANES {
        let found = run(shape, &logits, &[3, 1], lanes, 1.0);
        assert_eq!(found[0][0], 0.0);
        assert!((found[0][1] - 2f32.ln()).abs() < 1e-6, "{}", found[0][1]);
        assert_eq!(found[1][5..], [0.0, -0.25, 0.0, 0.25, 0.0]);
    }
}

#[test]
fn logits_that_are_not_finite_make_the_loss_nan() {
    let shape = shape(1, 1, 9, 0.0);
    for bad in [f32::NAN, f32::from_bits(0xff80_0001), f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 4, 8] {
            let mut logits = normal(6, 9);
            logits[at] = bad;
            for lanes in LANES {
                let found = run(shape, &logits, &[2], lanes, 1.0);
                assert!(found[0][0].is_nan(), "{bad} at {at}: loss {}", found[0][0]);
            }
        }
    }
}

#[test]
fn reference_gradients_match_finite_differences() {
    for smoothing in [0.0, 0.1] {
        let (logits, weight) = (coarse(7, 3 * 6), [0.5, -2.0, 1.25]);
        let labels = [2, 0, 5];
        let gradient: Vec<f64> = logits
            .chunks(6)
            .zip(labels)
            .zip(weight)
            .flat_map(|((row, label), weight)| {
                // Three times the weighted mean over a batch of three.
                let row = reference::gradient(row, label, smoothing, 3);
                row.into_iter().map(move |g| 3.0 * weight * g.value)
            })
            .collect();
        check_gradient(&format!("cross_entropy smoothing {smoothing}"), &logits, &gradient, |logits| {
            let rows = logits.chunks(6).zip(labels).zip(weight);
            rows.map(|((row, label), weight)| weight * reference::loss(row, label, smoothing).value).sum()
        });
    }
}

#[test]
fn the_scale_multiplies_the_gradient_and_not_the_loss() {
    let shape = shape(3, 2, 13, 0.1);
    let (logits, labels) = (normal(9, 3 * 2 * 13), shape.labels());
    let [plain, scaled] = [1.0, 1024.0].map(|scale| run(shape, &logits, &labels, 8, scale));
    assert_eq!(plain[0], scaled[0]);
    assert_eq!(plain[1].iter().map(|g| 1024.0 * g).collect::<Vec<f32>>(), scaled[1]);
}
