//! patch_embed: both families against the reference and each other.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::{normal, sample, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::gpu::Family;
use lat_wgpu::kernels::patch_embed::{Backward, Forward};
use lat_wgpu::reference::patch_embed::PatchEmbed;
use lat_wgpu::shape::ImageSize;

/// What this adapter can run.
fn families() -> Vec<Family> {
    match context().family() {
        Family::Tiled => vec![Family::Tiled],
        subgroup => vec![Family::Tiled, subgroup],
    }
}

fn run(operands: PatchEmbed<'_>, family: Family) -> Vec<f32> {
    let PatchEmbed { height, width, patch, stride, .. } = operands;
    let size = ImageSize { height, width };
    let batch = operands.image.len() / (3 * height * width);
    let dim = operands.weight.len() / (3 * patch * patch);
    let (rows, columns) = operands.grid();
    let mut run =
        Guarded::new(&format!("patch_embed {batch}x{size} patch {patch}/{stride} to {dim} {family:?}"));
    let embed = Forward {
        image: run.input("image", operands.image),
        weight: run.input("weight", operands.weight),
        bias: operands.bias.map(|bias| run.input("bias", bias)),
        patches: run.output("patches", batch * rows * columns * dim),
        batch,
        size,
        patch,
        stride,
        dim,
    };
    embed.record_with(&mut run.recorder, "patch_embed", family);
    run.run().remove(0)
}

/// B, height, width, P, stride and D.
fn check(shape: [usize; 6], has_bias: bool, count: usize) {
    let [batch, height, width, patch, stride, dim] = shape;
    let depth = 3 * patch * patch;
    let image = normal(1, batch * 3 * height * width);
    let weight = scaled(2, dim * depth, 1.0 / (depth as f32).sqrt());
    let bias = normal(3, dim);
    let bias = has_bias.then_some(&bias[..]);
    let operands = PatchEmbed { image: &image, weight: &weight, bias, height, width, patch, stride };
    let (rows, columns) = operands.grid();
    let name =
        format!("patch_embed {batch}x{height}x{width} patch {patch}/{stride} to {dim} bias {has_bias}");
    let results: Vec<Vec<f32>> = families().into_iter().map(|family| run(operands, family)).collect();
    let places = sample(batch * rows * columns * dim, count);
    let wanted = places.iter().map(|&i| (i, operands.at(i / dim, i % dim)));
    compare(&name, &results[0], wanted, tolerance::patch_embed(patch));
    for other in &results[1..] {
        assert_same_bits(&name, &results[0], other);
    }
}

#[test]
fn one_primes_and_around_every_tile() {
    check([1, 1, 1, 1, 1, 1], true, usize::MAX);
    for dim in [1, 7, 31, 32, 33, 61, 65] {
        check([1, 13, 11, 3, 3, dim], true, usize::MAX);
        check([2, 16, 12, 4, 4, dim], false, usize::MAX);
    }
    // 1, 31, 32 and 33 patches.
    for columns in [1, 31, 32, 33] {
        check([1, 5, 5 * columns, 5, 5, 35], true, usize::MAX);
    }
    check([3, 7, 7, 2, 2, 5], true, usize::MAX);
}

#[test]
fn every_patch_size_and_overlap() {
    for (patch, stride) in [(8, 8), (14, 14), (16, 16), (32, 32), (16, 12), (16, 5), (8, 1)] {
        check([2, patch + 2 * stride + 3, patch + stride, patch, stride, 40], true, usize::MAX);
    }
}

#[test]
fn shapes_of_vit_b_and_of_dinov2() {
    check([1, 224, 224, 16, 16, 768], true, 4000);
    check([1, 224, 224, 14, 14, 384], true, 4000);
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let (image, weight, bias) = (normal(4, 3 * 3 * 20 * 12), normal(5, 50 * 48), normal(6, 50));
    for family in families() {
        let operands = |image| PatchEmbed {
            image,
            weight: &weight,
            bias: Some(&bias),
            height: 20,
            width: 12,
            patch: 4,
            stride: 4,
        };
        let all = run(operands(&image), family);
        for (i, image) in image.chunks(3 * 20 * 12).enumerate() {
            let alone = run(operands(image), family);
            assert_same_bits(
                &format!("image {i} {family:?}"),
                &all[i * alone.len()..][..alone.len()],
                &alone,
            );
        }
    }
}

