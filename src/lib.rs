//! `lat-wgpu`: the Locally Aware Transformer for person re-identification on a hand-written wgpu engine.
//!
//! Vectors of pictures, and how far apart they are (`examples/find_person.rs` searches a folder):
//!
//! ```
//! use lat_wgpu::checkpoint::{self, Settings};
//! use lat_wgpu::data::{decode::DecodeOptions, preprocess};
//! use lat_wgpu::embed::{DEFAULT_MEMORY, Embedder};
//! use lat_wgpu::gpu::{Context, ContextOptions};
//! # fn main() -> lat_wgpu::error::Result<()> {
//! # let folder = tempfile::tempdir().map_err(lat_wgpu::error::Error::io("create", "a folder"))?;
//! # let folder = folder.path();
//! # let draw = |name: &str| { image::RgbImage::from_fn(64, 128, |x, y| image::Rgb([x as u8, y as u8, 7])).save(folder.join(name)) };
//! # draw("one.png").and_then(|()| draw("two.png")).expect("pictures");
//! let network = checkpoint::load("weights/demo.safetensors".as_ref(), &Settings::default())?;
//! let context = Context::open(&ContextOptions::from_environment(None))?;
//! let mut embedder = Embedder::new(&context, &network, None, DEFAULT_MEMORY)?;
//!
//! let read = |name| preprocess::load(&folder.join(name), DecodeOptions::default(), network.config.image);
//! let vectors = embedder.embed(&[read("one.png")?, read("two.png")?])?;
//!
//! // Unit length: the squared Euclidean distance is 2 - 2·cosine.
//! let (one, two) = vectors.split_at(embedder.dim());
//! let distance: f32 = one.iter().zip(two).map(|(a, b)| (a - b) * (a - b)).sum();
//! # assert!(distance < 1e-6);
//! # Ok(())
//! # }
//! ```
//!
//! One image down, in the files to open: [`data::decode`] bytes → (H, W, 3) u8 → [`data::preprocess`] stretched to the
//! input size → [`embed`] batch, upload → [`kernels::image`] (B, 3, H, W) f32 → [`kernels::patch_embed`] (B, N, D) →
//! [`kernels::tokens`] + class token, + position (B, T, D) → blocks ([`layers::block`]) → final norm → [`kernels::gelt`]
//! row means blended with the class token (B, R, D) → [`kernels::l2norm`] (B, R·D).
//! From the model to a kernel: `model/vit.rs` → `layers/block.rs` → `kernels/S.rs` → `shaders/S.wgsl`.
//!
//! Modules in reading order, lowest layer first; imports only go up this list.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod error;
pub mod rng;
pub mod shape;

pub mod gpu;
pub mod kernels;
pub mod layers;

pub mod checkpoint;
pub mod data;
pub mod model;

pub mod bench;
pub mod embed;
pub mod evaluate;
pub mod explain;
pub mod report;
pub mod selftest;
pub mod train;
pub mod tune;
pub mod web;

pub mod cli;

pub mod reference;
