//! Writes the page of `lat-wgpu eval --html`.

use super::origin;
use super::words::word;
use crate::datasets::LabelNames;
use crate::datasets::labels::{Label, Person};
use crate::embeddings::gallery::ImageFolder;
use crate::error::Result;
use crate::images::decode::DecodeOptions;
use crate::report::{
    Curve, Image, Match, RankedList, Report, Shown, Threshold, Thumbnails, Verdict, Verification,
};
use crate::retrieval::combined::ExpansionOptions;
use crate::retrieval::lists::Ranked;
use crate::retrieval::metrics::{Protocol, RANKS, REPETITIONS, Scores};
use crate::retrieval::rerank::RerankOptions;
use crate::retrieval::verification;
use crate::tasks::evaluate::{INFLATED, Images, Labelled, Listed, Outcome, Request};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Gallery images of a ranked list.
pub const LIST_LENGTH: usize = 10;

/// The contents of a page besides the outcome.
pub(super) struct Page {
    pub target: PathBuf,
    /// Names and values that describe what was scored.
    pub source: Vec<(String, String)>,
    /// Most ranked lists.
    pub lists: usize,
    /// Most bytes of embedded thumbnails.
    pub thumbnails: u64,
    pub decode: DecodeOptions,
    /// Folders of images without a known file: the first for the queries, the last for the gallery.
    pub images: Vec<ImageFolder>,
}

impl Page {
    /// Writes the page.
    pub fn write(&self, outcome: &Outcome, request: &Request) -> Result<()> {
        let scores = outcome.scores();
        let chosen = worst_and_best(&scores.average_precisions, self.lists);
        let thumbnails = Thumbnails::new(&self.target, self.thumbnails, self.decode)?;
        let mut album = Album { thumbnails, images: &self.images };
        let lists = match &outcome.listed {
            Some(listed) => ranked_lists(listed, &chosen, scores, &mut album),
            None => Vec::new(),
        };
        let mut facts = self.source.clone();
        facts.extend(measured(outcome, request));
        facts.push(("Images".to_string(), album.thumbnails.about()));
        facts.extend(origin::facts(&outcome.adapter));
        let mut notes = Vec::new();
        if request.rules.protocol == Protocol::ReleasedCode {
            notes.push(format!("{INFLATED}."));
        }
        let mut figures = score_figures(scores);
        if let Some(report) = &outcome.verification {
            figures.push(("equal error rate".to_string(), percent(report.equal_error_rate)));
        }
        Report {
            title: format!("Evaluation of {}", outcome.name),
            facts,
            notes,
            scores: figures,
            curves: curves(outcome),
            verification: outcome
                .verification
                .as_ref()
                .map(|report| same_or_not(report, gallery_len(outcome))),
            lists_about: about_lists(outcome, request, chosen.len()),
            lists,
        }
        .write(&self.target)
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}\u{a0}%", 100.0 * share)
}

/// Names and values that describe the measurement.
fn measured(outcome: &Outcome, request: &Request) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| facts.push((name.to_string(), value));
    fact("Data", outcome.counts(request.group_by).trim_end().to_string());
    let cameras = if request.rules.ignore_cameras { ", cameras ignored" } else { "" };
    fact(
        "Protocol",
        format!("{}, AP {}{cameras}", request.protocol_name(), request.average_precision_name()),
    );
    let about =
        |Scores { ranks, map, .. }: &Scores| format!("rank-1 {}, mAP {}", percent(ranks[0]), percent(*map));
    if let Some(ExpansionOptions { k, alpha, over }) = request.expansion {
        let without = about(&outcome.plain);
        fact("Query expansion", format!("k {k}, α {alpha}, over {}; without it {without}", word(&over)));
    }
    if let Some(RerankOptions { k1, k2, lambda }) = request.rerank {
        let without = about(outcome.scores_before_reranking());
        fact("Re-ranking", format!("k1 {k1}, k2 {k2}, λ {lambda}; without it {without}"));
    }
    if let Some(scores) = &outcome.spatio_temporal {
        fact("With time between cameras", about(scores));
    }
    facts
}

