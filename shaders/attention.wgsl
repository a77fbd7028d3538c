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
// A workgroup owns ROWS queries (attention_dkv: keys) of one head, an invocation one of them; of the other side STEP at a
// time pass through workgroup memory. The softmax runs online: sums are rescaled when a larger s turns up, so no exp
// overflows. Backward an invocation loads its own row anew for every step: registers hold the sums.
// Sums over j (attention_dkv: i) ascend. Error of out ≤ about (Dh + T + 8)·2⁻²⁴ of the largest |v|, of the gradients ≤
// about (Dh + T + 8)·2⁻²⁴ of the sum of their terms' magnitudes (scores of ordinary size).
// Source: [ViT eq. 2], [LAT eq. 3]; online softmax and backward as in FlashAttention. Limits: Dh a multiple of 4;
// workgroup memory 8·STEP·Dh bytes; sentinel -1e30 instead of -∞, since fast math may not know infinity.

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
const ROWS: u32 = 64;
const STEP: u32 = 16;

const QUADS = HEAD_DIM / 4u;

var<workgroup> keys: array<vec4f, STEP * QUADS>;
var<workgroup> values: array<vec4f, STEP * QUADS>;
var<workgroup> queries: array<vec4f, STEP * QUADS>;
var<workgroup> gradients: array<vec4f, STEP * QUADS>;

// sum + Σ a·b, one fma after the other.
fn add_products(a: vec4f, b: vec4f, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

@compute @workgroup_size(ROWS)
fn attention_forward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * ROWS + lane;
    let head = group.y;
    let model = params.heads * QUADS;
    let image = group.z * params.tokens;
    let in_range = row < params.tokens;

    var query: array<vec4f, QUADS>;
    var sums: array<vec4f, QUADS>;
    let q_at = (image + min(row, params.tokens - 1u)) * 3u * model + head * QUADS;
    for (var d = 0u; d < QUADS; d++) {
        query[d] = unpack(qkv[q_at + d]) * params.scale;
    }
    var peak = -1e30;
    var total = 0.0;
    for (var start = 0u; start < params.tokens; start += STEP) {
        for (var t = lane; t < STEP * QUADS; t += ROWS) {
            let key = start + t / QUADS;
            var k = vec4f(0.0);
            var v = vec4f(0.0);
            if (key < params.tokens) {
                let at = (image + key) * 3u * model + head * QUADS + t % QUADS;
                k = unpack(qkv[at + model]);
                v = unpack(qkv[at + 2u * model]);
            }
            keys[t] = k;
            values[t] = v;
        }
        workgroupBarrier();

        var scores: array<f32, STEP>;
        var highest = peak;
        for (var j = 0u; j < STEP; j++) {
            var products = vec4f(0.0);
            for (var d = 0u; d < QUADS; d++) {
                products = fma(query[d], keys[j * QUADS + d], products);
            }
            let score = (products.x + products.y) + (products.z + products.w);
            scores[j] = select(-1e30, score, start + j < params.tokens);
            highest = max(highest, scores[j]);
        }
        let shrink = exp(peak - highest);
        total *= shrink;
        for (var d = 0u; d < QUADS; d++) {
            sums[d] *= shrink;
        }
        for (var j = 0u; j < STEP; j++) {
            let p = exp(scores[j] - highest);
            total += p;
            for (var d = 0u; d < QUADS; d++) {
                sums[d] = fma(vec4f(p), values[j * QUADS + d], sums[d]);
            }
        }
        peak = highest;
        workgroupBarrier();
    }

    if (in_range) {
        let out_at = (image + row) * model + head * QUADS;
        for (var d = 0u; d < QUADS; d++) {
            out[out_at + d] = pack(sums[d] / total);
        }
        if (KEEP_LSE) {
            lse[(group.z * params.heads + head) * params.tokens + row] = peak + log(total);
        }
    }
}

@compute @workgroup_size(ROWS)
fn attention_delta(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * ROWS + lane;
    if (row >= params.tokens) {
        return;
    }
    let at = ((group.z * params.tokens + row) * params.heads + group.y) * QUADS;
    var sum = 0.0;
    for (var d = 0u; d < QUADS; d++) {
        sum = add_products(unpack(dout[at + d]), unpack(kept_out[at + d]), sum);
    }
    delta[(group.z * params.heads + group.y) * params.tokens + row] = sum;
}

