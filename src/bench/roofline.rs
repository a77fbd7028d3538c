//! The roofline: operations a second over operations per byte, both on logarithmic axes, under the adapter's roofs.
//!
//! Every row is a dot; a label names the kernel family of the dots beside it. The list below the axes has the rows'
//! shares of their roofs, and a dot shows its row's figures when a pointer rests on it.

use super::report::{Limit, Report, RowReport};
use crate::plot::{Axis, Svg, escaped, on_step};

/// Width of the chart, in SVG's units.
const WIDTH: f64 = 960.0;

/// Sides of the axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 78.0;
const BOTTOM: f64 = 560.0;

/// Factor between the outermost dots and the ends of an axis.
const MARGIN: f64 = 1.5;

/// Width of a label's character, height of a label, and the distance between lines of the list.
const CHARACTER: f64 = 6.6;
const LABEL: f64 = 13.0;
const LINE: f64 = 15.0;

/// Columns of the list.
const COLUMNS: usize = 3;

/// Colours of roofs and dots, in light and dark mode.
const STYLE: &str = "\
.small{font-size:11px}.roof{fill:none;stroke:#2b2f36;stroke-width:2}.lead{stroke:#8a919c}\
.arithmetic{fill:#1f6fb4}.memory{fill:#c2571a}.dot{fill-opacity:.8}\
@media(prefers-color-scheme:dark){.roof{stroke:#d7dbe2}.lead{stroke:#7d8591}.arithmetic{fill:#6db3ec}.memory{fill:#f0a06c}}";

/// A level of the roof and its label.
type Level = (f64, String);

/// The chart as SVG; the same figures give the same bytes.
pub fn draw(report: &Report) -> String {
    let Report { roof, rows, machine, .. } = report;
    let mut levels = vec![(roof.gflops, format!("multiply-adds: {:.1} GFLOP/s", roof.gflops))];
    if let Some(units) = &roof.matrix_units
        && rows.iter().any(|row| row.limit == Limit::MatrixUnits)
    {
        levels.push((units.gflops, format!("matrix units: {:.1} GFLOP/s", units.gflops)));
    }
    let computing = || rows.iter().filter(|row| row.flops > 0.0);
    let ridge = roof.gflops / roof.gbps;
    let intensities: Vec<f64> = computing().map(|row| row.intensity).collect();
    // Without a dot there is the ridge to look at.
    let intensities = if intensities.is_empty() { vec![ridge / MARGIN, ridge * MARGIN] } else { intensities };
    let x = Axis::around(intensities.into_iter(), MARGIN, (LEFT, RIGHT));
    let highest = levels.iter().map(|(gflops, _)| gflops.min(x.greatest() * roof.gbps));
    let y = Axis::around(computing().map(|row| row.gflops).chain(highest), MARGIN, (BOTTOM, TOP));
    let lines = rows.len().div_ceil(COLUMNS);
    let height = BOTTOM + 64.0 + LINE * lines as f64 + 16.0;

    let title = format!("Roofline: {}, {}", machine.adapter, machine.precision);
    let mut svg = Svg::new((WIDTH, height), &title, STYLE);
    svg.text((LEFT, 30.0), "start", "title", &title);
    svg.text((LEFT, 60.0), "start", "small", "GFLOP/s");
    for (at, value) in y.ticks(1.0) {
        svg.put(format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>"));
        svg.text((LEFT - 8.0, at + 4.0), "end", "small", &on_step(value, value));
    }
    for (at, value) in x.ticks(1.0) {
        svg.put(format_args!("<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>"));
        svg.text((at, BOTTOM + 17.0), "middle", "small", &on_step(value, value));
    }
    svg.put(format_args!("<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>"));
    svg.text((RIGHT, BOTTOM + 34.0), "end", "small", "floating-point operations per byte");
    for (left, class, words) in
        [(LEFT, "arithmetic", "limited by arithmetic"), (LEFT + 160.0, "memory", "limited by memory")]
    {
        let (middle, base) = (BOTTOM + 30.0, BOTTOM + 34.0);
        svg.put(format_args!("<circle class=\"{class}\" cx=\"{left:.1}\" cy=\"{middle:.1}\" r=\"3.5\"/>"));
        svg.text((left + 10.0, base), "start", "small", words);
    }
    let mut taken = Taken::default();
    roofs(&mut svg, &levels, roof.gbps, &x, &y, &mut taken);
    dots(&mut svg, rows, &x, &y, &mut taken);
    name_slope(&mut svg, levels[0].0 / roof.gbps, roof.gbps, &x, &y, &taken);
    list(&mut svg, rows, lines);
    svg.finish()
}

/// Places that labels keep clear of.
#[derive(Default)]
struct Taken {
    /// Dots and points of the roofs.
    points: Vec<(f64, f64)>,
    /// Labels: centre and width.
    labels: Vec<(f64, f64, f64)>,
}

impl Taken {
    /// True if a label there is inside the axes and covers nothing.
    fn is_free(&self, x: f64, y: f64, width: f64) -> bool {
        let covers = |&(other_x, other_y): &(f64, f64)| {
            (x - other_x).abs() < width / 2.0 + 8.0 && (y - other_y).abs() < LABEL / 2.0 + 4.0
        };
        let overlaps = |&(other_x, other_y, other): &(f64, f64, f64)| {
            (x - other_x).abs() < (width + other) / 2.0 && (y - other_y).abs() < LABEL
        };
        x - width / 2.0 >= LEFT
            && x + width / 2.0 <= RIGHT
            && (TOP..=BOTTOM - LABEL / 2.0).contains(&y)
            && !self.points.iter().any(covers)
            && !self.labels.iter().any(overlaps)
    }
}

/// The slope of copies up to each level of arithmetic, as far as they are inside the axes.
fn roofs(svg: &mut Svg, levels: &[Level], gbps: f64, x: &Axis, y: &Axis, taken: &mut Taken) {
    // The slope enters at the left side, or from below.
    let enters = x.least().max(y.least() / gbps);
    let highest = levels.iter().map(|(gflops, _)| *gflops).fold(0.0, f64::max);
    for (gflops, label) in levels {
        let ridge = (gflops / gbps).clamp(enters, x.greatest());
        let roof = |intensity: f64| (x.at(intensity), y.at(gflops.min(intensity * gbps)));
        let ((from, low), (corner, high)) = (roof(enters), roof(ridge));
        // The slope is drawn once.
        let start = if *gflops == highest { format!("M{from:.1} {low:.1}L") } else { "M".to_string() };
        svg.put(format_args!("<path class=\"roof\" d=\"{start}{corner:.1} {high:.1}H{RIGHT}\"/>"));
        let along = |part: f64| roof((enters.ln() + part * (x.greatest() / enters).ln()).exp());
        taken.points.extend((0..=200).map(|i| along(f64::from(i) / 200.0)));
        if ridge < x.greatest() {
            svg.text((RIGHT, high - 6.0), "end", "small", label);
            let width = CHARACTER * label.len() as f64;
            taken.labels.push((RIGHT - width / 2.0, high - 10.0, width));
        }
    }
}

/// The rate of copies above the slope, where there is room.
fn name_slope(svg: &mut Svg, ridge: f64, gbps: f64, x: &Axis, y: &Axis, taken: &Taken) {
    let label = format!("copies: {gbps:.2} GB/s");
    let width = CHARACTER * label.len() as f64;
    let (low, high) = (x.least().max(y.least() / gbps).ln(), ridge.min(x.greatest()).ln());
    let along = (0..=40).map(|i| (low + (high - low) * f64::from(40 - i) / 40.0).exp());
    let spots = along.map(|intensity| (x.at(intensity) - 14.0 - width / 2.0, y.at(intensity * gbps) - 10.0));
    if let Some((x, y)) = { spots }.find(|(x, y)| taken.is_free(*x, *y, width)) {
        svg.text((x, y + 4.0), "middle", "small", &label);
    }
}

fn class(row: &RowReport) -> &'static str {
    match row.limit {
        Limit::Arithmetic | Limit::MatrixUnits => "arithmetic",
        Limit::Memory => "memory",
    }
}

