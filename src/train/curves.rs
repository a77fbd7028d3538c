//! `curves.svg`: loss and accuracy over epochs with the openings of blocks marked, as in the paper's figure 2.

use std::path::Path;

use crate::error::Result;
use crate::plot::{self, Axis, Svg, on_step, round_step};
use crate::storage::atomic::write_atomically;
use crate::train::log::EpochLine;

/// Size of the image, in SVG's units.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 560.0;

/// Sides of both panels, left and right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 24.0;

/// Colours of lines and marks, for light and for dark surroundings.
const STYLE: &str = "\
.open{stroke:#8a919c;stroke-dasharray:3 4}.mark{fill:#8a919c}\
path.line{fill:none;stroke-width:2;stroke-linejoin:round}.train{stroke:#1f6fb4}.val{stroke:#c2571a}.rank1{stroke:#2f8a4c}.map{stroke:#8451b8}\
circle{stroke:none}circle.train{fill:#1f6fb4}circle.val{fill:#c2571a}circle.rank1{fill:#2f8a4c}circle.map{fill:#8451b8}\
@media(prefers-color-scheme:dark){.open{stroke:#7d8591}.mark{fill:#7d8591}\
.train{stroke:#6db3ec}.val{stroke:#f0a06c}.rank1{stroke:#6fcf91}.map{stroke:#c39bf0}\
circle.train{fill:#6db3ec}circle.val{fill:#f0a06c}circle.rank1{fill:#6fcf91}circle.map{fill:#c39bf0}}";

/// Draws the epochs into a file; `openings` are the epochs in which blocks opened.
///
/// # Errors
/// `Io` where it can't be written.
pub fn write(path: &Path, epochs: &[EpochLine], openings: &[usize]) -> Result<()> {
    write_atomically(path, draw(epochs, openings).as_bytes())
}

/// A line of the image.
struct Series {
    class: &'static str,
    /// (epoch, value), finite.
    points: Vec<(usize, f64)>,
}

impl Series {
    fn new(class: &'static str, epochs: &[EpochLine], value: impl Fn(&EpochLine) -> Option<f64>) -> Series {
        let point = |line: &EpochLine| Some((line.epoch, value(line).filter(|v| v.is_finite())?));
        Series { class, points: epochs.iter().filter_map(point).collect() }
    }
}

/// A coordinate system: epochs across, values up.
struct Panel {
    title: &'static str,
    top: f64,
    bottom: f64,
    /// Epochs at the left and right side.
    epochs: (usize, usize),
    /// Value at the top; 0 is at the bottom.
    highest: f64,
    /// From one labelled value to the next.
    step: f64,
}

/// The image as SVG; the same epochs give the same bytes.
pub fn draw(epochs: &[EpochLine], openings: &[usize]) -> String {
    let losses = [
        Series::new("train", epochs, |line| Some(line.train_loss)),
        Series::new("val", epochs, |line| line.val_loss),
    ];
    // Scores that choose the best epoch go before the test set's.
    let holds_out = epochs.iter().any(|line| line.val_map.is_some());
    let accuracies = [
        Series::new("val", epochs, |line| line.val_accuracy),
        Series::new(
            "rank1",
            epochs,
            |line| if holds_out { line.val_rank1 } else { Some(line.retrieval?.rank1) },
        ),
        Series::new("map", epochs, |line| if holds_out { line.val_map } else { Some(line.retrieval?.map) }),
    ];
    let retrieves = holds_out || epochs.iter().any(|line| line.retrieval.is_some());
    let first = epochs.iter().map(|line| line.epoch).min().unwrap_or(0);
    let last = epochs.iter().map(|line| line.epoch).max().unwrap_or(0);
    let greatest = losses.iter().flat_map(|s| &s.points).map(|(_, v)| *v).fold(0.0, f64::max);
    let step = round_step(greatest / 6.0);
    let loss = Panel {
        title: "loss, summed over parts",
        top: 52.0,
        bottom: 272.0,
        epochs: (first, last),
        highest: (greatest / step).ceil().max(1.0) * step,
        step,
    };
    let accuracy = Panel {
        title: match (holds_out, retrieves) {
            (true, _) => "accuracy; rank-1 and mAP of persons held out",
            (false, true) => "accuracy, rank-1 and mAP",
            (false, false) => "validation accuracy",
        },
        top: 320.0,
        bottom: 510.0,
        highest: 1.0,
        step: 0.25,
        ..loss
    };

    let mut svg = Svg::new((WIDTH, HEIGHT), "Loss and accuracy over epochs", STYLE);
    panel(&mut svg, &loss, &losses, openings);
    panel(&mut svg, &accuracy, &accuracies, openings);
    legend(&mut svg, retrieves);
    svg.finish()
}

