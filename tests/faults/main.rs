//! Faults that users met, each replayed on a small input, with further cases of its kind.
//!
//! `data/` holds the inputs: drawn or random images, a tiny backbone, files that are something else than their name says.

mod common;
mod datasets;
mod embeddings;
mod messages;
mod outputs;
#[path = "../common/program.rs"]
mod program;
mod serve;
mod training;
mod walk;
mod weights;
