// Batch-hard triplet loss on whole images: every anchor with its farthest image of the same person and the nearest of another.
//
//   d[i,j] = √max(Σ_k (f[i,k] - f[j,k])², 1e-12)
//   p(i) = argmax_j d[i,j] over j ≠ i with label[j] = label[i]      n(i) = argmin_j d[i,j] over label[j] ≠ label[i]
//   loss[i] = max(0, d[i,p] - d[i,n] + margin), and 0 where i has no p or no n
//   with u(a,b) = (f[a] - f[b])/d[a,b], 0 where max took 1e-12, and the sum over anchors with a loss above 0:
//   df = (1/B) Σ_i of  u(i,p) - u(i,n) in row i, -u(i,p) in row p, u(i,n) in row n      the gradient of (1/B) Σ_i loss[i]
//
// distances: parts (B, L) read, L = R·D: the parts of an image one behind the other   distances (B, B) written
// mine:      labels (B) u32 read   measured (B, B) read   loss (B) written   choice (B) vec2u written: p and n, or NONE twice
//            where the loss is 0
// backward:  parts (B, L) read   measured (B, B) read   chosen (B) vec2u read   dparts (B, L) read and written: df times the
//            loss's scale is added   control read: that scale
// What is written as distances and choice is read again as measured and chosen.
// distances: one invocation owns a pair. Differences are taken before they are squared (norms and products would cancel
// for near images); four sums of every fourth k ascend and are added in one order, so d[i,j] and d[j,i] are the same to
// the bit. Error of d ≤ (L/8 + 5)·2⁻²⁴·d. mine: one invocation owns an anchor; of equal distances the first wins. Error of
// loss ≤ 2·2⁻²⁴·(d[i,p] + d[i,n] + margin). A distance that isn't finite stands in the loss as it is, without a choice.
// backward: one invocation owns a column k of all rows and goes through the anchors in order: what it adds to a row it
// has to itself. Error ≤ (A + 10)·2⁻²⁴·(|dparts| + Σ|u|/B) for A anchors that meet in a row.
// Source: [Hermans 2017 §2.2, eq. 5]. Limits: B² and B·L below 2³².

struct Params {
    batch: u32,
    length: u32,
    margin: f32,
    unused_0: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> distances: array<f32>;

@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> measured: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> choice: array<vec2u>;

@group(0) @binding(3) var<storage, read> chosen: array<vec2u>;
@group(0) @binding(4) var<storage, read_write> dparts: array<f32>;
@group(0) @binding(5) var<storage, read> control: array<u32>;

const THREADS: u32 = 64;
// The least distance and its square: below it a distance has no direction.
const LEAST: f32 = 1e-6;
const LEAST_SQUARED: f32 = 1e-12;
const NONE: u32 = 0xffffffffu;

@compute @workgroup_size(THREADS)
fn triplet_distances(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = (group.x + group.y * groups.x) * THREADS + lane;
    if (pair >= params.batch * params.batch) {
        return;
    }
    let length = params.length;
    let a = (pair / params.batch) * length;
    let b = (pair % params.batch) * length;

    var sums = vec4f(0.0);
    let whole = length - length % 4u;
    for (var k = 0u; k < whole; k += 4u) {
        let first = vec4f(parts[a + k], parts[a + k + 1u], parts[a + k + 2u], parts[a + k + 3u]);
        let second = vec4f(parts[b + k], parts[b + k + 1u], parts[b + k + 2u], parts[b + k + 3u]);
        let difference = first - second;
        sums = fma(difference, difference, sums);
    }
    var squared = (sums.x + sums.y) + (sums.z + sums.w);
    for (var k = whole; k < length; k++) {
        let difference = parts[a + k] - parts[b + k];
        squared = fma(difference, difference, squared);
    }

    // By bits, which order floats that aren't negative: a NaN stays what it is.
    var distance = LEAST;
    if (bitcast<u32>(squared) > bitcast<u32>(LEAST_SQUARED)) {
        distance = sqrt(squared);
    }
    distances[pair] = distance;
}

@compute @workgroup_size(THREADS)
fn triplet_mine(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let anchor = (group.x + group.y * groups.x) * THREADS + lane;
    if (anchor >= params.batch) {
        return;
    }
    let label = labels[anchor];
    var farthest = NONE;
    var most = 0.0;
    var nearest = NONE;
    var least = 0.0;
    var bad = NONE;
    for (var other = 0u; other < params.batch; other++) {
        let distance = measured[anchor * params.batch + other];
        if (!is_finite(bitcast<u32>(distance))) {
            bad = other;
        }
        if (labels[other] != label) {
            if (nearest == NONE || distance < least) {
                nearest = other;
                least = distance;
            }
        } else if (other != anchor && (farthest == NONE || distance > most)) {
            farthest = other;
            most = distance;
        }
    }

    var excess = 0.0;
    if (farthest != NONE && nearest != NONE) {
        excess = max((most - least) + params.margin, 0.0);
    }
    var pair = vec2u(NONE);
    if (excess > 0.0) {
        pair = vec2u(farthest, nearest);
    }
    if (bad != NONE) {
        excess = measured[anchor * params.batch + bad];
        pair = vec2u(NONE);
    }
    loss[anchor] = excess;
    choice[anchor] = pair;
}

// 1/(B·d), 0 where the distance has no direction.
fn share(distance: f32) -> f32 {
    if (distance > LEAST) {
        return 1.0 / (f32(params.batch) * distance);
    }
    return 0.0;
}

@compute @workgroup_size(THREADS)
fn triplet_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = (group.x + group.y * groups.x) * THREADS + lane;
    if (column >= params.length) {
        return;
    }
    let scale = bitcast<f32>(control[CONTROL_SCALE]);
    for (var anchor = 0u; anchor < params.batch; anchor++) {
        let pair = chosen[anchor];
        // The same for all invocations.
        if (pair.x == NONE) {
            continue;
        }
        let at = anchor * params.length + column;
        let positive = pair.x * params.length + column;
        let negative = pair.y * params.length + column;
        let row = anchor * params.batch;
        let here = parts[at];
        let pull = scale * ((here - parts[positive]) * share(measured[row + pair.x]));
        let push = scale * ((here - parts[negative]) * share(measured[row + pair.y]));
        dparts[at] += pull - push;
        dparts[positive] -= pull;
        dparts[negative] += push;
    }
}
