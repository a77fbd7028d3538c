//! Charts: axes, round steps, and SVG text that depends on nothing but the values.

use std::fmt::{Arguments, Write};

/// Colours of a chart in its own file, in light and dark mode; it paints its own ground.
const STYLE: &str = "\
svg{font:13px system-ui,sans-serif}.ground{fill:#fff}text{fill:#2b2f36}.title{font-size:17px;font-weight:600}\
.quiet{fill:#5b6470}.grid{stroke:#e2e5ea}.axis{fill:none;stroke:#8a919c}\
@media(prefers-color-scheme:dark){.ground{fill:#16191f}text{fill:#d7dbe2}.quiet{fill:#9aa5b2}.grid{stroke:#2c313a}.axis{stroke:#7d8591}}";

/// Maps values to coordinates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    /// Least and greatest value; on a logarithmic axis their logarithms to base 10.
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

    /// An axis on which equal ratios are equally long, between two positive values.
    pub fn logarithmic((low, high): (f64, f64), ends: (f64, f64)) -> Axis {
        Axis { values: (low.log10(), high.log10()), ends, is_logarithmic: true }
    }

    /// A linear axis between two multiples of a round step that enclose the finite ones of `values`, and the step:
    /// about `count` of them. The axis stays within `bounds`.
    pub fn fitted(
        values: impl Iterator<Item = f64>,
        count: f64,
        bounds: (f64, f64),
        ends: (f64, f64),
    ) -> (Axis, f64) {
        let (low, high) = extent(values).unwrap_or((0.0, 1.0));
        let margin = if high > low { 0.0 } else { (0.1 * high.abs()).max(1e-3) };
        let (low, high) = (low - margin, high + margin);
        let step = round_step((high - low) / count);
        let (low, high) = ((low / step + 1e-6).floor() * step, (high / step - 1e-6).ceil() * step);
        (Axis::linear((low.max(bounds.0), high.min(bounds.1)), ends), step)
    }

    /// A logarithmic axis around the finite positive ones of `values`; between the outermost of them and the ends there
    /// is room for a factor `margin`.
    pub fn around(values: impl Iterator<Item = f64>, margin: f64, ends: (f64, f64)) -> Axis {
        let (low, high) = extent(values.filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        Axis::logarithmic((low / margin, high * margin), ends)
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
        if self.is_logarithmic { 10f64.powf(self.values.0) } else { self.values.0 }
    }

    /// The greatest value.
    pub fn greatest(&self) -> f64 {
        if self.is_logarithmic { 10f64.powf(self.values.1) } else { self.values.1 }
    }

    /// Coordinates and values of the multiples of `step`. On a logarithmic axis `step` is not used: there are powers of
    /// ten, also twice and five times these where it spans less than two powers.
    pub fn ticks(self, step: f64) -> Vec<(f64, f64)> {
        let (low, high) = self.values;
        let values: Vec<f64> = if self.is_logarithmic {
            let digits: &[f64] = if high - low < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let powers = low.floor() as i32..=high.ceil() as i32;
            let all = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
            all.filter(|value| (low - 1e-9..=high + 1e-9).contains(&value.log10())).collect()
        } else {
            let multiples = ((low / step - 1e-6).ceil() as i64..).map(|i| i as f64 * step);
            multiples.take_while(|value| *value <= high + step * 1e-4).collect()
        };
        values.into_iter().map(|value| (self.at(value), value)).collect()
    }
}

/// The least and the greatest finite value; `None` without any.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |extent, value| {
        let (low, high) = extent.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// Moves `places` apart until they are at least `gap` from each other. Keeps their order, and keeps them within `ends`
/// if there is room.
pub fn spread(places: &mut [f64], gap: f64, ends: (f64, f64)) {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
    let mut least = ends.0;
    for &i in &order {
        places[i] = places[i].max(least);
        least = places[i] + gap;
    }
    let mut most = ends.1;
    for &i in order.iter().rev() {
        places[i] = places[i].min(most);
        most = places[i] - gap;
    }
}

