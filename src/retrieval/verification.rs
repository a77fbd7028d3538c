//! Which distance means "same person": error rates of saying so for every pair up to a threshold.
//!
//! Pairs are a query and a gallery image that the protocol shows it; queries that show nobody in particular are left
//! out. Pairs are counted in bins of distance, 65,536 to a factor of two, in memory that doesn't grow with their
//! number. A threshold is the upper end of a bin: every rate told for a threshold is exact for it, but thresholds
//! inside a bin, closer than 1.5e-5 of their value, are not tried.

use super::metrics::{Relation, Retrieval};
use crate::datasets::labels::Person;
use std::ops::Range;

/// Bits of an f32 that a bin doesn't look at: of 23 of the mantissa, 16 count.
const DROPPED_BITS: u32 = 7;
/// Bins of one exponent.
const OCTAVE: usize = 1 << 16;
/// Exponents of a positive f32.
const OCTAVES: usize = 256;
/// False positive rates that are always looked at.
pub const RATES: [f64; 3] = [1e-2, 1e-3, 1e-4];
/// Bins of the histogram for people.
const SHOWN_BINS: usize = 50;
/// Most points of the curve that is told.
const SHOWN_POINTS: usize = 200;

/// Counts of distances by bin; octaves that nothing falls into take no memory.
struct Counts {
    octaves: Vec<Option<Box<[u64]>>>,
    total: u64,
}

impl Counts {
    fn new() -> Counts {
        Counts { octaves: (0..OCTAVES).map(|_| None).collect(), total: 0 }
    }

    fn add(&mut self, distance: f32) {
        // Bits of numbers from 0 up are in the order of the numbers. Rounding can leave a little less than 0.
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

/// Pairs at distances up to `threshold`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    threshold: f32,
    same: u64,
    different: u64,
}

/// A threshold and its rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RocPoint {
    /// Pairs at squared distances up to this one count as the same person.
    pub threshold: f32,
    /// Share of the pairs of different persons that are taken for the same.
    pub false_positive_rate: f64,
    /// Share of the pairs of the same person that are taken for the same.
    pub true_positive_rate: f64,
}

/// The largest threshold within a false positive rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingPoint {
    /// The rate asked for.
    pub wanted: f64,
    /// What is reached; `None` if already the smallest distance takes more different pairs for the same.
    pub reached: Option<RocPoint>,
}

impl OperatingPoint {
    /// Share of the pairs of the same person that are found.
    pub fn true_positive_rate(&self) -> f64 {
        self.reached.map_or(0.0, |point| point.true_positive_rate)
    }
}

/// Numbers of pairs by distance.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Bin i is from `edges[i]` up to below `edges[i + 1]`; the last one has its upper edge too.
    pub edges: Vec<f32>,
    /// Pairs of the same person.
    pub same: Vec<u64>,
    /// Pairs of different persons.
    pub different: Vec<u64>,
}

/// Same or different: how well the distance tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Pairs of the same person.
    pub same_pairs: u64,
    /// Pairs of different persons.
    pub different_pairs: u64,
    /// Equal error rate: where the curve, straight between its points, has as many false positives as misses.
    pub equal_error_rate: f64,
    /// The first threshold with no fewer false positives than misses.
    pub equal_error_threshold: f32,
    /// For each of [`RATES`].
    pub operating_points: Vec<OperatingPoint>,
    /// For the rate asked for beside these.
    pub target: Option<OperatingPoint>,
    /// The receiver operating characteristic: some of its points, the last one at (1, 1).
    pub roc: Vec<RocPoint>,
    /// Pairs by distance.
    pub histogram: Histogram,
}

/// Counts pairs while their distances go by.
pub struct Verification<'a> {
    retrieval: Retrieval<'a>,
    same: Counts,
    different: Counts,
}

impl<'a> Verification<'a> {
    /// Nothing counted yet.
    pub fn new(retrieval: Retrieval<'a>) -> Verification<'a> {
        Verification { retrieval, same: Counts::new(), different: Counts::new() }
    }

    /// Counts the queries of a range; `rows` are their distances, (range.len(), gallery).
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

    /// The rates, also at a target false positive rate; `None` unless there are pairs of both kinds.
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

/// The counts up to each bin that is not empty.
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

/// The equal error rate, and the first threshold with no fewer false positives than misses.
fn equal_error(curve: &[RocPoint]) -> (f64, f32) {
    let (mut positives, mut misses) = (0.0, 1.0);
    for point in curve {
        let (next_positives, next_misses) = (point.false_positive_rate, 1.0 - point.true_positive_rate);
        if next_positives >= next_misses {
            // Where the straight line from the last point crosses positives = misses.
            let part = (misses - positives) / ((next_positives - positives) + (misses - next_misses));
            return (positives + part * (next_positives - positives), point.threshold);
        }
        (positives, misses) = (next_positives, next_misses);
    }
    unreachable!("the last point of the curve has no misses")
}

/// At most about [`SHOWN_POINTS`] points of a curve, evenly spread over both of its axes, and the last.
fn thinned(curve: &[RocPoint]) -> Vec<RocPoint> {
    let travelled = |point: &RocPoint| {
        ((point.false_positive_rate + point.true_positive_rate) / 2.0 * SHOWN_POINTS as f64) as usize
    };
    let mut shown: Vec<RocPoint> = Vec::new();
    for (i, point) in curve.iter().enumerate() {
        let next = curve.get(i + 1);
        // The last one of each stretch.
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
