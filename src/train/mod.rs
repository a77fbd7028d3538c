//! Training: what a run is told, how its learning rate and its trainable part change, and what it leaves behind.

pub mod classifiers;
pub mod config;
pub mod curves;
pub mod forecast;
mod images;
mod job;
pub mod log;
pub mod schedule;
pub mod trainer;
