//! Copies f32 parameters to the storage in which matrix products read them.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("narrow", include_str!("../../shaders/narrow.wgsl")).quads();

entry_points! {
    struct Params in 16 bytes { quads: u32 }
    fn narrow_forward(wide: read, narrow: write_quads);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<narrow_forward>(), vec![])]
}

/// narrow = wide, rounded to its storage.
#[derive(Debug, Clone, Copy)]
pub struct Narrow {
    /// Parameters in f32, of any shape; the length is a multiple of 4.
    pub wide: Tensor,
    /// Copies, of the same length in any storage; written.
    pub narrow: Tensor,
}

impl Narrow {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Narrow { wide, narrow } = *self;
        expect_quads(recorder, wide.len);
        expect(recorder, "narrow", narrow, &[wide.len]);
        let quads = wide.len / 4;
        FILE.launch(Params { quads: u32_of(quads) }, narrow_forward { wide, narrow })
            .invocations(quads)
            // One rounding per element.
            .record(recorder, name, wide.len as f64);
    }
}
