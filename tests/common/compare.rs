//! The comparison of `lat_wgpu::cases`, as an assertion.

use super::tolerance::Tolerance;
use lat_wgpu::cases::compare as judge;
use lat_wgpu::reference::Exact;

/// Compares `got[i]` with the exact value for every (i, exact), and prints a line.
///
/// Returns the percentage of the tolerance used.
///
/// # Panics
/// If it exceeds 100 or nothing is compared.
#[track_caller]
pub fn compare(
    case: &str,
    got: &[f32],
    wanted: impl IntoIterator<Item = (usize, Exact)>,
    tolerance: Tolerance,
) -> f64 {
    let found = judge::compare(got, wanted, tolerance);
    assert!(found.count > 0, "{case}: nothing was compared");
    let report = format!("{case}: {}", found.report);
    println!("{report}");
    assert!(found.used <= 1.0, "{report}");
    100.0 * found.used
}
