//! Cases of adam.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, TimedCases, tolerance};
use crate::gpu::{Buffer, Tensor};
use crate::kernels::adam::{Adam, Betas, GroupValues, StepValues, bias_mask};
use crate::kernels::gradnorm::Control;
use crate::reference::adam as reference;

/// Settings of one step.
#[derive(Debug, Clone, Copy)]
pub struct Steering {
    /// Learning rate.
    pub rate: f32,
    /// Factor on the learning rate of biases. Every third slice, from the second, is one.
    pub bias_factor: f32,
    /// Weight decay.
    pub decay: f32,
    /// True for AdamW's decay.
    pub decoupled: bool,
    /// Step number of the group.
    pub t: u32,
    /// True if the step counts.
    pub counted: bool,
    /// Factor of the gradients.
    pub factor: f32,
    /// True if the group is the second of three (the words of the others must not matter), false if it is the only one.
    pub others: bool,
}

impl Default for Steering {
    fn default() -> Self {
        Steering {
            rate: 1e-2,
            bias_factor: 2.0,
            decay: 0.1,
            decoupled: false,
            t: 1,
            counted: true,
            factor: 1.0,
            others: true,
        }
    }
}

impl Steering {
    /// Makes the words of the step, the control words and the bias mask of an arena of `len` words.
    pub(super) fn words(&self, run: &mut Run<'_>, len: usize) -> [Tensor; 3] {
        let corrections = Betas::default().corrections(self.t);
        let bias_learning_rate = self.rate * self.bias_factor;
        let group = GroupValues { learning_rate: self.rate, bias_learning_rate, corrections };
        let other = GroupValues::new(f32::NAN, [f32::NAN; 2]);
        let groups = if self.others { vec![other, group, other] } else { vec![group] };
        let step = StepValues { weight_decay: self.decay, groups, ..StepValues::default() };
        let mut control = Control { counted: self.counted, ..Control::start(1.0) }.words();
        control[1] = self.factor.to_bits();
        let slice = Buffer::SLICE_ALIGN;
        let biases = (slice..len).step_by(3 * slice).map(|start| start..len.min(start + slice));
        [
            run.words("step", &step.words()),
            run.words("control", &control),
            run.words("bias_mask", &bias_mask(len, biases)),
        ]
    }

    /// Returns the learning rate of parameter `i`.
    pub(super) fn rate_of(&self, i: usize) -> f64 {
        let is_bias = i / Buffer::SLICE_ALIGN % 3 == 1;
        f64::from(if is_bias { self.rate * self.bias_factor } else { self.rate })
    }
}

/// Records a step of parameters, first and second moment.
pub fn step<'n>(
    run: &mut Run<'_>,
    state: [Numbers<'n>; 3],
    gradients: impl Into<Numbers<'n>>,
    steering: Steering,
) {
    let Steering { decay, decoupled, t, factor, others, .. } = steering;
    let betas = Betas::default();
    let mut names = ["parameters", "first", "second"].into_iter();
    let [p, m, v] = state.map(|numbers| run.updated(names.next().unwrap_or_default(), numbers));
    let g = run.operand("gradients", gradients);
    let [step, control, bias_mask] = steering.words(run, g.tensor.len);
    let call = Adam {
        gradients: g.tensor,
        step,
        control,
        bias_mask,
        parameters: p.tensor,
        first_moment: m.tensor,
        second_moment: v.tensor,
        group: usize::from(others),
        betas,
        decoupled,
    };
    call.record(&mut run.recorder, "adam");
    let Betas { beta1, beta2, eps } = betas;
    let [decay, factor] = [decay, factor].map(f64::from);
    let after = |i: usize| {
        let rate = steering.rate_of(i);
        let exact = reference::Adam { rate, beta1, beta2, eps, decay, decoupled, factor };
        let [p, m, v, g] = [p[i], m[i], v[i], g[i]].map(f64::from);
        exact.step(t, p, m, v, g)
    };
    run.sampled("parameters", p.tensor, tolerance::ADAM, |i| after(i).parameter);
    run.sampled("first", m.tensor, tolerance::ADAM, |i| after(i).first);
    run.sampled("second", v.tensor, tolerance::ADAM, |i| after(i).second);
}

/// Parameters and both moments.
pub fn state<'n>(len: usize) -> [Numbers<'n>; 3] {
    [drawn(1, len), drawn(2, len).map(|v| 0.1 * v), drawn(3, len).map(|v| 0.01 * v * v)]
}

pub(super) fn list(list: &mut List) {
    let one = |len, steering| move |run: &mut Run<'_>| step(run, state(len), drawn(4, len).map(|v| 0.3 * v), steering);
    for len in [4, 268] {
        for decoupled in [false, true] {
            let variant = if decoupled { "decoupled decay" } else { "coupled decay" };
            list.add(variant, format!("{len}"), one(len, Steering { decoupled, t: 3, factor: 0.25, ..Steering::default() }));
        }
    }
    for decoupled in [false, true] {
        // Four, primes, and sizes around a workgroup.
        for quads in [1, 3, 7, 61, 63, 64, 65, 127, 129, 1031] {
            let steering = Steering { decoupled, ..Steering::default() };
            list.full(format!("{} {steering:?}", 4 * quads), one(4 * quads, steering));
        }
        for t in [1, 2, 10, 1000, 100_000] {
            for (decay, factor) in [(0.0, 1.0), (5e-4, 0.25), (0.05, 1e-3)] {
                let steering = Steering { rate: 3e-4, decay, decoupled, t, factor, ..Steering::default() };
                list.full(format!("260 {steering:?}"), one(260, steering));
            }
        }
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let len = timed.model.block_len();
    let steering = Steering { rate: 3e-4, decay: 0.0, others: false, ..Steering::default() };
    timed.add("", move |run| step(run, state(len), drawn(4, len), steering));
}
