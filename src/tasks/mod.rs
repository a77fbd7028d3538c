//! The work of each command, for users of the library: nothing here prints.

pub mod embed;
pub mod explain;
pub mod tune;
