//! The work of each command, for users of the library: nothing here prints.

pub mod autotune;
pub mod embed;
pub mod evaluate;
pub mod explain;
pub mod known;
pub mod search;
pub mod train;
