//! Central finite differences, which validate a reference backward.
//!
//! The reference reads f32 and computes in f64. With data that are multiples of 2⁻⁸ and steps of 2⁻¹⁶, a value moved by
//! a step is exact in f32, and the error of the difference quotient is about 10⁻¹⁰ of the function's third derivative.

use super::random::normal;

/// Step by which a value is moved to either side.
const STEP: f32 = 1.0 / 65_536.0;
/// Largest error of a derivative, relative to the largest of its tensor.
const ALLOWED: f64 = 1e-7;

/// Normally distributed multiples of 2⁻⁸.
pub fn coarse(stream: u64, count: usize) -> Vec<f32> {
    normal(stream, count).into_iter().map(|v| (v * 256.0).round() / 256.0).collect()
}

/// Compares `gradient`, the derivative of `loss` at `x` by each element of `x`, with difference quotients.
///
/// `x` must hold multiples of 2⁻⁸ below 128.
#[track_caller]
pub fn check_gradient(case: &str, x: &[f32], gradient: &[f64], loss: impl Fn(&[f32]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{case}: lengths");
    let largest = gradient.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
    assert!(largest > 0.0 && largest.is_finite(), "{case}: the largest derivative is {largest}");
    let mut moved = x.to_vec();
    let mut worst = (0.0, 0, 0.0);
    for i in 0..x.len() {
        let [up, down] = [STEP, -STEP].map(|step| {
            moved[i] = x[i] + step;
            assert!(moved[i] - step == x[i], "{case}: a step from {} isn't exact", x[i]);
            loss(&moved)
        });
        moved[i] = x[i];
        let quotient = (up - down) / (2.0 * f64::from(STEP));
        let used = (quotient - gradient[i]).abs() / (ALLOWED * largest);
        // Comparisons with NaN are false, so test for it.
        if used.is_nan() || used >= worst.0 {
            worst = (if used.is_nan() { f64::INFINITY } else { used }, i, quotient);
        }
    }
    let (used, i, quotient) = worst;
    let report =
        format!("{case}: {:.1} % of tolerance at [{i}] ({:e} for {quotient:e})", 100.0 * used, gradient[i]);
    println!("{report}");
    assert!(used <= 1.0, "{report}");
}
