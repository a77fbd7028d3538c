//! A canvas to paint on, and the random numbers for it.
//!
//! The same seed gives the same pixels on every machine, because all arithmetic is +, −, ×, ÷, square root and rounding
//! in f32, which IEEE 754 fixes to the bit. It does not fix sine, power and exponential, so the standard library's are
//! not used.

use crate::rng;

/// Red, green and blue, 0 to 1.
pub(super) type Colour = [f32; 3];
/// x to the right, y down, in pixels of the canvas.
pub(super) type Point = [f32; 2];
/// Right, down and towards the camera, of unit length.
pub(super) type Normal = [f32; 3];

/// A sequence of random numbers for one person, camera or image.
pub(super) struct Dice {
    seed: u64,
    stream: u64,
    next: u64,
}

impl Dice {
    /// Creates the sequence of object `number` (below 2⁴⁸) of a `kind`.
    pub fn new(seed: u64, kind: u64, number: u64) -> Self {
        Dice { seed, stream: (kind << 48) | number, next: 0 }
    }

    /// A number in [from, to).
    pub fn roll(&mut self, from: f32, to: f32) -> f32 {
        self.next += 1;
        from + (to - from) * rng::uniform(self.seed, self.stream, self.next)
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.roll(0.0, 1.0) < probability
    }

    /// One of several choices, with probability proportional to its weight.
    pub fn choose<T: Copy>(&mut self, weighted: &[(f32, T)]) -> T {
        let mut left = self.roll(0.0, weighted.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in weighted {
            left -= weight;
            if left < 0.0 {
                return *choice;
            }
        }
        // Reached by rounding only.
        weighted[weighted.len() - 1].1
    }

    /// A random colour near another.
    pub fn near(&mut self, colour: Colour, most: f32) -> Colour {
        let lighter = self.roll(-most, most);
        colour.map(|c| (c + lighter + self.roll(-most, most) * 0.5).clamp(0.02, 0.98))
    }
}

/// The sine of an angle in turns by a Taylor polynomial, with an error below 2e-4.
pub(super) fn sine(turns: f32) -> f32 {
    let turns = turns - (turns + 0.5).floor();
    let folded = if turns > 0.25 {
        0.5 - turns
    } else if turns < -0.25 {
        -0.5 - turns
    } else {
        turns
    };
    let x = folded * std::f32::consts::TAU;
    let x2 = x * x;
    x * (1.0 - x2 / 6.0 * (1.0 - x2 / 20.0 * (1.0 - x2 / 42.0)))
}

/// The cosine of an angle in turns.
pub(super) fn cosine(turns: f32) -> f32 {
    sine(turns + 0.25)
}

/// Interpolates from `a` at `t` = 0 to `b` at 1.
pub(super) fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// Interpolates between colours.
pub(super) fn blend(a: Colour, b: Colour, t: f32) -> Colour {
    [0, 1, 2].map(|c| mix(a[c], b[c], t))
}

/// Smooth random noise over the plane, repeated every 64 units.
pub(super) struct Noise(Vec<f32>);

impl Noise {
    const SIDE: usize = 64;

    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 9, 0);
        Noise((0..Self::SIDE * Self::SIDE).map(|_| dice.roll(0.0, 1.0)).collect())
    }

    /// The value at a point, 0 to 1, bilinear between whole coordinates.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let (column, row) = (x.floor(), y.floor());
        let wrapped = |v: f32| (v as i64).rem_euclid(Self::SIDE as i64) as usize;
        let (left, top) = (wrapped(column), wrapped(row));
        let (right, bottom) = ((left + 1) % Self::SIDE, (top + 1) % Self::SIDE);
        let (t, u) = (x - column, y - row);
        let height = |row: usize, column: usize| self.0[row * Self::SIDE + column];
        let (above, below) = (
            mix(height(top, left), height(top, right), t),
            mix(height(bottom, left), height(bottom, right), t),
        );
        mix(above, below, u)
    }
}

