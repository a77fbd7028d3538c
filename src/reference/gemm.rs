//! c = activation(A·Bᵀ + bias)·scale + residual, and the two products of the backward pass.

use super::{Exact, gelu};
use crate::shape::Activation;

/// The operands of A·Bᵀ. Operands that are `None` are left out.
#[derive(Debug, Clone, Copy)]
pub struct Nt<'a> {
    /// Operand A (M, K).
    pub a: &'a [f32],
    /// Operand B (N, K).
    pub b: &'a [f32],
    /// Rows of B, N.
    pub n: usize,
    /// Row length of A and B, K.
    pub k: usize,
    /// Bias (N).
    pub bias: Option<&'a [f32]>,
    /// Activation after the bias.
    pub activation: Option<Activation>,
    /// Factors of LayerScale (N).
    pub scale: Option<&'a [f32]>,
    /// Residual (M, N), added last.
    pub residual: Option<&'a [f32]>,
}

impl Nt<'_> {
    /// pre\[m,n\]: the sum plus bias, before the activation.
    pub fn pre(&self, m: usize, n: usize) -> Exact {
        let left = (0..self.k).map(|k| self.a[m * self.k + k]);
        let mut sum = sum_of_products(left, (0..self.k).map(|k| self.b[n * self.k + k]));
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
            // The activation scales the error of its argument and adds its own, at most 4e-7 ≈ 7·2⁻²⁴ of the argument.
            // c of the tolerance is at least 3 for every product, so 3·|u| covers this.
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

/// The operands of A·B, times an activation's derivative, plus a residual. Operands that are `None` are left out.
#[derive(Debug, Clone, Copy)]
pub struct Nn<'a> {
    /// Operand A (M, K).
    pub a: &'a [f32],
    /// Operand B (K, N).
    pub b: &'a [f32],
    /// Columns of B, N.
    pub n: usize,
    /// Columns of A and rows of B, K.
    pub k: usize,
    /// Activation whose derivative multiplies the sums, and its arguments (M, N).
    pub derivative: Option<(Activation, &'a [f32])>,
    /// Residual (M, N), added last.
    pub residual: Option<&'a [f32]>,
}

impl Nn<'_> {
    /// c\[m,n\].
    pub fn at(&self, m: usize, n: usize) -> Exact {
        let left = (0..self.k).map(|k| self.a[m * self.k + k]);
        let mut c = sum_of_products(left, (0..self.k).map(|k| self.b[k * self.n + n]));
        if let Some((activation, kept)) = self.derivative {
            let slope = gelu::derivative(activation, f64::from(kept[m * self.n + n]));
            // The derivative has an error of at most 4e-7 ≈ 7·2⁻²⁴. c of the tolerance is at least 3 for every product,
            // so 3·|sum| covers this.
            c = Exact { value: c.value * slope, scale: c.scale * slope.abs() + 3.0 * c.value.abs() };
        }
        if let Some(residual) = self.residual {
            let addend = f64::from(residual[m * self.n + n]);
            c.value += addend;
            c.scale += addend.abs();
        }
        c
    }
}

/// The operands of Aᵀ·B.
#[derive(Debug, Clone, Copy)]
pub struct Tn<'a> {
    /// Operand A (K, M).
    pub a: &'a [f32],
    /// Operand B (K, N).
    pub b: &'a [f32],
    /// Columns of A, M.
    pub m: usize,
    /// Columns of B, N.
    pub n: usize,
    /// Rows of A and B, K.
    pub k: usize,
}

impl Tn<'_> {
    /// c\[m,n\].
    pub fn at(&self, m: usize, n: usize) -> Exact {
        let left = (0..self.k).map(|k| self.a[k * self.m + m]);
        sum_of_products(left, (0..self.k).map(|k| self.b[k * self.n + n]))
    }

    /// Σ_k a\[k,m\].
    pub fn column_sum(&self, m: usize) -> Exact {
        sum_of_products((0..self.k).map(|k| self.a[k * self.m + m]), std::iter::repeat(1.0))
    }
}

fn sum_of_products(left: impl Iterator<Item = f32>, right: impl Iterator<Item = f32>) -> Exact {
    let mut sum = Exact::default();
    for (left, right) in left.zip(right) {
        let product = f64::from(left) * f64::from(right);
        sum.value += product;
        sum.scale += product.abs();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_product() {
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

    #[test]
    fn the_forms_of_the_backward_pass() {
        // [1 2; 3 -4]·[5 -6 1; 7 8 0] = [19 10 1; -13 -50 3]
        let (a, b) = ([1.0, 2.0, 3.0, -4.0], [5.0, -6.0, 1.0, 7.0, 8.0, 0.0]);
        let nn = Nn { a: &a, b: &b, n: 3, k: 2, derivative: None, residual: None };
        assert_eq!(nn.at(0, 0), Exact { value: 19.0, scale: 19.0 });
        assert_eq!(nn.at(1, 1), Exact { value: -50.0, scale: 50.0 });
        let derivative = Some((Activation::Gelu, &[0.0f32; 6][..]));
        let nn = Nn { derivative, residual: Some(&[1.0; 6]), ..nn };
        assert_eq!(nn.at(0, 1), Exact { value: 6.0, scale: 0.5 * 22.0 + 30.0 + 1.0 });
        // [1 3; 2 -4]·[5 -6 1; 7 8 0] = [26 18 1; -18 -44 2]
        let tn = Tn { a: &a, b: &b, m: 2, n: 3, k: 2 };
        assert_eq!(tn.at(0, 1), Exact { value: 18.0, scale: 30.0 });
        assert_eq!(tn.at(1, 0), Exact { value: -18.0, scale: 38.0 });
        assert_eq!(tn.column_sum(1), Exact { value: -2.0, scale: 6.0 });
    }
}
