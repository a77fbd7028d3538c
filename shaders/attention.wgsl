// Fused multi-head self-attention, the tiled family for GPUs: no T × T matrix in memory.
//
//   s[i,j] = scale·Σ_d q[i,d]·k[j,d]      p[i,j] = exp(s[i,j] - lse[i])      lse[i] = log Σ_j exp(s[i,j])
//   out[i,d] = Σ_j p[i,j]·v[j,d]                                      for each image b and head h; scale = 1/√Dh
//   with delta[i] = Σ_d dout[i,d]·out[i,d] and ds[i,j] = p[i,j]·(Σ_d dout[i,d]·v[j,d] - delta[i]):
//   dv[j] = Σ_i p[i,j]·dout[i]      dq[i] = scale·Σ_j ds[i,j]·k[j]      dk[j] = scale·Σ_i ds[i,j]·q[i]
//
// attention_forward: qkv (B, T, 3, H, Dh), in the layout of the fused projection, read   out (B, T, H·Dh) written
// lse (B, H, T) written if KEEP_LSE; the backward pass needs lse beside qkv and out
// attention_delta: kept_out (B, T, H·Dh) read   dout (B, T, H·Dh) read   delta (B, H, T) written
// attention_dq, attention_dkv: qkv, dout read   kept_lse, kept_delta (B, H, T) read   dqkv (B, T, 3, H, Dh) written:
// attention_dq writes the gradients of queries, attention_dkv those of keys and values
//
// A workgroup owns ROWS queries (attention_dkv: keys) of one head and iterates over the other side (keys;
// attention_dkv: queries) in steps of STEP rows, multiplying small tiles in workgroup memory. For the scores, an
// invocation owns every DOWN-th row of the workgroup and every ALONG-th row of the step, EACH of both. For the output
// it owns the same rows of the workgroup and every ALONG-th quad of the head. Invocations exchange scores through
// workgroup memory.
//
// Padding: ROWS = STEP = S, and T is rounded up to P = S·⌈T/S⌉. The scores take P²/T² of the useful work. The weighted
// sums take P·4⌈T/4⌉/T², since they stop at the last row. EACH is 4, 5 or 6, whichever minimises P. For T = 33,
// 129, 197 and 257 S is 40, 48, 40 and 40: the factors are 1.47, 1.25, 1.03 and 1.19 for the scores, 1.32, 1.14, 1.03
// and 1.10 for the weighted sums.
//
// The softmax runs online: when a larger s appears, the sums are rescaled, so no exp overflows. Rows past the end
// repeat the last row, have weight 0 and are not stored. Sums over j (attention_dkv: i) add in ascending order.
// Error of out ≤ about (Dh + T + 8)·2⁻²⁴ of the largest |v|; of the gradients ≤ about (Dh + T + 8)·2⁻²⁴ of the sum of
// the magnitudes of their terms, for scores of ordinary size.
// Source: [ViT eq. 2], [LAT eq. 3]; online softmax and backward as in FlashAttention.
// Limits: Dh a multiple of 4 and of 4·CHUNK; CHUNK at most 8. The sentinel is -1e30 instead of -∞, because fast math
// may assume that no float is infinite.

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

@group(0) @binding(1) var<storage, read> kept_out: array<Quad>;
@group(0) @binding(2) var<storage, read> dout: array<Quad>;
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;

@group(0) @binding(3) var<storage, read> kept_lse: array<f32>;
@group(0) @binding(4) var<storage, read> kept_delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<Quad>;

override KEEP_LSE: bool = false;

const HEAD_DIM: u32 = 64;
// Quads of the head in a tile of the scores.
const CHUNK: u32 = 8;
// Rows of each side whose scores an invocation owns; at least four.
const EACH: u32 = 4;

const QUADS = HEAD_DIM / 4u;
const_assert QUADS % CHUNK == 0u;

