//! Bytes of pictures to the network's normalised, planar input.

use super::{THREADS, expect, u32_of};
use crate::gpu::{Access, Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};
use crate::shape::ImageSize;

/// The declaration of `image.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "image",
    source: include_str!("../../shaders/image.wgsl"),
    helpers: &[],
    entry: "image_forward",
    bindings: &[Binding::read("pixels"), Binding::read("flip"), Binding::write("image")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: false,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    height: u32,
    width: u32,
    batch: u32,
    unused: u32,
    mean: [f32; 4],
    std: [f32; 4],
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    vec![(&KERNEL, vec![])]
}

/// image = (pixels/255 - mean)/std, mirrored where `flip` says so.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B, height, width, 3) bytes, four to a word, padded to whole words: [`pixel_words`] of them.
    pub pixels: Tensor,
    /// (B) words: 1 mirrors the picture left to right, 0 leaves it.
    pub flip: Option<Tensor>,
    /// (B, 3, height, width), written.
    pub image: Tensor,
    /// B.
    pub batch: usize,
    /// Height and width in pixels.
    pub size: ImageSize,
    /// Per channel, of values in [0, 1].
    pub mean: [f32; 3],
    /// Per channel.
    pub std: [f32; 3],
}

/// Words that the bytes of `batch` pictures fill.
pub fn pixel_words(batch: usize, size: ImageSize) -> usize {
    (batch * size.height * size.width * 3).div_ceil(4)
}

impl Forward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Forward { pixels, flip, image, batch, size, mean, std } = *self;
        expect(recorder, "pixels", pixels, &[pixel_words(batch, size)]);
        expect(recorder, "image", image, &[batch, 3, size.height, size.width]);
        if let Some(flip) = flip {
            expect(recorder, "flip", flip, &[batch]);
        }
        let params = Params {
            height: u32_of(size.height),
            width: u32_of(size.width),
            batch: u32_of(batch),
            unused: 0,
            mean: [mean[0], mean[1], mean[2], 0.0],
            std: [std[0], std[1], std[2], 1.0],
        };
        let unused = recorder.unused(Access::Read);
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![],
            overrides: vec![("HAS_FLIP", f64::from(u8::from(flip.is_some())))],
            tensors: vec![pixels, flip.unwrap_or(unused), image],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(image.len.div_ceil(THREADS)),
            // Two divisions and a difference.
            flops: 3.0 * image.len as f64,
            label: recorder.label(name),
        });
    }
}
