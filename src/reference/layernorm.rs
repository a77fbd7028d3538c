//! y = (x - mean)·rstd·weight + bias of each row, and its gradients.

use super::Exact;

/// Mean and 1/√(variance + eps) of one row.
pub fn stats(x: &[f32], eps: f32) -> [Exact; 2] {
    let dim = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / dim;
    let mean_magnitude = x.iter().map(|&v| f64::from(v).abs()).sum::<f64>() / dim;
    let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / dim;
    let rstd = 1.0 / (var + f64::from(eps)).sqrt();
    // All squares have the same sign, but each contains the error of the mean.
    let deviation = x.iter().map(|&v| (f64::from(v) - mean).abs()).sum::<f64>() / dim;
    let rstd_scale = rstd * (1.0 + deviation * mean_magnitude * rstd * rstd);
    [Exact { value: mean, scale: mean_magnitude }, Exact { value: rstd, scale: rstd_scale }]
}

/// y of one row; x, weight and bias are (D).
pub fn row(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<Exact> {
    let [mean, rstd] = stats(x, eps);
    let (mean_magnitude, mean, rstd) = (mean.scale, mean.value, rstd.value);
    x.iter()
        .zip(weight.iter().zip(bias))
        .map(|(&x, (&weight, &bias))| {
            let (centred, weight, bias) = (f64::from(x) - mean, f64::from(weight), f64::from(bias));
            Exact {
                value: centred * rstd * weight + bias,
                // The error of the mean is proportional to the mean magnitude.
                scale: (centred.abs() + mean_magnitude) * rstd * weight.abs() + bias.abs(),
            }
        })
        .collect()
}

/// Gradients of a LayerNorm.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// Gradient of the input (rows, D).
    pub dx: Vec<Exact>,
    /// Gradient of the weight (D).
    pub dweight: Vec<Exact>,
    /// Gradient of the bias (D).
    pub dbias: Vec<Exact>,
}

/// Gradients with respect to x (rows, D), weight (D) and bias (D) for dy (rows, D). `addend` (rows, D) is added to dx.
///
/// The scales apply to a backward pass that reads mean and rstd rounded to f32: the error of x̂ grows with the mean.
pub fn gradients(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], addend: Option<&[f32]>) -> Gradients {
    let dim = weight.len();
    let count = dim as f64;
    let mut all = Gradients {
        dx: Vec::with_capacity(x.len()),
        dweight: vec![Exact::default(); dim],
        dbias: vec![Exact::default(); dim],
    };
    for (r, (x, dy)) in x.chunks(dim).zip(dy.chunks(dim)).enumerate() {
        let [mean, rstd] = stats(x, eps).map(|exact| exact.value);
        let normalised: Vec<Exact> = (x.iter())
            .map(|&x| {
                let centred = f64::from(x) - mean;
                Exact { value: centred * rstd, scale: (centred.abs() + mean.abs()) * rstd }
            })
            .collect();
        let g: Vec<f64> = dy.iter().zip(weight).map(|(&dy, &w)| f64::from(dy) * f64::from(w)).collect();
        let (mut g_mean, mut product_mean) = (Exact::default(), Exact::default());
        for (g, n) in g.iter().zip(&normalised) {
            g_mean.value += g / count;
            g_mean.scale += g.abs() / count;
            product_mean.value += g * n.value / count;
            product_mean.scale += g.abs() * n.scale / count;
        }
        for (d, (g, n)) in g.iter().zip(&normalised).enumerate() {
            let added = addend.map_or(0.0, |addend| f64::from(addend[r * dim + d]));
            let doubt = n.scale * product_mean.value.abs() + n.value.abs() * product_mean.scale;
            all.dx.push(Exact {
                value: rstd * (g - g_mean.value - n.value * product_mean.value) + added,
                scale: rstd * (g.abs() + g_mean.scale + doubt) + added.abs(),
            });
            let dy = f64::from(dy[d]);
            all.dweight[d].value += dy * n.value;
            all.dweight[d].scale += dy.abs() * n.scale;
            all.dbias[d].value += dy;
            all.dbias[d].scale += dy.abs();
        }
    }
    all
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

    #[test]
    fn gradients_are_orthogonal_to_ones_and_to_the_normalised_row() {
        // A shift or a scaling of the whole row does not change the output, so dx has no component along them.
        let x = [1.0, 3.0, -2.0, 0.5];
        let all = gradients(&x, &[1.0, 2.0, -1.0, 0.5], 0.0, &[0.25, -1.0, 3.0, 2.0], None);
        let along = |v: &dyn Fn(usize) -> f64| (0..4).map(|d| all.dx[d].value * v(d)).sum::<f64>();
        assert!(along(&|_| 1.0).abs() < 1e-15 && along(&|d| f64::from(x[d])).abs() < 1e-15);
        assert_eq!(all.dbias[2].value, 3.0);
        assert!((all.dweight.iter().map(|w| w.value).sum::<f64>()).is_finite());
    }
}
