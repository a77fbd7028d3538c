// Helper: the epilogue of a matrix product, applied to four finished sums of a row before they are stored. All tile
// families share it, so they agree bit for bit with each other and with gemm.wgsl.
//
//   u = sum + bias[n]                       (HAS_BIAS)
//   pre[m,n] = u                            (KEEP_PRE: the backward pass of the activation reads it)
//   v = u | gelu(u) | quick_gelu(u)         (ACTIVATION 0 | 1 | 2)
//   c[m,n] = v·scale[n] + residual[m,n]     (HAS_SCALE: LayerScale; HAS_RESIDUAL)

override HAS_BIAS: bool = false;
override KEEP_PRE: bool = false;
override ACTIVATION: u32 = 0u;
override HAS_SCALE: bool = false;
override HAS_RESIDUAL: bool = false;

fn finish(row: u32, quad: u32, sum: vec4f) {
    let at = row * (params.n / 4u) + quad;
    var value = sum;
    if (HAS_BIAS) {
        value += bias[quad];
    }
    if (KEEP_PRE) {
        pre[at] = pack(value);
    }
    if (ACTIVATION == 1u) {
        value = vec4f(gelu(value.x), gelu(value.y), gelu(value.z), gelu(value.w));
    } else if (ACTIVATION == 2u) {
        value = vec4f(quick_gelu(value.x), quick_gelu(value.y), quick_gelu(value.z), quick_gelu(value.w));
    }
    var factor = vec4f(1.0);
    if (HAS_SCALE) {
        factor = scale[quad];
    }
    var addend = vec4f(0.0);
    if (HAS_RESIDUAL) {
        addend = unpack(residual[at]);
    }
    c[at] = pack(fma(value, factor, addend));
}
