//! The roofline: operations a second over operations per byte, both on logarithmic axes, with the adapter's two roofs.
//!
//! A dot per row carries a number; the list below the axes says which row that is, and the dot says it where a pointer
//! rests.

use super::report::{Limit, Report, RowReport};
use crate::plot::{Axis, Svg, escaped, on_step};

/// Width of the image, in SVG's units.
const WIDTH: f64 = 960.0;

/// Sides of the part where the dots are.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 560.0;

/// Room of a number beside its dot, and from one line of the list to the next.
const NUMBER: (f64, f64) = (13.0, 9.0);
const LINE: f64 = 15.0;

/// Columns of the list.
const COLUMNS: usize = 3;

/// Colours of roofs and dots, for light and for dark surroundings.
const STYLE: &str = "\
.small{font-size:11px}.number{font-size:9px}.roof{fill:none;stroke:#2b2f36;stroke-width:2}.lead{stroke:#b4bac3}\
.arithmetic{fill:#1f6fb4}.memory{fill:#c2571a}\
@media(prefers-color-scheme:dark){.roof{stroke:#d7dbe2}.lead{stroke:#596170}.arithmetic{fill:#6db3ec}.memory{fill:#f0a06c}}";

/// The image as SVG; the same figures give the same bytes.
pub fn draw(report: &Report) -> String {
    let Report { roof, rows, .. } = report;
    let ridge = roof.gflops / roof.gbps;
    let x =
        Axis::around(rows.iter().map(|row| row.intensity).chain([ridge / 4.0, ridge * 4.0]), (LEFT, RIGHT));
    let y = Axis::around(rows.iter().map(|row| row.gflops).chain([roof.gflops]), (BOTTOM, TOP));
    let lines = rows.len().div_ceil(COLUMNS);
    let height = BOTTOM + 64.0 + LINE * lines as f64 + 16.0;

    let title = format!("Kernels under the roofs of {}", report.machine.adapter);
    let mut svg = Svg::new((WIDTH, height), &title, STYLE);
    svg.text((LEFT, 22.0), "start", "", &format!("{}, {}", report.machine.adapter, report.machine.precision));
    svg.text((LEFT, 46.0), "start", "small", "GFLOP/s");
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
        [(LEFT, "arithmetic", "limited by multiply-adds"), (LEFT + 180.0, "memory", "by copies")]
    {
        let (middle, base) = (BOTTOM + 30.0, BOTTOM + 34.0);
        svg.put(format_args!("<circle class=\"{class}\" cx=\"{left:.1}\" cy=\"{middle:.1}\" r=\"3.5\"/>"));
        svg.text((left + 10.0, base), "start", "small", words);
    }
    roofs(&mut svg, report, &x, &y);
    dots(&mut svg, rows, &x, &y);
    list(&mut svg, rows, lines);
    svg.finish()
}

/// The slope of copies up to the ridge, then the level of multiply-adds.
fn roofs(svg: &mut Svg, report: &Report, x: &Axis, y: &Axis) {
    let (gflops, gbps) = (report.roof.gflops, report.roof.gbps);
    // The slope enters at the left side, or from below.
    let enters = x.least().max(y.least() / gbps);
    let (from, ridge, level) = (x.at(enters), x.at(gflops / gbps), y.at(gflops));
    svg.put(format_args!(
        "<path class=\"roof\" d=\"M{from:.1} {:.1}L{ridge:.1} {level:.1}H{RIGHT}\"/>",
        y.at(enters * gbps)
    ));
    svg.text((RIGHT, level - 6.0), "end", "small", &format!("multiply-adds: {gflops:.1} GFLOP/s"));
    // Above the slope, nearer to the ridge: few dots are there.
    let middle = enters.powf(0.3) * (gflops / gbps).powf(0.7);
    svg.text(
        (x.at(middle) - 8.0, y.at(middle * gbps) - 4.0),
        "end",
        "small",
        &format!("copies: {gbps:.2} GB/s"),
    );
}

fn class(row: &RowReport) -> &'static str {
    match row.limit {
        Limit::Arithmetic | Limit::MatrixUnits => "arithmetic",
        Limit::Memory => "memory",
    }
}

