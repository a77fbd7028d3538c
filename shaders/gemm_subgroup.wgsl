// Matrix product, the CPU-adapter family: one subgroup per workgroup, no barrier, no workgroup memory.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ; see gemm.wgsl for the buffers, for the two
//   backward   forms NN and TN, and for the error bound
//
// A workgroup of SUB lanes owns ROWS rows × 4·SUB columns, in TN 4·SUB rows × 8·SUB columns. Workgroups follow each other
// along the rows, so that neighbours find the same part of b in the cache. What the lanes share of a is loaded by one
// lane and handed round by subgroupShuffle, because on a CPU adapter a load with a lane-varying address costs tens of
// instructions and a shuffle costs one. Every load takes four values:
//   NT: lane l holds the columns 4·l to 4·l + 3; loads are four k of a row of a or b.
//   NN: lane l holds the same columns, one load of b per k; loads of a are four k of a row.
//   TN: lane l holds such columns twice, 4·SUB apart; a load of a is one k of four rows.
// k ascends through one f32 accumulator per output by fma: same bits as gemm.wgsl.
// Limits: NT, NN: K and N multiples of 4; TN: M and N. ROWS a multiple of SUB; only where every subgroup has exactly
// SUB lanes.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Quad>;
@group(0) @binding(2) var<storage, read> b: array<Quad>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read> scale: array<vec4f>;
@group(0) @binding(5) var<storage, read> residual: array<Quad>;
@group(0) @binding(6) var<storage, read_write> c: array<Quad>;
@group(0) @binding(7) var<storage, read_write> pre: array<Quad>;

// Backward.
@group(0) @binding(3) var<storage, read_write> product: array<Quad>;
@group(0) @binding(3) var<storage, read_write> gradient: array<vec4f>;
@group(0) @binding(4) var<storage, read> kept: array<Quad>;
@group(0) @binding(4) var<storage, read_write> column_sum: array<f32>;

override HAS_COLUMN_SUM: bool = false;

const SUB: u32 = 8;
const ROWS: u32 = 32;

@compute @workgroup_size(SUB)
fn gemm_nt(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let quads = params.k / 4u;
    let first_row = group.x * ROWS;
    let my_columns = group.y * SUB + lane;

    // Rows and columns past the end repeat the last one and are never stored.
    var a_at: array<u32, ROWS / SUB>;
    for (var g = 0u; g < ROWS / SUB; g++) {
        a_at[g] = min(first_row + g * SUB + lane, params.m - 1u) * quads;
    }
    var b_at: vec4u;
    for (var j = 0u; j < 4u; j++) {
        b_at[j] = min(my_columns * 4u + j, params.n - 1u) * quads;
    }

    var sums: array<vec4f, ROWS>;
    for (var quad = 0u; quad < quads; quad++) {
        let b0 = unpack(b[b_at.x + quad]);
        let b1 = unpack(b[b_at.y + quad]);
        let b2 = unpack(b[b_at.z + quad]);
        let b3 = unpack(b[b_at.w + quad]);
        var rows: array<vec4f, ROWS / SUB>;
        for (var g = 0u; g < ROWS / SUB; g++) {
            rows[g] = unpack(a[a_at[g] + quad]);
        }
        var right: array<vec4f, 4>;
        for (var k = 0u; k < 4u; k++) {
            right[k] = vec4f(b0[k], b1[k], b2[k], b3[k]);
        }
        // Innermost along k: a sum takes four products between its load and its store.
        for (var g = 0u; g < ROWS / SUB; g++) {
            for (var i = 0u; i < SUB; i++) {
                var sum = sums[g * SUB + i];
                for (var k = 0u; k < 4u; k++) {
                    sum = fma(vec4f(subgroupShuffle(rows[g][k], i)), right[k], sum);
                }
                sums[g * SUB + i] = sum;
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        if (first_row + i < params.m && my_columns < params.n / 4u) {
            finish(first_row + i, my_columns, sums[i]);
        }
    }
}

@compute @workgroup_size(SUB)
fn gemm_nn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let quads_k = params.k / 4u;
    let quads_n = params.n / 4u;
    let first_row = group.x * ROWS;
    let my_columns = group.y * SUB + lane;

    // Rows and columns past the end repeat the last ones and are never stored.
    var a_at: array<u32, ROWS / SUB>;
    for (var g = 0u; g < ROWS / SUB; g++) {
        a_at[g] = min(first_row + g * SUB + lane, params.m - 1u) * quads_k;
    }
    var b_at = min(my_columns, quads_n - 1u);

    var sums: array<vec4f, ROWS>;
    for (var quad = 0u; quad < quads_k; quad++) {
        var rows: array<vec4f, ROWS / SUB>;
        for (var g = 0u; g < ROWS / SUB; g++) {
            rows[g] = unpack(a[a_at[g] + quad]);
        }
        var right: array<vec4f, 4>;
        for (var k = 0u; k < 4u; k++) {
            right[k] = unpack(b[b_at]);
            b_at += quads_n;
        }
        for (var g = 0u; g < ROWS / SUB; g++) {
            for (var i = 0u; i < SUB; i++) {
                var sum = sums[g * SUB + i];
                for (var k = 0u; k < 4u; k++) {
                    sum = fma(vec4f(subgroupShuffle(rows[g][k], i)), right[k], sum);
                }
                sums[g * SUB + i] = sum;
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        if (first_row + i < params.m && my_columns < quads_n) {
            finish_backward(first_row + i, my_columns, sums[i]);
        }
    }
}

@compute @workgroup_size(SUB)
fn gemm_tn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let quads_m = params.m / 4u;
    let quads_n = params.n / 4u;
    let my_rows = group.x * SUB + lane;
    let my_columns = group.y * 2u * SUB + lane;

    // Rows and columns past the end repeat the last ones and are never stored.
    var a_at = min(my_rows, quads_m - 1u);
    var b_at = min(my_columns, quads_n - 1u);
    let b_far = min(my_columns + SUB, quads_n - 1u) - b_at;

    var sums: array<array<vec4f, 2>, 4u * SUB>;
    var total = vec4f(0.0);
    for (var k = 0u; k < params.k; k++) {
        let rows = unpack(a[a_at]);
        let near = unpack(b[b_at]);
        let far = unpack(b[b_at + b_far]);
        a_at += quads_m;
        b_at += quads_n;
        for (var i = 0u; i < SUB; i++) {
            for (var j = 0u; j < 4u; j++) {
                let left = vec4f(subgroupShuffle(rows[j], i));
                sums[4u * i + j][0] = fma(left, near, sums[4u * i + j][0]);
                sums[4u * i + j][1] = fma(left, far, sums[4u * i + j][1]);
            }
        }
        total += rows;
    }

    for (var i = 0u; i < 4u * SUB; i++) {
        let row = group.x * 4u * SUB + i;
        for (var j = 0u; j < 2u; j++) {
            let quad = my_columns + j * SUB;
            if (row < params.m && quad < quads_n) {
                gradient[row * quads_n + quad] = sums[i][j];
            }
        }
    }
    if (HAS_COLUMN_SUM && group.y == 0u && my_rows < quads_m) {
        for (var j = 0u; j < 4u; j++) {
            column_sum[my_rows * 4u + j] = total[j];
        }
    }
}
