//! triplet against the reference: distances, mining and gradient; finite differences prove the reference's gradient.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::{normal, scaled};
use crate::common::{context, tolerance};
use lat_wgpu::gpu::Family;
use lat_wgpu::kernels::gradnorm::Control;
use lat_wgpu::kernels::triplet::{Backward, Distances, Mine, NONE};
use lat_wgpu::reference::triplet as reference;
use lat_wgpu::rng;

const MARGIN: f32 = 0.3;

/// The words of small whole numbers.
fn words(values: &[u32]) -> Vec<f32> {
    values.iter().map(|&value| f32::from_bits(value)).collect()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn run_distances(parts: &[f32], batch: usize) -> Vec<f32> {
    let length = parts.len() / batch;
    let [gpu, own] = [Family::Tiled, context().family()].map(|family| {
        let mut run = Guarded::new(&format!("triplet distances {batch}x{length} {family:?}"));
        let (parts, distances) = (run.input("parts", parts), run.output("distances", batch * batch));
        Distances { parts, distances, batch, length }.record_with(&mut run.recorder, "distances", family);
        run.run().remove(0)
    });
    // A NaN's payload may differ.
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert!(gpu.iter().zip(&own).all(same), "families, {batch}x{length}");
    own
}

/// Losses, and the two pictures of each anchor.
fn run_mine(distances: &[f32], labels: &[u32], margin: f32) -> (Vec<f32>, Vec<Option<[usize; 2]>>) {
    let batch = labels.len();
    let mut run = Guarded::new(&format!("triplet mine {batch}"));
    let mine = Mine {
        distances: run.input("distances", distances),
        labels: run.input("labels", &words(labels)),
        loss: run.output("loss", batch),
        choice: run.output("choice", 2 * batch),
        batch,
        margin,
    };
    mine.record(&mut run.recorder, "mine");
    let mut found = run.run();
    let choices = found.remove(1);
    let choices = choices.chunks(2).map(|pair| {
        let pair = [pair[0].to_bits(), pair[1].to_bits()];
        assert!(pair == [NONE; 2] || pair.iter().all(|&i| i < batch as u32), "{pair:?}");
        (pair != [NONE; 2]).then_some(pair.map(|i| i as usize))
    });
    let choices = choices.collect();
    (found.remove(0), choices)
}

fn run_backward(
    parts: &[f32],
    distances: &[f32],
    choices: &[Option<[usize; 2]>],
    dparts: &[f32],
) -> Vec<f32> {
    run_scaled(parts, distances, choices, dparts, 1.0)
}

fn run_scaled(
    parts: &[f32],
    distances: &[f32],
    choices: &[Option<[usize; 2]>],
    dparts: &[f32],
    scale: f32,
) -> Vec<f32> {
    let batch = choices.len();
    let length = parts.len() / batch;
    let choice: Vec<u32> =
        choices.iter().flat_map(|pair| pair.map_or([NONE; 2], |pair| pair.map(|i| i as u32))).collect();
    let mut run = Guarded::new(&format!("triplet backward {batch}x{length}"));
    let backward = Backward {
        parts: run.input("parts", parts),
        distances: run.input("distances", distances),
        choice: run.input("choice", &words(&choice)),
        dparts: run.in_place("dparts", dparts),
        control: run.input("control", &Control::start(scale).words().map(f32::from_bits)),
        batch,
        length,
    };
    backward.record(&mut run.recorder, "backward");
    run.run().remove(0)
}

/// Compares all three launches, each on what the one before it gave; returns losses and choices.
fn check(name: &str, parts: &[f32], labels: &[u32], margin: f32) -> (Vec<f32>, Vec<Option<[usize; 2]>>) {
    let batch = labels.len();
    let length = parts.len() / batch;
    let name = format!("triplet {name} {batch}x{length}");

    let distances = run_distances(parts, batch);
    let wanted = reference::distances(parts, batch);
    let case = format!("{name} distances");
    compare(&case, &distances, wanted.into_iter().enumerate(), tolerance::triplet_distances(length));
    for i in 0..batch {
        assert_eq!(distances[i * batch + i], 1e-6, "{name}: a picture's distance from itself");
        for j in 0..i {
            let (there, back) = (distances[i * batch + j], distances[j * batch + i]);
            assert_eq!(there.to_bits(), back.to_bits(), "{name}: from {i} to {j} and back");
        }
    }

    let (losses, choices) = run_mine(&distances, labels, margin);
    let exact = widened(&distances);
    let mined: Vec<_> =
        (0..batch).map(|anchor| reference::mine(&exact, labels, anchor, f64::from(margin))).collect();
    let case = format!("{name} losses");
    compare(&case, &losses, mined.iter().map(|m| m.0).enumerate(), tolerance::TRIPLET_LOSS);
    assert_eq!(choices, mined.iter().map(|m| m.1).collect::<Vec<_>>(), "{name}: choices");

    let before = normal(99, parts.len());
    let found = run_backward(parts, &distances, &choices, &before);
    let wanted = reference::gradient(parts, &exact, &choices, &before);
    let case = format!("{name} gradient");
    compare(&case, &found, wanted.into_iter().enumerate(), tolerance::triplet_backward(batch));
    // What nothing is added to keeps its bits.
    for (i, row) in found.chunks(length).enumerate() {
        let touched = choices.iter().enumerate().any(|(anchor, pair)| {
            pair.is_some_and(|[positive, negative]| [anchor, positive, negative].contains(&i))
        });
        if !touched {
            assert_eq!(row, &before[i * length..][..length], "{name}: row {i}");
        }
    }
    (losses, choices)
}

/// About `persons` labels, some of which may have a single picture.
fn labels(batch: usize, persons: u32) -> Vec<u32> {
    (0..batch as u64).map(|i| 1000 + rng::bits(6, 1, i) % persons).collect()
}

#[test]
fn one_primes_and_around_four_and_a_workgroup() {
    for length in [1, 2, 3, 4, 5, 7, 8, 13, 31, 63, 64, 65, 127, 129] {
        check("normal", &normal(1, 6 * length), &labels(6, 3), MARGIN);
    }
    for batch in [1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 127] {
        // Far apart, some anchors have no loss.
        let (losses, _) = check("normal", &normal(2, batch * 11), &labels(batch, 4), MARGIN);
        if batch > 60 {
            assert!(losses.iter().filter(|&&loss| loss > 0.0).count() > batch / 2);
        }
    }
}

#[test]
fn parts_of_vit_s_and_vit_b() {
    let labels: Vec<u32> = (0..64).map(|i| i / 4 * 37).collect();
    for (stream, length) in [(3, 14 * 384), (4, 14 * 768)] {
        let (losses, _) = check("4 of 16", &scaled(stream, 64 * length, 0.05), &labels, MARGIN);
        assert!(losses.iter().all(|&loss| loss > 0.0));
    }
}

#[test]
fn near_pictures_far_from_the_origin_keep_their_distance() {
    // Norms and products would leave nothing of it.
    let parts: Vec<f32> = scaled(5, 8 * 384, 0.001).iter().map(|v| v + 3.0).collect();
    check("near", &parts, &[0, 0, 1, 1, 2, 2, 3, 3], MARGIN);
}

#[test]
fn persons_that_are_apart_lose_nothing() {
    let labels = [0, 1, 0, 1, 2, 2];
    let parts: Vec<f32> = labels
        .iter()
        .flat_map(|&label| [10.0 * label as f32; 5])
        .zip(normal(6, 30))
        .map(|(a, b)| a + 0.01 * b)
        .collect();
    let (losses, choices) = check("apart", &parts, &labels, MARGIN);
    assert!(losses.iter().all(|&loss| loss == 0.0) && choices.iter().all(Option::is_none));
    // A margin as wide as the gap brings all of them back.
    let (_, choices) = check("apart, wide margin", &parts, &labels, 100.0);
    assert!(choices.iter().all(Option::is_some));
}

#[test]
fn an_anchor_without_a_pair_is_left_out() {
    let parts = normal(7, 5 * 9);
    for labels in [[3; 5], [0, 1, 2, 3, 4]] {
        let (losses, choices) = check("without pairs", &parts, &labels, MARGIN);
        assert!(losses.iter().all(|&loss| loss == 0.0) && choices.iter().all(Option::is_none));
    }
    // The last person has one picture: it is no anchor, but others' negative.
    let (losses, choices) = check("one alone", &parts, &[0, 0, 1, 1, 2], 100.0);
    assert!(losses[4] == 0.0 && choices[4].is_none() && choices[..4].iter().all(Option::is_some));
}

#[test]
fn of_equals_the_first_is_taken() {
    let parts = [0.0, 1.0, -1.0, 2.0, -2.0];
    let (_, choices) = check("equals", &parts, &[0, 0, 0, 1, 1], 10.0);
    assert_eq!(choices[0], Some([1, 3]));
}

#[test]
fn pictures_that_are_alike_have_no_direction() {
    // Copies of one picture under both labels.
    let parts: Vec<f32> = normal(8, 13).repeat(4);
    let (losses, choices) = check("copies", &parts, &[0, 0, 1, 1], MARGIN);
    assert!(losses.iter().all(|&loss| loss == MARGIN) && choices.iter().all(Option::is_some));
    // Below the least distance, then above it.
    for step in [9e-7, 1.1e-6] {
        check("nearly alike", &[0.0, step, 1.0, 1.0 + step], &[0, 0, 1, 1], 2.0);
    }
}

#[test]
fn what_is_not_finite_shows_in_the_loss() {
    for bad in [f32::NAN, f32::from_bits(0xffc0_0001), f32::INFINITY, f32::MAX] {
        for at in [0, 12, 29] {
            let mut parts = normal(9, 6 * 5);
            parts[at] = bad;
            let labels = [0, 0, 1, 1, 2, 2];
            let (losses, choices) = run_mine(&run_distances(&parts, 6), &labels, MARGIN);
            assert!(losses.iter().all(|loss| !loss.is_finite()), "{bad} at {at}: {losses:?}");
            assert!(choices.iter().all(Option::is_none), "{bad} at {at}: {choices:?}");
        }
    }
}

#[test]
fn the_reference_gradient_is_a_difference_quotient() {
    let (batch, length) = (7, 5);
    let (parts, labels) = (coarse(10, batch * length), [4, 1, 4, 1, 2, 4, 9]);
    for margin in [0.3, 2.0] {
        let mined = |parts: &[f32]| {
            let distances: Vec<f64> = reference::distances(parts, batch).iter().map(|d| d.value).collect();
            let all = (0..batch).map(|anchor| reference::mine(&distances, &labels, anchor, margin));
            let (losses, choices): (Vec<_>, Vec<_>) = all.unzip();
            (distances, losses, choices)
        };
        let (distances, _, choices) = mined(&parts);
        let active = choices.iter().flatten().count();
        assert!(active > 2 && active < batch, "{active} anchors");
        let gradient = reference::gradient(&parts, &distances, &choices, &vec![0.0; parts.len()]);
        let gradient: Vec<f64> = gradient.iter().map(|g| g.value).collect();
        prove(&format!("triplet margin {margin}"), &parts, &gradient, |parts| {
            mined(parts).1.iter().map(|loss| loss.value).sum::<f64>() / batch as f64
        });
    }
}

#[test]
fn the_scale_multiplies_what_is_added() {
    let parts = normal(11, 3 * 8);
    let (distances, choices) =
        ([0.0, 1.0, 2.0, 1.0, 0.0, 3.0, 2.0, 3.0, 0.0], [Some([1, 2]), None, Some([0, 1])]);
    let [plain, scaled] =
        [1.0, 512.0].map(|scale| run_scaled(&parts, &distances, &choices, &[0.0; 24], scale));
    assert_eq!(plain.iter().map(|g| 512.0 * g).collect::<Vec<f32>>(), scaled);
}
