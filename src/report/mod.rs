//! Reports: scores, charts and ranked lists in a single HTML file.
//!
//! The page works from a folder and from a server and loads nothing from elsewhere. Templates escape every text and
//! file name. The content security policy names the page's own script and style by hash, so no other could run.

mod charts;
mod thumbnails;

pub use thumbnails::{DEFAULT_LIMIT, Thumbnails};

use crate::error::{Error, Result};
use crate::storage::atomic::write_atomically;
use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use charts::{BOTTOM, Chart, HEIGHT, LEFT, RIGHT, WIDTH};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// Contents of the page; empty ones are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// Names and values: sources, settings, origin of the page.
    pub facts: Vec<(String, String)>,
    /// Warnings above the scores.
    pub notes: Vec<String>,
    /// Names and values of scores.
    pub scores: Vec<(String, String)>,
    /// Cumulative matching characteristics, at most two.
    pub curves: Vec<Curve>,
    /// Results of verification.
    pub verification: Option<Verification>,
    /// Paragraphs about the lists.
    pub lists_about: Vec<String>,
    /// The ranked lists: by ascending average precision, or without one in the order of the queries.
    pub lists: Vec<RankedList>,
}

/// A cumulative matching characteristic.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// At k - 1: the share of queries with a match among the first k.
    pub shares: Vec<f64>,
}

/// A distance up to which two images are taken for the same person.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// The rule by which it was chosen.
    pub name: String,
    /// Squared Euclidean distance.
    pub distance: f32,
    /// Share of the pairs of different persons that are as near.
    pub false_match_rate: f64,
}

/// Results of verification.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verification {
    /// Bin i of the histogram is from `edges[i]` to `edges[i + 1]`.
    pub edges: Vec<f32>,
    /// Pairs of the same person in each bin.
    pub same: Vec<u64>,
    /// Pairs of different persons in each bin.
    pub different: Vec<u64>,
    /// Thresholds to draw.
    pub thresholds: Vec<Threshold>,
    /// Number of gallery images.
    pub gallery: usize,
    /// Points of the receiver operating characteristic: (false positive rate, true positive rate), both ascending.
    pub roc: Vec<(f64, f64)>,
    /// The false positive rate that equals the rate of misses.
    pub equal_error_rate: f64,
    /// Chosen points: (false positive rate, true positive rate).
    pub found: Vec<(f64, f64)>,
}

/// A query and its nearest gallery images.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedList {
    /// The query.
    pub query: Shown,
    /// Average precision from 0 to 1, where the labels are known.
    pub average_precision: Option<f64>,
    /// Nearest first.
    pub matches: Vec<Match>,
}

/// An image with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Its path.
    pub name: String,
    /// The image itself.
    pub image: Image,
    /// The person, if known.
    pub person: Option<String>,
    /// The camera, if known.
    pub camera: Option<String>,
}

/// An image in the page, made by [`Thumbnails`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// A `data:` URI.
    Embedded(String),
    /// A URL, usually relative to the page's folder.
    Linked(String),
    /// The reason why there is none.
    Missing(String),
}

/// One place of a ranked list.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The gallery image.
    pub shown: Shown,
    /// Distance to the query.
    pub distance: f32,
    /// By labels or by a threshold.
    pub verdict: Verdict,
    /// Errors to expect at this distance, where a calibrated threshold limits them.
    pub errors: Option<ExpectedErrors>,
}

/// Largest share and number of wrong matches as near as a match.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedErrors {
    /// Share of the pairs of different persons that are as near.
    pub false_match_rate: f64,
    /// Expected number of gallery images of strangers that are as near.
    pub strangers: f64,
}

impl ExpectedErrors {
    /// At a false-match rate in a gallery of so many images.
    pub fn new(false_match_rate: f64, gallery: usize) -> ExpectedErrors {
        ExpectedErrors { false_match_rate, strangers: false_match_rate * gallery as f64 }
    }

    fn rate(&self) -> String {
        rate_text(self.false_match_rate)
    }

    fn count(&self) -> String {
        strangers_text(self.strangers)
    }
}

/// The judgement on a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It shows the query's person: by the labels.
    Right,
    /// It shows somebody else: by the labels.
    Wrong,
    /// Its distance is up to the threshold: likely the query's person.
    Same,
    /// Its distance is above the threshold: likely somebody else.
    Different,
    /// There are neither labels nor a threshold.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Right => "right",
            Verdict::Wrong => "wrong",
            Verdict::Same => "likely the same",
            Verdict::Different => "likely different",
            Verdict::Unknown => "",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Verdict::Right | Verdict::Same => "✓",
            Verdict::Wrong | Verdict::Different => "✗",
            Verdict::Unknown => "",
        }
    }

    /// Class in the style sheet.
    fn class(self) -> &'static str {
        match self {
            Verdict::Right | Verdict::Same => "right",
            Verdict::Wrong | Verdict::Different => "wrong",
            Verdict::Unknown => "unknown",
        }
    }
}

