//! The network: which parameters it has, and how layers and kernels make it up.

mod la_transformer;
mod parameters;
mod vit;

pub use la_transformer::LaTransformer;
pub use parameters::Parameters;
pub use vit::Vit;