// Invocations along the workgroup's rows, and along the other side or the head.
const DOWN = 8u;
const ALONG = 8u;
const THREADS = DOWN * ALONG;
const ROWS = DOWN * EACH;
const STEP = ALONG * EACH;
const OWN_QUADS = (QUADS + ALONG - 1u) / ALONG;
// Quads from one row of a tile to the next: an odd number, so that neighbouring rows are in different banks.
const STRIDE = CHUNK | 1u;
const TILE = ROWS * STRIDE;
const UNROLL = 4u;
// Whole rows of the other side that fit into the memory of both tiles.
const PIECES = (STEP * QUADS + 2u * TILE - 1u) / (2u * TILE);
const WHOLE = (STEP / UNROLL + PIECES - 1u) / PIECES * UNROLL;
// Rows of an invocation beyond the fourth.
const REST = EACH - 4u;

// The tiles of both sides; later whole rows of the other side, which may take more memory, since their number is
// rounded up to a multiple of UNROLL.
var<workgroup> tile: array<vec4f, max(2u * TILE, WHOLE * QUADS)>;
// Weights of the scores. weights: [row of the other side][DOWN + 1], each the first four rows of an invocation.
// rest: [row of the other side][REST][DOWN], the rows beyond the fourth.
var<workgroup> weights: array<vec4f, STEP * (DOWN + 1u)>;
var<workgroup> rest: array<f32, STEP * max(REST, 1u) * DOWN>;

// Position of an invocation along the workgroup's rows and along the other side. The bits of its index alternate
// between the two: of any four neighbours, two read the same row, and two the same row of the other side.
fn place(lane: u32) -> vec2u {
    let down = ((lane >> 1u) & 1u) | ((lane >> 2u) & 2u) | ((lane >> 3u) & 4u);
    let along = (lane & 1u) | ((lane >> 1u) & 2u) | ((lane >> 2u) & 4u);
    return vec2u(down, along);
}

// Tile, head and image of a workgroup: x counts the tiles of a head's rows, y the heads.
fn place_of(group: vec3u) -> vec3u {
    let head = params.first + group.y;
    return vec3u(group.x, head % params.heads, head / params.heads);
}

// First quad of a row of q, k or v (operand 0, 1 or 2). Rows past the end repeat the last row.
fn qkv_row(group: vec3u, operand: u32, token: u32) -> u32 {
    let row = group.z * params.tokens + min(token, params.tokens - 1u);
    return ((row * 3u + operand) * params.heads + group.y) * QUADS;
}

fn dout_row(group: vec3u, token: u32) -> u32 {
    let row = group.z * params.tokens + min(token, params.tokens - 1u);
    return (row * params.heads + group.y) * QUADS;
}

// Loads a chunk of ROWS rows of q, k or v into the tile at `side`.
fn load_qkv(group: vec3u, lane: u32, side: u32, operand: u32, first: u32, chunk: u32) {
    for (var t = 0u; t < ROWS * CHUNK; t += THREADS) {
        let row = (t + lane) / CHUNK;
        let quad = (t + lane) % CHUNK;
        if (t + lane < ROWS * CHUNK) {
            tile[side + row * STRIDE + quad] = unpack(qkv[qkv_row(group, operand, first + row) + chunk * CHUNK + quad]);
        }
    }
}

fn load_dout(group: vec3u, lane: u32, side: u32, first: u32, chunk: u32) {
    for (var t = 0u; t < ROWS * CHUNK; t += THREADS) {
        let row = (t + lane) / CHUNK;
        let quad = (t + lane) % CHUNK;
        if (t + lane < ROWS * CHUNK) {
            tile[side + row * STRIDE + quad] = unpack(dout[dout_row(group, first + row) + chunk * CHUNK + quad]);
        }
    }
}

// Loads WHOLE whole rows of q, k or v.
fn load_whole_qkv(group: vec3u, lane: u32, operand: u32, first: u32) {
    for (var t = 0u; t < WHOLE * QUADS; t += THREADS) {
        let at = t + lane;
        if (at < WHOLE * QUADS) {
            tile[at] = unpack(qkv[qkv_row(group, operand, first + at / QUADS) + at % QUADS]);
        }
    }
}

