//! `lat-wgpu`: the Locally Aware Transformer for person re-identification on a hand-written wgpu engine.
//!
//! The images of a list that look most like another one (`examples/find_person.rs` does it with a folder):
//!
//! ```
//! use lat_wgpu::checkpoint::{self, Settings};
//! use lat_wgpu::embeddings::Embeddings;
//! use lat_wgpu::images::walk;
//! use lat_wgpu::tasks::embed::{Embedder, LookOptions};
//! use lat_wgpu::error::Result;
//! use lat_wgpu::retrieval::neighbours::Neighbours;
//! use lat_wgpu::gpu::{Context, ContextOptions};
//! # fn main() -> Result<()> {
//! # let folder = tempfile::tempdir().map_err(lat_wgpu::error::Error::io("create", "a folder"))?;
//! # let folder = folder.path();
//! # std::fs::create_dir(folder.join("gallery")).expect("a folder");
//! # let draw = |name: &str, red: u8| { image::RgbImage::from_fn(64, 128, |x, y| image::Rgb([red, x as u8, y as u8])).save(folder.join(name)) };
//! # draw("gallery/one.png", 0).and_then(|()| draw("gallery/two.png", 200)).and_then(|()| draw("query.png", 199)).expect("images");
//! let network = checkpoint::load("weights/demo.safetensors".as_ref(), &Settings::default())?;
//! let context = Context::open(&ContextOptions::from_environment(None))?;
//! let mut embedder = Embedder::new(&context, &network, None, context.default_memory())?;
//!
//! let mut embed = |name: &str| -> Result<Embeddings> {
//!     let images = walk::list_images(&[folder.join(name)], false)?.images;
//!     Ok(embedder.embeddings(images, LookOptions::default(), &())?.0)
//! };
//! let (gallery, query) = (embed("gallery")?, embed("query.png")?);
//!
//! // Nearest first. The distance is squared Euclidean; vectors have length 1, so it is 2 - 2·cosine.
//! let nearest = Neighbours::new(&context, &query, &gallery, context.default_memory())?.nearest(0..1, 2)?;
//! for found in &nearest[0] {
//!     println!("{:.4}  {}", found.distance, gallery.paths[found.index]);
//! }
//! # assert!(gallery.paths[nearest[0][0].index].ends_with("two.png"));
//! # Ok(())
//! # }
//! ```
//!
//! One image down, in the files to open: [`images::decode`] bytes → (H, W, 3) u8 → [`images::preprocess`] stretched to the
//! input size → [`tasks::embed`] batch, upload → [`kernels::image`] (B, 3, H, W) f32 → [`kernels::patch_embed`] (B, N, D) →
//! [`kernels::tokens`] + class token, + position (B, T, D) → blocks ([`layers::block`]) → final norm → [`kernels::gelt`]
//! row means blended with the class token (B, R, D) → [`kernels::l2norm`] (B, R·D).
//! From the model to a kernel: `model/vit.rs` → `layers/block.rs` → `kernels/S.rs` → `shaders/S.wgsl`.
//!
//! Modules in reading order, lowest layer first; imports only go up this list.

// Only `cli` prints or decides an exit code, by macros of its own; nothing unwraps outside tests.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, clippy::exit)
)]

pub mod gpu;

pub mod error;
pub mod observer;
pub mod retry;
pub mod rng;
pub mod shape;

pub mod figures;
pub mod images;
pub mod storage;

pub mod datasets;
pub mod kernels;
pub mod plot;
pub mod report;

pub mod checkpoint;
pub mod embeddings;
pub mod layers;

pub mod model;
pub mod retrieval;

pub mod export;
pub mod train;

pub mod tasks;

pub mod cli;

pub mod bench;
pub mod cases;
pub mod reference;
pub mod selftest;
