// Matrix product, the tiled family for GPUs: register tiles fed from workgroup memory.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ; see gemm.wgsl for the buffers, for the backward
//                                                             forms NN and TN, and for the error bound
//
// A workgroup owns a tile of BM × BN outputs, an invocation TM × TN of them: quads of rows and of columns, ALONG_M and
// ALONG_N quads apart, so that neighbouring invocations read neighbouring words of workgroup memory. The tile advances
// along k in steps of BK: BM × BK elements of a and BN × BK of b are copied to workgroup memory, where the inner loop
// reads both as vec4 along m and n. They are copied in blocks of four quads, first those of a, then those of b; an
// invocation copies every THREADS-th block. An operand whose rows run along k is transposed on the way: both in NT, a
// in NN. Rows and columns past the end repeat the last ones and are not stored; k past the end is 0.
//
// k ascends through one f32 accumulator per output by fma: same bits as gemm.wgsl, with any of these switches:
//   PREFETCH   Reads the blocks of the next step into registers before the sums of this step, which hides the latency.
//              Blocks after the last step repeat the end of k and are dropped.
//   LANES      Arranges each 32 invocations as 4 along m × 8 along n: bits 0, 2, 4 of the index run along n, bits 1
//              and 3 along m. Neighbours in bit 0 share their quad of a, neighbours in bit 1 that of b. Some hardware
//              serves two lanes with one address in one pass if their indices differ in one bit. It needs half the
//              passes; in the default order this holds for a alone.
//   SWIZZLE    Stores quad q of row k of a transposed operand at q ^ 2·(k/4 mod 4). A transposed block is stored to
//              four rows of one column. Without the swizzle, eight neighbours with blocks at four k and two q share
//              two of eight groups of banks; with it they use all. The inner loop reads four k between changes of the
//              mask, so the cost is one xor per four k.
// Limits: NT, NN: K and N multiples of 4; TN: M and N. BM, BN powers of two from 16 on, BK 16, TM, TN 4 or 8; LANES: at
// least 4 invocations along m and 8 along n; SWIZZLE: 8 along both, or TM and TN 4; workgroup memory 4·BK·(BM + BN)
// bytes.

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

const BM: u32 = 64;
const BN: u32 = 64;
const BK: u32 = 16;
const TM: u32 = 4;
const TN: u32 = 4;
// Switches, 0 or 1.
const PREFETCH: u32 = 0;
const LANES: u32 = 0;
const SWIZZLE: u32 = 0;

const ALONG_M = BM / TM;
const ALONG_N = BN / TN;
const THREADS = ALONG_M * ALONG_N;
const QUADS_K = BK / 4u;
// Quads of rows and of columns that an invocation owns.
const OWN_M = TM / 4u;
const OWN_N = TN / 4u;
// Blocks of 4 × 4 values per step of a, of b and of both, and the most that an invocation copies.
const BLOCKS_A = (BM / 4u) * QUADS_K;
const BLOCKS_B = (BN / 4u) * QUADS_K;
const BLOCKS = BLOCKS_A + BLOCKS_B;
const EACH = (BLOCKS + THREADS - 1u) / THREADS;
// Steps of k per unrolled group, for which addresses are computed once.
const UNROLL = 4u;
// Quads of a's tile in workgroup memory.
const TILE_A = BK * BM / 4u;

// [k][m / 4], then [k][n / 4].
var<workgroup> tile: array<vec4f, BK * (BM + BN) / 4u>;

// Four neighbouring rows of four values. They are rows of m or n if the operand's rows run along k, otherwise rows of
// k.
struct Block {
    v0: Quad,
    v1: Quad,
    v2: Quad,
    v3: Quad,
}

// Position of an invocation in the tile, along m and n.
fn place(lane: u32) -> vec2u {
    if (LANES == 0u) {
        return vec2u(lane / ALONG_N, lane % ALONG_N);
    }
    let along_m = ((lane >> 1u) & 1u) | ((lane >> 2u) & 2u);
    let along_n = (lane & 1u) | ((lane >> 1u) & 2u) | ((lane >> 2u) & 4u);
    let others = lane / 32u;
    return vec2u(along_m + 4u * (others / (ALONG_N / 8u)), along_n + 8u * (others % (ALONG_N / 8u)));
}

// Mask of a transposed operand's quads in rows k with `quad_k` = k / 4; `quads` per row.
fn swizzle(quad_k: u32, quads: u32, transposed: bool) -> u32 {
    return select(0u, (SWIZZLE * 2u * (quad_k % 4u)) & (quads - 1u), transposed);
}

