// Helper: the epilogue of A·B in a backward pass, applied to four finished sums of a row before they are stored. It
// takes the gradient of an activation's output to its argument, kept[m,n]. gemm_epilogue.wgsl declares the switches.
//
//   product[m,n] = sum·act'(kept[m,n]) + residual[m,n]     act = 1 | gelu | quick_gelu (ACTIVATION 0 | 1 | 2)

fn finish_backward(row: u32, quad: u32, sum: vec4f) {
    let at = row * (params.n / 4u) + quad;
    var factor = vec4f(1.0);
    if (ACTIVATION == 1u) {
        let u = unpack(kept[at]);
        factor = vec4f(gelu_derivative(u.x), gelu_derivative(u.y), gelu_derivative(u.z), gelu_derivative(u.w));
    } else if (ACTIVATION == 2u) {
        let u = unpack(kept[at]);
        factor = vec4f(
            quick_gelu_derivative(u.x),
            quick_gelu_derivative(u.y),
            quick_gelu_derivative(u.z),
            quick_gelu_derivative(u.w),
        );
    }
    var addend = vec4f(0.0);
    if (HAS_RESIDUAL) {
        addend = unpack(residual[at]);
    }
    product[at] = pack(fma(sum, factor, addend));
}
