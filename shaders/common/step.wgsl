// Helper: the words of the two small buffers that steer a training step.
//
// step: written by the host once a step; floats as their bits. Behind the first STEP_GROUPS words stand two more for
// each parameter group: Adam's 1/(1 - beta1^t) and 1/(1 - beta2^t) with the group's own count t.
// control: written by gradnorm.wgsl once all gradients of the step are there. Where CONTROL_FINITE is 0, the step changes no
// parameter, no moment and no running statistic.

const STEP_LEARNING_RATE: u32 = 0u;
// Low word, then high word.
const STEP_SEED: u32 = 1u;
// Counted from 1.
const STEP_NUMBER: u32 = 3u;
// The batch's first sample's place in the epoch.
const STEP_PLACE: u32 = 4u;
const STEP_EPOCH: u32 = 5u;
const STEP_WEIGHT_DECAY: u32 = 6u;
// Largest norm of all gradients together; 0: no limit.
const STEP_CLIP_NORM: u32 = 7u;
const STEP_GROUPS: u32 = 8u;

// 1 if the loss and all gradients are finite, else 0.
const CONTROL_FINITE: u32 = 0u;
// f32: what gradients are multiplied with.
const CONTROL_FACTOR: u32 = 1u;
// f32: norm of all gradients together, before that.
const CONTROL_NORM: u32 = 2u;
const CONTROL_WORDS: u32 = 4u;

// By bits: adapters may assume that no float is infinite or NaN.
fn is_finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) != 0x7f800000u;
}