// Indices of the four quads of block t of an operand, from row or column `first` and quad `step` of k on. `size` is the
// number of rows or columns, `quads` the number of quads along a tile. Lines of memory run along k if `transposed`,
// otherwise along m or n.
fn quads_of(t: u32, transposed: bool, quads: u32, size: u32, first: u32, step: u32) -> vec4u {
    var line = (step + t / quads) * 4u;
    var lines = params.k;
    var quad = first / 4u + t % quads;
    var quads_in_line = size / 4u;
    if (transposed) {
        line = first + (t / QUADS_K) * 4u;
        lines = size;
        quad = step + t % QUADS_K;
        quads_in_line = params.k / 4u;
    }
    return min(vec4u(line) + vec4u(0u, 1u, 2u, 3u), vec4u(lines - 1u)) * quads_in_line + min(quad, quads_in_line - 1u);
}

// Block t of a.
fn fetch_a(t: u32, transposed: bool, first: u32, step: u32) -> Block {
    let at = quads_of(t, transposed, BM / 4u, params.m, first, step);
    return Block(a[at.x], a[at.y], a[at.z], a[at.w]);
}

fn fetch_b(t: u32, transposed: bool, first: u32, step: u32) -> Block {
    let at = quads_of(t, transposed, BN / 4u, params.n, first, step);
    return Block(b[at.x], b[at.y], b[at.z], b[at.w]);
}

fn fetch(t: u32, transposed: vec2<bool>, first: vec2u, step: u32) -> Block {
    if (t < BLOCKS_A) {
        return fetch_a(t, transposed.x, first.x, step);
    }
    return fetch_b(t - BLOCKS_A, transposed.y, first.y, step);
}

// Copies block t of an operand to its tile in workgroup memory, which begins at `start`.
fn put(t: u32, transposed: bool, quads: u32, start: u32, step: u32, block: Block) {
    var quad_k = t / quads;
    var quad = t % quads;
    var rows = mat4x4f(unpack(block.v0), unpack(block.v1), unpack(block.v2), unpack(block.v3));
    if (transposed) {
        quad_k = t % QUADS_K;
        quad = (t / QUADS_K) ^ swizzle(quad_k, quads, transposed);
        rows = transpose(rows);
    }
    let k = (step + quad_k) * 4u;
    let at = start + quad_k * 4u * quads + quad;
    // K of a transposed operand is a multiple of 4, so one comparison decides for all four rows.
    let next = select(1u, 0u, transposed);
    tile[at] = select(vec4f(0.0), rows[0], k < params.k);
    tile[at + quads] = select(vec4f(0.0), rows[1], k + next < params.k);
    tile[at + 2u * quads] = select(vec4f(0.0), rows[2], k + 2u * next < params.k);
    tile[at + 3u * quads] = select(vec4f(0.0), rows[3], k + 3u * next < params.k);
}

// Adds products to the sums of the invocation at position `at`, for the tile at row and column `first` and quads of k
// from `steps.x` to `steps.y`. `transposed` is (a, b). If `adds_up`, adds the column sums of a to `totals`.
fn add_products(
    sums: ptr<function, array<array<vec4f, OWN_N>, TM>>,
    totals: ptr<function, array<vec4f, OWN_M>>,
    adds_up: bool,
    transposed: vec2<bool>,
    first: vec2u,
    steps: vec2u,
    lane: u32,
    at: vec2u,
) {
    var held: array<Block, EACH>;
    if (PREFETCH == 1u) {
        for (var i = 0u; i < EACH; i++) {
            if (i * THREADS + lane < BLOCKS) {
                held[i] = fetch(i * THREADS + lane, transposed, first, steps.x);
            }
        }
    }
    for (var step = steps.x; step < steps.y; step += QUADS_K) {
        for (var i = 0u; i < EACH; i++) {
            let t = i * THREADS + lane;
            if (t < BLOCKS_A) {
                if (PREFETCH == 0u) {
                    held[i] = fetch_a(t, transposed.x, first.x, step);
                }
                put(t, transposed.x, BM / 4u, 0u, step, held[i]);
            } else if (t < BLOCKS) {
                if (PREFETCH == 0u) {
                    held[i] = fetch_b(t - BLOCKS_A, transposed.y, first.y, step);
                }
                put(t - BLOCKS_A, transposed.y, BN / 4u, TILE_A, step, held[i]);
            }
        }
        workgroupBarrier();
        if (PREFETCH == 1u) {
            for (var i = 0u; i < EACH; i++) {
                if (i * THREADS + lane < BLOCKS) {
                    held[i] = fetch(i * THREADS + lane, transposed, first, step + QUADS_K);
                }
            }
        }
        for (var k_start = 0u; k_start < BK; k_start += UNROLL) {
            // The constant offset is added last, so that it becomes part of the load instruction.
            let at_a = k_start * (BM / 4u) + (at.x ^ swizzle(k_start / 4u, BM / 4u, transposed.x));
            let at_b = k_start * (BN / 4u) + (at.y ^ swizzle(k_start / 4u, BN / 4u, transposed.y));
            for (var k = 0u; k < UNROLL; k++) {
                var right: array<vec4f, OWN_N>;
                for (var j = 0u; j < OWN_N; j++) {
                    right[j] = tile[at_b + (TILE_A + k * (BN / 4u) + j * ALONG_N)];
                }
                for (var i = 0u; i < OWN_M; i++) {
                    let left = tile[at_a + (k * (BM / 4u) + i * ALONG_M)];
                    for (var j = 0u; j < OWN_N; j++) {
                        (*sums)[i * 4u][j] = fma(vec4f(left.x), right[j], (*sums)[i * 4u][j]);
                        (*sums)[i * 4u + 1u][j] = fma(vec4f(left.y), right[j], (*sums)[i * 4u + 1u][j]);
                        (*sums)[i * 4u + 2u][j] = fma(vec4f(left.z), right[j], (*sums)[i * 4u + 2u][j]);
                        (*sums)[i * 4u + 3u][j] = fma(vec4f(left.w), right[j], (*sums)[i * 4u + 3u][j]);
                    }
                }
            }
        }
        if (adds_up) {
            for (var k = 0u; k < BK; k++) {
                for (var i = 0u; i < OWN_M; i++) {
                    (*totals)[i] += tile[k * (BM / 4u) + i * ALONG_M + at.x];
                }
            }
        }
        workgroupBarrier();
    }
}

