//! Verification: error rates of taking a pair for the same person if its distance is up to a threshold.
//!
//! A pair is a query of a known person and a gallery image that the protocol doesn't leave out. Pairs are counted in
//! bins of distance, 65,536 per factor of two, so memory doesn't grow with their number. Thresholds are the upper ends
//! of bins, 1.5e-5 of their value apart. Their rates are exact.

use super::metrics::{Relation, Retrieval};
use crate::datasets::labels::Person;
use std::ops::Range;

/// Low bits of an f32 that a bin ignores: 16 of the mantissa's 23 bits count.
const DROPPED_BITS: u32 = 7;
/// Bins per exponent.
const OCTAVE: usize = 1 << 16;
/// Exponents of a positive f32.
const OCTAVES: usize = 256;
/// False positive rates that are always reported.
pub const RATES: [f64; 3] = [1e-2, 1e-3, 1e-4];
/// Bins of the reported histogram.
const SHOWN_BINS: usize = 50;
/// Most points of the reported curve.
const SHOWN_POINTS: usize = 200;

/// Counts of distances by bin. Empty octaves take no memory.
struct Counts {
    octaves: Vec<Option<Box<[u64]>>>,
    total: u64,
}

impl Counts {
    fn new() -> Counts {
        Counts { octaves: (0..OCTAVES).map(|_| None).collect(), total: 0 }
    }

    fn add(&mut self, distance: f32) {
        // The bits of floats from 0 up have the order of the floats. Rounding can make a distance slightly negative.
        let distance = if distance > 0.0 { distance } else { 0.0 };
        let bin = (distance.to_bits() >> DROPPED_BITS) as usize;
        let octave = self.octaves[bin / OCTAVE].get_or_insert_with(|| vec![0; OCTAVE].into_boxed_slice());
        octave[bin % OCTAVE] += 1;
        self.total += 1;
    }

    fn in_bin(&self, bin: usize) -> u64 {
        self.octaves[bin / OCTAVE].as_ref().map_or(0, |octave| octave[bin % OCTAVE])
    }
}

/// Numbers of pairs at distances up to `threshold`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    threshold: f32,
    same: u64,
    different: u64,
}

/// A threshold and its rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RocPoint {
    /// Largest squared distance of a pair that is taken for the same person.
    pub threshold: f32,
    /// Share of the pairs of different persons that are taken for the same person.
    pub false_positive_rate: f64,
    /// Share of the pairs of the same person that are taken for the same person.
    pub true_positive_rate: f64,
}

/// The largest threshold that keeps a false positive rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingPoint {
    /// The wanted rate.
    pub wanted: f64,
    /// The point that keeps it; `None` if the smallest distance already exceeds it.
    pub reached: Option<RocPoint>,
}

impl OperatingPoint {
    /// The true positive rate reached; 0 if none is.
    pub fn true_positive_rate(&self) -> f64 {
        self.reached.map_or(0.0, |point| point.true_positive_rate)
    }
}

/// Numbers of pairs by distance.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Bin i is from `edges[i]` up to below `edges[i + 1]`. The last bin includes its upper edge.
    pub edges: Vec<f32>,
    /// Pairs of the same person.
    pub same: Vec<u64>,
    /// Pairs of different persons.
    pub different: Vec<u64>,
}

/// Results of verification.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Pairs of the same person.
    pub same_pairs: u64,
    /// Pairs of different persons.
    pub different_pairs: u64,
    /// Equal error rate: the false positive rate that equals the rate of misses, interpolated between points.
    pub equal_error_rate: f64,
    /// The first threshold whose false positive rate is at least its rate of misses.
    pub equal_error_threshold: f32,
    /// One for each of [`RATES`].
    pub operating_points: Vec<OperatingPoint>,
    /// The operating point for the caller's target rate.
    pub target: Option<OperatingPoint>,
    /// Some points of the receiver operating characteristic, the last one at (1, 1).
    pub roc: Vec<RocPoint>,
    /// Pairs by distance.
    pub histogram: Histogram,
}

/// Counts pairs from distances that come a few queries at a time.
pub struct Verification<'a> {
    retrieval: Retrieval<'a>,
    same: Counts,
    different: Counts,
}