/// The kernel family of a row: its stem.
fn family(row: &RowReport) -> &str {
    row.name.split(' ').next().unwrap_or_default()
}

/// A dot for every row that computes something, and a label for every family.
fn dots(svg: &mut Svg, rows: &[RowReport], x: &Axis, y: &Axis, taken: &mut Taken) {
    let rows = || rows.iter().filter(|row| row.flops > 0.0);
    let place = |row: &RowReport| (x.at(row.intensity), y.at(row.gflops));
    taken.points.extend(rows().map(place));
    let mut families: Vec<&str> = Vec::new();
    for row in rows() {
        let words = escaped(&format!(
            "{}: {:.3} ms, {:.1} GFLOP/s, {:.2} GB/s, {:.2} FLOP/byte, {:.1} % of the roof ({})",
            row.name,
            1e3 * row.seconds,
            row.gflops,
            row.gbps,
            row.intensity,
            row.percent_of_roof,
            row.limit.word()
        ));
        let (class, (x, y)) = (class(row), place(row));
        svg.put(format_args!("<g><title>{words}</title>"));
        svg.put(format_args!("<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"));
        svg.put(format_args!("</g>"));
        if !families.contains(&family(row)) {
            families.push(family(row));
        }
    }
    for name in families {
        let width = CHARACTER * name.chars().count() as f64;
        let dots: Vec<(f64, f64)> = rows().filter(|row| family(row) == name).map(place).collect();
        // Rings around the dots, the nearest first.
        let spots = (0..40).flat_map(|ring| {
            let radius = 6.0 * f64::from(ring);
            dots.iter().flat_map(move |&(x, y)| {
                (0..24).map(move |step| {
                    let angle = std::f64::consts::TAU * f64::from(step) / 24.0;
                    let across = (width / 2.0 + 6.0 + radius) * angle.cos();
                    ((x, y), (x + across, y - (LABEL / 2.0 + 6.0 + radius) * angle.sin()), radius)
                })
            })
        });
        let found = { spots }.find(|(_, (x, y), _)| taken.is_free(*x, *y, width));
        let ((dot_x, dot_y), (x, y), radius) =
            found.unwrap_or_else(|| (dots[0], (dots[0].0, dots[0].1 - LABEL), 0.0));
        if radius > 6.0 {
            svg.put(format_args!("<path class=\"lead\" d=\"M{dot_x:.1} {dot_y:.1}L{x:.1} {y:.1}\"/>"));
        }
        svg.text((x, y + 4.0), "middle", "small family", name);
        taken.labels.push((x, y, width));
    }
}

