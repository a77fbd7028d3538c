//! image against the reference.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{bytes, sample};
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::image::{Forward, pixel_words};
use lat_wgpu::reference::image::Image;
use lat_wgpu::shape::{ImageSize, Normalize};

/// `flip` is empty, or one word per picture.
fn run(pixels: &[u8], flip: &[u32], size: ImageSize, normalize: Normalize) -> Vec<f32> {
    let batch = pixels.len() / (size.height * size.width * 3);
    let (mean, std) = normalize.mean_std();
    // Bytes past the last pixel may hold anything.
    let mut padded = pixels.to_vec();
    padded.resize(4 * pixel_words(batch, size), 0xa5);
    let words: Vec<f32> =
        padded.chunks(4).map(|b| f32::from_bits(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
    let mut run = Guarded::new(&format!("image {batch}x{size} flip {flip:?}"));
    let pixels = run.input("pixels", &words);
    let flip: Vec<f32> = flip.iter().map(|&word| f32::from_bits(word)).collect();
    let flip = (!flip.is_empty()).then(|| run.input("flip", &flip));
    let image = run.output("image", batch * 3 * size.height * size.width);
    Forward { pixels, flip, image, batch, size, mean, std }.record(&mut run.recorder, "image");
    run.run().remove(0)
}

fn check(batch: usize, height: usize, width: usize, normalize: Normalize, count: usize) {
    let size = ImageSize { height, width };
    let plane = height * width;
    let pixels = bytes(1, batch * plane * 3);
    let (mean, std) = normalize.mean_std();
    let exact = Image { pixels: &pixels, flip: &[], height, width, mean, std };
    let wanted = sample(batch * 3 * plane, count)
        .into_iter()
        .map(|i| (i, exact.at(i / (3 * plane), i / plane % 3, i % plane / width, i % width)));
    let name = format!("image {batch}x{size} {normalize:?}");
    compare(&name, &run(&pixels, &[], size, normalize), wanted, tolerance::IMAGE);
}

#[test]
fn one_primes_and_around_a_workgroup() {
    for (height, width) in [(1, 1), (1, 2), (2, 1), (3, 7), (13, 11), (7, 9), (8, 8), (5, 13), (31, 33)] {
        for batch in [1, 2, 3] {
            check(batch, height, width, Normalize::Imagenet, usize::MAX);
        }
    }
}

#[test]
fn shape_of_vit_b_in_every_normalisation() {
    for normalize in [Normalize::Imagenet, Normalize::Half, Normalize::Clip] {
        check(2, 224, 224, normalize, 4000);
    }
}

#[test]
fn every_level_of_every_channel() {
    let pixels: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
    let size = ImageSize::square(16);
    let (mean, std) = Normalize::Imagenet.mean_std();
    let exact = Image { pixels: &pixels, flip: &[], height: 16, width: 16, mean, std };
    let wanted = (0..768).map(|i| (i, exact.at(0, i / 256, i % 256 / 16, i % 16)));
    let image = run(&pixels, &[], size, Normalize::Imagenet);
    compare("image: every level", &image, wanted, tolerance::IMAGE);
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    // 3·5·7 bytes: pictures after the first don't begin on a word.
    let size = ImageSize { height: 5, width: 7 };
    let pixels = bytes(2, 4 * 105);
    let all = run(&pixels, &[], size, Normalize::Clip);
    for (i, pixels) in pixels.chunks(105).enumerate() {
        let alone = run(pixels, &[], size, Normalize::Clip);
        assert_same_bits(&format!("image {i}"), &all[i * 105..][..105], &alone);
    }
}

#[test]
fn only_the_pictures_that_are_told_are_mirrored() {
    for (height, width) in [(1, 1), (1, 2), (5, 7), (8, 8), (13, 31)] {
        let size = ImageSize { height, width };
        let plane = height * width;
        let pixels = bytes(3, 4 * plane * 3);
        let (mean, std) = Normalize::Imagenet.mean_std();
        for flip in [[0, 1, 1, 0], [1, 0, 0, 1], [1; 4]] {
            let exact = Image { pixels: &pixels, flip: &flip, height, width, mean, std };
            let wanted = (0..4 * 3 * plane)
                .map(|i| (i, exact.at(i / (3 * plane), i / plane % 3, i % plane / width, i % width)));
            let mirrored = run(&pixels, &flip, size, Normalize::Imagenet);
            compare(&format!("image 4x{size} flip {flip:?}"), &mirrored, wanted, tolerance::IMAGE);
        }
        // A word of zeros asks for nothing; a picture mirrored twice is itself, row by row.
        let plain = run(&pixels, &[], size, Normalize::Imagenet);
        let asked = run(&pixels, &[0; 4], size, Normalize::Imagenet);
        assert_same_bits(&format!("image {size}: no flip"), &plain, &asked);
        let mut twice = run(&pixels, &[1; 4], size, Normalize::Imagenet);
        twice.chunks_mut(width).for_each(|row| row.reverse());
        assert_same_bits(&format!("image {size}: mirrored back"), &plain, &twice);
    }
}