impl RankedList {
    /// The key of the order; the best list has the greatest.
    fn score(&self) -> f64 {
        // A list without matches comes last.
        let nearest = self.matches.first().map_or(f64::from(f32::MAX), |place| f64::from(place.distance));
        self.average_precision.unwrap_or(-nearest)
    }

    fn precision(&self) -> String {
        self.average_precision.map_or(String::new(), percent)
    }
}

impl Match {
    fn distance_text(&self) -> String {
        distance_text(self.distance)
    }
}

/// A distance with four decimals, or with three significant digits if those are more.
fn distance_text(distance: f32) -> String {
    // Rounding can make a distance slightly negative.
    let distance = if distance > 0.0 { distance } else { 0.0 };
    let decimals = if distance > 0.0 { (2.0 - distance.log10().floor()).clamp(4.0, 12.0) } else { 4.0 };
    format!("{distance:.0$}", decimals as usize)
}

/// A rate in percent, with no more decimals than it has.
fn rate_text(rate: f64) -> String {
    let percent = 100.0 * rate;
    // Three significant digits; 100 times a rate isn't exact.
    let decimals = if percent > 0.0 { (2.0 - percent.log10().floor()).clamp(0.0, 10.0) } else { 0.0 };
    let text = format!("{percent:.0$}", decimals as usize);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// An expected number: two significant digits below 10, none after the point above.
fn strangers_text(count: f64) -> String {
    let decimals = if count > 0.0 { (1.0 - count.log10().floor()).clamp(0.0, 4.0) } else { 0.0 };
    format!("{count:.0$}", decimals as usize)
}

/// A share with two decimals of a percent.
fn percent(share: f64) -> String {
    format!("{:.2}\u{a0}%", 100.0 * share)
}

/// A field that filters the lists.
struct Filter {
    id: &'static str,
    label: &'static str,
    values: Vec<String>,
}

impl Filter {
    /// All values in order, numbers by size; `None` if there are fewer than two.
    fn new<'a>(
        id: &'static str,
        label: &'static str,
        values: impl Iterator<Item = &'a Option<String>>,
    ) -> Option<Filter> {
        let different: BTreeSet<&String> = values.flatten().collect();
        let mut values: Vec<String> = different.into_iter().cloned().collect();
        values.sort_by_key(|value| value.parse::<u64>().unwrap_or(u64::MAX));
        (values.len() > 1).then_some(Filter { id, label, values })
    }
}

#[derive(Template)]
#[template(path = "page.html", config = "src/report/askama.toml")]
struct Page<'a> {
    report: &'a Report,
    policy: String,
    style: String,
    script: String,
    charts: Vec<Chart>,
    /// (value, name)
    orders: &'static [(&'static str, &'static str)],
    /// Words for lists at the two ends of the order.
    ends: (&'static str, &'static str),
    filters: Vec<Filter>,
    links_images: bool,
}

impl Report {
    /// The whole page.
    ///
    /// # Errors
    /// `Data` if a template can't be filled.
    pub fn to_html(&self) -> Result<String> {
        // Browsers hash line ends as \n, whatever the checkout has.
        let [style, script] = [
            concat!(include_str!("../plot/colours.css"), "\n", include_str!("page.css")),
            include_str!("page.js"),
        ]
        .map(|text| text.replace("\r\n", "\n"));
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data: 'self' file:; \
             base-uri 'none'; form-action 'none'",
            hash(&style),
            hash(&script)
        );
        let (orders, ends): (&[_], _) = if self.lists.iter().any(|list| list.average_precision.is_some()) {
            (
                &[
                    ("ends", "three best, three worst"),
                    ("best", "best first"),
                    ("worst", "worst first"),
                    ("name", "by name"),
                ],
                ("best", "worst"),
            )
        } else {
            (
                &[
                    ("ends", "three nearest, three farthest"),
                    ("page", "as asked"),
                    ("best", "nearest first"),
                    ("worst", "farthest first"),
                    ("name", "by name"),
                ],
                ("nearest", "farthest"),
            )
        };
        let queries = || self.lists.iter().map(|list| &list.query);
        let places = || self.lists.iter().flat_map(|list| &list.matches).map(|place| &place.shown);
        let filters = [
            Filter::new("person", "Person", queries().map(|query| &query.person)),
            Filter::new("camera", "Camera of the query", queries().map(|query| &query.camera)),
            Filter::new("shown-camera", "Camera of the matches", places().map(|shown| &shown.camera)),
        ];
        let links_images = queries().chain(places()).any(|shown| matches!(shown.image, Image::Linked(_)));
        let page = Page {
            report: self,
            policy,
            style,
            script,
            charts: charts::draw(self),
            orders,
            ends,
            filters: filters.into_iter().flatten().collect(),
            links_images,
        };
        page.render().map_err(|error| Error::Data(format!("the report can't be written: {error}")))
    }

    /// Writes the page into a file atomically.
    ///
    /// # Errors
    /// `Io` where it can't be written, and as [`Self::to_html`].
    pub fn write(&self, target: &Path) -> Result<()> {
        write_atomically(target, self.to_html()?.as_bytes())
    }
}

#[cfg(test)]
mod tests;
