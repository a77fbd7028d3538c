//! out = softmax(Q·Kᵀ/√Dh)·V, row by row with all scores of the row in memory, and its gradients.

use super::Exact;

/// The operands of attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Queries, keys and values (B, T, 3, H, Dh).
    pub qkv: &'a [f32],
    /// Tokens per image T.
    pub tokens: usize,
    /// Heads H.
    pub heads: usize,
    /// Width of a head Dh.
    pub head_dim: usize,
}

/// Results of one query.
#[derive(Debug, Clone)]
pub struct Row {
    /// Output (Dh).
    pub out: Vec<Exact>,
    /// Log-sum-exp of the scores.
    pub lse: Exact,
}

/// The gradients of one head.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// Gradients of queries, keys and values, (T, Dh) each.
    pub dqkv: [Vec<Exact>; 3],
}

impl Attention<'_> {
    /// The query (operand 0), key (1) or value (2) of `token` in one image and head.
    fn vector(&self, operand: usize, image: usize, head: usize, token: usize) -> &[f32] {
        let start = (((image * self.tokens + token) * 3 + operand) * self.heads + head) * self.head_dim;
        &self.qkv[start..start + self.head_dim]
    }

    /// Scaled scores of one query with all keys.
    pub(super) fn scores(&self, image: usize, head: usize, token: usize) -> Vec<Exact> {
        let query = self.vector(0, image, head, token);
        let root = 1.0 / (self.head_dim as f64).sqrt();
        (0..self.tokens)
            .map(|j| {
                let mut score = Exact::default();
                for (q, k) in query.iter().zip(self.vector(1, image, head, j)) {
                    let product = f64::from(*q) * f64::from(*k) * root;
                    score.value += product;
                    score.scale += product.abs();
                }
                score
            })
            .collect()
    }

    /// out\[image, token, head, :\] and lse\[image, head, token\].
    ///
    /// An error e of a score changes its probability by the relative amount e. exp adds an error of about |s - highest|
    /// ulps. `scale` weights each value with both.
    pub fn row(&self, image: usize, head: usize, token: usize) -> Row {
        let scores = self.scores(image, head, token);
        let highest = scores.iter().fold(f64::NEG_INFINITY, |most, s| most.max(s.value));
        let total: f64 = scores.iter().map(|s| (s.value - highest).exp()).sum();
        let lse = highest + total.ln();

        let mut out = vec![Exact::default(); self.head_dim];
        let mut mean_doubt = 0.0;
        for (j, score) in scores.iter().enumerate() {
            let p = (score.value - lse).exp();
            let doubt = 1.0 + score.scale + (score.value - highest).abs();
            mean_doubt += p * doubt;
            for (o, v) in out.iter_mut().zip(self.vector(2, image, head, j)) {
                let product = p * f64::from(*v);
                o.value += product;
                o.scale += product.abs() * doubt;
            }
        }
        for o in &mut out {
            // Error of the divisor.
            o.scale += o.value.abs() * mean_doubt;
        }
        Row { out, lse: Exact { value: lse, scale: mean_doubt + highest.abs() + lse.abs() } }
    }

    /// dqkv of one image and head for dout (B, T, H·Dh).
    ///
    /// The scales apply to a backward pass that reads out and lse rounded to f32. The relative error of a probability
    /// then is the error of its score and its lse. The error of ds = p·(dp - delta) is that of its terms.
    pub fn gradients(&self, image: usize, head: usize, dout: &[f32]) -> Gradients {
        self.gradients_from(image, head, None, dout)
    }

    /// As [`Self::gradients`], but from the `out` (B, T, H·Dh) that a forward pass stored, if given. In f16 it differs
    /// from the exact one.
    pub fn gradients_from(&self, image: usize, head: usize, out: Option<&[f32]>, dout: &[f32]) -> Gradients {
        let (count, width) = (self.tokens, self.head_dim);
        let root = 1.0 / (width as f64).sqrt();
        let mut dqkv = [(); 3].map(|()| vec![Exact::default(); count * width]);
        let add = |to: &mut Exact, by: Exact, vector: f32| {
            to.value += by.value * f64::from(vector);
            to.scale += by.scale * f64::from(vector).abs();
        };
        for i in 0..count {
            let Row { out: exact, lse } = self.row(image, head, i);
            let start = ((image * count + i) * self.heads + head) * width;
            let dout = &dout[start..start + width];
            let mut delta = Exact::default();
            for (d, (o, &g)) in exact.iter().zip(dout).enumerate() {
                let product = out.map_or(o.value, |out| f64::from(out[start + d])) * f64::from(g);
                delta.value += product;
                delta.scale += product.abs();
            }
            for (j, score) in self.scores(image, head, i).into_iter().enumerate() {
                let p = (score.value - lse.value).exp();
                let doubt = 1.0 + score.scale + lse.value.abs() + (score.value - lse.value).abs();
                let mut dp = Exact::default();
                for (v, g) in self.vector(2, image, head, j).iter().zip(dout) {
                    let product = f64::from(*v) * f64::from(*g);
                    dp.value += product;
                    dp.scale += product.abs();
                }
                let difference = dp.value - delta.value;
                let ds = Exact {
                    value: p * difference * root,
                    scale: p * (doubt * difference.abs() + dp.scale + delta.scale) * root,
                };
                let p = Exact { value: p, scale: p * doubt };
                for d in 0..width {
                    add(&mut dqkv[0][i * width + d], ds, self.vector(1, image, head, j)[d]);
                    add(&mut dqkv[1][j * width + d], ds, self.vector(0, image, head, i)[d]);
                    add(&mut dqkv[2][j * width + d], p, dout[d]);
                }
            }
        }
        Gradients { dqkv }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_give_the_mean_and_a_much_larger_score_decides_alone() {
        // T = 2, H = 1, Dh = 4: queries, keys and values of token 0, then of token 1.
        let mut qkv = [[1.0; 4], [0.0; 4], [2.0; 4], [1.0; 4], [0.0; 4], [6.0; 4]].concat();
        let mean = Attention { qkv: &qkv, tokens: 2, heads: 1, head_dim: 4 }.row(0, 0, 0);
        assert!((mean.out[3].value - 4.0).abs() < 1e-14);
        assert!((mean.lse.value - 2f64.ln()).abs() < 1e-14);
        // Scores 0 and 400: exp(400) would overflow.
        qkv[16..20].fill(200.0);
        let far = Attention { qkv: &qkv, tokens: 2, heads: 1, head_dim: 4 }.row(0, 0, 1);
        assert_eq!((far.out[0].value, far.lse.value), (6.0, 400.0));
    }

    #[test]
    fn equal_keys_share_a_gradient_and_queries_get_none() {
        // T = 2, equal keys: p = 1/2 each, so a value receives half of each output's gradient, and ds sums to 0.
        let qkv = [[1.0; 4], [3.0; 4], [2.0; 4], [1.0; 4], [3.0; 4], [6.0; 4]].concat();
        let attention = Attention { qkv: &qkv, tokens: 2, heads: 1, head_dim: 4 };
        let Gradients { dqkv } = attention.gradients(0, 0, &[1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        assert!(dqkv[0].iter().all(|q| q.value.abs() < 1e-14));
        // p·(dp - delta)/√Dh = (1/2)·(4·2 - 4·4)/2 = -2 for the first query, twice that for the second.
        assert!((dqkv[1][0].value + 6.0).abs() < 1e-14 && (dqkv[1][4].value - 6.0).abs() < 1e-14);
        assert!(dqkv[2].iter().all(|v| (v.value - 1.5).abs() < 1e-14));
    }
}
