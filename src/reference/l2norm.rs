//! y = x / (‖x‖·√R) of one part, and its gradient.

use super::Exact;

/// y of one part x (D); `parts` is R.
pub fn part(x: &[f32], parts: usize) -> Vec<Exact> {
    let norm = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
    let factor = 1.0 / (norm * (parts as f64).sqrt());
    x.iter().map(|&v| f64::from(v) * factor).map(|value| Exact { value, scale: value.abs() }).collect()
}

/// Gradient of one part x (D) from that of y, added to `before`; `parts` is R.
pub fn gradient(x: &[f32], dy: &[f32], before: &[f32], parts: usize) -> Vec<Exact> {
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let [x, dy, before] = [x, dy, before].map(wide);
    let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let norm = length.max(1e-12);
    let products = || x.iter().zip(&dy).map(|(x, dy)| x * dy / (norm * norm));
    let (share, magnitude): (f64, f64) =
        if length > 1e-12 { (products().sum(), products().map(f64::abs).sum()) } else { (0.0, 0.0) };
    let factor = 1.0 / (norm * (parts as f64).sqrt());
    let of = |((x, dy), before): ((&f64, &f64), &f64)| Exact {
        value: before + factor * (dy - x * share),
        scale: before.abs() + factor * (dy.abs() + x.abs() * magnitude),
    };
    x.iter().zip(&dy).zip(&before).map(of).collect()
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
