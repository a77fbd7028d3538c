// Helper: the words of the two small buffers that steer a training step.
//
// step: written by the host once a step; floats as their bits. Behind the first STEP_GROUPS words stand two more for
// each parameter group: Adam's 1/(1 - beta1^t) and 1/(1 - beta2^t) with the group's own count t.
// control: kept from step to step; changed by gradnorm.wgsl once all gradients of the step are there. Where CONTROL_FINITE
// is 0, the step changes no parameter, no moment and no running statistic.

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

// 1 if this step counts: the loss and all gradients are finite, and no step before has stopped the run.
const CONTROL_FINITE: u32 = 0u;
// f32: what gradients are multiplied with, the loss's scale taken out.
const CONTROL_FACTOR: u32 = 1u;
// f32: norm of all gradients together, before that, the loss's scale taken out.
const CONTROL_NORM: u32 = 2u;
// f32: what the loss's gradient is multiplied with, so that gradients stored in halves don't vanish; a power of two.
const CONTROL_SCALE: u32 = 3u;
// f32: the largest that it may be; 1 where nothing is stored in halves.
const CONTROL_MOST_SCALE: u32 = 4u;
// Steps that counted since the scale last changed.
const CONTROL_STEPS: u32 = 5u;
// 1 once a step was not finite at a scale of 1: no step after it counts.
const CONTROL_STOPPED: u32 = 6u;
// f32: the scale that the last step had.
const CONTROL_LAST_SCALE: u32 = 7u;
const CONTROL_WORDS: u32 = 8u;

// By bits: adapters may assume that no float is infinite or NaN.
fn is_finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) != 0x7f800000u;
}
