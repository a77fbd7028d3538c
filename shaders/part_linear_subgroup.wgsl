// A linear layer per part, the subgroup family for CPU adapters: one subgroup per workgroup, no barrier.
//
//   y[r,b,o] = Σ_i x[b,r,i]·weight[r,o,i] + bias[r,o]      derivatives, buffers and error bound: part_linear.wgsl
//
// A workgroup of SUB invocations owns ROWS rows × 4·SUB columns of one part. Each lane loads the values of one row and
// shares them by subgroupShuffle, as in gemm_subgroup.wgsl, which gives the reasons.
//   forward:          rows are samples; a lane's columns are four outputs, SUB apart
//   backward, input:  rows are samples; a lane's columns are four neighbouring inputs
//   backward, weight: rows are outputs; a lane's columns are four neighbouring inputs
// i, o or b ascends through one f32 accumulator by fma, so the bits are those of part_linear.wgsl. o or b past the end
// add products of zeros.
// Limits: I and both strides multiples of 4; ROWS a multiple of SUB; fewer than 65,536 tiles along a dimension; every
// subgroup has exactly SUB lanes.

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

const SUB: u32 = 8;
const ROWS: u32 = 32;

// Groups of rows; each lane loads one row of each group.
const GROUPS = ROWS / SUB;

// First quad of sample b of part r in x and x_gradient.
fn sample_at(b: u32, r: u32) -> u32 {
    return (b * params.sample_stride + r * params.part_stride) / 4u;
}

// Adds four terms to each sum: the values of every row, shared between lanes, times this lane's four columns.
fn add_products(
    sums: ptr<function, array<array<vec4f, SUB>, GROUPS>>,
    rows: array<vec4f, GROUPS>,
    right: array<vec4f, 4>,
) {
    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            var sum = (*sums)[g][i];
            for (var k = 0u; k < 4u; k++) {
                sum = fma(vec4f(subgroupShuffle(rows[g][k], i)), right[k], sum);
            }
            (*sums)[g][i] = sum;
        }
    }
}

@compute @workgroup_size(SUB)
fn part_linear_forward(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let r = group.z;
    let quads = params.inputs / 4u;
    let first_row = group.y * ROWS;
    let first_column = group.x * 4u * SUB + lane;

    // Samples and outputs past the end repeat the last one and are not stored.
    var x_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        x_at[g] = sample_at(min(first_row + g * SUB + lane, params.batch - 1u), r);
    }
    var column: vec4u;
    for (var j = 0u; j < 4u; j++) {
        column[j] = r * params.outputs + min(first_column + j * SUB, params.outputs - 1u);
    }

    var sums: array<array<vec4f, SUB>, GROUPS>;
    for (var quad = 0u; quad < quads; quad++) {
        var rows: array<vec4f, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            rows[g] = x[x_at[g] + quad];
        }
        let w0 = weight[column.x * quads + quad];
        let w1 = weight[column.y * quads + quad];
        let w2 = weight[column.z * quads + quad];
        let w3 = weight[column.w * quads + quad];
        var right: array<vec4f, 4>;
        for (var k = 0u; k < 4u; k++) {
            right[k] = vec4f(w0[k], w1[k], w2[k], w3[k]);
        }
        add_products(&sums, rows, right);
    }

    var shift = vec4f(0.0);
    if (BIAS) {
        shift = vec4f(bias[column.x], bias[column.y], bias[column.z], bias[column.w]);
    }
    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            let b = first_row + g * SUB + i;
            let sum = sums[g][i] + shift;
            for (var j = 0u; j < 4u; j++) {
                let o = first_column + j * SUB;
                if (b < params.batch && o < params.outputs) {
                    y[(r * params.batch + b) * params.outputs + o] = sum[j];
                }
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn part_linear_backward_input(
    @builtin(workgroup_id) group: vec3u,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let r = group.z;
    let quads = params.inputs / 4u;
    let first_row = group.y * ROWS;
    let quad = group.x * SUB + lane;

    // Samples and inputs past the end repeat the last ones and are not stored.
    var dy_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        dy_at[g] = (r * params.batch + min(first_row + g * SUB + lane, params.batch - 1u)) * params.outputs;
    }
    let weight_at = r * params.outputs * quads + min(quad, quads - 1u);

    var sums: array<array<vec4f, SUB>, GROUPS>;
    let last = params.outputs - 1u;
    for (var o = 0u; o < params.outputs; o += 4u) {
        var rows: array<vec4f, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            for (var k = 0u; k < 4u; k++) {
                rows[g][k] = select(0.0, dy[dy_at[g] + min(o + k, last)], o + k <= last);
            }
        }
        var right: array<vec4f, 4>;
        for (var k = 0u; k < 4u; k++) {
            right[k] = select(vec4f(0.0), weight[weight_at + min(o + k, last) * quads], o + k <= last);
        }
        add_products(&sums, rows, right);
    }

    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            let b = first_row + g * SUB + i;
            if (b < params.batch && quad < quads) {
                x_gradient[sample_at(b, r) + quad] = sums[g][i];
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn part_linear_backward_weight(
    @builtin(workgroup_id) group: vec3u,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let r = group.z;
    let quads = params.inputs / 4u;
    let first_row = group.y * ROWS;
    let quad = group.x * SUB + lane;

    // Outputs and inputs past the end repeat the last ones and are not stored.
    var dy_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        dy_at[g] = r * params.batch * params.outputs + min(first_row + g * SUB + lane, params.outputs - 1u);
    }
    let x_quad = min(quad, quads - 1u);

    var sums: array<array<vec4f, SUB>, GROUPS>;
    var totals: array<f32, GROUPS>;
    let last = params.batch - 1u;
    for (var b = 0u; b < params.batch; b += 4u) {
        var rows: array<vec4f, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            for (var k = 0u; k < 4u; k++) {
                rows[g][k] = select(0.0, dy[dy_at[g] + min(b + k, last) * params.outputs], b + k <= last);
                totals[g] += rows[g][k];
            }
        }
        var right: array<vec4f, 4>;
        for (var k = 0u; k < 4u; k++) {
            right[k] = select(vec4f(0.0), x[sample_at(min(b + k, last), r) + x_quad], b + k <= last);
        }
        add_products(&sums, rows, right);
    }

    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            let o = first_row + g * SUB + i;
            if (o < params.outputs && quad < quads) {
                dweight[(r * params.outputs + o) * quads + quad] = sums[g][i];
            }
        }
        let o = first_row + g * SUB + lane;
        if (BIAS && group.x == 0u && o < params.outputs) {
            dbias[r * params.outputs + o] = totals[g];
        }
    }
}
