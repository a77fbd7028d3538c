// Matrix product, the GPU family: register tiles fed from workgroup memory.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ; see gemm.wgsl for the buffers, for the two
//   backward   forms NN and TN, and for the error bound
//
// A workgroup owns a tile of BM × BN outputs, an invocation TM × TN of them: quads of rows and of columns, each a whole
// tile's width of invocations after the last, so that neighbours read neighbouring words of workgroup memory. The tile
// walks along k in steps of BK: BM × BK of a and BN × BK of b go into workgroup memory so that the inner loop reads both as
// vec4 along m and n. An operand whose rows run along k is turned on its way: both of NT, a of NN. Rows and columns past the
// end repeat the last ones and are never stored; k past the end is 0.
// k ascends through one f32 accumulator per output by fma: same bits as gemm.wgsl.
// Limits: NT, NN: K and N multiples of 4; TN: M and N. BM, BN, BK, TM, TN multiples of 4; workgroup
// memory 4·BK·(BM + BN) bytes.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // TN: k of a slice, a multiple of 16.
    depth: u32,
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

const BM: u32 = 64;
const BN: u32 = 64;
const BK: u32 = 16;
const TM: u32 = 4;
const TN: u32 = 4;

const ALONG_M = BM / TM;
const ALONG_N = BN / TN;
const THREADS = ALONG_M * ALONG_N;
const QUADS_K = BK / 4u;
// Quads of rows and of columns that an invocation owns.
const OWN_M = TM / 4u;
const OWN_N = TN / 4u;
// Blocks of 4 × 4 values to turn, and quads to copy, per step.
const TURNS_A = (BM / 4u) * QUADS_K;
const TURNS_B = (BN / 4u) * QUADS_K;
const COPIES_A = BK * (BM / 4u);
const COPIES_B = BK * (BN / 4u);
// Steps of k that are written out one behind the other: addresses are computed once for all of them.
const UNROLL = 4u;

// [k][m / 4] and [k][n / 4].
var<workgroup> tile_a: array<vec4f, BK * BM / 4u>;
var<workgroup> tile_b: array<vec4f, BK * BN / 4u>;

// Block t of 4 × 4 values of rows that run along k, from row `first` and quad `step` of k on: four rows, four k.
fn turn_a(t: u32, first: u32, step: u32) {
    let quads = params.k / 4u;
    let row = first + (t / QUADS_K) * 4u;
    let quad = step + t % QUADS_K;
    var v: array<vec4f, 4>;
    for (var i = 0u; i < 4u; i++) {
        let read = unpack(a[min(row + i, params.m - 1u) * quads + min(quad, quads - 1u)]);
        v[i] = select(vec4f(0.0), read, quad < quads);
    }
    let at = (t % QUADS_K) * 4u * (BM / 4u) + t / QUADS_K;
    tile_a[at] = vec4f(v[0].x, v[1].x, v[2].x, v[3].x);
    tile_a[at + BM / 4u] = vec4f(v[0].y, v[1].y, v[2].y, v[3].y);
    tile_a[at + 2u * (BM / 4u)] = vec4f(v[0].z, v[1].z, v[2].z, v[3].z);
    tile_a[at + 3u * (BM / 4u)] = vec4f(v[0].w, v[1].w, v[2].w, v[3].w);
}

fn turn_b(t: u32, first: u32, step: u32) {
    let quads = params.k / 4u;
    let row = first + (t / QUADS_K) * 4u;
    let quad = step + t % QUADS_K;
    var v: array<vec4f, 4>;
    for (var i = 0u; i < 4u; i++) {
        let read = unpack(b[min(row + i, params.n - 1u) * quads + min(quad, quads - 1u)]);
        v[i] = select(vec4f(0.0), read, quad < quads);
    }
    let at = (t % QUADS_K) * 4u * (BN / 4u) + t / QUADS_K;
    tile_b[at] = vec4f(v[0].x, v[1].x, v[2].x, v[3].x);
    tile_b[at + BN / 4u] = vec4f(v[0].y, v[1].y, v[2].y, v[3].y);
    tile_b[at + 2u * (BN / 4u)] = vec4f(v[0].z, v[1].z, v[2].z, v[3].z);
    tile_b[at + 3u * (BN / 4u)] = vec4f(v[0].w, v[1].w, v[2].w, v[3].w);
}

