//! Running averages of weights.

use super::gradnorm::CONTROL_WORDS;
use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("average", include_str!("../../shaders/average.wgsl"))
    .helpers(&[include_str!("../../shaders/common/step.wgsl")]);

entry_points! {
    struct Params in 16 bytes { count: u32, rest: f32 }
    fn average(weights: read, control: read, averages: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<average>(), vec![])]
}

/// averages += (1 - decay)·(weights - averages). Does nothing if `control` says that the step does not count.
#[derive(Debug, Clone, Copy)]
pub struct Average {
    /// Weights after the step, of any shape.
    pub weights: Tensor,
    /// Words of [`Control`](super::gradnorm::Control).
    pub control: Tensor,
    /// Averages, of the same shape; read and written.
    pub averages: Tensor,
    /// Factor on the averages from one step to the next.
    pub decay: f64,
}

impl Average {
    /// Records the kernel.
    ///
    /// # Panics
    /// If the tensors differ in length.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Average { weights, control, averages, decay } = *self;
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        expect(recorder, "averages", averages, &[weights.len]);
        let params = Params { count: u32_of(weights.len), rest: (1.0 - decay) as f32 };
        FILE.launch(params, average { weights, control, averages })
            .invocations(weights.len)
            // A difference and a multiply-add.
            .record(recorder, name, 3.0 * weights.len as f64);
    }
}
