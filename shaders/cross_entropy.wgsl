// Cross-entropy of every row of logits with its label, and the gradient of the batch mean, for all parts at once.
//
//   p[k] = exp(x[k] - max)/S      S = Σ_k exp(x[k] - max)      t[k] = smoothing/K + (k = label ? 1 - smoothing : 0)
//   loss[r,b] = -weight·Σ_k t[k]·log p[k] = weight·(log S - Σ_k t[k]·(x[k] - max))
//   dlogits[r,b,k] = scale·weight·(p[k] - t[k])/B          the gradient of scale·Σ_r (1/B) Σ_b loss[r,b]
//   weight is first_weight for r = 0
//
// logits (R, B, K) read   labels (B) u32 read   loss (R, B) written   dlogits (R, B, K) written if WITH_GRADIENT
// control read if WITH_GRADIENT: the loss scale
// A workgroup of LANES invocations owns one row. Each invocation sums with a stride, then a fixed tree follows.
// Subtracting the largest logit keeps exp within (0, 1]. Error of loss ≤ (K/LANES + log2 LANES + 12)·2⁻²⁴ of
// log S + Σ t|x - max| + 1, times weight; of dlogits the same plus the error of exp (3 + 2|x - max| ulp), relative to
// (p + t)/B.
// A label of K or more has no target except the smoothing. A row with a NaN or infinite logit has the loss NaN. The
// test uses bits: compilers may assume that no float is NaN or infinite.
// Source: [LAT eq. 7], label smoothing [Inception-v3 §7] in PyTorch's form. Limits: R·B·K below 2³².

struct Params {
    rows: u32,
    batch: u32,
    classes: u32,
    smoothing: f32,
    weight: f32,
    // Factor of the first part.
    first_weight: f32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogits: array<f32>;
@group(0) @binding(5) var<storage, read> control: array<u32>;

override WITH_GRADIENT: bool = true;

const LANES: u32 = 64;
const NOT_A_NUMBER: u32 = 0x7fc00000u;

@compute @workgroup_size(LANES)
fn cross_entropy(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    // Uniform over the workgroup, so either all invocations reach the barriers below or none does.
    if (row >= params.rows) {
        return;
    }
    let start = row * params.classes;
    let label = labels[row % params.batch];
    let weight = select(params.weight, params.first_weight, row < params.batch);
    let everywhere = params.smoothing / f32(params.classes);
    let at_label = everywhere + (1.0 - params.smoothing);

    // Starts with any logit of the row.
    var most = logits[start];
    for (var k = lane; k < params.classes; k += LANES) {
        most = max(most, logits[start + k]);
    }
    most = workgroup_max(lane, most);

    var exponentials = 0.0;
    var targets = 0.0;
    var bad = 0.0;
    for (var k = lane; k < params.classes; k += LANES) {
        let logit = logits[start + k];
        if (!is_finite(bitcast<u32>(logit))) {
            bad = 1.0;
        }
        let centred = logit - most;
        exponentials += exp(centred);
        targets = fma(select(everywhere, at_label, k == label), centred, targets);
    }
    let total = workgroup_sum(lane, exponentials);
    let target_sum = workgroup_sum(lane, targets);
    let any_bad = workgroup_max(lane, bad) > 0.0;
    if (lane == 0u) {
        let bits = bitcast<u32>(weight * (log(total) - target_sum));
        loss[row] = bitcast<f32>(select(bits, NOT_A_NUMBER, any_bad));
    }

    if (WITH_GRADIENT) {
        let batch = f32(params.batch);
        let scale = weight * bitcast<f32>(control[CONTROL_SCALE]);
        for (var k = lane; k < params.classes; k += LANES) {
            let probability = exp(logits[start + k] - most) / total;
            dlogits[start + k] = scale * ((probability - select(everywhere, at_label, k == label)) / batch);
        }
    }
}
