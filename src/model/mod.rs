//! The network: which parameters it has, and how layers and kernels make it up.

mod la_transformer;
mod parameters;
mod vit;

pub use la_transformer::LaTransformer;
pub use parameters::{Arenas, Group, GroupKind, HeadShape, Slot, backbone_groups, head_group};
pub use vit::Vit;
