//! Scores that join similarity with the time that persons take from camera to camera.
//!
//! Source: Wang et al. 2019, "Spatial-Temporal Person Re-identification", equations 3 to 7, and the authors' program
//! where the paper leaves a choice. For each ordered pair of cameras (later, earlier), a histogram counts the gaps
//! between the mean frames of each training person at both, in bins of 100 frames. A Gaussian of σ = 50 bins, cut off
//! at 3σ, smooths it, and its sum is made 1. With the value p of the gap's bin and the cosine similarity s, a pair's
//! score is
//!
//! 1/(1 + e^(-5s)) · 1/(1 + 2e^(-5p)).
//!
//! The histograms are those of the cameras of one place, so they say nothing about another.

use crate::datasets::labels::{Label, Person};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Standard deviation σ of the smoothing, in bins.
const SIGMA: f64 = 50.0;
/// Bins beyond which the Gaussian is cut off: 3σ.
const CUT: usize = 150;
/// Steepness of both logistic functions.
const STEEPNESS: f64 = 5.0;
/// Factor λ of the exponential in the logistic function of time.
const FACTOR: f64 = 2.0;

/// Smoothed histograms of the gaps between cameras.
#[derive(Debug, Clone, PartialEq)]
pub struct SpatioTemporal {
    /// Frames in a bin.
    bin: u64,
    /// Probability of each bin, by (later camera, earlier camera).
    gaps: BTreeMap<(u32, u32), Vec<f64>>,
}

impl SpatioTemporal {
    /// Counts the gaps of training persons, from the label and the frame of each image.
    ///
    /// # Errors
    /// `Usage` if `bin` is 0; `Data` if no person is seen by two cameras.
    pub fn fit(images: impl IntoIterator<Item = (Label, u64)>, bin: u64) -> Result<SpatioTemporal> {
        if bin == 0 {
            return Err(Error::Usage("a bin needs 1 frame or more".to_string()));
        }
        let mut sums: BTreeMap<u32, BTreeMap<u32, (u64, u64)>> = BTreeMap::new();
        for (Label { person, camera }, frame) in images {
            if let Person::Known(person) = person {
                let (sum, count) = sums.entry(person).or_default().entry(camera).or_default();
                *sum += frame;
                *count += 1;
            }
        }
        let mut counts: BTreeMap<(u32, u32), Vec<f64>> = BTreeMap::new();
        for seen in sums.into_values() {
            let means: Vec<(u32, f64)> =
                seen.into_iter().map(|(camera, (sum, count))| (camera, sum as f64 / count as f64)).collect();
            for (i, &a) in means.iter().enumerate() {
                for &b in &means[i + 1..] {
                    let (later, earlier) = if a.1 > b.1 { (a, b) } else { (b, a) };
                    let at = ((later.1 - earlier.1) / bin as f64) as usize;
                    let histogram = counts.entry((later.0, earlier.0)).or_default();
                    histogram.resize(histogram.len().max(at + 1), 0.0);
                    histogram[at] += 1.0;
                }
            }
        }
        if counts.is_empty() {
            return Err(Error::Data(
                "no training person has images with frames by two cameras: --spatio-temporal needs a train split with \
                 names such as 0002_c1s1_000451_03.jpg, or a table with a column frame"
                    .to_string(),
            ));
        }
        counts.values_mut().for_each(|histogram| *histogram = smoothed(histogram));
        Ok(SpatioTemporal { bin, gaps: counts })
    }

    /// The probability of the gap between a query and a gallery image, as (camera, frame) each: 0 for pairs of cameras
    /// without training persons.
    pub fn probability(&self, query: (u32, u64), image: (u32, u64)) -> f64 {
        let (later, earlier) = if query.1 > image.1 { (query, image) } else { (image, query) };
        let at = ((later.1 - earlier.1) / self.bin) as usize;
        self.gaps.get(&(later.0, earlier.0)).and_then(|histogram| histogram.get(at)).copied().unwrap_or(0.0)
    }
}

