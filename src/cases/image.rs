//! Cases of image.

use super::random::{Numbers, bytes};
use super::run::Run;
use super::{List, SIZE, TimedCases, tolerance};
use crate::kernels::adam::StepValues;
use crate::kernels::image::{Forward, NOISE_STREAM, Noise, pixel_words};
use crate::reference::image::Image;
use crate::rng;
use crate::shape::{ImageSize, Normalize};

const SEED: u64 = 0x1234_5678_9abc_def0;
const EPOCH: u32 = 5;
/// Position in the epoch of the batch's first image.
pub const PLACE: u32 = 96;

/// The rectangle of each image to fill with noise, and the index in the batch of the first image.
pub type Erased<'a> = (&'a [[u32; 4]], usize);

/// Records the conversion of `batch` images. `flip` is empty, or has one word per image.
pub fn forward(
    run: &mut Run<'_>,
    pixels: impl Fn() -> Vec<u8>,
    batch: usize,
    size: ImageSize,
    flip: &[u32],
    normalize: Normalize,
) {
    erased(run, pixels, batch, size, flip, normalize, None);
}

/// Records the conversion of images with rectangles of noise.
pub fn erased(
    run: &mut Run<'_>,
    pixels: impl Fn() -> Vec<u8>,
    batch: usize,
    size: ImageSize,
    flip: &[u32],
    normalize: Normalize,
    erased: Option<Erased<'_>>,
) {
    let ImageSize { height, width } = size;
    let (mean, std) = normalize.mean_std();
    let len = pixel_words(batch, size);
    let words = Numbers::new(len, || {
        // Bytes past the last pixel may have any value.
        let mut padded = pixels();
        padded.resize(4 * len, 0xa5);
        padded.chunks(4).map(|b| f32::from_bits(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
    });
    let words = run.operand("pixels", words).tensor;
    let flips = (!flip.is_empty()).then(|| run.words("flip", flip));
    let noise = erased.map(|(rectangles, first)| {
        let values = StepValues { seed: SEED, epoch: EPOCH, place: PLACE, ..StepValues::default() };
        let step = run.words("step", &values.words());
        Noise { erased: run.words("erased", rectangles.as_flattened()), step, first }
    });
    let plane = height * width;
    let image = run.output("image", batch * 3 * plane);
    Forward { pixels: words, flip: flips, noise, image, batch, size, mean, std }
        .record(&mut run.recorder, "image");
    let pixels = pixels();
    let (rectangles, first) = erased.unwrap_or_default();
    let uniform = |b: usize, element: usize| {
        let (stream, place) =
            (u64::from(NOISE_STREAM) << 32 | u64::from(EPOCH), u64::from(PLACE) + (first + b) as u64);
        [0, 1].map(|i| rng::uniform(SEED, stream, place << 32 | (2 * element + i) as u64))
    };
    let exact =
        Image { pixels: &pixels, flip, erased: rectangles, uniform: &uniform, height, width, mean, std };
    let allowed = if erased.is_some() { tolerance::IMAGE_NOISE } else { tolerance::IMAGE };
    run.sampled("image", image, allowed, |i| {
        exact.at(i / (3 * plane), i / plane % 3, i % plane / width, i % width)
    });
}

fn flips(batch: usize) -> Vec<u32> {
    (0..batch as u32).map(|b| b % 2).collect()
}

pub(super) fn list(list: &mut List) {
    for (batch, height, width, flipped) in [(1, 1, 1, false), (3, 5, 7, false), (3, 13, 31, true)] {
        let variant = if flipped { "flips" } else { "no flips" };
        let (size, flip) = (ImageSize { height, width }, if flipped { flips(batch) } else { Vec::new() });
        list.add(variant, format!("{batch}x{height}x{width}"), move |run| {
            run.samples = usize::MAX;
            forward(run, || bytes(1, batch * 3 * height * width), batch, size, &flip, Normalize::Imagenet);
        });
    }
    // Nothing; a pixel in the corner; all; a rectangle inside of a mirrored image.
    let rectangles = [[0, 0, 0, 0], [12, 30, 1, 1], [0, 0, 13, 31], [2, 3, 7, 20]];
    let size = ImageSize { height: 13, width: 31 };
    for first in [0, 3] {
        list.add("noise", format!("4x13x31 from {first}"), move |run| {
            let pixels = || bytes(1, 4 * 3 * 13 * 31);
            let flip = flips(4);
            erased(run, pixels, 4, size, &flip, Normalize::Half, Some((&rectangles, first)));
        });
    }
    let mut full = |samples: usize, batch: usize, size: ImageSize, flip: &[u32], normalize: Normalize| {
        let flip = flip.to_vec();
        list.full_ways(samples, format!("{batch}x{size} flip {flip:?} {normalize:?}"), [()], move |run, ()| {
            let pixels = || bytes(1, batch * 3 * size.height * size.width);
            forward(run, pixels, batch, size, &flip, normalize);
        });
    };
    // One, primes, and sizes around a workgroup.
    for (height, width) in [(1, 1), (1, 2), (2, 1), (3, 7), (13, 11), (7, 9), (8, 8), (5, 13), (31, 33)] {
        for batch in [1, 2, 3] {
            full(usize::MAX, batch, ImageSize { height, width }, &[], Normalize::Imagenet);
        }
    }
    for normalize in [Normalize::Imagenet, Normalize::Half, Normalize::Clip] {
        full(4000, 2, ImageSize::square(224), &[], normalize);
    }
    for (height, width) in [(1, 1), (1, 2), (5, 7), (8, 8), (13, 31)] {
        for flip in [[0, 1, 1, 0], [1, 0, 0, 1], [1; 4]] {
            full(usize::MAX, 4, ImageSize { height, width }, &flip, Normalize::Imagenet);
        }
    }
    list.full("every level", |run| {
        let pixels = || (0..=255).flat_map(|level| [level; 3]).collect();
        forward(run, pixels, 1, ImageSize::square(16), &[], Normalize::Imagenet);
    });
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let batch = timed.batch;
    timed.add("", move |run| forward(run, Vec::new, batch, SIZE, &flips(batch), Normalize::Imagenet));
}
