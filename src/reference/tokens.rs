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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_comes_first_in_every_image() {
        let tokens =
            Tokens { prefix: &[1.0], patches: &[2.0, 3.0], position: &[0.5, 0.25], count: 1, dim: 1 };
        let all: Vec<f64> = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(b, t)| tokens.at(b, t, 0).value).to_vec();
        assert_eq!(all, [1.5, 2.25, 1.5, 3.25]);
    }
}
