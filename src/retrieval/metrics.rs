//! Retrieval scores: rank-k, mAP and mINP, and which queries they are the mean of.
//!
//! A query's ranking is the gallery by ascending distance, ties in the gallery's order, without what the protocol
//! leaves out for that query. Only the ranks of its matches are needed, so no row is ever sorted as a whole.

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
/// How far the cumulative matching characteristic goes; no k of [`RANKS`] is greater.
pub const CURVE_DEPTH: usize = 50;
/// How far down the released code looks.
const RELEASED_DEPTH: usize = 10;
/// Random galleries of the single-shot protocol.
pub const REPETITIONS: u64 = 100;

/// Pairs of images that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Market-1501's: junk is dropped, and for each query the images of its person by its own camera.
    #[default]
    Standard,
    /// What the released code does: every image counts, also junk and the query's own camera; AP looks at the first
    /// ten. Its figures come out far higher than the standard ones.
    ReleasedCode,
    /// CUHK03's classic one: as [`Protocol::Standard`], but each person keeps one random gallery image among those
    /// that the query may match; the mean of [`REPETITIONS`] such galleries. Distractors all stay.
    Cuhk03SingleShot,
}

/// How precision becomes average precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AveragePrecision {
    /// The mean of the precision at each match.
    #[default]
    Plain,
    /// The mean of (the precision just before a match + that at the match) / 2, as Market-1501's authors count it. Just
    /// before rank 1 it is 1.
    Trapezoid,
}

/// A protocol and its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Pairs of images that count.
    pub protocol: Protocol,
    /// How AP is counted; [`Protocol::ReleasedCode`] has its own way.
    pub average_precision: AveragePrecision,
    /// Whether images of a query's person by its own camera count as matches.
    pub ignore_cameras: bool,
    /// Whether query i is gallery row i: no image is compared with itself, whatever the protocol.
    pub query_is_gallery: bool,
    /// Seed of the random galleries of [`Protocol::Cuhk03SingleShot`].
    pub seed: u64,
}

impl Rules {
    /// Returns whether images of a query's person by its own camera are no matches.
    pub fn across_cameras(&self) -> bool {
        !self.ignore_cameras && self.protocol != Protocol::ReleasedCode
    }
}

/// What a gallery image is to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It shows the query's person.
    Match,
    /// It shows somebody else.
    Other,
    /// The protocol doesn't show it to this query.
    LeftOut,
}

/// The labels of a retrieval task, and its rules.
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
    /// What a gallery row is to a query.
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

    /// Why a query with no match has none.
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

/// Why a query has no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is a bad detection.
    Junk,
    /// It shows nobody in particular.
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

    /// The same for people, after a number of queries.
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

/// Means over the valid queries, all fractions of 1.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// For each k of [`RANKS`]: how many queries have a match among the first k.
    pub ranks: [f64; RANKS.len()],
    /// The cumulative matching characteristic: the same for each k from 1 to [`CURVE_DEPTH`].
    pub curve: Vec<f64>,
    /// Mean average precision.
    pub map: f64,
    /// Mean inverse negative penalty: matches / rank of the last one (Ye et al. 2021).
    pub minp: f64,
    /// Queries with a match: those that the means are over.
    pub valid_queries: usize,
    /// The others, by what is wrong with them.
    pub dropped: BTreeMap<Reason, usize>,
    /// AP of each query, in the order of the queries; `None` for those without a score.
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

    /// From the ranks of the matches, from 1 and ascending.
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

/// AP from the ranks of the matches, from 1 and ascending.
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

/// Adds up the scores of queries while their distances go by.
pub struct Scorer<'a> {
    retrieval: Retrieval<'a>,
    /// The single-shot protocol's galleries.
    draws: Vec<Draw>,
    sum: QueryScores,
    valid: usize,
    average_precisions: Vec<Option<f64>>,
    dropped: BTreeMap<Reason, usize>,
}

/// One random gallery.
struct Draw {
    /// For each gallery row, what decides whether it is drawn: the smallest of a person's wins.
    lots: Vec<u32>,
    /// The row drawn for each person, and all distractors.
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

/// Which of two (distance, row) comes first: the nearer, of equals the one that the gallery has first.
pub(super) fn nearer(a: (f32, usize), b: (f32, usize)) -> Ordering {
    // Plus zero: -0 and 0 are the same distance.
    (a.0 + 0.0).total_cmp(&(b.0 + 0.0)).then(a.1.cmp(&b.1))
}

impl<'a> Scorer<'a> {
    /// Nothing added yet.
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

    /// Adds the queries of a range; `rows` are their distances, (range.len(), gallery).
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
        // In the order of the queries: the sums don't depend on threads.
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

    /// Ranks, from 1, of matches among themselves and the rows of `among` that show others.
    fn hit_ranks(
        &self,
        query: usize,
        distances: &[f32],
        matches: Vec<usize>,
        among: impl Iterator<Item = usize>,
    ) -> Vec<usize> {
        let mut matches: Vec<(f32, usize)> = matches.into_iter().map(|row| (distances[row], row)).collect();
        matches.sort_unstable_by(|&a, &b| nearer(a, b));
        // others[i]: how many come before match i, but not before match i - 1.
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

    /// The means over all that was added.
    ///
    /// # Errors
    /// `Data` if no query has a match.
    pub fn finish(self) -> Result<Scores> {
        if self.valid == 0 {
            let reasons: Vec<String> =
                self.dropped.iter().map(|(reason, count)| format!("{count} {}", reason.describe())).collect();
            let told = if reasons.is_empty() { "there are none".to_string() } else { reasons.join(", ") };
            let same_camera = self.dropped.contains_key(&Reason::SameCameraOnly);
            let advice = if same_camera { "; --ignore-cameras lets these match" } else { "" };
            return Err(Error::Data(format!("no query has a match in the gallery: {told}{advice}")));
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
/// What the distances report; `Data` if no query has a match.
///
/// # Panics
/// If there are not as many distances as labels.
pub fn score(retrieval: Retrieval<'_>, distances: &mut dyn DistanceRows) -> Result<Scores> {
    assert_eq!(distances.queries(), retrieval.queries.len(), "labels of queries");
    let mut scorer = Scorer::new(retrieval);
    visit(distances, |range, rows| {
        scorer.add(range, rows);
        Ok(())
    })?;
    scorer.finish()
}
