//! Globally enhanced local tokens (GELT): the mean of the patches of each part, blended with the class token.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};
use crate::shape::part_rows;

static FILE: ShaderFile = ShaderFile::new("gelt", include_str!("../../shaders/gelt.wgsl")).quads();

entry_points! {
    struct Params in 48 bytes {
        batch: u32, prefix: u32, parts: u32, columns: u32, dim: u32, class_weight: f32, local_weight: f32, first: u32,
        rows: u32
    }
    fn gelt_forward(tokens: read_quads, gelt: write);
    fn gelt_backward(dgelt: read, dtokens: write_quads);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<gelt_forward>(), vec![]), (FILE.kernel::<gelt_backward>(), vec![])]
}

/// Checks that a tensor holds whole images, at least `least` of them.
#[track_caller]
fn expect_images(recorder: &Recorder<'_>, tensor: Tensor, least: usize, words: usize) {
    let images = tensor.len / words;
    assert!(
        images >= least && tensor.len == images * words,
        "{}: {} words are not at least {least} images of {words} words",
        recorder.label(""),
        tensor.len
    );
}

/// Patches of all parts, those of shared rows counted more than once.
///
/// # Panics
/// If there are more parts than rows.
#[track_caller]
fn patches(parts: usize, rows: usize, columns: usize) -> usize {
    assert!((1..=rows).contains(&parts), "{parts} parts of {rows} rows");
    (0..parts).map(|part| part_rows(part, parts, rows).len() * columns).sum()
}

/// gelt = class_weight·class token + local_weight·mean of the part's patches.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Tokens (B, prefix + rows·columns, D); the class token comes first.
    pub tokens: Tensor,
    /// Parts (first + B or more, R, D), of which B images are written.
    pub gelt: Tensor,
    /// Index of the first image in `gelt`.
    pub first: usize,
    /// Batch size B.
    pub batch: usize,
    /// Tokens before the patches.
    pub prefix: usize,
    /// Parts R.
    pub parts: usize,
    /// Rows of patches, R or more.
    pub rows: usize,
    /// Patches per row.
    pub columns: usize,
    /// Width of a token D.
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
        let Forward { tokens, gelt, first, batch, prefix, parts, rows, columns, dim, weights } = *self;
        expect(recorder, "tokens", tokens, &[batch, prefix + rows * columns, dim]);
        expect_quads(recorder, dim);
        expect_images(recorder, gelt, first + batch, parts * dim);
        let params = Params {
            batch: u32_of(batch),
            prefix: u32_of(prefix),
            parts: u32_of(parts),
            columns: u32_of(columns),
            dim: u32_of(dim),
            class_weight: weights.0,
            local_weight: weights.1,
            first: u32_of(first),
            rows: u32_of(rows),
        };
        FILE.launch(params, gelt_forward { tokens, gelt })
            .invocations(batch * parts * dim / 4)
            // An addition for each patch, then a division and a product, and the class token's multiply-add.
            .record(recorder, name, (batch * dim * (patches(parts, rows, columns) + 4 * parts)) as f64);
    }
}

/// Gradient of the tokens. It is zero for prefix tokens other than the class token.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Gradient of the parts (first + B or more, R, D), of which B images are read.
    pub dgelt: Tensor,
    /// Gradient of the tokens (B, prefix + rows·columns, D), written.
    pub dtokens: Tensor,
    /// Index of the first image in `dgelt`.
    pub first: usize,
    /// Batch size B.
    pub batch: usize,
    /// Tokens before the patches.
    pub prefix: usize,
    /// Parts R.
    pub parts: usize,
    /// Rows of patches, R or more.
    pub rows: usize,
    /// Patches per row.
    pub columns: usize,
    /// Width of a token D.
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
        let Backward { dgelt, dtokens, first, batch, prefix, parts, rows, columns, dim, weights } = *self;
        expect_images(recorder, dgelt, first + batch, parts * dim);
        expect(recorder, "dtokens", dtokens, &[batch, prefix + rows * columns, dim]);
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
            rows: u32_of(rows),
        };
        // One product for each patch, and a multiply-add for each further part; for the class token R additions and a
        // product.
        let products = 2 * patches(parts, rows, columns) - rows * columns;
        FILE.launch(params, gelt_backward { dgelt, dtokens }).invocations(dtokens.len / 4).record(
            recorder,
            name,
            (batch * dim * (products + parts + 1)) as f64,
        );
    }
}
