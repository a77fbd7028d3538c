// Stochastic depth: scales a residual branch by one factor per image, and adds the residual stream.
//
//   y[b,t,d] = x[b,t,d]·factors[first + b] + (HAS_RESIDUAL ? residual[b,t,d] : 0)
//   with factor = mask/(1 - p), where the mask is 0 with probability p, else 1
//   dx[b,t,d] = dy[b,t,d]·factors[first + b], the same without a residual; the residual's gradient is dy
//
// x (B, T, D) read: the branch, backward dy   factors (first + B or more) read   y (B, T, D) written: backward dx
// residual (B, T, D) read if HAS_RESIDUAL
// One invocation owns a quad. One fma: error ≤ 2⁻²⁴·|y|, or twice that of the terms where it is rounded twice. The host
// draws the masks, so that they depend on the image's position in the epoch alone.
// Source: [Huang et al. 2016 eq. 5], with the factor 1/(1 - p) in training.
// Limits: D a multiple of 4; B·T·D below 2³².

struct Params {
    batch: u32,
    // Elements of an image: T·D.
    length: u32,
    first: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<Quad>;
@group(0) @binding(4) var<storage, read_write> y: array<Quad>;

override HAS_RESIDUAL: bool = false;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn drop_path(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let quads = params.length / 4u;
    if (i >= params.batch * quads) {
        return;
    }
    var addend = vec4f(0.0);
    if (HAS_RESIDUAL) {
        addend = unpack(residual[i]);
    }
    y[i] = pack(fma(unpack(x[i]), vec4f(factors[params.first + i / quads]), addend));
}
