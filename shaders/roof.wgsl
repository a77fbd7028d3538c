// Roofs of the adapter: a kernel of nothing but multiply-adds, and one of copies. Benches divide by them.
//
//   multiply_add: y[i] = Σ_a x_a, after TOGETHER·turns iterations of  x_a = x_a·multiplier + addend
//                 x_a starts at (lane + 64·(4·a + (0, 1, 2, 3))) / 4096, lane = i mod 64
//   copy:         to[i] = from[i]
//
// multiply_add: y (count vec4) written          copy: from_words (count vec4) read   to_words (count vec4) written
// multiply_add: one invocation owns one y and ACCUMULATORS independent chains x_a. Every chain starts with a different
// value, so that a compiler can't merge chains. multiplier and addend come from the uniform block, so that it can't
// fold them. All chains are summed in ascending order, so that it can't drop one. Error ≤ 2⁻²⁴ of every product and
// every sum, propagated through the chain.
// copy: one invocation owns EACH vec4, a workgroup's width apart. No error.
// Source: [Roofline, Williams 2009 §3]. Limits: count below 2³⁰; turns below 4,096.

struct Params {
    multiplier: f32,
    addend: f32,
    turns: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

// copy.
@group(0) @binding(1) var<storage, read> from_words: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> to_words: array<vec4f>;

const THREADS: u32 = 64;
// Chains per invocation: enough to fill the pipelines, few enough to stay in registers.
const ACCUMULATORS: u32 = 4;
// Links of a chain per iteration of the loop, so that the cost of the loop itself is small.
const TOGETHER: u32 = 8;
// vec4 per invocation of copy.
const EACH: u32 = 1;

@compute @workgroup_size(THREADS)
fn multiply_add(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let multiplier = vec4f(params.multiplier);
    let addend = vec4f(params.addend);
    var x: array<vec4f, ACCUMULATORS>;
    for (var a = 0u; a < ACCUMULATORS; a++) {
        x[a] = (vec4f(f32(lane)) + 64.0 * (vec4f(f32(4u * a)) + vec4f(0.0, 1.0, 2.0, 3.0))) * 0.000244140625;
    }
    for (var turn = 0u; turn < params.turns; turn++) {
        for (var link = 0u; link < TOGETHER; link++) {
            for (var a = 0u; a < ACCUMULATORS; a++) {
                x[a] = fma(x[a], multiplier, addend);
            }
        }
    }
    var sum = x[0];
    for (var a = 1u; a < ACCUMULATORS; a++) {
        sum += x[a];
    }
    if (i < params.count) {
        y[i] = sum;
    }
}

@compute @workgroup_size(THREADS)
fn copy(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (group.x + group.y * groups.x) * THREADS * EACH + lane;
    for (var e = 0u; e < EACH; e++) {
        let i = first + e * THREADS;
        if (i < params.count) {
            to_words[i] = from_words[i];
        }
    }
}
