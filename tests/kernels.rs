//! Every kernel on the adapter against its f64 reference; `--nocapture` shows how much of each tolerance is used.

#[path = "kernels/attention.rs"]
mod attention;
mod common;
#[path = "kernels/gelt.rs"]
mod gelt;
#[path = "kernels/gelu.rs"]
mod gelu;
#[path = "kernels/gemm.rs"]
mod gemm;
#[path = "kernels/harness.rs"]
mod harness;
#[path = "kernels/image.rs"]
mod image;
#[path = "kernels/l2norm.rs"]
mod l2norm;
#[path = "kernels/layernorm.rs"]
mod layernorm;
#[path = "kernels/patch_embed.rs"]
mod patch_embed;
#[path = "kernels/plan.rs"]
mod plan;
#[path = "kernels/tokens.rs"]
mod tokens;
