//! The table of tolerances, which tests and `lat-wgpu selftest` share.
//!
//! An element passes if |adapter - reference| ≤ c·2⁻²⁴·scale, where `scale` is the reference's sum of magnitudes
//! ([`crate::reference::Exact`]). A whole result passes if its normalised mean squared error (NMSE) is
//! within bounds too. If each of n terms of a sum is rounded, the worst-case error is n units. As the signs of rounding
//! errors vary, the actual error grows with √n (Higham and Mary 2019, λ = 1). Most rows use √n: a bug shows far below
//! the worst-case bound.

use crate::kernels::triplet::Margin;
use crate::reference::Exact;

/// The unit roundoff of f32.
pub const UNIT: f64 = 1.0 / 16_777_216.0;

/// Tolerance of one kind of result.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Σ(adapter - reference)² / Σ reference².
    pub nmse: f64,
    /// Factor of 2⁻²⁴·scale that bounds the error of an element.
    pub c: f64,
}

const fn row(c: f64) -> Tolerance {
    Tolerance { nmse: 1e-11, c }
}

/// One fma per k, then at most two roundings for bias and scale.
pub fn gemm(k: usize) -> Tolerance {
    row(2.0 + (k as f64).sqrt())
}

/// As for a product of depth 3·P².
pub fn patch_embed(patch: usize) -> Tolerance {
    gemm(3 * patch * patch)
}

/// As for a product of depth B·N.
pub fn patch_embed_backward(patches: usize) -> Tolerance {
    gemm(patches)
}

/// Sums of length Dh and T; 8 for exp (WGSL grants it 3 + 2|x| ulp, `scale` holds |x|), log and division.
pub fn attention(tokens: usize, head_dim: usize) -> Tolerance {
    row(8.0 + (tokens as f64).sqrt() + (head_dim as f64).sqrt())
}

/// As forward: sums of length Dh, then of length T. With large scores the softmax is nearly one-hot and ds = p·(dp -
/// delta) cancels, so dq and dk are small relative to their rounding errors. Hence NMSE ≤ 1e-10, as for every backward
/// pass compared with PyTorch (largest measured: 9e-12).
pub fn attention_backward(tokens: usize, head_dim: usize) -> Tolerance {
    Tolerance { nmse: 1e-10, ..attention(tokens, head_dim) }
}

/// Matrix units may truncate sums, by 2 units for each term, and all errors have one sign. Weights of values are
/// rounded to f16: 2⁻¹¹, which is 2¹³ units, of each. The sums of weights, and so lse, are not.
pub fn attention_fragments(tokens: usize, head_dim: usize) -> [Tolerance; 2] {
    let lse = row(8.0 + (tokens as f64).sqrt() + 2.0 * head_dim as f64);
    [Tolerance { nmse: 1e-6, c: 8192.0 + lse.c + 2.0 * tokens as f64 }, lse]
}

/// As forward: probabilities and gradients of scores are rounded to f16.
pub fn attention_fragments_backward(tokens: usize, head_dim: usize) -> Tolerance {
    attention_fragments(tokens, head_dim)[0]
}

/// Re-attention: a sum of so many terms; 16 for exp (WGSL grants it 3 + 2|x| ulp, `scale` holds |x|), square root,
/// divisions and products.
pub fn reattention(terms: usize) -> Tolerance {
    row(16.0 + (terms as f64).sqrt())
}

/// Two sums of D terms; 8 for square root, division, the subtraction and the last fma.
pub fn layernorm(dim: usize) -> Tolerance {
    row(8.0 + (dim as f64).sqrt())
}

/// Two sums of D terms; 8 for the subtractions, products, divisions and the sum with the residual stream's gradient.
pub fn layernorm_backward(dim: usize) -> Tolerance {
    row(8.0 + (dim as f64).sqrt())
}

/// A sum over all rows; 4 for the subtraction and the products.
pub fn layernorm_parameters(rows: usize) -> Tolerance {
    row(4.0 + (rows as f64).sqrt())
}

