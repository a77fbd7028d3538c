//! Retrieval scores: rank-k, mAP and mINP, as means over the valid queries.
//!
//! A query's ranking is the gallery by ascending distance, ties in the gallery's order, without the images that the
//! protocol leaves out for that query. Scores need only the ranks of the matches, so no row is sorted completely.

use super::distances::DistanceRows;
use super::distances::visit;
use crate::datasets::labels::{Label, Person};
use crate::error::{Error, Result};
use crate::rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

/// The k of rank-k.
pub const RANKS: [usize; 4] = [1, 5, 10, 20];
/// Length of the cumulative matching characteristic; no k of [`RANKS`] is greater.
pub const CURVE_DEPTH: usize = 50;
/// Number of ranks over which the released code computes AP.
const RELEASED_DEPTH: usize = 10;
/// Random galleries of the single-shot protocol.
pub const REPETITIONS: u64 = 100;

/// Evaluation protocol: the pairs of images that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Market-1501's protocol: leaves out junk, and for each query the images of its person by its own camera.
    #[default]
    Standard,
    /// The released code's protocol: every image counts, also junk and the query's own camera, and AP covers the first
    /// ten ranks. Its scores are far higher than the standard ones.
    ReleasedCode,
    /// CUHK03's classic protocol: as [`Protocol::Standard`], but with one random gallery image of each person, among
    /// those that the query may match. Scores are means over [`REPETITIONS`] such galleries. Distractors all stay.
    Cuhk03SingleShot,
}

/// Definition of average precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AveragePrecision {
    /// The mean of the precision at each match.
    #[default]
    Plain,
    /// The mean of (precision just before a match + precision at the match) / 2, as Market-1501's authors compute it.
    /// The precision before rank 1 is 1.
    Trapezoid,
}

/// A protocol and its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// The pairs of images that count.
    pub protocol: Protocol,
    /// Definition of AP; [`Protocol::ReleasedCode`] has its own.
    pub average_precision: AveragePrecision,
    /// True if images of a query's person by its own camera count as matches.
    pub ignore_cameras: bool,
    /// True if query i is gallery row i. No protocol compares an image with itself.
    pub query_is_gallery: bool,
    /// Seed of the random galleries of [`Protocol::Cuhk03SingleShot`].
    pub seed: u64,
}

impl Rules {
    /// Returns whether matches must be by another camera than the query's.
    pub fn across_cameras(&self) -> bool {
        !self.ignore_cameras && self.protocol != Protocol::ReleasedCode
    }
}

/// Relation of a gallery image to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It shows the query's person.
    Match,
    /// It shows somebody else.
    Other,
    /// The protocol leaves it out for this query.
    LeftOut,
}

/// Labels and rules of a retrieval task.
#[derive(Debug, Clone, Copy)]
pub struct Retrieval<'a> {
    /// One per query.
    pub queries: &'a [Label],
    /// One per gallery row.
    pub gallery: &'a [Label],
    /// Protocol and variants.
    pub rules: Rules,
}

impl Retrieval<'_> {
    /// Returns the relation of a gallery row to a query.
    pub fn relation(&self, query: usize, row: usize) -> Relation {
        let (asked, shown) = (self.queries[query], self.gallery[row]);
        let rules = &self.rules;
        let every_image = rules.protocol == Protocol::ReleasedCode;
        if rules.query_is_gallery && query == row || shown.person == Person::Junk && !every_image {
            return Relation::LeftOut;
        }
        match (asked.person, shown.person) {
            (Person::Known(a), Person::Known(b)) if a == b => {
                if asked.camera == shown.camera && rules.across_cameras() {
                    Relation::LeftOut
                } else {
                    Relation::Match
                }
            }
            _ => Relation::Other,
        }
    }

    /// Returns the reason why a query has no match.
    fn reason(&self, query: usize) -> Reason {
        let asked = self.queries[query];
        match asked.person {
            Person::Junk => Reason::Junk,
            Person::Distractor => Reason::Distractor,
            Person::Known(_) => {
                let own = |row| self.rules.query_is_gallery && row == query;
                let shown = |(row, label): (usize, &Label)| label.person == asked.person && !own(row);
                if self.gallery.iter().enumerate().any(shown) {
                    Reason::SameCameraOnly
                } else {
                    Reason::NotInGallery
                }
            }
        }
    }
}

