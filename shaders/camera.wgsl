// Camera embedding: adds one row of a table to every token of an image, by the image's camera.
//
//   y[b,t,d] = x[b,t,d] + weight·table[cameras[b],d]
//   sums[b,d] = Σ_t dy[b,t,d]
//   dtable[c,d] = weight·Σ_b sums[b,d] over the images b with cameras[b] = c, so 0 for a camera without images
//   dx = dy, which needs no kernel
//
// camera_forward: x (B, T, D) read   table (C, D) read   cameras (B) u32 read, each below C   y (B, T, D) written
// camera_sum: dy (B, T, D) read   sums (B, D) written
// camera_backward: sums (B, D) read   cameras (B) u32 read   dtable (C, D) written
// One invocation owns a quad of y[b,t,:], sums[b,:] or dtable[c,:]. Sums are in the order of tokens, then of images, so
// they have the same bits in every run. Forward one fma: error ≤ 2⁻²⁴·|y|, or twice that of the terms where it is
// rounded twice. Backward error ≤ (T + B + 1)·2⁻²⁴·weight·Σ|dy|.
// Source: [TransReID §3.3, eq. 4], there S_(C,V) of camera and view. Limits: D a multiple of 4; B·T·D below 2³².

struct Params {
    batch: u32,
    tokens: u32,
    dim: u32,
    // Rows of the table: C.
    rows: u32,
    weight: f32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read> table: array<vec4f>;
@group(0) @binding(3) var<storage, read> cameras: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<Quad>;

@group(0) @binding(1) var<storage, read> dy: array<Quad>;
@group(0) @binding(2) var<storage, read_write> image_sums: array<vec4f>;

@group(0) @binding(1) var<storage, read> sums: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dtable: array<vec4f>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn camera_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    let sequence = params.tokens * quads;
    if (i >= params.batch * sequence) {
        return;
    }
    let row = table[cameras[i / sequence] * quads + i % quads];
    y[i] = pack(fma(vec4f(params.weight), row, unpack(x[i])));
}

@compute @workgroup_size(THREADS)
fn camera_sum(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    if (i >= params.batch * quads) {
        return;
    }
    let start = i / quads * params.tokens * quads + i % quads;
    var sum = vec4f(0.0);
    for (var token = 0u; token < params.tokens; token++) {
        sum += unpack(dy[start + token * quads]);
    }
    image_sums[i] = sum;
}

@compute @workgroup_size(THREADS)
fn camera_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    if (i >= params.rows * quads) {
        return;
    }
    let row = i / quads;
    var sum = vec4f(0.0);
    for (var image = 0u; image < params.batch; image++) {
        if (cameras[image] == row) {
            sum += sums[image * quads + i % quads];
        }
    }
    dtable[i] = params.weight * sum;
}
