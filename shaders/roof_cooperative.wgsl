// The roof of matrix units: nothing but multiply-adds of fragments in registers; see roof.wgsl. No network uses it.
//
//   multiply_fragments: y[g, b, 2·i + j] = TOGETHER·turns · left[b, i] · right[j],  products of fragments, SIDE × SIDE
//
// operands (2·BLOCKS + 2, SIDE, SIDE) read: left[b, 0], left[b, 1] for every b, then right[0], right[1]; f16 in
// row-major order, the right operands transposed   y (groups, BLOCKS, 4, SIDE, SIDE) written: f32 in row-major order
// A workgroup owns BLOCKS blocks, which its subgroups share, whatever their size. A block has four independent sums, to
// which every iteration adds the same products: 4·TOGETHER·turns·2·SIDE³ operations in all. Blocks have different left
// operands, so that no compiler computes two at once. Every sum is stored, so that none is dropped.
// Error: that of a sum of TOGETHER·turns·SIDE products in the unit's own order; none for integers below 2²⁴.
// Source: [Roofline, Williams 2009 §3]. Limits: turns below 4,096; as many workgroups as y has room for; f16 alone.

enable wgpu_cooperative_matrix;

struct Params {
    turns: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> operands: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// Side of a fragment. The appended helper declares its types, and the type to load from: Element, with EACH f16.
const SIDE: u32 = 16;

const THREADS = 128u;
// One block per subgroup if subgroups have 8 lanes.
const BLOCKS = 16u;
// Links of a chain per iteration of the loop.
const TOGETHER = 8u;
const PITCH = SIDE / EACH;
const FRAGMENT = SIDE * PITCH;

@compute @workgroup_size(THREADS)
fn multiply_fragments(
    @builtin(workgroup_id) group: vec3u,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let right_at = 2u * BLOCKS * FRAGMENT;
    let right_0 = coopLoad<Right>(&operands[right_at], PITCH);
    let right_1 = coopLoad<Right>(&operands[right_at + FRAGMENT], PITCH);
    // Four variables instead of an array: SPIR-V has no arrays of fragments.
    var sum_00 = Sums();
    var sum_01 = Sums();
    var sum_10 = Sums();
    var sum_11 = Sums();
    for (var block = subgroup; block < BLOCKS; block += subgroups) {
        let left_at = 2u * block * FRAGMENT;
        let left_0 = coopLoadT<Left>(&operands[left_at], PITCH);
        let left_1 = coopLoadT<Left>(&operands[left_at + FRAGMENT], PITCH);
        sum_00 = Sums();
        sum_01 = Sums();
        sum_10 = Sums();
        sum_11 = Sums();
        for (var turn = 0u; turn < params.turns; turn++) {
            for (var link = 0u; link < TOGETHER; link++) {
                sum_00 = coopMultiplyAdd(left_0, right_0, sum_00);
                sum_01 = coopMultiplyAdd(left_0, right_1, sum_01);
                sum_10 = coopMultiplyAdd(left_1, right_0, sum_10);
                sum_11 = coopMultiplyAdd(left_1, right_1, sum_11);
            }
        }
        let at = (group.x * BLOCKS + block) * 4u * SIDE * SIDE;
        coopStoreT(sum_00, &y[at], SIDE);
        coopStoreT(sum_01, &y[at + SIDE * SIDE], SIDE);
        coopStoreT(sum_10, &y[at + 2u * SIDE * SIDE], SIDE);
        coopStoreT(sum_11, &y[at + 3u * SIDE * SIDE], SIDE);
    }
}
