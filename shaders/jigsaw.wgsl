// Jigsaw: the patches of an image, rotated, shuffled and cut into sequences that each begin with the class token, and
// the features of an image made of the class tokens afterwards.
//
//   q(s) is patch (s + 4) mod N of N patches: rotated by SHIFT = 4
//   place k holds q((k mod 2)·⌈N/2⌉ + ⌊k/2⌋): shuffled in two groups
//   pieces[b·P + j, 0] = z[b,0]      pieces[b·P + j, 1 + i] = z[b, 1 + patch at place j·M + i]      M = ⌊N/P⌋
//   dz[b,0] = dwhole[b,0] + Σ_j dpieces[b·P + j, 0]
//   dz[b,1+p] = dwhole[b,1+p] + dpieces[b·P + j, 1 + i], the latter if patch p is at place j·M + i < P·M
//   features[first + b, 0] = whole[b,0]      features[first + b, 1 + j] = scale·pieces[b·P + j, 0]
//   dtokens[s,t] = (t = 0 ? dfeatures[first + ⌊s/C⌋, from + s mod C] : 0) for C sequences of each image
// Where N is odd, TransReID appends a patch to shuffle in two groups. Its place is N, which no piece reaches.
//
// jigsaw_cut: z (B, 1+N, D) read   pieces (B·P, 1+M, D) written
// jigsaw_merge: dwhole (B, 1+N, D) read   dpieces (B·P, 1+M, D) read   dz (B, 1+N, D) written
// jigsaw_features: whole (B, 1+N, D) read   cut_pieces (B·P, 1+M, D) read   features (first + B or more, 1+P, D) written
// from image `first` on
// jigsaw_spread: dfeatures (first + S/C or more, F, D) read   dtokens (S, T, D) written
// One invocation owns a quad of the output, in jigsaw_features one of features[first + b,:,:]. No patch is in two pieces,
// so only the class token is a sum, of P + 1 terms in their order: error ≤ P·2⁻²⁴·Σ|terms|.
// Source: [TransReID §3.2]; the authors' code for rotation and order. Limits: D a multiple of 4; N > 4; B·(1+N)·D below
// 2³².

struct Params {
    // Images, in jigsaw_spread sequences.
    batch: u32,
    // Tokens of an image, in jigsaw_spread of a sequence.
    tokens: u32,
    dim: u32,
    // P, in jigsaw_spread C.
    pieces: u32,
    first: u32,
    // F, features of an image, and the first of them that has a sequence.
    parts: u32,
    from_part: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<Quad>;
@group(0) @binding(2) var<storage, read_write> pieces: array<Quad>;

@group(0) @binding(1) var<storage, read> dwhole: array<Quad>;
@group(0) @binding(2) var<storage, read> dpieces: array<Quad>;
@group(0) @binding(3) var<storage, read_write> dz: array<Quad>;

@group(0) @binding(1) var<storage, read> whole: array<Quad>;
@group(0) @binding(2) var<storage, read> cut_pieces: array<Quad>;
@group(0) @binding(3) var<storage, read_write> features: array<vec4f>;

@group(0) @binding(1) var<storage, read> dfeatures: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dtokens: array<Quad>;

const THREADS: u32 = 64;
const SHIFT: u32 = 4;

@compute @workgroup_size(THREADS)
fn jigsaw_cut(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    let patches = params.tokens - 1u;
    let each = patches / params.pieces;
    let length = 1u + each;
    if (at >= params.batch * params.pieces * length * quads) {
        return;
    }
    let row = at / quads;
    let sequence = row / length;
    let within = row % length;
    var token = 0u;
    if (within > 0u) {
        let place = sequence % params.pieces * each + within - 1u;
        let rotated = place % 2u * ((patches + 1u) / 2u) + place / 2u;
        token = 1u + (rotated + SHIFT) % patches;
    }
    pieces[at] = z[(sequence / params.pieces * params.tokens + token) * quads + at % quads];
}

@compute @workgroup_size(THREADS)
fn jigsaw_merge(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    if (at >= params.batch * params.tokens * quads) {
        return;
    }
    let patches = params.tokens - 1u;
    let each = patches / params.pieces;
    let length = 1u + each;
    let row = at / quads;
    let token = row % params.tokens;
    // The first sequence of the image.
    let first = row / params.tokens * params.pieces;
    let quad = at % quads;
    var sum = unpack(dwhole[at]);
    if (token == 0u) {
        for (var piece = 0u; piece < params.pieces; piece++) {
            sum += unpack(dpieces[(first + piece) * length * quads + quad]);
        }
    } else {
        let half = (patches + 1u) / 2u;
        let rotated = (token - 1u + patches - SHIFT) % patches;
        let place = 2u * (rotated % half) + rotated / half;
        if (place < params.pieces * each) {
            sum += unpack(dpieces[((first + place / each) * length + 1u + place % each) * quads + quad]);
        }
    }
    dz[at] = pack(sum);
}

@compute @workgroup_size(THREADS)
fn jigsaw_features(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    let parts = params.pieces + 1u;
    if (at >= params.batch * parts * quads) {
        return;
    }
    let image = at / quads / parts;
    let part = at / quads % parts;
    let quad = at % quads;
    var value: vec4f;
    if (part == 0u) {
        value = unpack(whole[image * params.tokens * quads + quad]);
    } else {
        let length = 1u + (params.tokens - 1u) / params.pieces;
        let sequence = image * params.pieces + part - 1u;
        value = params.scale * unpack(cut_pieces[sequence * length * quads + quad]);
    }
    features[params.first * parts * quads + at] = value;
}

@compute @workgroup_size(THREADS)
fn jigsaw_spread(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    if (at >= params.batch * params.tokens * quads) {
        return;
    }
    let sequence = at / quads / params.tokens;
    var value = vec4f(0.0);
    if (at / quads % params.tokens == 0u) {
        let image = params.first + sequence / params.pieces;
        let part = params.from_part + sequence % params.pieces;
        value = dfeatures[(image * params.parts + part) * quads + at % quads];
    }
    dtokens[at] = pack(value);
}
