// Fused multi-head self-attention, the subgroup family for CPU adapters: one subgroup per workgroup, no barrier, no
// workgroup memory.
//
// Formula, derivative, buffers and error bound: attention.wgsl. Sums run in another order, so the bits differ.
//
// A workgroup of SUB invocations owns ROWS rows of one head and iterates over the keys in steps of 4·SUB. It computes
// two small matrix products as gemm_subgroup.wgsl does. For the scores, lane l owns the keys l, l + SUB, …; for the
// output, it owns the quads l, l + SUB, … of the head. subgroupShuffle passes queries and probabilities to all lanes.
// The backward pass works alike: attention_dq owns ROWS queries and iterates over keys, attention_dkv owns ROWS keys
// and iterates over queries. attention_delta is in attention.wgsl.
// Limits: Dh a multiple of 4; ROWS a multiple of SUB; every subgroup has exactly SUB lanes.

struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    // Index of this dispatch's first head, counted over the heads of all images.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read_write> out: array<Quad>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

@group(0) @binding(2) var<storage, read> dout: array<Quad>;
@group(0) @binding(3) var<storage, read> kept_lse: array<f32>;
@group(0) @binding(4) var<storage, read> kept_delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<Quad>;

override KEEP_LSE: bool = false;

const HEAD_DIM: u32 = 64;
const SUB: u32 = 8;
const ROWS: u32 = 16;

const QUADS = HEAD_DIM / 4u;
// Quads of the output that a lane owns.
const OWN = (QUADS + SUB - 1u) / SUB;

// Tile, head and image of a workgroup: x counts the tiles of a head's rows, y the heads.
fn place_of(group: vec3u) -> vec3u {
    let head = params.first + group.y;
    return vec3u(group.x, head % params.heads, head / params.heads);
}

// Reads a quad of each of this lane's four rows of the other side, in q, k or v. Column c holds element c of all four.
fn quads_of_qkv(at: vec4u) -> mat4x4f {
    return transpose(mat4x4f(unpack(qkv[at.x]), unpack(qkv[at.y]), unpack(qkv[at.z]), unpack(qkv[at.w])));
}

// Adds the products of one quad: of the g-th SUB rows, of which each lane has loaded one `row`, with `others`.
fn add_products(products: ptr<function, array<vec4f, ROWS>>, g: u32, row: vec4f, others: mat4x4f) {
    for (var c = 0u; c < 4u; c++) {
        for (var i = 0u; i < SUB; i++) {
            let left = subgroupShuffle(row[c], i);
            (*products)[g * SUB + i] = fma(vec4f(left), others[c], (*products)[g * SUB + i]);
        }
    }
}

