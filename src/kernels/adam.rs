//! Adam and AdamW on a parameter group, and the words that steer a step.

use super::gradnorm::CONTROL_WORDS;
use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("adam", include_str!("../../shaders/adam.wgsl"))
    .helpers(&[include_str!("../../shaders/common/step.wgsl")]);

entry_points! {
    struct Params in 32 bytes {
        quads: u32, group: u32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32
    }
    fn adam(
        gradients: read, step: read, control: read, parameters: update, first_moment: update, second_moment: update
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<adam>(), vec![])]
}

/// Adam's settings that never change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Betas {
    /// What the first moment keeps per step.
    pub beta1: f64,
    /// What the second moment keeps per step.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

impl Default for Betas {
    fn default() -> Self {
        Betas { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

impl Betas {
    /// 1/(1 - beta1^t) and 1/(1 - beta2^t) at step `t` of a group, from 1 on.
    pub fn corrections(&self, t: u32) -> [f32; 2] {
        [self.beta1, self.beta2].map(|beta| (1.0 / (1.0 - beta.powf(f64::from(t)))) as f32)
    }
}

/// What changes every step, as `common/step.wgsl` lays it out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepValues {
    /// Learning rate.
    pub learning_rate: f32,
    /// Of the whole run.
    pub seed: u64,
    /// Counted from 1.
    pub number: u32,
    /// The batch's first sample's place in the epoch.
    pub place: u32,
    /// Counted from 0.
    pub epoch: u32,
    /// L2 coefficient, coupled or not.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; 0: no limit.
    pub clip_norm: f32,
    /// [`Betas::corrections`] of every parameter group.
    pub corrections: Vec<[f32; 2]>,
}

impl StepValues {
    /// Length of the words of a step with this many parameter groups.
    pub const fn len_of(groups: usize) -> usize {
        8 + 2 * groups
    }

    /// The words for the adapter.
    pub fn words(&self) -> Vec<u32> {
        let mut words = vec![
            self.learning_rate.to_bits(),
            self.seed as u32,
            (self.seed >> 32) as u32,
            self.number,
            self.place,
            self.epoch,
            self.weight_decay.to_bits(),
            self.clip_norm.to_bits(),
        ];
        words.extend(self.corrections.iter().flatten().map(|correction| correction.to_bits()));
        words
    }
}

/// One step on all parameters of a group, unless control forbids it.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Any shape, a multiple of 4 words.
    pub gradients: Tensor,
    /// The words of [`StepValues`].
    pub step: Tensor,
    /// Whether the step counts, and what gradients are multiplied with.
    pub control: Tensor,
    /// As the gradients, read and written.
    pub parameters: Tensor,
    /// As the gradients, read and written.
    pub first_moment: Tensor,
    /// As the gradients, read and written.
    pub second_moment: Tensor,
    /// Which corrections apply.
    pub group: usize,
    /// Settings.
    pub betas: Betas,
    /// AdamW: weight decay apart from the gradient; else it is added to the gradient.
    pub decoupled: bool,
}

impl Adam {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or the step's words hold no such group.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Adam { gradients, step, control, parameters, first_moment, second_moment, .. } = *self;
        let len = gradients.len;
        assert!(len.is_multiple_of(4), "{name}: {len} isn't a multiple of 4");
        assert!(step.len >= StepValues::len_of(self.group + 1), "{name}: no words of group {}", self.group);
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        expect(recorder, "parameters", parameters, &[len]);
        expect(recorder, "first_moment", first_moment, &[len]);
        expect(recorder, "second_moment", second_moment, &[len]);
        let Betas { beta1, beta2, eps } = self.betas;
        let params = Params {
            quads: u32_of(len / 4),
            group: u32_of(self.group),
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            eps: eps as f32,
        };
        FILE.launch(params, adam { gradients, step, control, parameters, first_moment, second_moment })
            .switch("DECOUPLED", self.decoupled)
            .invocations(len / 4)
            // The factor 1, the decay 1 or 2 if it is added to the gradient, the moments 3 and 4, the step 7.
            .record(recorder, name, if self.decoupled { 16.0 } else { 17.0 } * len as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_where_the_shaders_look_for_them() {
        let source = FILE.helpers[0];
        let place = |name: &str| {
            let head = format!("const {name}: u32 = ");
            let rest = source.split(&head).nth(1).unwrap();
            rest.split('u').next().unwrap().parse::<usize>().unwrap()
        };
        let betas = Betas::default();
        let step = StepValues {
            learning_rate: 1.5,
            seed: 0x1234_5678_9abc_def0,
            number: 3,
            place: 64,
            epoch: 2,
            weight_decay: 2.5,
            clip_norm: 3.5,
            corrections: vec![betas.corrections(1), betas.corrections(7)],
        };
        let words = step.words();
        assert_eq!(words.len(), StepValues::len_of(2));
        assert_eq!(words[place("STEP_LEARNING_RATE")], 1.5f32.to_bits());
        assert_eq!(words[place("STEP_SEED")..][..2], [0x9abc_def0, 0x1234_5678]);
        assert_eq!(words[place("STEP_NUMBER")], 3);
        assert_eq!(words[place("STEP_PLACE")], 64);
        assert_eq!(words[place("STEP_EPOCH")], 2);
        assert_eq!(words[place("STEP_WEIGHT_DECAY")], 2.5f32.to_bits());
        assert_eq!(words[place("STEP_CLIP_NORM")], 3.5f32.to_bits());
        assert_eq!(words[place("STEP_GROUPS") + 2], betas.corrections(7)[0].to_bits());
        assert_eq!(place("CONTROL_WORDS"), CONTROL_WORDS);
        assert_eq!(betas.corrections(1)[0], 10.0);
    }
}
