//! Camera embedding: one row of a table added to every token of an image, by the image's camera.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("camera", include_str!("../../shaders/camera.wgsl")).quads();

entry_points! {
    struct Params in 32 bytes { batch: u32, tokens: u32, dim: u32, rows: u32, weight: f32 }
    fn camera_forward(x: read_quads, table: read, cameras: read, y: write_quads);
    fn camera_sum(dy: read_quads, image_sums: write);
    fn camera_backward(sums: read, dtable: write, cameras: read);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let entries =
        [FILE.kernel::<camera_forward>(), FILE.kernel::<camera_sum>(), FILE.kernel::<camera_backward>()];
    entries.map(|entry| (entry, vec![])).to_vec()
}

/// y\[b\] = x\[b\] + weight·table\[cameras\[b\]\] for every token.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Tokens (B, T, D).
    pub x: Tensor,
    /// One row per camera (C, D).
    pub table: Tensor,
    /// Rows of the images (B), u32, each below C.
    pub cameras: Tensor,
    /// Sum (B, T, D), written.
    pub y: Tensor,
    /// Factor of the table.
    pub weight: f32,
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Forward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Forward { x, table, cameras, y, weight, batch, tokens, dim } = *self;
        let rows = table.len / dim;
        expect(recorder, "x", x, &[batch, tokens, dim]);
        expect(recorder, "table", table, &[rows, dim]);
        expect(recorder, "cameras", cameras, &[batch]);
        expect(recorder, "y", y, &[batch, tokens, dim]);
        expect_quads(recorder, dim);
        let [batch, tokens, dim, rows] = [batch, tokens, dim, rows].map(u32_of);
        FILE.launch(Params { batch, tokens, dim, rows, weight }, camera_forward { x, table, cameras, y })
            .invocations(x.len / 4)
            .record(recorder, name, 2.0 * x.len as f64);
    }
}

/// dtable\[c\] = weight·Σ dy\[b,t\] over all tokens of the images by camera c. The gradient of x is dy.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Gradient of y (B, T, D).
    pub dy: Tensor,
    /// Rows of the images (B), u32, each below C.
    pub cameras: Tensor,
    /// Gradient of the table (C, D), written.
    pub dtable: Tensor,
    /// Factor of the table.
    pub weight: f32,
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Backward {
    /// Records two kernels: sums of each image's tokens, then of each camera's images.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { dy, cameras, dtable, weight, batch, tokens, dim } = *self;
        let rows = dtable.len / dim;
        expect(recorder, "dy", dy, &[batch, tokens, dim]);
        expect(recorder, "cameras", cameras, &[batch]);
        expect(recorder, "dtable", dtable, &[rows, dim]);
        expect_quads(recorder, dim);
        let sums = recorder.tensor(&format!("{name}.sums"), batch * dim);
        let [batch, tokens, dim, rows] = [batch, tokens, dim, rows].map(u32_of);
        let params = Params { batch, tokens, dim, rows, weight };
        FILE.launch(params, camera_sum { dy, image_sums: sums }).invocations(sums.len / 4).record(
            recorder,
            &format!("{name}.sums"),
            dy.len as f64,
        );
        FILE.launch(params, camera_backward { sums, dtable, cameras })
            .invocations(dtable.len / 4)
            // Each image is added to one row, and each row is multiplied.
            .record(recorder, name, (sums.len + dtable.len) as f64);
    }
}
