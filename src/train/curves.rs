//! `curves.svg`: loss and scores by epoch, with the best epoch and the epochs at which blocks open (as in the paper's
//! figure 2).

use std::path::Path;

use crate::error::Result;
use crate::plot::{self, Axis, Svg, on_step, round_step, spread};
use crate::storage::atomic::write_atomically;
use crate::train::log::{ClusterCounts, EpochLine};

/// Width of the chart, in SVG's units.
const WIDTH: f64 = 760.0;

/// Sides of the panels; to the right of them are the lines' names and last values.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 150.0;

/// The top of the first panel, the height of each, and from the bottom of one to the top of the next.
const TOP: f64 = 98.0;
const PANEL: f64 = 200.0;
const BETWEEN: f64 = 80.0;

/// Least distance between names beside a panel.
const LINE: f64 = 17.0;

/// Colours of lines and marks, in light and dark mode.
const STYLE: &str = "\
.open{stroke:#8a919c;stroke-dasharray:3 4}.mark{fill:#8a919c}.best{stroke:#2b2f36;stroke-width:1.25}\
path.line{fill:none;stroke-width:2;stroke-linejoin:round}circle{stroke:none}circle.chosen{fill:none;stroke:#2b2f36;stroke-width:1.5}\
path.train{stroke:#1f6fb4}path.val{stroke:#b04a12}path.rank1{stroke:#217a3d}path.map{stroke:#7a45b0}\
circle.train,text.train{fill:#1f6fb4}circle.val,text.val{fill:#b04a12}circle.rank1,text.rank1{fill:#217a3d}circle.map,text.map{fill:#7a45b0}\
@media(prefers-color-scheme:dark){.open{stroke:#7d8591}.mark{fill:#7d8591}.best,circle.chosen{stroke:#d7dbe2}\
path.train{stroke:#6db3ec}path.val{stroke:#f0a06c}path.rank1{stroke:#6fcf91}path.map{stroke:#c39bf0}\
circle.train,text.train{fill:#6db3ec}circle.val,text.val{fill:#f0a06c}circle.rank1,text.rank1{fill:#6fcf91}circle.map,text.map{fill:#c39bf0}}";

/// Draws the epochs into a file. `openings` are the epochs in which blocks open, `best` is the epoch that
/// `best.safetensors` holds; both count from 0, the chart counts from 1.
///
/// # Errors
/// `Io` where it can't be written.
pub fn write(path: &Path, epochs: &[EpochLine], openings: &[usize], best: Option<usize>) -> Result<()> {
    write_atomically(path, draw(epochs, openings, best).as_bytes())
}

/// A line of the chart.
struct Series {
    class: &'static str,
    name: String,
    /// (epoch, value), finite.
    points: Vec<(usize, f64)>,
}

impl Series {
    fn new(
        class: &'static str,
        name: impl Into<String>,
        epochs: &[EpochLine],
        value: impl Fn(&EpochLine) -> Option<f64>,
    ) -> Series {
        let point = |line: &EpochLine| Some((line.epoch, value(line).filter(|v| v.is_finite())?));
        Series { class, name: name.into(), points: epochs.iter().filter_map(point).collect() }
    }
}

/// A coordinate system: epochs across, values up.
struct Panel {
    title: &'static str,
    lines: Vec<Series>,
    /// Values are losses, or shares, which are written in percent.
    are_shares: bool,
}

impl Panel {
    fn text(&self, value: f64) -> String {
        match self.are_shares {
            true => format!("{:.1} %", 100.0 * value),
            // Three digits, but no more than three decimals.
            false => format!("{value:.0$}", (2.0 - value.abs().log10().floor()).clamp(0.0, 3.0) as usize),
        }
    }
}

