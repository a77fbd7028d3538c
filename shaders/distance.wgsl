// Squared Euclidean distances between a tile of queries and a tile of the gallery, from a matrix product.
//
//   norms[r] = Σ_s Σ_d rows[s,r,d]²
//   distances[q,g] = |q|² + |g|² - 2·Σ_d q[d]·g[d], clamped to 0 … FAR = 1e30; FAR where a sum overflows
//
// norms:  rows read as vec4: slabs of SLAB columns, one after the other, each (R, SLAB), the last one narrower
//         norms (R) written
// finish: query_norms (Q) read   gallery_norms (G) read   distances (Q, G) read and written: products in, distances out
// norms: an invocation owns a row. finish: a workgroup owns THREADS distances of one query.
//
// Within a slab d ascends through one f32 accumulator by fma, as in gemm.wgsl. The sums of the slabs are added in
// order, as its residual does. So an error grows with SLAB + D/SLAB terms instead of D, which matters for the order of
// close neighbours. It follows that the norm of a row has the bits of its product with itself, the distance of two
// equal rows is 0, equal rows have equal distances to every row, and d(q,g) = d(g,q), independent of the position in a
// tile. Results on integers are exact while every sum is below 2²⁴.
// Error ≤ (SLAB + D/SLAB + 2)·2⁻²⁴·(|q|² + |g|² + 2·Σ_d |q[d]·g[d]|). The error is absolute, so small distances between
// long rows lose digits.
// Source: [LAT sec. 4.2], ranking by Euclidean distance.
// Limits: D a multiple of 4 (padding holds 0) up to 32768; R·D and Q·G below 2³²; rows are finite.

struct Params {
    // norms: rows; finish: queries.
    rows: u32,
    // norms: quads in a row; finish: columns.
    columns: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> rows: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> norms: array<f32>;

@group(0) @binding(1) var<storage, read> query_norms: array<f32>;
@group(0) @binding(2) var<storage, read> gallery_norms: array<f32>;
@group(0) @binding(3) var<storage, read_write> distances: array<f32>;

const THREADS: u32 = 64;
// Columns of a slab, in quads.
const SLAB: u32 = 128;
const FAR: f32 = 1e30;

@compute @workgroup_size(THREADS)
fn distance_norms(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.x + group.y * groups.x) * THREADS + lane;
    if (row >= params.rows) {
        return;
    }
    var total = 0.0;
    for (var slab = 0u; slab < params.columns; slab += SLAB) {
        let width = min(SLAB, params.columns - slab);
        let start = slab * params.rows + row * width;
        var sum = 0.0;
        for (var quad = 0u; quad < width; quad++) {
            let v = rows[start + quad];
            sum = fma(v.x, v.x, sum);
            sum = fma(v.y, v.y, sum);
            sum = fma(v.z, v.z, sum);
            sum = fma(v.w, v.w, sum);
        }
        total += sum;
    }
    norms[row] = total;
}

@compute @workgroup_size(THREADS)
fn distance_finish(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    // Uniform over the workgroup, so the division is done once.
    let chunk = group.x + group.y * groups.x;
    let chunks = (params.columns + THREADS - 1u) / THREADS;
    let query = chunk / chunks;
    let column = (chunk % chunks) * THREADS + lane;
    if (query >= params.rows || column >= params.columns) {
        return;
    }
    let at = query * params.columns + column;
    let squares = query_norms[query] + gallery_norms[column];
    let distance = fma(-2.0, distances[at], squares);
    let finite = (bitcast<u32>(distance) & 0x7f800000u) != 0x7f800000u;
    distances[at] = select(FAR, clamp(distance, 0.0, FAR), finite);
}