fn load_whole_dout(group: vec3u, lane: u32, first: u32) {
    for (var t = 0u; t < WHOLE * QUADS; t += THREADS) {
        let at = t + lane;
        if (at < WHOLE * QUADS) {
            tile[at] = unpack(dout[dout_row(group, first + at / QUADS) + at % QUADS]);
        }
    }
}

// Adds the products of one chunk, of this invocation's rows with its rows of the other side.
fn add_products(products: ptr<function, array<array<f32, EACH>, EACH>>, down: u32, along: u32) {
    // The constant offset is added last, so that it becomes part of the load instruction.
    let mine_at = down * STRIDE;
    let other_at = along * STRIDE;
    for (var d = 0u; d < CHUNK; d++) {
        var rows: array<vec4f, EACH>;
        for (var i = 0u; i < EACH; i++) {
            rows[i] = tile[mine_at + d + i * DOWN * STRIDE];
        }
        for (var j = 0u; j < EACH; j++) {
            let other = tile[other_at + d + (TILE + j * ALONG * STRIDE)];
            for (var i = 0u; i < EACH; i++) {
                (*products)[j][i] = fma(rows[i].x, other.x, (*products)[j][i]);
            }
            for (var i = 0u; i < EACH; i++) {
                (*products)[j][i] = fma(rows[i].y, other.y, (*products)[j][i]);
            }
            for (var i = 0u; i < EACH; i++) {
                (*products)[j][i] = fma(rows[i].z, other.z, (*products)[j][i]);
            }
            for (var i = 0u; i < EACH; i++) {
                (*products)[j][i] = fma(rows[i].w, other.w, (*products)[j][i]);
            }
        }
    }
}

// Stores the values of one row of the other side for this invocation's rows.
fn put(other: u32, down: u32, values: array<f32, EACH>) {
    weights[other * (DOWN + 1u) + down] = vec4f(values[0], values[1], values[2], values[3]);
    for (var i = 0u; i < REST; i++) {
        rest[(other * REST + i) * DOWN + down] = values[4u + i];
    }
}

fn take(other: u32, down: u32) -> array<f32, EACH> {
    var values: array<f32, EACH>;
    let four = weights[other * (DOWN + 1u) + down];
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
    for (var i = 0u; i < REST; i++) {
        values[4u + i] = rest[(other * REST + i) * DOWN + down];
    }
    return values;
}

// Number of rows of the other side from row `first` of the step on. Rows past the end have weight 0.
fn left(start: u32, first: u32) -> u32 {
    return min(params.tokens - min(start + first, params.tokens), STEP - first);
}

