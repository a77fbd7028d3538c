//! Batch normalisation, ReLU and dropout per part, running statistics, and the gradients.
//!
//! The dropout mask is drawn by [`crate::rng`] and must equal the adapter's bit for bit.

use super::Exact;
use crate::rng;

/// Dropout of a training step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dropout {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step.
    pub step: u32,
    /// High word of the random stream.
    pub stream: u32,
    /// Position of the batch's first sample in the epoch.
    pub place: u32,
    /// Probability of dropout.
    pub drop: f32,
}

impl Dropout {
    /// Factor of the output of unit r·E + e for sample b: 0, or 1/(1 - drop).
    pub fn factor(&self, unit: usize, b: usize) -> f64 {
        let stream = u64::from(self.step) | u64::from(self.stream) << 32;
        let place = self.place.wrapping_add(b as u32);
        let number = rng::uniform(self.seed, stream, unit as u64 | u64::from(place) << 32);
        if number >= self.drop { 1.0 / (1.0 - f64::from(self.drop)) } else { 0.0 }
    }
}

/// The operands of one layer.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm<'a> {
    /// Inputs (R, B, E), or (B, R, E).
    pub x: &'a [f32],
    /// Weights (R, E).
    pub weight: &'a [f32],
    /// Biases (R, E).
    pub bias: &'a [f32],
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Units per part E.
    pub dim: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Applies ReLU.
    pub relu: bool,
    /// Dropout in training.
    pub dropout: Dropout,
    /// True if inputs and their gradient are (B, R, E).
    pub x_sample_first: bool,
    /// True if outputs and their gradient are (B, R, E).
    pub y_sample_first: bool,
}

/// Statistics of each unit over a batch.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Means (R, E).
    pub mean: Vec<Exact>,
    /// Biased variances (R, E).
    pub var: Vec<Exact>,
}

/// The gradients of a layer.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    /// Gradient of the inputs, in their order.
    pub dx: Vec<Exact>,
    /// Gradient of the weights (R, E).
    pub dweight: Vec<Exact>,
    /// Gradient of the biases (R, E).
    pub dbias: Vec<Exact>,
}

