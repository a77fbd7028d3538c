// Matrix product, the GPU family: register tiles fed from workgroup memory.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ; see gemm.wgsl for the buffers, for the two
//   backward   forms NN and TN, and for the error bound
//
// A workgroup owns a tile of BM × BN outputs, an invocation TM × TN of them: quads of rows and of columns, each a whole
// tile's width of invocations after the last, so that neighbours read neighbouring words of workgroup memory. The tile
// walks along k in steps of BK: BM × BK of a and BN × BK of b go into workgroup memory so that the inner loop reads
// both as vec4 along m and n. They are moved in blocks of four quads, those of a before those of b, an invocation every
// THREADSth. An operand whose rows run along k is transposed on its way: both of NT, a of NN. Rows and columns past the
// end repeat the last ones and are never stored; k past the end is 0.
// k ascends through one f32 accumulator per output by fma: same bits as gemm.wgsl, whatever the switches:
//   PREFETCH   blocks of the next step are read into registers before this step's sums, which hide the wait for them;
//              the blocks behind the last step repeat the end of k and are dropped
//   LANES      a subgroup's 32 invocations lie 4 along m × 8 along n, bits 0, 2, 4 of the index along n and 1, 3 along
//              m: neighbours by bit 0 share their quad of a, by bit 1 that of b. Hardware that serves two lanes which
//              differ by one bit and read one address in one pass needs half the passes; the other order gives that
//              for a alone
//   SWIZZLE    in transposed operands the quad q of row k lies at q ^ 2·(k/4 mod 4). A transposed block goes to four
//              rows of one column; eight neighbours, whose blocks are at four k and two q, would meet in two of eight
//              quads of banks, and meet in none. The inner loop reads four k between changes of the mask, so that it
//              costs an xor for each four
// Limits: NT, NN: K and N multiples of 4; TN: M and N. BM, BN powers of two from 16 on, BK 16, TM, TN 4 or 8; LANES: at
// least 4 invocations along m and 8 along n; SWIZZLE: 8 along both, or TM and TN 4; workgroup memory 4·BK·(BM + BN)
// bytes.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // TN: k of a slice, a multiple of 16.
    depth: u32,
    // Rows of tiles before this launch's.
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
// Blocks of 4 × 4 values per step, and how many of both an invocation moves at most.
const BLOCKS_A = (BM / 4u) * QUADS_K;
const BLOCKS_B = (BN / 4u) * QUADS_K;
const BLOCKS = BLOCKS_A + BLOCKS_B;
const EACH = (BLOCKS + THREADS - 1u) / THREADS;
// Steps of k that are written out one behind the other: addresses are computed once for all of them.
const UNROLL = 4u;
// Quads of workgroup memory that a's tile takes.
const TILE_A = BK * BM / 4u;

// [k][m / 4], then [k][n / 4].
var<workgroup> tile: array<vec4f, BK * (BM + BN) / 4u>;

// Four neighbouring rows of four values: of m or n, where rows run along k, else of k.
struct Block {
    v0: Quad,
    v1: Quad,
    v2: Quad,
    v3: Quad,
}

// An invocation's place among those of its tile, along m and n.
fn place(lane: u32) -> vec2u {
    if (LANES == 0u) {
        return vec2u(lane / ALONG_N, lane % ALONG_N);
    }
    let along_m = ((lane >> 1u) & 1u) | ((lane >> 2u) & 2u);
    let along_n = (lane & 1u) | ((lane >> 1u) & 2u) | ((lane >> 2u) & 4u);
    let others = lane / 32u;
    return vec2u(along_m + 4u * (others / (ALONG_N / 8u)), along_n + 8u * (others % (ALONG_N / 8u)));
}

// Where a transposed operand's quads lie in rows k of which `quad_k` is k / 4; `quads` in a row.
fn swizzle(quad_k: u32, quads: u32, transposed: bool) -> u32 {
    return select(0u, (SWIZZLE * 2u * (quad_k % 4u)) & (quads - 1u), transposed);
}

// Where the four quads of block t of an operand lie, from row or column `first` and quad `step` of k on: of `size` rows
// or columns, of which its tile holds `quads` quads. Lines of memory run along k if it is transposed, else along m or
// n.
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

// Puts block t of an operand into workgroup memory, where its tile begins at `start`.
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
    // A transposed operand's K is a multiple of 4: one comparison serves all.
    let next = select(1u, 0u, transposed);
    tile[at] = select(vec4f(0.0), rows[0], k < params.k);
    tile[at + quads] = select(vec4f(0.0), rows[1], k + next < params.k);
    tile[at + 2u * quads] = select(vec4f(0.0), rows[2], k + 2u * next < params.k);
    tile[at + 3u * quads] = select(vec4f(0.0), rows[3], k + 3u * next < params.k);
}

// Adds to the sums of the invocation at `at` of the tile that begins at row and column `first`, for quads of k from
// `steps.x` to `steps.y`; `transposed`: a, b. If `adds_up`, column sums of a go to `totals`.
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
            // A constant that is added last becomes part of the instruction that reads.
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

// The i-th row of an invocation at `at` along m.
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
    // The same for the whole workgroup: all of those at the left edge have seen all of their columns of a.
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
