//! image = (pixels/255 - mean)/std, and interleaved to planar.

use super::Exact;

/// The operands of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Bytes (B, height, width, 3).
    pub pixels: &'a [u8],
    /// Words (B): 1 mirrors an image left to right. Empty: no image is mirrored.
    pub flip: &'a [u32],
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
        let x = if mirrored { self.width - 1 - x } else { x };
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
        let image = Image { pixels, flip: &[], height: 1, width: 2, mean: [0.5; 3], std: [0.5; 3] };
        assert_eq!(image.at(0, 0, 0, 0).value, -1.0);
        assert_eq!(image.at(0, 0, 0, 1).value, 1.0);
        assert!((image.at(0, 1, 0, 0).value + 0.6).abs() < 1e-15);
        assert_eq!(image.at(0, 2, 0, 0).value, 1.0);
        let mirrored = Image { flip: &[1], ..image };
        assert_eq!(mirrored.at(0, 0, 0, 1), image.at(0, 0, 0, 0));
        assert_eq!(mirrored.at(0, 2, 0, 0), image.at(0, 2, 0, 1));
    }
}
