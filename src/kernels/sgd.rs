//! SGD with momentum on a parameter group.

use super::adam::{StepValues, mask_words};
use super::gradnorm::CONTROL_WORDS;
use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("sgd", include_str!("../../shaders/sgd.wgsl"))
    .helpers(&[include_str!("../../shaders/common/step.wgsl")]);

entry_points! {
    struct Params in 16 bytes { quads: u32, group: u32, momentum: f32 }
    fn sgd(
        gradients: read, step: read, control: read, bias_mask: read, parameters: update, velocity: update
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<sgd>(), vec![])]
}

/// One step on all parameters of a group. Does nothing if `control` says that the step does not count.
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    /// Gradients, of any shape; the length is a multiple of 4.
    pub gradients: Tensor,
    /// Words of [`StepValues`].
    pub step: Tensor,
    /// Words of [`Control`](super::gradnorm::Control): the step counts or not, and the factor of the gradients.
    pub control: Tensor,
    /// Words of [`bias_mask`](super::adam::bias_mask).
    pub bias_mask: Tensor,
    /// Parameters, of the length of the gradients; read and written.
    pub parameters: Tensor,
    /// Decaying sum of the gradients, of their length; read and written.
    pub velocity: Tensor,
    /// Index of the parameter group, which selects its learning rates.
    pub group: usize,
    /// Factor on the velocity from one step to the next.
    pub momentum: f64,
}

impl Sgd {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or `step` has no words of the group.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Sgd { gradients, step, control, bias_mask, parameters, velocity, group, momentum } = *self;
        let len = gradients.len;
        assert!(len.is_multiple_of(4), "{name}: {len} isn't a multiple of 4");
        assert!(step.len >= StepValues::len_of(group + 1), "{name}: no words of group {group}");
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        expect(recorder, "bias_mask", bias_mask, &[mask_words(len)]);
        expect(recorder, "parameters", parameters, &[len]);
        expect(recorder, "velocity", velocity, &[len]);
        let params = Params { quads: u32_of(len / 4), group: u32_of(group), momentum: momentum as f32 };
        FILE.launch(params, sgd { gradients, step, control, bias_mask, parameters, velocity })
            .invocations(len / 4)
            // Per element: factor 1, decay 2, momentum 2, update 2.
            .record(recorder, name, 7.0 * len as f64);
    }
}
