//! y = (x - mean)·rstd·weight + bias of one row.

use super::Exact;

/// y of one row; x, weight and bias are (D).
pub fn row(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<Exact> {
    let dim = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / dim;
    let mean_magnitude = x.iter().map(|&v| f64::from(v).abs()).sum::<f64>() / dim;
    let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / dim;
    let rstd = 1.0 / (var + f64::from(eps)).sqrt();
    x.iter()
        .zip(weight.iter().zip(bias))
        .map(|(&x, (&weight, &bias))| {
            let (centred, weight, bias) = (f64::from(x) - mean, f64::from(weight), f64::from(bias));
            Exact {
                value: centred * rstd * weight + bias,
                // The mean's error is proportional to the mean magnitude.
                scale: (centred.abs() + mean_magnitude) * rstd * weight.abs() + bias.abs(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_centred_and_scaled() {
        let y = row(&[1.0, 3.0], &[2.0, 2.0], &[0.0, 10.0], 0.0);
        assert_eq!((y[0].value, y[1].value), (-2.0, 12.0));
        let flat = row(&[5.0; 3], &[1.0; 3], &[0.25; 3], 1e-6);
        assert!(flat.iter().all(|v| v.value == 0.25));
    }
}
