// One step of Adam or AdamW on all parameters of a group.
//
//   g = gradients·factor      wd = weight decay      lr = learning rate
//   DECOUPLED: p ← p·(1 - lr·wd)      otherwise: g ← g + wd·p
//   m ← beta1·m + (1 - beta1)·g      v ← beta2·v + (1 - beta2)·g²
//   p ← p - lr·m·c1/(√(v·c2) + eps)      c1 = 1/(1 - beta1^t)      c2 = 1/(1 - beta2^t)
//
// gradients (len) vec4 read   step read: wd; lr of weights and of biases, c1 and c2 of the group
// control read: finite, factor   bias_mask (⌈len/2048⌉) read: one bit for each slice of 64 words
// parameters, first_moment, second_moment (len) vec4 read and written      layout of step and control: common/step.wgsl
// One invocation owns four parameters. If control says that the step does not count, nothing is written. Where
// parameter, gradient and moments are 0, all stay 0, so padding stays zero. Error of p ≤ 2⁻²⁴·(|p| + 16·|change|).
// Source: [Adam alg. 1], [AdamW alg. 2], in PyTorch's form. Limits: len a multiple of 4.

struct Params {
    quads: u32,
    group: u32,
    beta1: f32,
    // 1 - beta1, rounded once.
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<vec4f>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> control: array<u32>;
@group(0) @binding(4) var<storage, read> bias_mask: array<u32>;
@group(0) @binding(5) var<storage, read_write> parameters: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> first_moment: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> second_moment: array<vec4f>;

override DECOUPLED: bool = false;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn adam(
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
    let correction1 = bitcast<f32>(step[words + GROUP_CORRECTIONS]);
    let correction2 = bitcast<f32>(step[words + GROUP_CORRECTIONS + 1u]);

    var g = gradients[i] * bitcast<f32>(control[CONTROL_FACTOR]);
    var p = parameters[i];
    if (DECOUPLED) {
        p = p * (1.0 - rate * decay);
    } else {
        g = fma(vec4f(decay), p, g);
    }
    let m = fma(vec4f(params.beta1), first_moment[i], params.rest1 * g);
    let v = fma(vec4f(params.beta2), second_moment[i], params.rest2 * g * g);
    first_moment[i] = m;
    second_moment[i] = v;
    parameters[i] = p - rate * (m * correction1) / (sqrt(v * correction2) + params.eps);
}
