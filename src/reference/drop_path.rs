//! y = x·factor (+ residual), with one factor per image.

use super::Exact;

/// One element of y. Without a residual also one element of dx, from dy.
pub fn forward(x: f32, factor: f32, residual: f32) -> Exact {
    let (product, residual) = (f64::from(x) * f64::from(factor), f64::from(residual));
    Exact { value: product + residual, scale: product.abs() + residual.abs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_branch_leaves_the_residual() {
        assert_eq!(forward(3.0, 0.0, -0.5), Exact { value: -0.5, scale: 0.5 });
        assert_eq!(forward(3.0, 2.0, -0.5), Exact { value: 5.5, scale: 6.5 });
        assert_eq!(forward(-3.0, 2.0, 0.0), Exact { value: -6.0, scale: 6.0 });
    }
}
