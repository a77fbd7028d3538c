//! Samples of a plan's time, and what is made of them.

use crate::gpu::{Context, Plan, Result};

/// A sample takes at least about so many seconds, by as many replays as that needs.
const SAMPLE_SECONDS: f64 = 5e-3;

/// Most replays of a sample.
const MOST_REPLAYS: f64 = 1000.0;

/// How many replays a sample has: as many as take 5 ms.
///
/// # Errors
/// What the driver reports.
pub fn replays(plan: &Plan, context: &Context) -> Result<usize> {
    // The first replay compiles.
    plan.time(context, 1)?;
    let mut replays = 1;
    // One replay alone takes mostly the way there and back if its work is little: what many take tells more.
    for _ in 0..2 {
        replays = replays_of(plan.time(context, replays)?);
    }
    Ok(replays)
}

/// The same if one replay takes so many seconds.
pub fn replays_of(seconds: f64) -> usize {
    (SAMPLE_SECONDS / seconds).ceil().clamp(1.0, MOST_REPLAYS) as usize
}

/// Seconds of one replay, `count` times: each is the mean over `replays` that are submitted at once.
///
/// # Errors
/// What the driver reports.
pub fn take(plan: &Plan, context: &Context, replays: usize, count: usize) -> Result<Vec<f64>> {
    (0..count).map(|_| plan.time(context, replays)).collect()
}

/// The middle of numbers, of an even count the mean of the two; 0 of none.
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

/// The median absolute deviation: how far half of the numbers are from their median at most.
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
