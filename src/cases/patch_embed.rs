//! Cases of patch_embed, with both families.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, PATCH, SIZE, TimedCases, tolerance};
use crate::gpu::Family;
use crate::kernels::patch_embed::{Backward, Forward};
use crate::reference::patch_embed::PatchEmbed;
use crate::shape::ImageSize;

/// The dimensions of a case.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Batch size B.
    pub batch: usize,
    /// Size of an image in pixels.
    pub size: ImageSize,
    /// Side of a patch in pixels P.
    pub patch: usize,
    /// Step between patches in pixels.
    pub stride: usize,
    /// Width of a token D.
    pub dim: usize,
    /// True if the projection has a bias.
    pub has_bias: bool,
}

impl Shape {
    /// Elements of all images.
    pub fn image_len(&self) -> usize {
        self.batch * 3 * self.size.height * self.size.width
    }

    fn depth(&self) -> usize {
        3 * self.patch * self.patch
    }

    /// The reference for these operands.
    pub fn exact<'n>(&self, image: &'n [f32], weight: &'n [f32], bias: Option<&'n [f32]>) -> PatchEmbed<'n> {
        let Shape { size: ImageSize { height, width }, patch, stride, .. } = *self;
        PatchEmbed { image, weight, bias, height, width, patch, stride }
    }

    /// Patches per image.
    pub fn count(&self) -> usize {
        let (rows, columns) = self.exact(&[], &[], None).grid();
        rows * columns
    }
}

/// Records the forward pass.
pub fn forward<'n>(run: &mut Run<'_>, image: impl Into<Numbers<'n>>, shape: Shape, family: Family) {
    let Shape { batch, size, patch, stride, dim, has_bias } = shape;
    let depth = shape.depth();
    let image = run.operand("image", image);
    let weight = run.operand("weight", drawn(2, dim * depth).map(move |v| v * (1.0 / (depth as f32).sqrt())));
    let bias = has_bias.then(|| run.operand("bias", drawn(3, dim)));
    let patches = run.output("patches", batch * shape.count() * dim);
    let call = Forward {
        image: image.tensor,
        weight: weight.tensor,
        bias: bias.as_ref().map(|bias| bias.tensor),
        patches,
        batch,
        size,
        patch,
        stride,
        dim,
    };
    call.record_with(&mut run.recorder, "patch_embed", family);
    let exact = shape.exact(&image, &weight, bias.as_deref());
    run.sampled("patches", patches, tolerance::patch_embed(patch), |i| exact.at(i / dim, i % dim));
}

fn backward(run: &mut Run<'_>, prefix: usize, shape: Shape, family: Family) {
    let Shape { batch, size, patch, stride, dim, has_bias } = shape;
    let depth = shape.depth();
    let image = run.operand("image", drawn(7, shape.image_len()));
    let dtokens = run.quads("dtokens", drawn(8, batch * (prefix + shape.count()) * dim));
    let dweight = run.output("dweight", dim * depth);
    let dbias = has_bias.then(|| run.output("dbias", dim));
    let (of_image, of_tokens) = (image.tensor, dtokens.tensor);
    let call = Backward { image: of_image, dtokens: of_tokens, dweight, dbias, batch, size, patch, stride, prefix, dim };
    call.record_with(&mut run.recorder, "patch_embed.backward", family);
    let exact = shape.exact(&image, &[], None);
    let gradient = |n, k| exact.gradient(&dtokens, prefix, dim, n, k);
    let allowed = tolerance::patch_embed_backward(batch * shape.count());
    run.sampled("dweight", dweight, allowed, |i| gradient(i / depth, Some(i % depth)));
    if let Some(dbias) = dbias {
        run.all("dbias", dbias, allowed, || (0..dim).map(|n| gradient(n, None)));
    }
}

