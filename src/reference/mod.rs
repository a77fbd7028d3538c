//! The reference: every kernel again in f64, as plain loops over the same buffers, with the standard library alone.
//!
//! Tests and [`crate::selftest`] compare the adapter with it. Nothing that runs a network uses it. [`crate::shape`]
//! explains the letters in shapes. Inputs are the f32 values that the adapter receives, so only the arithmetic differs.

pub mod accumulate;
pub mod adam;
pub mod attention;
pub mod average;
pub mod batchnorm;
pub mod camera;
pub mod cross_entropy;
pub mod distance;
pub mod drop_path;
pub mod gelt;
pub mod gelu;
pub mod gemm;
pub mod gradnorm;
pub mod image;
pub mod jigsaw;
pub mod l2norm;
pub mod layernorm;
pub mod layerscale;
pub mod narrow;
pub mod part_linear;
pub mod patch_embed;
pub mod prototypes;
pub mod reattention;
pub mod rollout;
pub mod roof;
pub mod sgd;
pub mod statistics;
pub mod tokens;
pub mod topk;
pub mod triplet;

/// One exact output, and the magnitude that its rounding errors are proportional to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Exact {
    /// The output, accurate to about 13 digits.
    pub value: f64,
    /// Sum of the magnitudes of all terms that were added, such as Σ|a||b|. The error of an f32 evaluation is at most
    /// c·2⁻²⁴·scale. c depends on the kernel and on the length of its sums.
    pub scale: f64,
}

impl Exact {
    /// The product with a positive factor.
    pub fn times(self, factor: f32) -> Exact {
        Exact { value: self.value * f64::from(factor), scale: self.scale * f64::from(factor) }
    }
}
