//! The engine: the only folder that names `wgpu`.
//!
//! Reading order: a [`Context`] opens an adapter. A [`ShaderFile`] declares a WGSL file, and
//! [`entry_points!`](crate::entry_points!) declares its entry points. A [`Recorder`] collects dispatches over
//! [`Tensor`]s. A [`Plan`] owns the memory and bind groups of a recording and replays it.

mod adapter;
mod allocation;
mod buffer;
mod cache;
mod class;
mod compilation;
mod context;
mod cuts;
mod error;
mod faults;
mod kernel;
mod layout;
mod listing;
mod memory;
mod options;
mod panics;
mod pipeline;
mod plan;
mod profile;
mod readback;
mod recorder;
mod selection;
mod submission;
mod timing;
pub mod tuning;
mod waiting;

pub use adapter::{AdapterSummary, MatrixUnit, adapters};
pub use buffer::Buffer;
pub use cache::CacheFile;
pub use class::AdapterClass;
pub use context::Context;
pub use error::{Error, Result};
pub use kernel::{
    Access, Binding, Constants, Field, Kernel, Overrides, ShaderFile, Storage, Tensors, Uniform,
    WorkgroupSize, assemble,
};
pub use layout::PlanSummary;
pub use listing::{PlanListing, Region};
pub use memory::{Placement, Transient, place};
pub use options::{ContextOptions, Precision};
pub use panics::{catch_panic, silence_caught_panics};
pub use plan::Plan;
pub use profile::{DispatchTime, PlanProfile};
pub use readback::Readback;
pub use recorder::{Dispatch, Launch, Phase, Recorder, Tensor, grid_1d};
pub use selection::{Family, Fragments, KernelChoice};
pub use timing::SubmitTime;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a word: one f32, one u32 or two f16.
pub const WORD: u64 = 4;

/// Locks `mutex`, even if another thread panicked while it held the lock: no panic leaves the data half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
