//! Resizes (H, W, 3) u8 to (H', W', 3) u8, the network's input size. Equals Pillow byte for byte.
//!
//! Follows Pillow's `Image.resize(size, BICUBIC)`. Each output pixel is a weighted sum of input pixels under a cubic
//! (a = −0.5), which is widened for shrinking. Weights are 22-bit fixed point. One pass goes along the rows and one
//! along the columns; each rounds to 8 bits. The GPU divides by 255, subtracts the mean and divides by the deviation.

use std::path::Path;

use crate::error::Result;
use crate::images::decode::{self, DecodeOptions, Rgb};
use crate::shape::ImageSize;

/// Fraction bits of a weight: 32, minus 8 for the pixel, minus 2 for sums above 1.
const FRACTION_BITS: u32 = 32 - 8 - 2;
/// Half a unit, so that the final shift rounds.
const HALF: i32 = 1 << (FRACTION_BITS - 1);
/// Reach of the cubic on either side, in pixels of the coarser grid.
const REACH: f64 = 2.0;
const CHANNELS: usize = 3;

/// Reads an image and stretches it to `size`.
///
/// # Errors
/// `Image` with the path and the reason.
pub fn load(path: &Path, options: DecodeOptions, size: ImageSize) -> Result<Rgb> {
    Ok(resize_bicubic(&decode::read(path, options)?, size))
}

/// Stretches an image to `size`; the aspect ratio is not kept.
///
/// # Panics
/// If either size has no pixels, or `image` has not H·W·3 bytes.
pub fn resize_bicubic(image: &Rgb, size: ImageSize) -> Rgb {
    assert!(image.height * image.width * size.height * size.width > 0, "an image without pixels");
    assert_eq!(image.pixels.len(), image.height * image.width * CHANNELS);
    let mut height = image.height;
    let mut pixels = std::borrow::Cow::Borrowed(&image.pixels[..]);
    let mut width = image.width;
    // Pillow leaves out a pass that keeps the length; it would change nothing.
    for rows in if rows_first(image, size) { [true, false] } else { [false, true] } {
        if rows && size.height != height {
            pixels = resize_rows(&pixels, width * CHANNELS, height, size.height).into();
            height = size.height;
        } else if !rows && size.width != width {
            pixels = resize_columns(&pixels, width, size.width).into();
            width = size.width;
        }
    }
    Rgb { height, width, pixels: pixels.into_owned() }
}

/// Returns whether the pass over rows comes first. The order decides the rounding between the passes.
///
/// The rule of Pillow 13: rows come first if they lose more than twice as many pixels as columns do. Up to Pillow 12.0
/// columns always came first.
fn rows_first(image: &Rgb, size: ImageSize) -> bool {
    let rows_lost = image.height as i64 - size.height as i64;
    let columns_lost = image.width as i64 - size.width as i64;
    rows_lost > 0 && rows_lost > 2 * columns_lost
}

/// (H, `from`, 3) → (H, `to`, 3).
fn resize_columns(pixels: &[u8], from: usize, to: usize) -> Vec<u8> {
    let windows = windows(from, to);
    let mut out = Vec::with_capacity(pixels.len() / from * to);
    for row in pixels.chunks_exact(from * CHANNELS) {
        for window in &windows {
            let mut sums = [HALF; CHANNELS];
            let inputs = row[window.start * CHANNELS..].as_chunks::<CHANNELS>().0;
            for (pixel, &weight) in inputs.iter().zip(&window.weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            out.extend(sums.map(to_byte));
        }
    }
    out
}

/// (`from`, `row_len`) → (`to`, `row_len`).
fn resize_rows(pixels: &[u8], row_len: usize, from: usize, to: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(row_len * to);
    let mut sums = vec![0; row_len];
    for window in windows(from, to) {
        sums.fill(HALF);
        let rows = pixels[window.start * row_len..].chunks_exact(row_len);
        for (row, &weight) in rows.zip(&window.weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    out
}

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Input pixels of one output pixel.
struct Window {
    /// First input pixel.
    start: usize,
    /// Weights of this and the following pixels, in units of 2^-`FRACTION_BITS`.
    weights: Vec<i32>,
}

/// Computes the window of every output pixel. The order of f64 operations is Pillow's.
fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let reach = REACH * widening;
    let shrink = 1.0 / widening;
    let window = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let start = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5) as usize).min(from);
        let weights: Vec<f64> = (start..end).map(|i| cubic((i as f64 - center + 0.5) * shrink)).collect();
        let total: f64 = weights.iter().fold(0.0, |sum, weight| sum + weight);
        let rounded = |weight: &f64| {
            let weight = if total != 0.0 { weight / total } else { *weight };
            // Rounds half away from zero, as Pillow does: the cast truncates.
            (weight * f64::from(1 << FRACTION_BITS) + 0.5f64.copysign(weight)) as i32
        };
        Window { start, weights: weights.iter().map(rounded).collect() }
    };
    (0..to).map(window).collect()
}

