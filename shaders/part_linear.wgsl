// A linear layer per part, all parts in one dispatch, any shape: the plain kernel that validates part_linear_wide.wgsl.
//
//   y[r,b,o]  = Σ_i x[b,r,i]·weight[r,o,i] + bias[r,o]
//   dx[b,r,i] = Σ_o dy[r,b,o]·weight[r,o,i]
//   dweight[r,o,i] = Σ_b dy[r,b,o]·x[b,r,i]      dbias[r,o] = Σ_b dy[r,b,o]
//
// x, x_gradient (B, R, I) or (R, B, I): sample b of part r begins at word b·sample_stride + r·part_stride
// forward:          weight (R, O, I) read   x read   bias (R, O) read   y (R, B, O) written
// backward, input:  weight (R, O, I) read   x_gradient written   dy (R, B, O) read
// backward, weight: dweight (R, O, I) written   x read   dy (R, B, O) read   dbias (R, O) written
// BIAS: without it, bias is 0 and has no gradient.
// One invocation owns one output; the one with i = 0 also owns dbias[r,o]. i, o or b ascends through one f32
// accumulator by fma, so all files give the same bits. Error: |y - exact| ≤ (I + 1)·2⁻²⁴·(Σ_i|x||weight| + |bias|), and
// likewise dx with O and dweight with B.
// Source: [LAT eq. 7], the ensemble of part classifiers. Limits: R·B·I, R·B·O and R·O·I below 2³².

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

@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@group(0) @binding(2) var<storage, read_write> x_gradient: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;

@group(0) @binding(1) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;

override BIAS: bool = true;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn part_linear_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * THREADS + lane;
    if (index >= params.parts * params.batch * params.outputs) {
        return;
    }
    let o = index % params.outputs;
    let b = (index / params.outputs) % params.batch;
    let r = index / (params.outputs * params.batch);

    let x_at = b * params.sample_stride + r * params.part_stride;
    let weight_at = (r * params.outputs + o) * params.inputs;
    var sum = 0.0;
    for (var i = 0u; i < params.inputs; i++) {
        sum = fma(x[x_at + i], weight[weight_at + i], sum);
    }
    var shift = 0.0;
    if (BIAS) {
        shift = bias[r * params.outputs + o];
    }
    y[index] = sum + shift;
}

@compute @workgroup_size(THREADS)
fn part_linear_backward_input(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * THREADS + lane;
    if (index >= params.parts * params.batch * params.inputs) {
        return;
    }
    let i = index % params.inputs;
    let b = (index / params.inputs) % params.batch;
    let r = index / (params.inputs * params.batch);

    let dy_at = (r * params.batch + b) * params.outputs;
    let weight_at = r * params.outputs * params.inputs + i;
    var sum = 0.0;
    for (var o = 0u; o < params.outputs; o++) {
        sum = fma(dy[dy_at + o], weight[weight_at + o * params.inputs], sum);
    }
    x_gradient[b * params.sample_stride + r * params.part_stride + i] = sum;
}

@compute @workgroup_size(THREADS)
fn part_linear_backward_weight(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * THREADS + lane;
    if (index >= params.parts * params.outputs * params.inputs) {
        return;
    }
    let i = index % params.inputs;
    let o = (index / params.inputs) % params.outputs;
    let r = index / (params.inputs * params.outputs);

    let x_at = r * params.part_stride + i;
    let dy_at = r * params.batch * params.outputs + o;
    var sum = 0.0;
    var bias_sum = 0.0;
    for (var b = 0u; b < params.batch; b++) {
        let upstream = dy[dy_at + b * params.outputs];
        sum = fma(upstream, x[x_at + b * params.sample_stride], sum);
        bias_sum += upstream;
    }
    dweight[index] = sum;
    if (BIAS && i == 0u) {
        dbias[r * params.outputs + o] = bias_sum;
    }
}