/// Reason why a query has no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is a bad detection.
    Junk,
    /// It shows a distractor.
    Distractor,
    /// No other gallery image shows its person.
    NotInGallery,
    /// All gallery images of its person are by its own camera.
    SameCameraOnly,
    /// The image can't be read.
    Unreadable,
}

impl Reason {
    /// Its name in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Reason::Junk => "junk",
            Reason::Distractor => "distractor",
            Reason::NotInGallery => "not_in_gallery",
            Reason::SameCameraOnly => "same_camera_only",
            Reason::Unreadable => "unreadable",
        }
    }

    /// Its description for people, after a number of queries.
    pub fn describe(self) -> &'static str {
        match self {
            Reason::Junk => "junk",
            Reason::Distractor => "a distractor",
            Reason::NotInGallery => "not in the gallery",
            Reason::SameCameraOnly => "in the gallery by the same camera only",
            Reason::Unreadable => "unreadable",
        }
    }
}

/// Means over the valid queries, from 0 to 1.
///
/// ```
/// fn line(scores: &lat_wgpu::Scores) -> String {
///     let [rank_1, rank_5, ..] = scores.ranks;
///     format!("rank-1 {rank_1:.3}, rank-5 {rank_5:.3}, mAP {:.3}", scores.map)
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// Share of queries with a match among the first k, for each k of [`RANKS`].
    pub ranks: [f64; RANKS.len()],
    /// Cumulative matching characteristic: the same for each k from 1 to [`CURVE_DEPTH`].
    pub curve: Vec<f64>,
    /// Mean average precision.
    pub map: f64,
    /// Mean inverse negative penalty: number of matches / rank of the last match (Ye et al. 2021).
    pub minp: f64,
    /// Number of queries with a match, over which the means are taken.
    pub valid_queries: usize,
    /// Numbers of the other queries by reason.
    pub dropped: BTreeMap<Reason, usize>,
    /// AP of each query in order; `None` for those without a score.
    pub average_precisions: Vec<Option<f64>>,
}

/// The scores of one query.
#[derive(Debug, Clone, Copy)]
struct QueryScores {
    curve: [f64; CURVE_DEPTH],
    average_precision: f64,
    inverse_penalty: f64,
}

impl QueryScores {
    const ZERO: QueryScores =
        QueryScores { curve: [0.0; CURVE_DEPTH], average_precision: 0.0, inverse_penalty: 0.0 };

    /// Computes scores from the ascending ranks, from 1, of the matches.
    fn new(hits: &[usize], rules: &Rules) -> QueryScores {
        let (Some(&first), Some(&last)) = (hits.first(), hits.last()) else { return QueryScores::ZERO };
        QueryScores {
            curve: std::array::from_fn(|before| if first <= before + 1 { 1.0 } else { 0.0 }),
            average_precision: average_precision(hits, rules),
            inverse_penalty: hits.len() as f64 / last as f64,
        }
    }

    fn add(&mut self, other: &QueryScores) {
        for (sum, value) in self.curve.iter_mut().zip(other.curve) {
            *sum += value;
        }
        self.average_precision += other.average_precision;
        self.inverse_penalty += other.inverse_penalty;
    }

    fn divided(self, by: f64) -> QueryScores {
        QueryScores {
            curve: self.curve.map(|sum| sum / by),
            average_precision: self.average_precision / by,
            inverse_penalty: self.inverse_penalty / by,
        }
    }
}

