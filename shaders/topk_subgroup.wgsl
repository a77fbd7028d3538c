// Streaming top-k of short lists, the subgroup family for CPU adapters: one subgroup per workgroup, no barrier, no
// workgroup memory.
//
//   nearest'[q,:] = the k smallest, ascending, of
//                   nearest[q,:] ∪ {(distances[q,g], first + g) : start ≤ g < min(end, count)}
//   (d, i) < (e, j)  if  d < e, or d = e and i < j      buffers, FAR, NOBODY and distances never kept: topk.wgsl
//
// A workgroup of SUB invocations owns a query. Its 64 nearest are kept in registers, EACH = 64/SUB neighbouring slots
// per lane. A bitonic network sorts 64 columns at a time. Of every kept slot and the mirrored slot of the sorted
// columns the smaller pair is kept: these are the 64 smallest of both lists. They are bitonic, and the last stage of
// the network sorts them. Slots EACH or more apart are in two lanes and are exchanged by subgroupShuffle. A network
// compares the same slots for any content, so the result is exact, and every order of distances takes the same time.
// Source: [Batcher 1968], sorting networks.
// Limits: 1 ≤ k ≤ 64; Q·G and Q·k below 2³²; first + count below 2³² - 1; every subgroup has exactly SUB lanes. A
// dispatch takes end - start ≤ 4096 columns, as in topk.wgsl.

struct Params {
    queries: u32,
    gallery: u32,
    k: u32,
    // Columns of this dispatch.
    start: u32,
    end: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> distances: array<f32>;
@group(0) @binding(2) var<storage, read> tile: array<u32>;
@group(0) @binding(3) var<storage, read_write> nearest_distance: array<f32>;
@group(0) @binding(4) var<storage, read_write> nearest_index: array<u32>;

const SUB: u32 = 8;

const CAPACITY = 64u;
const EACH = CAPACITY / SUB;
const FAR: f32 = 1e30;
const NOBODY: u32 = 0xffffffffu;

struct List {
    distance: array<f32, EACH>,
    index: array<u32, EACH>,
}

fn before(d: f32, i: u32, e: f32, j: u32) -> bool {
    return d < e || (d == e && i < j);
}

// One step of the network: of every two pairs `stride` slots apart, the smaller one moves to the lower slot; in every
// other run of `run` slots, the larger one does.
fn compare(list: ptr<function, List>, lane: u32, stride: u32, run: u32) {
    if (stride < EACH) {
        for (var low = 0u; low < EACH; low++) {
            if ((low & stride) == 0u) {
                let high = low + stride;
                let descending = ((lane * EACH + low) & run) != 0u;
                let d = (*list).distance[low];
                let i = (*list).index[low];
                let e = (*list).distance[high];
                let j = (*list).index[high];
                let swap = before(e, j, d, i) != descending;
                (*list).distance[low] = select(d, e, swap);
                (*list).index[low] = select(i, j, swap);
                (*list).distance[high] = select(e, d, swap);
                (*list).index[high] = select(j, i, swap);
            }
        }
    } else {
        let other = lane ^ (stride / EACH);
        for (var slot = 0u; slot < EACH; slot++) {
            let descending = ((lane * EACH + slot) & run) != 0u;
            let d = (*list).distance[slot];
            let i = (*list).index[slot];
            let e = subgroupShuffle(d, other);
            let j = subgroupShuffle(i, other);
            // The lower lane takes the smaller of two pairs, the other lane the larger one. Equal pairs are identical.
            let take = before(e, j, d, i) != (descending != (other < lane));
            (*list).distance[slot] = select(d, e, take);
            (*list).index[slot] = select(i, j, take);
        }
    }
}

// Stages that sort bitonic runs of 8 slots, and of 64.
fn sort_8(list: ptr<function, List>, lane: u32, run: u32) {
    compare(list, lane, 4u, run);
    compare(list, lane, 2u, run);
    compare(list, lane, 1u, run);
}

fn sort_64(list: ptr<function, List>, lane: u32) {
    compare(list, lane, 32u, CAPACITY);
    compare(list, lane, 16u, CAPACITY);
    compare(list, lane, 8u, CAPACITY);
    sort_8(list, lane, CAPACITY);
}

@compute @workgroup_size(SUB)
fn topk_merge(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let query = group.x + group.y * groups.x;
    // Uniform over the subgroup.
    if (query >= params.queries) {
        return;
    }
    let home = query * params.k;
    let kept_before = tile[2] == 0u || params.start > 0u;
    var kept: List;
    for (var slot = 0u; slot < EACH; slot++) {
        let at = lane * EACH + slot;
        kept.distance[slot] = FAR;
        kept.index[slot] = NOBODY;
        if (kept_before && at < params.k) {
            kept.distance[slot] = nearest_distance[home + at];
            kept.index[slot] = nearest_index[home + at];
        }
    }

    let row = query * params.gallery;
    let first = tile[0];
    let end = min(tile[1], params.end);
    for (var start = params.start; start < end; start += CAPACITY) {
        var found: List;
        for (var slot = 0u; slot < EACH; slot++) {
            let column = start + slot * SUB + lane;
            let distance = distances[row + min(column, end - 1u)];
            // Tests the bits: compilers may assume that no float is infinite or NaN.
            let finite = (bitcast<u32>(distance) & 0x7f800000u) != 0x7f800000u;
            let counts = column < end && finite && distance <= FAR;
            found.distance[slot] = select(FAR, distance, counts);
            found.index[slot] = select(NOBODY, first + column, counts);
        }
        compare(&found, lane, 1u, 2u);
        compare(&found, lane, 2u, 4u);
        compare(&found, lane, 1u, 4u);
        sort_8(&found, lane, 8u);
        compare(&found, lane, 8u, 16u);
        sort_8(&found, lane, 16u);
        compare(&found, lane, 16u, 32u);
        compare(&found, lane, 8u, 32u);
        sort_8(&found, lane, 32u);
        sort_64(&found, lane);

        for (var slot = 0u; slot < EACH; slot++) {
            let mirrored = EACH - 1u - slot;
            let d = subgroupShuffle(found.distance[mirrored], SUB - 1u - lane);
            let i = subgroupShuffle(found.index[mirrored], SUB - 1u - lane);
            let take = before(d, i, kept.distance[slot], kept.index[slot]);
            kept.distance[slot] = select(kept.distance[slot], d, take);
            kept.index[slot] = select(kept.index[slot], i, take);
        }
        sort_64(&kept, lane);
    }

    for (var slot = 0u; slot < EACH; slot++) {
        let at = lane * EACH + slot;
        if (at < params.k) {
            nearest_distance[home + at] = kept.distance[slot];
            nearest_index[home + at] = kept.index[slot];
        }
    }
}
