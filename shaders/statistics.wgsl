// Camera statistics: subtracts a row of means from every embedding, by the image's camera, and divides by a row of
// deviations.
//
//   y[b,d] = (x[b,d] - mean[c,d]) / deviation[c,d]      c = cameras[b], or `row` unless BY_CAMERA
//                                                       deviation = 1 unless DIVIDED
//
// statistics_forward: x (B, R·D) read   mean (C, R·D) read   deviation (C, R·D) read
//                     cameras (B) u32 read, each below C   y (B, R·D) written
// One invocation owns a quad of y[b,:]. A subtraction, and a division that WGSL grants 2.5 units in the last place:
// error ≤ 6·2⁻²⁴·(|x| + |mean|)/deviation.
// Source: [Zhuang et al., ECCV 2020], who normalise the input of every BatchNorm by camera.
// Limits: D a multiple of 4; B·R·D below 2³²; deviations above 0.

struct Params {
    batch: u32,
    // Length of an embedding: R·D.
    dim: u32,
    row: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> mean: array<vec4f>;
@group(0) @binding(3) var<storage, read> deviation: array<vec4f>;
@group(0) @binding(4) var<storage, read> cameras: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

override DIVIDED: bool = false;
override BY_CAMERA: bool = false;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn statistics_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    if (i >= params.batch * quads) {
        return;
    }
    var row = params.row;
    if (BY_CAMERA) {
        row = cameras[i / quads];
    }
    let place = row * quads + i % quads;
    var value = x[i] - mean[place];
    if (DIVIDED) {
        value /= deviation[place];
    }
    y[i] = value;
}
