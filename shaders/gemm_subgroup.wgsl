// Matrix product, the subgroup family for CPU adapters: one subgroup per workgroup, no barrier, no workgroup memory.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ; see gemm.wgsl for the buffers, for the backward
//                                                             forms NN and TN, and for the error bound
//
// A workgroup of SUB invocations owns ROWS rows × 4·SUB·QUADS columns. Successive workgroups advance along the rows, so
// that they find the same part of b in the cache. Elements of a that all lanes need are loaded by one lane and shared
// by subgroupShuffle. On a CPU adapter a load with an address that varies by lane costs hundreds of instructions
// (llvmpipe turns it into a loop over the lanes), a shuffle costs one. Every load takes four values:
//   NT: lane l owns quads of columns, SUB quads apart; a load is four k of one row of a or b.
//   NN: the same columns; a load of b is one quad at one k, a load of a is four k of one row.
//   TN: the same columns; a load of a is one k of four rows.
// The sums do not fit into registers, so four k are added to a sum between its load and its store. Arrays have a
// dimension for each loop over them, because llvmpipe then unrolls the loop at any length.
// k ascends through one f32 accumulator per output by fma: same bits as gemm.wgsl.
// Limits: NT, NN: K and N multiples of 4; TN: M and N. ROWS a multiple of SUB, in TN of 4·SUB; every subgroup has
// exactly SUB lanes.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // TN: k per slice, a multiple of 16.
    depth: u32,
    // Rows of tiles of earlier dispatches of the same product.
    first: u32,
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
const QUADS: u32 = 1;

// Groups of rows; each lane loads one row of each group, in TN one quad of rows.
const GROUPS = ROWS / SUB;
const QUAD_GROUPS = (ROWS + 4u * SUB - 1u) / (4u * SUB);

// Adds four terms to the sums in columns `q`: the values of every row, shared between lanes, times this lane's columns.
fn add_products(
    sums: ptr<function, array<array<array<vec4f, QUADS>, SUB>, GROUPS>>,
    q: u32,
    rows: array<vec4f, GROUPS>,
    right: array<vec4f, 4>,
) {
    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            var sum = (*sums)[g][i][q];
            for (var k = 0u; k < 4u; k++) {
                sum = fma(vec4f(subgroupShuffle(rows[g][k], i)), right[k], sum);
            }
            (*sums)[g][i][q] = sum;
        }
    }
}

@compute @workgroup_size(SUB)
fn gemm_nt(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let quads = params.k / 4u;
    let first_row = (params.first + group.x) * ROWS;
    let my_columns = group.y * SUB * QUADS + lane;

    // Rows and columns past the end repeat the last one and are not stored.
    var a_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        a_at[g] = min(first_row + g * SUB + lane, params.m - 1u) * quads;
    }
    var b_at: array<vec4u, QUADS>;
    for (var q = 0u; q < QUADS; q++) {
        for (var j = 0u; j < 4u; j++) {
            b_at[q][j] = min((my_columns + q * SUB) * 4u + j, params.n - 1u) * quads;
        }
    }

    var sums: array<array<array<vec4f, QUADS>, SUB>, GROUPS>;
    for (var quad = 0u; quad < quads; quad++) {
        var rows: array<vec4f, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            rows[g] = unpack(a[a_at[g] + quad]);
        }
        for (var q = 0u; q < QUADS; q++) {
            let b0 = unpack(b[b_at[q].x + quad]);
            let b1 = unpack(b[b_at[q].y + quad]);
            let b2 = unpack(b[b_at[q].z + quad]);
            let b3 = unpack(b[b_at[q].w + quad]);
            var right: array<vec4f, 4>;
            for (var k = 0u; k < 4u; k++) {
                right[k] = vec4f(b0[k], b1[k], b2[k], b3[k]);
            }
            add_products(&sums, q, rows, right);
        }
    }

    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            for (var q = 0u; q < QUADS; q++) {
                let row = first_row + g * SUB + i;
                let column = my_columns + q * SUB;
                if (row < params.m && column < params.n / 4u) {
                    finish(row, column, sums[g][i][q]);
                }
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn gemm_nn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let quads_k = params.k / 4u;
    let quads_n = params.n / 4u;
    let first_row = (params.first + group.x) * ROWS;
    let my_columns = group.y * SUB * QUADS + lane;

    // Rows and columns past the end repeat the last ones and are not stored.
    var a_at: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        a_at[g] = min(first_row + g * SUB + lane, params.m - 1u) * quads_k;
    }
    var b_at: array<u32, QUADS>;
    for (var q = 0u; q < QUADS; q++) {
        b_at[q] = min(my_columns + q * SUB, quads_n - 1u);
    }

    var sums: array<array<array<vec4f, QUADS>, SUB>, GROUPS>;
    for (var quad = 0u; quad < quads_k; quad++) {
        var rows: array<vec4f, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            rows[g] = unpack(a[a_at[g] + quad]);
        }
        for (var q = 0u; q < QUADS; q++) {
            var right: array<vec4f, 4>;
            for (var k = 0u; k < 4u; k++) {
                right[k] = unpack(b[b_at[q]]);
                b_at[q] += quads_n;
            }
            add_products(&sums, q, rows, right);
        }
    }

    for (var g = 0u; g < GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            for (var q = 0u; q < QUADS; q++) {
                let row = first_row + g * SUB + i;
                let column = my_columns + q * SUB;
                if (row < params.m && column < quads_n) {
                    finish_backward(row, column, sums[g][i][q]);
                }
            }
        }
    }
}

