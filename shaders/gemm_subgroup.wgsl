// Matrix product of rows with rows, the CPU-adapter family: one subgroup per workgroup, no barrier, no workgroup memory.
//
//   c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ; see gemm.wgsl for the buffers and the error bound
//
// A workgroup of SUB lanes owns ROWS rows × 4·SUB columns: lane l holds the columns l, l + SUB, l + 2·SUB, l + 3·SUB.
// Every load takes four consecutive k; a row of a is loaded by one lane and handed round by subgroupShuffle, because on a
// CPU adapter a load with a lane-varying address costs tens of instructions and a shuffle costs one.
// k ascends through one f32 accumulator per output by fma: same bits as gemm.wgsl.
// Limits: K a multiple of 4; ROWS a multiple of SUB; only where every subgroup has exactly SUB lanes.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> scale: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> c: array<f32>;
@group(0) @binding(7) var<storage, read_write> pre: array<f32>;

const SUB: u32 = 8;
const ROWS: u32 = 32;

@compute @workgroup_size(SUB)
fn gemm_nt(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let quads = params.k / 4u;
    let first_row = group.y * ROWS;
    let first_column = group.x * 4u * SUB + lane;

    // Rows and columns past the end repeat the last one and are never stored.
    var a_at: array<u32, ROWS / SUB>;
    for (var g = 0u; g < ROWS / SUB; g++) {
        a_at[g] = min(first_row + g * SUB + lane, params.m - 1u) * quads;
    }
    var b_at: vec4u;
    for (var j = 0u; j < 4u; j++) {
        b_at[j] = min(first_column + j * SUB, params.n - 1u) * quads;
    }

    var sums: array<vec4f, ROWS>;
    for (var quad = 0u; quad < quads; quad++) {
        let b0 = b[b_at.x + quad];
        let b1 = b[b_at.y + quad];
        let b2 = b[b_at.z + quad];
        let b3 = b[b_at.w + quad];
        var rows: array<vec4f, ROWS / SUB>;
        for (var g = 0u; g < ROWS / SUB; g++) {
            rows[g] = a[a_at[g] + quad];
        }
        for (var k = 0u; k < 4u; k++) {
            let right = vec4f(b0[k], b1[k], b2[k], b3[k]);
            for (var g = 0u; g < ROWS / SUB; g++) {
                for (var i = 0u; i < SUB; i++) {
                    let left = subgroupShuffle(rows[g][k], i);
                    sums[g * SUB + i] = fma(vec4f(left), right, sums[g * SUB + i]);
                }
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 4u; j++) {
            let column = first_column + j * SUB;
            if (first_row + i < params.m && column < params.n) {
                finish(first_row + i, column, sums[i][j]);
            }
        }
    }
}
