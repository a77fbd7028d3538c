//! Converts the bytes of images to the network's normalised, planar input.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};
use crate::shape::ImageSize;

static FILE: ShaderFile = ShaderFile::new("image", include_str!("../../shaders/image.wgsl")).helpers(&[
    include_str!("../../shaders/common/random.wgsl"),
    include_str!("../../shaders/common/step.wgsl"),
]);

entry_points! {
    struct Params in 48 bytes {
        height: u32, width: u32, batch: u32, first: u32, mean: [f32; 4], deviation: [f32; 4]
    }
    fn image_forward(
        pixels: read, flip: read if HAS_FLIP, image: write, erased: read if HAS_NOISE, step: read if HAS_NOISE
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<image_forward>(), vec![])]
}

/// High word of the random stream of noise. The low word is the epoch.
pub const NOISE_STREAM: u32 = 0x6e6f_6973;

/// Rectangles of images that are filled with normal numbers.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    /// Words (B, 4): top, left, height and width of each image's rectangle before mirroring, in pixels.
    pub erased: Tensor,
    /// Words of [`StepValues`](super::adam::StepValues).
    pub step: Tensor,
    /// Index in the batch of the first image.
    pub first: usize,
}

/// image = (pixels/255 - mean)/std, mirrored where `flip` is 1, and random where it is erased with noise.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Bytes (B, height, width, 3), four per word, padded to [`pixel_words`] words.
    pub pixels: Tensor,
    /// Words (B): 1 mirrors the image left to right, 0 does not.
    pub flip: Option<Tensor>,
    /// Rectangles to fill with noise.
    pub noise: Option<Noise>,
    /// Normalised images (B, 3, height, width), written.
    pub image: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Height and width of an image in pixels.
    pub size: ImageSize,
    /// Mean per channel, for values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation per channel.
    pub std: [f32; 3],
}

/// Words that the bytes of `batch` images take.
pub fn pixel_words(batch: usize, size: ImageSize) -> usize {
    (batch * size.height * size.width * 3).div_ceil(4)
}

impl Forward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Forward { pixels, flip, noise, image, batch, size, mean, std } = *self;
        expect(recorder, "pixels", pixels, &[pixel_words(batch, size)]);
        expect(recorder, "image", image, &[batch, 3, size.height, size.width]);
        expect(recorder, "flip", flip, &[batch]);
        let (erased, step) = (noise.map(|noise| noise.erased), noise.map(|noise| noise.step));
        expect(recorder, "erased", erased, &[batch, 4]);
        let params = Params {
            height: u32_of(size.height),
            width: u32_of(size.width),
            batch: u32_of(batch),
            first: u32_of(noise.map_or(0, |noise| noise.first)),
            mean: [mean[0], mean[1], mean[2], 0.0],
            deviation: [std[0], std[1], std[2], 1.0],
        };
        FILE.launch(params, image_forward { pixels, flip, image, erased, step })
            .invocations(image.len)
            // Two divisions and a subtraction.
            .record(recorder, name, 3.0 * image.len as f64);
    }
}
