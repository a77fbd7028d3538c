// Update of the prototypes: one vector per person, a moving average of the person's embeddings.
//
//   m[k] = unit(momentum·m[k] + (1 - momentum)·x[b]) for each image b with label[b] = k, in the order of the batch
//   HARD: once, with the image whose similarity m[k]·x[b] is the lowest; the first of equal ones
//   memory[k] = m[k]/temperature, so that memory·x are logits      unit(v) = v/max(‖v‖, 1e-12)
//
// labels (B) u32 read   embeddings (B, L) read: x, of unit length   memory (K, L) read and written
// control read: the update is skipped if the step does not count
// A workgroup of LANES invocations owns the person of image b if b is the first image of that person in the batch. Each
// invocation owns every LANES-th element. Error of memory ≤ (L/LANES + log2 LANES + 12)·n·2⁻²⁴/temperature after n images.
// The gradient of the loss treats the memory as constant, so there is no backward kernel.
// Source: [ClusterContrast §3.3, eq. 3], [OIM §3.2] with other constants. Limits: B·L and K·L below 2³².

struct Params {
    batch: u32,
    length: u32,
    momentum: f32,
    temperature: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> embeddings: array<f32>;
@group(0) @binding(3) var<storage, read_write> memory: array<f32>;
@group(0) @binding(4) var<storage, read> control: array<u32>;

override HARD: bool = false;

const LANES: u32 = 64;

// Moves the prototype of label towards image b.
fn average(lane: u32, label: u32, b: u32) {
    let to = label * params.length;
    let image = b * params.length;
    let old = params.momentum * params.temperature;
    let share = 1.0 - params.momentum;
    var squares = 0.0;
    for (var i = lane; i < params.length; i += LANES) {
        let sum = fma(share, embeddings[image + i], old * memory[to + i]);
        squares = fma(sum, sum, squares);
    }
    let norm = max(sqrt(workgroup_sum(lane, squares)), 1e-12) * params.temperature;
    for (var i = lane; i < params.length; i += LANES) {
        memory[to + i] = fma(share, embeddings[image + i], old * memory[to + i]) / norm;
    }
}

@compute @workgroup_size(LANES)
fn prototypes_update(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = group.x + group.y * groups.x;
    // Conditions are uniform over the workgroup, so either all invocations reach the barriers or none does.
    if (first >= params.batch || control[CONTROL_FINITE] == 0u) {
        return;
    }
    let label = labels[first];
    for (var b = 0u; b < first; b++) {
        if (labels[b] == label) {
            return;
        }
    }
    if (HARD) {
        var hardest = first;
        var least = 0.0;
        for (var b = first; b < params.batch; b++) {
            if (labels[b] != label) {
                continue;
            }
            var products = 0.0;
            for (var i = lane; i < params.length; i += LANES) {
                products = fma(embeddings[b * params.length + i], memory[label * params.length + i], products);
            }
            let similarity = workgroup_sum(lane, products);
            if (b == first || similarity < least) {
                least = similarity;
                hardest = b;
            }
        }
        average(lane, label, hardest);
    } else {
        for (var b = first; b < params.batch; b++) {
            if (labels[b] == label) {
                average(lane, label, b);
            }
        }
    }
}
