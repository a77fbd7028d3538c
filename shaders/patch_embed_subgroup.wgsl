// Patch embedding, the subgroup family for CPU adapters: one subgroup per workgroup, no barrier, no workgroup memory.
//
// Formula, derivative, buffers and error bound: patch_embed.wgsl, with the same bits.
//
// Forward, a workgroup of SUB invocations owns ROWS patches × 4·SUB outputs: lane l owns the outputs l, l + SUB,
// l + 2·SUB and l + 3·SUB. One lane loads a pixel and shares it by subgroupShuffle.
// Backward, a workgroup owns ROWS outputs n × 4·SUB weights k. Lanes load gradients in quads and share them.
// Limits: ROWS a multiple of SUB; backward D a multiple of 4; every subgroup has exactly SUB lanes.

struct Params {
    height: u32,
    width: u32,
    side: u32,
    stride: u32,
    rows: u32,
    columns: u32,
    batch: u32,
    dim: u32,
    // Tokens of an image before its patches in dtokens.
    prefix: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> image: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> patches: array<f32>;

@group(0) @binding(2) var<storage, read> dtokens: array<Quad>;
@group(0) @binding(3) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;

override HAS_BIAS: bool = true;

const SUB: u32 = 8;
const ROWS: u32 = 32;

// Backward: number of quads of outputs that a lane loads.
const GROUPS = (ROWS / 4u + SUB - 1u) / SUB;

@compute @workgroup_size(SUB)
fn patch_embed_forward(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let count = params.batch * params.rows * params.columns;
    let depth = 3u * params.side * params.side;
    let first_m = group.y * ROWS;
    let first_n = group.x * 4u * SUB + lane;

    // Patches and outputs past the end repeat the last one and are not stored.
    var image_at: array<u32, ROWS / SUB>;
    for (var g = 0u; g < ROWS / SUB; g++) {
        image_at[g] = corner(min(first_m + g * SUB + lane, count - 1u));
    }
    var weight_at: vec4u;
    for (var j = 0u; j < 4u; j++) {
        weight_at[j] = min(first_n + j * SUB, params.dim - 1u) * depth;
    }

    var sums: array<vec4f, ROWS>;
    var k = 0u;
    for (var channel = 0u; channel < 3u; channel++) {
        for (var y = 0u; y < params.side; y++) {
            let line = (channel * params.height + y) * params.width;
            for (var x = 0u; x < params.side; x++) {
                let right = vec4f(
                    weight[weight_at.x + k],
                    weight[weight_at.y + k],
                    weight[weight_at.z + k],
                    weight[weight_at.w + k],
                );
                for (var g = 0u; g < ROWS / SUB; g++) {
                    let pixel = image[image_at[g] + line + x];
                    for (var i = 0u; i < SUB; i++) {
                        let left = subgroupShuffle(pixel, i);
                        sums[g * SUB + i] = fma(vec4f(left), right, sums[g * SUB + i]);
                    }
                }
                k++;
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 4u; j++) {
            let n = first_n + j * SUB;
            if (first_m + i < count && n < params.dim) {
                var value = sums[i][j];
                if (HAS_BIAS) {
                    value += bias[n];
                }
                patches[(first_m + i) * params.dim + n] = value;
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn patch_embed_backward(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let depth = 3u * params.side * params.side;
    let first_n = group.y * ROWS;
    let first_k = group.x * 4u * SUB + lane;

    // Outputs and weights past the end repeat the last one and are not stored.
    let quads = params.dim / 4u;
    var n_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        n_at[g] = min(first_n / 4u + g * SUB + lane, quads - 1u);
    }
    var k_at: vec4u;
    for (var j = 0u; j < 4u; j++) {
        k_at[j] = pixel_of(min(first_k + j * SUB, depth - 1u));
    }

    var sums: array<vec4f, ROWS>;
    var bias_sums: array<vec4f, GROUPS>;
    var row = 0u;
    for (var b = 0u; b < params.batch; b++) {
        row += params.prefix * quads;
        for (var y = 0u; y < params.rows; y++) {
            var at = (b * 3u * params.height + y * params.stride) * params.width;
            for (var x = 0u; x < params.columns; x++) {
                let right = vec4f(image[at + k_at.x], image[at + k_at.y], image[at + k_at.z], image[at + k_at.w]);
                for (var g = 0u; g < GROUPS; g++) {
                    let gradient = unpack(dtokens[row + n_at[g]]);
                    bias_sums[g] += gradient;
                    for (var i = 0u; i < min(SUB, ROWS / 4u - g * SUB); i++) {
                        for (var j = 0u; j < 4u; j++) {
                            let left = subgroupShuffle(gradient[j], i);
                            let n = 4u * (g * SUB + i) + j;
                            sums[n] = fma(vec4f(left), right, sums[n]);
                        }
                    }
                }
                at += params.stride;
                row += quads;
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 4u; j++) {
            let k = first_k + j * SUB;
            if (first_n + i < params.dim && k < depth) {
                dweight[(first_n + i) * depth + k] = sums[i][j];
            }
        }
    }
    if (HAS_BIAS && group.x == 0u) {
        for (var g = 0u; g < GROUPS; g++) {
            let own = g * SUB + lane;
            if (own < ROWS / 4u && first_n / 4u + own < quads) {
                for (var j = 0u; j < 4u; j++) {
                    dbias[first_n + 4u * own + j] = bias_sums[g][j];
                }
            }
        }
    }
}