/// The rows and their shares of the roofs, in columns below the axes.
fn list(svg: &mut Svg, rows: &[RowReport], lines: usize) {
    let width = (WIDTH - 2.0 * 24.0) / COLUMNS as f64;
    for (i, row) in rows.iter().enumerate() {
        let (column, line) = (i / lines.max(1), i % lines.max(1));
        let (left, base) = (24.0 + width * column as f64, BOTTOM + 64.0 + LINE * line as f64);
        svg.put(format_args!(
            "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
            class(row),
            left + 4.0,
            base - 4.0
        ));
        svg.text((left + 14.0, base), "start", "small", &row.name);
        svg.text((left + width - 10.0, base), "end", "small", &format!("{:.0} %", row.percent_of_roof));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Machine;
    use crate::bench::report::tests::{machine, roof, work};

    fn report(rows: &[(&str, f64, f64, f64)]) -> Report {
        let rows = rows.iter().map(|(name, seconds, flops, bytes)| {
            RowReport::new(name, &[*seconds], work(*flops, *bytes), &roof())
        });
        Report {
            machine: Machine { adapter: "a <card> & more".to_string(), ..machine() },
            batch: 1,
            complete: true,
            rows: rows.collect(),
            roof: roof(),
        }
    }

    /// All of an element's coordinates in the text.
    fn numbers(svg: &str, name: &str) -> Vec<f64> {
        let mark = format!(" {name}=\"");
        let values = svg.split(&mark).skip(1);
        values.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn every_row_has_a_dot_and_a_line_and_every_family_a_label() {
        // Two rows of each of thirty families, all dots on one spot.
        let many: Vec<String> = (0..60).map(|i| format!("family{} row {i} <x>", i / 2)).collect();
        let mut rows: Vec<_> = many.iter().map(|name| (&**name, 0.01, 1e8, 1e7)).collect();
        rows.push(("nothing computed", 0.01, 0.0, 1e7));
        let svg = draw(&report(&rows));
        assert_eq!(svg, draw(&report(&rows)));
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<x>"), "{svg}");
        assert!(svg.contains("<title>Roofline: a &lt;card&gt; &amp; more, f32</title>"), "{svg}");
        // A dot among the axes, one in the list; two are in the legend.
        assert_eq!(svg.matches("<circle").count(), 60 + 61 + 2);
        for name in &many {
            assert_eq!(svg.matches(&escaped(name)).count(), 2, "{name}");
        }
        assert!(svg.contains(">nothing computed</text>") && !svg.contains(">nothing</text>"));
        let labels: Vec<&str> = svg.lines().filter(|line| line.contains("family\"")).collect();
        assert_eq!(labels.len(), 30);
        let labels = labels.concat();
        let (x, y) = (numbers(&labels, "x"), numbers(&labels, "y"));
        for i in 0..30 {
            for j in 0..i {
                let apart =
                    (x[i] - x[j]).abs() >= 7.0 * CHARACTER - 0.1 || (y[i] - y[j]).abs() >= LABEL - 0.1;
                assert!(apart, "labels {i} and {j} overlap");
            }
        }
        assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
    }

    #[test]
    fn axes_are_zoomed_to_the_dots() {
        // 10 operations per byte: on the ridge; at 100 GFLOP/s on the roof, at 50 GFLOP/s a factor of 2 below.
        let svg = draw(&report(&[("on the ridge", 1e-3, 1e8, 1e7), ("below", 2e-3, 1e8, 1e7)]));
        let dots: String = svg.split("<g>").skip(1).collect();
        let (x, y) = (numbers(&dots, "cx"), numbers(&dots, "cy"));
        let middle = (LEFT + RIGHT) / 2.0;
        assert_eq!((x[0], x[1]), (middle, middle));
        let share = MARGIN.ln() / (2.0 * MARGIN * MARGIN).ln();
        let (high, low) = (TOP + share * (BOTTOM - TOP), BOTTOM - share * (BOTTOM - TOP));
        assert!((y[0] - high).abs() < 0.1 && (y[1] - low).abs() < 0.1, "{y:?}");
        assert!(svg.contains(&format!("L{middle:.1} {high:.1}H{RIGHT}")), "{svg}");
        // A ridge to the right of all dots isn't drawn, nor its level.
        let svg = draw(&report(&[("far left", 1e-1, 1e5, 1e7)]));
        assert!(!svg.contains("multiply-adds") && svg.contains("copies: "), "{svg}");
    }

    #[test]
    fn no_rows_and_rows_without_operations_can_be_drawn() {
        for rows in [&[][..], &[("copy", 0.1, 0.0, 1e6)]] {
            let svg = draw(&report(rows));
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
