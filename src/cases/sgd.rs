//! Cases of sgd.

use super::adam::Steering;
use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, TimedCases, tolerance};
use crate::kernels::sgd::Sgd;
use crate::reference::sgd as reference;

const MOMENTUM: f64 = 0.9;

/// Records a step of parameters and velocity.
pub fn step<'n>(
    run: &mut Run<'_>,
    state: [Numbers<'n>; 2],
    gradients: impl Into<Numbers<'n>>,
    steering: Steering,
) {
    let [parameters, velocity] = state;
    let (p, v) = (run.updated("parameters", parameters), run.updated("velocity", velocity));
    let g = run.operand("gradients", gradients);
    let [step, control, bias_mask] = steering.words(run, g.tensor.len);
    let call = Sgd {
        gradients: g.tensor,
        step,
        control,
        bias_mask,
        parameters: p.tensor,
        velocity: v.tensor,
        group: usize::from(steering.others),
        momentum: MOMENTUM,
    };
    call.record(&mut run.recorder, "sgd");
    let [decay, factor] = [steering.decay, steering.factor].map(f64::from);
    let after = |i: usize| {
        let exact = reference::Sgd { rate: steering.rate_of(i), momentum: MOMENTUM, decay, factor };
        exact.step(f64::from(p[i]), f64::from(v[i]), f64::from(g[i]))
    };
    run.sampled("parameters", p.tensor, tolerance::SGD, |i| after(i).parameter);
    run.sampled("velocity", v.tensor, tolerance::SGD, |i| after(i).velocity);
}

/// Parameters and velocity.
pub fn state<'n>(len: usize) -> [Numbers<'n>; 2] {
    [drawn(1, len), drawn(2, len)]
}

pub(super) fn list(list: &mut List) {
    let one = |len, steering| move |run: &mut Run<'_>| step(run, state(len), drawn(4, len), steering);
    for len in [4, 268] {
        list.add("momentum", format!("{len}"), one(len, Steering { factor: 0.25, ..Steering::default() }));
    }
    // Four, primes, and sizes around a workgroup and around a word of the bias mask.
    for quads in [1, 3, 7, 61, 63, 64, 65, 127, 129, 511, 512, 513, 1031] {
        list.full(format!("{}", 4 * quads), one(4 * quads, Steering::default()));
    }
    for (decay, factor) in [(0.0, 1.0), (5e-4, 0.25), (0.05, 1e-3)] {
        let steering = Steering { rate: 3e-4, decay, factor, ..Steering::default() };
        list.full(format!("260 {steering:?}"), one(260, steering));
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let len = timed.model.block_len();
    let steering = Steering { rate: 3e-4, decay: 1e-4, others: false, ..Steering::default() };
    timed.add("", move |run| step(run, state(len), drawn(4, len), steering));
}
