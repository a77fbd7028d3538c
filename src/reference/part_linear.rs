//! A linear layer per part, y\[r,b\] = weight\[r\]·x\[b,r\] + bias\[r\], and its gradients.

use super::Exact;

/// The operands of a layer.
#[derive(Debug, Clone, Copy)]
pub struct PartLinear<'a> {
    /// Inputs (B, R, I) or (R, B, I).
    pub x: &'a [f32],
    /// Weights (R, O, I).
    pub weight: &'a [f32],
    /// Biases (R, O).
    pub bias: &'a [f32],
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Inputs per part I.
    pub inputs: usize,
    /// Outputs per part O.
    pub outputs: usize,
    /// Elements between two samples and between two parts of x.
    pub strides: (usize, usize),
}

/// Σ a·b and Σ |a·b|.
fn dot(pairs: impl Iterator<Item = (f32, f32)>) -> Exact {
    pairs.fold(Exact::default(), |sum, (a, b)| {
        let term = f64::from(a) * f64::from(b);
        Exact { value: sum.value + term, scale: sum.scale + term.abs() }
    })
}

impl PartLinear<'_> {
    fn x_at(&self, r: usize, b: usize, i: usize) -> usize {
        b * self.strides.0 + r * self.strides.1 + i
    }

    fn weight_at(&self, r: usize, o: usize, i: usize) -> usize {
        (r * self.outputs + o) * self.inputs + i
    }

    /// Outputs (R, B, O).
    pub fn forward(&self) -> Vec<Exact> {
        let mut y = Vec::new();
        for r in 0..self.parts {
            for b in 0..self.batch {
                for o in 0..self.outputs {
                    let terms = (0..self.inputs)
                        .map(|i| (self.x[self.x_at(r, b, i)], self.weight[self.weight_at(r, o, i)]));
                    let bias = f64::from(self.bias[r * self.outputs + o]);
                    let sum = dot(terms);
                    y.push(Exact { value: sum.value + bias, scale: sum.scale + bias.abs() });
                }
            }
        }
        y
    }

    /// Gradient of the inputs, in the layout of x, from dy (R, B, O).
    pub fn backward_input(&self, dy: &[f32]) -> Vec<Exact> {
        let mut dx = vec![Exact::default(); self.parts * self.batch * self.inputs];
        for r in 0..self.parts {
            for b in 0..self.batch {
                let row = &dy[(r * self.batch + b) * self.outputs..][..self.outputs];
                for i in 0..self.inputs {
                    let terms = row.iter().enumerate();
                    dx[self.x_at(r, b, i)] =
                        dot(terms.map(|(o, &dy)| (dy, self.weight[self.weight_at(r, o, i)])));
                }
            }
        }
        dx
    }

    /// Gradients of weights (R, O, I) and biases (R, O) from dy (R, B, O).
    pub fn backward_weight(&self, dy: &[f32]) -> (Vec<Exact>, Vec<Exact>) {
        let (mut dweight, mut dbias) = (Vec::new(), Vec::new());
        for r in 0..self.parts {
            for o in 0..self.outputs {
                let upstream = |b: usize| dy[(r * self.batch + b) * self.outputs + o];
                for i in 0..self.inputs {
                    let terms = (0..self.batch).map(|b| (upstream(b), self.x[self.x_at(r, b, i)]));
                    dweight.push(dot(terms));
                }
                dbias.push(dot((0..self.batch).map(|b| (upstream(b), 1.0))));
            }
        }
        (dweight, dbias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_own_weights() {
        // B = 1, R = 2, I = 2, O = 1.
        let (x, weight, bias) = ([1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0], [0.5, -0.5]);
        let layer = PartLinear {
            x: &x,
            weight: &weight,
            bias: &bias,
            batch: 1,
            parts: 2,
            inputs: 2,
            outputs: 1,
            strides: (4, 2),
        };
        let values = |all: Vec<Exact>| all.into_iter().map(|v| v.value).collect::<Vec<_>>();
        assert_eq!(values(layer.forward()), [21.5, 4299.5]);
        assert_eq!(values(layer.backward_input(&[2.0, 3.0])), [2.0, 20.0, 300.0, 3000.0]);
        let (dweight, dbias) = layer.backward_weight(&[2.0, 3.0]);
        assert_eq!(values(dweight), [2.0, 4.0, 9.0, 12.0]);
        assert_eq!(values(dbias), [2.0, 3.0]);
    }
}
