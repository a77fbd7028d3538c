//! Finite differences of jigsaw's reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use lat_wgpu::reference::jigsaw::{cut, merge};

#[test]
fn reference_gradients_match_finite_differences() {
    let (dim, pieces) = (4, 4);
    // Even and odd numbers of patches; with 11, three are in no sequence.
    for tokens in [9, 10, 12] {
        let z = coarse(1, tokens * dim);
        let dpieces = normal(2, pieces * (1 + (tokens - 1) / pieces) * dim);
        let dwhole = normal(3, tokens * dim);
        let loss = |z: &[f32]| -> f64 {
            let pieces =
                cut(z, dim, pieces).into_iter().zip(&dpieces).map(|(y, &dy)| y.value * f64::from(dy));
            let whole = z.iter().zip(&dwhole).map(|(&y, &dy)| f64::from(y) * f64::from(dy));
            pieces.chain(whole).sum()
        };
        let dz: Vec<f64> = merge(&dwhole, &dpieces, dim, pieces).iter().map(|sum| sum.value).collect();
        check_gradient("jigsaw dz", &z, &dz, loss);
    }
}