/// The least of 1, 2, 5, 10, 20, … and their tenths that is at least `wanted`, up to a thousandth; 1 if `wanted` is not
/// a length.
pub fn round_step(wanted: f64) -> f64 {
    if !(wanted.is_finite() && wanted > 1e-9) {
        return 1.0;
    }
    let power = 10f64.powi(wanted.log10().floor() as i32);
    let steps = [1.0, 2.0, 5.0].map(|digit| digit * power);
    steps.into_iter().find(|step| *step >= wanted * 0.999).unwrap_or(10.0 * power)
}

/// A multiple of `step` with the step's number of decimals.
pub fn on_step(value: f64, step: f64) -> String {
    let is_whole = |scaled: f64| (scaled - scaled.round()).abs() < 1e-6;
    let decimals = (0..9).find(|&count| is_whole(step * 10f64.powi(count))).unwrap_or(9) as usize;
    format!("{value:.decimals$}")
}

/// The `d` attribute of a line through points, to a tenth of a unit.
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

/// Text with markup escaped.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The text of an SVG file, one element per line.
pub struct Svg(String);

impl Svg {
    /// Begins an image; `style` is CSS for its classes.
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

    /// Appends text; `anchor` is `start`, `middle` or `end`, `class` may be empty.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let text = escaped(text);
        self.put(format_args!(
            "<text{class} x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
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
    fn values_are_between_the_ends() {
        let axis = Axis::linear((2.0, 4.0), (100.0, 0.0));
        assert_eq!([1.0, 2.0, 3.0, 9.0].map(|value| axis.at(value)), [100.0, 100.0, 50.0, 0.0]);
        assert_eq!(axis.ticks(1.5), [(50.0, 3.0)]);
        assert_eq!(Axis::linear((1.0, 1.0), (5.0, 9.0)).at(1.0), 5.0, "no division by zero");
    }

    #[test]
    fn logarithmic_axes_have_ticks_at_powers_of_ten_or_more_often() {
        let axis = Axis::around([0.0, 0.1, f64::NAN, 100.0].into_iter(), 1.0, (0.0, 30.0));
        assert_eq!((axis.at(0.0), axis.at(1.0), axis.least()), (0.0, 10.0, 0.1));
        assert_eq!(axis.ticks(0.0), [(0.0, 0.1), (10.0, 1.0), (20.0, 10.0), (30.0, 100.0)]);
        let axis = Axis::around([3.0, 30.0].into_iter(), 1.2, (0.0, 1.0));
        let values: Vec<f64> = axis.ticks(0.0).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [5.0, 10.0, 20.0]);
        assert!((axis.at(30.0) - (36.0f64 / 2.5 / 1.2).log10() / 14.4f64.log10()).abs() < 1e-9);
        assert_eq!(Axis::around([].into_iter(), 1.0, (0.0, 1.0)), Axis::logarithmic((1.0, 10.0), (0.0, 1.0)));
    }

    #[test]
    fn fitted_axes_end_at_round_values_around_the_data() {
        let fitted = |values: &[f64], bounds| Axis::fitted(values.iter().copied(), 5.0, bounds, (0.0, 1.0));
        let free = (f64::NEG_INFINITY, f64::INFINITY);
        let (axis, step) = fitted(&[61.3, f64::NAN, 88.0], free);
        assert_eq!((axis.values, step), ((60.0, 90.0), 10.0));
        // Values on a step are ends.
        assert_eq!(fitted(&[0.6, 0.7], free).0.values, (30.0 * 0.02, 35.0 * 0.02));
        let (axis, _) = fitted(&[1.0], (0.0, 1.0));
        assert!(axis.values.0 < 1.0 && axis.values.1 == 1.0, "{axis:?}");
        for odd in [&[][..], &[0.0], &[f64::INFINITY]] {
            let (axis, step) = fitted(odd, (0.0, 1.0));
            assert!(axis.values.0 < axis.values.1 && step > 0.0, "{axis:?}");
        }
    }

    #[test]
    fn places_are_spread_in_their_order() {
        let spread = |mut places: Vec<f64>| {
            super::spread(&mut places, 10.0, (0.0, 100.0));
            places
        };
        assert_eq!(spread(vec![50.0, 20.0]), [50.0, 20.0]);
        assert_eq!(spread(vec![52.0, 50.0, 49.0]), [69.0, 59.0, 49.0]);
        assert_eq!(spread(vec![99.0, 100.0]), [90.0, 100.0]);
        assert_eq!(spread(vec![-5.0]), [0.0]);
    }
}