impl BatchNorm<'_> {
    fn at(&self, unit: usize, b: usize, sample_first: bool) -> usize {
        let (part, e) = (unit / self.dim, unit % self.dim);
        let row = if sample_first { b * self.parts + part } else { part * self.batch + b };
        row * self.dim + e
    }

    fn x_at(&self, unit: usize, b: usize) -> usize {
        self.at(unit, b, self.x_sample_first)
    }

    fn y_at(&self, unit: usize, b: usize) -> usize {
        self.at(unit, b, self.y_sample_first)
    }

    fn units(&self) -> std::ops::Range<usize> {
        0..self.parts * self.dim
    }

    /// Mean and biased variance of every unit over the batch.
    pub fn statistics(&self) -> Statistics {
        let batch = self.batch as f64;
        let mut all = Statistics::default();
        for unit in self.units() {
            let samples = || (0..self.batch).map(|b| f64::from(self.x[self.x_at(unit, b)]));
            let mean = samples().sum::<f64>() / batch;
            let magnitude = samples().map(f64::abs).sum::<f64>() / batch;
            let var = samples().map(|x| (x - mean).powi(2)).sum::<f64>() / batch;
            all.mean.push(Exact { value: mean, scale: magnitude });
            // A centred sample has the rounding error of the mean; its square has twice that relative error.
            let off = samples().map(|x| 2.0 * (x - mean).abs() * magnitude).sum::<f64>() / batch;
            all.var.push(Exact { value: var, scale: var + off });
        }
        all
    }

    /// x̂ of a sample. Its scale includes the rounding of the mean.
    fn normalised(&self, x: f32, mean: Exact, var: f64) -> Exact {
        let (x, rstd) = (f64::from(x), 1.0 / (var + f64::from(self.eps)).sqrt());
        Exact { value: (x - mean.value) * rstd, scale: ((x - mean.value).abs() + mean.scale) * rstd }
    }

    /// x̂·weight + bias, before ReLU and dropout.
    fn affine(&self, unit: usize, normalised: Exact) -> Exact {
        let (weight, bias) = (f64::from(self.weight[unit]), f64::from(self.bias[unit]));
        Exact { value: normalised.value * weight + bias, scale: normalised.scale * weight.abs() + bias.abs() }
    }

    /// x̂·weight + bias in training, in the order of the outputs. ReLU has its kink where this is 0.
    pub fn before_relu(&self) -> Vec<f64> {
        let statistics = self.statistics();
        let mut z = vec![0.0; self.x.len()];
        for unit in self.units() {
            for b in 0..self.batch {
                let x = self.x[self.x_at(unit, b)];
                let normalised = self.normalised(x, statistics.mean[unit], statistics.var[unit].value);
                z[self.y_at(unit, b)] = self.affine(unit, normalised).value;
            }
        }
        z
    }

    fn outputs(&self, statistics: &Statistics, factor: impl Fn(usize, usize) -> f64) -> Vec<Exact> {
        let mut y = vec![Exact::default(); self.x.len()];
        for unit in self.units() {
            let (mean, var) = (statistics.mean[unit], statistics.var[unit].value);
            for b in 0..self.batch {
                let z = self.affine(unit, self.normalised(self.x[self.x_at(unit, b)], mean, var));
                let value = if self.relu { z.value.max(0.0) } else { z.value };
                let factor = factor(unit, b);
                y[self.y_at(unit, b)] = Exact { value: value * factor, scale: z.scale * factor };
            }
        }
        y
    }

    /// Outputs in training, in their order.
    pub fn train(&self) -> Vec<Exact> {
        self.outputs(&self.statistics(), |unit, b| self.dropout.factor(unit, b))
    }

    /// Outputs in evaluation, in their order, from running mean and variance (R, E).
    pub fn evaluate(&self, running_mean: &[f32], running_var: &[f32]) -> Vec<Exact> {
        let exact = |v: &f32| Exact { value: f64::from(*v), scale: f64::from(v.abs()) };
        let exact = |values: &[f32]| values.iter().map(exact).collect();
        let statistics = Statistics { mean: exact(running_mean), var: exact(running_var) };
        self.outputs(&statistics, |_, _| 1.0)
    }

    /// Running mean and variance, (R, E) each, after a training step.
    pub fn update(
        &self,
        running_mean: &[f32],
        running_var: &[f32],
        momentum: f32,
    ) -> (Vec<Exact>, Vec<Exact>) {
        let unbias = self.batch as f64 / (self.batch - 1) as f64;
        let momentum = f64::from(momentum);
        let blend = |old: &[f32], new: &[Exact], factor: f64| {
            let pairs = old.iter().map(|&old| f64::from(old)).zip(new);
            pairs
                .map(|(old, new)| Exact {
                    value: (1.0 - momentum) * old + momentum * new.value * factor,
                    scale: (1.0 - momentum) * old.abs() + momentum * new.scale * factor,
                })
                .collect()
        };
        let Statistics { mean, var } = self.statistics();
        (blend(running_mean, &mean, 1.0), blend(running_var, &var, unbias))
    }

    /// Gradients of inputs, weights and biases in training, from dy in the order of the outputs.
    pub fn backward(&self, dy: &[f32]) -> Gradients {
        let Statistics { mean, var } = self.statistics();
        let count = self.batch as f64;
        let mut all = Gradients { dx: vec![Exact::default(); self.x.len()], ..Gradients::default() };
        for unit in self.units() {
            let normalised =
                |b: usize| self.normalised(self.x[self.x_at(unit, b)], mean[unit], var[unit].value);
            let upstream = |b: usize| {
                let open = !self.relu || self.affine(unit, normalised(b)).value > 0.0;
                if open { f64::from(dy[self.y_at(unit, b)]) * self.dropout.factor(unit, b) } else { 0.0 }
            };
            let (mut dweight, mut dbias) = (Exact::default(), Exact::default());
            for b in 0..self.batch {
                let (g, x) = (upstream(b), normalised(b));
                dbias.value += g;
                dbias.scale += g.abs();
                dweight.value += g * x.value;
                dweight.scale += g.abs() * x.scale;
            }
            let rstd = 1.0 / (var[unit].value + f64::from(self.eps)).sqrt();
            let weight = f64::from(self.weight[unit]);
            for b in 0..self.batch {
                let (g, x) = (upstream(b), normalised(b));
                let value = g - dbias.value / count - x.value * dweight.value / count;
                let scale = g.abs() + dbias.scale / count + x.scale * dweight.scale / count;
                all.dx[self.x_at(unit, b)] =
                    Exact { value: weight * rstd * value, scale: weight.abs() * rstd * scale };
            }
            all.dweight.push(dweight);
            all.dbias.push(dbias);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_and_running_statistics_are_pytorchs() {
        // bn = torch.nn.BatchNorm1d(2, eps=2**-16, momentum=0.125, dtype=torch.float64)
        // bn.weight.data = torch.tensor([1.5, -0.5]).double(); bn.bias.data = torch.tensor([0.25, 1.0]).double()
        // bn.running_mean[:] = torch.tensor([0.5, -1.0]); bn.running_var[:] = torch.tensor([1.5, 0.75])
        // x = torch.tensor([[1.0, -2.0], [2.5, 0.5], [-0.25, 3.0]], dtype=torch.float64)
        // bn.eval(); print(bn(x)); bn.train(); print(bn(x), bn.running_mean, bn.running_var)
        let layer = BatchNorm {
            x: &[1.0, -2.0, 2.5, 0.5, -0.25, 3.0],
            weight: &[1.5, -0.5],
            bias: &[0.25, 1.0],
            batch: 3,
            parts: 1,
            dim: 2,
            eps: 1.0 / 65_536.0,
            relu: false,
            dropout: Dropout::default(),
            x_sample_first: false,
            y_sample_first: false,
        };
        let close = |found: &[Exact], wanted: &[f64]| {
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found.value - wanted).abs() < 1e-14, "{found:?} for {wanted}");
            }
        };
        let (mean, var) = ([0.5, -1.0], [1.5, 0.75]);
        let wanted = [
            0.8623693210322829,
            1.5773443961685922,
            2.6994772841291317,
            0.13398340574711165,
            -0.6685539815484244,
            -1.309377584674369,
        ];
        close(&layer.evaluate(&mean, &var), &wanted);
        let rectified = BatchNorm { relu: true, ..layer }.evaluate(&mean, &var);
        close(&rectified, &wanted.map(|v: f64| v.max(0.0)));
        let wanted = [
            0.13881327367125906,
            1.6123713144114553,
            2.1401743475885993,
            1.0,
            -1.5289876212598577,
            0.3876286855885446,
        ];
        close(&layer.train(), &wanted);
        let (mean, var) = layer.update(&mean, &var, 0.125);
        close(&mean, &[0.5729166666666666, -0.8125]);
        close(&var, &[1.5494791666666667, 1.4375]);
    }

    #[test]
    fn dropout_keeps_the_share_and_the_mean() {
        let dropout = Dropout { seed: 7, step: 3, stream: 1, place: 64, drop: 0.25 };
        let factors: Vec<f64> = (0..10_000).map(|i| dropout.factor(i / 100, i % 100)).collect();
        let kept = factors.iter().filter(|f| **f > 0.0).count();
        assert!(kept.abs_diff(7500) < 150, "{kept}");
        assert!(factors.iter().all(|f| *f == 0.0 || *f == 1.0 / 0.75));
        // The mask of a sample depends on its position in the epoch alone.
        assert_eq!(dropout.factor(5, 10), Dropout { place: 74, ..dropout }.factor(5, 0));
        assert!((0..100).all(|b| Dropout::default().factor(b, b) == 1.0));
    }
}
