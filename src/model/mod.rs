//! The network: its parameters, and its composition from layers and kernels.

mod exchange;
mod la_transformer;
mod learner;
mod parameters;
mod training_step;
mod vit;

pub use exchange::{ExchangeTimes, Traffic};
pub use la_transformer::LaTransformer;
pub use learner::{
    ClassifierSettings, HostMoments, Learner, LearnerState, Optimizer, PrototypeRule, UpdateRule,
};
pub use parameters::{Arenas, Group, GroupKind, Slot, classifier_group, inference_groups};
pub use training_step::{EvaluationStep, StageNeed, TrainingStep};
pub use vit::{DropPath, Trainable, Vit, VitGradients};
