// Layer normalisation of each row.
//
//   mean = (1/D) Σ_d x[r,d]      var = (1/D) Σ_d (x[r,d] - mean)²      rstd = 1/√(var + eps)
//   y[r,d] = (x[r,d] - mean)·rstd·weight[d] + bias[d]
//   with x̂ = (x - mean)·rstd and g = dy·weight:
//   dx[r,d] = rstd·(g - (1/D) Σ g - x̂·(1/D) Σ g·x̂)      dweight[d] = Σ_r dy·x̂      dbias[d] = Σ_r dy
//
// x (rows, D) read   weight (D) read   bias (D) read   y (rows, D) written
// A workgroup of LANES invocations owns one row. The variance is summed about the mean in a second pass: E[x²] - E[x]²
// would cancel. Sums: each lane strides through the row, then a fixed tree; error ≤ (D/LANES + log2 LANES + 4)·2⁻²⁴
// relative to the row's largest term.
// Source: [LN], [LAT eq. 3-5]. Limits: rows·D below 2³².

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const LANES: u32 = 64;

@compute @workgroup_size(LANES)
fn layernorm_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    // The same for the whole workgroup, so the barriers below are met by all or none.
    if (row >= params.rows) {
        return;
    }
    let start = row * params.dim;
    let dim = f32(params.dim);

    var sum = 0.0;
    for (var d = lane; d < params.dim; d += LANES) {
        sum += x[start + d];
    }
    let mean = workgroup_sum(lane, sum) / dim;

    var squares = 0.0;
    for (var d = lane; d < params.dim; d += LANES) {
        let centred = x[start + d] - mean;
        squares = fma(centred, centred, squares);
    }
    let rstd = 1.0 / sqrt(workgroup_sum(lane, squares) / dim + params.eps);

    for (var d = lane; d < params.dim; d += LANES) {
        y[start + d] = fma((x[start + d] - mean) * rstd, weight[d], bias[d]);
    }
}
