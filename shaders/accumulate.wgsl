// Adds one tensor to another. Accumulates the gradients of micro-batches into those of the batch.
//
//   sum[i] = sum[i] + addend[i]
//
// accumulate: addend (count) read   sum (count) read and written
// One invocation owns one element. One rounding: error ≤ 2⁻²⁴·|sum + addend|. The sum has no backward kernel.
// Source: the gradient of a sum is the sum of the gradients.
// Limits: count below 2³².

struct Params {
    count: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> addend: array<f32>;
@group(0) @binding(2) var<storage, read_write> sum: array<f32>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn accumulate(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    if (i < params.count) {
        sum[i] += addend[i];
    }
}
