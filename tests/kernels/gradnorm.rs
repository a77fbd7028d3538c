//! More tests of gradnorm: several groups, the loss scale, and values that are not finite.

use crate::common::random::normal;
use crate::common::recordings::{judged, outputs};
use lat_wgpu::cases::LANES;
use lat_wgpu::cases::gradnorm::{finish, partial};
use lat_wgpu::kernels::gradnorm::Control;

fn partials(gradients: &[f32]) -> Vec<f32> {
    let all = LANES.map(|lanes| {
        outputs("gradnorm partial", |run| {
            partial(run, gradients, lanes);
        })
        .remove(0)
    });
    // A non-finite sum may be a NaN with any payload. Only the counts must be equal.
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert!(all.iter().all(|other| all[0].iter().zip(other).all(same)), "lanes, {} words", gradients.len());
    all[0].clone()
}

/// Finite, factor and norm, and the state that the next step reads.
fn control_after(before: Control, groups: &[&[f32]], losses: &[f32], clip: f32) -> (u32, f32, f32, Control) {
    let all: Vec<f32> = groups.iter().flat_map(|gradients| partials(gradients)).collect();
    let found = outputs("gradnorm finish", |run| {
        let partials = run.operand("partials", &all).tensor;
        finish(run, partials, groups, losses, before, clip);
    })
    .remove(0);
    (found[0].to_bits(), found[1], found[2], Control::from_words(&found))
}

/// Finite, factor and norm.
fn control(groups: &[&[f32]], losses: &[f32], clip: f32) -> (u32, f32, f32) {
    let (finite, factor, norm, after) = control_after(Control::start(1.0), groups, losses, clip);
    let expected =
        Control { counted: finite == 1, norm, steps: finite, stopped: finite == 0, ..Control::start(1.0) };
    assert_eq!(after.words(), expected.words());
    (finite, factor, norm)
}

#[test]
fn groups_and_losses_count_together() {
    let groups = [normal(1, 100), normal(2, 8192), normal(3, 300_000)];
    let groups: Vec<&[f32]> = groups.iter().map(Vec::as_slice).collect();
    let check = |groups: &[&[f32]], losses: &[f32], clip| {
        let all: Vec<f32> = groups.iter().flat_map(|gradients| partials(gradients)).collect();
        judged(&format!("gradnorm of {} groups, clip {clip}", groups.len()), |run| {
            let partials = run.operand("partials", &all).tensor;
            finish(run, partials, groups, losses, Control::start(1.0), clip);
        });
    };
    check(&groups, &normal(4, 14 * 32), 0.5);
    check(&groups, &normal(4, 1), 0.0);
    check(&[&[0.0; 64]], &normal(4, 65), 0.5);
}

#[test]
fn the_scale_leaves_the_norm_and_its_limit_as_they_were() {
    let gradients = normal(7, 4096);
    let scaled: Vec<f32> = gradients.iter().map(|g| 1024.0 * g).collect();
    for clip in [0.0, 0.5] {
        let (_, factor, norm) = control(&[&gradients], &[1.0], clip);
        let (finite, scaled_factor, scaled_norm, _) =
            control_after(Control::start(1024.0), &[&scaled], &[1.0], clip);
        assert_eq!((finite, scaled_factor, scaled_norm), (1, factor / 1024.0, norm));
    }
}

#[test]
fn the_scale_falls_after_an_overflow_and_rises_after_2000_steps() {
    let start = Control { steps: 17, ..Control::start(4.0) };
    let step = |before: Control, gradient: f32| control_after(before, &[&[gradient; 4]], &[1.0], 0.0).3;
    let fallen = step(start, f32::INFINITY);
    assert_eq!((fallen.counted, fallen.scale, fallen.steps, fallen.stopped), (false, 2.0, 0, false));
    assert_eq!(fallen.last_scale, 4.0);
    let fallen = step(fallen, f32::NAN);
    assert_eq!((fallen.scale, fallen.stopped), (1.0, false));
    let stopped = step(fallen, f32::INFINITY);
    assert_eq!((stopped.scale, stopped.stopped), (1.0, true));
    // Once stopped, no step counts, even if it is finite.
    let after = step(stopped, 1.0);
    assert!(!after.counted && after.stopped);
    let risen = step(Control { steps: 1999, scale: 2.0, ..start }, 1.0);
    assert_eq!((risen.counted, risen.scale, risen.steps), (true, 4.0, 0));
    // Limited to the largest scale.
    assert_eq!(step(Control { steps: 1999, ..start }, 1.0).scale, 4.0);
}

#[test]
fn one_word_that_is_not_finite_stops_the_step() {
    let clean = normal(5, 3 * 4096 + 8);
    let losses = normal(6, 70);
    assert_eq!(control(&[&clean, &clean], &losses, 1.0).0, 1);
    // Includes a NaN with another sign and payload.
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0xff80_0001)] {
        for at in [0, 1, 2, 3, 255, 4095, 4096, clean.len() - 1] {
            let mut gradients = clean.clone();
            gradients[at] = bad;
            let (finite, factor, _) = control(&[&clean, &gradients], &losses, 1.0);
            assert_eq!((finite, factor), (0, 1.0), "{bad} at {at}");
        }
        for at in [0, 63, 64, 69] {
            let mut losses = losses.clone();
            losses[at] = bad;
            assert_eq!(control(&[&clean], &losses, 1.0).0, 0, "loss {bad} at {at}");
        }
    }
}

#[test]
fn squares_that_overflow_clip_everything_away() {
    let gradients = [f32::MAX, 1.0, 1.0, 1.0];
    assert_eq!(control(&[&gradients], &[0.0], 1.0), (1, 0.0, f32::INFINITY));
    assert_eq!(control(&[&gradients], &[0.0], 0.0), (1, 1.0, f32::INFINITY));
}
