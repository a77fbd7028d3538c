//! Re-attention: attention maps that the heads mix and BatchNorm normalises, and their gradients. One function per
//! kernel, in f64 throughout, so that finite differences can pass through all of them.

use super::Exact;

/// The dimensions of re-attention. The batch size is that of the operands.
#[derive(Debug, Clone, Copy)]
pub struct ReAttention {
    /// Tokens per image T.
    pub tokens: usize,
    /// Heads H.
    pub heads: usize,
    /// Width of a head Dh.
    pub head_dim: usize,
    /// Added to the variance.
    pub eps: f64,
}

/// Statistics and parameters of a head's normalisation.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// Mean of the mixed maps.
    pub mean: f64,
    /// Variance of the mixed maps.
    pub var: f64,
    /// Weight.
    pub weight: f64,
    /// Bias.
    pub bias: f64,
}

impl Norm {
    fn rstd(&self, eps: f64) -> f64 {
        1.0 / (self.var + eps).sqrt()
    }

    /// x̂ of an element m.
    fn centred(&self, m: f64, eps: f64) -> Exact {
        let rstd = self.rstd(eps);
        Exact { value: (m - self.mean) * rstd, scale: (m.abs() + self.mean.abs()) * rstd }
    }

    /// p of an element m.
    fn normalised(&self, m: f64, eps: f64) -> Exact {
        let Exact { value, scale } = self.centred(m, eps);
        Exact { value: value * self.weight + self.bias, scale: scale * self.weight.abs() + self.bias.abs() }
    }
}

/// Place of an element of the maps.
#[derive(Clone, Copy)]
struct Cell {
    image: usize,
    head: usize,
    i: usize,
    j: usize,
}

fn add(sum: &mut Exact, by: Exact, factor: f64) {
    sum.value += by.value * factor;
    sum.scale += by.scale * factor.abs();
}

fn exact(value: f64) -> Exact {
    Exact { value, scale: value.abs() }
}

impl ReAttention {
    fn area(&self) -> usize {
        self.tokens * self.tokens
    }

    /// First element of a query, key or value (operand 0, 1 or 2).
    fn qkv_row(&self, image: usize, token: usize, operand: usize, head: usize) -> usize {
        (((image * self.tokens + token) * 3 + operand) * self.heads + head) * self.head_dim
    }

    fn out_row(&self, image: usize, token: usize, head: usize) -> usize {
        ((image * self.tokens + token) * self.heads + head) * self.head_dim
    }

    fn place(&self, Cell { image, head, i, j }: Cell) -> usize {
        ((image * self.heads + head) * self.tokens + i) * self.tokens + j
    }

    fn cell(&self, place: usize) -> Cell {
        let (row, j) = (place / self.tokens, place % self.tokens);
        let (map, i) = (row / self.tokens, row % self.tokens);
        Cell { image: map / self.heads, head: map % self.heads, i, j }
    }

    fn head_of(&self, place: usize) -> usize {
        place / self.area() % self.heads
    }

    /// Elements of a head in maps of so many elements.
    fn elements(&self, maps: &[f64]) -> f64 {
        (maps.len() / self.heads) as f64
    }

