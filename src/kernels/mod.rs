//! Typed calls of the WGSL kernels: one file per stem, one struct per call, a named field per buffer.
//!
//! Rules:
//! - Shapes are checked when a call is recorded. A wrong shape is a bug in this crate and panics.
//! - A kernel writes every element of its outputs.
//! - A kernel knows no network: no name of a layer or a weight appears here.
//!
//! A call declares its floating-point operations. An addition, multiplication, division, comparison, rounding or
//! elementary function counts as one operation, a multiply-add as two. Matrix products and attention count their
//! multiply-adds alone, as other engines do, so that figures are comparable. Work done once per row or workgroup,
//! outside the loop over the row, is not counted.

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

use crate::gpu::{Constants, Context, Kernel, Recorder, ShaderFile, Storage, Tensor};

/// Invocations per workgroup of the element-wise kernels.
const THREADS: usize = ShaderFile::WORKGROUP_SIZE;

/// The kernels for the adapter's matrix units, and whether they pass validation there. Those that fail are not used.
/// Empty if the context has no fragments.
pub fn on_matrix_units(context: &Context) -> Vec<(String, bool)> {
    let mut kernels = gemm::on_matrix_units(context);
    kernels.extend(attention::on_matrix_units(context));
    kernels
}

/// Every kernel in every variant that can be selected. The shader tests assemble and validate these.
pub fn variants() -> Vec<(Kernel, Constants, Storage)> {
    let mut all = Vec::new();
    for stem in [
        accumulate::variants,
        adam::variants,
        attention::variants,
        average::variants,
        batchnorm::variants,
        camera::variants,
        cross_entropy::variants,
        distance::variants,
        drop_path::variants,
        gelt::variants,
        gemm::variants,
        gradnorm::variants,
        image::variants,
        jigsaw::variants,
        l2norm::variants,
        layernorm::variants,
        layerscale::variants,
        narrow::variants,
        part_linear::variants,
        patch_embed::variants,
        prototypes::variants,
        reattention::variants,
        rollout::variants,
        roof::variants,
        sgd::variants,
        statistics::variants,
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

/// Checks the length of a tensor against its shape. Does nothing for `None`.
#[track_caller]
fn expect(recorder: &Recorder<'_>, name: &str, tensor: impl Into<Option<Tensor>>, shape: &[usize]) {
    let Some(tensor) = tensor.into() else { return };
    let wanted: usize = shape.iter().product();
    assert_eq!(
        tensor.len,
        wanted,
        "{}: {name} has {} elements, shape {shape:?} has {wanted}",
        recorder.label(""),
        tensor.len
    );
}

/// Checks that rows of D elements consist of whole quads.
#[track_caller]
fn expect_quads(recorder: &Recorder<'_>, dim: usize) {
    assert!(dim.is_multiple_of(4), "{}: D = {dim} isn't a multiple of 4", recorder.label(""));
}

/// A dimension as the u32 that WGSL uses.
#[track_caller]
fn u32_of(value: usize) -> u32 {
    u32::try_from(value).unwrap_or_else(|_| panic!("{value} exceeds a u32 index"))
}
