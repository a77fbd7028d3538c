//! Compares results of the adapter with the reference and reports the share of the tolerance that they use.

use super::tolerance::{Tolerance, UNIT, as_f16};
use crate::gpu::{Storage, Tensor};
use crate::reference::Exact;

/// Smaller f32 values are subnormal, and adapters may flush them to zero.
const SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// Result of a comparison.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Share of the tolerance that is used. Above 1 the result is wrong; infinite for a NaN.
    pub used: f64,
    /// Number of values compared.
    pub count: usize,
    /// The worst place and its error.
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
        // Comparisons with NaN are false, so NaN is tested for explicitly.
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

/// Expected content of one output.
pub struct Expected {
    name: &'static str,
    tensor: Tensor,
    wanted: Wanted,
}

enum Wanted {
    /// Values at places, and their tolerance in f32.
    Near(Vec<(usize, Exact)>, Tolerance),
    /// Words at places.
    Same(Vec<(usize, u32)>),
}

impl Expected {
    /// Expects `values` at places of `tensor`. If it is stored in f16, the tolerance includes its rounding.
    pub fn near(
        name: &'static str,
        tensor: Tensor,
        values: impl IntoIterator<Item = (usize, Exact)>,
        tolerance: Tolerance,
    ) -> Expected {
        Expected { name, tensor, wanted: Wanted::Near(values.into_iter().collect(), tolerance) }
    }

    /// Expects exactly these words at places of `tensor`.
    pub fn same(
        name: &'static str,
        tensor: Tensor,
        words: impl IntoIterator<Item = (usize, u32)>,
    ) -> Expected {
        Expected { name, tensor, wanted: Wanted::Same(words.into_iter().collect()) }
    }

    /// The share of the tolerance that is used, and a report. It is infinite if a value is NaN or a word differs.
    pub(super) fn judge(&self, outputs: &[(Tensor, Vec<f32>)]) -> (f64, String) {
        let Expected { name, tensor, wanted } = self;
        let Some((_, found)) = outputs.iter().find(|(output, _)| output == tensor) else {
            return (f64::INFINITY, format!("{name} is no output"));
        };
        match wanted {
            Wanted::Near(values, tolerance) => {
                let judged = if tensor.storage == Storage::F32 {
                    compare(found, values.iter().copied(), *tolerance)
                } else {
                    let (_, loosened) = as_f16(Exact::default(), *tolerance);
                    let rounded = values.iter().map(|&(i, exact)| (i, as_f16(exact, *tolerance).0));
                    compare(found, rounded, loosened)
                };
                let used = if judged.count == 0 { f64::INFINITY } else { judged.used };
                (used, format!("{name}: {}", judged.report))
            }
            Wanted::Same(words) => match words.iter().find(|(i, word)| found[*i].to_bits() != *word) {
                None => (0.0, String::new()),
                Some((i, word)) => {
                    let other = found[*i].to_bits();
                    (f64::INFINITY, format!("{name}: word {i} is {other:#010x}, not {word:#010x}"))
                }
            },
        }
    }
}