@compute @workgroup_size(ROWS)
fn attention_dq(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * ROWS + lane;
    let mine = min(row, params.tokens - 1u);
    let head = group.y * QUADS;
    let model = params.heads * QUADS;
    let image = group.z * params.tokens;
    let q_at = (image + mine) * 3u * model + head;
    let g_at = (image + mine) * model + head;
    let stats_at = (group.z * params.heads + group.y) * params.tokens + mine;
    let my_lse = kept_lse[stats_at];
    let my_delta = kept_delta[stats_at];

    var sums: array<vec4f, QUADS>;
    for (var start = 0u; start < params.tokens; start += STEP) {
        for (var t = lane; t < STEP * QUADS; t += ROWS) {
            let key = start + t / QUADS;
            var k = vec4f(0.0);
            var v = vec4f(0.0);
            if (key < params.tokens) {
                let at = (image + key) * 3u * model + head + t % QUADS;
                k = unpack(qkv[at + model]);
                v = unpack(qkv[at + 2u * model]);
            }
            keys[t] = k;
            values[t] = v;
        }
        workgroupBarrier();

        var scores: array<f32, STEP>;
        var products: array<f32, STEP>;
        for (var d = 0u; d < QUADS; d++) {
            let q = unpack(qkv[q_at + d]) * params.scale;
            let g = unpack(dout[g_at + d]);
            for (var j = 0u; j < STEP; j++) {
                scores[j] = add_products(q, keys[j * QUADS + d], scores[j]);
                products[j] = add_products(g, values[j * QUADS + d], products[j]);
            }
        }
        for (var j = 0u; j < STEP; j++) {
            let p = select(0.0, exp(scores[j] - my_lse), start + j < params.tokens);
            let ds = p * (products[j] - my_delta) * params.scale;
            for (var d = 0u; d < QUADS; d++) {
                sums[d] = fma(vec4f(ds), keys[j * QUADS + d], sums[d]);
            }
        }
        workgroupBarrier();
    }

    if (row < params.tokens) {
        for (var d = 0u; d < QUADS; d++) {
            dqkv[q_at + d] = pack(sums[d]);
        }
    }
}

@compute @workgroup_size(ROWS)
fn attention_dkv(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * ROWS + lane;
    let head = group.y * QUADS;
    let model = params.heads * QUADS;
    let image = group.z * params.tokens;
    let k_at = (image + min(row, params.tokens - 1u)) * 3u * model + model + head;
    let v_at = k_at + model;
    let stats_at = (group.z * params.heads + group.y) * params.tokens;

    var k_sums: array<vec4f, QUADS>;
    var v_sums: array<vec4f, QUADS>;
    for (var start = 0u; start < params.tokens; start += STEP) {
        for (var t = lane; t < STEP * QUADS; t += ROWS) {
            let query = start + t / QUADS;
            var q = vec4f(0.0);
            var g = vec4f(0.0);
            if (query < params.tokens) {
                q = unpack(qkv[(image + query) * 3u * model + head + t % QUADS]);
                g = unpack(dout[(image + query) * model + head + t % QUADS]);
            }
            queries[t] = q;
            gradients[t] = g;
        }
        workgroupBarrier();

        var scores: array<f32, STEP>;
        var products: array<f32, STEP>;
        for (var d = 0u; d < QUADS; d++) {
            let k = unpack(qkv[k_at + d]) * params.scale;
            let v = unpack(qkv[v_at + d]);
            for (var i = 0u; i < STEP; i++) {
                scores[i] = add_products(k, queries[i * QUADS + d], scores[i]);
                products[i] = add_products(v, gradients[i * QUADS + d], products[i]);
            }
        }
        for (var i = 0u; i < STEP; i++) {
            let query = min(start + i, params.tokens - 1u);
            let p = select(0.0, exp(scores[i] - kept_lse[stats_at + query]), start + i < params.tokens);
            let ds = p * (products[i] - kept_delta[stats_at + query]) * params.scale;
            for (var d = 0u; d < QUADS; d++) {
                v_sums[d] = fma(vec4f(p), gradients[i * QUADS + d], v_sums[d]);
                k_sums[d] = fma(vec4f(ds), queries[i * QUADS + d], k_sums[d]);
            }
        }
        workgroupBarrier();
    }

    if (row < params.tokens) {
        for (var d = 0u; d < QUADS; d++) {
            dqkv[k_at + d] = pack(k_sums[d]);
            dqkv[v_at + d] = pack(v_sums[d]);
        }
    }
}