/// AP from the ascending ranks, from 1, of the matches.
fn average_precision(hits: &[usize], rules: &Rules) -> f64 {
    let hits = match rules.protocol {
        Protocol::ReleasedCode => &hits[..hits.partition_point(|&rank| rank <= RELEASED_DEPTH)],
        _ => hits,
    };
    let trapezoid =
        rules.average_precision == AveragePrecision::Trapezoid && rules.protocol != Protocol::ReleasedCode;
    let mut sum = 0.0;
    for (before, &rank) in hits.iter().enumerate() {
        let precision = (before + 1) as f64 / rank as f64;
        let old = if rank == 1 { 1.0 } else { before as f64 / (rank - 1) as f64 };
        sum += if trapezoid { (old + precision) / 2.0 } else { precision };
    }
    sum / hits.len().max(1) as f64
}

/// Sums the scores of queries from distances that come a few queries at a time.
pub struct Scorer<'a> {
    retrieval: Retrieval<'a>,
    /// Galleries of the single-shot protocol.
    draws: Vec<Draw>,
    sum: QueryScores,
    valid: usize,
    average_precisions: Vec<Option<f64>>,
    dropped: BTreeMap<Reason, usize>,
}

/// One random gallery.
struct Draw {
    /// A random number for each gallery row. The row with a person's smallest number is drawn.
    lots: Vec<u32>,
    /// The rows drawn for the persons, and all distractors.
    rows: Vec<usize>,
}

impl Draw {
    fn new(gallery: &[Label], seed: u64, repetition: u64) -> Draw {
        let lots: Vec<u32> = (0..gallery.len()).map(|row| rng::bits(seed, repetition, row as u64)).collect();
        let mut rows = Vec::new();
        let mut drawn: BTreeMap<u32, usize> = BTreeMap::new();
        for (row, label) in gallery.iter().enumerate() {
            match label.person {
                Person::Junk => {}
                Person::Distractor => rows.push(row),
                Person::Known(person) => {
                    let winner = drawn.entry(person).or_insert(row);
                    if lots[row] < lots[*winner] {
                        *winner = row;
                    }
                }
            }
        }
        rows.extend(drawn.values());
        Draw { lots, rows }
    }
}

/// Orders two (distance, row) by distance, then by row.
pub(super) fn nearer(a: (f32, usize), b: (f32, usize)) -> Ordering {
    // Adding 0 makes -0 equal to 0.
    (a.0 + 0.0).total_cmp(&(b.0 + 0.0)).then(a.1.cmp(&b.1))
}

