//! Central finite differences: what proves a reference backward.
//!
//! The reference reads f32 words and computes in f64. So the data here are multiples of 2⁻⁸ and the step is 2⁻¹⁶: a value
//! moved by a step is exact in f32, and the difference quotient is off by about 10⁻¹⁰ of the function's third derivative.

use super::random::normal;

/// How far a value is moved to either side.
const STEP: f32 = 1.0 / 65_536.0;
/// What a derivative may be off by, as part of the largest of its tensor.
const ALLOWED: f64 = 1e-7;

/// Normally distributed multiples of 2⁻⁸.
pub fn coarse(stream: u64, count: usize) -> Vec<f32> {
    normal(stream, count).into_iter().map(|v| (v * 256.0).round() / 256.0).collect()
}

/// Compares `gradient`, the derivative of `loss` at `x` by each element of `x`, with difference quotients.
///
/// `x` must hold multiples of 2⁻⁸ below 128.
#[track_caller]
pub fn prove(case: &str, x: &[f32], gradient: &[f64], loss: impl Fn(&[f32]) -> f64) {
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
        // NaN compares with nothing, so it is asked for by name.
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
