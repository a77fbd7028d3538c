// Matrix product, the GPU family: register tiles fed from workgroup memory.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ; see gemm.wgsl for the buffers, for the two
//   backward   forms NN and TN, and for the error bound
//
// A workgroup owns a tile of BM × BN outputs, an invocation TM × TN of them: quads of rows and of columns, each a whole
// tile's width of invocations after the last, so that neighbours read neighbouring words of workgroup memory. The tile
// walks along k in steps of BK: BM × BK of a and BN × BK of b go into workgroup memory so that the inner loop reads both as
// vec4 along m and n. They are moved in blocks of four quads, those of a before those of b, an invocation every THREADSth. An
// operand whose rows run along k is turned on its way: both of NT, a of NN. Rows and columns past the
// end repeat the last ones and are never stored; k past the end is 0.
// k ascends through one f32 accumulator per output by fma: same bits as gemm.wgsl, whatever the switches:
//   PREFETCH   blocks of the next step are read into registers before this step's sums, which hide the wait for them; the
//              blocks behind the last step repeat the end of k and are dropped
//   LANES      a subgroup's 32 invocations lie 4 along m × 8 along n, bits 0, 2, 4 of the index along n and 1, 3 along m:
//              neighbours by bit 0 share their quad of a, by bit 1 that of b. Hardware that serves two lanes which differ by one
//              bit and read one address in one pass needs half the passes; the other order gives that for a alone
//   SWIZZLE    in turned operands the quad q of row k lies at q ^ 2·(k/4 mod 4). A turned block goes to four rows of one
//              column; eight neighbours, whose blocks are at four k and two q, would meet in two of eight quads of banks, and
//              meet in none. The inner loop reads four k between changes of the mask, so that it costs an xor for each four
// Limits: NT, NN: K and N multiples of 4; TN: M and N. BM, BN powers of two from 16 on, BK 16, TM, TN 4 or 8; LANES: at least
// 4 invocations along m and 8 along n; SWIZZLE: 8 along both, or TM and TN 4; workgroup memory 4·BK·(BM + BN) bytes.

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

// [k][m / 4] and [k][n / 4].
var<workgroup> tile_a: array<vec4f, BK * BM / 4u>;
var<workgroup> tile_b: array<vec4f, BK * BN / 4u>;

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

// Where a turned operand's quads lie in rows k of which `quad_k` is k / 4; `quads` in a row.
fn swizzle(quad_k: u32, quads: u32) -> u32 {
    return (SWIZZLE * 2u * (quad_k % 4u)) & (quads - 1u);
}

// Block t of rows that run along k, from row `first` and quad `step` of k on.
fn along_k_a(t: u32, first: u32, step: u32) -> Block {
    let quads = params.k / 4u;
    let row = first + (t / QUADS_K) * 4u;
    let quad = min(step + t % QUADS_K, quads - 1u);
    let last = params.m - 1u;
    return Block(
        a[min(row, last) * quads + quad],
        a[min(row + 1u, last) * quads + quad],
        a[min(row + 2u, last) * quads + quad],
        a[min(row + 3u, last) * quads + quad],
    );
}

fn along_k_b(t: u32, first: u32, step: u32) -> Block {
    let quads = params.k / 4u;
    let row = first + (t / QUADS_K) * 4u;
    let quad = min(step + t % QUADS_K, quads - 1u);
    let last = params.n - 1u;
    return Block(
        b[min(row, last) * quads + quad],
        b[min(row + 1u, last) * quads + quad],
        b[min(row + 2u, last) * quads + quad],
        b[min(row + 3u, last) * quads + quad],
    );
}

// Block t of rows that run along m or n, from column `first` and quad `step` of k on.
fn across_k_a(t: u32, first: u32, step: u32) -> Block {
    let quads = params.m / 4u;
    let k = (step + t / (BM / 4u)) * 4u;
    let quad = min(first / 4u + t % (BM / 4u), quads - 1u);
    let last = params.k - 1u;
    return Block(
        a[min(k, last) * quads + quad],
        a[min(k + 1u, last) * quads + quad],
        a[min(k + 2u, last) * quads + quad],
        a[min(k + 3u, last) * quads + quad],
    );
}