/// The chart as SVG; the same epochs give the same bytes.
pub fn draw(epochs: &[EpochLine], openings: &[usize], best: Option<usize>) -> String {
    // Scores that choose the best epoch go before the test set's.
    let holds_out = epochs.iter().any(|line| line.val_map.is_some());
    let retrieves = epochs.iter().any(|line| line.retrieval.is_some());
    let rank1 =
        |line: &EpochLine| if holds_out { line.val_rank1 } else { line.retrieval.map(|scores| scores.rank1) };
    let map =
        |line: &EpochLine| if holds_out { line.val_map } else { line.retrieval.map(|scores| scores.map) };
    let mut panels = vec![
        Panel {
            title: "Loss, summed over parts",
            lines: vec![
                Series::new("train", "training", epochs, |line| Some(line.train_loss)),
                Series::new("val", "validation", epochs, |line| line.val_loss),
            ],
            are_shares: false,
        },
        Panel {
            title: match (holds_out, retrieves) {
                (true, _) => "Validation accuracy; rank-1 and mAP of persons held out",
                (false, true) => "Validation accuracy; rank-1 and mAP on the test set",
                (false, false) => "Validation accuracy",
            },
            lines: vec![
                Series::new("val", "accuracy", epochs, |line| line.val_accuracy),
                Series::new("rank1", "rank-1", epochs, rank1),
                Series::new("map", "mAP", epochs, map),
            ],
            are_shares: true,
        },
    ];
    let counted = |count: fn(ClusterCounts) -> usize| {
        move |line: &EpochLine| line.clusters.map(|counts| count(counts) as f64)
    };
    panels.push(Panel {
        title: "Clusters, and images in no cluster",
        lines: vec![
            Series::new("train", "clusters", epochs, counted(|counts| counts.clusters)),
            Series::new("val", "outliers", epochs, counted(|counts| counts.outliers)),
        ],
        are_shares: false,
    });
    let title = match epochs.len() {
        1 => "Training: 1 epoch".to_string(),
        count => format!("Training: {count} epochs"),
    };
    draw_panels(&title, panels, epochs.iter().map(|line| line.epoch), openings, best)
}

/// Draws panels below each other, without those that have no value. `epochs` are all epochs that they show.
fn draw_panels(
    title: &str,
    mut panels: Vec<Panel>,
    epochs: impl Iterator<Item = usize> + Clone,
    openings: &[usize],
    best: Option<usize>,
) -> String {
    for panel in &mut panels {
        panel.lines.retain(|line| !line.points.is_empty());
    }
    panels.retain(|panel| !panel.lines.is_empty());

    let height = TOP + panels.len().max(1) as f64 * (PANEL + BETWEEN) - 46.0;
    let mut svg = Svg::new((WIDTH, height), title, STYLE);
    svg.text((LEFT, 30.0), "start", "title", title);
    if panels.is_empty() {
        svg.text((LEFT, TOP), "start", "quiet", "No epoch has a finite loss.");
    }
    let first = epochs.clone().min().unwrap_or(0);
    let last = epochs.max().unwrap_or(0);
    let x = Axis::linear((first as f64, last as f64), (LEFT, RIGHT));
    let inside = |epoch: &usize| (first..=last).contains(epoch);
    let openings: Vec<usize> = openings.iter().copied().filter(inside).collect();
    if !openings.is_empty() {
        svg.put(format_args!("<path class=\"mark\" d=\"M{RIGHT} 21h8l-4 6Z\"/>"));
        svg.text((RIGHT + 14.0, 30.0), "start", "quiet", "a block opens");
    }
    let mut top = TOP;
    for panel in &panels {
        draw_panel(&mut svg, panel, top, &x, (first, last), &openings, best.filter(inside));
        top += PANEL + BETWEEN;
    }
    svg.finish()
}

/// Classes of the lines of [`overlay`], each of another colour.
const RUNS: [&str; 4] = ["train", "val", "rank1", "map"];

/// Most characters of a run's name beside a panel.
const NAME: usize = 14;

