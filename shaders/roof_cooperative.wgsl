// The roof of matrix units: nothing but multiply-adds of fragments in registers; see roof.wgsl. No network has it.
//
//   multiply_fragments: y[g, b, 2·i + j] = TOGETHER·turns · left[b, i] · right[j],  products of fragments, SIDE × SIDE
//
// operands (2·BLOCKS + 2, SIDE, SIDE) read: left[b, 0], left[b, 1] for every b, then right[0], right[1]; halves, in
// rows, those of the right sides turned          y (groups, BLOCKS, 4, SIDE, SIDE) written: f32, in rows
// A workgroup owns BLOCKS blocks; each of its subgroups, however many lanes that has, takes its share of them in turn.
// A block has four sums that don't wait for each other and grow by the same products in every turn, in all
// 4·TOGETHER·turns·2·SIDE³ operations. Blocks differ in their left sides, so that no compiler computes one for another,
// and every sum is stored, so that none is dropped.
// Error: that of a sum of TOGETHER·turns·SIDE products in the unit's own order; none for whole numbers below 2²⁴.
// Source: [Roofline, Williams 2009 §3]. Limits: turns below 4,096; as many workgroups as y has room for. Halves alone.

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

// Of a fragment; the helper appended has its types, and says of what they are loaded: Element, EACH halves.
const SIDE: u32 = 16;

const THREADS = 128u;
// A subgroup for each, if it has no more than 8 lanes.
const BLOCKS = 16u;
// Links of a chain in one turn of the loop.
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
    // Four names and no array: SPIR-V has no arrays of fragments.
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
