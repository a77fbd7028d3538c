//! More tests of patch_embed.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use crate::common::recordings::judged;
use crate::common::{alone, context};
use lat_wgpu::cases::patch_embed::{Shape, forward};
use lat_wgpu::gpu::Family;
use lat_wgpu::reference::patch_embed::PatchEmbed;
use lat_wgpu::shape::ImageSize;

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let size = ImageSize { height: 20, width: 12 };
    let one = Shape { batch: 1, size, patch: 4, stride: 4, dim: 50, has_bias: true };
    for family in [Family::Tiled, context().family()] {
        alone(&normal(4, 3 * one.image_len()), 3, |image| {
            let shape = Shape { batch: image.len() / one.image_len(), ..one };
            judged("patch_embed", |run| forward(run, image, shape, family))
        });
    }
}

#[test]
fn reference_gradients_match_finite_differences() {
    let (batch, height, width, patch, stride, dim, prefix) = (2, 7, 6, 3, 2, 4, 2);
    let depth = 3 * patch * patch;
    let image = coarse(9, batch * 3 * height * width);
    let (weight, bias) = (coarse(10, dim * depth), coarse(11, dim));
    let fixed =
        PatchEmbed { image: &image, weight: &weight, bias: Some(&bias), height, width, patch, stride };
    let (rows, columns) = fixed.grid();
    let patches = rows * columns;
    let dtokens = normal(12, batch * (prefix + patches) * dim);
    let loss = |weight: &[f32], bias: &[f32]| -> f64 {
        let embed = PatchEmbed { weight, bias: Some(bias), ..fixed };
        let of_patch = |m: usize, n: usize| {
            let row = m / patches * (prefix + patches) + prefix + m % patches;
            f64::from(dtokens[row * dim + n]) * embed.at(m, n).value
        };
        (0..batch * patches * dim).map(|i| of_patch(i / dim, i % dim)).sum()
    };
    let gradient = |n, k| fixed.gradient(&dtokens, prefix, dim, n, k).value;
    let dweight: Vec<f64> = (0..dim * depth).map(|i| gradient(i / depth, Some(i % depth))).collect();
    let dbias: Vec<f64> = (0..dim).map(|n| gradient(n, None)).collect();
    check_gradient("patch_embed: dweight", &weight, &dweight, |weight| loss(weight, &bias));
    check_gradient("patch_embed: dbias", &bias, &dbias, |bias| loss(&weight, bias));
}