/// The weights of a pass as a matrix (`to`, `from`).
///
/// # Panics
/// If a length is 0.
pub fn bicubic_matrix(from: usize, to: usize) -> Vec<f32> {
    assert!(from > 0 && to > 0, "a pass without pixels");
    let mut matrix = vec![0.0; to * from];
    for (row, window) in matrix.chunks_exact_mut(from).zip(windows(from, to)) {
        for (out, weight) in row[window.start..].iter_mut().zip(window.weights) {
            *out = weight as f32 / (1 << FRACTION_BITS) as f32;
        }
    }
    matrix
}

/// Keys' cubic with a = −0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < REACH {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_does_what_a_pass_does() {
        let values: Vec<u8> = (0..31u8).map(|i| 40 + i.wrapping_mul(37) % 170).collect();
        for (from, to) in [(31, 7), (7, 31), (16, 16), (1, 5), (5, 1)] {
            let rows = resize_rows(&values[..from], 1, from, to);
            let matrix = bicubic_matrix(from, to);
            for (row, wanted) in matrix.chunks_exact(from).zip(rows) {
                let sum: f32 = row.iter().zip(&values).map(|(w, &v)| w * f32::from(v)).sum();
                assert!(
                    (sum.clamp(0.0, 255.0) - f32::from(wanted)).abs() <= 0.501,
                    "{from} {to}: {sum} {wanted}"
                );
            }
        }
    }

    /// One row of grey pixels.
    fn grey(height: usize, width: usize, values: &[u8]) -> Rgb {
        Rgb { height, width, pixels: values.iter().flat_map(|&v| [v; 3]).collect() }
    }

    fn resized(height: usize, width: usize, values: &[u8], size: &str) -> Vec<u8> {
        let out = resize_bicubic(&grey(height, width, values), size.parse().unwrap());
        assert_eq!(out.pixels.len(), out.height * out.width * 3);
        out.pixels.chunks(3).map(|p| p[0]).collect()
    }

    #[test]
    fn same_size_changes_nothing() {
        let image = Rgb { height: 2, width: 2, pixels: (0..12).collect() };
        assert_eq!(resize_bicubic(&image, ImageSize::square(2)), image);
    }

    /// From `Image.fromarray(np.array(values, "uint8").reshape(h, w)).resize((W, H), Image.BICUBIC)` of Pillow 13.0.
    #[test]
    fn equal_to_pillow() {
        assert_eq!(resized(1, 5, &[0, 100, 200, 50, 255], "1x3"), [43, 144, 168]);
        assert_eq!(resized(1, 2, &[0, 255], "1x5"), [0, 17, 128, 238, 255]);
        assert_eq!(resized(2, 3, &[0, 100, 200, 50, 255, 7], "3x2"), [24, 173, 82, 136, 139, 98]);
        assert_eq!(resized(4, 1, &[255, 0, 0, 255], "2x1"), [107, 107]);
        assert_eq!(resized(1, 1, &[9], "2x2"), [9; 4]);
    }

    /// Also from Pillow. Columns first would give 31, 128, 224, 117, 128, 138.
    #[test]
    fn rows_that_lose_most_come_first() {
        let values = [0, 255, 0, 255, 255, 0, 0, 255];
        assert_eq!(resized(4, 2, &values, "2x3"), [18, 128, 237, 116, 128, 139]);
    }

    #[test]
    fn one_colour_stays_one_colour() {
        for size in ["1x1", "7x3", "224x112", "3x500"] {
            let out = resize_bicubic(&grey(50, 40, &[77; 2000]), size.parse().unwrap());
            assert!(out.pixels.iter().all(|&v| v == 77), "{size}");
        }
    }

    #[test]
    fn colours_do_not_mix() {
        let pixels = (0..30u8).flat_map(|v| [v * 8, 255, 0]).collect();
        let out = resize_bicubic(&Rgb { height: 5, width: 6, pixels }, ImageSize { height: 9, width: 4 });
        assert!(out.pixels.chunks(3).all(|p| p[1] == 255 && p[2] == 0));
    }
}
