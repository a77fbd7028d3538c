//! The work of each command as functions for library users. Nothing here prints.

pub mod ablate;
pub mod adapt;
pub mod autotune;
pub mod cluster;
pub mod compare;
pub mod demo;
pub mod doctor;
pub mod embed;
pub mod evaluate;
pub mod explain;
pub mod init;
pub mod models;
#[cfg(feature = "reduce")]
pub mod reduce;
pub mod runs;
pub mod search;
pub mod train;
pub mod trained_on;
