//! Every kernel on the adapter against its f64 reference; `--nocapture` shows the share of each tolerance used.

#[path = "kernels/adam.rs"]
mod adam;
#[path = "kernels/attention.rs"]
mod attention;
#[path = "kernels/average.rs"]
mod average;
#[path = "kernels/batchnorm.rs"]
mod batchnorm;
#[path = "kernels/camera.rs"]
mod camera;
mod common;
#[path = "kernels/cross_entropy.rs"]
mod cross_entropy;
#[path = "kernels/distance.rs"]
mod distance;
#[path = "kernels/drop_path.rs"]
mod drop_path;
#[path = "kernels/flops.rs"]
mod flops;
#[path = "kernels/gelt.rs"]
mod gelt;
#[path = "kernels/gemm.rs"]
mod gemm;
#[path = "kernels/gradnorm.rs"]
mod gradnorm;
#[path = "kernels/harness.rs"]
mod harness;
#[path = "kernels/image.rs"]
mod image;
#[path = "kernels/jigsaw.rs"]
mod jigsaw;
#[path = "kernels/l2norm.rs"]
mod l2norm;
#[path = "kernels/layernorm.rs"]
mod layernorm;
#[path = "kernels/layerscale.rs"]
mod layerscale;
#[path = "kernels/narrow.rs"]
mod narrow;
#[path = "kernels/part_linear.rs"]
mod part_linear;
#[path = "kernels/patch_embed.rs"]
mod patch_embed;
#[path = "kernels/plan.rs"]
mod plan;
#[path = "kernels/random.rs"]
mod random;
#[path = "kernels/reattention.rs"]
mod reattention;
#[path = "kernels/rollout.rs"]
mod rollout;
#[path = "kernels/sgd.rs"]
mod sgd;
#[path = "kernels/tokens.rs"]
mod tokens;
#[path = "kernels/topk.rs"]
mod topk;
#[path = "kernels/triplet.rs"]
mod triplet;

macro_rules! every_case_of {
    ($($stem:ident)*) => {
        $(#[test]
        fn $stem() {
            common::recordings::every_case(stringify!($stem));
        })*
    };
}

every_case_of!(
    gemm attention reattention rollout layernorm layerscale drop_path accumulate image patch_embed tokens camera jigsaw
    gelt l2norm statistics part_linear batchnorm narrow cross_entropy triplet prototypes gradnorm adam sgd average
    distance topk roof
);
