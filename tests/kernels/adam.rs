//! adam against the reference, step by step and over ten steps of PyTorch's.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{normal, scaled};
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::adam::{Adam, Betas, StepValues};
use lat_wgpu::reference::adam as reference;

/// Parameters and both moments.
#[derive(Debug, Clone)]
struct State {
    parameters: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl State {
    fn random(len: usize) -> State {
        State {
            parameters: normal(1, len),
            first: scaled(2, len, 0.1),
            second: normal(3, len).iter().map(|v| 0.01 * v * v).collect(),
        }
    }
}

/// What one step is steered by.
#[derive(Debug, Clone, Copy)]
struct Steering {
    rate: f32,
    decay: f32,
    decoupled: bool,
    /// The group's own count of steps.
    t: u32,
    finite: bool,
    factor: f32,
}

const STEERING: Steering =
    Steering { rate: 1e-2, decay: 0.1, decoupled: false, t: 1, finite: true, factor: 1.0 };

fn run(state: &State, gradients: &[f32], steering: Steering) -> State {
    let Steering { rate, decay, decoupled, t, finite, factor } = steering;
    let betas = Betas::default();
    let step = StepValues {
        learning_rate: rate,
        weight_decay: decay,
        // The group under test is the second of three; the others' words must not matter.
        corrections: vec![[f32::NAN; 2], betas.corrections(t), [f32::NAN; 2]],
        ..StepValues::default()
    };
    let step: Vec<f32> = step.words().into_iter().map(f32::from_bits).collect();
    let control = [f32::from_bits(u32::from(finite)), factor, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0];
    let mut run = Guarded::new(&format!("adam {} {steering:?}", gradients.len()));
    let adam = Adam {
        gradients: run.input("gradients", gradients),
        step: run.input("step", &step),
        control: run.input("control", &control),
        parameters: run.in_place("parameters", &state.parameters),
        first_moment: run.in_place("first_moment", &state.first),
        second_moment: run.in_place("second_moment", &state.second),
        group: 1,
        betas,
        decoupled,
    };
    adam.record(&mut run.recorder, "adam");
    let mut found = run.run().into_iter();
    let mut next = || found.next().unwrap();
    State { parameters: next(), first: next(), second: next() }
}

fn check(len: usize, steering: Steering) {
    let (state, gradients) = (State::random(len), scaled(4, len, 0.3));
    let found = run(&state, &gradients, steering);
    let betas = Betas::default();
    let adam = reference::Adam {
        rate: f64::from(steering.rate),
        beta1: betas.beta1,
        beta2: betas.beta2,
        eps: betas.eps,
        decay: f64::from(steering.decay),
        decoupled: steering.decoupled,
        factor: f64::from(steering.factor),
    };
    let exact: Vec<reference::State> = (0..len)
        .map(|i| {
            let [p, m, v, g] = [state.parameters[i], state.first[i], state.second[i], gradients[i]];
            adam.step(steering.t, f64::from(p), f64::from(m), f64::from(v), f64::from(g))
        })
        .collect();
    let name = |what: &str| format!("adam {what} {len} {steering:?}");
    let exact = || exact.iter().enumerate();
    compare(&name("parameters"), &found.parameters, exact().map(|(i, e)| (i, e.parameter)), tolerance::ADAM);
    compare(&name("first"), &found.first, exact().map(|(i, e)| (i, e.first)), tolerance::ADAM);
    compare(&name("second"), &found.second, exact().map(|(i, e)| (i, e.second)), tolerance::ADAM);
}

#[test]
fn four_primes_and_around_a_workgroup() {
    for quads in [1, 3, 7, 61, 63, 64, 65, 127, 129, 1031] {
        for decoupled in [false, true] {
            check(4 * quads, Steering { decoupled, ..STEERING });
        }
    }
}

#[test]
fn every_setting_counts() {
    for decoupled in [false, true] {
        for t in [1, 2, 10, 1000, 100_000] {
            for (decay, factor) in [(0.0, 1.0), (5e-4, 0.25), (0.05, 1e-3)] {
                check(260, Steering { rate: 3e-4, decay, decoupled, t, factor, ..STEERING });
            }
        }
    }
}

#[test]
fn a_step_that_does_not_count_changes_nothing() {
    let state = State::random(516);
    let mut gradients = normal(4, 516);
    gradients[7] = f32::NAN;
    let found = run(&state, &gradients, Steering { finite: false, ..STEERING });
    assert_same_bits("parameters", &found.parameters, &state.parameters);
    assert_same_bits("first moment", &found.first, &state.first);
    assert_same_bits("second moment", &found.second, &state.second);
}

#[test]
fn padding_stays_zero() {
    let zero = State { parameters: vec![0.0; 64], first: vec![0.0; 64], second: vec![0.0; 64] };
    for decoupled in [false, true] {
        let found = run(&zero, &[0.0; 64], Steering { decoupled, ..STEERING });
        for values in [&found.parameters, &found.first, &found.second] {
            assert_same_bits("padding", values, &[0.0; 64]);
        }
    }
}

#[test]
fn more_parameters_than_one_row_of_workgroups_holds() {
    // 65,535 workgroups of 64 vec4s and one more: the grid folds into a second dimension.
    let len = 4 * (65_535 * 64 + 1);
    let state = State { parameters: vec![1.0; len], first: vec![0.0; len], second: vec![0.0; len] };
    let found = run(&state, &vec![0.5; len], Steering { decay: 0.0, ..STEERING });
    let first = found.parameters[0];
    assert!((first - 0.99).abs() < 1e-6, "{first}");
    assert!(found.parameters.iter().all(|p| *p == first));
}

#[test]
fn ten_steps_are_pytorchs() {
    // p = torch.tensor([0.5, -1.25, 2.0, 0.001], dtype=torch.float64, requires_grad=True)
    // o = torch.optim.Adam([p], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)     # then AdamW
    // c = torch.tensor([1.0, 0.1, 10.0, 1e-3], dtype=torch.float64)
    // for t in range(1, 11):
    //     p.grad = torch.sin(p.detach() * 3 + t) * c
    //     o.step()
    // print(p)
    let pytorch = [
        (false, [0.4952264377572407, -1.1595180090326245, 1.9571729664700748, 0.006847715725658822]),
        (true, [0.49654008037982, -1.1968312882240852, 1.9391959737652085, -0.036237180424399315]),
    ];
    for (decoupled, wanted) in pytorch {
        let parameters = vec![0.5, -1.25, 2.0, 0.001];
        let mut state = State { parameters, first: vec![0.0; 4], second: vec![0.0; 4] };
        for t in 1..=10 {
            let factors = [1.0, 0.1, 10.0, 1e-3];
            let gradients: Vec<f32> = (state.parameters.iter().zip(factors))
                .map(|(p, factor)| ((f64::from(*p) * 3.0 + f64::from(t)).sin() * factor) as f32)
                .collect();
            state = run(&state, &gradients, Steering { decoupled, t, ..STEERING });
        }
        for (found, wanted) in state.parameters.iter().zip(wanted) {
            let error = (f64::from(*found) - wanted).abs();
            println!("ten steps, decoupled {decoupled}: {:.1} % of tolerance", 100.0 * error / 5e-7);
            assert!(error <= 5e-7, "{found} for {wanted}");
        }
    }
}
