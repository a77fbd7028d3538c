//! Adds one tensor to another.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("accumulate", include_str!("../../shaders/accumulate.wgsl"));

entry_points! {
    struct Params in 16 bytes { count: u32 }
    fn accumulate(addend: read, sum: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<accumulate>(), vec![])]
}

/// sum += addend.
#[derive(Debug, Clone, Copy)]
pub struct Accumulate {
    /// Tensor to add, of any shape.
    pub addend: Tensor,
    /// Running sum, of the same shape; read and written.
    pub sum: Tensor,
}

impl Accumulate {
    /// Records the kernel.
    ///
    /// # Panics
    /// If the tensors differ in length.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Accumulate { addend, sum } = *self;
        expect(recorder, "sum", sum, &[addend.len]);
        let params = Params { count: u32_of(sum.len) };
        let launch = FILE.launch(params, accumulate { addend, sum }).invocations(sum.len);
        launch.record(recorder, name, sum.len as f64);
    }
}
