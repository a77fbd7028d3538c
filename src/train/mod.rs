//! Training: configuration, schedule, the training loop, and the files of a run folder.

pub mod classifiers;
pub mod config;
pub mod curves;
pub mod events;
pub mod forecast;
mod images;
mod job;
pub mod log;
pub mod schedule;
pub mod trainer;
