// Norm and finiteness of all gradients of a step. They decide the clipping factor and if the step counts.
//
//   partials[c] = (Σ gradients[i]², number of quads with a non-finite element) over chunk c
//   norm = √Σ_c partials[c].x / scale      factor = (clip > 0 ? min(1, clip/(norm + 1e-6)) : 1)/scale
//   control = (all finite and not stopped ? 1 : 0, factor, norm, scale', …), see common/step.wgsl
//   not finite: scale' = max(1, scale/2); not finite at a scale of 1: the run is stopped
//   finite for GROW_AFTER steps in a row: scale' = min(2·scale, largest scale)
//
// partial: gradients (len) vec4 read   partials (C) vec2 written; one dispatch per parameter group
// finish:  sums (C of all groups, concatenated) vec2 read   losses (rows) read as words   step read
//          control read and written
// partial: a workgroup of LANES invocations owns a chunk of 4·64·QUADS words. C is rounded up; chunks past the end are
// 0. Each invocation computes FOLD = 64/LANES leaves, LANES apart, of a tree of 64 leaves: the bits are the same for
// any LANES.
// finish: one workgroup. Each invocation sums with a stride, then a fixed tree follows: the order depends on len and
// rows alone. Counts are exact in f32. Relative error of the norm ≤ (QUADS + C/64 + 16)·2⁻²⁴. Finite gradients whose
// squares overflow give an infinite norm, and so factor 0 if clipping is on, as in PyTorch. If any value is not finite,
// factor is 1/scale. Dividing by the scale, a power of two, is exact.
// Source: [Pascanu 2013 §3.2], clip_grad_norm_ of PyTorch; the scale: [Micikevicius et al. 2018 §3.2], PyTorch's
// GradScaler.
// Limits: len a multiple of 4 (padding holds 0), C below 2²⁴.

struct Params {
    // partial: number of quads of gradients; finish: number of chunks.
    count: u32,
    // partial: number of chunks; finish: rows of the loss.
    limit: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> gradients: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec2f>;

@group(0) @binding(1) var<storage, read> sums: array<vec2f>;
@group(0) @binding(2) var<storage, read> losses: array<u32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
@group(0) @binding(4) var<storage, read_write> control: array<u32>;

const LANES: u32 = 64;
const QUADS: u32 = 16;
const FOLD: u32 = 1;
const GROW_AFTER: u32 = 2000;

@compute @workgroup_size(LANES)
fn gradnorm_partial(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let chunk = group.x + group.y * groups.x;
    // Uniform over the workgroup, so either all invocations reach the barriers below or none does.
    if (chunk >= params.limit) {
        return;
    }
    var squares: array<vec4f, FOLD>;
    var bad = 0.0;
    for (var i = 0u; i < QUADS; i++) {
        for (var j = 0u; j < FOLD; j++) {
            let quad = ((chunk * QUADS + i) * FOLD + j) * LANES + lane;
            if (quad < params.count) {
                let g = gradients[quad];
                let bits = bitcast<vec4u>(g);
                squares[j] = fma(g, g, squares[j]);
                if (!(is_finite(bits.x) && is_finite(bits.y) && is_finite(bits.z) && is_finite(bits.w))) {
                    bad += 1.0;
                }
            }
        }
    }
    var sums: array<f32, FOLD>;
    for (var j = 0u; j < FOLD; j++) {
        sums[j] = (squares[j].x + squares[j].y) + (squares[j].z + squares[j].w);
    }
    for (var width = FOLD / 2u; width > 0u; width = width / 2u) {
        for (var j = 0u; j < width; j++) {
            sums[j] += sums[j + width];
        }
    }
    let sum = workgroup_sum(lane, sums[0]);
    let count = workgroup_sum(lane, bad);
    if (lane == 0u) {
        partials[chunk] = vec2f(sum, count);
    }
}

@compute @workgroup_size(LANES)
fn gradnorm_finish(@builtin(local_invocation_index) lane: u32) {
    var squares = 0.0;
    var bad = 0.0;
    for (var chunk = lane; chunk < params.count; chunk += LANES) {
        squares += sums[chunk].x;
        bad += sums[chunk].y;
    }
    for (var row = lane; row < params.limit; row += LANES) {
        if (!is_finite(losses[row])) {
            bad += 1.0;
        }
    }
    let scale = bitcast<f32>(control[CONTROL_SCALE]);
    let norm = sqrt(workgroup_sum(lane, squares)) / scale;
    let finite = workgroup_sum(lane, bad) == 0.0;
    if (lane == 0u) {
        let counts = finite && control[CONTROL_STOPPED] == 0u;
        let clip = bitcast<f32>(step[STEP_CLIP_NORM]);
        var factor = 1.0;
        if (finite && clip > 0.0) {
            factor = min(1.0, clip / (norm + 1e-6));
            // Tests the bits: compilers may assume that no float is infinite.
            if (!is_finite(bitcast<u32>(norm))) {
                factor = 0.0;
            }
        }
        control[CONTROL_FINITE] = select(0u, 1u, counts);
        control[CONTROL_FACTOR] = bitcast<u32>(factor / scale);
        control[CONTROL_NORM] = bitcast<u32>(norm);
        control[CONTROL_LAST_SCALE] = bitcast<u32>(scale);

        var steps = control[CONTROL_STEPS];
        var next = scale;
        if (counts) {
            steps += 1u;
            if (steps == GROW_AFTER) {
                next = min(2.0 * scale, bitcast<f32>(control[CONTROL_MOST_SCALE]));
                steps = 0u;
            }
        } else if (scale > 1.0) {
            next = 0.5 * scale;
            steps = 0u;
        } else {
            control[CONTROL_STOPPED] = 1u;
        }
        control[CONTROL_SCALE] = bitcast<u32>(next);
        control[CONTROL_STEPS] = steps;
    }
}
