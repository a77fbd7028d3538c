//! More tests of triplet: special cases of mining, the loss scale, and finite differences of the reference.

use crate::common::context;
use crate::common::differences::{check_gradient, coarse};
use crate::common::random::{drawn, normal, scaled};
use crate::common::recordings::{judged, outputs};
use lat_wgpu::cases::run::Run;
use lat_wgpu::cases::triplet::{Choice, backward, distances, labels, mine};
use lat_wgpu::kernels::triplet::{Margin, NONE};
use lat_wgpu::reference::triplet as reference;

const MARGIN: Margin = Margin::Hard(0.3);

/// Losses, and the two images of each anchor.
fn mined(found: &[Vec<f32>]) -> (Vec<f32>, Vec<Choice>) {
    let batch = found[0].len();
    let choice = |pair: &[f32]| {
        let pair = [pair[0].to_bits(), pair[1].to_bits()];
        assert!(pair == [NONE; 2] || pair.iter().all(|&i| i < batch as u32), "{pair:?}");
        (pair != [NONE; 2]).then_some(pair.map(|i| i as usize))
    };
    (found[0].clone(), found[1].chunks(2).map(choice).collect())
}

/// Compares all three kernels, each with the results of the one before it. Returns losses and choices.
fn check(name: &str, parts: &[f32], labels: &[u32], margin: Margin) -> (Vec<f32>, Vec<Choice>) {
    let (batch, family) = (labels.len(), context().family());
    let found = judged(name, |run| distances(run, parts, batch, family)).remove(0);
    for i in 0..batch {
        assert_eq!(found[i * batch + i], 1e-6, "{name}: an image's distance from itself");
        for j in 0..i {
            let (there, back) = (found[i * batch + j], found[j * batch + i]);
            assert_eq!(there.to_bits(), back.to_bits(), "{name}: from {i} to {j} and back");
        }
    }
    let (losses, choices) = mined(&judged(name, |run| mine(run, &found, labels, margin)));
    judged(name, |run| backward(run, parts, &found, &choices, normal(99, parts.len()), 1.0, margin));
    (losses, choices)
}

