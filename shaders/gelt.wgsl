// Globally enhanced local tokens (GELT): the mean of the patches of each part, blended with the class token.
//
//   local[b,r,d] = (1/n_r) Σ_{y in rows of r} Σ_c tokens[b, P + y·C + c, d]      n_r: number of these tokens
//   gelt[b,r,d]  = class_weight·tokens[b,0,d] + local_weight·local[b,r,d]
//   dtokens[b,0,d] = class_weight·Σ_r dgelt[b,r,d]      dtokens[b,t,d] = 0 for the other prefix tokens
//   dtokens[b,P+y·C+c,d] = Σ_{r with row y} (local_weight/n_r)·dgelt[b,r,d]
//   Part r of R has the rows ⌊r·H/R⌋ to ⌈(r+1)·H/R⌉ - 1 of H, as in adaptive average pooling: one each if R = H, all if
//   R = 1. Where R doesn't divide H, neighbours share a row. Row y is in the parts ⌊y·R/H⌋ to ⌈(y+1)·R/H⌉ - 1.
//
// gelt_forward: tokens (B, P + H·C, D) read   gelt (first + B or more, R, D) written from image `first` on
// gelt_backward: dgelt (first + B or more, R, D) read from image `first` on   dtokens (B, P + H·C, D) written
// `first` lets the micro-batches of a batch share one tensor of parts.
// Forward, an invocation owns a quad of gelt[b,r,:] and sums its n tokens in order; error ≤ (n + 3)·2⁻²⁴ of the largest
// term. Backward, it owns a quad of dtokens[b,t,:] and sums the parts of its row in order; for the class token it sums R
// parts in order, error ≤ (R + 1)·2⁻²⁴ of the largest term.
// Source: [LAT eq. 6]: class_weight = λ/(1+λ), local_weight = 1/(1+λ). The released code swaps the two. The mean is
// taken before the blend; both are linear, so the order of eq. 6 gives the same result up to rounding.
// Limits: R ≤ H; D a multiple of 4; (first + B)·(P + H·C)·D below 2³².

struct Params {
    batch: u32,
    prefix: u32,
    parts: u32,
    columns: u32,
    dim: u32,
    class_weight: f32,
    local_weight: f32,
    first: u32,
    // H, rows of patches.
    rows: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<Quad>;
@group(0) @binding(2) var<storage, read_write> gelt: array<vec4f>;

@group(0) @binding(1) var<storage, read> dgelt: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dtokens: array<Quad>;

const THREADS: u32 = 64;

// First row of a part, and the row behind its last.
fn rows_of(part: u32) -> vec2u {
    return vec2u(part * params.rows, (part + 1u) * params.rows + params.parts - 1u) / params.parts;
}

@compute @workgroup_size(THREADS)
fn gelt_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    if (i >= params.batch * params.parts * quads) {
        return;
    }
    let d = i % quads;
    let part = (i / quads) % params.parts;
    let image = i / (quads * params.parts);
    let sequence = image * (params.prefix + params.rows * params.columns) * quads;

    let rows = rows_of(part);
    let count = (rows.y - rows.x) * params.columns;
    var at = sequence + (params.prefix + rows.x * params.columns) * quads + d;
    var sum = vec4f(0.0);
    for (var token = 0u; token < count; token++) {
        sum += unpack(tokens[at]);
        at += quads;
    }
    let local = params.local_weight * (sum / f32(count));
    gelt[params.first * params.parts * quads + i] = fma(vec4f(params.class_weight), unpack(tokens[sequence + d]), local);
}

// Weight of each token of a part.
fn share(part: u32) -> f32 {
    let rows = rows_of(part);
    return params.local_weight / f32((rows.y - rows.x) * params.columns);
}

@compute @workgroup_size(THREADS)
fn gelt_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    let count = params.prefix + params.rows * params.columns;
    if (i >= params.batch * count * quads) {
        return;
    }
    let d = i % quads;
    let token = (i / quads) % count;
    let first_part = (params.first + i / (quads * count)) * params.parts;

    var gradient = vec4f(0.0);
    if (token >= params.prefix) {
        let row = (token - params.prefix) / params.columns;
        let first = row * params.parts / params.rows;
        gradient = share(first) * dgelt[(first_part + first) * quads + d];
        for (var part = first + 1u; part * params.rows < (row + 1u) * params.parts; part++) {
            gradient = fma(vec4f(share(part)), dgelt[(first_part + part) * quads + d], gradient);
        }
    } else if (token == 0u) {
        for (var part = 0u; part < params.parts; part++) {
            gradient += dgelt[(first_part + part) * quads + d];
        }
        gradient *= params.class_weight;
    }
    dtokens[i] = pack(gradient);
}
