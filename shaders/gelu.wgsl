// The MLP's non-linearity, element by element.
//
//   y = gelu(x) | quick_gelu(x)          formulas, derivatives and error bounds: common/gelu.wgsl
//   dx = dy·gelu'(x) | dy·quick_gelu'(x)
//
// forward:  x (len) read   y (len) written
// backward: x (len) read   dy (len) read   x_gradient (len) written
// One invocation owns one element. A network has both passes fused into the GEMM before them (ACTIVATION in
// common/gemm_epilogue.wgsl); this kernel shows them alone, which is where their error bounds are measured.
// Source: [GELU §2]. Limits: len below 2³².

struct Params {
    len: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// Backward.
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> x_gradient: array<f32>;

override QUICK: bool = false;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn gelu_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    if (i >= params.len) {
        return;
    }
    if (QUICK) {
        y[i] = quick_gelu(x[i]);
    } else {
        y[i] = gelu(x[i]);
    }
}

@compute @workgroup_size(THREADS)
fn gelu_backward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    if (i >= params.len) {
        return;
    }
    if (QUICK) {
        x_gradient[i] = dy[i] * quick_gelu_derivative(x[i]);
    } else {
        x_gradient[i] = dy[i] * gelu_derivative(x[i]);
    }
}
