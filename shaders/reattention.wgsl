// Re-attention: self-attention whose heads exchange their maps before they weight the values. Not fused: every map is in
// memory.
//
//   a[b,h,i,j] = exp(s[i,j])/Σ_j exp(s[i,j])      s[i,j] = (1/√Dh)·Σ_d q[b,i,h,d]·k[b,j,h,d]
//   m[b,g,i,j] = Σ_h theta[g,h]·a[b,h,i,j]
//   mean[g] = (1/N) Σ m      var[g] = (1/N) Σ (m - mean)²      over the N = B·T² elements of a head
//   x̂ = (m - mean)·rstd      rstd = 1/√(var + eps)      p[b,g,i,j] = x̂·weight[g] + bias[g]
//   out[b,i,g,d] = Σ_j p[b,g,i,j]·v[b,j,g,d]
//   with dp[b,g,i,j] = Σ_d dout[b,i,g,d]·v[b,j,g,d]:
//   dbias[g] = Σ dp      dweight[g] = Σ dp·x̂      dm = weight·rstd·(dp - dbias/N - x̂·dweight/N)
//   dtheta[g,h] = Σ dm[b,g,i,j]·a[b,h,i,j]      da[b,h,i,j] = Σ_g theta[g,h]·dm[b,g,i,j]
//   ds = a·(da - Σ_j a·da)      dq[b,i] = (1/√Dh)·Σ_j ds·k[b,j]      dk[b,j] = (1/√Dh)·Σ_i ds·q[b,i]
//   dv[b,j,g] = Σ_i p[b,g,i,j]·dout[b,i,g]
// DeepViT adds mix_bias[g] to m, which x̂ subtracts again. As the elements of m may differ by much less than that bias, it
// would cost digits, so it is in the running mean alone, and has no gradient. In evaluation, mean is the running mean
// minus mix_bias, and var the running variance. A row of p doesn't sum to 1, and p may be negative.
//
// softmax: qkv (B, T, 3, H, Dh) read   maps, a, (B, H, T, T) written
// mix: kept_maps, a, read   theta (H, H) read   mixed, m, (B, H, T, T) written
// moment: source, m, read   mean (H) read if CENTRED   partials (H, C): sums of m, or of (m - mean)², over the chunks
// of a head, written
// sum: kept_partials (K, C) read   sums (K): factor·(sum of the row), written
// norm: bn_weight, mean, variance, bn_bias, mix_bias (H) read   norm (H): mean + factor·mix_bias, var, weight and bias
// of each head, written
// context: qkv read   kept_mixed, m, read   kept_norm (H) read   out (B, T, H·Dh) written
// dmaps: qkv read   out_gradient, dout, (B, T, H·Dh) read   dp (B, H, T, T) written
// dnorm: kept_dp read   kept_mixed read   kept_norm read   bias_partials, weight_partials (H, C) written
// dmix: gradient: dp read, dm written   kept_mixed read   kept_norm read   dbias, dweight (H) read
// dheads: kept_dm read   theta read   da (B, H, T, T) written
// dtheta: kept_dm read   own_maps, a, read   theta_partials (H·H, C) written
// dscores: score_gradient: da read, ds written   own_maps, a, read
// dqkv: qkv read   kept_mixed read   kept_norm read   kept_ds (B, H, T, T) read   dout read   dqkv written, as qkv
//
// In softmax and dscores, a workgroup owns a row of a map. In moment, dnorm and dtheta it owns a chunk of CHUNK
// elements of a head, in sum all chunks of a row. There, each invocation adds with a stride, then a fixed tree follows.
// Elsewhere an invocation owns one element, or a quad along d, and adds in ascending order. The variance is summed about
// the mean. Errors ≤ (T + Dh + 16)·2⁻²⁴, and of sums over N (CHUNK/LANES + C/LANES + 16)·2⁻²⁴, of the sum of the
// magnitudes of their terms.
// Source: [DeepViT §4.2], with the norm of the authors' code; [BN §3]. Limits: Dh a multiple of 4; B·H·T² below 2³².

