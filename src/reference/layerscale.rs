//! y = x·weight per channel, and the gradients.

use super::Exact;

/// One element of y = x·weight. Also one element of dx, from dy.
pub fn forward(x: f32, weight: f32) -> Exact {
    let value = f64::from(x) * f64::from(weight);
    Exact { value, scale: value.abs() }
}

/// dweight\[d\] = Σ_r dy\[r,d\]·x\[r,d\]; x and dy are (rows, D).
pub fn dweight(x: &[f32], dy: &[f32], dim: usize, d: usize) -> Exact {
    let mut sum = Exact::default();
    for (x, dy) in x.chunks_exact(dim).zip(dy.chunks_exact(dim)) {
        let product = f64::from(x[d]) * f64::from(dy[d]);
        sum.value += product;
        sum.scale += product.abs();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_of_two_channels() {
        let (x, dy) = ([1.0, 2.0, 3.0, -4.0], [0.5, 1.0, 2.0, 10.0]);
        assert_eq!(forward(3.0, -0.5), Exact { value: -1.5, scale: 1.5 });
        assert_eq!(dweight(&x, &dy, 2, 0), Exact { value: 6.5, scale: 6.5 });
        assert_eq!(dweight(&x, &dy, 2, 1), Exact { value: -38.0, scale: 42.0 });
    }
}
