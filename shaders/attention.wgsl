// Fused multi-head self-attention, the GPU family: no T × T matrix in memory.
//
//   s[i,j] = scale·Σ_d q[i,d]·k[j,d]      p[i,j] = exp(s[i,j] - lse[i])      lse[i] = log Σ_j exp(s[i,j])
//   out[i,d] = Σ_j p[i,j]·v[j,d]                                      for each image b and head h; scale = 1/√Dh
//   with delta[i] = Σ_d dout[i,d]·out[i,d] and ds[i,j] = p[i,j]·(Σ_d dout[i,d]·v[j,d] - delta[i]):
//   dv[j] = Σ_i p[i,j]·dout[i]      dq[i] = scale·Σ_j ds[i,j]·k[j]      dk[j] = scale·Σ_i ds[i,j]·q[i]
//
// attention_forward: qkv (B, T, 3, H, Dh), as the fused projection leaves it, read   out (B, T, H·Dh) written
// lse (B, H, T) written if KEEP_LSE: all that the backward pass needs beside qkv and out
// attention_delta: kept_out (B, T, H·Dh) read   dout (B, T, H·Dh) read   delta (B, H, T) written
// attention_dq, attention_dkv: qkv, dout read   kept_lse, kept_delta (B, H, T) read   dqkv (B, T, 3, H, Dh) written: its
// queries by the one, its keys and values by the other
// A workgroup owns ROWS queries (attention_dkv: keys) of one head and walks over the other side STEP rows at a time: small
// matrix products between tiles in workgroup memory. For the scores an invocation owns four rows and every ALONG-th of the
// other side, for the output four rows and every ALONG-th vec4 of the head; scores change hands through workgroup memory.
// The softmax runs online: sums are rescaled when a larger s turns up, so no exp overflows. Rows past the end repeat the
// last one, weigh 0 and are never stored.
// Sums over j (attention_dkv: i) ascend. Error of out ≤ about (Dh + T + 8)·2⁻²⁴ of the largest |v|, of the gradients ≤
// about (Dh + T + 8)·2⁻²⁴ of the sum of their terms' magnitudes (scores of ordinary size).
// Source: [ViT eq. 2], [LAT eq. 3]; online softmax and backward as in FlashAttention. Limits: Dh a multiple of 4 and of
// 4·CHUNK; CHUNK at most 8; sentinel -1e30 instead of -∞, since fast math may not know infinity.

struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    unused: u32,
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
// Quads of the head that the scores' tiles hold at a time.
const CHUNK: u32 = 8;

const QUADS = HEAD_DIM / 4u;
const_assert QUADS % CHUNK == 0u;

const ROWS = 32u;
const STEP = 32u;
// Invocations over four rows each, and along the other side or the head.
const DOWN = ROWS / 4u;
const ALONG = 8u;
const THREADS = DOWN * ALONG;
const OWN = STEP / ALONG;
const OWN_QUADS = (QUADS + ALONG - 1u) / ALONG;
// Quads from a tile's row to the next: one more than it has, so that neighbouring rows lie in other banks.
const STRIDE = CHUNK + 1u;
const TILE = ROWS * STRIDE;
// Whole rows of the other side that fit where both tiles were.
const WHOLE = STEP / ((STEP * QUADS + 2u * TILE - 1u) / (2u * TILE));
const UNROLL = 4u;

// The rows' tile and that of the other side, or whole rows of the other side.
var<workgroup> tile: array<vec4f, 2u * TILE>;
// [row of the other side][four rows].
var<workgroup> weights: array<vec4f, STEP * (DOWN + 1u)>;
var<workgroup> partial: array<vec4f, THREADS>;

// Where a row of q, k or v (part 0, 1, 2) begins.
fn qkv_row(group: vec3u, part: u32, token: u32) -> u32 {
    let row = group.z * params.tokens + min(token, params.tokens - 1u);
    return ((row * 3u + part) * params.heads + group.y) * QUADS;
}

fn dout_row(group: vec3u, token: u32) -> u32 {
    let row = group.z * params.tokens + min(token, params.tokens - 1u);
    return (row * params.heads + group.y) * QUADS;
}