// Quad t of rows that run along m or n, from column `first` and quad `step` of k on.
fn copy_a(t: u32, first: u32, step: u32) {
    let quads = params.m / 4u;
    let k = step * 4u + t / (BM / 4u);
    let quad = first / 4u + t % (BM / 4u);
    let read = unpack(a[min(k, params.k - 1u) * quads + min(quad, quads - 1u)]);
    tile_a[t] = select(vec4f(0.0), read, k < params.k);
}

fn copy_b(t: u32, first: u32, step: u32) {
    let quads = params.n / 4u;
    let k = step * 4u + t / (BN / 4u);
    let quad = first / 4u + t % (BN / 4u);
    let read = unpack(b[min(k, params.k - 1u) * quads + min(quad, quads - 1u)]);
    tile_b[t] = select(vec4f(0.0), read, k < params.k);
}

@compute @workgroup_size(THREADS)
fn gemm_nt(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.y * BM;
    let first_column = group.x * BN;
    let my_m = lane / ALONG_N;
    let my_n = lane % ALONG_N;
    // Where there is less to load than there are invocations, one half loads a and the other b.
    let from_the_end = THREADS - 1u - lane;

    var sums: array<array<vec4f, OWN_N>, TM>;
    for (var step = 0u; step < params.k / 4u; step += QUADS_K) {
        for (var t = 0u; t < TURNS_A; t += THREADS) {
            if (t + lane < TURNS_A) {
                turn_a(t + lane, first_row, step);
            }
        }
        for (var t = 0u; t < TURNS_B; t += THREADS) {
            if (t + from_the_end < TURNS_B) {
                turn_b(t + from_the_end, first_column, step);
            }
        }
        workgroupBarrier();
        for (var k_start = 0u; k_start < BK; k_start += UNROLL) {
            // A constant that is added last becomes part of the instruction that reads.
            let at_a = k_start * (BM / 4u) + my_m;
            let at_b = k_start * (BN / 4u) + my_n;
            for (var k = 0u; k < UNROLL; k++) {
                var right: array<vec4f, OWN_N>;
                for (var j = 0u; j < OWN_N; j++) {
                    right[j] = tile_b[at_b + (k * (BN / 4u) + j * ALONG_N)];
                }
                for (var i = 0u; i < OWN_M; i++) {
                    let left = tile_a[at_a + (k * (BM / 4u) + i * ALONG_M)];
                    for (var j = 0u; j < OWN_N; j++) {
                        sums[i * 4u][j] = fma(vec4f(left.x), right[j], sums[i * 4u][j]);
                        sums[i * 4u + 1u][j] = fma(vec4f(left.y), right[j], sums[i * 4u + 1u][j]);
                        sums[i * 4u + 2u][j] = fma(vec4f(left.z), right[j], sums[i * 4u + 2u][j]);
                        sums[i * 4u + 3u][j] = fma(vec4f(left.w), right[j], sums[i * 4u + 3u][j]);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let row = first_row + ((i / 4u) * ALONG_M + my_m) * 4u + i % 4u;
        for (var j = 0u; j < TN / 4u; j++) {
            let quad = first_column / 4u + j * ALONG_N + my_n;
            if (row < params.m && quad < params.n / 4u) {
                finish(row, quad, sums[i][j]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm_nn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.y * BM;
    let first_column = group.x * BN;
    let my_m = lane / ALONG_N;
    let my_n = lane % ALONG_N;
    // Where there is less to load than there are invocations, one half loads a and the other b.
    let from_the_end = THREADS - 1u - lane;

    var sums: array<array<vec4f, OWN_N>, TM>;
    for (var step = 0u; step < params.k / 4u; step += QUADS_K) {
        for (var t = 0u; t < TURNS_A; t += THREADS) {
            if (t + lane < TURNS_A) {
                turn_a(t + lane, first_row, step);
            }
        }
        for (var t = 0u; t < COPIES_B; t += THREADS) {
            if (t + from_the_end < COPIES_B) {
                copy_b(t + from_the_end, first_column, step);
            }
        }
        workgroupBarrier();
        for (var k_start = 0u; k_start < BK; k_start += UNROLL) {
            // A constant that is added last becomes part of the instruction that reads.
            let at_a = k_start * (BM / 4u) + my_m;
            let at_b = k_start * (BN / 4u) + my_n;
            for (var k = 0u; k < UNROLL; k++) {
                var right: array<vec4f, OWN_N>;
                for (var j = 0u; j < OWN_N; j++) {
                    right[j] = tile_b[at_b + (k * (BN / 4u) + j * ALONG_N)];
                }
                for (var i = 0u; i < OWN_M; i++) {
                    let left = tile_a[at_a + (k * (BM / 4u) + i * ALONG_M)];
                    for (var j = 0u; j < OWN_N; j++) {
                        sums[i * 4u][j] = fma(vec4f(left.x), right[j], sums[i * 4u][j]);
                        sums[i * 4u + 1u][j] = fma(vec4f(left.y), right[j], sums[i * 4u + 1u][j]);
                        sums[i * 4u + 2u][j] = fma(vec4f(left.z), right[j], sums[i * 4u + 2u][j]);
                        sums[i * 4u + 3u][j] = fma(vec4f(left.w), right[j], sums[i * 4u + 3u][j]);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let row = first_row + ((i / 4u) * ALONG_M + my_m) * 4u + i % 4u;
        for (var j = 0u; j < TN / 4u; j++) {
            let quad = first_column / 4u + j * ALONG_N + my_n;
            if (row < params.m && quad < params.n / 4u) {
                finish_backward(row, quad, sums[i][j]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm_tn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.y * BM;
    let first_column = group.x * BN;
    let my_m = lane / ALONG_N;
    let my_n = lane % ALONG_N;
    // Where there is less to load than there are invocations, one half loads a and the other b.
    let from_the_end = THREADS - 1u - lane;

    var sums: array<array<vec4f, OWN_N>, TM>;
    // The same for the whole workgroup: all of those at the left edge have seen all of their columns of a.
    let adds_up = HAS_COLUMN_SUM && group.x == 0u;
    var totals: array<vec4f, OWN_M>;
    let end = min((group.z + 1u) * params.depth, params.k);
    for (var step = group.z * params.depth / 4u; step < (end + 3u) / 4u; step += QUADS_K) {
        for (var t = 0u; t < COPIES_A; t += THREADS) {
            if (t + lane < COPIES_A) {
                copy_a(t + lane, first_row, step);
            }
        }
        for (var t = 0u; t < COPIES_B; t += THREADS) {
            if (t + from_the_end < COPIES_B) {
                copy_b(t + from_the_end, first_column, step);
            }
        }
        workgroupBarrier();
        for (var k_start = 0u; k_start < BK; k_start += UNROLL) {
            // A constant that is added last becomes part of the instruction that reads.
            let at_a = k_start * (BM / 4u) + my_m;
            let at_b = k_start * (BN / 4u) + my_n;
            for (var k = 0u; k < UNROLL; k++) {
                var right: array<vec4f, OWN_N>;
                for (var j = 0u; j < OWN_N; j++) {
                    right[j] = tile_b[at_b + (k * (BN / 4u) + j * ALONG_N)];
                }
                for (var i = 0u; i < OWN_M; i++) {
                    let left = tile_a[at_a + (k * (BM / 4u) + i * ALONG_M)];
                    for (var j = 0u; j < OWN_N; j++) {
                        sums[i * 4u][j] = fma(vec4f(left.x), right[j], sums[i * 4u][j]);
                        sums[i * 4u + 1u][j] = fma(vec4f(left.y), right[j], sums[i * 4u + 1u][j]);
                        sums[i * 4u + 2u][j] = fma(vec4f(left.z), right[j], sums[i * 4u + 2u][j]);
                        sums[i * 4u + 3u][j] = fma(vec4f(left.w), right[j], sums[i * 4u + 3u][j]);
                    }
                }
            }
        }
        if (adds_up) {
            for (var k = 0u; k < BK; k++) {
                for (var i = 0u; i < OWN_M; i++) {
                    totals[i] += tile_a[k * (BM / 4u) + i * ALONG_M + my_m];
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let row = first_row + ((i / 4u) * ALONG_M + my_m) * 4u + i % 4u;
        for (var j = 0u; j < TN / 4u; j++) {
            let quad = first_column / 4u + j * ALONG_N + my_n;
            if (row < params.m && quad < params.n / 4u) {
                gradient[(group.z * params.m + row) * (params.n / 4u) + quad] = sums[i][j];
            }
        }
    }
    if (adds_up && my_n == 0u) {
        for (var i = 0u; i < TM; i++) {
            let row = first_row + ((i / 4u) * ALONG_M + my_m) * 4u + i % 4u;
            if (row < params.m) {
                column_sum[group.z * params.m + row] = totals[i / 4u][i % 4u];
            }
        }
    }
}
