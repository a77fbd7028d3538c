//! `lat-wgpu`: the Locally Aware Transformer for person re-identification on a hand-written wgpu engine.
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
pub mod train;
pub mod tune;
pub mod web;

pub mod cli;

pub mod reference;