/// Colours of pixels, rows from the top.
#[derive(Clone)]
pub(super) struct Canvas {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<Colour>,
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Canvas { width, height, pixels: vec![[0.0; 3]; width * height] }
    }

    /// Sets each pixel of a rectangle to the colour that `paint` returns for its centre; `None` keeps the pixel.
    pub fn paint(&mut self, from: Point, to: Point, paint: impl Fn(f32, f32, Colour) -> Option<Colour>) {
        let range = |from: f32, to: f32, size: usize| {
            (from.floor().max(0.0) as usize).min(size)..(to.ceil().max(0.0) as usize).min(size)
        };
        for row in range(from[1], to[1], self.height) {
            for column in range(from[0], to[0], self.width) {
                let pixel = &mut self.pixels[row * self.width + column];
                if let Some(colour) = paint(column as f32 + 0.5, row as f32 + 0.5, *pixel) {
                    *pixel = colour;
                }
            }
        }
    }

    /// Paints a rectangle of one colour.
    pub fn rectangle(&mut self, from: Point, to: Point, colour: Colour) {
        let inside = |v: f32, axis: usize| from[axis] <= v && v < to[axis];
        self.paint(from, to, |x, y, _| (inside(x, 0) && inside(y, 1)).then_some(colour));
    }

    /// Paints an upright ellipsoid with the half axes `radii`.
    pub fn ellipsoid(&mut self, middle: Point, radii: Point, colour: impl Fn(Normal) -> Option<Colour>) {
        let corner = |sign: f32| [middle[0] + sign * radii[0], middle[1] + sign * radii[1]];
        self.paint(corner(-1.0), corner(1.0), |x, y, _| {
            let (u, v) = ((x - middle[0]) / radii[0], (y - middle[1]) / radii[1]);
            let depth = 1.0 - u * u - v * v;
            if depth < 0.0 { None } else { colour([u, v, depth.sqrt()]) }
        });
    }

    /// Paints a round bar with round ends and a radius at each end. `colour` gets the position along it, 0 to 1.
    pub fn bar(&mut self, from: Point, to: Point, radii: Point, colour: impl Fn(f32, Normal) -> Colour) {
        let along = [to[0] - from[0], to[1] - from[1]];
        let length2 = (along[0] * along[0] + along[1] * along[1]).max(1e-6);
        let most = radii[0].max(radii[1]);
        let low = [from[0].min(to[0]) - most, from[1].min(to[1]) - most];
        let high = [from[0].max(to[0]) + most, from[1].max(to[1]) + most];
        self.paint(low, high, |x, y, _| {
            let (u, v) = (x - from[0], y - from[1]);
            let t = ((u * along[0] + v * along[1]) / length2).clamp(0.0, 1.0);
            let radius = mix(radii[0], radii[1], t);
            let (u, v) = ((u - t * along[0]) / radius, (v - t * along[1]) / radius);
            let depth = 1.0 - u * u - v * v;
            if depth < 0.0 { None } else { Some(colour(t, [u, v, depth.sqrt()])) }
        });
    }

    /// Replaces each pixel by the mean of `2·radius + 1` pixels along its row or column; borders repeat.
    pub fn smear(&mut self, radius: usize, along_rows: bool) {
        let (lines, length) = if along_rows { (self.height, self.width) } else { (self.width, self.height) };
        let place = |line: usize, i: usize| if along_rows { line * length + i } else { i * lines + line };
        let count = (2 * radius + 1) as f32;
        let mut smeared = self.pixels.clone();
        for line in 0..lines {
            for i in 0..length {
                let window = (i..=i + 2 * radius).map(|j| j.saturating_sub(radius).min(length - 1));
                let sum = window.fold([0.0; 3], |sum: Colour, j| {
                    let pixel = self.pixels[place(line, j)];
                    [sum[0] + pixel[0], sum[1] + pixel[1], sum[2] + pixel[2]]
                });
                smeared[place(line, i)] = sum.map(|c| c / count);
            }
        }
        self.pixels = smeared;
    }

    /// The colour at a point, bilinear between pixels; outside, that of the border.
    pub fn at(&self, x: f32, y: f32) -> Colour {
        let inside = |v: f32, size: usize| (v - 0.5).clamp(0.0, (size - 1) as f32);
        let (x, y) = (inside(x, self.width), inside(y, self.height));
        let (left, top) = (x as usize, y as usize);
        let (right, bottom) = ((left + 1).min(self.width - 1), (top + 1).min(self.height - 1));
        let pixel = |row: usize, column: usize| self.pixels[row * self.width + column];
        let (t, u) = (x - left as f32, y - top as f32);
        blend(
            blend(pixel(top, left), pixel(top, right), t),
            blend(pixel(bottom, left), pixel(bottom, right), t),
            u,
        )
    }

    /// Returns the canvas in another size; each new pixel is the mean of four samples in the area that it covers.
    pub fn resized(&self, width: usize, height: usize) -> Canvas {
        let mut out = Canvas::new(width, height);
        let (across, down) = (self.width as f32 / width as f32, self.height as f32 / height as f32);
        for row in 0..height {
            for column in 0..width {
                let mut sum = [0.0; 3];
                for (i, j) in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)] {
                    let sample = self.at((column as f32 + i) * across, (row as f32 + j) * down);
                    sum = [sum[0] + sample[0], sum[1] + sample[1], sum[2] + sample[2]];
                }
                out.pixels[row * width + column] = sum.map(|c| c / 4.0);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_is_close_to_the_exact_sine() {
        for i in -400..400 {
            let turns = i as f32 / 100.0;
            let exact = (f64::from(turns) * std::f64::consts::TAU).sin();
            assert!((f64::from(sine(turns)) - exact).abs() < 2e-4, "{turns}");
        }
        assert_eq!(cosine(0.0), sine(0.25));
    }

    #[test]
    fn choices_follow_their_weights() {
        let mut dice = Dice::new(1, 2, 3);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            counts[dice.choose(&[(1.0, 0), (0.0, 1), (3.0, 2)])] += 1;
        }
        assert!(counts[1] == 0 && (900..1100).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn smear_and_resized_keep_the_mean() {
        let mut canvas = Canvas::new(16, 8);
        canvas.rectangle([4.0, 2.0], [12.0, 6.0], [1.0, 0.5, 0.0]);
        let mean = |canvas: &Canvas| {
            canvas.pixels.iter().map(|pixel| pixel[0]).sum::<f32>() / canvas.pixels.len() as f32
        };
        assert_eq!(mean(&canvas), 0.25);
        canvas.smear(1, true);
        canvas.smear(1, false);
        assert!((mean(&canvas) - 0.25).abs() < 1e-5);
        assert!((mean(&canvas.resized(8, 4)) - 0.25).abs() < 1e-5);
    }
}
