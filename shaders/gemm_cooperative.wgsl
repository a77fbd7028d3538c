// Matrix product, the matrix-unit family: products of whole fragments on the adapter's matrix units.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ, f16 operands, f32 sums; see gemm.wgsl for the
//                                                             buffers and for the backward forms NN and TN
//
// A workgroup owns a tile of BM × BN outputs, a subgroup a block of DOWN × ALONG fragments of SIDE × SIDE. There is a
// subgroup of LANES invocations for every block; further ones repeat the last block, with the same result. The tile
// advances along k in steps of BK: BM rows of a and BN columns of b are copied to workgroup memory, and fragments are
// loaded from there. They are copied in blocks of 4 × 4 f16, first those of a, then those of b. All k of a row or column
// are neighbours there: an operand whose rows run along m or n is transposed on the way, b in NN, both in TN. A staged
// row is 8 f16 longer than BK, so that neighbouring rows begin at different banks and every row at a multiple of 16
// bytes. The next step is read into registers before the products of the current step, which hides the latency. Rows
// past the end repeat the last one and are not stored; k past the end is 0.
//
// Sums of NT and NN pass through workgroup memory to the epilogue, SHOWN fragments of each block at a time, because the
// layout of a fragment's elements over lanes is unspecified. Sums of TN are stored directly, except at the edges.
//
// An output sums fragments in ascending order of k, for any m, n and tile, so it does not depend on the other rows. The
// order within a fragment is the hardware's own, so the bits differ from those of the other families. The family is
// therefore validated on the adapter before use, form by form. Column sums are added as in the other families.
// Error: |c - exact| ≤ (K + 1)·2⁻²³·Σ_k|a||b| before the epilogue, because units may truncate instead of rounding.
// Limits: NT, NN: K and N multiples of 4; TN: M and N. BM and BN multiples of a block's sides; f16 alone; workgroup memory
// 2·(BM + BN)·(BK + 8) + 4·BLOCKS·SIDE·ROW bytes.

enable wgpu_cooperative_matrix;

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
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(4) var<storage, read> kept: array<Quad>;
@group(0) @binding(4) var<storage, read_write> column_sum: array<f32>;

override HAS_COLUMN_SUM: bool = false;

// Side of a fragment. The appended helper declares its types, and the type to load from: Element, with EACH f16.
const SIDE: u32 = 16;
const LANES: u32 = 32;
const BM: u32 = 128;
const BN: u32 = 128;
const DOWN: u32 = 4;
const ALONG: u32 = 4;

const BK = 32u;
const QUADS_K = BK / 4u;
const BLOCKS_ALONG = BN / (ALONG * SIDE);
const BLOCKS = BM / (DOWN * SIDE) * BLOCKS_ALONG;
const THREADS = BLOCKS * LANES;
// From one row of the stage to the next: f16 and elements.
const PITCH = BK + 8u;
const STRIDE = PITCH / EACH;
// Blocks of 4 × 4 f16 per step of a and of b, and those that an invocation copies.
const COPIES_A = BM / 4u * QUADS_K;
const COPIES_B = BN / 4u * QUADS_K;
const OWN_A = (COPIES_A + THREADS - 1u) / THREADS;
const OWN_B = (COPIES_B + THREADS - 1u) / THREADS;
// Rows of a whose sum an invocation adds up.
const OWN_ROWS = (BM + THREADS - 1u) / THREADS;
// Neighbouring fragments of a block that are finished at once, and f32 from one row of them to the next.
const SHOWN = select(1u, 2u, ALONG % 2u == 0u && BLOCKS * SIDE * SIDE <= 1024u);
const ROW = SHOWN * SIDE + 4u;
const_assert THREADS % QUADS_K == 0u;

// BM rows of a, then BN columns of b.
var<workgroup> staged: array<Element, (BM + BN) * PITCH / EACH>;
// SHOWN fragments of each block.
var<workgroup> finished: array<f32, BLOCKS * SIDE * ROW>;

const FOUR = vec4u(0u, 1u, 2u, 3u);

// Four neighbouring quads: of rows of m or n if the operand's rows run along k, otherwise of rows of k.
struct Block {
    v0: Quad,
    v1: Quad,
    v2: Quad,
    v3: Quad,
}