/// A dot and its number for every row that computes something; numbers keep clear of dots and of each other.
fn dots(svg: &mut Svg, rows: &[RowReport], x: &Axis, y: &Axis) {
    let places: Vec<Option<(f64, f64)>> =
        rows.iter().map(|row| (row.flops > 0.0).then(|| (x.at(row.intensity), y.at(row.gflops)))).collect();
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for place in &places {
        let Some((dot_x, dot_y)) = *place else { continue };
        let free = |at: &(f64, f64)| {
            let clear = |(other_x, other_y): &(f64, f64), width: f64, height: f64| {
                (at.0 - other_x).abs() >= width || (at.1 - other_y).abs() >= height
            };
            taken.iter().all(|other| clear(other, NUMBER.0, NUMBER.1))
                && places.iter().flatten().all(|dot| clear(dot, NUMBER.0 / 2.0 + 3.0, NUMBER.1 / 2.0 + 3.0))
                && (LEFT..=RIGHT).contains(&at.0)
                && (TOP - 20.0..=BOTTOM - 4.0).contains(&at.1)
        };
        // Rings around the dot, the nearest first.
        let ring = |radius: f64, step: u32| {
            let angle = std::f64::consts::TAU * f64::from(step) / 24.0;
            (dot_x + radius * angle.cos(), dot_y - radius * angle.sin())
        };
        let radii = (0..16).map(|ring| 11.0 + 7.0 * f64::from(ring));
        let mut spots = radii.flat_map(|radius| (0..24).map(move |step| (radius, step)));
        let spot = spots.find(|(radius, step)| free(&ring(*radius, *step)));
        let at = spot.map_or((dot_x, dot_y - 11.0), |(radius, step)| ring(radius, step));
        taken.push(at);
        if spot.is_some_and(|(radius, _)| radius > 12.0) {
            svg.put(format_args!(
                "<path class=\"lead\" d=\"M{dot_x:.1} {dot_y:.1}L{:.1} {:.1}\"/>",
                at.0, at.1
            ));
        }
    }
    let mut numbers = taken.into_iter();
    for (i, (row, place)) in rows.iter().zip(&places).enumerate() {
        let (Some((dot_x, dot_y)), Some(at)) = (*place, place.and_then(|_| numbers.next())) else { continue };
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
        svg.put(format_args!("<g><title>{words}</title>"));
        svg.put(format_args!(
            "<circle class=\"{}\" cx=\"{dot_x:.1}\" cy=\"{dot_y:.1}\" r=\"3.5\"/>",
            class(row)
        ));
        svg.text((at.0, at.1 + 3.0), "middle", "number", &(i + 1).to_string());
        svg.put(format_args!("</g>"));
    }
}

/// Which row a number is, in columns below the axes.
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
        svg.text((left + 28.0, base), "end", "small", &(i + 1).to_string());
        svg.text((left + 34.0, base), "start", "small", &row.name);
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
    fn every_row_has_a_dot_a_number_and_a_name() {
        let many: Vec<(String, f64)> =
            (0..60).map(|i| (format!("row {i} <x>"), 0.01 + 1e-5 * f64::from(i))).collect();
        let mut rows: Vec<_> = many.iter().map(|(name, seconds)| (&**name, *seconds, 1e8, 1e7)).collect();
        rows.push(("nothing computed", 0.01, 0.0, 1e7));
        let svg = draw(&report(&rows));
        assert_eq!(svg, draw(&report(&rows)));
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<x>"), "{svg}");
        assert!(svg.contains("<title>Kernels under the roofs of a &lt;card&gt; &amp; more</title>"));
        // A dot among the axes, one in the list; two say what their colours mean.
        assert_eq!(svg.matches("<circle").count(), 60 + 61 + 2);
        for (i, (name, _)) in many.iter().enumerate() {
            let ends = format!(">{}</text>", i + 1);
            let numbered = svg.lines().filter(|line| line.contains("\"number\"") && line.ends_with(&ends));
            assert_eq!(numbered.count(), 1, "{name}");
            assert_eq!(svg.matches(&escaped(name)).count(), 2, "{name}");
        }
        assert!(svg.contains(">nothing computed</text>"));
        // Sixty dots on one spot: their numbers stand apart.
        let numbered: String = svg.lines().filter(|line| line.contains("\"number\"")).collect();
        let (x, y) = (numbers(&numbered, "x"), numbers(&numbered, "y"));
        assert_eq!(x.len(), 60);
        for i in 0..60 {
            for j in 0..i {
                let apart = (x[i] - x[j]).abs() >= NUMBER.0 - 0.1 || (y[i] - y[j]).abs() >= NUMBER.1 - 0.1;
                assert!(apart, "numbers {} and {} overlap", i + 1, j + 1);
            }
        }
        assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
    }

    #[test]
    fn a_dot_stands_where_its_figures_are() {
        // 10 operations per byte: on the ridge; at 100 GFLOP/s on the roof, at 1 GFLOP/s two powers below.
        let svg = draw(&report(&[("on the ridge", 1e-3, 1e8, 1e7), ("below", 1e-1, 1e8, 1e7)]));
        let dots: String = svg.split("<g>").skip(1).collect();
        let (x, y) = (numbers(&dots, "cx"), numbers(&dots, "cy"));
        assert_eq!((x[0], y[0]), (x[1], TOP));
        assert_eq!(y[1], BOTTOM);
        assert!(svg.contains(&format!("L{:.1} {TOP:.1}H{RIGHT}", x[0])), "{svg}");
    }

    #[test]
    fn no_rows_and_rows_without_operations_can_be_drawn() {
        for rows in [&[][..], &[("copy", 0.1, 0.0, 1e6)]] {
            let svg = draw(&report(rows));
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
