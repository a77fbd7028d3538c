// Distances of all pairs of images, the CPU-adapter family: one subgroup per workgroup, no barrier.
//
//   d[i,j] = √max(Σ_k (f[i,k] - f[j,k])², 1e-12)      buffers and error bound: triplet.wgsl
//
// A workgroup of SUB lanes owns ROWS rows × SUB columns, and does nothing where all of them are below the diagonal. Each lane
// loads the quads of one column and of ROWS/SUB rows, which it hands round by subgroupShuffle: gemm_subgroup.wgsl says why. d[i,j] of
// i ≤ j is written to both of its places. The same sums in the same order as triplet.wgsl: same bits.
// Limits: L a multiple of 4; ROWS a multiple of SUB; only where every subgroup has exactly SUB lanes.

struct Params {
    batch: u32,
    length: u32,
    margin: f32,
    unused_0: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> parts: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> distances: array<f32>;

const SUB: u32 = 8;
const ROWS: u32 = 16;
// The least distance and its square: below it a distance has no direction.
const LEAST: f32 = 1e-6;
const LEAST_SQUARED: f32 = 1e-12;

// Groups of rows of which each lane loads one.
const GROUPS = ROWS / SUB;

@compute @workgroup_size(SUB)
fn triplet_distances(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let first_row = group.y * ROWS;
    // The same for the whole subgroup.
    if (group.x * SUB + SUB <= first_row) {
        return;
    }
    let column = group.x * SUB + lane;
    let quads = params.length / 4u;

    // Rows and columns past the end repeat the last one and are never stored.
    let column_at = min(column, params.batch - 1u) * quads;
    var row_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        row_at[g] = min(first_row + g * SUB + lane, params.batch - 1u) * quads;
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
            // By bits, which order floats that aren't negative: a NaN stays what it is.
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