/// One sum of D squares, of which the square root halves the error; 8 for two square roots, division and two products.
pub fn l2norm(dim: usize) -> Tolerance {
    row(8.0 + (dim as f64).sqrt() / 2.0)
}

/// Two sums of D terms; 14 for the square roots, the divisions and the products.
pub fn l2norm_backward(dim: usize) -> Tolerance {
    row(14.0 + 2.0 * (dim as f64).sqrt())
}

/// One sum of L squares, of which the square root halves the error; 12 for the moving average, the square root, the division
/// and the products.
pub fn prototypes(length: usize) -> Tolerance {
    row(12.0 + (length as f64).sqrt() / 2.0)
}

/// A sum of the tokens of a part, a division (WGSL grants it 2.5 ulp) and the blend.
pub fn gelt(count: usize) -> Tolerance {
    row(4.0 + (count as f64).sqrt())
}

/// A sum of R parts or a division (WGSL grants it 2.5 ulp), and a product.
pub fn gelt_backward(parts: usize) -> Tolerance {
    row(6.0 + (parts as f64).sqrt())
}

/// A product and an addition, which adapters without fma round separately.
pub const DROP_PATH: Tolerance = row(2.0);

/// A copy, or one product.
pub const JIGSAW: Tolerance = row(1.0);

/// A sum of P + 1 class tokens.
pub fn jigsaw_merge(pieces: usize) -> Tolerance {
    row(pieces as f64)
}

/// A product and an addition, which adapters without fma round separately.
pub const CAMERA: Tolerance = row(2.0);

/// A sum over T tokens, then over B images; 1 for the product.
pub fn camera_backward(batch: usize, tokens: usize) -> Tolerance {
    row(2.0 + (tokens as f64).sqrt() + (batch as f64).sqrt())
}

/// A subtraction, and a division (WGSL grants it 2.5 ulp).
pub const STATISTICS: Tolerance = row(6.0);

/// A single addition, correctly rounded.
pub const TOKENS: Tolerance = row(1.0);

/// A single addition, correctly rounded.
pub const ACCUMULATE: Tolerance = row(1.0);

/// A sum over B images.
pub fn tokens_backward(batch: usize) -> Tolerance {
    row(1.0 + (batch as f64).sqrt())
}

/// Two divisions of 2.5 ulp (5 units) each and a subtraction.
pub const IMAGE: Tolerance = row(11.0);

/// WGSL grants cos an absolute error of 2⁻¹¹, and log of 2⁻²¹ near 1: of a small radius the square root makes 2⁻¹⁰ of it,
/// which is 2¹⁴ units.
pub const IMAGE_NOISE: Tolerance = Tolerance { nmse: 1e-6, c: 16_384.0 };

/// Bound of common/gelu.wgsl for every x, with `scale` = |x|: 4e-7·|x|.
pub const GELU: Tolerance = row(4e-7 / UNIT);

/// Bound of common/gelu.wgsl for x > -9, with `scale` = |gelu(x)|: 1.5e-5 of the value. At -9 the argument of exp is
/// about -40, and its rounding alone causes an error of several 1e-6.
pub const GELU_TAIL: Tolerance = row(1.5e-5 / UNIT);

/// Bound of common/gelu.wgsl for both derivatives and every x, with `scale` = 1: 4e-7.
pub const GELU_DERIVATIVE: Tolerance = row(4e-7 / UNIT);

/// Bound of common/gelu.wgsl for gelu' and x > -9, with `scale` = Φ(x) + |x|·φ(x): 6e-6 of it.
pub const GELU_DERIVATIVE_TAIL: Tolerance = row(6e-6 / UNIT);

/// Sums of up to 64 rows, then a sum of these; 1 for the rounding of dx.
pub fn layerscale(rows: usize) -> Tolerance {
    row(2.0 + (rows.min(64) as f64).sqrt() + (rows.div_ceil(64) as f64).sqrt())
}

/// exp (3 + 2|1.702·x| ulp, and the rounding of its argument: `scale` = |y|·(1 + |1.702·x|)), an addition and a
/// division.
pub const QUICK_GELU: Tolerance = row(8.0);

