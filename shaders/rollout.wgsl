// Attention rollout: the share of each input token in the class token's output, for one image.
//
//   p[h,i,j] = exp(scale·Σ_d q[h,i,d]·k[h,j,d] - lse[h,i])      the softmax of attention.wgsl; scale = 1/√Dh
//   mixed[i,j] = ½·(1/H)·Σ_h p[h,i,j] + ½·[i = j]               of one block; ½·[i = j] is the residual path.
//                                                               Rows sum to 1, as those of p do.
//   carried[j] = Σ_i row[i]·mixed[i,j]                          from the last block to the first; at the start
//                                                               row[i] = [i = class]
//
// probabilities: qkv (T, 3, H, Dh) and lse (H, T) of attention_forward read   mixed (T, T) written
// multiply:      row (T) read   matrix (T, T) read: `mixed` of a block   carried (T) written
// An invocation owns one pair i, j, or one token j. Every sum is in ascending order. Error of mixed ≤ about
// (Dh + H + 8)·2⁻²⁴ of its sum over heads, for scores of ordinary size; of carried ≤ T·2⁻²⁴ of its value.
// Source: [Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers" §3], with the mean over heads. Only the
// row of the class token is carried, so no product of two matrices is needed.
// Limits: Dh a multiple of 4; T² below 2³²; T and D/4 below 65,535.

struct Params {
    tokens: u32,
    heads: u32,
    // Dh/4
    quads: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> mixed: array<f32>;

@group(0) @binding(1) var<storage, read> row: array<f32>;
@group(0) @binding(2) var<storage, read> matrix: array<f32>;
@group(0) @binding(3) var<storage, read_write> carried: array<f32>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn rollout_probabilities(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = (group.x + group.y * groups.x) * THREADS + lane;
    if (pair >= params.tokens * params.tokens) {
        return;
    }
    let query = pair / params.tokens;
    let key = pair % params.tokens;
    let width = params.heads * params.quads;
    let queries = 3u * query * width;
    let keys = (3u * key + 1u) * width;

    var sum = 0.0;
    for (var head = 0u; head < params.heads; head++) {
        var score = 0.0;
        for (var quad = head * params.quads; quad < (head + 1u) * params.quads; quad++) {
            let q = qkv[queries + quad];
            let k = qkv[keys + quad];
            score = fma(q.w, k.w, fma(q.z, k.z, fma(q.y, k.y, fma(q.x, k.x, score))));
        }
        sum += exp(params.scale * score - lse[head * params.tokens + query]);
    }
    let passed = select(0.0, 0.5, query == key);
    mixed[pair] = fma(0.5 / f32(params.heads), sum, passed);
}

@compute @workgroup_size(THREADS)
fn rollout_multiply(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = (group.x + group.y * groups.x) * THREADS + lane;
    if (token >= params.tokens) {
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < params.tokens; i++) {
        sum = fma(row[i], matrix[i * params.tokens + token], sum);
    }
    carried[token] = sum;
}