pub(super) fn list(list: &mut List) {
    let shape = |[batch, height, width, patch, stride, dim]: [usize; 6], has_bias| Shape {
        batch,
        size: ImageSize { height, width },
        patch,
        stride,
        dim,
        has_bias,
    };
    let families = list.families();
    let variant = |shape: Shape| if shape.has_bias { "bias" } else { "alone" };
    let name = |Shape { batch, size: ImageSize { height, width }, patch, stride, dim, .. }: Shape| {
        format!("{batch}x{height}x{width} patch {patch}/{stride} to {dim}")
    };
    for &family in &families {
        for (sizes, has_bias) in
            [([1, 1, 1, 1, 1, 1], true), ([2, 16, 12, 4, 4, 37], true), ([2, 21, 13, 8, 5, 33], false)]
        {
            let shape = shape(sizes, has_bias);
            list.add(format!("forward {family} {}", variant(shape)), name(shape), move |run| {
                forward(run, drawn(1, shape.image_len()), shape, family);
            });
        }
        for (sizes, has_bias) in
            [([1, 1, 1, 1, 1, 4], true), ([2, 16, 12, 4, 4, 36], true), ([2, 21, 13, 8, 5, 68], false)]
        {
            let shape = shape(sizes, has_bias);
            list.add_stored(format!("backward {family} {}", variant(shape)), name(shape), move |run| {
                backward(run, 2, shape, family);
            });
        }
    }

    let ways = families.clone();
    let mut full = |samples: usize, sizes: [usize; 6], has_bias: bool| {
        let shape = shape(sizes, has_bias);
        list.full_ways(samples, format!("forward {}", name(shape)), ways.clone(), move |run, family| {
            forward(run, drawn(1, shape.image_len()), shape, family);
        });
    };
    // One, primes, and sizes around every tile.
    full(usize::MAX, [1, 1, 1, 1, 1, 1], true);
    for dim in [1, 7, 31, 32, 33, 61, 65] {
        full(usize::MAX, [1, 13, 11, 3, 3, dim], true);
        full(usize::MAX, [2, 16, 12, 4, 4, dim], false);
    }
    // 1, 31, 32 and 33 patches.
    [1, 31, 32, 33].into_iter().for_each(|columns| full(usize::MAX, [1, 5, 5 * columns, 5, 5, 35], true));
    full(usize::MAX, [3, 7, 7, 2, 2, 5], true);
    // Every patch size of known models, and overlapping patches.
    const PATCHES: [(usize, usize); 7] = [(8, 8), (14, 14), (16, 16), (32, 32), (16, 12), (16, 5), (8, 1)];
    let overlapping =
        |(patch, stride): (usize, usize)| [2, patch + 2 * stride + 3, patch + stride, patch, stride, 40];
    PATCHES.into_iter().for_each(|patch| full(usize::MAX, overlapping(patch), true));
    // The shapes of ViT-B and DINOv2.
    full(4000, [1, 224, 224, 16, 16, 768], true);
    full(4000, [1, 224, 224, 14, 14, 384], true);

    let mut full = |samples: usize, sizes: [usize; 6], prefix: usize, has_bias: bool| {
        let shape = shape(sizes, has_bias);
        list.full_ways(samples, format!("backward {} prefix {prefix}", name(shape)), families.clone(), move |run, family| {
            backward(run, prefix, shape, family);
        });
    };
    full(usize::MAX, [1, 1, 1, 1, 1, 4], 1, true);
    for dim in [4, 28, 32, 36, 60, 68] {
        full(usize::MAX, [1, 13, 11, 3, 3, dim], 1, true);
        full(usize::MAX, [2, 16, 12, 4, 4, dim], 2, false);
    }
    // 1, 15, 16, 17 and 33 patches.
    [1, 15, 16, 17, 33].into_iter().for_each(|columns| full(usize::MAX, [1, 5, 5 * columns, 5, 5, 36], 5, true));
    full(usize::MAX, [3, 7, 7, 2, 2, 8], 1, true);
    PATCHES.into_iter().for_each(|patch| full(4000, overlapping(patch), 1, true));
    full(2000, [2, 224, 224, 16, 16, 384], 1, true);
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (batch, dim) = (timed.batch, timed.model.dim);
    let shape = Shape { batch, size: SIZE, patch: PATCH, stride: PATCH, dim, has_bias: true };
    timed.add("", move |run| {
        let family = run.recorder.context.family();
        forward(run, drawn(1, shape.image_len()), shape, family);
    });
    timed.add("backward", move |run| {
        let family = run.recorder.context.family();
        backward(run, 1, shape, family);
    });
}
