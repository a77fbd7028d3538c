//! Squared Euclidean distance, computed from differences.

use super::Exact;

/// Sum of squares of a row.
pub fn norm(row: &[f32]) -> Exact {
    let value = row.iter().map(|&v| f64::from(v).powi(2)).sum();
    Exact { value, scale: value }
}

/// |q - g|². `scale` is the sum of magnitudes of |q|² + |g|² - 2·q·g, which cancels.
pub fn distance(query: &[f32], row: &[f32]) -> Exact {
    let mut exact = Exact::default();
    for (&q, &g) in query.iter().zip(row) {
        let (q, g) = (f64::from(q), f64::from(g));
        exact.value += (q - g).powi(2);
        exact.scale += (q.abs() + g.abs()).powi(2);
    }
    exact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triangle() {
        assert_eq!(norm(&[3.0, -4.0]).value, 25.0);
        assert_eq!(distance(&[1.0, 1.0], &[4.0, -3.0]), Exact { value: 25.0, scale: 41.0 });
    }
}