// Block t of an operand in memory, whose lines run along k if `along_k`, otherwise along m or n.
struct Source {
    // Index of its quads at k = 0. If `along_k`, without the column.
    first: vec4u,
    // If not `along_k`: index of the last quad of the column.
    last: u32,
}

// `size` is the number of the operand's rows or columns, `first` the one at which the tile begins.
fn source_of(t: u32, along_k: bool, size: u32, first: u32) -> Source {
    let row = first + t / QUADS_K * 4u;
    if (along_k) {
        return Source(min(vec4u(row) + FOUR, vec4u(size - 1u)) * (params.k / 4u), 0u);
    }
    let quads = size / 4u;
    let quad = min(row / 4u, quads - 1u);
    return Source((vec4u(t % QUADS_K * 4u) + FOUR) * quads + vec4u(quad), (params.k - 1u) * quads + quad);
}

// Indices of the quads of block t at k. Past the end of k the last ones repeat.
fn quads_of(source: Source, t: u32, along_k: bool, size: u32, k: u32) -> vec4u {
    if (along_k) {
        return source.first + vec4u(min(k / 4u + t % QUADS_K, params.k / 4u - 1u));
    }
    return min(source.first + vec4u(k * (size / 4u)), vec4u(source.last));
}

// Copies block t of an operand to its part of the stage, which begins at row `start`: four rows or columns, four k of
// each. Values of k past `end` become 0 if `clears`, which one operand of a product needs.
fn put(t: u32, along_k: bool, start: u32, block: Block, clears: bool, k: u32, end: u32) {
    let first = k + t % QUADS_K * 4u;
    let at = (start + t / QUADS_K * 4u) * (PITCH / 4u) + t % QUADS_K;
    var rows = block;
    if (clears) {
        // With `along_k` all four k of a quad are inside or all are outside.
        let next = select(1u, 0u, along_k);
        rows.v0 = select(Quad(), rows.v0, first < end);
        rows.v1 = select(Quad(), rows.v1, first + next < end);
        rows.v2 = select(Quad(), rows.v2, first + 2u * next < end);
        rows.v3 = select(Quad(), rows.v3, first + 3u * next < end);
    }
    if (!along_k) {
        rows = Block(
            Quad(rows.v0.x, rows.v1.x, rows.v2.x, rows.v3.x),
            Quad(rows.v0.y, rows.v1.y, rows.v2.y, rows.v3.y),
            Quad(rows.v0.z, rows.v1.z, rows.v2.z, rows.v3.z),
            Quad(rows.v0.w, rows.v1.w, rows.v2.w, rows.v3.w),
        );
    }
    store_quad(at, rows.v0);
    store_quad(at + PITCH / 4u, rows.v1);
    store_quad(at + 2u * (PITCH / 4u), rows.v2);
    store_quad(at + 3u * (PITCH / 4u), rows.v3);
}

fn fetch_a(source: Source, t: u32, along_k: bool, k: u32) -> Block {
    let at = quads_of(source, t, along_k, params.m, k);
    return Block(a[at.x], a[at.y], a[at.z], a[at.w]);
}

fn fetch_b(source: Source, t: u32, along_k: bool, k: u32) -> Block {
    let at = quads_of(source, t, along_k, params.n, k);
    return Block(b[at.x], b[at.y], b[at.z], b[at.w]);
}

// First row and column of a subgroup's block within the tile.
fn block_of(subgroup: u32) -> vec2u {
    let block = min(subgroup, BLOCKS - 1u);
    return vec2u(block / BLOCKS_ALONG * DOWN, block % BLOCKS_ALONG * ALONG) * SIDE;
}