fn across_k_b(t: u32, first: u32, step: u32) -> Block {
    let quads = params.n / 4u;
    let k = (step + t / (BN / 4u)) * 4u;
    let quad = min(first / 4u + t % (BN / 4u), quads - 1u);
    let last = params.k - 1u;
    return Block(
        b[min(k, last) * quads + quad],
        b[min(k + 1u, last) * quads + quad],
        b[min(k + 2u, last) * quads + quad],
        b[min(k + 3u, last) * quads + quad],
    );
}

// Puts a block into workgroup memory, turned.
fn turn_a(t: u32, step: u32, block: Block) {
    let inside = step + t % QUADS_K < params.k / 4u;
    let v0 = select(vec4f(0.0), unpack(block.v0), inside);
    let v1 = select(vec4f(0.0), unpack(block.v1), inside);
    let v2 = select(vec4f(0.0), unpack(block.v2), inside);
    let v3 = select(vec4f(0.0), unpack(block.v3), inside);
    let at = (t % QUADS_K) * 4u * (BM / 4u) + ((t / QUADS_K) ^ swizzle(t % QUADS_K, BM / 4u));
    tile_a[at] = vec4f(v0.x, v1.x, v2.x, v3.x);
    tile_a[at + BM / 4u] = vec4f(v0.y, v1.y, v2.y, v3.y);
    tile_a[at + 2u * (BM / 4u)] = vec4f(v0.z, v1.z, v2.z, v3.z);
    tile_a[at + 3u * (BM / 4u)] = vec4f(v0.w, v1.w, v2.w, v3.w);
}

fn turn_b(t: u32, step: u32, block: Block) {
    let inside = step + t % QUADS_K < params.k / 4u;
    let v0 = select(vec4f(0.0), unpack(block.v0), inside);
    let v1 = select(vec4f(0.0), unpack(block.v1), inside);
    let v2 = select(vec4f(0.0), unpack(block.v2), inside);
    let v3 = select(vec4f(0.0), unpack(block.v3), inside);
    let at = (t % QUADS_K) * 4u * (BN / 4u) + ((t / QUADS_K) ^ swizzle(t % QUADS_K, BN / 4u));
    tile_b[at] = vec4f(v0.x, v1.x, v2.x, v3.x);
    tile_b[at + BN / 4u] = vec4f(v0.y, v1.y, v2.y, v3.y);
    tile_b[at + 2u * (BN / 4u)] = vec4f(v0.z, v1.z, v2.z, v3.z);
    tile_b[at + 3u * (BN / 4u)] = vec4f(v0.w, v1.w, v2.w, v3.w);
}

// Puts a block into workgroup memory as it is.
fn copy_a(t: u32, step: u32, block: Block) {
    let k = (step + t / (BM / 4u)) * 4u;
    let at = t / (BM / 4u) * 4u * (BM / 4u) + t % (BM / 4u);
    tile_a[at] = select(vec4f(0.0), unpack(block.v0), k < params.k);
    tile_a[at + BM / 4u] = select(vec4f(0.0), unpack(block.v1), k + 1u < params.k);
    tile_a[at + 2u * (BM / 4u)] = select(vec4f(0.0), unpack(block.v2), k + 2u < params.k);
    tile_a[at + 3u * (BM / 4u)] = select(vec4f(0.0), unpack(block.v3), k + 3u < params.k);
}

fn copy_b(t: u32, step: u32, block: Block) {
    let k = (step + t / (BN / 4u)) * 4u;
    let at = t / (BN / 4u) * 4u * (BN / 4u) + t % (BN / 4u);
    tile_b[at] = select(vec4f(0.0), unpack(block.v0), k < params.k);
    tile_b[at + BN / 4u] = select(vec4f(0.0), unpack(block.v1), k + 1u < params.k);
    tile_b[at + 2u * (BN / 4u)] = select(vec4f(0.0), unpack(block.v2), k + 2u < params.k);
    tile_b[at + 3u * (BN / 4u)] = select(vec4f(0.0), unpack(block.v3), k + 3u < params.k);
}

