//! Images on the host: listing, decoding, resizing, augmentation.

pub mod augment;
pub mod decode;
mod jpeg;
pub mod preprocess;
pub mod walk;
