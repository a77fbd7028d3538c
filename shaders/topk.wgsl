// Streaming top-k: joins the nearest rows that are known so far with a tile of distances.
//
//   nearest'[q,:] = the k least of nearest[q,:] ∪ {(distances[q,g], first + g) : start ≤ g < min(end, count)}, ascending
//   (d, i) < (e, j)  if  d < e, or d = e and i < j: of equal distances the lower index comes first
//
// distances (Q, G) read   place (3: first, count, 1 in the beginning, else 0) read as words
// nearest_distance (Q, k) and nearest_index (Q, k) hold the nearest so far, save in the beginning: written in place
// Places that nothing has come to yet hold FAR = 1e30 and NOBODY = 2³² - 1, and every row of the gallery is before that. So
// do those left over when the gallery has fewer than k rows. What isn't finite, or is beyond FAR, is never kept.
// A workgroup of LANES invocations owns a query. In every round each invocation walks on to its next distance that belongs
// before the last one kept; those found are ranked among each other, then all of them and all kept move to their places
// at once. A pair's place is the number of pairs before it, so the result is exact and depends on no order of work.
// Source: merging by rank, as in textbooks' parallel merge; ties as in a sort by (distance, row). Limits: 1 ≤ k ≤ CAPACITY, a
// multiple of LANES; Q·G and Q·k below 2³²; first + count below 2³² - 1. A launch takes end - start ≤ 4096 columns: in the
// worst order an invocation makes 4096/LANES rounds of 2·LANES + log2 k + CAPACITY/LANES·(log2 LANES + 2) turns of its
// loops, and Mesa's llvmpipe silently ends them after 65,535.

struct Params {
    queries: u32,
    gallery: u32,
    k: u32,
    // Columns of this launch.
    start: u32,
    end: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> distances: array<f32>;
@group(0) @binding(2) var<storage, read> place: array<u32>;
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
// What this round found: by lane, and ascending.
var<workgroup> found_distance: array<f32, LANES>;
var<workgroup> found_index: array<u32, LANES>;
var<workgroup> sorted_distance: array<f32, LANES>;
var<workgroup> sorted_index: array<u32, LANES>;
var<workgroup> found: u32;

fn before(d: f32, i: u32, e: f32, j: u32) -> bool {
    return d < e || (d == e && i < j);
}

// How many of the kept pairs are before one.
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

// How many of the first `count` pairs found are before one.
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
    // The same for the whole workgroup, so the barriers below are met by all or none.
    if (query >= params.queries) {
        return;
    }
    let home = query * params.k;
    for (var slot = lane; slot < params.k; slot += LANES) {
        kept_distance[slot] = FAR;
        kept_index[slot] = NOBODY;
        if (place[2] == 0u || params.start > 0u) {
            kept_distance[slot] = nearest_distance[home + slot];
            kept_index[slot] = nearest_index[home + slot];
        }
    }
    workgroupBarrier();

    let row = query * params.gallery;
    let first = place[0];
    let end = min(place[1], params.end);
    var column = params.start + lane;
    loop {
        let last_distance = kept_distance[params.k - 1u];
        let last_index = kept_index[params.k - 1u];
        var distance = FAR;
        var index = NOBODY;
        while (column < end && index == NOBODY) {
            let candidate = distances[row + column];
            // By bits: adapters may assume that no float is infinite or NaN.
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

        // All places are worked out before anything moves.
        let my_place = rank + kept_before(distance, index);
        var moved_distance: array<f32, EACH>;
        var moved_index: array<u32, EACH>;
        var moved_place: array<u32, EACH>;
        for (var i = 0u; i < EACH; i++) {
            let slot = i * LANES + lane;
            moved_place[i] = params.k;
            if (slot < params.k) {
                moved_distance[i] = kept_distance[slot];
                moved_index[i] = kept_index[slot];
                moved_place[i] = slot + sorted_before(moved_distance[i], moved_index[i], joining);
            }
        }
        workgroupBarrier();
        if (index != NOBODY && my_place < params.k) {
            kept_distance[my_place] = distance;
            kept_index[my_place] = index;
        }
        for (var i = 0u; i < EACH; i++) {
            if (moved_place[i] < params.k) {
                kept_distance[moved_place[i]] = moved_distance[i];
                kept_index[moved_place[i]] = moved_index[i];
            }
        }
        workgroupBarrier();
    }

    for (var slot = lane; slot < params.k; slot += LANES) {
        nearest_distance[home + slot] = kept_distance[slot];
        nearest_index[home + slot] = kept_index[slot];
    }
}