/// Charts of several runs over each other as SVG: the training loss, and rank-1 and mAP where they were measured. `runs`
/// are names and epochs.
pub fn overlay(runs: &[(&str, &[EpochLine])]) -> String {
    let panel = |title, are_shares, value: fn(&EpochLine) -> Option<f64>| Panel {
        title,
        lines: runs
            .iter()
            .enumerate()
            .map(|(place, (name, epochs))| Series::new(RUNS[place % RUNS.len()], end_of(name), epochs, value))
            .collect(),
        are_shares,
    };
    let panels = vec![
        panel("Training loss", false, |line| Some(line.train_loss)),
        panel("Rank-1", true, |line| line.scores().map(|(rank1, _)| rank1)),
        panel("mAP", true, |line| line.scores().map(|(_, map)| map)),
    ];
    let epochs = runs.iter().flat_map(|(_, epochs)| epochs.iter().map(|line| line.epoch));
    let title = format!("{} run{}", runs.len(), if runs.len() == 1 { "" } else { "s" });
    draw_panels(&title, panels, epochs, &[], None)
}

/// The end of a name that is too long for its place.
fn end_of(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        name.to_string()
    } else {
        format!("…{}", name.chars().skip(length - NAME + 1).collect::<String>())
    }
}

/// Draws a coordinate system and its lines.
fn draw_panel(
    svg: &mut Svg,
    panel: &Panel,
    top: f64,
    x: &Axis,
    (first, last): (usize, usize),
    openings: &[usize],
    best: Option<usize>,
) {
    let bottom = top + PANEL;
    let values = panel.lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
    let bounds = (0.0, if panel.are_shares { 1.0 } else { f64::INFINITY });
    let (y, step) = Axis::fitted(values, 5.0, bounds, (bottom, top));
    let above = if best.is_some() { 32.0 } else { 13.0 };
    svg.text((LEFT, top - above), "start", "", panel.title);
    for (at, value) in y.ticks(step) {
        svg.put(format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>"));
        let label = match panel.are_shares {
            true => format!("{} %", on_step(100.0 * value, 100.0 * step)),
            false => on_step(value, step),
        };
        svg.text((LEFT - 8.0, at + 4.5), "end", "", &label);
    }
    svg.put(format_args!("<path class=\"axis\" d=\"M{LEFT} {bottom}H{RIGHT}\"/>"));
    // Epochs count from 1 for the reader.
    let every = round_step((last - first) as f64 / 12.0).max(1.0) as usize;
    let numbered = (first + 1..=last + 1).filter(|epoch| *epoch == first + 1 || epoch.is_multiple_of(every));
    let room = 26.0;
    let mut free = f64::NEG_INFINITY;
    for epoch in numbered {
        let at = x.at((epoch - 1) as f64);
        if at >= free {
            svg.text((at, bottom + 18.0), "middle", "", &epoch.to_string());
            free = at + room;
        }
    }
    svg.text((RIGHT + 20.0, bottom + 18.0), "start", "quiet", "epoch");
    for &epoch in openings {
        let x = x.at(epoch as f64);
        svg.put(format_args!("<path class=\"open\" d=\"M{x:.1} {top}V{bottom}\"/>"));
        svg.put(format_args!("<path class=\"mark\" d=\"M{:.1} {top}h8l-4 6Z\"/>", x - 4.0));
    }
    if let Some(best) = best {
        let at = x.at(best as f64);
        svg.put(format_args!("<path class=\"best\" d=\"M{at:.1} {top}V{bottom}\"/>"));
    }
    for Series { class, points, .. } in &panel.lines {
        let places = || points.iter().map(|&(epoch, value)| (x.at(epoch as f64), y.at(value)));
        if points.len() > 1 {
            svg.put(format_args!("<path class=\"line {class}\" d=\"{}\"/>", plot::path(places())));
        }
        for ((x, y), (epoch, _)) in places().zip(points) {
            svg.put(format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>"));
            if best == Some(*epoch) {
                svg.put(format_args!("<circle class=\"chosen\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"));
            }
        }
    }
    write_values(svg, panel, &y, (top, bottom), best);
}

/// Names and last values beside the lines, and the values of the best epoch above the panel.
fn write_values(svg: &mut Svg, panel: &Panel, y: &Axis, (top, bottom): (f64, f64), best: Option<usize>) {
    let last = |line: &Series| line.points.last().map_or(0.0, |(_, value)| *value);
    let mut heights: Vec<f64> = panel.lines.iter().map(|line| y.at(last(line)) + 4.5).collect();
    spread(&mut heights, LINE, (top + 4.5, bottom + 4.5));
    for (line, height) in panel.lines.iter().zip(heights) {
        let label = format!("{} {}", line.name, panel.text(last(line)));
        svg.text((RIGHT + 10.0, height), "start", line.class, &label);
    }
    let Some(best) = best else { return };
    let at_best = panel.lines.iter().filter_map(|line| {
        let (_, value) = line.points.iter().find(|(epoch, _)| *epoch == best)?;
        Some(format!("{} {}", line.name, panel.text(*value)))
    });
    let values = at_best.collect::<Vec<_>>().join(", ");
    if !values.is_empty() {
        let label = format!("best epoch {}: {values}", best + 1);
        svg.text((LEFT, top - 13.0), "start", "quiet", &label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(count: usize) -> Vec<EpochLine> {
        let line = |epoch: usize| EpochLine {
            epoch,
            train_loss: 90.0 / (1 + epoch) as f64,
            val_loss: Some(95.0 / (1 + epoch) as f64),
            val_accuracy: Some(1.0 - 1.0 / (1 + epoch) as f64),
            seconds: 1.0,
            ..EpochLine::default()
        };
        (0..count).map(line).collect()
    }

    /// Every element is closed and every number is one.
    fn check(svg: &str) {
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for line in svg.lines().skip(3).filter(|line| *line != "</svg>") {
            assert!(line.ends_with("/>") || line.ends_with("</text>"), "{line}");
        }
    }

    #[test]
    fn the_same_epochs_give_the_same_image() {
        let svg = draw(&run(30), &[0, 2, 4], Some(28));
        check(&svg);
        assert_eq!(svg, draw(&run(30), &[0, 2, 4], Some(28)));
        assert_eq!(svg.matches("class=\"open\"").count(), 6);
        assert_eq!(svg.matches("<circle").count(), 90 + 3);
        // Two lines of loss, one of accuracy.
        assert_eq!(svg.matches("class=\"line").count(), 3);
    }

    #[test]
    fn retrieval_scores_are_lines_of_their_own() {
        let mut epochs = run(4);
        for line in epochs.iter_mut().skip(1).step_by(2) {
            let (rank1, map) = (0.5, 0.25);
            line.retrieval = Some(crate::train::log::RetrievalScores {
                rank1,
                rank5: 1.0,
                rank10: 1.0,
                rank20: 1.0,
                map,
                minp: 0.1,
            });
        }
        let svg = draw(&epochs, &[], None);
        check(&svg);
        for class in ["rank1", "map"] {
            assert_eq!(svg.matches(&format!("class=\"line {class}\"")).count(), 1);
            assert_eq!(svg.matches(&format!("circle class=\"{class}\"")).count(), 2);
        }
    }

    #[test]
    fn held_out_persons_have_lines_too() {
        let mut epochs = run(3);
        epochs.iter_mut().for_each(|line| (line.val_map, line.val_rank1) = (Some(0.25), Some(0.5)));
        let svg = draw(&epochs, &[], None);
        check(&svg);
        assert!(svg.contains("persons held out") && svg.matches("circle class=\"map\"").count() == 3);
    }

    #[test]
    fn runs_are_drawn_over_each_other() {
        let (short, long) = (run(3), run(7));
        let svg = overlay(&[("runs/a&b", &short), ("a/very/long/name/of/a/run", &long)]);
        check(&svg);
        // Only losses were measured.
        assert_eq!(svg.matches("class=\"line").count(), 2);
        assert!(svg.contains(">2 runs</text>") && svg.contains(">runs/a&amp;b 30.0</text>"), "{svg}");
        assert!(svg.contains(">…name/of/a/run 12.9</text>"), "{svg}");
        check(&overlay(&[("none", &[])]));
    }

    #[test]
    fn clusters_have_a_panel_of_their_own() {
        let mut epochs = run(3);
        for (line, clusters) in epochs.iter_mut().zip([40, 52, 61]) {
            line.clusters = Some(ClusterCounts { clusters, outliers: 100 - clusters, largest: 9, eps: 0.5 });
        }
        let svg = draw(&epochs, &[], None);
        check(&svg);
        assert!(svg.contains(">clusters 61.0</text>") && svg.contains(">outliers 39.0</text>"), "{svg}");
        assert!(!draw(&run(3), &[], None).contains("Clusters"));
    }

    #[test]
    fn any_number_of_epochs_can_be_drawn() {
        for count in [0, 1, 2, 100] {
            check(&draw(&run(count), &[0, 50, 99], Some(0)));
        }
        let mut odd = run(3);
        (odd[1].train_loss, odd[0].val_loss, odd[2].val_accuracy) = (f64::NAN, None, None);
        check(&draw(&odd, &[], None));
        for line in &mut odd {
            (line.train_loss, line.val_loss, line.val_accuracy) = (0.0, None, None);
        }
        check(&draw(&odd, &[], None));
        odd.iter_mut().for_each(|line| line.train_loss = f64::NAN);
        let svg = draw(&odd, &[], None);
        check(&svg);
        assert!(svg.contains("No epoch has a finite loss"));
    }

    #[test]
    fn a_title_the_best_epoch_and_last_values_are_written() {
        let svg = draw(&run(30), &[], Some(19));
        check(&svg);
        assert!(svg.contains(">Training: 30 epochs</text>"));
        // 90 / 20, 95 / 20 and 1 - 1 / 20; 90 / 30, 95 / 30 and 1 - 1 / 30.
        for label in [
            "best epoch 20: training 4.50, validation 4.75",
            "best epoch 20: accuracy 95.0 %",
            "training 3.00",
            "validation 3.17",
            "accuracy 96.7 %",
        ] {
            assert!(svg.contains(&format!(">{label}</text>")), "{label} in {svg}");
        }
        assert_eq!(svg.matches("class=\"best\"").count(), 2);
        assert_eq!(svg.matches("class=\"chosen\"").count(), 3);
        let svg = draw(&run(30), &[], None);
        assert!(!svg.contains("best epoch") && !svg.contains("class=\"best\""));
    }

    #[test]
    fn panels_without_values_are_left_out() {
        let mut epochs = run(30);
        epochs.iter_mut().for_each(|line| line.val_accuracy = None);
        let svg = draw(&epochs, &[], None);
        assert_eq!(svg.matches("class=\"axis\"").count(), 1);
        assert!(!svg.contains("accuracy"), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 760 332\""), "{svg}");
        assert!(draw(&run(30), &[], None).contains("viewBox=\"0 0 760 612\""));
    }

    #[test]
    fn axes_are_fitted_to_the_values() {
        let mut epochs = run(5);
        for (line, accuracy) in epochs.iter_mut().zip([0.93, 0.94, 0.96, 0.955, 0.97]) {
            (line.train_loss, line.val_loss, line.val_accuracy) = (80.0 + accuracy, None, Some(accuracy));
        }
        let svg = draw(&epochs, &[], None);
        for label in ["80.93", "80.97", "93 %", "97 %"] {
            assert!(svg.contains(&format!(">{label}</text>")), "{label} in {svg}");
        }
        assert!(!svg.contains(">0</text>") && !svg.contains(">100 %</text>"), "{svg}");
    }
}
