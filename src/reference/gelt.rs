//! gelt = class_weight·class token + local_weight·mean of the part's patches (paper eq. 6).

use super::Exact;

/// The operands of a blend.
#[derive(Debug, Clone, Copy)]
pub struct Gelt<'a> {
    /// Tokens (B, P + R·C, D).
    pub tokens: &'a [f32],
    /// Tokens before the patches P.
    pub prefix: usize,
    /// Parts R.
    pub parts: usize,
    /// Patches per part C.
    pub columns: usize,
    /// Width of a token D.
    pub dim: usize,
    /// Weights of the class token and of the mean.
    pub weights: (f32, f32),
}

impl Gelt<'_> {
    /// gelt\[image, part, d\].
    pub fn at(&self, image: usize, part: usize, d: usize) -> Exact {
        let count = self.prefix + self.parts * self.columns;
        let token = |t: usize| f64::from(self.tokens[(image * count + t) * self.dim + d]);
        let mut local = Exact::default();
        for column in 0..self.columns {
            let value = token(self.prefix + part * self.columns + column) / self.columns as f64;
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
        if t >= self.prefix {
            let value = local_weight / self.columns as f64 * of_part((t - self.prefix) / self.columns);
            return Exact { value, scale: value.abs() };
        }
        let mut sum = Exact::default();
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
        let gelt = Gelt { tokens: &tokens, prefix: 2, parts: 2, columns: 2, dim: 1, weights: (0.5, 0.25) };
        assert_eq!((gelt.at(0, 0, 0).value, gelt.at(0, 1, 0).value), (5.5, 6.75));
        let gradient: Vec<f64> = (0..6).map(|t| gelt.gradient(&[8.0, 16.0], 0, t, 0).value).collect();
        assert_eq!(gradient, [12.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
    }
}
