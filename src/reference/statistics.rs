//! y = (x - mean) / deviation, element by element.

use super::Exact;

/// One element; without `deviation` the divisor is 1.
pub fn forward(x: f32, mean: f32, deviation: Option<f32>) -> Exact {
    let [x, mean, divisor] = [x, mean, deviation.unwrap_or(1.0)].map(f64::from);
    Exact { value: (x - mean) / divisor, scale: (x.abs() + mean.abs()) / divisor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_divided() {
        assert_eq!(forward(1.0, 3.0, None), Exact { value: -2.0, scale: 4.0 });
        assert_eq!(forward(1.0, -3.0, Some(0.5)), Exact { value: 8.0, scale: 8.0 });
    }
}
