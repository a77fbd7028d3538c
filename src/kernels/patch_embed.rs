//! Patch embedding: a convolution as a matrix product whose left rows are gathered from the image.

use super::{expect, u32_of};
use crate::gpu::{Access, Binding, Constants, Dispatch, Family, Kernel, Recorder, Tensor};
use crate::shape::ImageSize;

const BINDINGS: &[Binding] =
    &[Binding::read("image"), Binding::read("weight"), Binding::read("bias"), Binding::write("patches")];

/// Register tiles fed from workgroup memory.
pub static TILED: Kernel = Kernel {
    name: "patch_embed",
    source: include_str!("../../shaders/patch_embed.wgsl"),
    helpers: &[],
    entry: "patch_embed_forward",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
};

/// One subgroup per workgroup.
pub static SUBGROUP: Kernel = Kernel {
    name: "patch_embed_subgroup",
    source: include_str!("../../shaders/patch_embed_subgroup.wgsl"),
    helpers: &[],
    entry: "patch_embed_forward",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: true,
};

/// BM = BN of the tiled family, as in its WGSL.
const SIDE: usize = 32;
/// ROWS of the subgroup family.
const ROWS: u32 = 32;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    height: u32,
    width: u32,
    patch: u32,
    stride: u32,
    rows: u32,
    columns: u32,
    batch: u32,
    dim: u32,
}

fn constants(family: Family) -> (&'static Kernel, Constants) {
    match family {
        Family::Tiled => (&TILED, vec![]),
        Family::Subgroup(lanes) => (&SUBGROUP, vec![("SUB", lanes), ("ROWS", ROWS)]),
    }
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    [Family::Tiled, Family::Subgroup(4), Family::Subgroup(8), Family::Subgroup(16)].map(constants).to_vec()
}

/// Every patch of every image, projected to D values.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B, 3, height, width).
    pub image: Tensor,
    /// (D, 3, P, P).
    pub weight: Tensor,
    /// (D).
    pub bias: Option<Tensor>,
    /// (B, N, D), written.
    pub patches: Tensor,
    /// B.
    pub batch: usize,
    /// Height and width of an image, in pixels.
    pub size: ImageSize,
    /// P, side of a patch in pixels.
    pub patch: usize,
    /// Pixels from one patch to the next.
    pub stride: usize,
    /// D.
    pub dim: usize,
}

impl Forward {
    /// Rows and columns of patches in an image (paper eq. 1).
    fn grid(&self) -> (usize, usize) {
        let along = |pixels: usize| (pixels - self.patch) / self.stride + 1;
        (along(self.size.height), along(self.size.width))
    }

    /// Records the kernel of the adapter's family.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel of one family.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Forward { image, weight, bias, patches, batch, size, patch, stride, dim } = *self;
        let (rows, columns) = self.grid();
        let count = batch * rows * columns;
        let depth = 3 * patch * patch;
        expect(recorder, "image", image, &[batch, 3, size.height, size.width]);
        expect(recorder, "weight", weight, &[dim, depth]);
        expect(recorder, "patches", patches, &[count, dim]);
        if let Some(bias) = bias {
            expect(recorder, "bias", bias, &[dim]);
        }
        let (kernel, constants) = constants(family);
        let grid = match family {
            Family::Tiled => [dim.div_ceil(SIDE), count.div_ceil(SIDE)],
            Family::Subgroup(lanes) => [dim.div_ceil(4 * lanes as usize), count.div_ceil(ROWS as usize)],
        };
        let params = Params {
            height: u32_of(size.height),
            width: u32_of(size.width),
            patch: u32_of(patch),
            stride: u32_of(stride),
            rows: u32_of(rows),
            columns: u32_of(columns),
            batch: u32_of(batch),
            dim: u32_of(dim),
        };
        let unused = recorder.unused(Access::Read);
        recorder.dispatch(Dispatch {
            kernel,
            constants,
            overrides: vec![("HAS_BIAS", f64::from(u8::from(bias.is_some())))],
            tensors: vec![image, weight, bias.unwrap_or(unused), patches],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: [u32_of(grid[0]), u32_of(grid[1]), 1],
            flops: 2.0 * count as f64 * dim as f64 * depth as f64,
            label: recorder.label(name),
        });
    }
}
