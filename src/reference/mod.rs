//! The oracle: every kernel again in f64, as plain loops over the same buffers, from the standard library alone.
//!
//! Tests and [`crate::selftest`] compare the adapter with it; nothing that runs a network uses it. Letters in shapes are those of
//! [`crate::shape`]. Inputs are the f32 words that the adapter gets, so only the arithmetic differs.

pub mod accumulate;
pub mod adam;
pub mod attention;
pub mod batchnorm;
pub mod cross_entropy;
pub mod distance;
pub mod gelt;
pub mod gelu;
pub mod gemm;
pub mod gradnorm;
pub mod image;
pub mod l2norm;
pub mod layernorm;
pub mod layerscale;
pub mod narrow;
pub mod part_linear;
pub mod patch_embed;
pub mod rollout;
pub mod roof;
pub mod tokens;
pub mod topk;
pub mod triplet;

/// One output: what it should be, and what its rounding errors are proportional to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Exact {
    /// The output, right to about 13 digits.
    pub value: f64,
    /// Sum of the magnitudes of all terms that were added up on the way, such as Σ|a||b|. An f32 evaluation is off by
    /// at most c·2⁻²⁴ of it, with a c that depends on the kernel and the length of its sums.
    pub scale: f64,
}
