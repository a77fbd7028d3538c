//! Failures of an adapter, each with what its driver reported.

/// Result of everything that an adapter or its driver can refuse.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of an adapter, or of the search for one.
///
/// Launches that don't fit their kernel's declaration are programmer mistakes and panic at record time instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No driver on this machine offers an adapter.
    #[error("no Vulkan, Metal or DX12 adapter was found")]
    NoAdapter,
    /// There are adapters, but none of the name asked for.
    #[error("no adapter's name contains {wanted:?}; found: {}", found.join(", "))]
    UnknownAdapter {
        /// The part of a name.
        wanted: String,
        /// The names of all adapters.
        found: Vec<String>,
    },
    /// The driver refused work, or never answered.
    #[error("the adapter failed: {0}")]
    Failed(String),
    /// In a guarded context: a launch wrote behind this tensor.
    #[error("the adapter failed: {0} was written past its end")]
    Overwritten(String),
    /// The adapter is gone: its driver was reset, or it was unplugged.
    #[error("the adapter was lost: {0}")]
    Lost(String),
    /// The adapter has no memory for a buffer.
    #[error("the adapter is out of memory: {0}")]
    Memory(String),
    /// A rehearsal refused this buffer, as if there were no memory for it.
    #[error("the adapter is out of memory: {0}, as rehearsed")]
    Refused(String),
    /// A tensor or a buffer is larger than the adapter allows.
    #[error("{0}")]
    TooLarge(String),
    /// The failures to be rehearsed can't be read.
    #[error("{0}")]
    Rehearsal(String),
}
