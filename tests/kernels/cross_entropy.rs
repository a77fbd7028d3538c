//! cross_entropy against the reference, with every number of lanes; finite differences prove the reference's gradient.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::{normal, scaled};
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::cross_entropy::CrossEntropy;
use lat_wgpu::kernels::gradnorm::Control;
use lat_wgpu::reference::cross_entropy as reference;
use lat_wgpu::rng;

const LANES: [u32; 4] = [4, 8, 16, 64];

/// B, R and K.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    parts: usize,
    classes: usize,
}

/// Labels with the first and the last class among them.
fn labels(shape: Shape) -> Vec<u32> {
    let classes = shape.classes as u32;
    let drawn = (0..shape.batch as u64).map(|b| rng::bits(5, 0, b) % classes);
    drawn.enumerate().map(|(b, label)| [0, classes - 1].get(b).copied().unwrap_or(label)).collect()
}

/// Losses and, if asked for, gradients times a scale.
fn run(
    shape: Shape,
    logits: &[f32],
    labels: &[u32],
    smoothing: f32,
    lanes: u32,
    gradient: Option<f32>,
) -> Vec<Vec<f32>> {
    let Shape { batch, parts, classes } = shape;
    let mut run = Guarded::new(&format!("cross_entropy {shape:?} {lanes} lanes"));
    let labels: Vec<f32> = labels.iter().map(|&label| f32::from_bits(label)).collect();
    let call = CrossEntropy {
        logits: run.input("logits", logits),
        labels: run.input("labels", &labels),
        loss: run.output("loss", parts * batch),
        gradient: gradient.map(|scale| {
            let control = Control::start(scale).words().map(f32::from_bits);
            (run.output("dlogits", logits.len()), run.input("control", &control))
        }),
        batch,
        parts,
        classes,
        smoothing,
    };
    call.record_with(&mut run.recorder, "cross_entropy", lanes);
    run.run()
}

fn check(name: &str, shape: Shape, logits: &[f32], smoothing: f32) {
    let Shape { batch, classes, .. } = shape;
    let labels = labels(shape);
    let rows = || logits.chunks(classes).enumerate().map(|(i, row)| (row, labels[i % batch] as usize));
    for lanes in LANES {
        let found = run(shape, logits, &labels, smoothing, lanes, Some(1.0));
        let case = format!("{name} {shape:?} smoothing {smoothing} {lanes} lanes");
        let losses = rows().map(|(row, label)| reference::loss(row, label, smoothing)).enumerate();
        compare(&format!("cross_entropy {case}"), &found[0], losses, tolerance::cross_entropy(classes));
        let gradients = rows().flat_map(|(row, label)| reference::gradient(row, label, smoothing, batch));
        if classes > 1 {
            let case = format!("cross_entropy gradient {case}");
            compare(&case, &found[1], gradients.enumerate(), tolerance::cross_entropy(classes));
        } else {
            assert!(found[1].iter().all(|g| g.abs() < 1e-7), "one class has nothing to learn");
        }
        let alone = run(shape, logits, &labels, smoothing, lanes, None);
        assert_same_bits("losses without gradients", &found[0], &alone[0]);
    }
}

#[test]
fn one_primes_and_around_every_count_of_lanes() {
    for classes in [1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 63, 64, 65, 127, 129] {
        let shape = Shape { batch: 3, parts: 2, classes };
        check("normal", shape, &normal(1, 6 * classes), 0.0);
        check("normal", shape, &normal(1, 6 * classes), 0.1);
    }
    check("normal", Shape { batch: 1, parts: 1, classes: 11 }, &normal(2, 11), 0.0);
}

#[test]
fn as_many_persons_as_market_1501_has() {
    let shape = Shape { batch: 4, parts: 14, classes: 751 };
    check("small logits", shape, &scaled(3, 4 * 14 * 751, 0.01), 0.0);
    check("large logits", shape, &scaled(4, 4 * 14 * 751, 10.0), 0.1);
}

#[test]
fn large_logits_do_not_overflow() {
    let shape = Shape { batch: 2, parts: 1, classes: 5 };
    let logits = [1e4, -1e4, 0.0, 3e4, 1.0, -2e30, -1e30, -3e30, -1e30, -2e30];
    for lanes in LANES {
        let found = run(shape, &logits, &[3, 1], 0.0, lanes, Some(1.0));
        assert_eq!(found[0][0], 0.0);
        assert!((found[0][1] - 2f32.ln()).abs() < 1e-6, "{}", found[0][1]);
        assert_eq!(found[1][5..], [0.0, -0.25, 0.0, 0.25, 0.0]);
    }
}

#[test]
fn what_is_not_finite_shows_in_the_loss() {
    let shape = Shape { batch: 1, parts: 1, classes: 9 };
    for bad in [f32::NAN, f32::from_bits(0xff80_0001), f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 4, 8] {
            let mut logits = normal(6, 9);
            logits[at] = bad;
            for lanes in LANES {
                let found = run(shape, &logits, &[2], 0.0, lanes, Some(1.0));
                assert!(found[0][0].is_nan(), "{bad} at {at}: loss {}", found[0][0]);
            }
        }
    }
}

#[test]
fn the_reference_gradient_is_a_difference_quotient() {
    for smoothing in [0.0, 0.1] {
        let (logits, weight) = (coarse(7, 3 * 6), [0.5, -2.0, 1.25]);
        let labels = [2, 0, 5];
        let gradient: Vec<f64> = logits
            .chunks(6)
            .zip(labels)
            .zip(weight)
            .flat_map(|((row, label), weight)| {
                // Of three times the mean over a batch of three, weighted.
                let row = reference::gradient(row, label, smoothing, 3);
                row.into_iter().map(move |g| 3.0 * weight * g.value)
            })
            .collect();
        prove(&format!("cross_entropy smoothing {smoothing}"), &logits, &gradient, |logits| {
            let rows = logits.chunks(6).zip(labels).zip(weight);
            rows.map(|((row, label), weight)| weight * reference::loss(row, label, smoothing).value).sum()
        });
    }
}

#[test]
fn the_scale_multiplies_the_gradient_and_not_the_loss() {
    let shape = Shape { batch: 3, parts: 2, classes: 13 };
    let (logits, labels) = (normal(9, 3 * 2 * 13), labels(shape));
    let [plain, scaled] = [1.0, 1024.0].map(|scale| run(shape, &logits, &labels, 0.1, 8, Some(scale)));
    assert_eq!(plain[0], scaled[0]);
    assert_eq!(plain[1].iter().map(|g| 1024.0 * g).collect::<Vec<f32>>(), scaled[1]);
}
