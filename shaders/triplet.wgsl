// Batch-hard triplet loss on whole images: each anchor with its farthest image of the same person and the nearest image
// of another person.
//
//   d[i,j] = √max(Σ_k (f[i,k] - f[j,k])², 1e-12)
//   p(i) = argmax_j d[i,j] over j ≠ i with label[j] = label[i]      n(i) = argmin_j d[i,j] over label[j] ≠ label[i]
//   loss[i] = max(0, z + margin), with z = d[i,p] - d[i,n]; 0 if i has no p or no n
//   soft margin: loss[i] = log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)); 0 if i has no p or no n
//   df, the gradient of (1/B) Σ_i loss[i], with u(a,b) = (f[a] - f[b])/d[a,b], or 0 where max took 1e-12:
//   every anchor i with a choice adds  (u(i,p) - u(i,n))·w/B to row i,  -u(i,p)·w/B to row p,  u(i,n)·w/B to row n
//   with w = dloss/dz: 1 where loss[i] > 0 with a margin, 1/(1 + exp(-z)) with the soft margin
//   both times the factor weight; f may be columns of longer rows
//
// distances: parts (B, L) read: f, L = R·D, the concatenated parts of an image, or one part of them
// distances (B, B) written
// mine:      labels (B) u32 read   measured (B, B) read   loss (B) written
//            choice (B) vec2u written: p and n, or NONE twice where w is 0
// backward:  parts (B, L) read   measured (B, B) read   chosen (B) vec2u read   control read: the loss scale
//            dparts (B, L) read and written: df times the loss scale is added
// measured and chosen are the distances and the choice that the earlier kernels have written.
//
// distances: one invocation owns a pair. It squares differences, because norms and products would cancel for close
// images. Four sums over every fourth k ascend and are added in a fixed order, so d[i,j] and d[j,i] have the same bits.
// Error of d ≤ (L/8 + 5)·2⁻²⁴·d.
// mine: one invocation owns an anchor. Of equal distances the first wins. If a distance is not finite, it becomes the
// loss, and there is no choice. Error of loss ≤ 2·2⁻²⁴·(d[i,p] + d[i,n] + margin), with the soft margin
// ≤ 16·2⁻²⁴·(d[i,p] + d[i,n] + 1).
// backward: one invocation owns a column k of all rows and processes the anchors in order, so no two invocations add to
// the same element. Error ≤ (A + 10)·2⁻²⁴·(|dparts| + Σ|u|/B) if A anchors add to a row, with the soft margin
// ≤ (A + 24)·2⁻²⁴·(|dparts| + Σ|u|·w·(1 + |z|)/B).
// Source: [Hermans 2017 §2.2, eq. 5, and its soft margin]. Limits: B² and B·L below 2³².

struct Params {
    batch: u32,
    length: u32,
    margin: f32,
    // 1 for the soft margin.
    soft: u32,
    // Element of the first row, and distance of the rows in elements.
    first: u32,
    stride: u32,
    weight: f32,
    unused: u32,
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
// The smallest distance and its square. A distance at this limit has no direction.
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
    let a = params.first + (pair / params.batch) * params.stride;
    let b = params.first + (pair % params.batch) * params.stride;

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

    // Compares the bits, which order non-negative floats like their values and keep a NaN.
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
    var pair = vec2u(NONE);
    if (farthest != NONE && nearest != NONE) {
        if (params.soft != 0u) {
            excess = softplus(most - least);
        } else {
            excess = max((most - least) + params.margin, 0.0);
        }
        if (excess > 0.0 || params.soft != 0u) {
            pair = vec2u(farthest, nearest);
        }
    }
    if (bad != NONE) {
        excess = measured[anchor * params.batch + bad];
        pair = vec2u(NONE);
    }
    loss[anchor] = params.weight * excess;
    choice[anchor] = pair;
}

// log(1 + exp(z)), finite for every z.
fn softplus(z: f32) -> f32 {
    return max(z, 0.0) + log(1.0 + exp(-abs(z)));
}

// Its derivative 1/(1 + exp(-z)).
fn sigmoid(z: f32) -> f32 {
    let small = exp(-abs(z));
    return select(small, 1.0, z >= 0.0) / (1.0 + small);
}

// 1/(B·d), or 0 if the distance has no direction.
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
    let scale = params.weight * bitcast<f32>(control[CONTROL_SCALE]);
    for (var anchor = 0u; anchor < params.batch; anchor++) {
        let pair = chosen[anchor];
        // Uniform over all invocations.
        if (pair.x == NONE) {
            continue;
        }
        let at = params.first + anchor * params.stride + column;
        let positive = params.first + pair.x * params.stride + column;
        let negative = params.first + pair.y * params.stride + column;
        let row = anchor * params.batch;
        let here = parts[at];
        let far = measured[row + pair.x];
        let near = measured[row + pair.y];
        var weight = scale;
        if (params.soft != 0u) {
            weight = scale * sigmoid(far - near);
        }
        let pull = weight * ((here - parts[positive]) * share(far));
        let push = weight * ((here - parts[negative]) * share(near));
        dparts[at] += pull - push;
        dparts[positive] -= pull;
        dparts[negative] += push;
    }
}
