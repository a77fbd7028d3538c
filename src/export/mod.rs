//! Exports models for other programs.

pub mod onnx;
pub mod web;