fn score_figures(scores: &Scores) -> Vec<(String, String)> {
    let ranks = RANKS.iter().zip(scores.ranks).map(|(k, share)| (format!("rank-{k}"), percent(share)));
    let means = [("mAP", scores.map), ("mINP", scores.minp)];
    ranks.chain(means.map(|(name, share)| (name.to_string(), percent(share)))).collect()
}

/// Number of gallery images; 0 if unknown.
fn gallery_len(outcome: &Outcome) -> usize {
    outcome.listed.as_ref().map_or(0, |listed| listed.gallery().labels.len())
}

/// CMC curves with and without the last of query expansion and re-ranking, no longer than the gallery.
fn curves(outcome: &Outcome) -> Vec<Curve> {
    let gallery = match gallery_len(outcome) {
        0 => usize::MAX,
        len => len,
    };
    let curve = |name: &str, scores: &Scores| Curve {
        name: name.to_string(),
        shares: scores.curve[..scores.curve.len().min(gallery)].to_vec(),
    };
    match (&outcome.reranked, &outcome.expanded) {
        (Some(reranked), _) => {
            vec![curve("re-ranked", reranked), curve("not re-ranked", outcome.scores_before_reranking())]
        }
        (None, Some(expanded)) => vec![curve("expanded", expanded), curve("not expanded", &outcome.plain)],
        (None, None) => vec![curve("", &outcome.plain)],
    }
}

fn same_or_not(report: &verification::Report, gallery: usize) -> Verification {
    let threshold = |name: String, distance, false_match_rate| Threshold { name, distance, false_match_rate };
    let mut thresholds =
        vec![threshold("equal error".to_string(), report.equal_error_threshold, report.equal_error_rate)];
    if let Some(target) = report.target
        && let Some(point) = target.reached
    {
        let name = format!("false positives up to {}", target.wanted);
        thresholds.push(threshold(name, point.threshold, point.false_positive_rate));
    }
    let verification::Histogram { edges, same, different } = report.histogram.clone();
    let roc = report.roc.iter().map(|point| (point.false_positive_rate, point.true_positive_rate));
    let known = |rate: f64| report.operating_points.iter().any(|point| point.wanted == rate);
    let found =
        report.operating_points.iter().chain(report.target.iter().filter(|point| !known(point.wanted)));
    Verification {
        edges,
        same,
        different,
        thresholds,
        gallery,
        roc: roc.collect(),
        equal_error_rate: report.equal_error_rate,
        found: found.map(|point| (point.wanted, point.true_positive_rate())).collect(),
    }
}

/// Chooses up to `count` queries with a score, the worst first: half of them the worst, half the best.
fn worst_and_best(average_precisions: &[Option<f64>], count: usize) -> Vec<usize> {
    let scored = average_precisions.iter().enumerate();
    let mut scored: Vec<(f64, usize)> =
        scored.filter_map(|(query, score)| Some(((*score)?, query))).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut queries: Vec<usize> = scored.into_iter().map(|(_, query)| query).collect();
    if queries.len() > count {
        let best = count / 2;
        queries.drain(count - best..queries.len() - best);
    }
    queries
}

