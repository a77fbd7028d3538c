// Batch normalisation, ReLU and dropout for every unit of every part, with running statistics.
//
//   mean = (1/B) Σ_b x[r,b,e]      var = (1/B) Σ_b (x[r,b,e] - mean)²      rstd = 1/√(var + eps)
//   x̂ = (x - mean)·rstd      z = x̂·weight[r,e] + bias[r,e]      m = mask·keep_scale      y = m·(RELU ? max(z, 0) : z)
//   mask[r,b,e] = uniform(seed, (step, DROPOUT), (r·E + e, place + b)) ≥ drop      keep_scale = 1/(1 - drop)
//   with g = dy·m·(RELU ? z > 0 : 1):
//   dbias = Σ_b g      dweight = Σ_b g·x̂      dx = weight·rstd·(g - dbias/B - x̂·dweight/B)
//   running = (1 - momentum)·running + momentum·(mean | var·B/(B-1))
// In evaluation, mean and var are the running statistics and m is 1.
//
// train:    x (R, B, E) read   weight, bias (R, E) read   y (R, B, E) written   saved (R, E) vec4 written
//           step read
// evaluate: x (R, B, E) read   weight, bias, running_mean, running_var (R, E) read   y (R, B, E) written
// update:   kept (R, E) vec4 read   control read   new_mean, new_var (R, E) read and written
// backward: x (R, B, E) read   kept (R, E) vec4 read   dy (R, B, E) read   x_gradient (R, B, E) written
//           dweight, dbias (R, E) written   step read
// saved, read again as kept: mean, var, weight, bias. One buffer holds all four, because a kernel has at most eight
// buffers. step, control: common/step.wgsl. BIAS: without it, bias is 0 and has no gradient. X_SAMPLE_FIRST, Y_SAMPLE_FIRST: x and its
// gradient, or y and its gradient, are (B, R, E).
// One invocation owns a unit (r, e) and reads its samples in order. The variance is summed about the mean. The backward
// kernel stores g in x_gradient between its two passes. Error of y ≤ (2·B + 8)·2⁻²⁴ relative to |x| + |mean|, scaled
// like x. ReLU passes a NaN, detected by its bits, so that it shows in the loss. The mask depends on the sample's
// position in the epoch, not on the division into batches, so a step can be replayed.
// Source: [BN §3], [Dropout §4], [LAT fig. 1d]. Limits: B ≥ 2 in training; R·B·E below 2³².

