// Moves the running averages of weights towards the weights after a step.
//
//   a ← a + rest·(w - a)      rest = 1 - decay
//
// weights (count) read   control read: finite   averages (count) read and written      layout of control: common/step.wgsl
// One invocation owns one element. If control says that the step does not count, nothing is written. Where weight and
// average are equal, the average stays as it is. There is no backward kernel. Error ≤ 2⁻²⁴·(2·|a| + 3·|w - a|).
// Source: Polyak averaging, with exponentially decaying weights. Limits: count below 2³².

struct Params {
    count: u32,
    // 1 - decay, rounded once.
    rest: f32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> control: array<u32>;
@group(0) @binding(3) var<storage, read_write> averages: array<f32>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn average(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    if (i >= params.count || control[CONTROL_FINITE] == 0u) {
        return;
    }
    let a = averages[i];
    averages[i] = fma(params.rest, weights[i] - a, a);
}
