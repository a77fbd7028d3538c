//! Adam and AdamW on a parameter group, and the words that control a training step.

use super::gradnorm::CONTROL_WORDS;
use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Buffer, Constants, Kernel, Recorder, ShaderFile, Tensor};
use std::ops::Range;

static FILE: ShaderFile = ShaderFile::new("adam", include_str!("../../shaders/adam.wgsl"))
    .helpers(&[include_str!("../../shaders/common/step.wgsl")]);

entry_points! {
    struct Params in 32 bytes {
        quads: u32, group: u32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32
    }
    fn adam(
        gradients: read, step: read, control: read, bias_mask: read, parameters: update, first_moment: update,
        second_moment: update
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<adam>(), vec![])]
}

/// Settings of Adam that stay constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Betas {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
}

impl Default for Betas {
    fn default() -> Self {
        Betas { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

impl Betas {
    /// Bias corrections 1/(1 - beta1^t) and 1/(1 - beta2^t) at step `t` of a group, from 1.
    pub fn corrections(&self, t: u32) -> [f32; 2] {
        [self.beta1, self.beta2].map(|beta| (1.0 / (1.0 - beta.powf(f64::from(t)))) as f32)
    }
}

/// Values that change every step, laid out as in `common/step.wgsl`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepValues {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step, from 1.
    pub number: u32,
    /// Position of the batch's first sample in the epoch.
    pub place: u32,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Weight decay, coupled or decoupled.
    pub weight_decay: f32,
    /// Largest L2 norm over all gradients; 0 disables clipping.
    pub clip_norm: f32,
    /// The values of every parameter group.
    pub groups: Vec<GroupValues>,
}

/// Values of a parameter group that change every step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GroupValues {
    /// Learning rate of all parameters but biases.
    pub learning_rate: f32,
    /// Learning rate of biases.
    pub bias_learning_rate: f32,
    /// [`Betas::corrections`].
    pub corrections: [f32; 2],
}

impl GroupValues {
    /// The same learning rate for all parameters.
    pub const fn new(learning_rate: f32, corrections: [f32; 2]) -> GroupValues {
        GroupValues { learning_rate, bias_learning_rate: learning_rate, corrections }
    }
}

impl StepValues {
    /// Number of words of a step with `groups` parameter groups.
    pub const fn len_of(groups: usize) -> usize {
        7 + 4 * groups
    }

    /// The words to upload.
    pub fn words(&self) -> Vec<u32> {
        let mut words = vec![
            self.seed as u32,
            (self.seed >> 32) as u32,
            self.number,
            self.place,
            self.epoch,
            self.weight_decay.to_bits(),
            self.clip_norm.to_bits(),
        ];
        for GroupValues { learning_rate, bias_learning_rate, corrections: [first, second] } in &self.groups {
            words.extend([*learning_rate, *bias_learning_rate, *first, *second].map(f32::to_bits));
        }
        words
    }
}

/// Returns the number of words of the bias mask of an arena of `words`.
pub(super) const fn mask_words(words: usize) -> usize {
    words.div_ceil(Buffer::SLICE_ALIGN * u32::BITS as usize)
}

/// Returns the bias mask of an arena of `words`: one bit for each slice that is part of a bias.
///
/// # Panics
/// If a bias doesn't start at a slice, or exceeds the arena.
pub fn bias_mask(words: usize, biases: impl IntoIterator<Item = Range<usize>>) -> Vec<u32> {
    let mut mask = vec![0; mask_words(words)];
    for bias in biases {
        assert!(bias.start.is_multiple_of(Buffer::SLICE_ALIGN) && bias.end <= words, "bias at {bias:?}");
        for slice in bias.step_by(Buffer::SLICE_ALIGN).map(|word| word / Buffer::SLICE_ALIGN) {
            mask[slice / 32] |= 1 << (slice % 32);
        }
    }
    mask
}

/// One optimiser step on all parameters of a group. Does nothing if `control` says that the step does not count.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Gradients, of any shape; the length is a multiple of 4.
    pub gradients: Tensor,
    /// Words of [`StepValues`].
    pub step: Tensor,
    /// Words of [`Control`](super::gradnorm::Control): the step counts or not, and the factor of the gradients.
    pub control: Tensor,
    /// Words of [`bias_mask`].
    pub bias_mask: Tensor,
    /// Parameters, of the length of the gradients; read and written.
    pub parameters: Tensor,
    /// First moment, of the length of the gradients; read and written.
    pub first_moment: Tensor,
    /// Second moment, of the length of the gradients; read and written.
    pub second_moment: Tensor,
    /// Index of the parameter group, which selects its learning rates and corrections.
    pub group: usize,
    /// Decay rates and ε.
    pub betas: Betas,
    /// True for AdamW: weight decay is applied to the parameter. False for Adam: it is added to the gradient.
    pub decoupled: bool,
}

