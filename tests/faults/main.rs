//! Faults that users reported, each repeated on a small input, with similar cases.
//!
//! `data/` holds the inputs: synthetic or random images, a tiny backbone, and files with misleading names.

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
