// The MLP's non-linearity, element by element.
//
//   y = gelu(x) | quick_gelu(x)          formulas, derivatives and error bound: common/gelu.wgsl
//
// x (len) read   y (len) written
// One invocation owns one element. The forward pass of a network has it fused into the GEMM before it (ACTIVATION in
// common/gemm_epilogue.wgsl); this kernel shows it alone, which is where its error bound is measured.
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
