//! Cases of average.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, TimedCases, tolerance};
use crate::kernels::average::Average;
use crate::kernels::gradnorm::Control;
use crate::reference::average::forward;

/// Records the averages after a step.
pub fn step<'n>(
    run: &mut Run<'_>,
    averages: impl Into<Numbers<'n>>,
    weights: impl Into<Numbers<'n>>,
    decay: f64,
    counted: bool,
) {
    let (averages, weights) = (run.updated("averages", averages), run.operand("weights", weights));
    let control = run.words("control", &Control { counted, ..Control::start(1.0) }.words());
    Average { weights: weights.tensor, control, averages: averages.tensor, decay }
        .record(&mut run.recorder, "average");
    run.sampled("averages", averages.tensor, tolerance::AVERAGE, |i| {
        forward(f64::from(averages[i]), f64::from(weights[i]), decay)
    });
}

pub(super) fn list(list: &mut List) {
    let one = |len, decay| move |run: &mut Run<'_>| step(run, drawn(1, len), drawn(2, len), decay, true);
    for len in [1, 67, 4_099] {
        list.add("decay 0.999", format!("{len}"), one(len, 0.999));
    }
    // One element, primes, and sizes around a workgroup.
    for len in [1, 2, 7, 63, 64, 65, 127, 4_099] {
        for decay in [0.0, 0.5, 0.9999] {
            list.full(format!("decay {decay} {len}"), one(len, decay));
        }
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let len = timed.model.block_len();
    timed.add("", move |run| step(run, drawn(1, len), drawn(2, len), 0.999, true));
}
