// Layer normalisation of each row.
//
//   mean = (1/D) Σ_d x[r,d]      var = (1/D) Σ_d (x[r,d] - mean)²      rstd = 1/√(var + eps)
//   y[r,d] = (x[r,d] - mean)·rstd·weight[d] + bias[d]
//   with x̂ = (x - mean)·rstd and g = dy·weight:
//   dx[r,d] = rstd·(g - (1/D) Σ g - x̂·(1/D) Σ g·x̂) + addend[r,d]      dweight[d] = Σ_r dy·x̂      dbias[d] = Σ_r dy
//
// layernorm_forward: x (rows, D) read   y (rows, D) written   bias (D) read   weight (D) read
// stats (rows, 2): mean and rstd of each row, written if KEEP_STATS
// layernorm_backward: x (rows, D) read   kept_stats (rows, 2) read   dy (rows, D) read   weight (D) read
// addend (rows, D): gradient of the residual path around the norm, read if HAS_ADDEND   x_gradient (rows, D) written
// layernorm_partials: x, kept_stats, dy read; other_x, other_stats, other_dy of a second norm with as many rows read
// partials (norms, chunks, 2, D): dweight and dbias of each chunk of rows, written
// layernorm_parameters: kept_partials (norms, chunks, 2, D) read   dweight, dbias (D) written
// other_dweight, other_dbias (D) of the second norm written
// One dispatch of layernorm_partials or layernorm_parameters handles both norms of a block; workgroup_id.z is the norm.
//
// Forward and backward, a workgroup of LANES invocations owns one row. The variance is summed about the mean in a
// second pass, because E[x²] - E[x]² cancels. Each invocation sums quads of the row with a stride, then a fixed tree
// follows; error ≤ (D/LANES + log2 LANES + 4)·2⁻²⁴ relative to the largest term of the row. For sums over rows, an
// invocation owns a quad of columns of one chunk, then one column of all chunks, both in ascending order. The number of
// chunks depends on the number of rows alone.
// Source: [LN], [LAT eq. 3-5]. Limits: D a multiple of 4; rows·D below 2³².

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    // Rows per chunk; 0 if unused.
    chunk: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read_write> y: array<Quad>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read> weight: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;

@group(0) @binding(2) var<storage, read> kept_stats: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<Quad>;
@group(0) @binding(5) var<storage, read> addend: array<Quad>;
@group(0) @binding(6) var<storage, read_write> x_gradient: array<Quad>;
@group(0) @binding(4) var<storage, read> other_x: array<Quad>;
@group(0) @binding(5) var<storage, read> other_stats: array<f32>;
@group(0) @binding(6) var<storage, read> other_dy: array<Quad>;
@group(0) @binding(7) var<storage, read_write> partials: array<vec4f>;

@group(0) @binding(1) var<storage, read> kept_partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(3) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(4) var<storage, read_write> other_dweight: array<f32>;
@group(0) @binding(5) var<storage, read_write> other_dbias: array<f32>;

override KEEP_STATS: bool = false;
override HAS_ADDEND: bool = false;

const LANES: u32 = 64;

fn across(values: vec4f) -> f32 {
    return (values.x + values.y) + (values.z + values.w);
}

@compute @workgroup_size(LANES)
fn layernorm_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    // Uniform over the workgroup, so either all invocations reach the barriers below or none does.
    if (row >= params.rows) {
        return;
    }
    let quads = params.dim / 4u;
    let start = row * quads;
    let dim = f32(params.dim);

    var sums = vec4f(0.0);
    for (var d = lane; d < quads; d += LANES) {
        sums += unpack(x[start + d]);
    }
    let mean = workgroup_sum(lane, across(sums)) / dim;

    var squares = vec4f(0.0);
    for (var d = lane; d < quads; d += LANES) {
        let centred = unpack(x[start + d]) - mean;
        squares = fma(centred, centred, squares);
    }
    let rstd = 1.0 / sqrt(workgroup_sum(lane, across(squares)) / dim + params.eps);

    for (var d = lane; d < quads; d += LANES) {
        y[start + d] = pack(fma((unpack(x[start + d]) - mean) * rstd, weight[d], bias[d]));
    }
    if (KEEP_STATS && lane == 0u) {
        stats[2u * row] = mean;
        stats[2u * row + 1u] = rstd;
    }
}

@compute @workgroup_size(LANES)
fn layernorm_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    if (row >= params.rows) {
        return;
    }
    let quads = params.dim / 4u;
    let start = row * quads;
    let dim = f32(params.dim);
    let mean = kept_stats[2u * row];
    let rstd = kept_stats[2u * row + 1u];

    var g_sums = vec4f(0.0);
    var product_sums = vec4f(0.0);
    for (var d = lane; d < quads; d += LANES) {
        let g = unpack(dy[start + d]) * weight[d];
        g_sums += g;
        product_sums = fma(g, (unpack(x[start + d]) - mean) * rstd, product_sums);
    }
    let g_mean = workgroup_sum(lane, across(g_sums)) / dim;
    let product_mean = workgroup_sum(lane, across(product_sums)) / dim;

    for (var d = lane; d < quads; d += LANES) {
        let normalised = (unpack(x[start + d]) - mean) * rstd;
        let centred = unpack(dy[start + d]) * weight[d] - g_mean;
        var gradient = rstd * fma(-normalised, vec4f(product_mean), centred);
        if (HAS_ADDEND) {
            gradient += unpack(addend[start + d]);
        }
        x_gradient[start + d] = pack(gradient);
    }
}

@compute @workgroup_size(LANES)
fn layernorm_partials(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let d = group.x * LANES + lane;
    let quads = params.dim / 4u;
    if (d >= quads) {
        return;
    }
    let first = group.y * params.chunk;
    let end = min(first + params.chunk, params.rows);
    var weight_sum = vec4f(0.0);
    var bias_sum = vec4f(0.0);
    for (var row = first; row < end; row++) {
        var gradient: vec4f;
        var normalised: vec4f;
        // Uniform over the workgroup.
        if (group.z == 0u) {
            gradient = unpack(dy[row * quads + d]);
            normalised = (unpack(x[row * quads + d]) - kept_stats[2u * row]) * kept_stats[2u * row + 1u];
        } else {
            gradient = unpack(other_dy[row * quads + d]);
            normalised = (unpack(other_x[row * quads + d]) - other_stats[2u * row]) * other_stats[2u * row + 1u];
        }
        weight_sum = fma(gradient, normalised, weight_sum);
        bias_sum += gradient;
    }
    let chunks = (params.rows + params.chunk - 1u) / params.chunk;
    let at = (group.z * chunks + group.y) * 2u * quads + d;
    partials[at] = weight_sum;
    partials[at + quads] = bias_sum;
}

@compute @workgroup_size(LANES)
fn layernorm_parameters(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let d = group.x * LANES + lane;
    if (d >= params.dim) {
        return;
    }
    let chunks = (params.rows + params.chunk - 1u) / params.chunk;
    var weight_sum = 0.0;
    var bias_sum = 0.0;
    for (var i = group.z * chunks; i < (group.z + 1u) * chunks; i++) {
        weight_sum += kept_partials[2u * i * params.dim + d];
        bias_sum += kept_partials[(2u * i + 1u) * params.dim + d];
    }
    if (group.z == 0u) {
        dweight[d] = weight_sum;
        dbias[d] = bias_sum;
    } else {
        other_dweight[d] = weight_sum;
        other_dbias[d] = bias_sum;
    }
}
