//! One page to look at: scores, curves and ranked lists in a single HTML file.
//!
//! Plain data in, HTML out. The page works from a folder as from a server, loads nothing from elsewhere, and runs no
//! code but its own, which its content security policy names by hash: texts and file names that come from outside are
//! escaped by the templates and could do nothing even if they weren't.

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

/// What the page shows; whatever is empty is left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// What was measured, in lines of a name and its value.
    pub facts: Vec<(String, String)>,
    /// What the reader must know before the figures.
    pub notes: Vec<String>,
    /// Names of figures and the figures.
    pub scores: Vec<(String, String)>,
    /// Cumulative matching characteristics, at most two.
    pub curves: Vec<Curve>,
    /// Same person or not, by distance alone.
    pub verification: Option<Verification>,
    /// What the lists are, in sentences.
    pub lists_about: Vec<String>,
    /// The ranked lists, in the page's own order. If they have an average precision, that is the worst first.
    pub lists: Vec<RankedList>,
}

/// A cumulative matching characteristic.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What it is called beside another one.
    pub name: String,
    /// At k - 1: the share of queries with a match among the first k.
    pub shares: Vec<f64>,
}

/// How well a distance tells the same person from others.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// Bin i of the histogram is from `edges[i]` to `edges[i + 1]`.
    pub edges: Vec<f32>,
    /// Pairs of the same person in each bin.
    pub same: Vec<u64>,
    /// Pairs of different persons in each bin.
    pub different: Vec<u64>,
    /// Distances that are drawn as thresholds, with their names.
    pub thresholds: Vec<(String, f32)>,
    /// Points of the receiver operating characteristic: (false positive rate, true positive rate), both ascending.
    pub roc: Vec<(f64, f64)>,
    /// Where false positives and misses are equally many.
    pub equal_error_rate: f64,
    /// True positive rates at false positive rates that are of interest: (false, true).
    pub found: Vec<(f64, f64)>,
}

/// A query and its nearest gallery images.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedList {
    /// What was looked for.
    pub query: Shown,
    /// Its score, a fraction of 1, where the truth is known.
    pub average_precision: Option<f64>,
    /// Nearest first.
    pub matches: Vec<Match>,
}

/// An image with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// What it is called: its path.
    pub name: String,
    /// Where it comes from.
    pub image: Image,
    /// Whom it shows, if that is known.
    pub person: Option<String>,
    /// Which camera took it, if that is known.
    pub camera: Option<String>,
}

/// How an image comes into the page; [`Thumbnails`] makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// A `data:` URI.
    Embedded(String),
    /// A URL, as a rule relative to the page's folder.
    Linked(String),
    /// Why there is none.
    Missing(String),
}

/// One place of a ranked list.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The gallery image.
    pub shown: Shown,
    /// How far it is from the query.
    pub distance: f32,
    /// What is said about it.
    pub verdict: Verdict,
}

/// What is said about a place of a ranked list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It shows the query's person: by the labels.
    Right,
    /// It shows somebody else: by the labels.
    Wrong,
    /// It is taken for the query's person: by a threshold.
    Same,
    /// It is taken for somebody else: by a threshold.
    Different,
    /// Nothing tells.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Right => "right",
            Verdict::Wrong => "wrong",
            Verdict::Same => "same",
            Verdict::Different => "different",
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

    /// Its name in the style sheet.
    fn class(self) -> &'static str {
        match self {
            Verdict::Right | Verdict::Same => "right",
            Verdict::Wrong | Verdict::Different => "wrong",
            Verdict::Unknown => "unknown",
        }
    }
}

impl RankedList {
    /// What the order goes by: the greater, the better.
    fn score(&self) -> f64 {
        // A list without places stands behind all others.
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

/// A distance as the page writes it: four decimals, more where those would leave fewer than three digits of it.
fn distance_text(distance: f32) -> String {
    // Rounding can leave a little less than 0.
    let distance = if distance > 0.0 { distance } else { 0.0 };
    let decimals = if distance > 0.0 { (2.0 - distance.log10().floor()).clamp(4.0, 12.0) } else { 4.0 };
    format!("{distance:.0$}", decimals as usize)
}

/// A share as the page writes it.
fn percent(share: f64) -> String {
    format!("{:.2}\u{a0}%", 100.0 * share)
}

/// A choice of which lists are seen.
struct Filter {
    id: &'static str,
    label: &'static str,
    values: Vec<String>,
}

impl Filter {
    /// The different values in order, numbers by their size; `None` if there is no choice.
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
    filters: Vec<Filter>,
    links_images: bool,
}

impl Report {
    /// The whole page.
    ///
    /// # Errors
    /// `Data` if a template can't be filled.
    pub fn to_html(&self) -> Result<String> {
        // Browsers read line ends as \n, whatever a checkout makes of them; the hashes must be those of what they read.
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
        let orders: &[_] = if self.lists.iter().any(|list| list.average_precision.is_some()) {
            &[("page", "worst first"), ("best", "best first"), ("name", "by name")]
        } else {
            &[
                ("page", "as asked"),
                ("best", "nearest first"),
                ("worst", "farthest first"),
                ("name", "by name"),
            ]
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
            filters: filters.into_iter().flatten().collect(),
            links_images,
        };
        page.render().map_err(|error| Error::Data(format!("the report can't be written: {error}")))
    }

    /// Writes the page into a file, which takes its name only when it is complete.
    ///
    /// # Errors
    /// `Io` where it can't be written, and as [`Self::to_html`].
    pub fn write(&self, target: &Path) -> Result<()> {
        write_atomically(target, self.to_html()?.as_bytes())
    }
}

#[cfg(test)]
mod tests;
