// A linear layer per part, all parts in one dispatch, loading quads.
//
//   y[r,b,o] = Σ_i x[b,r,i]·weight[r,o,i] + bias[r,o]      derivatives, buffers and error bound: part_linear.wgsl
//
// One invocation owns EACH outputs of a column. So every value that it loads from weight (forward; backward, input) or
// x (backward, weight) is used EACH times. The other operand has one address for the whole workgroup, which is cheap.
//   forward:          y[r, b … b+EACH, o]             one o per invocation
//   backward, input:  dx[b … b+EACH, r, i … i+4]      four i per invocation
//   backward, weight: dweight[r, o … o+EACH, i … i+4] four i per invocation
// workgroup_id is (tile of THREADS invocations, tile of EACH, part). Same bits as part_linear.wgsl.
// Limits: I and both strides multiples of 4; fewer than 65,536 tiles along a dimension.

struct Params {
    batch: u32,
    parts: u32,
    inputs: u32,
    outputs: u32,
    sample_stride: u32,
    part_stride: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@group(0) @binding(2) var<storage, read_write> x_gradient: array<vec4f>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;

@group(0) @binding(1) var<storage, read_write> dweight: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;

override BIAS: bool = true;

const THREADS: u32 = 64;
const EACH: u32 = 4;

// First quad of sample b of part r in x and x_gradient.
fn sample_at(b: u32, r: u32) -> u32 {
    return (b * params.sample_stride + r * params.part_stride) / 4u;
}

@compute @workgroup_size(THREADS)
fn part_linear_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let r = group.z;
    let quads = params.inputs / 4u;
    let o = group.x * THREADS + lane;
    // Outputs and samples past the end repeat the last one and are not stored.
    let column = r * params.outputs + min(o, params.outputs - 1u);
    var x_at: array<u32, EACH>;
    for (var j = 0u; j < EACH; j++) {
        x_at[j] = sample_at(min(group.y * EACH + j, params.batch - 1u), r);
    }

    var sums: array<f32, EACH>;
    for (var quad = 0u; quad < quads; quad++) {
        let w = weight[column * quads + quad];
        for (var j = 0u; j < EACH; j++) {
            let v = x[x_at[j] + quad];
            sums[j] = fma(v.w, w.w, fma(v.z, w.z, fma(v.y, w.y, fma(v.x, w.x, sums[j]))));
        }
    }
    var shift = 0.0;
    if (BIAS) {
        shift = bias[column];
    }
    for (var j = 0u; j < EACH; j++) {
        let b = group.y * EACH + j;
        if (b < params.batch && o < params.outputs) {
            y[(r * params.batch + b) * params.outputs + o] = sums[j] + shift;
        }
    }
}

@compute @workgroup_size(THREADS)
fn part_linear_backward_input(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let r = group.z;
    let quads = params.inputs / 4u;
    let quad = group.x * THREADS + lane;
    let weight_at = r * params.outputs * quads + min(quad, quads - 1u);
    var dy_at: array<u32, EACH>;
    for (var j = 0u; j < EACH; j++) {
        dy_at[j] = (r * params.batch + min(group.y * EACH + j, params.batch - 1u)) * params.outputs;
    }

    var sums: array<vec4f, EACH>;
    for (var o = 0u; o < params.outputs; o++) {
        let w = weight[weight_at + o * quads];
        for (var j = 0u; j < EACH; j++) {
            sums[j] = fma(vec4f(dy[dy_at[j] + o]), w, sums[j]);
        }
    }
    for (var j = 0u; j < EACH; j++) {
        let b = group.y * EACH + j;
        if (b < params.batch && quad < quads) {
            x_gradient[sample_at(b, r) + quad] = sums[j];
        }
    }
}

@compute @workgroup_size(THREADS)
fn part_linear_backward_weight(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let r = group.z;
    let quads = params.inputs / 4u;
    let quad = group.x * THREADS + lane;
    let x_quad = min(quad, quads - 1u);
    var dy_at: array<u32, EACH>;
    for (var j = 0u; j < EACH; j++) {
        dy_at[j] = r * params.batch * params.outputs + min(group.y * EACH + j, params.outputs - 1u);
    }

    var sums: array<vec4f, EACH>;
    var bias_sums: array<f32, EACH>;
    for (var b = 0u; b < params.batch; b++) {
        let v = x[sample_at(b, r) + x_quad];
        for (var j = 0u; j < EACH; j++) {
            let upstream = dy[dy_at[j] + b * params.outputs];
            sums[j] = fma(vec4f(upstream), v, sums[j]);
            bias_sums[j] += upstream;
        }
    }
    for (var j = 0u; j < EACH; j++) {
        let o = group.y * EACH + j;
        if (o < params.outputs && quad < quads) {
            dweight[(r * params.outputs + o) * quads + quad] = sums[j];
            if (BIAS && quad == 0u) {
                dbias[r * params.outputs + o] = bias_sums[j];
            }
        }
    }
}
