// Streaming top-k: merges the nearest rows found so far with a tile of distances.
//
//   nearest'[q,:] = the k smallest, ascending, of
//                   nearest[q,:] ∪ {(distances[q,g], first + g) : start ≤ g < min(end, count)}
//   (d, i) < (e, j)  if  d < e, or d = e and i < j: of equal distances the lower index comes first
//
// distances (Q, G) read   tile (3) words read: first, count, 1 for the first tile and 0 otherwise
// nearest_distance (Q, k) and nearest_index (Q, k): nearest so far, read except for the first tile, written in place
// Unused slots hold FAR = 1e30 and NOBODY = 2³² - 1, which every row of the gallery precedes. They remain if the
// gallery has fewer than k rows. Distances that are not finite or exceed FAR are never kept.
//
// A workgroup of LANES invocations owns a query. In every round each invocation advances to its next distance that
// precedes the last kept one. These are ranked among each other, then they and all kept pairs move to their new slots
// at once. The slot of a pair is the number of pairs before it, so the result is exact and independent of the order of
// work.
// Source: parallel merge by rank; ties as in a sort by (distance, row).
// Limits: 1 ≤ k ≤ CAPACITY, a multiple of LANES; Q·G and Q·k below 2³²; first + count below 2³² - 1. A dispatch takes
// end - start ≤ 4096 columns: in the worst order an invocation takes 4096/LANES rounds of
// 2·LANES + log2 k + CAPACITY/LANES·(log2 LANES + 2) loop iterations, and Mesa's llvmpipe silently ends loops after
// 65,535.

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

const LANES: u32 = 64;
const CAPACITY: u32 = 64;

const EACH = CAPACITY / LANES;
const FAR: f32 = 1e30;
const NOBODY: u32 = 0xffffffffu;

// The k nearest so far, ascending.
var<workgroup> kept_distance: array<f32, CAPACITY>;
var<workgroup> kept_index: array<u32, CAPACITY>;
// Pairs found in this round: by invocation, then sorted.
var<workgroup> found_distance: array<f32, LANES>;
var<workgroup> found_index: array<u32, LANES>;
var<workgroup> sorted_distance: array<f32, LANES>;
var<workgroup> sorted_index: array<u32, LANES>;
var<workgroup> found: u32;

fn before(d: f32, i: u32, e: f32, j: u32) -> bool {
    return d < e || (d == e && i < j);
}

// Number of kept pairs before the given pair.
fn kept_before(distance: f32, index: u32) -> u32 {
    var low = 0u;
    var high = params.k;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (before(kept_distance[middle], kept_index[middle], distance, index)) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

// Number of the first `count` sorted pairs before the given pair.
fn sorted_before(distance: f32, index: u32, count: u32) -> u32 {
    var low = 0u;
    var high = count;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (before(sorted_distance[middle], sorted_index[middle], distance, index)) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

@compute @workgroup_size(LANES)
fn topk_merge(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let query = group.x + group.y * groups.x;
    // Uniform over the workgroup, so either all invocations reach the barriers below or none does.
    if (query >= params.queries) {
        return;
    }
    let home = query * params.k;
    for (var slot = lane; slot < params.k; slot += LANES) {
        kept_distance[slot] = FAR;
        kept_index[slot] = NOBODY;
        if (tile[2] == 0u || params.start > 0u) {
            kept_distance[slot] = nearest_distance[home + slot];
            kept_index[slot] = nearest_index[home + slot];
        }
    }
    workgroupBarrier();

    let row = query * params.gallery;
    let first = tile[0];
    let end = min(tile[1], params.end);
    var column = params.start + lane;
    loop {
        let last_distance = kept_distance[params.k - 1u];
        let last_index = kept_index[params.k - 1u];
        var distance = FAR;
        var index = NOBODY;
        while (column < end && index == NOBODY) {
            let candidate = distances[row + column];
            // Tests the bits: compilers may assume that no float is infinite or NaN.
            let finite = (bitcast<u32>(candidate) & 0x7f800000u) != 0x7f800000u;
            if (finite && before(candidate, first + column, last_distance, last_index)) {
                distance = candidate;
                index = first + column;
            }
            column += LANES;
        }
        found_distance[lane] = distance;
        found_index[lane] = index;
        workgroupBarrier();

        var rank = 0u;
        if (index != NOBODY) {
            for (var other = 0u; other < LANES; other++) {
                rank += select(0u, 1u, before(found_distance[other], found_index[other], distance, index));
            }
            sorted_distance[rank] = distance;
            sorted_index[rank] = index;
        }
        if (lane == 0u) {
            var total = 0u;
            for (var other = 0u; other < LANES; other++) {
                total += select(0u, 1u, found_index[other] != NOBODY);
            }
            found = total;
        }
        let joining = workgroupUniformLoad(&found);
        if (joining == 0u) {
            break;
        }

        // All slots are computed before any pair moves.
        let my_slot = rank + kept_before(distance, index);
        var moved_distance: array<f32, EACH>;
        var moved_index: array<u32, EACH>;
        var moved_slot: array<u32, EACH>;
        for (var i = 0u; i < EACH; i++) {
            let slot = i * LANES + lane;
            moved_slot[i] = params.k;
            if (slot < params.k) {
                moved_distance[i] = kept_distance[slot];
                moved_index[i] = kept_index[slot];
                moved_slot[i] = slot + sorted_before(moved_distance[i], moved_index[i], joining);
            }
        }
        workgroupBarrier();
        if (index != NOBODY && my_slot < params.k) {
            kept_distance[my_slot] = distance;
            kept_index[my_slot] = index;
        }
        for (var i = 0u; i < EACH; i++) {
            if (moved_slot[i] < params.k) {
                kept_distance[moved_slot[i]] = moved_distance[i];
                kept_index[moved_slot[i]] = moved_index[i];
            }
        }
        workgroupBarrier();
    }

    for (var slot = lane; slot < params.k; slot += LANES) {
        nearest_distance[home + slot] = kept_distance[slot];
        nearest_index[home + slot] = kept_index[slot];
    }
}