// Adds the products of the block at `block`, for the tile at row and column `first` and k from `ks.x` to `ks.y`.
// `along_k` is (a, b). If `adds_up`, adds the row sums of the staged a to `totals`.
fn add_products(
    sums: ptr<function, array<Sums, DOWN * ALONG>>,
    totals: ptr<function, array<f32, OWN_ROWS>>,
    adds_up: bool,
    along_k: vec2<bool>,
    first: vec2u,
    ks: vec2u,
    lane: u32,
    block: vec2u,
) {
    // Invocations that copy no block of a begin with those of b.
    let lane_b = (lane + THREADS - COPIES_A % THREADS) % THREADS;
    var sources_a: array<Source, OWN_A>;
    var sources_b: array<Source, OWN_B>;
    var held_a: array<Block, OWN_A>;
    var held_b: array<Block, OWN_B>;
    for (var i = 0u; i < OWN_A; i++) {
        let t = i * THREADS + lane;
        sources_a[i] = source_of(t, along_k.x, params.m, first.x);
        held_a[i] = fetch_a(sources_a[i], t, along_k.x, ks.x);
    }
    for (var i = 0u; i < OWN_B; i++) {
        let t = i * THREADS + lane_b;
        sources_b[i] = source_of(t, along_k.y, params.n, first.y);
        held_b[i] = fetch_b(sources_b[i], t, along_k.y, ks.x);
    }
    for (var i = 0u; i < DOWN * ALONG; i++) {
        (*sums)[i] = Sums();
    }
    for (var k = ks.x; k < ks.y; k += BK) {
        for (var i = 0u; i < OWN_A; i++) {
            let t = i * THREADS + lane;
            if (COPIES_A % THREADS == 0u || t < COPIES_A) {
                put(t, along_k.x, 0u, held_a[i], true, k, ks.y);
            }
        }
        for (var i = 0u; i < OWN_B; i++) {
            let t = i * THREADS + lane_b;
            if (COPIES_B % THREADS == 0u || t < COPIES_B) {
                put(t, along_k.y, BM, held_b[i], false, k, ks.y);
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < OWN_A; i++) {
            let t = i * THREADS + lane;
            if (COPIES_A % THREADS == 0u || t < COPIES_A) {
                held_a[i] = fetch_a(sources_a[i], t, along_k.x, k + BK);
            }
        }
        for (var i = 0u; i < OWN_B; i++) {
            let t = i * THREADS + lane_b;
            if (COPIES_B % THREADS == 0u || t < COPIES_B) {
                held_b[i] = fetch_b(sources_b[i], t, along_k.y, k + BK);
            }
        }
        let pitch = STRIDE;
        for (var i = 0u; i < BK / EACH; i += SIDE / EACH) {
            // The constant offset is added last, so that it becomes part of the load instruction.
            var right: array<Right, ALONG>;
            for (var j = 0u; j < ALONG; j++) {
                let at = block.y * STRIDE + ((BM + j * SIDE) * STRIDE + i);
                right[j] = coopLoad<Right>(&staged[at], pitch);
            }
            for (var d = 0u; d < DOWN; d++) {
                let at = block.x * STRIDE + (d * SIDE * STRIDE + i);
                let left = coopLoadT<Left>(&staged[at], pitch);
                for (var j = 0u; j < ALONG; j++) {
                    (*sums)[d * ALONG + j] = coopMultiplyAdd(left, right[j], (*sums)[d * ALONG + j]);
                }
            }
        }
        if (adds_up) {
            for (var i = 0u; i < OWN_ROWS; i++) {
                let row = min(i * THREADS + lane, BM - 1u);
                for (var quad = 0u; quad < QUADS_K; quad++) {
                    let four = vec4f(load_quad(row * (PITCH / 4u) + quad));
                    (*totals)[i] = (((*totals)[i] + four.x) + four.y) + four.z + four.w;
                }
            }
        }
        workgroupBarrier();
    }
}

// Copies the fragments from `d`, `j` of the block on to `finished`.
fn show(sums: ptr<function, array<Sums, DOWN * ALONG>>, d: u32, j: u32, subgroup: u32) {
    for (var i = 0u; i < SHOWN; i++) {
        let at = min(subgroup, BLOCKS - 1u) * SIDE * ROW + i * SIDE;
        let row = ROW;
        coopStoreT((*sums)[d * ALONG + j + i], &finished[at], row);
    }
}

// Four sums in `finished`, and their row and column in the tile.
struct Four {
    place: vec2u,
    sum: vec4f,
}

// Number of quads of sums in `finished`.
const FOURS = BLOCKS * SIDE * SHOWN * SIDE / 4u;

fn four(t: u32, d: u32, j: u32) -> Four {
    let each = SIDE * SHOWN * SIDE / 4u;
    let block = block_of(t / each);
    let row = t % each / (SHOWN * SIDE / 4u);
    let column = t % (SHOWN * SIDE / 4u) * 4u;
    let at = (t / each * SIDE + row) * ROW + column;
    let sum = vec4f(finished[at], finished[at + 1u], finished[at + 2u], finished[at + 3u]);
    return Four(vec2u(block.x + d * SIDE + row, block.y + j * SIDE + column), sum);
}

@compute @workgroup_size(THREADS)
fn gemm_nt(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let first = vec2u((params.first + group.y) * BM, group.x * BN);
    var sums: array<Sums, DOWN * ALONG>;
    var totals: array<f32, OWN_ROWS>;
    let ks = vec2u(0u, params.k);
    add_products(&sums, &totals, false, vec2<bool>(true, true), first, ks, lane, block_of(subgroup));
    for (var d = 0u; d < DOWN; d++) {
        for (var j = 0u; j < ALONG; j += SHOWN) {
            show(&sums, d, j, subgroup);
            workgroupBarrier();
            for (var t = lane; t < FOURS; t += THREADS) {
                let found = four(t, d, j);
                let place = first + found.place;
                if (place.x < params.m && place.y < params.n) {
                    finish(place.x, place.y / 4u, found.sum);
                }
            }
            workgroupBarrier();
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm_nn(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let first = vec2u((params.first + group.y) * BM, group.x * BN);
    var sums: array<Sums, DOWN * ALONG>;
    var totals: array<f32, OWN_ROWS>;
    let ks = vec2u(0u, params.k);
    add_products(&sums, &totals, false, vec2<bool>(true, false), first, ks, lane, block_of(subgroup));
    for (var d = 0u; d < DOWN; d++) {
        for (var j = 0u; j < ALONG; j += SHOWN) {
            show(&sums, d, j, subgroup);
            workgroupBarrier();
            for (var t = lane; t < FOURS; t += THREADS) {
                let found = four(t, d, j);
                let place = first + found.place;
                if (place.x < params.m && place.y < params.n) {
                    finish_backward(place.x, place.y / 4u, found.sum);
                }
            }
            workgroupBarrier();
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm_tn(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let first = vec2u((params.first + group.y) * BM, group.x * BN);
    let block = block_of(subgroup);
    var sums: array<Sums, DOWN * ALONG>;
    // Uniform over the workgroup. Workgroups at the left edge read all k of their columns of a.
    let adds_up = HAS_COLUMN_SUM && group.x == 0u;
    var totals = array<f32, OWN_ROWS>();
    let ks = vec2u(group.z * params.depth, min((group.z + 1u) * params.depth, params.k));
    add_products(&sums, &totals, adds_up, vec2<bool>(false, false), first, ks, lane, block);
    let slice = group.z * params.m;
    if (adds_up) {
        for (var i = 0u; i < OWN_ROWS; i++) {
            let row = i * THREADS + lane;
            if (row < BM && first.x + row < params.m) {
                column_sum[slice + first.x + row] = totals[i];
            }
        }
    }
    if (first.x + BM <= params.m && first.y + BN <= params.n) {
        for (var d = 0u; d < DOWN; d++) {
            for (var j = 0u; j < ALONG; j++) {
                let at = (slice + first.x + block.x + d * SIDE) * params.n + first.y + block.y + j * SIDE;
                let row = params.n;
                coopStoreT(sums[d * ALONG + j], &gradient[at], row);
            }
        }
        return;
    }
    for (var d = 0u; d < DOWN; d++) {
        for (var j = 0u; j < ALONG; j += SHOWN) {
            show(&sums, d, j, subgroup);
            workgroupBarrier();
            for (var t = lane; t < FOURS; t += THREADS) {
                let found = four(t, d, j);
                let place = first + found.place;
                if (place.x < params.m && place.y < params.n) {
                    let at = (slice + place.x) * params.n + place.y;
                    gradient[at] = found.sum.x;
                    gradient[at + 1u] = found.sum.y;
                    gradient[at + 2u] = found.sum.z;
                    gradient[at + 3u] = found.sum.w;
                }
            }
            workgroupBarrier();
        }
    }
}