/// dweight and, if `has_bias`, dbias.
fn run_backward(
    operands: PatchEmbed<'_>,
    dtokens: &[f32],
    prefix: usize,
    dim: usize,
    has_bias: bool,
    family: Family,
) -> Vec<Vec<f32>> {
    let PatchEmbed { height, width, patch, stride, .. } = operands;
    let size = ImageSize { height, width };
    let batch = operands.image.len() / (3 * height * width);
    let mut run = Guarded::new(&format!(
        "patch_embed backward {batch}x{size} patch {patch}/{stride} from {prefix}+ tokens of {dim} {family:?}"
    ));
    let backward = Backward {
        image: run.input("image", operands.image),
        dtokens: run.input("dtokens", dtokens),
        dweight: run.output("dweight", dim * 3 * patch * patch),
        dbias: has_bias.then(|| run.output("dbias", dim)),
        batch,
        size,
        patch,
        stride,
        prefix,
        dim,
    };
    backward.record_with(&mut run.recorder, "patch_embed.backward", family);
    run.run()
}

/// B, height, width, P, stride and D.
fn check_backward(shape: [usize; 6], prefix: usize, has_bias: bool, count: usize) {
    let [batch, height, width, patch, stride, dim] = shape;
    let depth = 3 * patch * patch;
    let image = normal(7, batch * 3 * height * width);
    let operands = PatchEmbed { image: &image, weight: &[], bias: None, height, width, patch, stride };
    let (rows, columns) = operands.grid();
    let dtokens = normal(8, batch * (prefix + rows * columns) * dim);
    let name =
        format!("patch_embed backward {batch}x{height}x{width} patch {patch}/{stride} to {prefix}+ x{dim}");
    let gradient = |n, k| operands.gradient(&dtokens, prefix, dim, n, k);
    let run = |family| run_backward(operands, &dtokens, prefix, dim, has_bias, family);
    let results: Vec<Vec<Vec<f32>>> = families().into_iter().map(run).collect();
    let allowed = tolerance::patch_embed_backward(batch * rows * columns);
    let places = sample(dim * depth, count);
    let wanted = places.iter().map(|&i| (i, gradient(i / depth, Some(i % depth))));
    compare(&name, &results[0][0], wanted, allowed);
    if has_bias {
        let wanted = (0..dim).map(|n| (n, gradient(n, None)));
        compare(&format!("{name}: dbias"), &results[0][1], wanted, allowed);
    }
    for other in &results[1..] {
        for (first, other) in results[0].iter().zip(other) {
            assert_same_bits(&name, first, other);
        }
    }
}

#[test]
fn backward_of_the_reference_against_differences() {
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
    prove("patch_embed: dweight", &weight, &dweight, |weight| loss(weight, &bias));
    prove("patch_embed: dbias", &bias, &dbias, |bias| loss(&weight, bias));
}

#[test]
fn backward_of_one_primes_and_around_every_tile() {
    check_backward([1, 1, 1, 1, 1, 4], 1, true, usize::MAX);
    for dim in [4, 28, 32, 36, 60, 68] {
        check_backward([1, 13, 11, 3, 3, dim], 1, true, usize::MAX);
        check_backward([2, 16, 12, 4, 4, dim], 2, false, usize::MAX);
    }
    // 1, 15, 16, 17 and 33 patches.
    for columns in [1, 15, 16, 17, 33] {
        check_backward([1, 5, 5 * columns, 5, 5, 36], 5, true, usize::MAX);
    }
    check_backward([3, 7, 7, 2, 2, 8], 1, true, usize::MAX);
}

#[test]
fn backward_of_every_patch_size_and_overlap() {
    for (patch, stride) in [(8, 8), (14, 14), (16, 16), (32, 32), (16, 12), (16, 5), (8, 1)] {
        let (height, width) = (patch + 2 * stride + 3, patch + stride);
        check_backward([2, height, width, patch, stride, 40], 1, true, 4000);
    }
}

#[test]
fn backward_of_vit_s() {
    check_backward([2, 224, 224, 16, 16, 384], 1, true, 2000);
}
