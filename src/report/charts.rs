//! The page's charts as coordinates; `chart.html` makes SVG of them.

use super::{Curve, Report, Threshold, Verification, distance_text, percent, rate_text, strangers_text};
use crate::plot::{Axis, on_step, path, round_step, rounded};

/// Size of a chart, in SVG's units.
pub const WIDTH: f64 = 360.0;
pub const HEIGHT: f64 = 250.0;
/// Sides of the axes.
pub const LEFT: f64 = 46.0;
pub const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 10.0;
pub const BOTTOM: f64 = HEIGHT - 44.0;

/// The k of rank-k with a dot.
const DOTTED: [usize; 4] = [1, 5, 10, 20];
/// Classes of lines in the style sheet.
const LOOKS: [&str; 2] = ["first", "second"];
/// The least false positive rate that is drawn: one pair in so many.
const MOST_PAIRS: f64 = 1e6;
/// Share of the pairs of each kind that the histogram shows; the farthest are cut off.
const SHOWN_PAIRS: f64 = 0.999;
/// Width of a label's character, and the least space between two labels.
const CHARACTER: f64 = 6.5;
const SPACE: f64 = 8.0;

/// A chart with its texts and its table.
pub struct Chart {
    pub id: &'static str,
    pub title: String,
    pub description: String,
    /// Text below the lower axis.
    pub unit: &'static str,
    pub across: Vec<Tick>,
    pub up: Vec<Tick>,
    pub lines: Vec<Line>,
    pub dots: Vec<Dot>,
    pub marks: Vec<Mark>,
    /// (look, name) of the lines, where there are several.
    pub legend: Vec<(&'static str, String)>,
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A labelled place on an axis.
pub struct Tick {
    pub at: f64,
    pub label: String,
}

/// A line, optionally with the area below it.
pub struct Line {
    pub class: &'static str,
    pub path: String,
    pub area: Option<String>,
}

pub struct Dot {
    pub class: &'static str,
    pub x: f64,
    pub y: f64,
}

/// A vertical line with text beside it.
pub struct Mark {
    pub x: f64,
    pub top: f64,
    pub label: String,
    pub text_x: f64,
    pub anchor: &'static str,
}

/// The charts for which a report has data.
pub fn draw(report: &Report) -> Vec<Chart> {
    let curves: Vec<&Curve> = report.curves.iter().filter(|curve| !curve.shares.is_empty()).collect();
    let mut charts = Vec::new();
    if !curves.is_empty() {
        charts.push(matching(&curves));
    }
    if let Some(verification) = &report.verification {
        charts.extend(distances(verification));
        charts.push(operating(verification));
    }
    charts
}

/// A horizontal axis along the lower side.
fn across(from: f64, to: f64) -> Axis {
    Axis::linear((from, to), (LEFT, RIGHT))
}

/// A vertical axis from 0.
fn up(to: f64) -> Axis {
    Axis::linear((0.0, to), (BOTTOM, TOP))
}

/// Ticks of an axis; `text` makes a label of a value.
fn ticks(axis: Axis, step: f64, text: impl Fn(f64) -> String) -> Vec<Tick> {
    axis.ticks(step).into_iter().map(|(at, value)| Tick { at: rounded(at), label: text(value) }).collect()
}

/// The ticks of a horizontal axis, in order, without those whose label would touch an earlier one.
fn clear(ticks: Vec<Tick>) -> Vec<Tick> {
    let half = |tick: &Tick| CHARACTER * tick.label.chars().count() as f64 / 2.0;
    let mut kept: Vec<Tick> = Vec::new();
    for tick in ticks {
        let touches = |other: &Tick| (tick.at - other.at).abs() < half(&tick) + half(other) + SPACE;
        if !kept.iter().any(touches) {
            kept.push(tick);
        }
    }
    kept
}

/// Ticks at 0, 25, 50, 75 and 100 %.
fn shares_up() -> Vec<Tick> {
    ticks(up(1.0), 0.25, |share| format!("{} %", 100.0 * share))
}

/// The CMC: share of the queries by rank.
fn matching(curves: &[&Curve]) -> Chart {
    let depth = curves.iter().map(|curve| curve.shares.len()).max().unwrap_or(1);
    let (x, y) = (across(1.0, depth as f64), up(1.0));
    let x = |k: usize| rounded(x.at(k as f64));
    let step = round_step(depth as f64 / 6.0).max(1.0) as usize;
    let ticks = [1].into_iter().chain((1..=depth).filter(|k| *k > 1 && k.is_multiple_of(step)));
    let mut chart = Chart {
        id: "matching",
        title: "Found among the first k (CMC)".to_string(),
        description: String::new(),
        unit: "first k of the list",
        across: clear(ticks.map(|k| Tick { at: x(k), label: k.to_string() }).collect()),
        up: shares_up(),
        lines: Vec::new(),
        dots: Vec::new(),
        marks: Vec::new(),
        legend: Vec::new(),
        heads: vec!["k".to_string()],
        rows: (1..=depth).map(|k| vec![k.to_string()]).collect(),
    };
    let mut sentences = Vec::new();
    for (class, Curve { name, shares }) in LOOKS.into_iter().zip(curves) {
        let point = |k: usize| (x(k), rounded(y.at(shares[k - 1])));
        chart.lines.push(Line { class, path: path((1..=shares.len()).map(point)), area: None });
        let dotted = DOTTED.into_iter().filter(|k| *k <= shares.len());
        chart.dots.extend(dotted.clone().map(point).map(|(x, y)| Dot { class, x, y }));
        let values: Vec<String> = dotted.map(|k| format!("{} at {k}", percent(shares[k - 1]))).collect();
        let name = if curves.len() > 1 { name } else { "Queries with a match among the first k" };
        sentences.push(format!("{name}: {}.", values.join(", ")));
        chart.heads.push(if curves.len() > 1 { name.to_string() } else { "queries".to_string() });
        for (row, share) in chart.rows.iter_mut().zip(shares) {
            row.push(percent(*share));
        }
        if curves.len() > 1 {
            chart.legend.push((class, name.to_string()));
        }
    }
    chart.description = sentences.join(" ");
    chart
}

/// The number of first bins with [`SHOWN_PAIRS`] of the pairs.
fn shown_bins(counts: &[u64]) -> usize {
    let wanted = SHOWN_PAIRS * counts.iter().sum::<u64>() as f64;
    let mut sum = 0;
    let before = counts.iter().take_while(|count| {
        let missing = (sum as f64) < wanted;
        sum += **count;
        missing
    });
    before.count()
}

/// A histogram: share of the pairs of each kind by distance, up to the 99.9th percentile; `None` without bins or pairs.
fn distances(verification: &Verification) -> Option<Chart> {
    let Verification { edges, same, different, thresholds, gallery, .. } = verification;
    let shown = shown_bins(same).max(shown_bins(different));
    let (first, last) = (f64::from(*edges.first()?), f64::from(*edges.get(shown)?));
    let width = last - first;
    let axis = across(first, last);
    let x = |distance: f32| rounded(axis.at(f64::from(distance)));
    let kinds = [("same person", same), ("different persons", different)];
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
    let share = |count: u64, counts: &[u64]| count as f64 / total(counts).max(1.0);
    let highest = kinds.iter().flat_map(|(_, counts)| counts.iter().map(|count| share(*count, counts)));
    let highest = highest.fold(0.0, f64::max);
    if width <= 0.0 || highest <= 0.0 {
        return None;
    }
    // Room for the text at the thresholds.
    let step = round_step(100.0 * highest / 4.0);
    let percents = up((100.0 * highest / step).ceil() * step * 1.12);
    let apart = round_step(width / 6.0);
    let lines = LOOKS.into_iter().zip(kinds).map(|(class, (_, counts))| {
        let bin = |(i, count): (usize, &u64)| {
            let y = rounded(percents.at(100.0 * share(*count, counts)));
            [(x(edges[i]), y), (x(edges[i + 1]), y)]
        };
        let bins = counts.iter().enumerate().take(shown);
        let outline = path(bins.flat_map(bin));
        let area = Some(format!("{outline}V{BOTTOM}H{LEFT}Z"));
        Line { class, path: outline, area }
    });
    // The order in which no line crosses the text of one above it.
    let middle = (LEFT + RIGHT) / 2.0;
    let mut sorted: Vec<&Threshold> = thresholds.iter().collect();
    sorted.sort_by(|a, b| {
        let key = |threshold: &Threshold| {
            let x = x(threshold.distance);
            if x > middle { (true, -x) } else { (false, x) }
        };
        let ((a_side, a), (b_side, b)) = (key(a), key(b));
        a_side.cmp(&b_side).then(a.total_cmp(&b))
    });
    let marks = sorted.into_iter().enumerate().map(|(i, Threshold { name, distance, .. })| {
        let x = x(*distance);
        let left = x > middle;
        Mark {
            x,
            top: TOP + 15.0 * i as f64,
            label: format!("{name}: {}", distance_text(*distance)),
            text_x: if left { x - 5.0 } else { x + 5.0 },
            anchor: if left { "end" } else { "start" },
        }
    });
    let named = thresholds.iter().map(|Threshold { name, distance, false_match_rate }| {
        format!(
            " At {} ({name}): false-match rate {}, {} strangers expected in this gallery.",
            distance_text(*distance),
            rate_text(*false_match_rate),
            strangers_text(false_match_rate * *gallery as f64),
        )
    });
    let named: String = named.collect();
    let beyond: u64 = [same, different].iter().flat_map(|counts| counts.iter().skip(shown)).sum();
    let cut = match beyond {
        0 => String::new(),
        count => format!(" {count} pairs beyond the 99.9th percentile are not drawn."),
    };
    let rows = edges.windows(2).zip(same.iter().zip(different));
    Some(Chart {
        id: "distances",
        title: "Distances of pairs".to_string(),
        description: format!(
            "{} pairs of the same person and {} of different persons, each kind as shares of its own number.{cut}{named}",
            same.iter().sum::<u64>(),
            different.iter().sum::<u64>(),
        ),
        unit: "squared distance",
        across: clear(ticks(axis, apart, |place| on_step(place, apart))),
        up: ticks(percents, step, |level| format!("{} %", on_step(level, step))),
        lines: lines.collect(),
        dots: Vec::new(),
        marks: marks.collect(),
        legend: LOOKS.into_iter().zip(kinds).map(|(class, (name, _))| (class, name.to_string())).collect(),
        heads: ["from", "to", "same person", "different persons"].map(str::to_string).to_vec(),
        rows: rows
            .map(|(edges, (same, different))| {
                vec![
                    distance_text(edges[0]),
                    distance_text(edges[1]),
                    same.to_string(),
                    different.to_string(),
                ]
            })
            .collect(),
    })
}

/// The ROC: true positive rate by false positive rate, which is on a logarithmic axis.
fn operating(verification: &Verification) -> Chart {
    let Verification { different, roc, equal_error_rate, found, .. } = verification;
    let pairs = (different.iter().sum::<u64>() as f64).clamp(10.0, MOST_PAIRS);
    // Powers of ten below 1. One pair is no smaller share than the last.
    let powers = pairs.log10().ceil() as i32;
    let (x, y) = (Axis::logarithmic((10f64.powi(-powers), 1.0), (LEFT, RIGHT)), up(1.0));
    let (x, y) = (|rate: f64| rounded(x.at(rate)), |share: f64| rounded(y.at(share)));
    let label = |power: i32| if power == 0 { "100 %".to_string() } else { share_of_power(power) };
    let at: Vec<String> =
        found.iter().map(|(rate, share)| format!("{} at {}", percent(*share), rate_text(*rate))).collect();
    let dots = found.iter().copied().chain([(*equal_error_rate, 1.0 - equal_error_rate)]);
    Chart {
        id: "operating",
        title: "Same person or not (ROC)".to_string(),
        description: format!(
            "Equal error rate {}. True pairs found by false positive rate: {}.",
            percent(*equal_error_rate),
            if at.is_empty() { "not measured".to_string() } else { at.join(", ") }
        ),
        unit: "different persons taken for the same",
        across: clear(
            (0..=powers).map(|power| Tick { at: x(10f64.powi(-power)), label: label(power) }).collect(),
        ),
        up: shares_up(),
        lines: vec![Line {
            class: LOOKS[0],
            path: path(roc.iter().map(|(rate, share)| (x(*rate), y(*share)))),
            area: None,
        }],
        dots: dots.map(|(rate, share)| Dot { class: LOOKS[0], x: x(rate), y: y(share) }).collect(),
        marks: Vec::new(),
        legend: Vec::new(),
        heads: ["false positives", "true positives"].map(str::to_string).to_vec(),
        rows: roc
            .iter()
            .map(|(rate, share)| vec![format!("{:.4} %", 100.0 * rate), percent(*share)])
            .collect(),
    }
}

/// 10 to the power of minus `power`, in percent.
fn share_of_power(power: i32) -> String {
    let decimals = (power - 2).max(0) as usize;
    format!("{:.decimals$} %", 100.0 * 10f64.powi(-power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten_are_in_percent() {
        assert_eq!([1, 2, 3, 5].map(share_of_power), ["10 %", "1 %", "0.1 %", "0.001 %"]);
    }

    #[test]
    fn a_curve_runs_from_its_first_to_its_last_rank() {
        let curve = Curve { name: "plain".to_string(), shares: vec![0.5, 0.5, 1.0] };
        let chart = matching(&[&curve]);
        assert_eq!(chart.lines[0].path, format!("M{LEFT} 108L{} 108L{RIGHT} {TOP}", (LEFT + RIGHT) / 2.0));
        assert_eq!(chart.rows, [["1", "50.00\u{a0}%"], ["2", "50.00\u{a0}%"], ["3", "100.00\u{a0}%"]]);
        assert!(
            chart.legend.is_empty() && chart.description.contains("50.00\u{a0}% at 1."),
            "{}",
            chart.description
        );
        // One rank is a point, not a division by zero.
        let one = Curve { name: String::new(), shares: vec![1.0] };
        assert_eq!(matching(&[&one]).lines[0].path, format!("M{LEFT} {TOP}"));
    }

    #[test]
    fn distances_and_rates_stay_inside() {
        let verification = Verification {
            edges: vec![0.0, 1.0, 2.0],
            same: vec![3, 1],
            different: vec![0, 996],
            thresholds: [("low", 0.5, 0.0), ("high", 9.0, 1.0)]
                .map(|(name, distance, false_match_rate)| Threshold {
                    name: name.to_string(),
                    distance,
                    false_match_rate,
                })
                .to_vec(),
            gallery: 1501,
            roc: vec![(0.0, 0.75), (0.01, 0.9), (1.0, 1.0)],
            equal_error_rate: 0.1,
            found: vec![(1e-9, 0.75)],
        };
        let chart = distances(&verification).unwrap();
        assert_eq!((chart.marks[0].anchor, chart.marks[1].anchor), ("start", "end"));
        assert_eq!((chart.marks[0].x, chart.marks[1].x), (rounded(LEFT + 0.25 * (RIGHT - LEFT)), RIGHT));
        assert_eq!(chart.rows[1], ["1.0000", "2.0000", "1", "996"]);
        let expected = "At 9.0000 (high): false-match rate 100 %, 1501 strangers expected in this gallery.";
        assert!(chart.description.contains(expected), "{}", chart.description);
        let chart = operating(&verification);
        // 996 pairs: three powers of ten.
        let labels: Vec<&str> = chart.across.iter().map(|tick| &*tick.label).collect();
        assert_eq!(labels, ["100 %", "10 %", "1 %", "0.1 %"]);
        assert_eq!((chart.across[0].at, chart.across[3].at, chart.dots[0].x), (RIGHT, LEFT, LEFT));
        assert!(chart.lines[0].path.starts_with(&format!("M{LEFT} ")), "{}", chart.lines[0].path);
        let empty = Verification { edges: vec![], same: vec![], different: vec![], ..verification.clone() };
        assert!(distances(&empty).is_none());
        assert!(distances(&Verification { edges: vec![1.0; 3], ..verification }).is_none());
    }

    #[test]
    fn labels_of_ticks_do_not_touch() {
        for pairs in [10u64, 5_000, 250_000, 40_000_000] {
            let verification = Verification { different: vec![pairs], ..Verification::default() };
            let ticks = operating(&verification).across;
            assert_eq!((ticks[0].label.as_str(), ticks[0].at), ("100 %", RIGHT));
            for pair in ticks.windows(2) {
                let widths = pair.iter().map(|tick| CHARACTER * tick.label.chars().count() as f64);
                assert!(pair[0].at - pair[1].at >= widths.sum::<f64>() / 2.0 + SPACE, "{pairs} pairs");
            }
        }
    }

    #[test]
    fn the_histogram_ends_at_the_99_9th_percentile() {
        let verification = Verification {
            edges: (0..=10).map(|edge| edge as f32).collect(),
            same: vec![500, 500, 0, 0, 0, 0, 0, 0, 0, 0],
            different: vec![0, 0, 5000, 4995, 0, 0, 0, 0, 0, 5],
            ..Verification::default()
        };
        let chart = distances(&verification).unwrap();
        let last = chart.across.last().unwrap();
        assert_eq!((last.label.as_str(), last.at), ("4", RIGHT));
        assert!(chart.description.contains(" 5 pairs beyond the 99.9th percentile"), "{}", chart.description);
        // The table has all bins.
        assert_eq!(chart.rows.len(), 10);
        let near = Verification { different: vec![10; 10], ..verification };
        let chart = distances(&near).unwrap();
        assert_eq!(chart.across.last().unwrap().label, "10");
        assert!(!chart.description.contains("percentile"), "{}", chart.description);
    }
}
