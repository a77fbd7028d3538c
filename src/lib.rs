//! Person re-identification on any GPU: the Locally Aware Transformer on a hand-written wgpu engine.
//!
//! ```
//! use lat_wgpu::{Gallery, Model};
//!
//! # fn main() -> lat_wgpu::Result<()> {
//! # let folder = tempfile::tempdir().map_err(lat_wgpu::Error::io("create", "a folder"))?;
//! # std::fs::copy("weights/demo.safetensors", folder.path().join("demo.safetensors")).expect("weights");
//! # std::env::set_current_dir(&folder).expect("a folder");
//! # let figures = lat_wgpu::figures::Figures { persons: 4, cameras: 2, images: 2, seed: 0 };
//! # lat_wgpu::figures::draw_figures("crops".as_ref(), figures)?;
//! let model = Model::open("demo.safetensors")?;
//! let gallery = Gallery::new(&model, model.embed(&["crops/bounding_box_test"])?.embeddings)?;
//! let queries = model.embed(&["crops/query"])?;
//! let matches = gallery.search(&queries.embeddings, 5)?;
//! let scores = model.evaluate("crops")?;
//!
//! println!("{} looks most like {}", queries.files[0].display(), matches[0][0].path);
//! println!("rank-1 {:.1} %, mAP {:.1} %", 100.0 * scores.ranks[0], 100.0 * scores.map);
//! # assert_eq!((matches.len(), matches[0].len()), (queries.files.len(), 5));
//! # Ok(())
//! # }
//! ```
//!
//! [`Model::embed`] turns images into [`Embeddings`], [`Gallery::search`] finds the nearest ones, and
//! [`Model::evaluate`] scores a model on a data set. The program `lat-wgpu` does more: it trains, explains and serves
//! models. Its README describes the files that it reads and writes.
//!
//! The modules behind these types have no stable interface. `RUSTDOCFLAGS="--cfg internals" cargo doc` documents them.

// Only `cli` prints or decides an exit code, by macros of its own; nothing unwraps outside tests.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, clippy::exit)
)]

mod api;

pub use api::{EmbeddedImages, Gallery, Model, ModelOptions};
pub use embeddings::Embeddings;
pub use error::{Error, Result};
pub use gpu::Precision;
pub use retrieval::metrics::Scores;
pub use shape::ImageSize;
pub use tasks::search::Match;

// The modules in reading order, lowest layer first; imports only go up this list.

#[cfg_attr(not(internals), doc(hidden))]
pub mod gpu;

#[cfg_attr(not(internals), doc(hidden))]
pub mod error;
#[cfg_attr(not(internals), doc(hidden))]
pub mod observer;
#[cfg_attr(not(internals), doc(hidden))]
pub mod ranks;
pub(crate) mod retry;
#[cfg_attr(not(internals), doc(hidden))]
pub mod rng;
#[cfg_attr(not(internals), doc(hidden))]
pub mod shape;

#[cfg_attr(not(internals), doc(hidden))]
pub mod figures;
#[cfg_attr(not(internals), doc(hidden))]
pub mod images;
#[cfg_attr(not(internals), doc(hidden))]
pub mod storage;

#[cfg_attr(not(internals), doc(hidden))]
pub mod datasets;
#[cfg_attr(not(internals), doc(hidden))]
pub mod kernels;
pub(crate) mod plot;
pub(crate) mod report;

#[cfg_attr(not(internals), doc(hidden))]
pub mod checkpoint;
#[cfg_attr(not(internals), doc(hidden))]
pub mod embeddings;
pub(crate) mod layers;

#[cfg_attr(not(internals), doc(hidden))]
pub mod model;
#[cfg_attr(not(internals), doc(hidden))]
pub mod retrieval;

pub(crate) mod export;
#[cfg_attr(not(internals), doc(hidden))]
pub mod train;

#[cfg_attr(not(internals), doc(hidden))]
pub mod tasks;

#[cfg_attr(not(internals), doc(hidden))]
pub mod cli;

#[cfg_attr(not(internals), doc(hidden))]
pub mod bench;
#[cfg_attr(not(internals), doc(hidden))]
pub mod cases;
#[cfg_attr(not(internals), doc(hidden))]
pub mod reference;
#[cfg_attr(not(internals), doc(hidden))]
pub mod selftest;
