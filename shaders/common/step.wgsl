// Helper: the layout of the two small buffers that control a training step.
//
// step: written by the host before every step; floats are stored as their bits. After the first STEP_GROUPS words
// follow STEP_GROUP_WORDS for each parameter group: the learning rates of weights and of biases, and Adam's
// 1/(1 - beta1^t) and 1/(1 - beta2^t) with the group's own step count t.
// control: kept from step to step. gradnorm.wgsl updates it once all gradients of the step are computed. Where
// CONTROL_FINITE is 0, the step changes no parameter, no moment and no running statistic.

// Two words, low word first.
const STEP_SEED: u32 = 0u;
// Number of the step, from 1.
const STEP_NUMBER: u32 = 2u;
// Position of the batch's first sample in the epoch.
const STEP_PLACE: u32 = 3u;
const STEP_EPOCH: u32 = 4u;
const STEP_WEIGHT_DECAY: u32 = 5u;
// Largest L2 norm over all gradients; 0 disables clipping.
const STEP_CLIP_NORM: u32 = 6u;
const STEP_GROUPS: u32 = 7u;
const STEP_GROUP_WORDS: u32 = 4u;
// Words of a group.
const GROUP_LEARNING_RATE: u32 = 0u;
const GROUP_BIAS_LEARNING_RATE: u32 = 1u;
const GROUP_CORRECTIONS: u32 = 2u;

// 1 if this step counts: the loss and all gradients are finite, and the run is not stopped.
const CONTROL_FINITE: u32 = 0u;
// f32: factor that the optimiser applies to gradients: clipping, divided by the loss scale.
const CONTROL_FACTOR: u32 = 1u;
// f32: L2 norm over all gradients before clipping, divided by the loss scale.
const CONTROL_NORM: u32 = 2u;
// f32: loss scale, a power of two: factor of the loss's gradient that keeps f16 gradients from underflow.
const CONTROL_SCALE: u32 = 3u;
// f32: largest loss scale; 1 if nothing is stored in f16.
const CONTROL_MOST_SCALE: u32 = 4u;
// Steps that counted since the loss scale last changed.
const CONTROL_STEPS: u32 = 5u;
// 1 if a step at a loss scale of 1 was not finite: the run is stopped, and no later step counts.
const CONTROL_STOPPED: u32 = 6u;
// f32: loss scale of the last step.
const CONTROL_LAST_SCALE: u32 = 7u;
const CONTROL_WORDS: u32 = 8u;

// Quads of four words in a slice of an arena, and quads whose slices fill a word of a bias mask.
const SLICE_QUADS: u32 = 16u;
const MASK_QUADS: u32 = 32u * SLICE_QUADS;

// 1 if a quad of an arena belongs to a bias, given the word i / MASK_QUADS of the arena's bias mask. The mask has one
// bit for each slice, the lowest bit first. Every tensor starts at a slice.
fn is_bias(mask: u32, i: u32) -> u32 {
    return extractBits(mask, (i / SLICE_QUADS) % 32u, 1u);
}

// Tests the bits: compilers may assume that no float is infinite or NaN.
fn is_finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) != 0x7f800000u;
}