// Adds the weighted whole rows in `tile`, from row `first` of the step on: `count` rows, rounded up to UNROLL.
fn add_weighted(
    sums: ptr<function, array<array<vec4f, OWN_QUADS>, EACH>>,
    first: u32,
    count: u32,
    down: u32,
    along: u32,
) {
    for (var start = 0u; start < min(count, WHOLE); start += UNROLL) {
        for (var j = 0u; j < UNROLL; j++) {
            let weight = take(first + start + j, down);
            for (var d = 0u; d < OWN_QUADS; d++) {
                let value = tile[start * QUADS + min(along + d * ALONG, QUADS - 1u) + j * QUADS];
                for (var i = 0u; i < EACH; i++) {
                    (*sums)[i][d] = fma(vec4f(weight[i]), value, (*sums)[i][d]);
                }
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn attention_forward(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
    let group = place_of(workgroup);
    let first_row = group.x * ROWS;
    let down = place(lane).x;
    let along = place(lane).y;

    var sums: array<array<vec4f, OWN_QUADS>, EACH>;
    // Running maximum and sum of each row; `total` covers this invocation's keys alone.
    var peak: array<f32, EACH>;
    var total: array<f32, EACH>;
    for (var i = 0u; i < EACH; i++) {
        peak[i] = -1e30;
    }
    for (var start = 0u; start < params.tokens; start += STEP) {
        var scores = array<array<f32, EACH>, EACH>();
        for (var chunk = 0u; chunk < QUADS / CHUNK; chunk++) {
            workgroupBarrier();
            load_qkv(group, lane, 0u, 0u, first_row, chunk);
            load_qkv(group, lane, TILE, 1u, start, chunk);
            workgroupBarrier();
            add_products(&scores, down, along);
        }

        var highest: array<f32, EACH>;
        for (var i = 0u; i < EACH; i++) {
            highest[i] = -1e30;
            for (var j = 0u; j < EACH; j++) {
                let valid = start + j * ALONG + along < params.tokens;
                scores[j][i] = select(-1e30, scores[j][i] * params.scale, valid);
                highest[i] = max(highest[i], scores[j][i]);
            }
        }
        put(along, down, highest);
        workgroupBarrier();
        highest = peak;
        for (var other = 0u; other < ALONG; other++) {
            let found = take(other, down);
            for (var i = 0u; i < EACH; i++) {
                highest[i] = max(highest[i], found[i]);
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < EACH; i++) {
            let shrink = exp(peak[i] - highest[i]);
            total[i] *= shrink;
            for (var j = 0u; j < EACH; j++) {
                scores[j][i] = exp(scores[j][i] - highest[i]);
                total[i] += scores[j][i];
            }
            for (var d = 0u; d < OWN_QUADS; d++) {
                sums[i][d] *= shrink;
            }
        }
        peak = highest;
        for (var j = 0u; j < EACH; j++) {
            put(j * ALONG + along, down, scores[j]);
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            load_whole_qkv(group, lane, 2u, start + first);
            workgroupBarrier();
            add_weighted(&sums, first, left(start, first), down, along);
            workgroupBarrier();
        }
    }

    put(along, down, total);
    workgroupBarrier();
    total = array<f32, EACH>();
    for (var other = 0u; other < ALONG; other++) {
        let found = take(other, down);
        for (var i = 0u; i < EACH; i++) {
            total[i] += found[i];
        }
    }
    for (var i = 0u; i < EACH; i++) {
        let row = first_row + i * DOWN + down;
        if (row < params.tokens) {
            for (var d = 0u; d < OWN_QUADS; d++) {
                if (along + d * ALONG < QUADS) {
                    out[dout_row(group, row) + along + d * ALONG] = pack(sums[i][d] / total[i]);
                }
            }
            if (KEEP_LSE && along == 0u) {
                lse[(group.z * params.heads + group.y) * params.tokens + row] = peak[i] + log(total[i]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn attention_delta(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
    let group = place_of(workgroup);
    let row = group.x * THREADS + lane;
    if (row >= params.tokens) {
        return;
    }
    let at = dout_row(group, row);
    var sum = 0.0;
    for (var d = 0u; d < QUADS; d++) {
        let a = unpack(dout[at + d]);
        let b = unpack(kept_out[at + d]);
        sum = fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
    }
    delta[(group.z * params.heads + group.y) * params.tokens + row] = sum;
}

@compute @workgroup_size(THREADS)
fn attention_dq(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
    let group = place_of(workgroup);
    let first_row = group.x * ROWS;
    let down = place(lane).x;
    let along = place(lane).y;
    let stats_at = (group.z * params.heads + group.y) * params.tokens;
    var lse_of: array<f32, EACH>;
    var delta_of: array<f32, EACH>;
    for (var i = 0u; i < EACH; i++) {
        let row = min(first_row + i * DOWN + down, params.tokens - 1u);
        lse_of[i] = kept_lse[stats_at + row];
        delta_of[i] = kept_delta[stats_at + row];
    }

    var sums: array<array<vec4f, OWN_QUADS>, EACH>;
    for (var start = 0u; start < params.tokens; start += STEP) {
        var scores = array<array<f32, EACH>, EACH>();
        var products = array<array<f32, EACH>, EACH>();
        for (var chunk = 0u; chunk < QUADS / CHUNK; chunk++) {
            workgroupBarrier();
            load_qkv(group, lane, 0u, 0u, first_row, chunk);
            load_qkv(group, lane, TILE, 1u, start, chunk);
            workgroupBarrier();
            add_products(&scores, down, along);
            workgroupBarrier();
            load_dout(group, lane, 0u, first_row, chunk);
            load_qkv(group, lane, TILE, 2u, start, chunk);
            workgroupBarrier();
            add_products(&products, down, along);
        }

        // Turns scores into their gradients, in place.
        for (var j = 0u; j < EACH; j++) {
            let valid = start + j * ALONG + along < params.tokens;
            for (var i = 0u; i < EACH; i++) {
                let p = select(0.0, exp(scores[j][i] * params.scale - lse_of[i]), valid);
                scores[j][i] = p * (products[j][i] - delta_of[i]) * params.scale;
            }
            put(j * ALONG + along, down, scores[j]);
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            workgroupBarrier();
            load_whole_qkv(group, lane, 1u, start + first);
            workgroupBarrier();
            add_weighted(&sums, first, left(start, first), down, along);
        }
    }

    for (var i = 0u; i < EACH; i++) {
        let row = first_row + i * DOWN + down;
        if (row < params.tokens) {
            for (var d = 0u; d < OWN_QUADS; d++) {
                if (along + d * ALONG < QUADS) {
                    dqkv[qkv_row(group, 0u, row) + along + d * ALONG] = pack(sums[i][d]);
                }
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn attention_dkv(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
    let group = place_of(workgroup);
    let first_row = group.x * ROWS;
    let down = place(lane).x;
    let along = place(lane).y;
    let stats_at = (group.z * params.heads + group.y) * params.tokens;

    var k_sums: array<array<vec4f, OWN_QUADS>, EACH>;
    var v_sums: array<array<vec4f, OWN_QUADS>, EACH>;
    for (var start = 0u; start < params.tokens; start += STEP) {
        var scores = array<array<f32, EACH>, EACH>();
        var products = array<array<f32, EACH>, EACH>();
        for (var chunk = 0u; chunk < QUADS / CHUNK; chunk++) {
            workgroupBarrier();
            load_qkv(group, lane, 0u, 1u, first_row, chunk);
            load_qkv(group, lane, TILE, 0u, start, chunk);
            workgroupBarrier();
            add_products(&scores, down, along);
            workgroupBarrier();
            load_qkv(group, lane, 0u, 2u, first_row, chunk);
            load_dout(group, lane, TILE, start, chunk);
            workgroupBarrier();
            add_products(&products, down, along);
        }

        // Turns scores into probabilities, and products into the gradients of the scores, in place.
        for (var j = 0u; j < EACH; j++) {
            let query = start + j * ALONG + along;
            let at = stats_at + min(query, params.tokens - 1u);
            let lse_of = kept_lse[at];
            let delta_of = kept_delta[at];
            for (var i = 0u; i < EACH; i++) {
                let p = select(0.0, exp(scores[j][i] * params.scale - lse_of), query < params.tokens);
                products[j][i] = p * (products[j][i] - delta_of) * params.scale;
                scores[j][i] = p;
            }
            put(j * ALONG + along, down, scores[j]);
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            workgroupBarrier();
            load_whole_dout(group, lane, start + first);
            workgroupBarrier();
            add_weighted(&v_sums, first, left(start, first), down, along);
        }
        workgroupBarrier();
        for (var j = 0u; j < EACH; j++) {
            put(j * ALONG + along, down, products[j]);
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            workgroupBarrier();
            load_whole_qkv(group, lane, 0u, start + first);
            workgroupBarrier();
            add_weighted(&k_sums, first, left(start, first), down, along);
        }
    }

    for (var i = 0u; i < EACH; i++) {
        let row = first_row + i * DOWN + down;
        if (row < params.tokens) {
            for (var d = 0u; d < OWN_QUADS; d++) {
                if (along + d * ALONG < QUADS) {
                    let at = qkv_row(group, 1u, row) + along + d * ALONG;
                    dqkv[at] = pack(k_sums[i][d]);
                    dqkv[at + params.heads * QUADS] = pack(v_sums[i][d]);
                }
            }
        }
    }
}
