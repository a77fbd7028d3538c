//! tokens = \[prefix; patches\] + position for the tokens that have one.

use super::Exact;

/// The operands of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Prefix tokens (P, D).
    pub prefix: &'a [f32],
    /// Patches (B, N, D).
    pub patches: &'a [f32],
    /// Position embeddings (S+N, D).
    pub position: &'a [f32],
    /// Patches per image N.
    pub count: usize,
    /// Width of a token D.
    pub dim: usize,
}

/// Row of token t in the position table. The first `positioned` of `prefix` tokens and all patches have one.
pub fn position_row(t: usize, prefix: usize, positioned: usize) -> Option<usize> {
    if t < prefix { (t < positioned).then_some(t) } else { Some(positioned + t - prefix) }
}

impl Tokens<'_> {
    /// tokens\[image, t, d\].
    pub fn at(&self, image: usize, t: usize, d: usize) -> Exact {
        let prefix = self.prefix.len() / self.dim;
        let token = if t < prefix {
            self.prefix[t * self.dim + d]
        } else {
            self.patches[(image * self.count + t - prefix) * self.dim + d]
        };
        let positioned = self.position.len() / self.dim - self.count;
        let position =
            position_row(t, prefix, positioned).map_or(0.0, |row| self.position[row * self.dim + d]);
        let value = f64::from(token) + f64::from(position);
        Exact { value, scale: value.abs() }
    }
}

/// Σ_b dtokens\[b, t, d\] with `i` = t·D + d: dprefix\[t, d\] for t < P, and dposition if token t has a row.
///
/// `sequence` is (P+N)·D.
pub fn gradient(dtokens: &[f32], sequence: usize, i: usize) -> Exact {
    let mut sum = Exact::default();
    for image in dtokens.chunks(sequence) {
        sum.value += f64::from(image[i]);
        sum.scale += f64::from(image[i]).abs();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_summed_over_images() {
        let dtokens = [1.0, 2.0, 10.0, -20.0];
        assert_eq!(gradient(&dtokens, 2, 0), Exact { value: 11.0, scale: 11.0 });
        assert_eq!(gradient(&dtokens, 2, 1), Exact { value: -18.0, scale: 22.0 });
    }

    #[test]
    fn prefix_tokens_without_a_row_have_no_position() {
        let tokens =
            Tokens { prefix: &[1.0, 2.0, 3.0], patches: &[4.0], position: &[0.5, 0.25], count: 1, dim: 1 };
        let all: Vec<f64> = (0..4).map(|t| tokens.at(0, t, 0).value).collect();
        assert_eq!(all, [1.5, 2.0, 3.0, 4.25]);
        let rows = |positioned| (0..4).map(|t| position_row(t, 3, positioned)).collect::<Vec<_>>();
        assert_eq!(rows(0), [None, None, None, Some(0)]);
        assert_eq!(rows(3), [Some(0), Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn prefix_comes_first_in_every_image() {
        let tokens =
            Tokens { prefix: &[1.0], patches: &[2.0, 3.0], position: &[0.5, 0.25], count: 1, dim: 1 };
        let all: Vec<f64> = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(b, t)| tokens.at(b, t, 0).value).to_vec();
        assert_eq!(all, [1.5, 2.25, 1.5, 3.25]);
    }
}
