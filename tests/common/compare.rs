//! Compares results of the adapter with the reference and reports how much of the tolerance they use.

use super::tolerance::{Tolerance, UNIT};
use lat_wgpu::reference::Exact;

/// Below this an f32 is denormal, and adapters may flush it to zero.
const SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// Compares `got[i]` with the exact value for every (i, exact) and prints a line.
///
/// Returns the percentage of the tolerance that is used.
///
/// # Panics
/// If that exceeds 100, or nothing was compared.
#[track_caller]
pub fn compare(
    case: &str,
    got: &[f32],
    wanted: impl IntoIterator<Item = (usize, Exact)>,
    tolerance: Tolerance,
) -> f64 {
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
    assert!(count > 0, "{case}: nothing was compared");
    let nmse = if errors == 0.0 { 0.0 } else { errors / squares };
    let nmse_used = if nmse.is_nan() { f64::INFINITY } else { nmse / tolerance.nmse };
    let (used, i, found, exact) = worst;
    let report = format!(
        "{case}: {:.1} % of tolerance at [{i}] ({found:e} for {:e}), NMSE {nmse:.1e} ({:.1} %), {count} values",
        100.0 * used,
        exact.value,
        100.0 * nmse_used,
    );
    println!("{report}");
    let most = 100.0 * used.max(nmse_used);
    assert!(most <= 100.0, "{report}");
    most
}