// Adds 4·SUB weighted rows of q, k or v to the quads that this lane owns. The rows of the head begin at `first`.
fn add_weighted(
    sums: ptr<function, array<array<vec4f, OWN>, ROWS>>,
    weights: ptr<function, array<vec4f, ROWS>>,
    first: u32,
    start: u32,
    lane: u32,
) {
    for (var j = 0u; j < 4u; j++) {
        // A whole group of rows past the end adds nothing.
        if (start + j * SUB < params.tokens) {
            for (var i = 0u; i < SUB; i++) {
                let at = first + min(start + j * SUB + i, params.tokens - 1u) * 3u * params.heads * QUADS;
                for (var d = 0u; d < OWN; d++) {
                    let value = unpack(qkv[at + min(d * SUB + lane, QUADS - 1u)]);
                    for (var r = 0u; r < ROWS; r++) {
                        (*sums)[r][d] = fma(vec4f(subgroupShuffle((*weights)[r][j], i)), value, (*sums)[r][d]);
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn attention_forward(@builtin(workgroup_id) workgroup: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let group = place_of(workgroup);
    let first_row = group.x * ROWS;
    let model = params.heads * QUADS;
    let last = params.tokens - 1u;
    // First quads of this image and head: query 0, key 0, value 0.
    let q_start = group.z * params.tokens * 3u * model + group.y * QUADS;
    let k_start = q_start + model;
    let v_start = k_start + model;

    // Rows past the end repeat the last row and are not stored.
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
        var scores = array<vec4f, ROWS>();
        for (var d = 0u; d < QUADS; d++) {
            let keys = quads_of_qkv(k_at + vec4u(d));
            for (var g = 0u; g < ROWS / SUB; g++) {
                add_products(&scores, g, unpack(qkv[q_at[g] + d]), keys);
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

        add_weighted(&sums, &scores, v_start, start, lane);
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = first_row + r;
        if (row < params.tokens) {
            for (var d = 0u; d < OWN; d++) {
                if (d * SUB + lane < QUADS) {
                    let at = (group.z * params.tokens + row) * model + group.y * QUADS + d * SUB + lane;
                    out[at] = pack(sums[r][d] / total[r]);
                }
            }
            if (KEEP_LSE && lane == 0u) {
                lse[(group.z * params.heads + group.y) * params.tokens + row] = peak[r] + log(total[r]);
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn attention_dq(@builtin(workgroup_id) workgroup: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let group = place_of(workgroup);
    let first_row = group.x * ROWS;
    let model = params.heads * QUADS;
    let last = params.tokens - 1u;
    // First elements of this image and head: query 0, key 0, the gradient of output 0, lse and delta of query 0.
    let q_start = group.z * params.tokens * 3u * model + group.y * QUADS;
    let k_start = q_start + model;
    let g_start = group.z * params.tokens * model + group.y * QUADS;
    let stats_start = (group.z * params.heads + group.y) * params.tokens;

    // Rows past the end repeat the last row and are not stored.
    var q_at: array<u32, ROWS / SUB>;
    var g_at: array<u32, ROWS / SUB>;
    for (var g = 0u; g < ROWS / SUB; g++) {
        let row = min(first_row + g * SUB + lane, last);
        q_at[g] = q_start + row * 3u * model;
        g_at[g] = g_start + row * model;
    }

    var sums: array<array<vec4f, OWN>, ROWS>;
    for (var start = 0u; start < params.tokens; start += 4u * SUB) {
        var k_at: vec4u;
        for (var j = 0u; j < 4u; j++) {
            k_at[j] = k_start + min(start + j * SUB + lane, last) * 3u * model;
        }
        var scores = array<vec4f, ROWS>();
        var products = array<vec4f, ROWS>();
        for (var d = 0u; d < QUADS; d++) {
            let keys = quads_of_qkv(k_at + vec4u(d));
            for (var g = 0u; g < ROWS / SUB; g++) {
                add_products(&scores, g, unpack(qkv[q_at[g] + d]), keys);
            }
            let values = quads_of_qkv(k_at + vec4u(model + d));
            for (var g = 0u; g < ROWS / SUB; g++) {
                add_products(&products, g, unpack(dout[g_at[g] + d]), values);
            }
        }

        // Turns scores into their gradients, in place.
        let mine = vec4u(start + lane) + vec4u(0u, SUB, 2u * SUB, 3u * SUB);
        let valid = mine < vec4u(params.tokens);
        for (var r = 0u; r < ROWS; r++) {
            let at = stats_start + min(first_row + r, last);
            let p = select(vec4f(0.0), exp(scores[r] * params.scale - kept_lse[at]), valid);
            scores[r] = p * (products[r] - kept_delta[at]) * params.scale;
        }

        add_weighted(&sums, &scores, k_start, start, lane);
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = first_row + r;
        if (row < params.tokens) {
            for (var d = 0u; d < OWN; d++) {
                if (d * SUB + lane < QUADS) {
                    dqkv[q_start + row * 3u * model + d * SUB + lane] = pack(sums[r][d]);
                }
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn attention_dkv(@builtin(workgroup_id) workgroup: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let group = place_of(workgroup);
    let first_row = group.x * ROWS;
    let model = params.heads * QUADS;
    let last = params.tokens - 1u;
    let q_start = group.z * params.tokens * 3u * model + group.y * QUADS;
    let k_start = q_start + model;
    let g_start = group.z * params.tokens * model + group.y * QUADS;
    let stats_start = (group.z * params.heads + group.y) * params.tokens;

    // Rows past the end repeat the last row and are not stored.
    var k_at: array<u32, ROWS / SUB>;
    for (var g = 0u; g < ROWS / SUB; g++) {
        k_at[g] = k_start + min(first_row + g * SUB + lane, last) * 3u * model;
    }

    var k_sums: array<array<vec4f, OWN>, ROWS>;
    var v_sums: array<array<vec4f, OWN>, ROWS>;
    for (var start = 0u; start < params.tokens; start += 4u * SUB) {
        let mine = vec4u(start + lane) + vec4u(0u, SUB, 2u * SUB, 3u * SUB);
        let valid = mine < vec4u(params.tokens);
        let query = min(mine, vec4u(last));
        let q_at = vec4u(q_start) + query * (3u * model);
        let g_at = vec4u(g_start) + query * model;
        var lse_of: vec4f;
        var delta_of: vec4f;
        for (var j = 0u; j < 4u; j++) {
            lse_of[j] = kept_lse[stats_start + query[j]];
            delta_of[j] = kept_delta[stats_start + query[j]];
        }
        var scores = array<vec4f, ROWS>();
        var products = array<vec4f, ROWS>();
        for (var d = 0u; d < QUADS; d++) {
            let queries = quads_of_qkv(q_at + vec4u(d));
            for (var g = 0u; g < ROWS / SUB; g++) {
                add_products(&scores, g, unpack(qkv[k_at[g] + d]), queries);
            }
            let at = g_at + vec4u(d);
            let gradients =
                transpose(mat4x4f(unpack(dout[at.x]), unpack(dout[at.y]), unpack(dout[at.z]), unpack(dout[at.w])));
            for (var g = 0u; g < ROWS / SUB; g++) {
                add_products(&products, g, unpack(qkv[k_at[g] + model + d]), gradients);
            }
        }

        // Turns scores into probabilities, and products into the gradients of the scores, in place.
        for (var r = 0u; r < ROWS; r++) {
            let p = select(vec4f(0.0), exp(scores[r] * params.scale - lse_of), valid);
            products[r] = p * (products[r] - delta_of) * params.scale;
            scores[r] = p;
        }

        for (var j = 0u; j < 4u; j++) {
            // A whole group of queries past the end adds nothing.
            if (start + j * SUB < params.tokens) {
                for (var i = 0u; i < SUB; i++) {
                    let token = min(start + j * SUB + i, last);
                    for (var d = 0u; d < OWN; d++) {
                        let column = min(d * SUB + lane, QUADS - 1u);
                        let gradient = unpack(dout[g_start + token * model + column]);
                        let q = unpack(qkv[q_start + token * 3u * model + column]);
                        for (var r = 0u; r < ROWS; r++) {
                            v_sums[r][d] = fma(vec4f(subgroupShuffle(scores[r][j], i)), gradient, v_sums[r][d]);
                            k_sums[r][d] = fma(vec4f(subgroupShuffle(products[r][j], i)), q, k_sums[r][d]);
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
                    let at = k_start + row * 3u * model + d * SUB + lane;
                    dqkv[at] = pack(k_sums[r][d]);
                    dqkv[at + model] = pack(v_sums[r][d]);
                }
            }
        }
    }
}
