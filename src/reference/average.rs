//! Running averages of weights.

use super::Exact;

/// The average after a step: average + (1 - decay)·(weight - average).
pub fn forward(average: f64, weight: f64, decay: f64) -> Exact {
    let change = (1.0 - decay) * (weight - average);
    Exact { value: average + change, scale: average.abs() + change.abs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_decay_exponentially() {
        // After steps with the weights 1, 2, 3: 0.5³·8 + 0.5³·1 + 0.5²·2 + 0.5·3.
        let after =
            [1.0, 2.0, 3.0].into_iter().fold(8.0, |average, weight| forward(average, weight, 0.5).value);
        assert_eq!(after, 3.125);
        assert_eq!(forward(-2.0, 1.0, 0.75), Exact { value: -1.25, scale: 2.75 });
    }
}
