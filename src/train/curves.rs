//! `curves.svg`: loss and accuracy over epochs with the openings of blocks marked, as in the paper's figure 2.

use std::fmt::Write;
use std::path::Path;

use crate::error::Result;
use crate::storage::atomic::write_atomically;
use crate::train::log::EpochLine;

/// Size of the picture, in SVG's units.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 560.0;

/// Sides of both panels, left and right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 24.0;

/// Colours for light and for dark surroundings; the picture brings its own ground.
const STYLE: &str = "\
svg{font:13px system-ui,sans-serif}.ground{fill:#fff}text{fill:#2b2f36}.grid{stroke:#e2e5ea}.axis{stroke:#8a919c}\
.open{stroke:#8a919c;stroke-dasharray:3 4}.mark{fill:#8a919c}\
path.line{fill:none;stroke-width:2;stroke-linejoin:round}.train{stroke:#1f6fb4}.val{stroke:#c2571a}.rank1{stroke:#2f8a4c}.map{stroke:#8451b8}\
circle{stroke:none}circle.train{fill:#1f6fb4}circle.val{fill:#c2571a}circle.rank1{fill:#2f8a4c}circle.map{fill:#8451b8}\
@media(prefers-color-scheme:dark){.ground{fill:#16191f}text{fill:#d7dbe2}.grid{stroke:#2c313a}.axis{stroke:#7d8591}\
.open{stroke:#7d8591}.mark{fill:#7d8591}.train{stroke:#6db3ec}.val{stroke:#f0a06c}.rank1{stroke:#6fcf91}.map{stroke:#c39bf0}\
circle.train{fill:#6db3ec}circle.val{fill:#f0a06c}circle.rank1{fill:#6fcf91}circle.map{fill:#c39bf0}}";

/// Draws the epochs into a file; `openings` are the epochs in which blocks opened.
///
/// # Errors
/// `Io` where it can't be written.
pub fn write(path: &Path, epochs: &[EpochLine], openings: &[usize]) -> Result<()> {
    write_atomically(path, draw(epochs, openings).as_bytes())
}

/// A line of the picture.
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

impl Panel {
    fn x(&self, epoch: usize) -> f64 {
        let (first, last) = self.epochs;
        let span = (last - first).max(1) as f64;
        LEFT + (RIGHT - LEFT) * (epoch - first) as f64 / span
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * value / self.highest
    }
}

/// The picture as SVG; the same epochs give the same bytes.
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

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>Loss and accuracy over epochs</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n"
    );
    panel(&mut svg, &loss, &losses, openings);
    panel(&mut svg, &accuracy, &accuracies, openings);
    legend(&mut svg, retrieves);
    svg.push_str("</svg>\n");
    svg
}

/// Draws a coordinate system and what is in it.
fn panel(svg: &mut String, panel: &Panel, lines: &[Series], openings: &[usize]) {
    let (top, bottom, (first, last)) = (panel.top, panel.bottom, panel.epochs);
    text(svg, LEFT, top - 12.0, "start", panel.title);
    let count = (panel.highest / panel.step).round() as usize;
    for tick in 0..=count {
        let value = tick as f64 * panel.step;
        let y = panel.y(value);
        put(svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>"));
        let decimals = if panel.step >= 1.0 { 0 } else { decimals(panel.step) };
        text(svg, LEFT - 8.0, y + 4.5, "end", &format!("{value:.decimals$}"));
    }
    put(svg, format_args!("<path class=\"axis\" d=\"M{LEFT} {bottom}H{RIGHT}\"/>"));
    let every = (round_step((last - first) as f64 / 12.0) as usize).max(1);
    for epoch in (first..=last).filter(|epoch| epoch.is_multiple_of(every)) {
        text(svg, panel.x(epoch), bottom + 18.0, "middle", &epoch.to_string());
    }
    for &epoch in openings.iter().filter(|epoch| (first..=last).contains(epoch)) {
        let x = panel.x(epoch);
        put(svg, format_args!("<path class=\"open\" d=\"M{x:.1} {top}V{bottom}\"/>"));
        let (l, r, tip) = (x - 4.0, x + 4.0, top + 6.0);
        put(svg, format_args!("<path class=\"mark\" d=\"M{l:.1} {top}H{r:.1}L{x:.1} {tip}Z\"/>"));
    }
    if lines.iter().all(|line| line.points.is_empty()) {
        text(svg, (LEFT + RIGHT) / 2.0, (top + bottom) / 2.0, "middle", "none measured");
    }
    for Series { class, points } in lines {
        let mut path = String::new();
        for &(epoch, value) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let (x, y) = (panel.x(epoch), panel.y(value));
            path.push_str(&format!("{command}{x:.1} {y:.1}"));
            put(svg, format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>"));
        }
        if points.len() > 1 {
            put(svg, format_args!("<path class=\"line {class}\" d=\"{path}\"/>"));
        }
    }
}

/// What the colours and marks mean, below both panels.
fn legend(svg: &mut String, retrieves: bool) {
    let y = HEIGHT - 14.0;
    text(svg, LEFT, y, "start", "epoch");
    let lines = [
        (160.0, "train", "training"),
        (280.0, "val", "validation"),
        (410.0, "rank1", "rank-1"),
        (510.0, "map", "mAP"),
    ];
    for (x, class, name) in lines.into_iter().take(if retrieves { 4 } else { 2 }) {
        let (end, middle) = (x + 22.0, y - 4.5);
        put(svg, format_args!("<path class=\"line {class}\" d=\"M{x} {middle}H{end}\"/>"));
        text(svg, end + 6.0, y, "start", name);
    }
    let (x, top, tip) = (620.0, y - 8.0, y - 2.0);
    put(svg, format_args!("<path class=\"mark\" d=\"M{x} {top}h8L{} {tip}Z\"/>", x + 4.0));
    text(svg, x + 14.0, y, "start", "a block opens");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    put(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"));
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing into a string can't fail.
    let _ = svg.write_fmt(element);
    svg.push('\n');
}

/// The next of 1, 2, 5, 10, 20, … or their tenths.
fn round_step(least: f64) -> f64 {
    if !(least.is_finite() && least > 1e-9) {
        return 1.0;
    }
    let power = 10f64.powi(least.log10().floor() as i32);
    [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

/// Digits after the point that show multiples of a step below 1.
fn decimals(step: f64) -> usize {
    (1..9).find(|&count| (step * 10f64.powi(count)).fract().abs() < 1e-6).unwrap_or(9) as usize
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
    fn the_same_epochs_give_the_same_picture() {
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

    #[test]
    fn steps_are_round() {
        for (least, step, digits) in
            [(0.03, 0.05, 2), (0.25, 0.5, 1), (1.0, 1.0, 1), (1.1, 2.0, 1), (23.0, 50.0, 1)]
        {
            assert!((round_step(least) - step).abs() < 1e-12);
            assert_eq!(decimals(step), digits);
        }
        assert_eq!((round_step(0.0), decimals(0.25)), (1.0, 2));
    }
}
