// The input sequence of the transformer: prefix tokens, then patches, plus position embeddings.
//
//   tokens[b,t,d] = (t < P ? prefix[t,d] : patches[b,t-P,d]) + (t has a row ? position[row(t),d] : 0)
//   row(t) = t for the first S prefix tokens, S + t - P for patches; the other P - S prefix tokens have no row
//   dprefix[t,d] = Σ_b dtokens[b,t,d]      dpatches[b,n,d] = dtokens[b,P+n,d]
//   dposition[row(t),d] = Σ_b dtokens[b,t,d]
//
// tokens_forward: prefix (P, D): class token, then distillation or register tokens, read   patches (B, N, D) read
// position (S+N, D) read   tokens (B, P+N, D) written
// tokens_backward: dtokens (B, P+N, D) read   dprefix (P, D) written   dposition (S+N, D) written. dpatches needs no
// kernel: it consists of rows of dtokens.
// Forward, an invocation owns a quad of tokens[b,t,:]; one addition, correctly rounded. Backward, it owns a quad of
// (t, :) and sums the images in order; error ≤ (B - 1)·2⁻²⁴·Σ_b|dtokens|.
// Source: [LAT eq. 2], [ViT eq. 1]. Limits: S ≤ P; D a multiple of 4; B·(P+N)·D below 2³².

struct Params {
    batch: u32,
    prefix: u32,
    patches: u32,
    dim: u32,
    // S, prefix tokens that have a row in the position table.
    positioned: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> prefix: array<vec4f>;
@group(0) @binding(2) var<storage, read> patches: array<vec4f>;
@group(0) @binding(3) var<storage, read> position: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> tokens: array<Quad>;

@group(0) @binding(1) var<storage, read> dtokens: array<Quad>;
@group(0) @binding(2) var<storage, read_write> dprefix: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dposition: array<vec4f>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn tokens_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    let sequence = (params.prefix + params.patches) * quads;
    if (i >= params.batch * sequence) {
        return;
    }
    let image = i / sequence;
    let within = i % sequence;
    let prefix_len = params.prefix * quads;
    let positioned_len = params.positioned * quads;
    var token: vec4f;
    if (within < prefix_len) {
        token = prefix[within];
        if (within < positioned_len) {
            token += position[within];
        }
    } else {
        let behind = within - prefix_len;
        token = patches[image * params.patches * quads + behind] + position[positioned_len + behind];
    }
    tokens[i] = pack(token);
}

@compute @workgroup_size(THREADS)
fn tokens_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    let sequence = (params.prefix + params.patches) * quads;
    if (i >= sequence) {
        return;
    }
    var sum = vec4f(0.0);
    for (var image = 0u; image < params.batch; image++) {
        sum += unpack(dtokens[image * sequence + i]);
    }
    let prefix_len = params.prefix * quads;
    let positioned_len = params.positioned * quads;
    if (i >= prefix_len) {
        dposition[positioned_len + i - prefix_len] = sum;
        return;
    }
    dprefix[i] = sum;
    if (i < positioned_len) {
        dposition[i] = sum;
    }
}
