//! Cases of gradnorm.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{BATCH, GRID, LANES, List, TimedCases, tolerance};
use crate::gpu::Tensor;
use crate::kernels::adam::{GroupValues, StepValues};
use crate::kernels::gradnorm::{Control, Finish, Partial, partial_words};
use crate::reference::Exact;
use crate::reference::gradnorm::{control, squares};

/// Records the partial sums of a group's gradients.
pub fn partial<'n>(run: &mut Run<'_>, gradients: impl Into<Numbers<'n>>, lanes: u32) -> Tensor {
    let gradients = run.operand("gradients", gradients);
    let partials = run.output("partials", partial_words(gradients.tensor.len));
    let call = Partial { gradients: gradients.tensor, partials };
    call.record_with(&mut run.recorder, "partial", lanes);
    // Chunks past the end are zero, and no word is non-finite.
    let places = || (0..partials.len).step_by(2);
    run.near("partials", partials, tolerance::gradnorm(4096), || {
        let chunks = gradients.chunks(4096).map(squares).chain(std::iter::repeat(0.0));
        places().zip(chunks).map(|(word, value)| (word, Exact { value, scale: value }))
    });
    run.same("marks", partials, || places().map(|word| (word + 1, 0)));
    partials
}

/// Records the control words of a step with the gradients of all `groups`, from their partial sums.
pub fn finish<'n>(
    run: &mut Run<'_>,
    partials: Tensor,
    groups: &[&[f32]],
    losses: impl Into<Numbers<'n>>,
    before: Control,
    clip: f32,
) {
    let losses = run.operand("losses", losses);
    let step = StepValues { clip_norm: clip, groups: vec![GroupValues::default()], ..StepValues::default() };
    let of_control = run.updated("control", before.words().map(f32::from_bits).to_vec()).tensor;
    let step = run.words("step", &step.words());
    let call = Finish { partials, losses: losses.tensor, step, control: of_control };
    call.record(&mut run.recorder, "finish");
    let exact = || control(groups, &losses, f64::from(clip));
    let len = groups.iter().map(|group| group.len()).sum();
    run.near("control", of_control, tolerance::gradnorm(len), || {
        [(1, exact().factor), (2, exact().norm)]
    });
    // This covers a first step alone; tests/kernels/gradnorm.rs checks how the scale changes.
    run.same("control", of_control, || {
        let finite = exact().finite;
        let after = Control { counted: finite, steps: finite.into(), stopped: !finite, ..before };
        after.words().into_iter().enumerate().filter(|(word, _)| ![1, 2].contains(word)).collect::<Vec<_>>()
    });
}

fn norm(run: &mut Run<'_>, len: usize, losses: usize, clip: f32, lanes: u32) {
    let partials = partial(run, drawn(1, len), lanes);
    let gradients = if run.is_judged() { drawn(1, len).make() } else { Vec::new() };
    finish(run, partials, &[&gradients], drawn(4, losses), Control::start(1.0), clip);
}

pub(super) fn list(list: &mut List) {
    for (len, clip) in [(4, 0.0), (4_100, 1.0), (12_292, 1e6)] {
        for lanes in LANES {
            list.add(format!("{lanes} lanes, clip {clip}"), format!("{len}"), move |run| {
                norm(run, len, 67, clip, lanes);
            });
        }
    }
    // Four, primes, and sizes around a chunk; every number of invocations gives the same bits.
    for len in [4, 12, 28, 244, 252, 256, 260, 4092, 4096, 4100, 4 * 1031, 65_536, 131_076] {
        for clip in [0.0, 1.0, 1e6] {
            list.full_ways(usize::MAX, format!("{len} clip {clip}"), LANES, move |run, lanes| {
                norm(run, len, 1, clip, lanes);
            });
        }
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let len = timed.model.block_len();
    timed.add("", move |run| {
        let lanes = run.recorder.context.row_lanes();
        norm(run, len, GRID * BATCH, 0.0, lanes);
    });
}