/// Smooths a histogram by the Gaussian and divides it by its sum.
fn smoothed(histogram: &[f64]) -> Vec<f64> {
    let weight = |offset: usize| (-(offset as f64 / SIGMA).powi(2) / 2.0).exp();
    let weights: Vec<f64> = (0..=CUT).map(weight).collect();
    let mut smooth = vec![0.0; histogram.len() + CUT];
    for (at, &count) in histogram.iter().enumerate().filter(|(_, count)| **count > 0.0) {
        for (to, value) in smooth.iter_mut().enumerate().take(at + CUT + 1).skip(at.saturating_sub(CUT)) {
            *value += count * weights[at.abs_diff(to)];
        }
    }
    let sum: f64 = smooth.iter().sum();
    smooth.iter_mut().for_each(|value| *value /= sum);
    smooth
}

/// The distance that ranks as the score does: -ln(3·score), which keeps close scores apart in f32. `squared` is the
/// squared Euclidean distance of two embeddings of unit length, so their cosine similarity is 1 - squared/2.
pub fn distance(squared: f32, probability: f64) -> f32 {
    let cosine = 1.0 - f64::from(squared) / 2.0;
    let similarity = (-STEEPNESS * cosine).exp().ln_1p();
    let time = FACTOR * ((-STEEPNESS * probability).exp() - 1.0) / (1.0 + FACTOR);
    (similarity + time.ln_1p()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(person: u32, camera: u32) -> Label {
        Label { person: Person::Known(person), camera }
    }

    #[test]
    fn gaps_are_between_means() {
        let images = [(1, 1, 0), (1, 1, 400), (1, 2, 1200), (2, 2, 50), (2, 1, 950), (3, 3, 5), (3, 3, 7)];
        let junk = (Label { person: Person::Junk, camera: 3 }, 0);
        let images = images.map(|(person, camera, frame)| (label(person, camera), frame));
        let model = SpatioTemporal::fit(images.into_iter().chain([junk]), 100).unwrap();
        // Person 1 takes 10 bins from camera 1 to camera 2, person 2 takes 9 back.
        assert_eq!(model.gaps.keys().copied().collect::<Vec<_>>(), [(1, 2), (2, 1)]);
        let there = &model.gaps[&(2, 1)];
        assert!(there.len() == 161 && (there.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let most = there.iter().copied().fold(0.0, f64::max);
        assert_eq!((there[10], there[9]), (most, there[11]));
        assert_eq!(model.probability((2, 1500), (1, 420)), there[10]);
        assert_eq!(model.probability((1, 420), (2, 1500)), there[10]);
        assert_eq!(model.probability((1, 1500), (2, 420)), model.gaps[&(1, 2)][10]);
        assert_eq!(model.probability((2, 16_100), (1, 0)), 0.0);
        assert_eq!(model.probability((3, 1), (1, 0)), 0.0);
    }

    #[test]
    fn one_camera_gives_no_gaps() {
        assert!(matches!(SpatioTemporal::fit([(label(1, 1), 3)], 100), Err(Error::Data(_))));
        assert!(matches!(SpatioTemporal::fit([(label(1, 1), 3)], 0), Err(Error::Usage(_))));
    }

    #[test]
    fn distances_rank_as_scores_do() {
        for (squared, probability) in [(0.3_f32, 0.0_f64), (0.3, 0.01), (1.9, 0.5), (0.0, 1.0)] {
            let cosine = 1.0 - f64::from(squared) / 2.0;
            let score = 1.0 / (1.0 + (-5.0 * cosine).exp()) / (1.0 + 2.0 * (-5.0 * probability).exp());
            let wanted = -(3.0 * score).ln();
            assert!(
                (f64::from(distance(squared, probability)) - wanted).abs() < 1e-7,
                "{squared} {probability}"
            );
        }
    }
}
