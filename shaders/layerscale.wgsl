// Backward pass of LayerScale, y = x·weight per channel. The forward pass is the factor `scale` of a GEMM's epilogue.
//
//   dx[r,d] = dy[r,d]·weight[d]          dweight[d] = Σ_r dy[r,d]·x[r,d]
//
// backward: x (rows, D) read   weight (D) read   dy (rows, D) read   x_gradient (rows, D) written
//           partial (chunks, D) written
// sum:      chunk_sums (chunks, D) read: `partial` of the first stage   dweight (D) written
// backward: an invocation owns CHUNK rows of a quad of columns. It writes their gradients and sums dy·x by fma in
// ascending order of rows. sum: an invocation owns one column and adds its chunks in ascending order. The order depends
// on the shape alone.
// Error of dweight ≤ (CHUNK + chunks)·2⁻²⁴·Σ_r|dy||x|.
// Source: [LayerScale eq. 4]. Limits: D a multiple of 4; rows·D below 2³².

struct Params {
    rows: u32,
    dim: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read> dy: array<Quad>;
@group(0) @binding(4) var<storage, read_write> x_gradient: array<Quad>;
@group(0) @binding(5) var<storage, read_write> partial: array<vec4f>;

// layerscale_sum.
@group(0) @binding(1) var<storage, read> chunk_sums: array<f32>;
@group(0) @binding(2) var<storage, read_write> dweight: array<f32>;

const THREADS: u32 = 64;
const CHUNK: u32 = 64;

@compute @workgroup_size(THREADS)
fn layerscale_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.dim / 4u;
    let first = (index / quads) * CHUNK;
    let d = index % quads;
    if (first >= params.rows) {
        return;
    }
    let factor = weight[d];
    var sum = vec4f(0.0);
    for (var row = first; row < min(first + CHUNK, params.rows); row++) {
        let at = row * quads + d;
        let gradient = unpack(dy[at]);
        x_gradient[at] = pack(gradient * factor);
        sum = fma(gradient, unpack(x[at]), sum);
    }
    partial[index] = sum;
}

@compute @workgroup_size(THREADS)
fn layerscale_sum(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let d = (group.x + group.y * groups.x) * THREADS + lane;
    if (d >= params.dim) {
        return;
    }
    var sum = 0.0;
    for (var at = d; at < (params.rows + CHUNK - 1u) / CHUNK * params.dim; at += params.dim) {
        sum += chunk_sums[at];
    }
    dweight[d] = sum;
}