impl Adam {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or `step` has no words of the group.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Adam { gradients, step, control, bias_mask, parameters, first_moment, second_moment, .. } = *self;
        let len = gradients.len;
        assert!(len.is_multiple_of(4), "{name}: {len} isn't a multiple of 4");
        assert!(step.len >= StepValues::len_of(self.group + 1), "{name}: no words of group {}", self.group);
        expect(recorder, "control", control, &[CONTROL_WORDS]);
        expect(recorder, "bias_mask", bias_mask, &[mask_words(len)]);
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
        let tensors = adam { gradients, step, control, bias_mask, parameters, first_moment, second_moment };
        FILE.launch(params, tensors)
            .switch("DECOUPLED", self.decoupled)
            .invocations(len / 4)
            // Per element: factor 1, decay 1 (2 if added to the gradient), moments 3 and 4, update 7.
            .record(recorder, name, if self.decoupled { 16.0 } else { 17.0 } * len as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_laid_out_as_the_shaders_expect() {
        let source = FILE.helpers[0];
        let place = |name: &str| {
            let head = format!("const {name}: u32 = ");
            let rest = source.split(&head).nth(1).unwrap();
            rest.split('u').next().unwrap().parse::<usize>().unwrap()
        };
        let betas = Betas::default();
        let step = StepValues {
            seed: 0x1234_5678_9abc_def0,
            number: 3,
            place: 64,
            epoch: 2,
            weight_decay: 2.5,
            clip_norm: 3.5,
            groups: vec![
                GroupValues::new(0.5, betas.corrections(1)),
                GroupValues {
                    learning_rate: 1.5,
                    bias_learning_rate: 4.5,
                    corrections: betas.corrections(7),
                },
            ],
        };
        let words = step.words();
        assert_eq!(words.len(), StepValues::len_of(2));
        assert_eq!(words[place("STEP_SEED")..][..2], [0x9abc_def0, 0x1234_5678]);
        assert_eq!(words[place("STEP_NUMBER")], 3);
        assert_eq!(words[place("STEP_PLACE")], 64);
        assert_eq!(words[place("STEP_EPOCH")], 2);
        assert_eq!(words[place("STEP_WEIGHT_DECAY")], 2.5f32.to_bits());
        assert_eq!(words[place("STEP_CLIP_NORM")], 3.5f32.to_bits());
        let second = &words[place("STEP_GROUPS") + place("STEP_GROUP_WORDS")..];
        assert_eq!(second[place("GROUP_LEARNING_RATE")], 1.5f32.to_bits());
        assert_eq!(second[place("GROUP_BIAS_LEARNING_RATE")], 4.5f32.to_bits());
        assert_eq!(second[place("GROUP_CORRECTIONS")..], betas.corrections(7).map(f32::to_bits));
        assert_eq!(4 * place("SLICE_QUADS"), Buffer::SLICE_ALIGN);
        assert_eq!(place("CONTROL_WORDS"), CONTROL_WORDS);
        assert_eq!(betas.corrections(1)[0], 10.0);
    }

    #[test]
    fn a_bias_mask_has_the_slices_of_biases() {
        // Slices 1, 2 and 35 of 40; the second bias ends inside its second slice.
        assert_eq!(bias_mask(40 * 64, [64..128, 128..130, 35 * 64..36 * 64]), [0b110, 1 << 3]);
        assert_eq!(bias_mask(64, []), [0]);
    }
}
