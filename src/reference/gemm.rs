//! c = activation(A·Bᵀ + bias)·scale + residual.

use super::{Exact, gelu};
use crate::shape::Activation;

/// The operands of one product; what is `None` takes no part.
#[derive(Debug, Clone, Copy)]
pub struct Nt<'a> {
    /// (M, K).
    pub a: &'a [f32],
    /// (N, K).
    pub b: &'a [f32],
    /// N.
    pub n: usize,
    /// K.
    pub k: usize,
    /// (N).
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// (N).
    pub scale: Option<&'a [f32]>,
    /// (M, N).
    pub residual: Option<&'a [f32]>,
}

impl Nt<'_> {
    /// pre\[m,n\]: the sum with its bias, before the activation.
    pub fn pre(&self, m: usize, n: usize) -> Exact {
        let mut sum = Exact::default();
        for k in 0..self.k {
            let product = f64::from(self.a[m * self.k + k]) * f64::from(self.b[n * self.k + k]);
            sum.value += product;
            sum.scale += product.abs();
        }
        if let Some(bias) = self.bias {
            sum.value += f64::from(bias[n]);
            sum.scale += f64::from(bias[n]).abs();
        }
        sum
    }

    /// c\[m,n\].
    pub fn at(&self, m: usize, n: usize) -> Exact {
        let pre = self.pre(m, n);
        let mut c = match self.activation {
            None => pre,
            // The activation stretches the error of its argument and adds its own, at most 4e-7 ≈ 7·2⁻²⁴ of the argument;
            // c is at least 3 for every product, so 3·|u| covers that.
            Some(activation) => Exact {
                value: gelu::activation(activation, pre.value),
                scale: gelu::STEEPEST * pre.scale + 3.0 * pre.value.abs(),
            },
        };
        if let Some(scale) = self.scale {
            c.value *= f64::from(scale[n]);
            c.scale *= f64::from(scale[n]).abs();
        }
        if let Some(residual) = self.residual {
            let addend = f64::from(residual[m * self.n + n]);
            c.value += addend;
            c.scale += addend.abs();
        }
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_small_enough_for_the_head() {
        let product = Nt {
            a: &[1.0, 2.0, 3.0, -4.0],
            b: &[5.0, -6.0, 7.0, 8.0],
            n: 2,
            k: 2,
            bias: Some(&[1.0, -1.0]),
            activation: None,
            scale: Some(&[2.0, 10.0]),
            residual: Some(&[0.5, 0.0, 0.0, 0.25]),
        };
        assert_eq!(product.pre(0, 0), Exact { value: -6.0, scale: 18.0 });
        assert_eq!(product.at(0, 0), Exact { value: -11.5, scale: 36.5 });
        assert_eq!(product.at(0, 1), Exact { value: 220.0, scale: 240.0 });
        assert_eq!(product.at(1, 1), Exact { value: -119.75, scale: 540.25 });
    }
}
