//! Samples of a plan's time, and their statistics.

use crate::gpu::{Context, Plan, Result};

/// Target duration of a sample, in seconds.
const SAMPLE_SECONDS: f64 = 5e-3;

/// Most replays per sample.
const MOST_REPLAYS: f64 = 1000.0;

/// Returns the number of replays per sample: as many as take 5 ms.
///
/// # Errors
/// Those of the driver.
pub fn replays(plan: &Plan, context: &Context) -> Result<usize> {
    // The first replay includes compilation.
    plan.time(context, 1)?;
    let mut replays = 1;
    // A single short replay takes mostly the round trip, so the second estimate uses many replays.
    for _ in 0..2 {
        replays = replays_of(plan.time(context, replays)?);
    }
    Ok(replays)
}

/// Returns the number of replays per sample if one replay takes `seconds`.
pub fn replays_of(seconds: f64) -> usize {
    (SAMPLE_SECONDS / seconds).ceil().clamp(1.0, MOST_REPLAYS) as usize
}

/// Takes `count` samples of the seconds of one replay. Each is the mean over `replays` replays in one submit.
///
/// # Errors
/// Those of the driver.
pub fn take(plan: &Plan, context: &Context, replays: usize, count: usize) -> Result<Vec<f64>> {
    (0..count).map(|_| plan.time(context, replays)).collect()
}

/// Returns the median; 0 of no numbers.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        count if count.is_multiple_of(2) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// Returns the median absolute deviation.
pub fn deviation(numbers: &[f64]) -> f64 {
    let middle = median(numbers);
    let distances: Vec<f64> = numbers.iter().map(|number| (number - middle).abs()).collect();
    median(&distances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_disturbed_samples_change_little() {
        assert_eq!((median(&[]), median(&[3.0]), median(&[4.0, 1.0])), (0.0, 3.0, 2.5));
        let samples = [1.0, 1.1, 0.9, 50.0, 1.0, 1.2];
        assert!((median(&samples) - 1.05).abs() < 1e-12);
        assert!((deviation(&samples) - 0.1).abs() < 1e-12, "{}", deviation(&samples));
        assert_eq!(deviation(&[2.0; 5]), 0.0);
    }
}