/// Draws a coordinate system and what is in it.
fn panel(svg: &mut Svg, panel: &Panel, lines: &[Series], openings: &[usize]) {
    let (top, bottom, (first, last)) = (panel.top, panel.bottom, panel.epochs);
    let x = Axis::linear((first as f64, last as f64), (LEFT, RIGHT));
    let y = Axis::linear((0.0, panel.highest), (bottom, top));
    svg.text((LEFT, top - 12.0), "start", "", panel.title);
    for (at, value) in y.ticks(panel.step) {
        svg.put(format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>"));
        svg.text((LEFT - 8.0, at + 4.5), "end", "", &on_step(value, panel.step));
    }
    svg.put(format_args!("<path class=\"axis\" d=\"M{LEFT} {bottom}H{RIGHT}\"/>"));
    let every = round_step((last - first) as f64 / 12.0).max(1.0);
    for (at, epoch) in x.ticks(every) {
        svg.text((at, bottom + 18.0), "middle", "", &on_step(epoch, every));
    }
    for &epoch in openings.iter().filter(|epoch| (first..=last).contains(epoch)) {
        let x = x.at(epoch as f64);
        svg.put(format_args!("<path class=\"open\" d=\"M{x:.1} {top}V{bottom}\"/>"));
        let (l, r, tip) = (x - 4.0, x + 4.0, top + 6.0);
        svg.put(format_args!("<path class=\"mark\" d=\"M{l:.1} {top}H{r:.1}L{x:.1} {tip}Z\"/>"));
    }
    if lines.iter().all(|line| line.points.is_empty()) {
        svg.text(((LEFT + RIGHT) / 2.0, (top + bottom) / 2.0), "middle", "", "none measured");
    }
    for Series { class, points } in lines {
        let points = || points.iter().map(|&(epoch, value)| (x.at(epoch as f64), y.at(value)));
        for (x, y) in points() {
            svg.put(format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>"));
        }
        if points().len() > 1 {
            svg.put(format_args!("<path class=\"line {class}\" d=\"{}\"/>", plot::path(points())));
        }
    }
}

/// What the colours and marks mean, below both panels.
fn legend(svg: &mut Svg, retrieves: bool) {
    let y = HEIGHT - 14.0;
    svg.text((LEFT, y), "start", "", "epoch");
    let lines = [
        (160.0, "train", "training"),
        (280.0, "val", "validation"),
        (410.0, "rank1", "rank-1"),
        (510.0, "map", "mAP"),
    ];
    for (x, class, name) in lines.into_iter().take(if retrieves { 4 } else { 2 }) {
        let (end, middle) = (x + 22.0, y - 4.5);
        svg.put(format_args!("<path class=\"line {class}\" d=\"M{x} {middle}H{end}\"/>"));
        svg.text((end + 6.0, y), "start", "", name);
    }
    let (x, top, tip) = (620.0, y - 8.0, y - 2.0);
    svg.put(format_args!("<path class=\"mark\" d=\"M{x} {top}h8L{} {tip}Z\"/>", x + 4.0));
    svg.text((x + 14.0, y), "start", "", "a block opens");
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
        let svg = draw(&run(30), &[0, 2, 4]);
        check(&svg);
        assert_eq!(svg, draw(&run(30), &[0, 2, 4]));
        assert_eq!(svg.matches("class=\"open\"").count(), 6);
        assert_eq!(svg.matches("<circle").count(), 90);
        // Two lines of loss, one of accuracy, two in the legend.
        assert_eq!(svg.matches("class=\"line").count(), 5);
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
        let svg = draw(&epochs, &[]);
        check(&svg);
        for class in ["rank1", "map"] {
            // A line of two points, and one in the legend.
            assert_eq!(svg.matches(&format!("class=\"line {class}\"")).count(), 2);
            assert_eq!(svg.matches(&format!("circle class=\"{class}\"")).count(), 2);
        }
    }

    #[test]
    fn held_out_persons_have_lines_too() {
        let mut epochs = run(3);
        epochs.iter_mut().for_each(|line| (line.val_map, line.val_rank1) = (Some(0.25), Some(0.5)));
        let svg = draw(&epochs, &[]);
        check(&svg);
        assert!(svg.contains("persons held out") && svg.matches("circle class=\"map\"").count() == 3);
    }

    #[test]
    fn any_number_of_epochs_can_be_drawn() {
        for count in [0, 1, 2, 100] {
            check(&draw(&run(count), &[0, 50, 99]));
        }
        let mut odd = run(3);
        (odd[1].train_loss, odd[0].val_loss, odd[2].val_accuracy) = (f64::NAN, None, None);
        check(&draw(&odd, &[]));
        for line in &mut odd {
            (line.train_loss, line.val_loss, line.val_accuracy) = (0.0, None, None);
        }
        let svg = draw(&odd, &[]);
        check(&svg);
        assert!(svg.contains("none measured"));
    }
}
