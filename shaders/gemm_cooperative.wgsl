// Matrix product, the matrix-unit family: products of whole fragments on the adapter's matrix units.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ, f16 operands, f32 sums; buffers: gemm.wgsl
//
// A workgroup owns BM × BN outputs, divided into blocks of 2 × 2 fragments of SIDE × SIDE. In a round each subgroup, of
// any size, computes one block. The tile advances along k in steps of BK: BM rows of a and BN rows of b are copied to
// workgroup memory, and fragments are loaded from there. A staged row is 8 f16 longer than BK, so that the rows of a
// fragment begin at different banks. The next step is read into registers before the products of the current step,
// which hides the latency. Rows past the end repeat the last one and are not stored; k past the end is 0. Sums pass
// through workgroup memory to the epilogue, one fragment of each block at a time, because the layout of a fragment's
// elements over lanes is unspecified.
//
// An output sums fragments in ascending order of k, for any m, n and tile, so it does not depend on the other rows. The
// order within a fragment is the hardware's own, so the bits differ from those of the other families. The family is
// therefore validated on the adapter before use: by sums of integers, which are exact in any order unless they are
// stored in f16, and by a product with an epilogue.
// Error: |c - exact| ≤ (K + 1)·2⁻²³·Σ_k|a||b| before the epilogue, because units may truncate instead of rounding.
// Limits: N and K multiples of 4; BK a multiple of SIDE; f16 alone; workgroup memory 2·(BM + BN)·(BK + 8) + BM·BN
// bytes.

enable wgpu_cooperative_matrix;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
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

const BM: u32 = 64;
const BN: u32 = 64;
const BK: u32 = 32;
// Side of a fragment. The appended helper declares its types, and the type to load from: Element, with EACH f16.
const SIDE: u32 = 16;

const THREADS = 128u;
const BLOCK = 2u * SIDE;
const BLOCKS_ALONG = BN / BLOCK;
const BLOCKS = (BM / BLOCK) * BLOCKS_ALONG;
// f16 from one row of the stage to the next.
const PITCH = BK + 8u;
// Quads per step that an invocation copies.
const MOVES = (BM + BN) * (BK / 4u) / THREADS;

// BM rows of a, then BN of b.
var<workgroup> staged: array<Element, (BM + BN) * PITCH / EACH>;
// One fragment of each block.
var<workgroup> finished: array<f32, BLOCKS * SIDE * SIDE>;

// Reads quad t of a step. The first rows of the step are row `first.x` of a and, after BM rows, row `first.y` of b.
fn fetch(t: u32, first: vec2u, k: u32) -> Quad {
    let quads = params.k / 4u;
    let row = t / (BK / 4u);
    let quad = k / 4u + t % (BK / 4u);
    let column = min(quad, quads - 1u);
    var read: Quad;
    if (row < BM) {
        read = a[min(first.x + row, params.m - 1u) * quads + column];
    } else {
        read = b[min(first.y + row - BM, params.n - 1u) * quads + column];
    }
    return select(Quad(), read, vec4<bool>(quad < quads));
}

// Stores the fragments in `finished` that belong to the blocks of this round, at offset `within` of each block.
fn store(lane: u32, round: u32, end: u32, first: vec2u, within: vec2u) {
    for (var t = lane; t < BLOCKS * SIDE * SIDE / 4u; t += THREADS) {
        let block = t / (SIDE * SIDE / 4u);
        let place = t % (SIDE * SIDE / 4u);
        let row = first.x + block / BLOCKS_ALONG * BLOCK + within.x + place / (SIDE / 4u);
        let column = first.y + block % BLOCKS_ALONG * BLOCK + within.y + place % (SIDE / 4u) * 4u;
        if (block >= round && block < end && row < params.m && column < params.n) {
            let at = 4u * t;
            let sum = vec4f(finished[at], finished[at + 1u], finished[at + 2u], finished[at + 3u]);
            finish(row, column / 4u, sum);
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm_nt(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let first = vec2u((params.first + group.y) * BM, group.x * BN);
    // Four variables instead of an array: SPIR-V has no arrays of fragments. They are set to 0 in the loop, because a
    // compiler was seen that initialises variables declared in a loop only once.
    var sum_00 = Sums();
    var sum_01 = Sums();
    var sum_10 = Sums();
    var sum_11 = Sums();
    var held: array<Quad, MOVES>;
    for (var round = 0u; round < BLOCKS; round += subgroups) {
        // Subgroups without a block compute and store the last one too, with the same result.
        let block = min(round + subgroup, BLOCKS - 1u);
        let end = round + subgroups;
        let row = block / BLOCKS_ALONG * BLOCK;
        let column = block % BLOCKS_ALONG * BLOCK;
        sum_00 = Sums();
        sum_01 = Sums();
        sum_10 = Sums();
        sum_11 = Sums();
        for (var i = 0u; i < MOVES; i++) {
            held[i] = fetch(i * THREADS + lane, first, 0u);
        }
        for (var k = 0u; k < params.k; k += BK) {
            for (var i = 0u; i < MOVES; i++) {
                let t = i * THREADS + lane;
                stage(t / (BK / 4u) * PITCH + t % (BK / 4u) * 4u, held[i]);
            }
            workgroupBarrier();
            for (var i = 0u; i < MOVES; i++) {
                held[i] = fetch(i * THREADS + lane, first, k + BK);
            }
            let pitch = PITCH / EACH;
            for (var i = 0u; i < BK; i += SIDE) {
                let a_0 = (row * PITCH + i) / EACH;
                let a_1 = ((row + SIDE) * PITCH + i) / EACH;
                let b_0 = ((BM + column) * PITCH + i) / EACH;
                let b_1 = ((BM + column + SIDE) * PITCH + i) / EACH;
                let left_0 = coopLoadT<Left>(&staged[a_0], pitch);
                let left_1 = coopLoadT<Left>(&staged[a_1], pitch);
                // Rows of b are columns of the right operand.
                let right_0 = coopLoad<Right>(&staged[b_0], pitch);
                let right_1 = coopLoad<Right>(&staged[b_1], pitch);
                sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
                sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
                sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
                sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
            }
            workgroupBarrier();
        }

        let at = block * SIDE * SIDE;
        let side = SIDE;
        coopStoreT(sum_00, &finished[at], side);
        workgroupBarrier();
        store(lane, round, end, first, vec2u(0u, 0u));
        workgroupBarrier();
        coopStoreT(sum_01, &finished[at], side);
        workgroupBarrier();
        store(lane, round, end, first, vec2u(0u, SIDE));
        workgroupBarrier();
        coopStoreT(sum_10, &finished[at], side);
        workgroupBarrier();
        store(lane, round, end, first, vec2u(SIDE, 0u));
        workgroupBarrier();
        coopStoreT(sum_11, &finished[at], side);
        workgroupBarrier();
        store(lane, round, end, first, vec2u(SIDE, SIDE));
        workgroupBarrier();
    }
}
