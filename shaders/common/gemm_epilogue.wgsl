// Helper: what a GEMM does with a finished sum before it is stored. Shared by all tile families, so that they agree
// to the bit.
//
//   u = sum + bias[n]                       (HAS_BIAS)
//   pre[m,n] = u                            (KEEP_PRE: the activation's backward needs it)
//   v = u | gelu(u) | quick_gelu(u)         (ACTIVATION 0 | 1 | 2)
//   c[m,n] = v·scale[n] + residual[m,n]     (HAS_SCALE: LayerScale; HAS_RESIDUAL)
//
// and behind the product that back-propagates through an activation's output to its argument, kept[m,n]:
//
//   product[m,n] = sum·act'(kept[m,n]) + residual[m,n]     act = 1 | gelu | quick_gelu (ACTIVATION 0 | 1 | 2)

override HAS_BIAS: bool = false;
override KEEP_PRE: bool = false;
override ACTIVATION: u32 = 0u;
override HAS_SCALE: bool = false;
override HAS_RESIDUAL: bool = false;

fn finish(row: u32, column: u32, sum: f32) {
    let at = row * params.n + column;
    var value = sum;
    if (HAS_BIAS) {
        value += bias[column];
    }
    if (KEEP_PRE) {
        pre[at] = value;
    }
    if (ACTIVATION == 1u) {
        value = gelu(value);
    } else if (ACTIVATION == 2u) {
        value = quick_gelu(value);
    }
    var factor = 1.0;
    if (HAS_SCALE) {
        factor = scale[column];
    }
    var addend = 0.0;
    if (HAS_RESIDUAL) {
        addend = residual[at];
    }
    c[at] = fma(value, factor, addend);
}

fn finish_backward(row: u32, column: u32, sum: f32) {
    let at = row * params.n + column;
    var factor = 1.0;
    if (ACTIVATION == 1u) {
        factor = gelu_derivative(kept[at]);
    } else if (ACTIVATION == 2u) {
        factor = quick_gelu_derivative(kept[at]);
    }
    var addend = 0.0;
    if (HAS_RESIDUAL) {
        addend = residual[at];
    }
    product[at] = fma(sum, factor, addend);
}
