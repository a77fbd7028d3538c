// Distances of all pairs of images, the subgroup family for CPU adapters: one subgroup per workgroup, no barrier.
//
//   d[i,j] = √max(Σ_k (f[i,k] - f[j,k])², 1e-12)      buffers and error bound: triplet.wgsl
//
// A workgroup of SUB invocations owns ROWS rows × SUB columns and does nothing if all of these are below the diagonal.
// Each lane loads the quads of one column and of ROWS/SUB rows, which it shares by subgroupShuffle (gemm_subgroup.wgsl
// gives the reasons). d[i,j] with i ≤ j is written to [i,j] and [j,i]. The sums run in the order of triplet.wgsl: same
// bits.
// Limits: L, first and stride multiples of 4; ROWS a multiple of SUB; every subgroup has exactly SUB lanes.

struct Params {
    batch: u32,
    length: u32,
    margin: f32,
    soft: u32,
    first: u32,
    stride: u32,
    weight: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> parts: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> distances: array<f32>;

const SUB: u32 = 8;
const ROWS: u32 = 16;
// The smallest distance and its square. A distance at this limit has no direction.
const LEAST: f32 = 1e-6;
const LEAST_SQUARED: f32 = 1e-12;

// Groups of rows; each lane loads one row of each group.
const GROUPS = ROWS / SUB;

@compute @workgroup_size(SUB)
fn triplet_distances(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let first_row = group.y * ROWS;
    // Uniform over the subgroup.
    if (group.x * SUB + SUB <= first_row) {
        return;
    }
    let column = group.x * SUB + lane;
    let quads = params.length / 4u;

    // Rows and columns past the end repeat the last one and are not stored.
    let column_at = (params.first + min(column, params.batch - 1u) * params.stride) / 4u;
    var row_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        row_at[g] = (params.first + min(first_row + g * SUB + lane, params.batch - 1u) * params.stride) / 4u;
    }

    var sums: array<array<vec4f, SUB>, GROUPS>;
    for (var quad = 0u; quad < quads; quad++) {
        let second = parts[column_at + quad];
        for (var g = 0u; g < GROUPS; g++) {
            let mine = parts[row_at[g] + quad];
            for (var i = 0u; i < SUB; i++) {
                let difference = subgroupShuffle(mine, i) - second;
                sums[g][i] = fma(difference, difference, sums[g][i]);
            }
        }
    }

    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            let row = first_row + g * SUB + i;
            let sum = sums[g][i];
            let squared = (sum.x + sum.y) + (sum.z + sum.w);
            // Compares the bits, which order non-negative floats like their values and keep a NaN.
            var distance = LEAST;
            if (bitcast<u32>(squared) > bitcast<u32>(LEAST_SQUARED)) {
                distance = sqrt(squared);
            }
            if (row <= column && column < params.batch) {
                distances[row * params.batch + column] = distance;
                distances[column * params.batch + row] = distance;
            }
        }
    }
}
