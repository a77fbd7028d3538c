//! One step of Adam or AdamW on one parameter.

use super::Exact;

/// Settings of a step.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Learning rate.
    pub rate: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// True for AdamW: weight decay is applied to the parameter, not to the gradient.
    pub decoupled: bool,
    /// Factor of the gradients.
    pub factor: f64,
}

/// A parameter and its moments after a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// The parameter.
    pub parameter: Exact,
    /// First moment: running mean of gradients.
    pub first: Exact,
    /// Second moment: running mean of squared gradients.
    pub second: Exact,
}

impl Adam {
    /// Applies step number `t`, from 1, to a parameter.
    pub fn step(&self, t: u32, parameter: f64, first: f64, second: f64, gradient: f64) -> State {
        let Adam { rate, beta1, beta2, eps, decay, decoupled, factor } = *self;
        let (parameter, gradient, magnitude) = if decoupled {
            (parameter * (1.0 - rate * decay), gradient * factor, (gradient * factor).abs())
        } else {
            let (scaled, pull) = (gradient * factor, decay * parameter);
            (parameter, scaled + pull, scaled.abs() + pull.abs())
        };
        let first = Exact {
            value: beta1 * first + (1.0 - beta1) * gradient,
            scale: beta1 * first.abs() + (1.0 - beta1) * magnitude,
        };
        let second = Exact {
            value: beta2 * second + (1.0 - beta2) * gradient * gradient,
            scale: beta2 * second + (1.0 - beta2) * magnitude * magnitude,
        };
        let corrected = |moment: f64, beta: f64| moment / (1.0 - beta.powf(f64::from(t)));
        let per_moment = rate / (corrected(second.value, beta2).sqrt() + eps);
        let change = per_moment * corrected(first.value, beta1);
        // Where gradient and decay cancel, the relative error of the second moment exceeds its own roundings.
        let loss = if second.value > 0.0 { second.scale / second.value } else { 1.0 };
        State {
            parameter: Exact {
                value: parameter - change,
                scale: parameter.abs() + per_moment * corrected(first.scale, beta1) + change.abs() * loss,
            },
            first,
            second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // p = torch.tensor([0.5, -1.25, 2.0, 0.001], dtype=torch.float64, requires_grad=True)
    // o = torch.optim.Adam([p], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)     # then AdamW
    // c = torch.tensor([1.0, 0.1, 10.0, 1e-3], dtype=torch.float64)
    // for t in range(1, 11):
    //     p.grad = torch.sin(p.detach() * 3 + t) * c
    //     o.step(); print(p)
    // print(o.state[p])
    const START: [f64; 4] = [0.5, -1.25, 2.0, 0.001];
    const FACTORS: [f64; 4] = [1.0, 0.1, 10.0, 1e-3];

    fn ten_steps(decoupled: bool) -> ([f64; 4], Vec<[f64; 4]>, [f64; 4], [f64; 4]) {
        let adam =
            Adam { rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, decoupled, factor: 1.0 };
        let (mut p, mut m, mut v) = (START, [0.0; 4], [0.0; 4]);
        let mut after = Vec::new();
        for t in 1..=10 {
            for i in 0..4 {
                let gradient = (3.0 * p[i] + f64::from(t)).sin() * FACTORS[i];
                let state = adam.step(t, p[i], m[i], v[i], gradient);
                (p[i], m[i], v[i]) = (state.parameter.value, state.first.value, state.second.value);
            }
            after.push(p);
        }
        (p, after, m, v)
    }

    fn close(found: &[f64], wanted: &[f64]) {
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() <= 1e-13 * (1e-3 + wanted.abs()), "{found} for {wanted}");
        }
    }

    #[test]
    fn ten_steps_of_adam_are_pytorchs() {
        let (p, after, m, v) = ten_steps(false);
        close(
            &after[0],
            &[0.49000000015420864, -1.2400000006128724, 1.9900000000147713, -0.008999893966492228],
        );
        close(
            &after[4],
            &[0.4991937646358252, -1.2024295763616462, 1.9645063059177177, -0.0007764666834657423],
        );
        close(&p, &[0.4952264377572407, -1.1595180090326245, 1.9571729664700748, 0.006847715725658822]);
        close(&m, &[-0.08341495079380455, -0.08918088398853444, 1.2968024435759886, 0.00012880678252586686]);
        close(&v, &[0.0049131329906290525, 0.0002343436370180964, 0.4897757769384765, 1.7440220777762163e-8]);
    }

    #[test]
    fn ten_steps_of_adamw_are_pytorchs() {
        let (p, after, m, v) = ten_steps(true);
        close(
            &after[0],
            &[0.48950000016709216, -1.2387500026201257, 1.988000000015221, -0.009000881389841012],
        );
        close(
            &after[4],
            &[0.4994728137038849, -1.2084112215070153, 1.954881586596147, -0.030231831873860204],
        );
        close(&p, &[0.49654008037982, -1.1968312882240852, 1.9391959737652085, -0.036237180424399315]);
        close(&m, &[-0.11570286371197588, -0.011833697900460165, 1.2118684715826888, 8.560522098244674e-5]);
        close(&v, &[0.00500948069579187, 4.62902523704495e-5, 0.48289600225276785, 4.954461222083179e-9]);
    }
}
