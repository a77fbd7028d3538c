//! out = softmax(Q·Kᵀ/√Dh)·V with the whole row of scores in memory.

use super::Exact;

/// The operands of one attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// (B, T, 3, H, Dh).
    pub qkv: &'a [f32],
    /// T.
    pub tokens: usize,
    /// H.
    pub heads: usize,
    /// Dh.
    pub head_dim: usize,
}

/// One query's results.
#[derive(Debug, Clone)]
pub struct Row {
    /// (Dh).
    pub out: Vec<Exact>,
    /// Log-sum-exp of the scores.
    pub lse: Exact,
}

impl Attention<'_> {
    /// The vector of query (0), key (1) or value (2) `token` of one image and head.
    fn vector(&self, part: usize, image: usize, head: usize, token: usize) -> &[f32] {
        let start = (((image * self.tokens + token) * 3 + part) * self.heads + head) * self.head_dim;
        &self.qkv[start..start + self.head_dim]
    }

    /// out\[image, token, head, :\] and lse\[image, head, token\].
    ///
    /// A score that is off by e makes its probability off by e of itself, and so does exp, by about |s - highest| ulps;
    /// `scale` weighs each value with both.
    pub fn row(&self, image: usize, head: usize, token: usize) -> Row {
        let query = self.vector(0, image, head, token);
        let root = 1.0 / (self.head_dim as f64).sqrt();
        let scores: Vec<Exact> = (0..self.tokens)
            .map(|j| {
                let mut score = Exact::default();
                for (q, k) in query.iter().zip(self.vector(1, image, head, j)) {
                    let product = f64::from(*q) * f64::from(*k) * root;
                    score.value += product;
                    score.scale += product.abs();
                }
                score
            })
            .collect();
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
            // The divisor's error.
            o.scale += o.value.abs() * mean_doubt;
        }
        Row { out, lse: Exact { value: lse, scale: mean_doubt + highest.abs() + lse.abs() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_give_the_mean_and_a_far_key_wins_alone() {
        // T = 2, H = 1, Dh = 4: queries, keys and values of token 0, then of token 1.
        let mut qkv = [[1.0; 4], [0.0; 4], [2.0; 4], [1.0; 4], [0.0; 4], [6.0; 4]].concat();
        let mean = Attention { qkv: &qkv, tokens: 2, heads: 1, head_dim: 4 }.row(0, 0, 0);
        assert!((mean.out[3].value - 4.0).abs() < 1e-14);
        assert!((mean.lse.value - 2f64.ln()).abs() < 1e-14);
        // Scores 0 and 400: exp of the larger one would overflow.
        qkv[16..20].fill(200.0);
        let far = Attention { qkv: &qkv, tokens: 2, heads: 1, head_dim: 4 }.row(0, 0, 1);
        assert_eq!((far.out[0].value, far.lse.value), (6.0, 400.0));
    }
}