// The i-th row of the invocation at position `at` along m.
fn row_of(first: u32, i: u32, at: u32) -> u32 {
    return first + ((i / 4u) * ALONG_M + at) * 4u + i % 4u;
}

@compute @workgroup_size(THREADS)
fn gemm_nt(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = vec2u((params.first + group.y) * BM, group.x * BN);
    let at = place(lane);
    var sums: array<array<vec4f, OWN_N>, TM>;
    var totals: array<vec4f, OWN_M>;
    add_products(&sums, &totals, false, vec2<bool>(true, true), first, vec2u(0u, params.k / 4u), lane, at);
    for (var i = 0u; i < TM; i++) {
        let row = row_of(first.x, i, at.x);
        for (var j = 0u; j < OWN_N; j++) {
            let quad = first.y / 4u + j * ALONG_N + at.y;
            if (row < params.m && quad < params.n / 4u) {
                finish(row, quad, sums[i][j]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm_nn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = vec2u((params.first + group.y) * BM, group.x * BN);
    let at = place(lane);
    var sums: array<array<vec4f, OWN_N>, TM>;
    var totals: array<vec4f, OWN_M>;
    add_products(&sums, &totals, false, vec2<bool>(true, false), first, vec2u(0u, params.k / 4u), lane, at);
    for (var i = 0u; i < TM; i++) {
        let row = row_of(first.x, i, at.x);
        for (var j = 0u; j < OWN_N; j++) {
            let quad = first.y / 4u + j * ALONG_N + at.y;
            if (row < params.m && quad < params.n / 4u) {
                finish_backward(row, quad, sums[i][j]);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm_tn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = vec2u((params.first + group.y) * BM, group.x * BN);
    let at = place(lane);
    var sums: array<array<vec4f, OWN_N>, TM>;
    // Uniform over the workgroup. Workgroups at the left edge read all k of their columns of a.
    let adds_up = HAS_COLUMN_SUM && group.x == 0u;
    var totals: array<vec4f, OWN_M>;
    let end = min((group.z + 1u) * params.depth, params.k);
    let steps = vec2u(group.z * params.depth / 4u, (end + 3u) / 4u);
    add_products(&sums, &totals, adds_up, vec2<bool>(false, false), first, steps, lane, at);
    for (var i = 0u; i < TM; i++) {
        let row = row_of(first.x, i, at.x);
        for (var j = 0u; j < OWN_N; j++) {
            let quad = first.y / 4u + j * ALONG_N + at.y;
            if (row < params.m && quad < params.n / 4u) {
                gradient[(group.z * params.m + row) * (params.n / 4u) + quad] = sums[i][j];
            }
        }
        if (adds_up && at.y == 0u && row < params.m) {
            column_sum[group.z * params.m + row] = totals[i / 4u][i % 4u];
        }
    }
}
