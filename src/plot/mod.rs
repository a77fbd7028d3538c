//! Images of numbers: axes, round steps, and SVG text that is the same for the same numbers.

use std::fmt::{Arguments, Write};

/// Colours of an image in a file of its own, for light and for dark surroundings; it brings its own ground.
const STYLE: &str = "\
svg{font:13px system-ui,sans-serif}.ground{fill:#fff}text{fill:#2b2f36}.grid{stroke:#e2e5ea}.axis{fill:none;stroke:#8a919c}\
@media(prefers-color-scheme:dark){.ground{fill:#16191f}text{fill:#d7dbe2}.grid{stroke:#2c313a}.axis{stroke:#7d8591}}";

/// Where values lie between the two ends of an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    /// Least and greatest value, of a logarithmic axis their powers of ten.
    values: (f64, f64),
    /// Coordinates of the two.
    ends: (f64, f64),
    is_logarithmic: bool,
}

impl Axis {
    /// An axis on which equal differences are equally long.
    pub fn linear(values: (f64, f64), ends: (f64, f64)) -> Axis {
        Axis { values, ends, is_logarithmic: false }
    }

    /// An axis on which equal ratios are equally long, between two powers of ten.
    pub fn logarithmic((low, high): (i32, i32), ends: (f64, f64)) -> Axis {
        Axis { values: (f64::from(low), f64::from(high)), ends, is_logarithmic: true }
    }

    /// A logarithmic axis between the powers of ten around all values that are above 0.
    pub fn around(values: impl Iterator<Item = f64>, ends: (f64, f64)) -> Axis {
        let logarithms = values.filter(|value| value.is_finite() && *value > 0.0).map(f64::log10);
        let (low, high) = logarithms
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Axis::logarithmic((0, 1), ends);
        }
        let low = low.floor() as i32;
        Axis::logarithmic((low, (high.ceil() as i32).max(low + 1)), ends)
    }

    /// The coordinate of a value; of one beyond an end, that end.
    pub fn at(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let value = if self.is_logarithmic { value.log10() } else { value };
        let part = if high > low { (value - low) / (high - low) } else { 0.0 };
        self.ends.0 + (self.ends.1 - self.ends.0) * part.clamp(0.0, 1.0)
    }

    /// The least value.
    pub fn least(&self) -> f64 {
        if self.is_logarithmic { 10f64.powi(self.values.0 as i32) } else { self.values.0 }
    }

    /// Coordinates and values of the multiples of `step`, or on a logarithmic axis of the powers of ten.
    pub fn ticks(self, step: f64) -> impl Iterator<Item = (f64, f64)> {
        let (low, high) = self.values;
        let step = if self.is_logarithmic { 1.0 } else { step };
        let multiples = ((low / step).ceil() as i64..).map(move |i| i as f64 * step);
        let values = multiples.take_while(move |value| *value <= high + step * 1e-4);
        values
            .map(move |value| if self.is_logarithmic { 10f64.powi(value as i32) } else { value })
            .map(move |value| (self.at(value), value))
    }
}

/// The least of 1, 2, 5, 10, 20, … and their tenths that is no less than `wanted`, by a thousandth at most; 1 where
/// that is no length.
pub fn round_step(wanted: f64) -> f64 {
    if !(wanted.is_finite() && wanted > 1e-9) {
        return 1.0;
    }
    let power = 10f64.powi(wanted.log10().floor() as i32);
    let steps = [1.0, 2.0, 5.0].map(|digit| digit * power);
    steps.into_iter().find(|step| *step >= wanted * 0.999).unwrap_or(10.0 * power)
}

/// A multiple of `step`, with as many digits after the point as the step has.
pub fn on_step(value: f64, step: f64) -> String {
    let is_whole = |scaled: f64| (scaled - scaled.round()).abs() < 1e-6;
    let decimals = (0..9).find(|&count| is_whole(step * 10f64.powi(count))).unwrap_or(9) as usize;
    format!("{value:.decimals$}")
}

/// The `d` of lines through points, to a tenth of a unit: finer than anybody sees.
pub fn path(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let point = |(i, (x, y)): (usize, (f64, f64))| {
        let command = if i == 0 { 'M' } else { 'L' };
        format!("{command}{} {}", rounded(x), rounded(y))
    };
    points.into_iter().enumerate().map(point).collect()
}

/// A coordinate to a tenth of a unit.
pub fn rounded(coordinate: f64) -> f64 {
    (coordinate * 10.0).round() / 10.0
}

/// Words in which nothing is markup.
pub fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The text of an image, an element a line.
pub struct Svg(String);

impl Svg {
    /// Begins an image on a ground of its own; `style` is what its classes look like.
    pub fn new((width, height): (f64, f64), title: &str, style: &str) -> Svg {
        Svg(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}{style}</style>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n",
            escaped(title)
        ))
    }

    /// Appends an element.
    pub fn put(&mut self, element: Arguments<'_>) {
        // Writing into a string can't fail.
        let _ = self.0.write_fmt(element);
        self.0.push('\n');
    }

    /// Appends words at a place, which they start at, end at or are centred on; `class` may be empty.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, words: &str) {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let words = escaped(words);
        self.put(format_args!(
            "<text{class} x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
        ));
    }

    /// Ends the image.
    pub fn finish(self) -> String {
        self.0 + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_their_texts_are_round() {
        for (wanted, step, text) in [
            (0.03, 0.05, "0.10"),
            (0.2, 0.2, "0.4"),
            (0.25, 0.5, "1.0"),
            (0.6, 1.0, "2"),
            (1.1, 2.0, "4"),
            (3.0, 5.0, "10"),
            (8.4, 10.0, "20"),
            (23.0, 50.0, "100"),
        ] {
            assert!((round_step(wanted) - step).abs() < 1e-9 * step, "{wanted}: {}", round_step(wanted));
            assert_eq!(on_step(2.0 * step, step), text);
        }
        assert_eq!(on_step(0.75, 0.25), "0.75");
        for wanted in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(round_step(wanted), 1.0);
        }
    }

    #[test]
    fn values_lie_between_the_ends() {
        let axis = Axis::linear((2.0, 4.0), (100.0, 0.0));
        assert_eq!([1.0, 2.0, 3.0, 9.0].map(|value| axis.at(value)), [100.0, 100.0, 50.0, 0.0]);
        assert_eq!(axis.ticks(1.5).collect::<Vec<_>>(), [(50.0, 3.0)]);
        assert_eq!(Axis::linear((1.0, 1.0), (5.0, 9.0)).at(1.0), 5.0, "no division by zero");
        let axis = Axis::around([0.0, 0.3, f64::NAN, 70.0].into_iter(), (0.0, 30.0));
        assert_eq!((axis.at(0.0), axis.at(1.0), axis.least()), (0.0, 10.0, 0.1));
        let ticks: Vec<f64> = axis.ticks(1.0).map(|(at, _)| at).collect();
        assert_eq!(ticks, [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(Axis::around([].into_iter(), (0.0, 1.0)), Axis::logarithmic((0, 1), (0.0, 1.0)));
    }
}
