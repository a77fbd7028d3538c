//! A camera: colours, exposure, optics, sensor, sharpening and compression, all fixed for one camera.

use super::canvas::{Canvas, Colour, Dice, mix};
use crate::rng;

/// Fewest and most rows of the sensor that a person fills.
const ROWS: [f32; 2] = [30.0, 120.0];

/// The way from the light of a scene to an image.
pub(super) struct Lens {
    /// Each colour of the sensor from those of the scene, white balance included.
    matrix: [Colour; 3],
    exposure: f32,
    /// Tone curve: below ½ darkens the middle, above brightens it.
    curve: f32,
    contrast: f32,
    haze: (Colour, f32),
    vignette: f32,
    /// Half width of the blur, in canvas pixels.
    blur: f32,
    /// Strength of the noise, of all colours together and of each.
    noise: [f32; 2],
    /// Rows of the sensor that an image of the full height has.
    rows: f32,
    sharpening: f32,
    /// Step of the quantisation; 0 compresses nothing.
    coarseness: f32,
}

impl Lens {
    /// A random camera.
    pub fn roll(dice: &mut Dice) -> Lens {
        let warmth = dice.roll(-0.16, 0.16);
        let green = dice.roll(-0.06, 0.06);
        let gains = [1.0 + warmth, 1.0 + green, 1.0 - warmth];
        // Rows sum to the gain, so grey keeps its balance; positive neighbours take saturation away.
        let row = |dice: &mut Dice, own: usize| {
            let mut row = [(); 3].map(|()| dice.roll(-0.06, 0.2));
            row[own] = 1.0 - (row.iter().sum::<f32>() - row[own]);
            row.map(|c| c * gains[own])
        };
        let far = dice.roll(0.0, 1.0);
        let strong = dice.roll(0.0, 1.0);
        Lens {
            matrix: [row(dice, 0), row(dice, 1), row(dice, 2)],
            exposure: dice.roll(0.72, 1.3),
            curve: dice.roll(0.36, 0.64),
            contrast: dice.roll(-0.25, 0.45),
            haze: ([dice.roll(0.45, 0.85), dice.roll(0.5, 0.8), dice.roll(0.45, 0.9)], {
                let much = dice.roll(0.0, 1.0);
                0.22 * much * much
            }),
            vignette: dice.roll(0.0, 0.3),
            blur: dice.roll(0.0, 1.6),
            noise: [dice.roll(0.005, 0.05), dice.roll(0.002, 0.03)],
            // Most are near.
            rows: mix(ROWS[1], ROWS[0], far * far),
            sharpening: if dice.chance(0.5) { dice.roll(0.1, 0.9) } else { 0.0 },
            coarseness: if dice.chance(0.8) { 0.004 + 0.05 * strong * strong } else { 0.0 },
        }
    }

