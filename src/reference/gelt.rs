//! gelt = class_weight·class token + local_weight·mean of the part's patches (paper eq. 6).

use super::Exact;
use std::ops::Range;

/// The operands of a blend.
#[derive(Debug, Clone, Copy)]
pub struct Gelt<'a> {
    /// Tokens (B, P + H·C, D).
    pub tokens: &'a [f32],
    /// Tokens before the patches P.
    pub prefix: usize,
    /// Parts R.
    pub parts: usize,
    /// Rows of patches H.
    pub rows: usize,
    /// Patches per row C.
    pub columns: usize,
    /// Width of a token D.
    pub dim: usize,
    /// Weights of the class token and of the mean.
    pub weights: (f32, f32),
}

impl Gelt<'_> {
    /// The patches of a part: those of the rows that overlap the interval from part/R to (part + 1)/R of the height.
    fn patches(&self, part: usize) -> Range<usize> {
        // A quotient that is an integer is exact.
        let edge = |part: usize| (part * self.rows) as f64 / self.parts as f64;
        edge(part).floor() as usize * self.columns..edge(part + 1).ceil() as usize * self.columns
    }

    /// gelt\[image, part, d\].
    pub fn at(&self, image: usize, part: usize, d: usize) -> Exact {
        let count = self.prefix + self.rows * self.columns;
        let token = |t: usize| f64::from(self.tokens[(image * count + t) * self.dim + d]);
        let mut local = Exact::default();
        for patch in self.patches(part) {
            let value = token(self.prefix + patch) / self.patches(part).len() as f64;
            local.value += value;
            local.scale += value.abs();
        }
        let (class_weight, local_weight) = (f64::from(self.weights.0), f64::from(self.weights.1));
        let class = class_weight * token(0);
        Exact {
            value: class + local_weight * local.value,
            scale: class.abs() + local_weight.abs() * local.scale,
        }
    }

    /// dtokens\[image, t, d\] for dgelt (B, R, D). Does not read `tokens`.
    pub fn gradient(&self, dgelt: &[f32], image: usize, t: usize, d: usize) -> Exact {
        let of_part = |part: usize| f64::from(dgelt[(image * self.parts + part) * self.dim + d]);
        let (class_weight, local_weight) = (f64::from(self.weights.0), f64::from(self.weights.1));
        let mut sum = Exact::default();
        if t >= self.prefix {
            for part in (0..self.parts).filter(|&part| self.patches(part).contains(&(t - self.prefix))) {
                let value = local_weight / self.patches(part).len() as f64 * of_part(part);
                sum.value += value;
                sum.scale += value.abs();
            }
        }
        if t == 0 {
            for part in 0..self.parts {
                sum.value += class_weight * of_part(part);
                sum.scale += (class_weight * of_part(part)).abs();
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_its_own_row_and_the_class_token() {
        // B = 1, one extra prefix token, 2 parts of 2 patches, D = 1.
        let tokens = [10.0, 99.0, 1.0, 3.0, 5.0, 9.0];
        let gelt =
            Gelt { tokens: &tokens, prefix: 2, parts: 2, rows: 2, columns: 2, dim: 1, weights: (0.5, 0.25) };
        assert_eq!((gelt.at(0, 0, 0).value, gelt.at(0, 1, 0).value), (5.5, 6.75));
        let gradient: Vec<f64> = (0..6).map(|t| gelt.gradient(&[8.0, 16.0], 0, t, 0).value).collect();
        assert_eq!(gradient, [12.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn parts_share_a_row() {
        // 3 rows of one patch in 2 parts.
        let tokens = [10.0, 1.0, 3.0, 5.0];
        let gelt =
            Gelt { tokens: &tokens, prefix: 1, parts: 2, rows: 3, columns: 1, dim: 1, weights: (0.5, 0.25) };
        assert_eq!((gelt.at(0, 0, 0).value, gelt.at(0, 1, 0).value), (5.5, 6.0));
        let gradient: Vec<f64> = (0..4).map(|t| gelt.gradient(&[8.0, 16.0], 0, t, 0).value).collect();
        assert_eq!(gradient, [12.0, 1.0, 3.0, 2.0]);
    }
}