    /// a (B, H, T, T). An error e of a score changes its weight by the relative amount e; exp adds an error of about
    /// |s - highest| ulps.
    pub fn softmax(&self, qkv: &[f64]) -> Vec<Exact> {
        let root = 1.0 / (self.head_dim as f64).sqrt();
        let batch = qkv.len() / (3 * self.tokens * self.heads * self.head_dim);
        let mut maps = Vec::new();
        for row in 0..batch * self.heads * self.tokens {
            let Cell { image, head, i, .. } = self.cell(row * self.tokens);
            let vector = |token, operand| &qkv[self.qkv_row(image, token, operand, head)..][..self.head_dim];
            let scores: Vec<Exact> = (0..self.tokens)
                .map(|j| {
                    let mut score = Exact::default();
                    for (q, k) in vector(i, 0).iter().zip(vector(j, 1)) {
                        add(&mut score, exact(q * k), root);
                    }
                    score
                })
                .collect();
            let highest = scores.iter().fold(f64::NEG_INFINITY, |most, s| most.max(s.value));
            let doubt = |s: &Exact| 1.0 + s.scale + (s.value - highest).abs();
            let weights: Vec<f64> = scores.iter().map(|s| (s.value - highest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mean_doubt: f64 = scores.iter().zip(&weights).map(|(s, w)| w / total * doubt(s)).sum();
            maps.extend(
                scores
                    .iter()
                    .zip(&weights)
                    .map(|(s, w)| Exact { value: w / total, scale: w / total * (doubt(s) + mean_doubt) }),
            );
        }
        maps
    }

    /// m (B, H, T, T) of a and theta (H, H).
    pub fn mix(&self, maps: &[f64], theta: &[f64]) -> Vec<Exact> {
        let mixed = (0..maps.len()).map(|place| {
            let Cell { image, head, i, j } = self.cell(place);
            let mut sum = Exact::default();
            for from in 0..self.heads {
                let map = maps[self.place(Cell { image, head: from, i, j })];
                add(&mut sum, exact(map), theta[head * self.heads + from]);
            }
            sum
        });
        mixed.collect()
    }

    /// Mean and biased variance (H) of m.
    pub fn moments(&self, mixed: &[f64]) -> [Vec<Exact>; 2] {
        let share = 1.0 / self.elements(mixed);
        let mut means = vec![Exact::default(); self.heads];
        for (place, &m) in mixed.iter().enumerate() {
            add(&mut means[self.head_of(place)], exact(m), share);
        }
        let mut variances = vec![Exact::default(); self.heads];
        for (place, &m) in mixed.iter().enumerate() {
            let off = m - means[self.head_of(place)].value;
            add(&mut variances[self.head_of(place)], exact(off * off), share);
        }
        [means, variances]
    }

    /// out (B, T, H·Dh) of m.
    pub fn context(&self, qkv: &[f64], mixed: &[f64], norms: &[Norm]) -> Vec<Exact> {
        let mut out = vec![Exact::default(); qkv.len() / 3];
        for (place, &m) in mixed.iter().enumerate() {
            let Cell { image, head, i, j } = self.cell(place);
            let p = norms[head].normalised(m, self.eps);
            let values = &qkv[self.qkv_row(image, j, 2, head)..][..self.head_dim];
            for (o, v) in out[self.out_row(image, i, head)..].iter_mut().zip(values) {
                add(o, p, *v);
            }
        }
        out
    }

    /// dp (B, H, T, T) of dout (B, T, H·Dh).
    pub fn map_gradient(&self, qkv: &[f64], dout: &[f64]) -> Vec<Exact> {
        let batch = dout.len() / (self.tokens * self.heads * self.head_dim);
        let places = 0..batch * self.heads * self.area();
        let gradient = places.map(|place| {
            let Cell { image, head, i, j } = self.cell(place);
            let values = &qkv[self.qkv_row(image, j, 2, head)..][..self.head_dim];
            let mut sum = Exact::default();
            for (g, v) in dout[self.out_row(image, i, head)..].iter().zip(values) {
                add(&mut sum, exact(*g), *v);
            }
            sum
        });
        gradient.collect()
    }

    /// Gradients (H) of weight and bias of the normalisation.
    pub fn norm_gradient(&self, dp: &[f64], mixed: &[f64], norms: &[Norm]) -> [Vec<Exact>; 2] {
        let [mut dweight, mut dbias] = [(); 2].map(|()| vec![Exact::default(); self.heads]);
        for (place, (&g, &m)) in dp.iter().zip(mixed).enumerate() {
            let head = self.head_of(place);
            add(&mut dbias[head], exact(g), 1.0);
            add(&mut dweight[head], norms[head].centred(m, self.eps), g);
        }
        [dweight, dbias]
    }

    /// dm (B, H, T, T) of dp and of the gradients of weight and bias.
    pub fn mix_gradient(
        &self,
        dp: &[f64],
        mixed: &[f64],
        norms: &[Norm],
        [dweight, dbias]: [&[f64]; 2],
    ) -> Vec<Exact> {
        let share = 1.0 / self.elements(mixed);
        let gradient = dp.iter().zip(mixed).enumerate().map(|(place, (&g, &m))| {
            let head = self.head_of(place);
            let mut sum = exact(g);
            add(&mut sum, exact(dbias[head]), -share);
            add(&mut sum, norms[head].centred(m, self.eps), -dweight[head] * share);
            let factor = norms[head].weight * norms[head].rstd(self.eps);
            Exact { value: sum.value * factor, scale: sum.scale * factor.abs() }
        });
        gradient.collect()
    }

    /// da (B, H, T, T) of dm.
    pub fn head_gradient(&self, dm: &[f64], theta: &[f64]) -> Vec<Exact> {
        let gradient = (0..dm.len()).map(|place| {
            let Cell { image, head, i, j } = self.cell(place);
            let mut sum = Exact::default();
            for to in 0..self.heads {
                let g = dm[self.place(Cell { image, head: to, i, j })];
                add(&mut sum, exact(g), theta[to * self.heads + head]);
            }
            sum
        });
        gradient.collect()
    }

    /// Gradient of theta (H, H), of dm and a.
    pub fn theta_gradient(&self, dm: &[f64], maps: &[f64]) -> Vec<Exact> {
        let mut dtheta = vec![Exact::default(); self.heads * self.heads];
        for (place, &g) in dm.iter().enumerate() {
            let Cell { image, head, i, j } = self.cell(place);
            for from in 0..self.heads {
                let map = maps[self.place(Cell { image, head: from, i, j })];
                add(&mut dtheta[head * self.heads + from], exact(g), map);
            }
        }
        dtheta
    }

    /// ds (B, H, T, T) of da and a.
    pub fn score_gradient(&self, da: &[f64], maps: &[f64]) -> Vec<Exact> {
        let rows = da.chunks(self.tokens).zip(maps.chunks(self.tokens));
        let gradient = rows.flat_map(|(da, maps)| {
            let mut total = Exact::default();
            for (g, a) in da.iter().zip(maps) {
                add(&mut total, exact(*g), *a);
            }
            let one = move |(g, a): (&f64, &f64)| Exact {
                value: a * (g - total.value),
                scale: a.abs() * (g.abs() + total.scale),
            };
            da.iter().zip(maps).map(one).collect::<Vec<_>>()
        });
        gradient.collect()
    }

    /// dqkv (B, T, 3, H, Dh) of ds, m and dout.
    pub fn backward(
        &self,
        qkv: &[f64],
        mixed: &[f64],
        norms: &[Norm],
        ds: &[f64],
        dout: &[f64],
    ) -> Vec<Exact> {
        let root = 1.0 / (self.head_dim as f64).sqrt();
        let mut dqkv = vec![Exact::default(); qkv.len()];
        for (place, (&g, &m)) in ds.iter().zip(mixed).enumerate() {
            let Cell { image, head, i, j } = self.cell(place);
            let p = norms[head].normalised(m, self.eps);
            let [query, key, value] =
                [(i, 0), (j, 1), (j, 2)].map(|(token, operand)| self.qkv_row(image, token, operand, head));
            let out = self.out_row(image, i, head);
            for d in 0..self.head_dim {
                add(&mut dqkv[query + d], exact(g), root * qkv[key + d]);
                add(&mut dqkv[key + d], exact(g), root * qkv[query + d]);
                add(&mut dqkv[value + d], p, dout[out + d]);
            }
        }
        dqkv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_with_a_norm_that_undoes_itself_is_attention() {
        let shape = ReAttention { tokens: 3, heads: 2, head_dim: 4, eps: 1e-5 };
        let qkv: Vec<f64> = (0..2 * 3 * 3 * 8).map(|i| ((i * 37 % 23) as f64 - 11.0) / 8.0).collect();
        let values = |exact: &[Exact]| exact.iter().map(|e| e.value).collect::<Vec<f64>>();
        let maps = values(&shape.softmax(&qkv));
        let mixed = values(&shape.mix(&maps, &[1.0, 0.0, 0.0, 1.0]));
        assert_eq!(maps, mixed);
        let [means, variances] = shape.moments(&mixed).map(|moments| values(&moments));
        // A row of three weights sums to 1.
        assert!((means[0] - 1.0 / 3.0).abs() < 1e-14 && variances[1] > 0.0);
        let undone = |head: usize| Norm {
            mean: means[head],
            var: variances[head],
            weight: (variances[head] + shape.eps).sqrt(),
            bias: means[head],
        };
        let out = shape.context(&qkv, &mixed, &[undone(0), undone(1)]);
        let single: Vec<f32> = qkv.iter().map(|&v| v as f32).collect();
        let attention =
            crate::reference::attention::Attention { qkv: &single, tokens: 3, heads: 2, head_dim: 4 };
        let wanted = attention.row(1, 1, 2).out;
        for (d, wanted) in wanted.iter().enumerate() {
            let found = out[shape.out_row(1, 2, 1) + d].value;
            assert!((found - wanted.value).abs() < 1e-12, "{found} {}", wanted.value);
        }
    }
}