fn fetch_nt(t: u32, row: u32, column: u32, step: u32) -> Block {
    if (t < BLOCKS_A) {
        return along_k_a(t, row, step);
    }
    return along_k_b(t - BLOCKS_A, column, step);
}

@compute @workgroup_size(THREADS)
fn gemm_nt(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = (params.first + group.y) * BM;
    let first_column = group.x * BN;
    let at = place(lane);

    var sums: array<array<vec4f, OWN_N>, TM>;
    let first_step = 0u;
    var held: array<Block, EACH>;
    if (PREFETCH == 1u) {
        for (var i = 0u; i < EACH; i++) {
            if (i * THREADS + lane < BLOCKS) {
                held[i] = fetch_nt(i * THREADS + lane, first_row, first_column, first_step);
            }
        }
    }
    for (var step = first_step; step < params.k / 4u; step += QUADS_K) {
        for (var i = 0u; i < EACH; i++) {
            let t = i * THREADS + lane;
            if (t < BLOCKS_A) {
                if (PREFETCH == 0u) {
                    held[i] = along_k_a(t, first_row, step);
                }
                turn_a(t, step, held[i]);
            } else if (t < BLOCKS) {
                if (PREFETCH == 0u) {
                    held[i] = along_k_b(t - BLOCKS_A, first_column, step);
                }
                turn_b(t - BLOCKS_A, step, held[i]);
            }
        }
        workgroupBarrier();
        if (PREFETCH == 1u) {
            for (var i = 0u; i < EACH; i++) {
                if (i * THREADS + lane < BLOCKS) {
                    held[i] = fetch_nt(i * THREADS + lane, first_row, first_column, step + QUADS_K);
                }
            }
        }
        for (var k_start = 0u; k_start < BK; k_start += UNROLL) {
            // A constant that is added last becomes part of the instruction that reads.
            let at_a = k_start * (BM / 4u) + (at.x ^ swizzle(k_start / 4u, BM / 4u));
            let at_b = k_start * (BN / 4u) + (at.y ^ swizzle(k_start / 4u, BN / 4u));
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
        let row = first_row + ((i / 4u) * ALONG_M + at.x) * 4u + i % 4u;
        for (var j = 0u; j < TN / 4u; j++) {
            let quad = first_column / 4u + j * ALONG_N + at.y;
            if (row < params.m && quad < params.n / 4u) {
                finish(row, quad, sums[i][j]);
            }
        }
    }
}

fn fetch_nn(t: u32, row: u32, column: u32, step: u32) -> Block {
    if (t < BLOCKS_A) {
        return along_k_a(t, row, step);
    }
    return across_k_b(t - BLOCKS_A, column, step);
}

@compute @workgroup_size(THREADS)
fn gemm_nn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = (params.first + group.y) * BM;
    let first_column = group.x * BN;
    let at = place(lane);

    var sums: array<array<vec4f, OWN_N>, TM>;
    let first_step = 0u;
    var held: array<Block, EACH>;
    if (PREFETCH == 1u) {
        for (var i = 0u; i < EACH; i++) {
            if (i * THREADS + lane < BLOCKS) {
                held[i] = fetch_nn(i * THREADS + lane, first_row, first_column, first_step);
            }
        }
    }
    for (var step = first_step; step < params.k / 4u; step += QUADS_K) {
        for (var i = 0u; i < EACH; i++) {
            let t = i * THREADS + lane;
            if (t < BLOCKS_A) {
                if (PREFETCH == 0u) {
                    held[i] = along_k_a(t, first_row, step);
                }
                turn_a(t, step, held[i]);
            } else if (t < BLOCKS) {
                if (PREFETCH == 0u) {
                    held[i] = across_k_b(t - BLOCKS_A, first_column, step);
                }
                copy_b(t - BLOCKS_A, step, held[i]);
            }
        }
        workgroupBarrier();
        if (PREFETCH == 1u) {
            for (var i = 0u; i < EACH; i++) {
                if (i * THREADS + lane < BLOCKS) {
                    held[i] = fetch_nn(i * THREADS + lane, first_row, first_column, step + QUADS_K);
                }
            }
        }
        for (var k_start = 0u; k_start < BK; k_start += UNROLL) {
            // A constant that is added last becomes part of the instruction that reads.
            let at_a = k_start * (BM / 4u) + (at.x ^ swizzle(k_start / 4u, BM / 4u));
            let at_b = k_start * (BN / 4u) + at.y;
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
        let row = first_row + ((i / 4u) * ALONG_M + at.x) * 4u + i % 4u;
        for (var j = 0u; j < TN / 4u; j++) {
            let quad = first_column / 4u + j * ALONG_N + at.y;
            if (row < params.m && quad < params.n / 4u) {
                finish_backward(row, quad, sums[i][j]);
            }
        }
    }
}

fn fetch_tn(t: u32, row: u32, column: u32, step: u32) -> Block {
    if (t < BLOCKS_A) {
        return across_k_a(t, row, step);
    }
    return across_k_b(t - BLOCKS_A, column, step);
}

@compute @workgroup_size(THREADS)
fn gemm_tn(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first_row = (params.first + group.y) * BM;
    let first_column = group.x * BN;
    let at = place(lane);

    var sums: array<array<vec4f, OWN_N>, TM>;
    // The same for the whole workgroup: all of those at the left edge have seen all of their columns of a.
    let adds_up = HAS_COLUMN_SUM && group.x == 0u;
    var totals: array<vec4f, OWN_M>;
    let end = min((group.z + 1u) * params.depth, params.k);
    let first_step = group.z * params.depth / 4u;
    var held: array<Block, EACH>;
    if (PREFETCH == 1u) {
        for (var i = 0u; i < EACH; i++) {
            if (i * THREADS + lane < BLOCKS) {
                held[i] = fetch_tn(i * THREADS + lane, first_row, first_column, first_step);
            }
        }
    }
    for (var step = first_step; step < (end + 3u) / 4u; step += QUADS_K) {
        for (var i = 0u; i < EACH; i++) {
            let t = i * THREADS + lane;
            if (t < BLOCKS_A) {
                if (PREFETCH == 0u) {
                    held[i] = across_k_a(t, first_row, step);
                }
                copy_a(t, step, held[i]);
            } else if (t < BLOCKS) {
                if (PREFETCH == 0u) {
                    held[i] = across_k_b(t - BLOCKS_A, first_column, step);
                }
                copy_b(t - BLOCKS_A, step, held[i]);
            }
        }
        workgroupBarrier();
        if (PREFETCH == 1u) {
            for (var i = 0u; i < EACH; i++) {
                if (i * THREADS + lane < BLOCKS) {
                    held[i] = fetch_tn(i * THREADS + lane, first_row, first_column, step + QUADS_K);
                }
            }
        }
        for (var k_start = 0u; k_start < BK; k_start += UNROLL) {
            // A constant that is added last becomes part of the instruction that reads.
            let at_a = k_start * (BM / 4u) + at.x;
            let at_b = k_start * (BN / 4u) + at.y;
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
                    totals[i] += tile_a[k * (BM / 4u) + i * ALONG_M + at.x];
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let row = first_row + ((i / 4u) * ALONG_M + at.x) * 4u + i % 4u;
        for (var j = 0u; j < TN / 4u; j++) {
            let quad = first_column / 4u + j * ALONG_N + at.y;
            if (row < params.m && quad < params.n / 4u) {
                gradient[(group.z * params.m + row) * (params.n / 4u) + quad] = sums[i][j];
            }
        }
    }
    if (adds_up && at.y == 0u) {
        for (var i = 0u; i < TM; i++) {
            let row = first_row + ((i / 4u) * ALONG_M + at.x) * 4u + i % 4u;
            if (row < params.m) {
                column_sum[group.z * params.m + row] = totals[i / 4u][i % 4u];
            }
        }
    }
}
