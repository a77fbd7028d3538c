//! Compares results of the adapter with the reference and tells how much of the tolerance they use.

use super::tolerance::{Tolerance, UNIT};
use crate::reference::Exact;

/// Below this an f32 is denormal, and adapters may flush it to zero.
const SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// What a comparison found.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Share of the tolerance that is used: above 1 the result is wrong; infinite where there is a NaN.
    pub used: f64,
    /// Number of values compared.
    pub count: usize,
    /// Where it is worst, and how bad.
    pub report: String,
}

/// Compares `got[i]` with the exact value for every (i, exact).
pub fn compare(
    got: &[f32],
    wanted: impl IntoIterator<Item = (usize, Exact)>,
    tolerance: Tolerance,
) -> Comparison {
    let (mut errors, mut squares, mut count) = (0.0, 0.0, 0);
    let mut worst = (0.0, 0, 0.0, Exact::default());
    for (i, exact) in wanted {
        let found = f64::from(got[i]);
        let error = (found - exact.value).abs();
        let bound = tolerance.c * UNIT * exact.scale + SMALLEST_NORMAL;
        // NaN compares with nothing, so it is asked for by name.
        let used = if error.is_nan() || exact.value.is_nan() { f64::INFINITY } else { error / bound };
        if used >= worst.0 {
            worst = (used, i, found, exact);
        }
        errors += error * error;
        squares += exact.value * exact.value;
        count += 1;
    }
    let nmse = if errors == 0.0 { 0.0 } else { errors / squares };
    let nmse_used = if nmse.is_nan() { f64::INFINITY } else { nmse / tolerance.nmse };
    let (used, i, found, exact) = worst;
    let report = format!(
        "{:.1} % of tolerance at [{i}] ({found:e} for {:e}), NMSE {nmse:.1e} ({:.1} %), {count} values",
        100.0 * used,
        exact.value,
        100.0 * nmse_used,
    );
    Comparison { used: used.max(nmse_used), count, report }
}
