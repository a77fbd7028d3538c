//! The one table of tolerances.
//!
//! An output passes if |adapter - reference| ≤ c·2⁻²⁴·scale, where `scale` is the reference's sum of magnitudes
//! ([`lat_wgpu::reference::Exact`]), and a whole result if its NMSE passes too. A sum of n terms of which each is rounded
//! is proven within n units; rounding errors of either sign grow with √n instead (Higham and Mary 2019, λ = 1), so most
//! rows ask for that: a mistake shows far below the proven bound.

/// The unit roundoff of f32.
pub const UNIT: f64 = 1.0 / 16_777_216.0;

/// What one kind of result may be off by.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Σ(adapter - reference)² / Σ reference².
    pub nmse: f64,
    /// Of an element, in units of 2⁻²⁴·scale.
    pub c: f64,
}

const fn row(c: f64) -> Tolerance {
    Tolerance { nmse: 1e-11, c }
}

/// One fma per k, then at most two roundings for bias and scale.
pub fn gemm(k: usize) -> Tolerance {
    row(2.0 + (k as f64).sqrt())
}

/// As a product of depth 3·P².
pub fn patch_embed(patch: usize) -> Tolerance {
    gemm(3 * patch * patch)
}

/// Sums of length Dh and T; 8 for exp (WGSL grants it 3 + 2|x| ulp, `scale` holds |x|), log and division.
pub fn attention(tokens: usize, head_dim: usize) -> Tolerance {
    row(8.0 + (tokens as f64).sqrt() + (head_dim as f64).sqrt())
}

/// Two sums of D terms; 8 for square root, division, the subtraction and the last fma.
pub fn layernorm(dim: usize) -> Tolerance {
    row(8.0 + (dim as f64).sqrt())
}

/// One sum of D squares, whose error the square root halves; 8 for two square roots, division and two products.
pub fn l2norm(dim: usize) -> Tolerance {
    row(8.0 + (dim as f64).sqrt() / 2.0)
}

/// A sum of C tokens, a division (WGSL grants it 2.5 ulp) and the blend.
pub fn gelt(columns: usize) -> Tolerance {
    row(4.0 + (columns as f64).sqrt())
}

/// A single addition, and nothing allowed beyond its correct rounding.
pub const TOKENS: Tolerance = row(1.0);

/// Two divisions of 2.5 ulp (5 units) each and a subtraction.
pub const IMAGE: Tolerance = row(11.0);

/// What common/gelu.wgsl states for every x, on `scale` = |x|: 4e-7·|x|.
pub const GELU: Tolerance = row(4e-7 / UNIT);

/// What common/gelu.wgsl states for x > -9, on `scale` = |gelu(x)|: 6e-6 of the value itself.
pub const GELU_TAIL: Tolerance = row(6e-6 / UNIT);

/// exp (3 + 2|1.702·x| ulp, and the rounding of its argument: `scale` = |y|·(1 + |1.702·x|)), an addition and a division.
pub const QUICK_GELU: Tolerance = row(8.0);
