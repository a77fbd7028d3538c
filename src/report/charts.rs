//! The page's curves as coordinates; `chart.html` makes SVG of them.

use super::{Curve, Report, Verification, distance_text, percent};
use crate::plot::{Axis, on_step, path, round_step, rounded};

/// Size of a chart, in SVG's units.
pub const WIDTH: f64 = 360.0;
pub const HEIGHT: f64 = 250.0;
/// Sides of the part where the lines are.
pub const LEFT: f64 = 46.0;
pub const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 10.0;
pub const BOTTOM: f64 = HEIGHT - 44.0;

/// The k of rank-k that have a dot.
const DOTTED: [usize; 4] = [1, 5, 10, 20];
/// Names of the two looks of a line in the style sheet.
const LOOKS: [&str; 2] = ["first", "second"];
/// The least false positive rate that is drawn: one pair in so many.
const MOST_PAIRS: f64 = 1e6;

/// A drawing with its words and its numbers.
pub struct Chart {
    pub id: &'static str,
    pub title: String,
    pub description: String,
    /// What stands below the lower axis.
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

/// A labelled place of an axis.
pub struct Tick {
    pub at: f64,
    pub label: String,
}

/// A line, maybe with the area below it.
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

/// An upright line with words beside it.
pub struct Mark {
    pub x: f64,
    pub top: f64,
    pub label: String,
    pub text_x: f64,
    pub anchor: &'static str,
}

/// The charts for which a report has numbers.
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

/// An axis along the lower side.
fn across(from: f64, to: f64) -> Axis {
    Axis::linear((from, to), (LEFT, RIGHT))
}

/// An upright axis from 0.
fn up(to: f64) -> Axis {
    Axis::linear((0.0, to), (BOTTOM, TOP))
}

/// Ticks of an axis; `text` makes a label of a value.
fn ticks(axis: Axis, step: f64, text: impl Fn(f64) -> String) -> Vec<Tick> {
    axis.ticks(step).into_iter().map(|(at, value)| Tick { at: rounded(at), label: text(value) }).collect()
}

/// Ticks at 0, 25, 50, 75 and 100 %.
fn shares_up() -> Vec<Tick> {
    ticks(up(1.0), 0.25, |share| format!("{} %", 100.0 * share))
}

/// CMC: rank across, share of the queries up.
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
        across: ticks.map(|k| Tick { at: x(k), label: k.to_string() }).collect(),
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
        let told: Vec<String> = dotted.map(|k| format!("{} at {k}", percent(shares[k - 1]))).collect();
        let name = if curves.len() > 1 { name } else { "Queries with a match among the first k" };
        sentences.push(format!("{name}: {}.", told.join(", ")));
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

/// Histogram: distance across, share of the pairs of a kind up; `None` without bins or pairs.
fn distances(verification: &Verification) -> Option<Chart> {
    let Verification { edges, same, different, thresholds, .. } = verification;
    let (first, last) = (f64::from(*edges.first()?), f64::from(*edges.last()?));
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
    // Room for the words at the thresholds.
    let step = round_step(100.0 * highest / 4.0);
    let percents = up((100.0 * highest / step).ceil() * step * 1.12);
    let apart = round_step(width / 6.0);
    let lines = LOOKS.into_iter().zip(kinds).map(|(class, (_, counts))| {
        let bin = |(i, count): (usize, &u64)| {
            let y = rounded(percents.at(100.0 * share(*count, counts)));
            [(x(edges[i]), y), (x(edges[i + 1]), y)]
        };
        let bins = counts.iter().enumerate().take(edges.len() - 1);
        let outline = path(bins.flat_map(bin));
        let area = Some(format!("{outline}V{BOTTOM}H{LEFT}Z"));
        Line { class, path: outline, area }
    });
    let marks = thresholds.iter().enumerate().map(|(i, (name, distance))| {
        let x = x(*distance);
        let left = x > (LEFT + RIGHT) / 2.0;
        Mark {
            x,
            top: TOP + 15.0 * i as f64,
            label: format!("{name}: {}", distance_text(*distance)),
            text_x: if left { x - 5.0 } else { x + 5.0 },
            anchor: if left { "end" } else { "start" },
        }
    });
    let told: Vec<String> =
        thresholds.iter().map(|(name, distance)| format!("{name} at {}", distance_text(*distance))).collect();
    let rows = edges.windows(2).zip(same.iter().zip(different));
    Some(Chart {
        id: "distances",
        title: "Distances of pairs".to_string(),
        description: format!(
            "{} pairs of the same person and {} of different persons, each kind as shares of its own number. \
             Threshold: {}.",
            same.iter().sum::<u64>(),
            different.iter().sum::<u64>(),
            if told.is_empty() { "none".to_string() } else { told.join(", ") }
        ),
        unit: "squared distance",
        across: ticks(axis, apart, |place| on_step(place, apart)),
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

/// ROC: false positive rate across, in powers of ten; true positive rate up.
fn operating(verification: &Verification) -> Chart {
    let Verification { different, roc, equal_error_rate, found, .. } = verification;
    let pairs = (different.iter().sum::<u64>() as f64).clamp(10.0, MOST_PAIRS);
    // Powers of ten below 1; no pair is a smaller share than this.
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
        across: (0..=powers).map(|power| Tick { at: x(10f64.powi(-power)), label: label(power) }).collect(),
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

/// A rate in percent, with no more decimals than it has.
fn rate_text(rate: f64) -> String {
    // 100 times a rate isn't exact.
    let percent = format!("{:.10}", 100.0 * rate);
    format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
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
    fn rates_are_told_in_percent() {
        assert_eq!([1e-2, 1e-4, 0.3, 0.05, 1.0].map(rate_text), ["1 %", "0.01 %", "30 %", "5 %", "100 %"]);
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
            thresholds: vec![("low".to_string(), 0.5), ("high".to_string(), 9.0)],
            roc: vec![(0.0, 0.75), (0.01, 0.9), (1.0, 1.0)],
            equal_error_rate: 0.1,
            found: vec![(1e-9, 0.75)],
        };
        let chart = distances(&verification).unwrap();
        assert_eq!((chart.marks[0].anchor, chart.marks[1].anchor), ("start", "end"));
        assert_eq!((chart.marks[0].x, chart.marks[1].x), (rounded(LEFT + 0.25 * (RIGHT - LEFT)), RIGHT));
        assert_eq!(chart.rows[1], ["1.0000", "2.0000", "1", "996"]);
        let chart = operating(&verification);
        // 996 pairs: three powers of ten.
        let labels: Vec<&str> = chart.across.iter().map(|tick| &*tick.label).collect();
        assert_eq!(labels, ["100 %", "10 %", "1 %", "0.1 %"]);
        assert_eq!((chart.across[0].at, chart.across[3].at, chart.dots[0].x), (RIGHT, LEFT, LEFT));
        assert!(chart.lines[0].path.starts_with(&format!("M{LEFT} ")), "{}", chart.lines[0].path);
        assert!(distances(&Verification { edges: vec![], ..verification.clone() }).is_none());
        assert!(distances(&Verification { edges: vec![1.0; 3], ..verification }).is_none());
    }
}
