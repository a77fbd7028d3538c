// Fused multi-head self-attention, the GPU family: no T × T matrix in memory.
//
//   s[i,j] = scale·Σ_d q[i,d]·k[j,d]      p[i,j] = exp(s[i,j] - lse[i])      lse[i] = log Σ_j exp(s[i,j])
//   out[i,d] = Σ_j p[i,j]·v[j,d]                                      for each image b and head h; scale = 1/√Dh
//   with delta[i] = Σ_d dout[i,d]·out[i,d] and ds[i,j] = p[i,j]·(Σ_d dout[i,d]·v[j,d] - delta[i]):
//   dv[j] = Σ_i p[i,j]·dout[i]      dq[i] = scale·Σ_j ds[i,j]·k[j]      dk[j] = scale·Σ_i ds[i,j]·q[i]
//
// qkv (B, T, 3, H, Dh), as the fused projection leaves it, read   out (B, T, H·Dh) written
// lse (B, H, T) written if KEEP_LSE: all that the backward pass needs beside qkv and out
// A workgroup owns QUERIES rows of one head, an invocation one row; KEYS keys and values at a time pass through workgroup
// memory. The softmax runs online: sums are rescaled when a larger s turns up, so no exp overflows.
// Sums over j ascend in tiles of KEYS. Error of out ≤ about (Dh + T + 8)·2⁻²⁴ of the largest |v| (scores of ordinary size).
// Source: [ViT eq. 2], [LAT eq. 3]; online softmax as in FlashAttention. Limits: Dh a multiple of 4;
// workgroup memory 8·KEYS·Dh bytes; sentinel -1e30 instead of -∞, since fast math may not know infinity.

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
const QUERIES: u32 = 64;
const KEYS: u32 = 16;

const QUADS = HEAD_DIM / 4u;

var<workgroup> keys: array<vec4f, KEYS * QUADS>;
var<workgroup> values: array<vec4f, KEYS * QUADS>;

@compute @workgroup_size(QUERIES)
fn attention_forward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * QUERIES + lane;
    let head = group.y;
    let model = params.heads * QUADS;
    let image = group.z * params.tokens;
    let in_range = row < params.tokens;

    var query: array<vec4f, QUADS>;
    var sums: array<vec4f, QUADS>;
    let q_at = (image + min(row, params.tokens - 1u)) * 3u * model + head * QUADS;
    for (var d = 0u; d < QUADS; d++) {
        query[d] = qkv[q_at + d] * params.scale;
    }
    var peak = -1e30;
    var total = 0.0;
    for (var start = 0u; start < params.tokens; start += KEYS) {
        for (var t = lane; t < KEYS * QUADS; t += QUERIES) {
            let key = start + t / QUADS;
            var k = vec4f(0.0);
            var v = vec4f(0.0);
            if (key < params.tokens) {
                let at = (image + key) * 3u * model + head * QUADS + t % QUADS;
                k = qkv[at + model];
                v = qkv[at + 2u * model];
            }
            keys[t] = k;
            values[t] = v;
        }
        workgroupBarrier();

        var scores: array<f32, KEYS>;
        var highest = peak;
        for (var j = 0u; j < KEYS; j++) {
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
        for (var j = 0u; j < KEYS; j++) {
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
            out[out_at + d] = sums[d] / total;
        }
        if (KEEP_LSE) {
            lse[(group.z * params.heads + head) * params.tokens + row] = peak + log(total);
        }
    }
}