/// Two sums of B terms; 12 for square root, division (2.5 ulp), subtractions and the dropout scale.
pub fn batchnorm(batch: usize) -> Tolerance {
    row(12.0 + (batch as f64).sqrt())
}

/// Four sums of B terms, two of which use results of the others; 24 for twice the other operations of the forward pass.
pub fn batchnorm_backward(batch: usize) -> Tolerance {
    row(24.0 + 2.0 * (batch as f64).sqrt())
}

/// Sums of K terms; 16 for two exponentials (3 ulp, `scale` holds their arguments), logarithm (2⁻²¹ near 1) and
/// division.
pub fn cross_entropy(classes: usize) -> Tolerance {
    row(16.0 + (classes as f64).sqrt())
}

/// A sum of L squares, of which the square root halves the error; 8 for differences, square root and the sum of four
/// sums.
pub fn triplet_distances(length: usize) -> Tolerance {
    row(8.0 + (length as f64).sqrt() / 2.0)
}

/// A subtraction and an addition. With the soft margin also exp (WGSL grants it 3 + 2|x| ulp) and log (2⁻²¹); the scale
/// then has a 1.
pub fn triplet_loss(margin: Margin) -> Tolerance {
    row(if margin == Margin::Soft { 16.0 } else { 2.0 })
}

/// Sums of length Dh and H; 8 for exp (WGSL grants it 3 + 2|x| ulp, `scale` holds |x|) and division (2.5 ulp).
/// Scores above a hundred have rounding errors that change probabilities by 1e-5 of their value. Hence NMSE ≤ 1e-10.
pub fn rollout(heads: usize, head_dim: usize) -> Tolerance {
    Tolerance { nmse: 1e-10, ..row(8.0 + (head_dim as f64).sqrt() + (heads as f64).sqrt()) }
}

/// One fma per token.
pub fn rollout_multiply(tokens: usize) -> Tolerance {
    row(1.0 + (tokens as f64).sqrt())
}

/// Contributions of up to B anchors to a row; 10 for two roundings of the differences, product and division (2.5 ulp).
/// With the soft margin 14 more for exp (3 + 2|x| ulp, the scale holds |x|), sum, division and product.
pub fn triplet_backward(batch: usize, margin: Margin) -> Tolerance {
    row(if margin == Margin::Soft { 24.0 } else { 10.0 } + (batch as f64).sqrt())
}

/// Every product and every sum is rounded once; the scale includes all of them.
pub const ROOF: Tolerance = row(1.0);

/// A sum of squares, of which the square root halves the error; 8 for square root and division.
pub fn gradnorm(len: usize) -> Tolerance {
    row(8.0 + (len as f64).sqrt() / 2.0)
}

/// Three sums over slabs of up to 512 terms, then over the slabs; 3 for combining them.
pub fn distance(dim: usize) -> Tolerance {
    row(3.0 + (dim.min(512) as f64).sqrt() + (dim.div_ceil(512) as f64).sqrt())
}

/// Square root, division and several products. The scales include the roundings of the moments.
pub const ADAM: Tolerance = row(16.0);

/// Four products and three sums, which a driver may round one by one.
pub const SGD: Tolerance = row(7.0);

/// A difference, a product and a sum; the factor is rounded too.
pub const AVERAGE: Tolerance = row(4.0);

/// One rounding to f16 (2⁻¹¹), in either direction. The scale is at least the smallest normal f16.
pub const NARROW: Tolerance = Tolerance { nmse: 1e-6, c: 8192.0 };

/// The tolerance of a result that was computed within `tolerance` of `exact` in f32 and then stored in f16. Adapters
/// may round to either neighbour, up to 2⁻¹⁰ away. Below the smallest normal f16 the neighbours are 2⁻²⁴ apart.
pub fn as_f16(exact: Exact, tolerance: Tolerance) -> (Exact, Tolerance) {
    let apart = exact.value.abs().max(2f64.powi(-14)) * 2f64.powi(-10);
    let scale = tolerance.c * UNIT * exact.scale + apart;
    (Exact { scale, ..exact }, Tolerance { nmse: 1e-6 + tolerance.nmse, c: 1.0 / UNIT })
}
