// One step of SGD with momentum on all parameters of a group.
//
//   g = gradients·factor + wd·p      wd = weight decay
//   v ← momentum·v + g      p ← p - lr·v      lr = learning rate
//
// gradients (len) vec4 read   step read: wd; lr of weights and of biases of the group   control read: finite, factor
// bias_mask (⌈len/2048⌉) read: one bit for each slice of 64 words
// parameters, velocity (len) vec4 read and written      layout of step and control: common/step.wgsl
// One invocation owns four parameters. If control says that the step does not count, nothing is written. Where
// parameter, gradient and velocity are 0, all stay 0, so padding stays zero. The velocity begins at 0, so the first
// step is v = g. Error of p ≤ 2⁻²⁴·(|p| + 8·lr·Σ|terms of v|).
// Source: Sutskever 2013, eq. 1-2, in PyTorch's form, without Nesterov. Limits: len a multiple of 4.

struct Params {
    quads: u32,
    group: u32,
    momentum: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<vec4f>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> control: array<u32>;
@group(0) @binding(4) var<storage, read> bias_mask: array<u32>;
@group(0) @binding(5) var<storage, read_write> parameters: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> velocity: array<vec4f>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn sgd(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    if (i >= params.quads || control[CONTROL_FINITE] == 0u) {
        return;
    }
    let words = STEP_GROUPS + STEP_GROUP_WORDS * params.group;
    let rate = bitcast<f32>(step[words + is_bias(bias_mask[i / MASK_QUADS], i)]);
    let decay = bitcast<f32>(step[STEP_WEIGHT_DECAY]);

    let p = parameters[i];
    let g = fma(vec4f(decay), p, gradients[i] * bitcast<f32>(control[CONTROL_FACTOR]));
    let v = fma(vec4f(params.momentum), velocity[i], g);
    velocity[i] = v;
    parameters[i] = p - rate * v;
}
