// The embedding: every part scaled to unit length, then divided by √R so that the concatenation has unit length.
//
//   y[b,r,d] = x[b,r,d] / (n·√R)      n = max(‖x[b,r,:]‖, 1e-12)
//   dx[b,r,d] += (dy[b,r,d] - x[b,r,d]·s) / (n·√R)      s = Σ_e x[b,r,e]·dy[b,r,e] / n², or 0 where max took 1e-12
//
// forward:  x (B, R, D) read   y (B, R·D) written
// backward: x (B, R, D) read   dy (B, R·D) read   x_gradient (B, R, D) read and written: dx
// PART_FIRST: x and x_gradient are (R, B, D).
// A workgroup of LANES invocations owns one part. Relative error of y ≤ (D/LANES + log2 LANES + 6)·2⁻²⁴; of dx
// ≤ (2·D/LANES + 2·log2 LANES + 12)·2⁻²⁴ of |dx| + (|dy| + |x|·Σ|x·dy|/n²)/(n·√R).
// Source: [LAT sec. 4.2], the test embedding of the released code. Limits: B·R·D below 2³².

struct Params {
    rows: u32,
    dim: u32,
    parts: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> x_gradient: array<f32>;

override PART_FIRST: bool = false;

const LANES: u32 = 64;

// Index of the first element of row b·R + r of x.
fn start_of(row: u32) -> u32 {
    if (PART_FIRST) {
        let batch = params.rows / params.parts;
        return ((row % params.parts) * batch + row / params.parts) * params.dim;
    }
    return row * params.dim;
}

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
    let start = start_of(row);
    var squares = 0.0;
    for (var d = lane; d < params.dim; d += LANES) {
        squares = fma(x[start + d], x[start + d], squares);
    }
    let norm = max(sqrt(workgroup_sum(lane, squares)), 1e-12);
    let factor = 1.0 / (norm * sqrt(f32(params.parts)));
    for (var d = lane; d < params.dim; d += LANES) {
        y[row * params.dim + d] = x[start + d] * factor;
    }
}

@compute @workgroup_size(LANES)
fn l2norm_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    if (row >= params.rows) {
        return;
    }
    let start = start_of(row);
    let upstream = row * params.dim;
    var squares = 0.0;
    var products = 0.0;
    for (var d = lane; d < params.dim; d += LANES) {
        squares = fma(x[start + d], x[start + d], squares);
        products = fma(x[start + d], dy[upstream + d], products);
    }
    let length = sqrt(workgroup_sum(lane, squares));
    let product = workgroup_sum(lane, products);
    let norm = max(length, 1e-12);
    let share = select(0.0, product / (norm * norm), length > 1e-12);
    let factor = 1.0 / (norm * sqrt(f32(params.parts)));
    for (var d = lane; d < params.dim; d += LANES) {
        let gradient = fma(-share, x[start + d], dy[upstream + d]);
        x_gradient[start + d] = fma(factor, gradient, x_gradient[start + d]);
    }
}
