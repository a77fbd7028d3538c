//! tokens = \[prefix; patches\] + position.

use super::Exact;

/// The operands of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// (P, D).
    pub prefix: &'a [f32],
    /// (B, N, D).
    pub patches: &'a [f32],
    /// (P+N, D).
    pub position: &'a [f32],
    /// N.
    pub count: usize,
    /// D.
    pub dim: usize,
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
        let value = f64::from(token) + f64::from(self.position[t * self.dim + d]);
        Exact { value, scale: value.abs() }
    }
}

/// dposition\[t, d\] = Σ_b dtokens\[b, t, d\] where `i` = t·D + d, and dprefix\[t, d\] for t < P.
///
/// `sequence` is (P+N)·D, the length of dposition.
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
    fn gradients_of_all_images_meet() {
        let dtokens = [1.0, 2.0, 10.0, -20.0];
        assert_eq!(gradient(&dtokens, 2, 0), Exact { value: 11.0, scale: 11.0 });
        assert_eq!(gradient(&dtokens, 2, 1), Exact { value: -18.0, scale: 22.0 });
    }

    #[test]
    fn prefix_comes_first_in_every_image() {
        let tokens =
            Tokens { prefix: &[1.0], patches: &[2.0, 3.0], position: &[0.5, 0.25], count: 1, dim: 1 };
        let all: Vec<f64> = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(b, t)| tokens.at(b, t, 0).value).to_vec();
        assert_eq!(all, [1.5, 2.25, 1.5, 3.25]);
    }
}
