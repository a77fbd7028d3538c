// Fused multi-head self-attention, the CPU-adapter family: one subgroup per workgroup, no barrier, no workgroup memory.
//
// Formula, derivative, buffers and error bound: attention.wgsl. Sums run in another order, so the bits differ.
//
// A workgroup of SUB lanes owns ROWS rows of one head and walks over the keys 4·SUB at a time. Twice a small matrix
// product as in gemm_subgroup.wgsl: for the scores a lane owns the keys l, l + SUB, …; for the output it owns the
// vec4 columns l, l + SUB, … of the head. Queries and probabilities are handed round by subgroupShuffle.
// Limits: Dh a multiple of 4; ROWS a multiple of SUB; only where every subgroup has exactly SUB lanes.

struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

override KEEP_LSE: bool = false;

const HEAD_DIM: u32 = 64;
const SUB: u32 = 8;
const ROWS: u32 = 16;

const QUADS = HEAD_DIM / 4u;
// vec4 columns of the output that a lane owns.
const OWN = (QUADS + SUB - 1u) / SUB;

@compute @workgroup_size(SUB)
fn attention_forward(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let first_row = group.x * ROWS;
    let model = params.heads * QUADS;
    let last = params.tokens - 1u;
    // Of this image and head: query 0, key 0, value 0.
    let q_start = group.z * params.tokens * 3u * model + group.y * QUADS;
    let k_start = q_start + model;
    let v_start = k_start + model;

    // Rows past the end repeat the last one and are never stored.
    var q_at: array<u32, ROWS / SUB>;
    for (var g = 0u; g < ROWS / SUB; g++) {
        q_at[g] = q_start + min(first_row + g * SUB + lane, last) * 3u * model;
    }

    var sums: array<array<vec4f, OWN>, ROWS>;
    var peak: array<f32, ROWS>;
    var total: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        peak[r] = -1e30;
    }
    for (var start = 0u; start < params.tokens; start += 4u * SUB) {
        var k_at: vec4u;
        for (var j = 0u; j < 4u; j++) {
            k_at[j] = k_start + min(start + j * SUB + lane, last) * 3u * model;
        }
        var scores: array<vec4f, ROWS>;
        for (var d = 0u; d < QUADS; d++) {
            let k0 = qkv[k_at.x + d];
            let k1 = qkv[k_at.y + d];
            let k2 = qkv[k_at.z + d];
            let k3 = qkv[k_at.w + d];
            var queries: array<vec4f, ROWS / SUB>;
            for (var g = 0u; g < ROWS / SUB; g++) {
                queries[g] = qkv[q_at[g] + d];
            }
            for (var c = 0u; c < 4u; c++) {
                let right = vec4f(k0[c], k1[c], k2[c], k3[c]);
                for (var g = 0u; g < ROWS / SUB; g++) {
                    for (var i = 0u; i < SUB; i++) {
                        let left = subgroupShuffle(queries[g][c], i);
                        scores[g * SUB + i] = fma(vec4f(left), right, scores[g * SUB + i]);
                    }
                }
            }
        }

        let mine = vec4u(start + lane) + vec4u(0u, SUB, 2u * SUB, 3u * SUB);
        let valid = mine < vec4u(params.tokens);
        for (var r = 0u; r < ROWS; r++) {
            let s = select(vec4f(-1e30), scores[r] * params.scale, valid);
            let highest = max(peak[r], subgroupMax(max(max(s.x, s.y), max(s.z, s.w))));
            let p = exp(s - highest);
            let shrink = exp(peak[r] - highest);
            total[r] = fma(total[r], shrink, subgroupAdd((p.x + p.y) + (p.z + p.w)));
            for (var d = 0u; d < OWN; d++) {
                sums[r][d] *= shrink;
            }
            peak[r] = highest;
            scores[r] = p;
        }

        for (var j = 0u; j < 4u; j++) {
            // A whole group of keys past the end adds nothing.
            if (start + j * SUB < params.tokens) {
                for (var i = 0u; i < SUB; i++) {
                    let v_at = v_start + min(start + j * SUB + i, last) * 3u * model;
                    for (var d = 0u; d < OWN; d++) {
                        let value = qkv[v_at + min(d * SUB + lane, QUADS - 1u)];
                        for (var r = 0u; r < ROWS; r++) {
                            sums[r][d] = fma(vec4f(subgroupShuffle(scores[r][j], i)), value, sums[r][d]);
                        }
                    }
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = first_row + r;
        if (row < params.tokens) {
            for (var d = 0u; d < OWN; d++) {
                if (d * SUB + lane < QUADS) {
                    let at = (group.z * params.tokens + row) * model + group.y * QUADS + d * SUB + lane;
                    out[at] = sums[r][d] / total[r];
                }
            }
            if (KEEP_LSE && lane == 0u) {
                lse[(group.z * params.heads + group.y) * params.tokens + row] = peak[r] + log(total[r]);
            }
        }
    }
}