#[test]
fn many_images_of_few_persons() {
    for batch in [6, 63, 65, 127] {
        // The persons are not separated, so most anchors have a loss.
        let (losses, _) = check("normal", &normal(2, batch * 11), &labels(batch, 4), MARGIN);
        assert!(batch < 60 || losses.iter().filter(|&&loss| loss > 0.0).count() > batch / 2);
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
fn close_images_far_from_the_origin_keep_their_distance() {
    // Computed from norms and products, the distances would cancel.
    let parts: Vec<f32> = scaled(5, 8 * 384, 0.001).iter().map(|v| v + 3.0).collect();
    check("near", &parts, &[0, 0, 1, 1, 2, 2, 3, 3], MARGIN);
}

#[test]
fn separated_persons_have_no_loss() {
    let labels = [0, 1, 0, 1, 2, 2];
    let parts: Vec<f32> = labels
        .iter()
        .flat_map(|&label| [10.0 * label as f32; 5])
        .zip(normal(6, 30))
        .map(|(a, b)| a + 0.01 * b)
        .collect();
    let (losses, choices) = check("apart", &parts, &labels, MARGIN);
    assert!(losses.iter().all(|&loss| loss == 0.0) && choices.iter().all(Option::is_none));
    // With a margin as wide as the gap all anchors have a loss.
    let (_, choices) = check("apart, wide margin", &parts, &labels, Margin::Hard(100.0));
    assert!(choices.iter().all(Option::is_some));
}

#[test]
fn an_anchor_without_a_pair_has_no_loss() {
    let parts = normal(7, 5 * 9);
    for labels in [[3; 5], [0, 1, 2, 3, 4]] {
        let (losses, choices) = check("without pairs", &parts, &labels, MARGIN);
        assert!(losses.iter().all(|&loss| loss == 0.0) && choices.iter().all(Option::is_none));
    }
    // The last person has one image, which is a negative of others but no anchor.
    let (losses, choices) = check("one alone", &parts, &[0, 0, 1, 1, 2], Margin::Hard(100.0));
    assert!(losses[4] == 0.0 && choices[4].is_none() && choices[..4].iter().all(Option::is_some));
}

#[test]
fn of_equals_the_first_is_taken() {
    let parts = [0.0, 1.0, -1.0, 2.0, -2.0];
    let (_, choices) = check("equals", &parts, &[0, 0, 0, 1, 1], Margin::Hard(10.0));
    assert_eq!(choices[0], Some([1, 3]));
}

#[test]
fn identical_images_have_no_direction() {
    // Copies of one image under both labels.
    let parts: Vec<f32> = normal(8, 13).repeat(4);
    let (losses, choices) = check("copies", &parts, &[0, 0, 1, 1], MARGIN);
    assert!(losses.iter().all(|&loss| loss == 0.3) && choices.iter().all(Option::is_some));
    // Below the smallest distance, then above it.
    for step in [9e-7, 1.1e-6] {
        check("nearly alike", &[0.0, step, 1.0, 1.0 + step], &[0, 0, 1, 1], Margin::Hard(2.0));
    }
}

#[test]
fn the_soft_margin_counts_every_anchor_with_a_pair() {
    let labels = [0, 0, 1, 1, 2];
    // Distances so close, so far apart and so large that exp would overflow.
    for (name, size) in [("near", 1e-4), ("apart", 40.0), ("far apart", 1e4)] {
        let (losses, choices) = check(name, &scaled(12, 5 * 9, size), &labels, Margin::Soft);
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        assert!(choices[..4].iter().all(Option::is_some) && choices[4].is_none() && losses[4] == 0.0);
    }
    // Persons that are separated have a loss of 0 in f32, and still a choice.
    let parts = [0.0, 0.0, 100.0, 100.0, 200.0, 500.0];
    let (losses, choices) = check("separated", &parts, &[0, 0, 1, 1, 2, 2], Margin::Soft);
    assert!(losses == [0.0, 0.0, 0.0, 0.0, 200.0, 0.0] && choices.iter().all(Option::is_some));
    let (losses, _) = check("copies", &normal(8, 13).repeat(4), &[0, 0, 1, 1], Margin::Soft);
    assert!(losses.iter().all(|&loss| (loss - 2f32.ln()).abs() < 1e-6));
}

#[test]
fn parts_that_are_not_finite_show_in_the_loss() {
    for bad in [f32::NAN, f32::from_bits(0xffc0_0001), f32::INFINITY, f32::MAX] {
        for at in [0, 12, 29] {
            let mut parts = normal(9, 6 * 5);
            parts[at] = bad;
            let labels = [0, 0, 1, 1, 2, 2];
            let family = context().family();
            let distances = outputs("distances", |run| distances(run, &parts, 6, family)).remove(0);
            let (losses, choices) = mined(&outputs("mine", |run| mine(run, &distances, &labels, MARGIN)));
            assert!(losses.iter().all(|loss| !loss.is_finite()), "{bad} at {at}: {losses:?}");
            assert!(choices.iter().all(Option::is_none), "{bad} at {at}: {choices:?}");
        }
    }
}

#[test]
fn reference_gradients_match_finite_differences() {
    let (batch, length) = (7, 5);
    let (parts, labels) = (coarse(10, batch * length), [4, 1, 4, 1, 2, 4, 9]);
    for margin in [Some(0.3), Some(2.0), None] {
        let mined = |parts: &[f32]| {
            let distances: Vec<f64> = reference::distances(parts, batch).iter().map(|d| d.value).collect();
            let all = (0..batch).map(|anchor| reference::mine(&distances, &labels, anchor, margin));
            let (losses, choices): (Vec<_>, Vec<_>) = all.unzip();
            (distances, losses, choices)
        };
        let (distances, _, choices) = mined(&parts);
        let active = choices.iter().flatten().count();
        assert!(active > 2 && active < batch, "{active} anchors");
        let soft = margin.is_none();
        let gradient = reference::gradient(&parts, &distances, &choices, &vec![0.0; parts.len()], soft);
        let gradient: Vec<f64> = gradient.iter().map(|g| g.value).collect();
        check_gradient(&format!("triplet margin {margin:?}"), &parts, &gradient, |parts| {
            mined(parts).1.iter().map(|loss| loss.value).sum::<f64>() / batch as f64
        });
    }
}

#[test]
fn the_loss_scale_multiplies_the_gradient() {
    let distances = [0.0, 1.0, 2.0, 1.0, 0.0, 3.0, 2.0, 3.0, 0.0];
    let choices = [Some([1, 2]), None, Some([0, 1])];
    let [plain, scaled] = [1.0, 512.0].map(|scale| {
        let record = |run: &mut Run<'static>| {
            backward(run, drawn(11, 3 * 8), &distances[..], &choices, vec![0.0; 24], scale, Margin::Soft);
        };
        outputs("triplet backward", record).remove(0)
    });
    assert_eq!(plain.iter().map(|g| 512.0 * g).collect::<Vec<f32>>(), scaled);
}
