//! Patch embedding: a convolution as a matrix product whose left operand is gathered from the image.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Family, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};
use crate::shape::ImageSize;

const HELPERS: &[&str] = &[include_str!("../../shaders/common/patch.wgsl")];

/// The tiled family: tiles in workgroup memory and registers.
static TILED: ShaderFile = ShaderFile::new("patch_embed", include_str!("../../shaders/patch_embed.wgsl"))
    .helpers(HELPERS)
    .workgroup_size(WorkgroupSize::Tile)
    .quads();
/// The subgroup family: one subgroup per workgroup.
static SUBGROUP: ShaderFile =
    ShaderFile::new("patch_embed_subgroup", include_str!("../../shaders/patch_embed_subgroup.wgsl"))
        .helpers(HELPERS)
        .subgroups()
        .quads();

entry_points! {
    struct Params in 48 bytes {
        height: u32, width: u32, side: u32, stride: u32, rows: u32, columns: u32, batch: u32, dim: u32, prefix: u32
    }
    fn patch_embed_forward(image: read, weight: read, bias: read if HAS_BIAS, patches: write);
    /// Gradients of weight and bias.
    fn patch_embed_backward(image: read, dtokens: read_quads, dweight: write, dbias: write if HAS_BIAS);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    [Family::Tiled, Family::Subgroup(4), Family::Subgroup(8), Family::Subgroup(16)]
        .into_iter()
        .flat_map(|family| {
            let (file, constants) = file_of(family);
            [
                (file.kernel::<patch_embed_forward>(), constants.clone()),
                (file.kernel::<patch_embed_backward>(), constants),
            ]
        })
        .collect()
}

/// BM = BN of `patch_embed.wgsl`.
const SIDE: usize = 32;
/// ROWS of the subgroup family.
const ROWS: u32 = 32;

fn file_of(family: Family) -> (&'static ShaderFile, Constants) {
    match family {
        Family::Tiled => (&TILED, vec![]),
        Family::Subgroup(lanes) => (&SUBGROUP, vec![("SUB", lanes), ("ROWS", ROWS)]),
    }
}

/// Grid of workgroups: along columns (32 or 4·lanes per workgroup) and along rows (32 per workgroup).
fn workgroups(family: Family, columns: usize, rows: usize) -> [u32; 3] {
    let [x, y] = match family {
        Family::Tiled => [columns.div_ceil(SIDE), rows.div_ceil(SIDE)],
        Family::Subgroup(lanes) => [columns.div_ceil(4 * lanes as usize), rows.div_ceil(ROWS as usize)],
    };
    [u32_of(x), u32_of(y), 1]
}

/// Rows and columns of patches in an image (paper eq. 1).
fn grid(size: ImageSize, patch: usize, stride: usize) -> (usize, usize) {
    let along = |pixels: usize| (pixels - patch) / stride + 1;
    (along(size.height), along(size.width))
}

/// Projects every patch of every image to D values.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Images (B, 3, height, width).
    pub image: Tensor,
    /// Weights (D, 3, P, P).
    pub weight: Tensor,
    /// Biases (D).
    pub bias: Option<Tensor>,
    /// Embedded patches (B, N, D), written.
    pub patches: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Height and width of an image in pixels.
    pub size: ImageSize,
    /// Side of a patch in pixels P.
    pub patch: usize,
    /// Step between patches in pixels.
    pub stride: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Forward {
    /// Records the kernel of the adapter's family.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel of `family`.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Forward { image, weight, bias, patches, batch, size, patch, stride, dim } = *self;
        let (rows, columns) = grid(size, patch, stride);
        let count = batch * rows * columns;
        let depth = 3 * patch * patch;
        expect(recorder, "image", image, &[batch, 3, size.height, size.width]);
        expect(recorder, "weight", weight, &[dim, depth]);
        expect(recorder, "patches", patches, &[count, dim]);
        expect(recorder, "bias", bias, &[dim]);
        let (file, constants) = file_of(family);
        let params = Params {
            height: u32_of(size.height),
            width: u32_of(size.width),
            side: u32_of(patch),
            stride: u32_of(stride),
            rows: u32_of(rows),
            columns: u32_of(columns),
            batch: u32_of(batch),
            dim: u32_of(dim),
            prefix: 0,
        };
        file.launch(params, patch_embed_forward { image, weight, bias, patches })
            .constants(constants)
            .grid(workgroups(family, dim, count))
            .record(recorder, name, 2.0 * count as f64 * dim as f64 * depth as f64);
    }
}

/// Gradients of weights and biases. Reads the gradients of patches among those of all tokens.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Images (B, 3, height, width).
    pub image: Tensor,
    /// Gradient of the tokens (B, prefix + N, D).
    pub dtokens: Tensor,
    /// Gradient of the weights (D, 3, P, P), written.
    pub dweight: Tensor,
    /// Gradient of the biases (D), written.
    pub dbias: Option<Tensor>,
    /// Batch size B.
    pub batch: usize,
    /// Height and width of an image in pixels.
    pub size: ImageSize,
    /// Side of a patch in pixels P.
    pub patch: usize,
    /// Step between patches in pixels.
    pub stride: usize,
    /// Tokens of an image before its patches.
    pub prefix: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Backward {
    /// Records the kernel of the adapter's family.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel of `family`.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Backward { image, dtokens, dweight, dbias, batch, size, patch, stride, prefix, dim } = *self;
        let (rows, columns) = grid(size, patch, stride);
        let depth = 3 * patch * patch;
        expect(recorder, "image", image, &[batch, 3, size.height, size.width]);
        expect(recorder, "dtokens", dtokens, &[batch, prefix + rows * columns, dim]);
        expect_quads(recorder, dim);
        expect(recorder, "dweight", dweight, &[dim, depth]);
        expect(recorder, "dbias", dbias, &[dim]);
        let (file, constants) = file_of(family);
        let params = Params {
            height: u32_of(size.height),
            width: u32_of(size.width),
            side: u32_of(patch),
            stride: u32_of(stride),
            rows: u32_of(rows),
            columns: u32_of(columns),
            batch: u32_of(batch),
            dim: u32_of(dim),
            prefix: u32_of(prefix),
        };
        file.launch(params, patch_embed_backward { image, dtokens, dweight, dbias })
            .constants(constants)
            .grid(workgroups(family, depth, dim))
            .record(recorder, name, 2.0 * (batch * rows * columns) as f64 * dim as f64 * depth as f64);
    }
}
