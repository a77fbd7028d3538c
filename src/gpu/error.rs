//! Failures of an adapter, with the driver's message.

/// Result of an operation on an adapter.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of an adapter, or a failure to find one.
///
/// A dispatch that doesn't fit its kernel's declaration is a bug in the caller and panics when it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine has no adapter.
    #[error("no Vulkan, Metal or DX12 adapter was found")]
    NoAdapter,
    /// No adapter has the name asked for.
    #[error("no adapter's name contains {wanted:?}; found: {}", found.join(", "))]
    UnknownAdapter {
        /// The name asked for: any part of an adapter's name.
        wanted: String,
        /// The names of all adapters.
        found: Vec<String>,
    },
    /// The driver returned an error or never answered.
    #[error("the adapter failed: {0}")]
    Failed(String),
    /// In a guarded context: a dispatch wrote past the end of this tensor.
    #[error("the adapter failed: {0} was written past its end")]
    Overwritten(String),
    /// The driver was reset, or the adapter was unplugged.
    #[error("the adapter was lost: {0}")]
    Lost(String),
    /// The adapter is out of memory.
    #[error("the adapter is out of memory: {0}")]
    Memory(String),
    /// A rehearsal refused this buffer, as if the adapter were out of memory.
    #[error("the adapter is out of memory: {0}, as rehearsed")]
    Refused(String),
    /// A tensor or a buffer is larger than the adapter allows.
    #[error("{0}")]
    TooLarge(String),
    /// `LAT_REHEARSE` can't be parsed.
    #[error("{0}")]
    Rehearsal(String),
}
