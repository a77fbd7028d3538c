// Helper: the two activation functions of a ViT's MLP, and their derivatives.
//
//   gelu(x)       = x·Φ(x) = x/2·(1 + erf(x/√2))          [GELU §2, exact form]
//   gelu'(x)      = Φ(x) + x·φ(x)                          φ(x) = exp(-x²/2)/√(2π)
//   quick_gelu(x) = x·σ(1.702·x)                           [GELU §2, sigmoid form; OpenAI CLIP]
//   quick_gelu'(x)= σ(1.702·x)·(1 + 1.702·x·(1 - σ(1.702·x)))
//
// WGSL has no erf. For z ≥ 0 this helper computes erfc(z) = t·exp(-z² + P(t)) with t = 2/(2 + z). P has degree 9 and
// was fitted for this project at 400 Chebyshev nodes of t in [2/12.5, 1]. The form keeps its relative accuracy in the
// tail, so gelu(x) does too for large negative x. Error bounds in f32 arithmetic:
//
//   |gelu - exact|        ≤ 4e-7·|x| everywhere, and ≤ 1.5e-5·|gelu(x)| for x > -9
//   |gelu' - exact|       ≤ 4e-7 everywhere, and ≤ 6e-6·(Φ(x) + |x|·φ(x)) for x > -9
//   |quick_gelu' - exact| ≤ 4e-7 everywhere

fn erfc_positive(z: f32) -> f32 {
    let t = 2.0 / (2.0 + z);
    var p = 0.1487911492586136;
    p = fma(p, t, -0.70184725522995);
    p = fma(p, t, 1.2061694860458374);
    p = fma(p, t, -0.7619841694831848);
    p = fma(p, t, -0.025994684547185898);
    p = fma(p, t, -0.027512090280652046);
    p = fma(p, t, 0.04436234384775162);
    p = fma(p, t, 0.38460636138916016);
    p = fma(p, t, 0.9988684058189392);
    p = fma(p, t, -1.2654595375061035);
    // For z > 13 the result is below the smallest f32. The clamp keeps drivers from seeing a larger argument of exp.
    return t * exp(max(fma(-z, z, p), -100.0));
}

fn gelu(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive(min(abs(x) * 0.7071067811865476, 13.0));
    return x * select(tail, 1.0 - tail, x > 0.0);
}

fn quick_gelu(x: f32) -> f32 {
    // Clamped: exp(1.702·52) fits an f32, and below -52 the result is 0 in f32 precision.
    return x / (1.0 + exp(-1.702 * max(x, -52.0)));
}

fn gelu_derivative(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive(min(abs(x) * 0.7071067811865476, 13.0));
    // For |x| > 14 the density is below the smallest f32. The clamp also keeps x² from overflow.
    let near = clamp(x, -14.0, 14.0);
    let density = 0.3989422804014327 * exp(-0.5 * near * near);
    return fma(near, density, select(tail, 1.0 - tail, x > 0.0));
}

fn quick_gelu_derivative(x: f32) -> f32 {
    // Clamped: at ±51 exp and the reciprocal below are still normal numbers, and the slope is 0 or 1 in f32 precision.
    let u = 1.702 * clamp(x, -51.0, 51.0);
    let e = exp(-u);
    let s = 1.0 / (1.0 + e);
    // e·s = 1 - σ, without the cancellation.
    return s * fma(u, e * s, 1.0);
}
