// The embedding: every part scaled to unit length, then divided by √R so that the concatenation has unit length.
//
//   y[b,r,d] = x[b,r,d] / (max(‖x[b,r,:]‖, 1e-12)·√R)
//
// x (B, R, D) read   y (B, R·D) written
// A workgroup of LANES invocations owns one part. Relative error ≤ (D/LANES + log2 LANES + 6)·2⁻²⁴.
// Source: [LAT sec. 4.2], the test embedding of the released code.
// Limits: B·R·D below 2³². Only embeddings are normalised, so there is no backward kernel.

struct Params {
    rows: u32,
    dim: u32,
    parts: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const LANES: u32 = 64;

@compute @workgroup_size(LANES)
fn l2norm_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    if (row >= params.rows) {
        return;
    }
    let start = row * params.dim;
    var squares = 0.0;
    for (var d = lane; d < params.dim; d += LANES) {
        squares = fma(x[start + d], x[start + d], squares);
    }
    let norm = max(sqrt(workgroup_sum(lane, squares)), 1e-12);
    let factor = 1.0 / (norm * sqrt(f32(params.parts)));
    for (var d = lane; d < params.dim; d += LANES) {
        y[start + d] = x[start + d] * factor;
    }
}
