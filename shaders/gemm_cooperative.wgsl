// Matrix product, the matrix-unit family: products of whole fragments by the adapter's own matrix units, where it has such.
//
//   forward    c[m,n] = epilogue(Σ_k a[m,k]·b[n,k])           C = A·Bᵀ, halves in, f32 sums; see gemm.wgsl for the buffers
//
// A workgroup owns BM × BN outputs, cut into blocks of 2 × 2 fragments of SIDE × SIDE; each of its subgroups, however many
// lanes that has, takes every so manieth block and multiplies straight from memory. Sums go through workgroup memory to the
// epilogue, because nobody knows which lane holds which of them. Where the last tile would stick out, it is moved back to end
// with the matrix: what two workgroups own, both write alike.
// The order in which a matrix unit adds up is its own: these are not the bits of the other families. So it is proved on the
// adapter before it is used, by sums of whole numbers, which come out the same in any order unless they are kept in halves.
// Error: |c - exact| ≤ (K + 1)·2⁻²³·Σ_k|a||b| before the epilogue: units may cut off instead of rounding.
// Limits: M ≥ BM, N ≥ BN, N a multiple of 4, K of SIDE. Halves alone.

enable wgpu_cooperative_matrix;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Element>;
@group(0) @binding(2) var<storage, read> b: array<Element>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read> scale: array<vec4f>;
@group(0) @binding(5) var<storage, read> residual: array<Quad>;
@group(0) @binding(6) var<storage, read_write> c: array<Quad>;
@group(0) @binding(7) var<storage, read_write> pre: array<Quad>;

const BM: u32 = 64;
const BN: u32 = 64;
// Of a fragment; the helper appended has its types, and says of what they are loaded: Element, EACH halves.
const SIDE: u32 = 16;

const THREADS = 128u;
const BLOCK = 2u * SIDE;
const BLOCKS_ALONG = BN / BLOCK;
const BLOCKS = (BM / BLOCK) * BLOCKS_ALONG;

var<workgroup> finished: array<f32, BM * BN>;

@compute @workgroup_size(THREADS)
fn gemm_nt(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let first_row = min(group.y * BM, params.m - BM);
    let first_column = min(group.x * BN, params.n - BN);
    let pitch = params.k / EACH;
    for (var block = subgroup; block < BLOCKS; block += subgroups) {
        let row = (block / BLOCKS_ALONG) * BLOCK;
        let column = (block % BLOCKS_ALONG) * BLOCK;
        var a_at = (first_row + row) * pitch;
        var b_at = (first_column + column) * pitch;
        // Four names and no array: SPIR-V has no arrays of fragments.
        var sum_00 = Sums();
        var sum_01 = Sums();
        var sum_10 = Sums();
        var sum_11 = Sums();
        for (var k = 0u; k < params.k; k += SIDE) {
            let left_0 = coopLoadT<Left>(&a[a_at], pitch);
            let left_1 = coopLoadT<Left>(&a[a_at + SIDE * pitch], pitch);
            // Rows of b are columns of the product's right side.
            let right_0 = coopLoad<Right>(&b[b_at], pitch);
            let right_1 = coopLoad<Right>(&b[b_at + SIDE * pitch], pitch);
            sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
            sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
            sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
            sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
            a_at += SIDE / EACH;
            b_at += SIDE / EACH;
        }
        let at = row * BN + column;
        coopStoreT(sum_00, &finished[at], BN);
        coopStoreT(sum_01, &finished[at + SIDE], BN);
        coopStoreT(sum_10, &finished[at + SIDE * BN], BN);
        coopStoreT(sum_11, &finished[at + SIDE * BN + SIDE], BN);
    }
    workgroupBarrier();

    for (var t = lane; t < BM * BN / 4u; t += THREADS) {
        let row = t / (BN / 4u);
        let quad = t % (BN / 4u);
        let at = 4u * t;
        let sum = vec4f(finished[at], finished[at + 1u], finished[at + 2u], finished[at + 3u]);
        finish(first_row + row, first_column / 4u + quad, sum);
    }
}