impl<'a> Scorer<'a> {
    /// Creates a scorer without queries.
    pub fn new(retrieval: Retrieval<'a>) -> Scorer<'a> {
        let repetitions =
            if retrieval.rules.protocol == Protocol::Cuhk03SingleShot { REPETITIONS } else { 0 };
        let draw = |repetition| Draw::new(retrieval.gallery, retrieval.rules.seed, repetition);
        let draws = (0..repetitions).map(draw).collect();
        Scorer {
            retrieval,
            draws,
            sum: QueryScores::ZERO,
            valid: 0,
            average_precisions: Vec::new(),
            dropped: BTreeMap::new(),
        }
    }

    /// Adds the queries of `range` with their distances `rows` (range.len(), gallery).
    ///
    /// # Panics
    /// If `rows` has another length.
    pub fn add(&mut self, range: Range<usize>, rows: &[f32]) {
        let gallery = self.retrieval.gallery.len();
        assert_eq!(rows.len(), range.len() * gallery, "distances of queries {range:?}");
        if gallery == 0 {
            range.for_each(|query| self.drop_query(self.retrieval.reason(query)));
            return;
        }
        let scored: Vec<std::result::Result<QueryScores, Reason>> = range
            .into_par_iter()
            .zip(rows.par_chunks(gallery))
            .map(|(query, row)| self.score(query, row))
            .collect();
        // In the order of the queries, so that the sums don't depend on threads.
        for scores in scored {
            match scores {
                Ok(scores) => {
                    self.sum.add(&scores);
                    self.valid += 1;
                    self.average_precisions.push(Some(scores.average_precision));
                }
                Err(reason) => self.drop_query(reason),
            }
        }
    }

    fn drop_query(&mut self, reason: Reason) {
        *self.dropped.entry(reason).or_default() += 1;
        self.average_precisions.push(None);
    }

    /// Scores one query by its distances to the whole gallery.
    fn score(&self, query: usize, distances: &[f32]) -> std::result::Result<QueryScores, Reason> {
        let matches: Vec<usize> = (0..distances.len())
            .filter(|&row| self.retrieval.relation(query, row) == Relation::Match)
            .collect();
        if matches.is_empty() {
            return Err(self.retrieval.reason(query));
        }
        let rules = &self.retrieval.rules;
        if self.draws.is_empty() {
            let all = 0..distances.len();
            return Ok(QueryScores::new(&self.hit_ranks(query, distances, matches, all), rules));
        }
        let mut sum = QueryScores::ZERO;
        for draw in &self.draws {
            let own = matches.iter().copied().min_by_key(|&row| (draw.lots[row], row)).into_iter().collect();
            let others = draw.rows.iter().copied();
            sum.add(&QueryScores::new(&self.hit_ranks(query, distances, own, others), rules));
        }
        Ok(sum.divided(self.draws.len() as f64))
    }

    /// Ranks, from 1, of `matches` among themselves and those rows of `among` that show other persons.
    fn hit_ranks(
        &self,
        query: usize,
        distances: &[f32],
        matches: Vec<usize>,
        among: impl Iterator<Item = usize>,
    ) -> Vec<usize> {
        let mut matches: Vec<(f32, usize)> = matches.into_iter().map(|row| (distances[row], row)).collect();
        matches.sort_unstable_by(|&a, &b| nearer(a, b));
        // others[i] counts the rows before match i, but not before match i - 1.
        let mut others = vec![0; matches.len() + 1];
        for row in among.filter(|&row| self.retrieval.relation(query, row) == Relation::Other) {
            others[matches.partition_point(|&hit| nearer(hit, (distances[row], row)).is_lt())] += 1;
        }
        let mut before = 0;
        others
            .iter()
            .take(matches.len())
            .map(|count| {
                before += count + 1;
                before
            })
            .collect()
    }

    /// Returns the means over all queries added.
    ///
    /// # Errors
    /// `Data` if no query has a match.
    pub fn finish(self) -> Result<Scores> {
        if self.valid == 0 {
            let reasons: Vec<String> =
                self.dropped.iter().map(|(reason, count)| format!("{count} {}", reason.describe())).collect();
            let reasons = if reasons.is_empty() { "there are none".to_string() } else { reasons.join(", ") };
            let same_camera = self.dropped.contains_key(&Reason::SameCameraOnly);
            let advice = if same_camera { "; --ignore-cameras lets these match" } else { "" };
            return Err(Error::Data(format!("no query has a match in the gallery: {reasons}{advice}")));
        }
        let QueryScores { curve, average_precision, inverse_penalty } = self.sum.divided(self.valid as f64);
        Ok(Scores {
            ranks: RANKS.map(|k| curve[k - 1]),
            curve: curve.to_vec(),
            map: average_precision,
            minp: inverse_penalty,
            valid_queries: self.valid,
            dropped: self.dropped,
            average_precisions: self.average_precisions,
        })
    }
}

/// Scores a retrieval task by its distances.
///
/// # Errors
/// Errors of the distances; `Data` if no query has a match.
///
/// # Panics
/// If distances and labels differ in number.
pub fn score(retrieval: Retrieval<'_>, distances: &mut dyn DistanceRows) -> Result<Scores> {
    assert_eq!(distances.queries(), retrieval.queries.len(), "labels of queries");
    let mut scorer = Scorer::new(retrieval);
    visit(distances, |range, rows| {
        scorer.add(range, rows);
        Ok(())
    })?;
    scorer.finish()
}