impl<'a> Verification<'a> {
    /// Creates empty counts.
    pub fn new(retrieval: Retrieval<'a>) -> Verification<'a> {
        Verification { retrieval, same: Counts::new(), different: Counts::new() }
    }

    /// Counts the queries of `range` with their distances `rows` (range.len(), gallery).
    ///
    /// # Panics
    /// If `rows` has another length.
    pub fn add(&mut self, range: Range<usize>, rows: &[f32]) {
        let gallery = self.retrieval.gallery.len();
        assert_eq!(rows.len(), range.len() * gallery, "distances of queries {range:?}");
        for (query, row) in range.zip(rows.chunks(gallery.max(1))) {
            if !matches!(self.retrieval.queries[query].person, Person::Known(_)) {
                continue;
            }
            for (other, &distance) in row.iter().enumerate() {
                match self.retrieval.relation(query, other) {
                    Relation::Match => self.same.add(distance),
                    Relation::Other => self.different.add(distance),
                    Relation::LeftOut => {}
                }
            }
        }
    }

    /// Returns the rates, also for a `target` false positive rate. `None` unless there are pairs of both kinds.
    pub fn finish(self, target: Option<f64>) -> Option<Report> {
        let Verification { same, different, .. } = self;
        if same.total == 0 || different.total == 0 {
            return None;
        }
        let steps = steps(&same, &different);
        let point = |step: &Step| RocPoint {
            threshold: step.threshold,
            false_positive_rate: step.different as f64 / different.total as f64,
            true_positive_rate: step.same as f64 / same.total as f64,
        };
        let curve: Vec<RocPoint> = steps.iter().map(point).collect();
        let within = |wanted: f64| {
            let count = curve.partition_point(|point| point.false_positive_rate <= wanted);
            OperatingPoint { wanted, reached: count.checked_sub(1).map(|last| curve[last]) }
        };
        let (equal_error_rate, equal_error_threshold) = equal_error(&curve);
        Some(Report {
            same_pairs: same.total,
            different_pairs: different.total,
            equal_error_rate,
            equal_error_threshold,
            operating_points: RATES.map(within).to_vec(),
            target: target.map(within),
            histogram: histogram(&steps),
            roc: thinned(&curve),
        })
    }
}

/// The cumulative counts up to each bin that is not empty.
fn steps(same: &Counts, different: &Counts) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut same_sum, mut different_sum) = (0, 0);
    for octave in 0..OCTAVES {
        if same.octaves[octave].is_none() && different.octaves[octave].is_none() {
            continue;
        }
        for bin in octave * OCTAVE..(octave + 1) * OCTAVE {
            let counts = (same.in_bin(bin), different.in_bin(bin));
            if counts != (0, 0) {
                same_sum += counts.0;
                different_sum += counts.1;
                let end = (bin as u32) << DROPPED_BITS | ((1 << DROPPED_BITS) - 1);
                steps.push(Step { threshold: f32::from_bits(end), same: same_sum, different: different_sum });
            }
        }
    }
    steps
}

/// The equal error rate and its threshold, as in [`Report`].
fn equal_error(curve: &[RocPoint]) -> (f64, f32) {
    let (mut positives, mut misses) = (0.0, 1.0);
    for point in curve {
        let (next_positives, next_misses) = (point.false_positive_rate, 1.0 - point.true_positive_rate);
        if next_positives >= next_misses {
            // The line from the last point crosses positives = misses here.
            let part = (misses - positives) / ((next_positives - positives) + (misses - next_misses));
            return (positives + part * (next_positives - positives), point.threshold);
        }
        (positives, misses) = (next_positives, next_misses);
    }
    unreachable!("the last point of the curve has no misses")
}

/// About [`SHOWN_POINTS`] points of a curve, evenly spread over both axes, with the last point.
fn thinned(curve: &[RocPoint]) -> Vec<RocPoint> {
    let travelled = |point: &RocPoint| {
        ((point.false_positive_rate + point.true_positive_rate) / 2.0 * SHOWN_POINTS as f64) as usize
    };
    let mut shown: Vec<RocPoint> = Vec::new();
    for (i, point) in curve.iter().enumerate() {
        let next = curve.get(i + 1);
        // Keeps the last point of each step.
        if next.is_none_or(|next| travelled(next) > travelled(point)) {
            shown.push(*point);
        }
    }
    shown
}

fn histogram(steps: &[Step]) -> Histogram {
    let largest = steps.last().map_or(0.0, |step| f64::from(step.threshold));
    let width = largest / SHOWN_BINS as f64;
    let mut histogram = Histogram {
        edges: (0..=SHOWN_BINS).map(|i| (i as f64 * width) as f32).collect(),
        same: vec![0; SHOWN_BINS],
        different: vec![0; SHOWN_BINS],
    };
    let (mut same, mut different) = (0, 0);
    for step in steps {
        let bin = ((f64::from(step.threshold) / width) as usize).min(SHOWN_BINS - 1);
        histogram.same[bin] += step.same - same;
        histogram.different[bin] += step.different - different;
        (same, different) = (step.same, step.different);
    }
    histogram
}
