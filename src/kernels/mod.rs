//! Typed calls of the WGSL kernels: one file per stem, one struct per launch, every slot named.
//!
//! Laws. Shapes are checked when a call is recorded and panic there: a wrong one is a mistake of ours. A kernel writes
//! every element of its outputs. A kernel knows no network: no name of a layer or a weight stands here.
//!
//! A launch declares its floating-point operations. An addition, multiplication, division, comparison, rounding or
//! elementary function counts one, a multiply-add two. Matrix products and attention count their multiply-adds alone, as
//! every engine does, so that figures compare. What is done once per row or workgroup beside a loop over a row is left out.

pub mod accumulate;
pub mod adam;
pub mod attention;
pub mod batchnorm;
pub mod cross_entropy;
pub mod distance;
pub mod gelt;
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

use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Storage, Tensor};

/// Invocations per workgroup of the element-wise kernels.
const THREADS: usize = ShaderFile::WORKGROUP_SIZE;

/// Every kernel in every variant that a menu can pick: what the shader tests assemble and validate.
pub fn variants() -> Vec<(Kernel, Constants, Storage)> {
    let mut all = Vec::new();
    for stem in [
        accumulate::variants,
        adam::variants,
        attention::variants,
        batchnorm::variants,
        cross_entropy::variants,
        distance::variants,
        gelt::variants,
        gemm::variants,
        gradnorm::variants,
        image::variants,
        l2norm::variants,
        layernorm::variants,
        layerscale::variants,
        narrow::variants,
        part_linear::variants,
        patch_embed::variants,
        rollout::variants,
        roof::variants,
        tokens::variants,
        triplet::variants,
        topk::variants,
    ] {
        for (kernel, constants) in stem() {
            all.extend(kernel.storages().iter().map(|&storage| (kernel, constants.clone(), storage)));
        }
    }
    all
}

/// Checks the length of a tensor, if there is one, against its shape.
#[track_caller]
fn expect(recorder: &Recorder<'_>, name: &str, tensor: impl Into<Option<Tensor>>, shape: &[usize]) {
    let Some(tensor) = tensor.into() else { return };
    let wanted: usize = shape.iter().product();
    assert_eq!(
        tensor.len,
        wanted,
        "{}: {name} has {} elements, shape {shape:?} wants {wanted}",
        recorder.label(""),
        tensor.len
    );
}

/// Checks that rows of D elements are whole quads.
#[track_caller]
fn expect_quads(recorder: &Recorder<'_>, dim: usize) {
    assert!(dim.is_multiple_of(4), "{}: D = {dim} isn't a multiple of 4", recorder.label(""));
}

/// A dimension as WGSL counts it.
#[track_caller]
fn u32_of(value: usize) -> u32 {
    u32::try_from(value).unwrap_or_else(|_| panic!("{value} exceeds a u32 index"))
}
