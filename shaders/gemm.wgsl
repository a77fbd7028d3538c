// Matrix product in the three forms of a linear layer, any shape: the plain kernel that validates the other families.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])               C = A·Bᵀ, "NT": a layer's weight is stored (out, in)
//   backward   dA = dC·B, "NN":    product[m,n] = Σ_k a[m,k]·b[k,n]·act'(kept[m,n]) + residual[m,n]
//              dB = dCᵀ·A, "TN":   gradient[m,n] = Σ_k a[k,m]·b[k,n]
//              dbias, beside TN:   column_sum[m] = Σ_k a[k,m]
// TN may cut k into slices: workgroups with z = s sum k from s·depth on and write the s-th of S gradients and column
// sums. gemm_slices then adds these in ascending order of s.
//
// NT: a (M, K) read   b (N, K) read   bias (N) read   scale (N) read   residual (M, N) read
//     c (M, N) written   pre (M, N) written if KEEP_PRE
// NN: a (M, K) read   b (K, N) read   kept (M, N) read   residual (M, N) read   product (M, N) written
// TN: a (K, M) read   b (K, N) read   gradient (S, M, N) written   column_sum (S, M) written if HAS_COLUMN_SUM
// slices: slices (S, M, N) read   slices_of_sums (S, M) read if HAS_COLUMN_SUM
//         total (M, N) written   total_of_sums (M) written if HAS_COLUMN_SUM
// One invocation owns one output; in the first column of TN, it also owns a column sum. k ascends through one f32
// accumulator by fma, as in every family, so all give the same bits.
// Error: |c - exact| ≤ (K + 1)·2⁻²⁴·Σ_k|a||b| before the epilogue.
// Source: [ViT eq. 1-3], every linear map. Limits: M·N, M·K and N·K below 2³².

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // TN: k per slice, a multiple of 16.
    depth: u32,
    // Workgroups of earlier dispatches of the same product.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> scale: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> c: array<f32>;
@group(0) @binding(7) var<storage, read_write> pre: array<f32>;

// Backward.
@group(0) @binding(3) var<storage, read_write> product: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(4) var<storage, read> kept: array<f32>;
@group(0) @binding(4) var<storage, read_write> column_sum: array<f32>;

// gemm_slices.
@group(0) @binding(1) var<storage, read> slices: array<f32>;
@group(0) @binding(2) var<storage, read> slices_of_sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> total: array<f32>;
@group(0) @binding(4) var<storage, read_write> total_of_sums: array<f32>;

override HAS_BIAS: bool = false;
override KEEP_PRE: bool = false;
override ACTIVATION: u32 = 0u;
override HAS_SCALE: bool = false;
override HAS_RESIDUAL: bool = false;
override HAS_COLUMN_SUM: bool = false;

const THREADS: u32 = 64;

fn finish(row: u32, column: u32, sum: f32) {
    let at = row * params.n + column;
    var value = sum;
    if (HAS_BIAS) {
        value += bias[column];
    }
    if (KEEP_PRE) {
        pre[at] = value;
    }
    if (ACTIVATION == 1u) {
        value = gelu(value);
    } else if (ACTIVATION == 2u) {
        value = quick_gelu(value);
    }
    var factor = 1.0;
    if (HAS_SCALE) {
        factor = scale[column];
    }
    var addend = 0.0;
    if (HAS_RESIDUAL) {
        addend = residual[at];
    }
    c[at] = fma(value, factor, addend);
}

fn finish_backward(row: u32, column: u32, sum: f32) {
    let at = row * params.n + column;
    var factor = 1.0;
    if (ACTIVATION == 1u) {
        factor = gelu_derivative(kept[at]);
    } else if (ACTIVATION == 2u) {
        factor = quick_gelu_derivative(kept[at]);
    }
    var addend = 0.0;
    if (HAS_RESIDUAL) {
        addend = residual[at];
    }
    product[at] = fma(sum, factor, addend);
}

@compute @workgroup_size(THREADS)
fn gemm_nt(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (params.first + group.x + group.y * groups.x) * THREADS + lane;
    let row = index / params.n;
    let column = index % params.n;
    if (row >= params.m) {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.k; k++) {
        sum = fma(a[row * params.k + k], b[column * params.k + k], sum);
    }
    finish(row, column, sum);
}

@compute @workgroup_size(THREADS)
fn gemm_nn(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (params.first + group.x + group.y * groups.x) * THREADS + lane;
    let row = index / params.n;
    let column = index % params.n;
    if (row >= params.m) {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.k; k++) {
        sum = fma(a[row * params.k + k], b[k * params.n + column], sum);
    }
    finish_backward(row, column, sum);
}

@compute @workgroup_size(THREADS)
fn gemm_tn(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (params.first + group.x + group.y * groups.x) * THREADS + lane;
    let row = index / params.n;
    let column = index % params.n;
    if (row >= params.m) {
        return;
    }
    var sum = 0.0;
    var sum_of_a = 0.0;
    let first = group.z * params.depth;
    for (var k = first; k < min(first + params.depth, params.k); k++) {
        let left = a[k * params.m + row];
        sum = fma(left, b[k * params.n + column], sum);
        sum_of_a += left;
    }
    gradient[(group.z * params.m + row) * params.n + column] = sum;
    if (HAS_COLUMN_SUM && column == 0u) {
        column_sum[group.z * params.m + row] = sum_of_a;
    }
}

@compute @workgroup_size(THREADS)
fn gemm_slices(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * THREADS + lane;
    let outputs = params.m * params.n;
    let count = (params.k + params.depth - 1u) / params.depth;
    var sum = 0.0;
    if (index < outputs) {
        for (var s = 0u; s < count; s++) {
            sum += slices[s * outputs + index];
        }
        total[index] = sum;
    } else if (HAS_COLUMN_SUM && index - outputs < params.m) {
        let row = index - outputs;
        for (var s = 0u; s < count; s++) {
            sum += slices_of_sums[s * params.m + row];
        }
        total_of_sums[row] = sum;
    }
}
