//! image = (pixels/255 - mean)/std, and interleaved to planar; noise in erased rectangles.

use super::Exact;
use std::f64::consts::TAU;

/// The operands of a batch.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// Bytes (B, height, width, 3).
    pub pixels: &'a [u8],
    /// Words (B): 1 mirrors an image left to right. Empty: no image is mirrored.
    pub flip: &'a [u32],
    /// Top, left, height and width of each image's erased rectangle (B), before mirroring. Empty: nothing is erased.
    pub erased: &'a [[u32; 4]],
    /// Uniform numbers in [0, 1) of an element of an image: the pair for the Box-Muller transform.
    pub uniform: &'a dyn Fn(usize, usize) -> [f32; 2],
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Mean of R, G, B, for values in 0..=1.
    pub mean: [f32; 3],
    /// Standard deviation of R, G, B.
    pub std: [f32; 3],
}

impl Image<'_> {
    /// image\[b, channel, y, x\].
    pub fn at(&self, b: usize, channel: usize, y: usize, x: usize) -> Exact {
        let mirrored = self.flip.get(b).is_some_and(|&flip| flip != 0);
        let element = (channel * self.height + y) * self.width + x;
        let x = if mirrored { self.width - 1 - x } else { x };
        if let Some(&[top, left, height, width]) = self.erased.get(b)
            && (top..top + height).contains(&(y as u32))
            && (left..left + width).contains(&(x as u32))
        {
            let [u0, u1] = (self.uniform)(b, element).map(f64::from);
            let radius = (-2.0 * (1.0 - u0).ln()).sqrt();
            return Exact { value: radius * (TAU * u1).cos(), scale: 1.0 + radius };
        }
        let byte = self.pixels[((b * self.height + y) * self.width + x) * 3 + channel];
        let (mean, std) = (f64::from(self.mean[channel]), f64::from(self.std[channel]));
        let level = f64::from(byte) / 255.0;
        Exact { value: (level - mean) / std, scale: (level + mean.abs()) / std }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_separated_and_normalised() {
        let pixels = &[0, 51, 255, 255, 0, 0];
        let image = Image {
            pixels,
            flip: &[],
            erased: &[],
            uniform: &|_, element| [0.5, element as f32 / 8.0],
            height: 1,
            width: 2,
            mean: [0.5; 3],
            std: [0.5; 3],
        };
        assert_eq!(image.at(0, 0, 0, 0).value, -1.0);
        assert_eq!(image.at(0, 0, 0, 1).value, 1.0);
        assert!((image.at(0, 1, 0, 0).value + 0.6).abs() < 1e-15);
        assert_eq!(image.at(0, 2, 0, 0).value, 1.0);
        let mirrored = Image { flip: &[1], ..image };
        assert_eq!(mirrored.at(0, 0, 0, 1), image.at(0, 0, 0, 0));
        assert_eq!(mirrored.at(0, 2, 0, 0), image.at(0, 2, 0, 1));
        // The rectangle is the left pixel, which is on the right after mirroring.
        let erased = Image { erased: &[[0, 0, 1, 1]], ..mirrored };
        assert_eq!(erased.at(0, 1, 0, 0), mirrored.at(0, 1, 0, 0));
        let radius = (2.0 * 2f64.ln()).sqrt();
        for (channel, cos) in [(0, 0.5f64.sqrt()), (1, -0.5f64.sqrt()), (2, -0.5f64.sqrt())] {
            assert!((erased.at(0, channel, 0, 1).value - radius * cos).abs() < 1e-12, "{channel}");
        }
    }
}
