//! Files: atomic writes, locks, hashes, metadata and downloads.

pub mod atomic;
#[cfg(feature = "download")]
pub mod download;
mod dtype;
pub mod entry;
pub mod hash;
pub mod json;
pub mod lock;
pub mod onnx;

pub use dtype::Dtype;