    /// Takes an image of the scene, at `width`×`height` pixels. `bright` scales the exposure and `near` the distance;
    /// `seed` and `stream` draw the noise.
    pub fn take(
        &self,
        mut scene: Canvas,
        [width, height]: [usize; 2],
        [bright, near]: [f32; 2],
        (seed, stream): (u64, u64),
    ) -> Vec<u8> {
        let blur = (self.blur + 0.5) as usize;
        if blur > 0 {
            scene.smear(blur, true);
            scene.smear(blur, false);
        }
        let rows = (self.rows * near).clamp(0.8 * ROWS[0], height as f32) as usize;
        let mut image = scene.resized((rows * width / height).max(8), rows);
        let columns = image.width;
        for (index, pixel) in image.pixels.iter_mut().enumerate() {
            let (x, y) = (index % columns, index / columns);
            let [u, v] = [(x, columns), (y, rows)].map(|(at, size)| (at as f32 + 0.5) / size as f32 - 0.5);
            let light = self.exposure * bright * (1.0 - self.vignette * (u * u + v * v) * 2.0);
            let grains = rng::bits(seed, stream, index as u64).to_le_bytes();
            let grain = |which: usize| f32::from(grains[which]) / 128.0 - 1.0;
            let sensed = self.matrix.map(|row| {
                let sum = row[0] * pixel[0] + row[1] * pixel[1] + row[2] * pixel[2];
                (sum * light).clamp(0.0, 1.0)
            });
            for (c, &sensed) in sensed.iter().enumerate() {
                pixel[c] = self.tone(sensed, c) + self.noise[0] * grain(3) + self.noise[1] * grain(c);
            }
        }
        if self.sharpening > 0.0 {
            let mut soft = image.clone();
            soft.smear(1, true);
            soft.smear(1, false);
            for (pixel, soft) in image.pixels.iter_mut().zip(&soft.pixels) {
                *pixel = [0, 1, 2].map(|c| pixel[c] + self.sharpening * (pixel[c] - soft[c]));
            }
        }
        if self.coarseness > 0.0 {
            compress(&mut image, self.coarseness);
        }
        let image = image.resized(width, height);
        let byte = |c: f32| (c.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        image.pixels.iter().flat_map(|pixel| pixel.map(byte)).collect()
    }

    fn tone(&self, light: f32, colour: usize) -> f32 {
        let curved = light * self.curve / (light * (2.0 * self.curve - 1.0) + 1.0 - self.curve);
        let steep = if self.contrast > 0.0 {
            mix(curved, curved * curved * (3.0 - 2.0 * curved), self.contrast)
        } else {
            mix(curved, 0.45, -self.contrast)
        };
        mix(steep, self.haze.0[colour], self.haze.1)
    }
}

/// Side of a block of the compression.
const BLOCK: usize = 8;

/// cos(πk/16) for k of 0 to 8.
const COSINES: [f32; 9] = [
    1.0,
    0.980_785_3,
    0.923_879_5,
    0.831_469_6,
    std::f32::consts::FRAC_1_SQRT_2,
    0.555_570_2,
    0.382_683_4,
    0.195_090_3,
    0.0,
];

/// The orthogonal cosine transform of eight values: its basis by frequency and position.
fn basis() -> [[f32; BLOCK]; BLOCK] {
    let mut basis = [[0.0; BLOCK]; BLOCK];
    for (k, row) in basis.iter_mut().enumerate() {
        for (n, value) in row.iter_mut().enumerate() {
            // cos(πm/16) has the period 32 and is even.
            let m = (2 * n + 1) * k % 32;
            let m = m.min(32 - m);
            let cosine = if m <= 8 { COSINES[m] } else { -COSINES[16 - m] };
            *value = if k == 0 { 0.353_553_4 } else { 0.5 * cosine };
        }
    }
    basis
}

/// Loses what JPEG loses: brightness, and colour at half the size, in blocks whose high frequencies are quantised in
/// large steps.
fn compress(image: &mut Canvas, step: f32) {
    let basis = basis();
    let (width, height) = (image.width, image.height);
    let (half, low) = (width.div_ceil(2), height.div_ceil(2));
    let mut light = vec![0.0; width * height];
    let mut colours = [vec![0.0; half * low], vec![0.0; half * low]];
    for (index, [r, g, b]) in image.pixels.iter().copied().enumerate() {
        let y = 0.299 * r + 0.587 * g + 0.114 * b;
        light[index] = y;
        let (x, row) = (index % width, index / width);
        // Pixels of the last column or row may be without a neighbour.
        let count = if x + 1 == width && width % 2 == 1 { 2.0 } else { 1.0 }
            * if row + 1 == height && height % 2 == 1 { 2.0 } else { 1.0 };
        let place = row / 2 * half + x / 2;
        colours[0][place] += 0.25 * count * (b - y);
        colours[1][place] += 0.25 * count * (r - y);
    }
    quantise(&mut light, width, step, &basis);
    for plane in &mut colours {
        quantise(plane, half, 2.0 * step, &basis);
    }
    for (index, pixel) in image.pixels.iter_mut().enumerate() {
        let place = index / width / 2 * half + index % width / 2;
        let (y, blue, red) = (light[index], colours[0][place], colours[1][place]);
        *pixel = [y + red, y - (0.299 * red + 0.114 * blue) / 0.587, y + blue];
    }
}

/// Quantises a plane block by block. The values at the border repeat in incomplete blocks.
fn quantise(plane: &mut [f32], width: usize, step: f32, basis: &[[f32; BLOCK]; BLOCK]) {
    let height = plane.len() / width;
    for top in (0..height).step_by(BLOCK) {
        for left in (0..width).step_by(BLOCK) {
            let mut block = [[0.0; BLOCK]; BLOCK];
            for (y, row) in block.iter_mut().enumerate() {
                for (x, value) in row.iter_mut().enumerate() {
                    *value = plane[(top + y).min(height - 1) * width + (left + x).min(width - 1)];
                }
            }
            let mut waves = both_ways(&block, |k, n| basis[k][n]);
            for (v, row) in waves.iter_mut().enumerate() {
                for (u, wave) in row.iter_mut().enumerate() {
                    let step = step * (1.0 + (u + v) as f32);
                    *wave = step * (*wave / step + 0.5).floor();
                }
            }
            let block = both_ways(&waves, |n, k| basis[k][n]);
            for (y, row) in block.iter().enumerate().take(height - top) {
                for (x, value) in row.iter().enumerate().take(width - left) {
                    plane[(top + y) * width + left + x] = *value;
                }
            }
        }
    }
}

/// M·block·Mᵀ.
fn both_ways(block: &[[f32; BLOCK]; BLOCK], matrix: impl Fn(usize, usize) -> f32) -> [[f32; BLOCK]; BLOCK] {
    let mut rows = [[0.0; BLOCK]; BLOCK];
    for (y, row) in block.iter().enumerate() {
        for (to, sum) in rows[y].iter_mut().enumerate() {
            *sum = row.iter().enumerate().map(|(from, value)| matrix(to, from) * value).sum();
        }
    }
    let mut all = [[0.0; BLOCK]; BLOCK];
    for (to, row) in all.iter_mut().enumerate() {
        for (x, sum) in row.iter_mut().enumerate() {
            *sum = rows.iter().enumerate().map(|(from, row)| matrix(to, from) * row[x]).sum();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(width: usize, height: usize) -> Canvas {
        let mut dice = Dice::new(1, 2, 3);
        let mut canvas = Canvas::new(width, height);
        canvas.pixels.iter_mut().for_each(|pixel| *pixel = [(); 3].map(|()| dice.roll(0.2, 0.8)));
        canvas
    }

    fn worst(a: &Canvas, b: &Canvas) -> f32 {
        let pairs = a.pixels.iter().flatten().zip(b.pixels.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn the_transform_is_orthogonal() {
        let basis = basis();
        for (i, a) in basis.iter().enumerate() {
            for (j, b) in basis.iter().enumerate() {
                let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!((product - f32::from(u8::from(i == j))).abs() < 1e-6, "{i} {j}: {product}");
            }
        }
    }

    #[test]
    fn a_small_step_keeps_grey_images_and_a_large_one_does_not() {
        // Odd sizes have incomplete blocks. Grey, since colour is halved in size.
        for (width, height) in [(16, 8), (13, 21), (8, 30)] {
            let mut grey = noisy(width, height);
            grey.pixels.iter_mut().for_each(|pixel| *pixel = [pixel[0]; 3]);
            let mut same = grey.clone();
            compress(&mut same, 1e-5);
            assert!(worst(&grey, &same) < 1e-3, "{width}x{height}: {}", worst(&grey, &same));
            let mut coarse = grey.clone();
            compress(&mut coarse, 0.1);
            assert!(worst(&grey, &coarse) > 0.05);
        }
        let mut flat = Canvas::new(13, 21);
        flat.pixels.fill([0.7, 0.3, 0.5]);
        let mut same = flat.clone();
        compress(&mut same, 1e-5);
        assert!(worst(&flat, &same) < 1e-3);
    }

    #[test]
    fn curves_keep_black_and_white() {
        for number in 0..50 {
            let lens =
                Lens { haze: ([0.5; 3], 0.0), contrast: 0.2, ..Lens::roll(&mut Dice::new(3, 4, number)) };
            assert_eq!((lens.tone(0.0, 0), lens.tone(1.0, 1)), (0.0, 1.0));
            assert!(lens.tone(0.6, 0) > lens.tone(0.5, 0));
            for row in lens.matrix {
                let sum: f32 = row.iter().sum();
                assert!((0.8..1.2).contains(&sum), "{sum}");
            }
        }
    }
}
