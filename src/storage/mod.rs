//! Files: written as a whole or not at all, locked, hashed, and compared.

pub mod atomic;
mod dtype;
pub mod entry;
pub mod hash;
pub mod json;
pub mod lock;

pub use dtype::Dtype;
