//! image against the reference.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{bytes, sample};
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::image::{Forward, pixel_words};
use lat_wgpu::reference::image::Image;
use lat_wgpu::shape::{ImageSize, Normalize};

fn run(pixels: &[u8], size: ImageSize, normalize: Normalize) -> Vec<f32> {
    let batch = pixels.len() / (size.height * size.width * 3);
    let (mean, std) = normalize.mean_std();
    // Bytes past the last pixel may hold anything.
    let mut padded = pixels.to_vec();
    padded.resize(4 * pixel_words(batch, size), 0xa5);
    let words: Vec<f32> =
        padded.chunks(4).map(|b| f32::from_bits(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
    let mut run = Guarded::new(&format!("image {batch}x{size}"));
    let pixels = run.input("pixels", &words);
    let image = run.output("image", batch * 3 * size.height * size.width);
    Forward { pixels, image, batch, size, mean, std }.record(&mut run.recorder, "image");
    run.run().remove(0)
}

fn check(batch: usize, height: usize, width: usize, normalize: Normalize, count: usize) {
    let size = ImageSize { height, width };
    let plane = height * width;
    let pixels = bytes(1, batch * plane * 3);
    let (mean, std) = normalize.mean_std();
    let exact = Image { pixels: &pixels, height, width, mean, std };
    let wanted = sample(batch * 3 * plane, count)
        .into_iter()
        .map(|i| (i, exact.at(i / (3 * plane), i / plane % 3, i % plane / width, i % width)));
    let name = format!("image {batch}x{size} {normalize:?}");
    compare(&name, &run(&pixels, size, normalize), wanted, tolerance::IMAGE);
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
    let exact = Image { pixels: &pixels, height: 16, width: 16, mean, std };
    let wanted = (0..768).map(|i| (i, exact.at(0, i / 256, i % 256 / 16, i % 16)));
    let image = run(&pixels, size, Normalize::Imagenet);
    compare("image: every level", &image, wanted, tolerance::IMAGE);
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    // 3·5·7 bytes: pictures after the first don't begin on a word.
    let size = ImageSize { height: 5, width: 7 };
    let pixels = bytes(2, 4 * 105);
    let all = run(&pixels, size, Normalize::Clip);
    for (i, pixels) in pixels.chunks(105).enumerate() {
        assert_same_bits(&format!("image {i}"), &all[i * 105..][..105], &run(pixels, size, Normalize::Clip));
    }
}
