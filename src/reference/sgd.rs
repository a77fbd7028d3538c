//! One step of SGD with momentum on one parameter.

use super::Exact;

/// Settings of a step.
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    /// Learning rate.
    pub rate: f64,
    /// Factor on the velocity.
    pub momentum: f64,
    /// Weight decay.
    pub decay: f64,
    /// Factor of the gradients.
    pub factor: f64,
}

/// A parameter and its velocity after a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// The parameter.
    pub parameter: Exact,
    /// Decaying sum of the gradients.
    pub velocity: Exact,
}

impl Sgd {
    /// Applies a step to a parameter.
    pub fn step(&self, parameter: f64, velocity: f64, gradient: f64) -> State {
        let Sgd { rate, momentum, decay, factor } = *self;
        let terms = [momentum * velocity, gradient * factor, decay * parameter];
        let value = terms.iter().sum::<f64>();
        let scale = terms.iter().map(|term| term.abs()).sum::<f64>();
        State {
            parameter: Exact { value: parameter - rate * value, scale: parameter.abs() + rate * scale },
            velocity: Exact { value, scale },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_steps_are_pytorchs() {
        // p = torch.tensor([0.5, -1.25, 2.0, 0.001], dtype=torch.float64, requires_grad=True)
        // o = torch.optim.SGD([p], lr=1e-2, momentum=0.9, weight_decay=0.1)
        // c = torch.tensor([1.0, 0.1, 10.0, 1e-3], dtype=torch.float64)
        // for t in range(1, 11):
        //     p.grad = torch.sin(p.detach() * 3 + t) * c
        //     o.step(); print(p)
        // print(o.state[p])
        let sgd = Sgd { rate: 1e-2, momentum: 0.9, decay: 0.1, factor: 1.0 };
        let (mut p, mut v) = ([0.5, -1.25, 2.0, 0.001], [0.0; 4]);
        let mut after = Vec::new();
        for t in 1..=10 {
            for (i, factor) in [1.0, 0.1, 10.0, 1e-3].into_iter().enumerate() {
                let gradient = (3.0 * p[i] + f64::from(t)).sin() * factor;
                let state = sgd.step(p[i], v[i], gradient);
                (p[i], v[i]) = (state.parameter.value, state.velocity.value);
            }
            after.push(p);
        }
        let close = |found: &[f64], wanted: &[f64]| {
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() <= 1e-13 * (1e-3 + wanted.abs()), "{found} for {wanted}");
            }
        };
        close(
            &after[0],
            &[0.49351527855896044, -1.2483683390079476, 1.932301340128121, 0.0009905691189732245],
        );
        close(&after[4], &[0.5178122914767629, -1.2283526775295102, 0.915844972372033, 0.000941607542878089]);
        close(&p, &[0.5039233564103582, -1.1909221136226957, -1.2747450963763778, 0.0008858213960215421]);
        close(&v, &[-0.8351921267606036, -0.9157414871734162, 53.177066469830905, 0.0013502183485485245]);
    }
}
