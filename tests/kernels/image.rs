//! More tests of image.

use crate::common::assert_same_bits;
use crate::common::random::bytes;
use crate::common::recordings::judged;
use lat_wgpu::cases::image::forward;
use lat_wgpu::shape::{ImageSize, Normalize};

fn run(pixels: &[u8], flip: &[u32], size: ImageSize) -> Vec<f32> {
    let batch = pixels.len() / (3 * size.height * size.width);
    let name = format!("image {batch}x{size} flip {flip:?}");
    judged(&name, |run| forward(run, || pixels.to_vec(), batch, size, flip, Normalize::Clip)).remove(0)
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    // An image has 3·5·7 bytes, so later images begin within a word.
    let (size, pixels) = (ImageSize { height: 5, width: 7 }, bytes(2, 4 * 105));
    let all = run(&pixels, &[], size);
    for (i, pixels) in pixels.chunks(105).enumerate() {
        assert_same_bits(&format!("image {i}"), &all[i * 105..][..105], &run(pixels, &[], size));
    }
}

#[test]
fn mirroring_twice_is_the_identity_and_zeros_mirror_nothing() {
    for (height, width) in [(1, 1), (1, 2), (5, 7), (8, 8), (13, 31)] {
        let (size, pixels) = (ImageSize { height, width }, bytes(3, 12 * height * width));
        let plain = run(&pixels, &[], size);
        assert_same_bits(&format!("image {size}: no flip"), &plain, &run(&pixels, &[0; 4], size));
        let mut twice = run(&pixels, &[1; 4], size);
        twice.chunks_mut(width).for_each(|row| row.reverse());
        assert_same_bits(&format!("image {size}: mirrored back"), &plain, &twice);
    }
}
