//! y = x / (‖x‖·√R) of one part.

use super::Exact;

/// y of one part x (D); `parts` is R.
pub fn part(x: &[f32], parts: usize) -> Vec<Exact> {
    let norm = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
    let factor = 1.0 / (norm * (parts as f64).sqrt());
    x.iter().map(|&v| f64::from(v) * factor).map(|value| Exact { value, scale: value.abs() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_its_share_of_unit_length() {
        let values: Vec<f64> = part(&[3.0, -4.0], 4).iter().map(|v| v.value).collect();
        assert!((values[0] - 0.3).abs() < 1e-15 && (values[1] + 0.4).abs() < 1e-15);
        assert_eq!(part(&[0.0, 0.0], 1)[1].value, 0.0);
    }
}
