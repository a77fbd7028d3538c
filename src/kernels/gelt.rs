//! Globally enhanced local tokens: the mean of each part's patches, blended with the class token.

use super::{THREADS, expect, expect_quads, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The forward of `gelt.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "gelt",
    source: include_str!("../../shaders/gelt.wgsl"),
    helpers: &[],
    entry: "gelt_forward",
    bindings: &[Binding::read("tokens").in_quads(), Binding::write("gelt")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: true,
};

/// Its backward.
pub static BACKWARD: Kernel = Kernel {
    entry: "gelt_backward",
    bindings: &[Binding::read("dgelt"), Binding::write("dtokens").in_quads()],
    ..KERNEL
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    batch: u32,
    prefix: u32,
    parts: u32,
    columns: u32,
    dim: u32,
    class_weight: f32,
    local_weight: f32,
    first: u32,
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    vec![(&KERNEL, vec![]), (&BACKWARD, vec![])]
}

/// Checks that a tensor holds whole pictures, `least` or more.
#[track_caller]
fn expect_pictures(recorder: &Recorder<'_>, tensor: Tensor, least: usize, words: usize) {
    let pictures = tensor.len / words;
    assert!(
        pictures >= least && tensor.len == pictures * words,
        "{}: {} words aren't {least} pictures of {words} or more",
        recorder.label(""),
        tensor.len
    );
}

/// gelt = class_weight·class token + local_weight·mean of the part's patches.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B, prefix + parts·columns, D); the class token comes first.
    pub tokens: Tensor,
    /// (first + B or more, parts, D), of which B pictures are written.
    pub gelt: Tensor,
    /// The first picture's place in `gelt`.
    pub first: usize,
    /// B.
    pub batch: usize,
    /// Tokens before the patches.
    pub prefix: usize,
    /// R.
    pub parts: usize,
    /// Patches per part.
    pub columns: usize,
    /// D.
    pub dim: usize,
    /// Weights of the class token and of the mean.
    pub weights: (f32, f32),
}

impl Forward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Forward { tokens, gelt, first, batch, prefix, parts, columns, dim, weights } = *self;
        expect(recorder, "tokens", tokens, &[batch, prefix + parts * columns, dim]);
        expect_quads(recorder, dim);
        expect_pictures(recorder, gelt, first + batch, parts * dim);
        let params = Params {
            batch: u32_of(batch),
            prefix: u32_of(prefix),
            parts: u32_of(parts),
            columns: u32_of(columns),
            dim: u32_of(dim),
            class_weight: weights.0,
            local_weight: weights.1,
            first: u32_of(first),
        };
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![],
            overrides: vec![],
            tensors: vec![tokens, gelt],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d((batch * parts * dim / 4).div_ceil(THREADS)),
            // C additions for the mean, a division and a product, and the class token's multiply-add.
            flops: (batch * parts * dim * (columns + 4)) as f64,
            label: recorder.label(name),
        });
    }
}

/// dtokens of dgelt: zero for prefix tokens other than the class token.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// (first + B or more, parts, D), of which B pictures are read.
    pub dgelt: Tensor,
    /// (B, prefix + parts·columns, D), written.
    pub dtokens: Tensor,
    /// The first picture's place in `dgelt`.
    pub first: usize,
    /// B.
    pub batch: usize,
    /// Tokens before the patches.
    pub prefix: usize,
    /// R.
    pub parts: usize,
    /// Patches per part.
    pub columns: usize,
    /// D.
    pub dim: usize,
    /// Weights of the class token and of the mean.
    pub weights: (f32, f32),
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { dgelt, dtokens, first, batch, prefix, parts, columns, dim, weights } = *self;
        expect_pictures(recorder, dgelt, first + batch, parts * dim);
        expect(recorder, "dtokens", dtokens, &[batch, prefix + parts * columns, dim]);
        expect_quads(recorder, dim);
        let params = Params {
            batch: u32_of(batch),
            prefix: u32_of(prefix),
            parts: u32_of(parts),
            columns: u32_of(columns),
            dim: u32_of(dim),
            class_weight: weights.0,
            local_weight: weights.1,
            first: u32_of(first),
        };
        recorder.dispatch(Dispatch {
            kernel: &BACKWARD,
            constants: vec![],
            overrides: vec![],
            tensors: vec![dgelt, dtokens],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d((dtokens.len / 4).div_ceil(THREADS)),
            // One product for each patch; R additions and a product for the class token.
            flops: (batch * dim * (parts * columns + parts + 1)) as f64,
            label: recorder.label(name),
        });
    }
}
