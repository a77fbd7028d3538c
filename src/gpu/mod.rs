//! The engine: the only folder that names `wgpu`.
//!
//! Reading order: a [`Context`] opens an adapter; a [`File`] declares a WGSL source, and
//! [`entry_points!`](crate::entry_points!) what is in it; a [`Recorder`] collects launches over [`Tensor`]s; a [`Plan`]
//! owns the memory and bind groups of a recording and replays it.

mod adapter;
mod cache;
pub mod choices;
mod context;
mod error;
mod faults;
mod guard;
mod kernel;
mod memory;
mod options;
mod plan;
mod profile;
mod recorder;
mod timing;

pub use adapter::{AdapterClass, AdapterSummary, Family, KernelChoice, MatrixUnit, adapters};
pub use cache::CacheFile;
pub use context::{Buffer, Context, Readback};
pub use error::{Error, Result};
pub use faults::BETWEEN_FAILURES;
pub use guard::{guarded, silence_guarded_panics};
pub use kernel::{
    Access, Binding, Constants, Field, File, Kernel, Overrides, Storage, Tensors, Threads, Uniform, assemble,
};
pub use memory::{Placement, Transient, place};
pub use options::{ContextOptions, Precision};
pub use plan::{Listing, Place, Plan, PlanSummary};
pub use profile::{DispatchTime, PlanProfile};
pub use recorder::{Dispatch, Launch, Recorder, Tensor, grid_1d};
pub use timing::SubmitTime;

/// Bytes of a word: an f32, a u32, or two f16.
pub const WORD: u64 = 4;