@compute @workgroup_size(SUB)
fn gemm_tn(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let quads_m = params.m / 4u;
    let quads_n = params.n / 4u;
    let my_rows = (params.first + group.x) * SUB * QUAD_GROUPS + lane;
    let my_columns = group.y * SUB * QUADS + lane;

    // Rows and columns past the end repeat the last ones and are not stored.
    var a_at: array<u32, QUAD_GROUPS>;
    for (var g = 0u; g < QUAD_GROUPS; g++) {
        a_at[g] = min(my_rows + g * SUB, quads_m - 1u);
    }
    var b_at: array<u32, QUADS>;
    for (var q = 0u; q < QUADS; q++) {
        b_at[q] = min(my_columns + q * SUB, quads_n - 1u);
    }

    var sums: array<array<array<array<vec4f, QUADS>, 4>, SUB>, QUAD_GROUPS>;
    var totals: array<vec4f, QUAD_GROUPS>;
    let last = params.k - 1u;
    let end = min((group.z + 1u) * params.depth, params.k);
    for (var k = group.z * params.depth; k < end; k += 4u) {
        var rows: array<array<vec4f, 4>, QUAD_GROUPS>;
        for (var g = 0u; g < QUAD_GROUPS; g++) {
            for (var s = 0u; s < 4u; s++) {
                // k past the end repeats the last one, times 0.
                let left = unpack(a[a_at[g] + min(k + s, last) * quads_m]);
                rows[g][s] = select(vec4f(0.0), left, k + s <= last);
                totals[g] += rows[g][s];
            }
        }
        for (var q = 0u; q < QUADS; q++) {
            var right: array<vec4f, 4>;
            for (var s = 0u; s < 4u; s++) {
                right[s] = select(vec4f(0.0), unpack(b[b_at[q] + min(k + s, last) * quads_n]), k + s <= last);
            }
            for (var g = 0u; g < QUAD_GROUPS; g++) {
                for (var i = 0u; i < SUB; i++) {
                    for (var j = 0u; j < 4u; j++) {
                        var sum = sums[g][i][j][q];
                        for (var s = 0u; s < 4u; s++) {
                            sum = fma(vec4f(subgroupShuffle(rows[g][s][j], i)), right[s], sum);
                        }
                        sums[g][i][j][q] = sum;
                    }
                }
            }
        }
    }

    for (var g = 0u; g < QUAD_GROUPS; g++) {
        for (var i = 0u; i < SUB; i++) {
            for (var j = 0u; j < 4u; j++) {
                for (var q = 0u; q < QUADS; q++) {
                    let row = (((params.first + group.x) * QUAD_GROUPS + g) * SUB + i) * 4u + j;
                    let column = my_columns + q * SUB;
                    if (row < params.m && column < quads_n) {
                        gradient[(group.z * params.m + row) * quads_n + column] = sums[g][i][j][q];
                    }
                }
            }
        }
        let mine = my_rows + g * SUB;
        if (HAS_COLUMN_SUM && group.y == 0u && mine < quads_m) {
            for (var j = 0u; j < 4u; j++) {
                column_sum[group.z * params.m + mine * 4u + j] = totals[g][j];
            }
        }
    }
}
