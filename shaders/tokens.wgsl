// The sequence that enters the transformer: prefix tokens, then patches, plus positions.
//
//   tokens[b,t,d] = (t < P ? prefix[t,d] : patches[b,t-P,d]) + position[t,d]
//   dprefix[t,d] = Σ_b dtokens[b,t,d]      dpatches[b,n,d] = dtokens[b,P+n,d]      dposition[t,d] = Σ_b dtokens[b,t,d]
//
// tokens_forward: prefix (P, D): class token, then distillation or register tokens, read   patches (B, N, D) read
// position (P+N, D) read   tokens (B, P+N, D) written
// tokens_backward: dtokens (B, P+N, D) read   dprefix (P, D) written   dposition (P+N, D) written; dpatches are rows of
// dtokens already.
// One invocation owns one tokens[b,t,d]; one addition, correctly rounded. Backward it owns one dposition[t,d] and sums
// the images in order; error ≤ (B - 1)·2⁻²⁴·Σ_b|dtokens|.
// Source: [LAT eq. 2], [ViT eq. 1]. Limits: B·(P+N)·D below 2³².

struct Params {
    batch: u32,
    prefix: u32,
    patches: u32,
    dim: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> prefix: array<f32>;
@group(0) @binding(2) var<storage, read> patches: array<f32>;
@group(0) @binding(3) var<storage, read> position: array<f32>;
@group(0) @binding(4) var<storage, read_write> tokens: array<f32>;

@group(0) @binding(1) var<storage, read> dtokens: array<f32>;
@group(0) @binding(2) var<storage, read_write> dprefix: array<f32>;
@group(0) @binding(3) var<storage, read_write> dposition: array<f32>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn tokens_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let sequence = (params.prefix + params.patches) * params.dim;
    if (i >= params.batch * sequence) {
        return;
    }
    let image = i / sequence;
    let within = i % sequence;
    let prefix_len = params.prefix * params.dim;
    var token: f32;
    if (within < prefix_len) {
        token = prefix[within];
    } else {
        token = patches[image * params.patches * params.dim + within - prefix_len];
    }
    tokens[i] = token + position[within];
}

@compute @workgroup_size(THREADS)
fn tokens_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let sequence = (params.prefix + params.patches) * params.dim;
    if (i >= sequence) {
        return;
    }
    var sum = 0.0;
    for (var image = 0u; image < params.batch; image++) {
        sum += dtokens[image * sequence + i];
    }
    dposition[i] = sum;
    if (i < params.prefix * params.dim) {
        dprefix[i] = sum;
    }
}