fn about_lists(outcome: &Outcome, request: &Request, shown: usize) -> Vec<String> {
    let scored = outcome.scores().valid_queries;
    let best = shown / 2;
    let which = match shown {
        0 => format!("None of {scored} scored queries are shown."),
        _ if shown == scored => format!("All {scored} scored queries, by average precision."),
        _ => format!(
            "The {} queries with the lowest average precision and the {best} with the highest, of {scored} scored.",
            shown - best
        ),
    };
    let dropped: usize = outcome.scores().dropped.values().sum();
    let without =
        if dropped > 0 { format!(" {dropped} without a score are left out.") } else { String::new() };
    let distance = if request.rerank.is_some() { "re-ranked distance" } else { request.distance_name() };
    let mut sentences = vec![
        format!("{which}{without}"),
        format!(
            "Each query with the first {LIST_LENGTH} gallery images that the protocol counts. ✓ in a solid green frame: \
             same person; ✗ in a dashed red frame: different person. The number is the {distance}."
        ),
    ];
    if request.rules.protocol == Protocol::Cuhk03SingleShot {
        sentences.push(format!(
            "Scores are means over {REPETITIONS} random galleries with one image per person; the lists show the whole \
             gallery."
        ));
    }
    sentences
}

/// Makes the page's images.
struct Album<'a> {
    thumbnails: Thumbnails,
    images: &'a [ImageFolder],
}

impl Album<'_> {
    /// Returns the image of a row. If its file is not known, looks for its name in `folder`.
    fn image(&mut self, images: &Images, row: usize, folder: Option<&ImageFolder>) -> Image {
        match (images.files.get(row), folder) {
            (Some(file), _) if file.as_os_str().is_empty() => {
                Image::Missing("not found where it was embedded".to_string())
            }
            (Some(file), _) => self.thumbnails.image(file),
            (None, Some(folder)) => match folder.find(&images.names[row]) {
                Some(file) => self.thumbnails.image(&file),
                None => Image::Missing("not in --images".to_string()),
            },
            (None, None) => Image::Missing("no --images".to_string()),
        }
    }
}

/// The lists of some queries. In the order of the page: thumbnails of the first lists are embedded, later ones are
/// linked.
fn ranked_lists(listed: &Listed, queries: &[usize], scores: &Scores, album: &mut Album) -> Vec<RankedList> {
    let names = &listed.label_names;
    let asked_in = album.images.first();
    let shown_in = if listed.gallery.is_some() { album.images.last() } else { asked_in };
    let (asked, gallery) = (&listed.queries, listed.gallery());
    let mut lists = Vec::with_capacity(queries.len());
    for &query in queries {
        let own = shown(asked, query, names, album.image(&asked.images, query, asked_in));
        let mut matches = Vec::with_capacity(LIST_LENGTH);
        for &Ranked { row, distance, is_match } in &listed.lists[query] {
            let verdict = if is_match { Verdict::Right } else { Verdict::Wrong };
            let shown = shown(gallery, row, names, album.image(&gallery.images, row, shown_in));
            matches.push(Match { shown, distance, verdict, errors: None });
        }
        let average_precision = scores.average_precisions[query];
        lists.push(RankedList { query: own, average_precision, matches });
    }
    lists
}

fn shown(side: &Labelled, row: usize, names: &LabelNames, image: Image) -> Shown {
    let Label { person, camera } = side.labels[row];
    Shown {
        name: side.images.names[row].clone(),
        image,
        person: Some(match person {
            Person::Known(number) => called(&names.persons, number),
            Person::Distractor => "distractor".to_string(),
            Person::Junk => "junk".to_string(),
        }),
        camera: Some(called(&names.cameras, camera)),
    }
}

/// The name of a number, or the number.
fn called(names: &BTreeMap<u32, String>, number: u32) -> String {
    names.get(&number).cloned().unwrap_or_else(|| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::worst_and_best;

    #[test]
    fn half_of_the_lists_are_the_worst() {
        let scores = [Some(0.5), None, Some(0.1), Some(1.0), Some(0.5), Some(0.2)];
        for (count, wanted) in [
            (9, &[2, 5, 0, 4, 3][..]),
            (5, &[2, 5, 0, 4, 3]),
            (4, &[2, 5, 4, 3]),
            (3, &[2, 5, 3]),
            (1, &[2]),
            (0, &[]),
        ] {
            assert_eq!(worst_and_best(&scores, count), wanted, "{count}");
        }
        assert_eq!(worst_and_best(&[None], 3), [0usize; 0]);
    }
}