struct Params {
    batch: u32,
    parts: u32,
    dim: u32,
    drop: f32,
    keep_scale: f32,
    eps: f32,
    momentum: f32,
    unbias: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> saved: array<vec4f>;
@group(0) @binding(6) var<storage, read> step: array<u32>;

@group(0) @binding(5) var<storage, read> running_mean: array<f32>;
@group(0) @binding(6) var<storage, read> running_var: array<f32>;

@group(0) @binding(2) var<storage, read> kept: array<vec4f>;
@group(0) @binding(1) var<storage, read> control: array<u32>;
@group(0) @binding(3) var<storage, read_write> new_mean: array<f32>;
@group(0) @binding(4) var<storage, read_write> new_var: array<f32>;

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> x_gradient: array<f32>;
@group(0) @binding(5) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(7) var<storage, read_write> dbias: array<f32>;

override RELU: bool = false;
override BIAS: bool = true;
override X_SAMPLE_FIRST: bool = false;
override Y_SAMPLE_FIRST: bool = false;

const THREADS: u32 = 64;
// High word of the random stream of dropout masks: "drop" in ASCII.
const DROPOUT: u32 = 0x64726f70;

// The prefix of the mask's hash that all samples of a unit share.
fn mask_hash(unit: u32) -> u32 {
    let seed = vec2u(step[STEP_SEED], step[STEP_SEED + 1u]);
    return random_add(random_stream(seed, vec2u(step[STEP_NUMBER], DROPOUT)), unit);
}

// Factor of the unit's output for sample b: 0 or keep_scale.
fn mask(hash: u32, b: u32) -> f32 {
    let number = random_uniform(random_add(hash, step[STEP_PLACE] + b));
    return select(0.0, params.keep_scale, number >= params.drop);
}

// The samples of a unit: index of the first, and distance to the next.
struct Samples {
    first: u32,
    pitch: u32,
}

fn samples(unit: u32, sample_first: bool) -> Samples {
    if (sample_first) {
        return Samples(unit, params.parts * params.dim);
    }
    return Samples((unit / params.dim) * params.batch * params.dim + unit % params.dim, params.dim);
}

fn relu(z: f32) -> f32 {
    let is_nan = (bitcast<u32>(z) & 0x7fffffffu) > 0x7f800000u;
    return select(max(z, 0.0), z, is_nan);
}

@compute @workgroup_size(THREADS)
fn batchnorm_train(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * THREADS + lane;
    if (unit >= params.parts * params.dim) {
        return;
    }
    let from_x = samples(unit, X_SAMPLE_FIRST);
    let to_y = samples(unit, Y_SAMPLE_FIRST);
    let batch = f32(params.batch);

    var sum = 0.0;
    for (var b = 0u; b < params.batch; b++) {
        sum += x[from_x.first + b * from_x.pitch];
    }
    let mean = sum / batch;

    var squares = 0.0;
    for (var b = 0u; b < params.batch; b++) {
        let centred = x[from_x.first + b * from_x.pitch] - mean;
        squares = fma(centred, centred, squares);
    }
    let variance = squares / batch;
    let rstd = 1.0 / sqrt(variance + params.eps);

    let scale = weight[unit];
    var shift = 0.0;
    if (BIAS) {
        shift = bias[unit];
    }
    saved[unit] = vec4f(mean, variance, scale, shift);
    let hash = mask_hash(unit);
    for (var b = 0u; b < params.batch; b++) {
        var z = fma((x[from_x.first + b * from_x.pitch] - mean) * rstd, scale, shift);
        if (RELU) {
            z = relu(z);
        }
        y[to_y.first + b * to_y.pitch] = z * mask(hash, b);
    }
}

@compute @workgroup_size(THREADS)
fn batchnorm_evaluate(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * THREADS + lane;
    if (unit >= params.parts * params.dim) {
        return;
    }
    let from_x = samples(unit, X_SAMPLE_FIRST);
    let to_y = samples(unit, Y_SAMPLE_FIRST);

    let mean = running_mean[unit];
    let rstd = 1.0 / sqrt(running_var[unit] + params.eps);
    let scale = weight[unit];
    var shift = 0.0;
    if (BIAS) {
        shift = bias[unit];
    }
    for (var b = 0u; b < params.batch; b++) {
        var z = fma((x[from_x.first + b * from_x.pitch] - mean) * rstd, scale, shift);
        if (RELU) {
            z = relu(z);
        }
        y[to_y.first + b * to_y.pitch] = z;
    }
}

@compute @workgroup_size(THREADS)
fn batchnorm_update(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * THREADS + lane;
    if (unit >= params.parts * params.dim || control[CONTROL_FINITE] == 0u) {
        return;
    }
    let moments = kept[unit];
    let rest = 1.0 - params.momentum;
    new_mean[unit] = fma(params.momentum, moments.x, rest * new_mean[unit]);
    new_var[unit] = fma(params.momentum, moments.y * params.unbias, rest * new_var[unit]);
}

@compute @workgroup_size(THREADS)
fn batchnorm_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * THREADS + lane;
    if (unit >= params.parts * params.dim) {
        return;
    }
    let from_x = samples(unit, X_SAMPLE_FIRST);
    let to_y = samples(unit, Y_SAMPLE_FIRST);

    let moments = kept[unit];
    let mean = moments.x;
    let rstd = 1.0 / sqrt(moments.y + params.eps);
    let hash = mask_hash(unit);
    var bias_sum = 0.0;
    var weight_sum = 0.0;
    for (var b = 0u; b < params.batch; b++) {
        let at = from_x.first + b * from_x.pitch;
        let normalised = (x[at] - mean) * rstd;
        var g = dy[to_y.first + b * to_y.pitch] * mask(hash, b);
        if (RELU) {
            g = select(0.0, g, fma(normalised, moments.z, moments.w) > 0.0);
        }
        x_gradient[at] = g;
        bias_sum += g;
        weight_sum = fma(g, normalised, weight_sum);
    }
    if (BIAS) {
        dbias[unit] = bias_sum;
    }
    dweight[unit] = weight_sum;

    let batch = f32(params.batch);
    let bias_mean = bias_sum / batch;
    let weight_mean = weight_sum / batch;
    for (var b = 0u; b < params.batch; b++) {
        let at = from_x.first + b * from_x.pitch;
        let normalised = (x[at] - mean) * rstd;
        x_gradient[at] = moments.z * rstd * fma(-normalised, weight_mean, x_gradient[at] - bias_mean);
    }
}