struct Params {
    batch: u32,
    tokens: u32,
    heads: u32,
    head_dim: u32,
    // C, chunks of a head.
    chunks: u32,
    // softmax, dqkv: 1/√Dh. dmix: 1/N. sum, norm: their factor.
    factor: f32,
    eps: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read_write> maps: array<f32>;

@group(0) @binding(1) var<storage, read> kept_maps: array<f32>;
@group(0) @binding(2) var<storage, read> theta: array<f32>;
@group(0) @binding(3) var<storage, read_write> mixed: array<f32>;

@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;

@group(0) @binding(1) var<storage, read> kept_partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@group(0) @binding(1) var<storage, read> bn_weight: array<f32>;
@group(0) @binding(3) var<storage, read> variance: array<f32>;
@group(0) @binding(4) var<storage, read> bn_bias: array<f32>;
@group(0) @binding(5) var<storage, read> mix_bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> norm: array<vec4f>;

@group(0) @binding(2) var<storage, read> kept_mixed: array<f32>;
@group(0) @binding(3) var<storage, read> kept_norm: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<Quad>;

@group(0) @binding(2) var<storage, read> out_gradient: array<Quad>;
@group(0) @binding(3) var<storage, read_write> dp: array<f32>;

@group(0) @binding(1) var<storage, read> kept_dp: array<f32>;
@group(0) @binding(4) var<storage, read_write> bias_partials: array<f32>;
@group(0) @binding(5) var<storage, read_write> weight_partials: array<f32>;

@group(0) @binding(1) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(4) var<storage, read> dbias: array<f32>;
@group(0) @binding(5) var<storage, read> dweight: array<f32>;

@group(0) @binding(1) var<storage, read> kept_dm: array<f32>;
@group(0) @binding(3) var<storage, read_write> da: array<f32>;

@group(0) @binding(2) var<storage, read> own_maps: array<f32>;
@group(0) @binding(3) var<storage, read_write> theta_partials: array<f32>;

@group(0) @binding(1) var<storage, read_write> score_gradient: array<f32>;

@group(0) @binding(4) var<storage, read> kept_ds: array<f32>;
@group(0) @binding(5) var<storage, read> dout: array<Quad>;
@group(0) @binding(6) var<storage, read_write> dqkv: array<Quad>;

override CENTRED: bool = false;

const LANES: u32 = 64;
const CHUNK: u32 = 1024;

// First quad of a query, key or value (operand 0, 1 or 2).
fn qkv_row(image: u32, token: u32, operand: u32, head: u32) -> u32 {
    return (((image * params.tokens + token) * 3u + operand) * params.heads + head) * (params.head_dim / 4u);
}

// First quad of an output.
fn out_row(image: u32, token: u32, head: u32) -> u32 {
    return ((image * params.tokens + token) * params.heads + head) * (params.head_dim / 4u);
}

// Index in the maps of an element of a head: elements are counted over the maps of all images.
fn place(head: u32, element: u32) -> u32 {
    let area = params.tokens * params.tokens;
    return (element / area * params.heads + head) * area + element % area;
}

// Number of elements of a head.
fn elements() -> u32 {
    return params.batch * params.tokens * params.tokens;
}

fn rstd(norm: vec4f) -> f32 {
    return 1.0 / sqrt(norm.y + params.eps);
}

// p of an element of m.
fn normalised(m: f32, norm: vec4f, rstd: f32) -> f32 {
    return fma((m - norm.x) * rstd, norm.z, norm.w);
}

@compute @workgroup_size(LANES)
fn reattention_softmax(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    // Uniform over the workgroup, so either all invocations reach the barriers below or none does.
    if (row >= params.batch * params.heads * params.tokens) {
        return;
    }
    let image = row / (params.heads * params.tokens);
    let head = row / params.tokens % params.heads;
    let query = qkv_row(image, row % params.tokens, 0u, head);
    let first = row * params.tokens;

    var most = -1e30;
    for (var j = lane; j < params.tokens; j += LANES) {
        let key = qkv_row(image, j, 1u, head);
        var score = 0.0;
        for (var d = 0u; d < params.head_dim / 4u; d++) {
            score += dot(unpack(qkv[query + d]), unpack(qkv[key + d]));
        }
        score *= params.factor;
        maps[first + j] = score;
        most = max(most, score);
    }
    most = workgroup_max(lane, most);
    var sum = 0.0;
    for (var j = lane; j < params.tokens; j += LANES) {
        let weight = exp(maps[first + j] - most);
        maps[first + j] = weight;
        sum += weight;
    }
    sum = workgroup_sum(lane, sum);
    for (var j = lane; j < params.tokens; j += LANES) {
        maps[first + j] /= sum;
    }
}

@compute @workgroup_size(LANES)
fn reattention_mix(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * LANES + lane;
    if (at >= params.heads * elements()) {
        return;
    }
    let area = params.tokens * params.tokens;
    let to = at / area % params.heads;
    let first = at / (area * params.heads) * params.heads * area + at % area;
    var sum = 0.0;
    for (var from_head = 0u; from_head < params.heads; from_head++) {
        sum = fma(theta[to * params.heads + from_head], kept_maps[first + from_head * area], sum);
    }
    mixed[at] = sum;
}

@compute @workgroup_size(LANES)
fn reattention_moment(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.x + group.y * groups.x;
    if (at >= params.heads * params.chunks) {
        return;
    }
    let head = at / params.chunks;
    let first = at % params.chunks * CHUNK;
    var sum = 0.0;
    for (var i = lane; i < min(CHUNK, elements() - first); i += LANES) {
        let m = source[place(head, first + i)];
        if (CENTRED) {
            let off = m - mean[head];
            sum = fma(off, off, sum);
        } else {
            sum += m;
        }
    }
    let total = workgroup_sum(lane, sum);
    if (lane == 0u) {
        partials[at] = total;
    }
}

@compute @workgroup_size(LANES)
fn reattention_sum(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    var sum = 0.0;
    for (var chunk = lane; chunk < params.chunks; chunk += LANES) {
        sum += kept_partials[group.x * params.chunks + chunk];
    }
    let total = workgroup_sum(lane, sum);
    if (lane == 0u) {
        sums[group.x] = params.factor * total;
    }
}

@compute @workgroup_size(LANES)
fn reattention_norm(@builtin(global_invocation_id) id: vec3u) {
    let head = id.x;
    if (head >= params.heads) {
        return;
    }
    let own_mean = fma(params.factor, mix_bias[head], mean[head]);
    norm[head] = vec4f(own_mean, variance[head], bn_weight[head], bn_bias[head]);
}

@compute @workgroup_size(LANES)
fn reattention_context(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * LANES + lane;
    let quads = params.head_dim / 4u;
    if (at >= params.batch * params.tokens * params.heads * quads) {
        return;
    }
    let head = at / quads % params.heads;
    let token = at / (quads * params.heads) % params.tokens;
    let image = at / (quads * params.heads * params.tokens);
    let own = kept_norm[head];
    let own_rstd = rstd(own);
    let row = ((image * params.heads + head) * params.tokens + token) * params.tokens;
    var sum = vec4f(0.0);
    for (var j = 0u; j < params.tokens; j++) {
        let p = normalised(kept_mixed[row + j], own, own_rstd);
        sum = fma(vec4f(p), unpack(qkv[qkv_row(image, j, 2u, head) + at % quads]), sum);
    }
    out[at] = pack(sum);
}

@compute @workgroup_size(LANES)
fn reattention_dmaps(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * LANES + lane;
    if (at >= params.heads * elements()) {
        return;
    }
    let row = at / params.tokens;
    let head = row / params.tokens % params.heads;
    let image = row / (params.tokens * params.heads);
    let gradient_row = out_row(image, row % params.tokens, head);
    let value_row = qkv_row(image, at % params.tokens, 2u, head);
    var sum = 0.0;
    for (var d = 0u; d < params.head_dim / 4u; d++) {
        sum += dot(unpack(out_gradient[gradient_row + d]), unpack(qkv[value_row + d]));
    }
    dp[at] = sum;
}

@compute @workgroup_size(LANES)
fn reattention_dnorm(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.x + group.y * groups.x;
    if (at >= params.heads * params.chunks) {
        return;
    }
    let head = at / params.chunks;
    let first = at % params.chunks * CHUNK;
    let own = kept_norm[head];
    let own_rstd = rstd(own);
    var of_bias = 0.0;
    var of_weight = 0.0;
    for (var i = lane; i < min(CHUNK, elements() - first); i += LANES) {
        let element = place(head, first + i);
        let g = kept_dp[element];
        of_bias += g;
        of_weight = fma(g, (kept_mixed[element] - own.x) * own_rstd, of_weight);
    }
    let bias_total = workgroup_sum(lane, of_bias);
    let weight_total = workgroup_sum(lane, of_weight);
    if (lane == 0u) {
        bias_partials[at] = bias_total;
        weight_partials[at] = weight_total;
    }
}

@compute @workgroup_size(LANES)
fn reattention_dmix(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * LANES + lane;
    if (at >= params.heads * elements()) {
        return;
    }
    let head = at / (params.tokens * params.tokens) % params.heads;
    let own = kept_norm[head];
    let own_rstd = rstd(own);
    let off = (kept_mixed[at] - own.x) * own_rstd;
    let shared_part = params.factor * fma(off, dweight[head], dbias[head]);
    gradient[at] = own.z * own_rstd * (gradient[at] - shared_part);
}

@compute @workgroup_size(LANES)
fn reattention_dheads(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * LANES + lane;
    if (at >= params.heads * elements()) {
        return;
    }
    let area = params.tokens * params.tokens;
    let from_head = at / area % params.heads;
    let first = at / (area * params.heads) * params.heads * area + at % area;
    var sum = 0.0;
    for (var to = 0u; to < params.heads; to++) {
        sum = fma(theta[to * params.heads + from_head], kept_dm[first + to * area], sum);
    }
    da[at] = sum;
}

@compute @workgroup_size(LANES)
fn reattention_dtheta(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.x + group.y * groups.x;
    if (at >= params.heads * params.heads * params.chunks) {
        return;
    }
    let to = at / (params.heads * params.chunks);
    let from_head = at / params.chunks % params.heads;
    let first = at % params.chunks * CHUNK;
    var sum = 0.0;
    for (var i = lane; i < min(CHUNK, elements() - first); i += LANES) {
        sum = fma(kept_dm[place(to, first + i)], own_maps[place(from_head, first + i)], sum);
    }
    let total = workgroup_sum(lane, sum);
    if (lane == 0u) {
        theta_partials[at] = total;
    }
}

@compute @workgroup_size(LANES)
fn reattention_dscores(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    if (row >= params.batch * params.heads * params.tokens) {
        return;
    }
    let first = row * params.tokens;
    var sum = 0.0;
    for (var j = lane; j < params.tokens; j += LANES) {
        sum = fma(own_maps[first + j], score_gradient[first + j], sum);
    }
    let total = workgroup_sum(lane, sum);
    for (var j = lane; j < params.tokens; j += LANES) {
        score_gradient[first + j] = own_maps[first + j] * (score_gradient[first + j] - total);
    }
}

@compute @workgroup_size(LANES)
fn reattention_dqkv(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * LANES + lane;
    let quads = params.head_dim / 4u;
    if (at >= params.batch * params.tokens * params.heads * quads) {
        return;
    }
    let quad = at % quads;
    let head = at / quads % params.heads;
    let token = at / (quads * params.heads) % params.tokens;
    let image = at / (quads * params.heads * params.tokens);
    let own = kept_norm[head];
    let own_rstd = rstd(own);
    let map = (image * params.heads + head) * params.tokens * params.tokens;
    var of_query = vec4f(0.0);
    var of_key = vec4f(0.0);
    var of_value = vec4f(0.0);
    for (var other = 0u; other < params.tokens; other++) {
        // The token's row and column of the map.
        let row = map + token * params.tokens + other;
        let column = map + other * params.tokens + token;
        let p = normalised(kept_mixed[column], own, own_rstd);
        of_query = fma(vec4f(kept_ds[row]), unpack(qkv[qkv_row(image, other, 1u, head) + quad]), of_query);
        of_key = fma(vec4f(kept_ds[column]), unpack(qkv[qkv_row(image, other, 0u, head) + quad]), of_key);
        of_value = fma(vec4f(p), unpack(dout[out_row(image, other, head) + quad]), of_value);
    }
    dqkv[qkv_row(image, token, 0u, head) + quad] = pack(params.factor * of_query);
    dqkv[qkv_row(image, token, 1u, head) + quad] = pack(params.factor * of_key);
    dqkv[qkv_row(image, token, 2u, head) + quad] = pack(of_value);
}
