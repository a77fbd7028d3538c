//! More tests of sgd: steps that change nothing, a folded grid, and ten steps compared with PyTorch.

use crate::common::assert_same_bits;
use crate::common::random::normal;
use crate::common::recordings::outputs;
use lat_wgpu::cases::adam::Steering;
use lat_wgpu::cases::sgd::{state, step};

/// Parameters and velocity after a step.
fn run(state: [&Vec<f32>; 2], gradients: &[f32], steering: Steering) -> Vec<Vec<f32>> {
    outputs(&format!("sgd {steering:?}"), |run| step(run, state.map(Into::into), gradients, steering))
}

#[test]
fn a_step_that_does_not_count_changes_nothing() {
    let before = state(516).map(|numbers| numbers.make());
    let mut gradients = normal(4, 516);
    gradients[7] = f32::NAN;
    let after = run(before.each_ref(), &gradients, Steering { counted: false, ..Steering::default() });
    for (before, after) in before.iter().zip(&after) {
        assert_same_bits("a step that doesn't count", before, after);
    }
}

#[test]
fn padding_stays_zero() {
    let zero = vec![0.0; 64];
    for values in run([&zero; 2], &zero, Steering::default()) {
        assert_same_bits("padding", &values, &zero);
    }
}

#[test]
fn more_parameters_than_one_row_of_workgroups_holds() {
    // 65,535 workgroups of 64 quads, and one quad more: the grid folds into a second dimension.
    let len = 4 * (65_535 * 64 + 1);
    let (one, zero) = (vec![1.0; len], vec![0.0; len]);
    let steering = Steering { bias_factor: 1.0, decay: 0.0, ..Steering::default() };
    let found = run([&one, &zero], &vec![0.5; len], steering).remove(0);
    assert!((found[0] - 0.995).abs() < 1e-6, "{}", found[0]);
    assert!(found.iter().all(|p| *p == found[0]));
}

#[test]
fn ten_steps_are_pytorchs() {
    // p = torch.tensor([0.5, -1.25, 2.0, 0.001], dtype=torch.float64, requires_grad=True)
    // o = torch.optim.SGD([p], lr=1e-2, momentum=0.9, weight_decay=0.1)
    // c = torch.tensor([1.0, 0.1, 10.0, 1e-3], dtype=torch.float64)
    // for t in range(1, 11):
    //     p.grad = torch.sin(p.detach() * 3 + t) * c
    //     o.step()
    // print(p)
    let mut state = vec![vec![0.5, -1.25, 2.0, 0.001], vec![0.0; 4]];
    for t in 1..=10 {
        let factors = [1.0, 0.1, 10.0, 1e-3];
        let gradients: Vec<f32> = (state[0].iter().zip(factors))
            .map(|(p, factor)| ((f64::from(*p) * 3.0 + f64::from(t)).sin() * factor) as f32)
            .collect();
        state = run([&state[0], &state[1]], &gradients, Steering::default());
    }
    for (found, wanted) in state[0].iter().zip([
        0.5039233564103582,
        -1.1909221136226957,
        -1.2747450963763778,
        0.0008858213960215421,
    ]) {
        let error = (f64::from(*found) - wanted).abs();
        println!("ten steps: {:.1} % of tolerance", 100.0 * error / 2e-6);
        assert!(error <= 2e-6, "{found} for {wanted}");
    }
}
