//! Camera statistics: a row of means subtracted from every embedding, by the image's camera, and a row of deviations
//! that divides the difference.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("statistics", include_str!("../../shaders/statistics.wgsl"));

entry_points! {
    struct Params in 16 bytes { batch: u32, dim: u32, row: u32 }
    fn statistics_forward(
        x: read, mean: read, deviation: read if DIVIDED, cameras: read if BY_CAMERA, y: write,
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<statistics_forward>(), vec![])]
}

/// y\[b\] = (x\[b\] - mean\[c\]) / deviation\[c\], where c is `cameras`\[b\].
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Embeddings (B, R·D).
    pub x: Tensor,
    /// One row per camera (C, R·D).
    pub mean: Tensor,
    /// Divisors (C, R·D), each above 0; `None` for ones.
    pub deviation: Option<Tensor>,
    /// Rows of the images (B), u32, each below C; `None` takes `row` for all.
    pub cameras: Option<Tensor>,
    /// The row of all images without `cameras`.
    pub row: usize,
    /// Result (B, R·D), written.
    pub y: Tensor,
    /// Batch size B.
    pub batch: usize,
}

impl Forward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Forward { x, mean, deviation, cameras, row, y, batch } = *self;
        let dim = x.len / batch;
        let rows = mean.len / dim;
        assert!(row < rows, "{name}: row {row} of {rows}");
        expect(recorder, "x", x, &[batch, dim]);
        expect(recorder, "mean", mean, &[rows, dim]);
        expect(recorder, "deviation", deviation, &[rows, dim]);
        expect(recorder, "cameras", cameras, &[batch]);
        expect(recorder, "y", y, &[batch, dim]);
        expect_quads(recorder, dim);
        let params = Params { batch: u32_of(batch), dim: u32_of(dim), row: u32_of(row) };
        // A subtraction, and a division.
        let operations = if deviation.is_some() { 2.0 } else { 1.0 };
        FILE.launch(params, statistics_forward { x, mean, deviation, cameras, y })
            .invocations(x.len / 4)
            .record(recorder, name, operations * x.len as f64);
    }
}