// Loads a chunk of ROWS rows of q, k or v into the tile that begins at `side`.
fn load_qkv(group: vec3u, lane: u32, side: u32, part: u32, first: u32, chunk: u32) {
    for (var t = 0u; t < ROWS * CHUNK; t += THREADS) {
        let row = (t + lane) / CHUNK;
        let quad = (t + lane) % CHUNK;
        if (t + lane < ROWS * CHUNK) {
            tile[side + row * STRIDE + quad] = unpack(qkv[qkv_row(group, part, first + row) + chunk * CHUNK + quad]);
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

// Loads WHOLE whole rows.
fn load_whole_qkv(group: vec3u, lane: u32, part: u32, first: u32) {
    for (var t = 0u; t < WHOLE * QUADS; t += THREADS) {
        let at = t + lane;
        if (at < WHOLE * QUADS) {
            tile[at] = unpack(qkv[qkv_row(group, part, first + at / QUADS) + at % QUADS]);
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

// Adds one chunk's part of the products of this invocation's rows with its rows of the other side.
fn add_products(products: ptr<function, array<vec4f, OWN>>, down: u32, along: u32) {
    // A constant that is added last becomes part of the instruction that reads.
    let mine_at = down * 4u * STRIDE;
    let other_at = along * STRIDE;
    for (var d = 0u; d < CHUNK; d++) {
        let row_0 = tile[mine_at + d];
        let row_1 = tile[mine_at + d + STRIDE];
        let row_2 = tile[mine_at + d + 2u * STRIDE];
        let row_3 = tile[mine_at + d + 3u * STRIDE];
        for (var j = 0u; j < OWN; j++) {
            let other = tile[other_at + d + (TILE + j * ALONG * STRIDE)];
            var product = (*products)[j];
            product = fma(vec4f(row_0.x, row_1.x, row_2.x, row_3.x), vec4f(other.x), product);
            product = fma(vec4f(row_0.y, row_1.y, row_2.y, row_3.y), vec4f(other.y), product);
            product = fma(vec4f(row_0.z, row_1.z, row_2.z, row_3.z), vec4f(other.z), product);
            product = fma(vec4f(row_0.w, row_1.w, row_2.w, row_3.w), vec4f(other.w), product);
            (*products)[j] = product;
        }
    }
}

// Adds the whole rows in `tile`, weighed by `weights` from row `first` of the step on.
fn add_weighted(sums: ptr<function, array<array<vec4f, OWN_QUADS>, 4>>, first: u32, down: u32, along: u32) {
    for (var start = 0u; start < WHOLE; start += UNROLL) {
        let weight_at = (first + start) * (DOWN + 1u) + down;
        for (var j = 0u; j < UNROLL; j++) {
            let weight = weights[weight_at + j * (DOWN + 1u)];
            for (var d = 0u; d < OWN_QUADS; d++) {
                let value = tile[start * QUADS + min(along + d * ALONG, QUADS - 1u) + j * QUADS];
                (*sums)[0][d] = fma(vec4f(weight.x), value, (*sums)[0][d]);
                (*sums)[1][d] = fma(vec4f(weight.y), value, (*sums)[1][d]);
                (*sums)[2][d] = fma(vec4f(weight.z), value, (*sums)[2][d]);
                (*sums)[3][d] = fma(vec4f(weight.w), value, (*sums)[3][d]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn attention_forward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.x * ROWS;
    let down = lane / ALONG;
    let along = lane % ALONG;

    var sums: array<array<vec4f, OWN_QUADS>, 4>;
    // Of the four rows; `total` adds up this invocation's keys alone.
    var peak = vec4f(-1e30);
    var total = vec4f(0.0);
    for (var start = 0u; start < params.tokens; start += STEP) {
        var scores = array<vec4f, OWN>();
        for (var chunk = 0u; chunk < QUADS / CHUNK; chunk++) {
            workgroupBarrier();
            load_qkv(group, lane, 0u, 0u, first_row, chunk);
            load_qkv(group, lane, TILE, 1u, start, chunk);
            workgroupBarrier();
            add_products(&scores, down, along);
        }

        var highest = vec4f(-1e30);
        for (var j = 0u; j < OWN; j++) {
            let valid = start + j * ALONG + along < params.tokens;
            scores[j] = select(vec4f(-1e30), scores[j] * params.scale, valid);
            highest = max(highest, scores[j]);
        }
        partial[lane] = highest;
        workgroupBarrier();
        highest = peak;
        for (var i = 0u; i < ALONG; i++) {
            highest = max(highest, partial[down * ALONG + i]);
        }
        let shrink = exp(peak - highest);
        peak = highest;
        total *= shrink;
        for (var j = 0u; j < OWN; j++) {
            let p = exp(scores[j] - highest);
            total += p;
            weights[(j * ALONG + along) * (DOWN + 1u) + down] = p;
        }
        for (var d = 0u; d < OWN_QUADS; d++) {
            sums[0][d] *= shrink.x;
            sums[1][d] *= shrink.y;
            sums[2][d] *= shrink.z;
            sums[3][d] *= shrink.w;
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            load_whole_qkv(group, lane, 2u, start + first);
            workgroupBarrier();
            add_weighted(&sums, first, down, along);
            workgroupBarrier();
        }
    }

    partial[lane] = total;
    workgroupBarrier();
    total = vec4f(0.0);
    for (var i = 0u; i < ALONG; i++) {
        total += partial[down * ALONG + i];
    }
    for (var i = 0u; i < 4u; i++) {
        let row = first_row + down * 4u + i;
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
fn attention_delta(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
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
fn attention_dq(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.x * ROWS;
    let down = lane / ALONG;
    let along = lane % ALONG;
    let stats_at = (group.z * params.heads + group.y) * params.tokens;
    var lse_of: vec4f;
    var delta_of: vec4f;
    for (var i = 0u; i < 4u; i++) {
        let row = min(first_row + down * 4u + i, params.tokens - 1u);
        lse_of[i] = kept_lse[stats_at + row];
        delta_of[i] = kept_delta[stats_at + row];
    }

    var sums: array<array<vec4f, OWN_QUADS>, 4>;
    for (var start = 0u; start < params.tokens; start += STEP) {
        var scores = array<vec4f, OWN>();
        var products = array<vec4f, OWN>();
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

        for (var j = 0u; j < OWN; j++) {
            let valid = start + j * ALONG + along < params.tokens;
            let p = select(vec4f(0.0), exp(scores[j] * params.scale - lse_of), valid);
            weights[(j * ALONG + along) * (DOWN + 1u) + down] = p * (products[j] - delta_of) * params.scale;
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            workgroupBarrier();
            load_whole_qkv(group, lane, 1u, start + first);
            workgroupBarrier();
            add_weighted(&sums, first, down, along);
        }
    }

    for (var i = 0u; i < 4u; i++) {
        let row = first_row + down * 4u + i;
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
fn attention_dkv(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.x * ROWS;
    let down = lane / ALONG;
    let along = lane % ALONG;
    let stats_at = (group.z * params.heads + group.y) * params.tokens;

    var k_sums: array<array<vec4f, OWN_QUADS>, 4>;
    var v_sums: array<array<vec4f, OWN_QUADS>, 4>;
    for (var start = 0u; start < params.tokens; start += STEP) {
        var scores = array<vec4f, OWN>();
        var products = array<vec4f, OWN>();
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

        // From scores to probabilities and from products to the scores' gradients, in place.
        for (var j = 0u; j < OWN; j++) {
            let query = start + j * ALONG + along;
            let at = stats_at + min(query, params.tokens - 1u);
            let p = select(vec4f(0.0), exp(scores[j] * params.scale - kept_lse[at]), query < params.tokens);
            products[j] = p * (products[j] - kept_delta[at]) * params.scale;
            weights[(j * ALONG + along) * (DOWN + 1u) + down] = p;
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            workgroupBarrier();
            load_whole_dout(group, lane, start + first);
            workgroupBarrier();
            add_weighted(&v_sums, first, down, along);
        }
        workgroupBarrier();
        for (var j = 0u; j < OWN; j++) {
            weights[(j * ALONG + along) * (DOWN + 1u) + down] = products[j];
        }
        for (var first = 0u; first < STEP; first += WHOLE) {
            workgroupBarrier();
            load_whole_qkv(group, lane, 0u, start + first);
            workgroupBarrier();
            add_weighted(&k_sums, first, down, along);
        }
    }

    for (var i = 0u; i < 4u; i++) {
        let row = first_row + down * 4u + i;
        if (row < params.tokens) {
            for (var d = 0u; d < OWN_QUADS; d++) {
                if (along + d * ALONG < QUADS) {
                    dqkv[qkv_row(group, 1u, row) + along + d * ALONG] = pack(k_sums[i][d]);
                    dqkv[qkv_row(group, 2u, row) + along + d * ALONG] = pack(v_sums[i][d]);
                }
            }
        }
    }
}
