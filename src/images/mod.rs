//! Images on the host: found, decoded, resized, augmented.

pub mod augment;
pub mod decode;
mod jpeg;
pub mod preprocess;
pub mod walk;
