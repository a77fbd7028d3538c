//! Files: atomic writes, locks, hashes and metadata.

pub mod atomic;
mod dtype;
pub mod entry;
pub mod hash;
pub mod json;
pub mod lock;

pub use dtype::Dtype;
