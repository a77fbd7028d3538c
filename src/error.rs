//! The one error type: what went wrong, in which file or tensor, and what the user can do about it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Result of everything that can fail for a reason outside the program.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure that a user can cause or meet.
///
/// Wrong shapes inside the engine are programmer mistakes and panic at record time instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused an action on `path`.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Verb phrase, such as "read" or "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Contradictory or impossible settings; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A picture that cannot be decoded.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The picture.
        path: PathBuf,
        /// Why, in words for its owner.
        reason: String,
    },
    /// A weights file that is unusable as a whole.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// One tensor of a weights file is missing, misshaped, duplicate or not finite.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name as the model knows it.
        tensor: String,
        /// The shape or property that the model needs.
        expected: String,
        /// The shape or property that the file has.
        found: String,
    },
    /// There is nothing to work on.
    #[error("{0}")]
    NothingToDo(String),
    /// Embeddings or labels that don't fit together or hold nothing to measure.
    #[error("{0}")]
    Data(String),
    /// No graphics adapter can be used.
    #[error("{0}")]
    NoAdapter(String),
    /// The adapter refused work, or never answered.
    #[error("the adapter failed: {0}")]
    Gpu(String),
    /// The adapter is gone: its driver was reset, or it was unplugged.
    #[error("the adapter was lost: {0}")]
    Lost(String),
    /// The adapter has no memory for a buffer.
    #[error("the adapter is out of memory: {0}")]
    Memory(String),
    /// A script that Python was to run for us failed, or there is no Python.
    #[error("{0}")]
    Python(String),
    /// A signal asked the program to stop; exit code 128 + its number.
    #[error("interrupted: {outcome}")]
    Interrupted {
        /// 2 for SIGINT, 15 for SIGTERM.
        signal: u8,
        /// What became of the work.
        outcome: &'static str,
    },
    /// Loss or gradients overflowed; the step changed nothing.
    #[error("step {step}: loss or gradients are not finite; its pictures: {pictures}")]
    NotFinite {
        /// Number of the step, from 1.
        step: u64,
        /// Names of the batch's pictures.
        pictures: String,
    },
    /// The need is larger than the memory or binding that the adapter offers.
    #[error("{0}")]
    TooLarge(String),
}

impl Error {
    /// Wraps an I/O error with the action and the path it belongs to.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// The message and those of its causes, in one line.
    pub fn with_causes(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(&format!(": {error}"));
            cause = error.source();
        }
        line
    }

    /// Whether the same work may succeed on the same adapter, opened anew.
    pub fn may_pass(&self) -> bool {
        matches!(self, Error::Lost(_) | Error::Memory(_))
    }

    /// What the user can try next, if there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::NoAdapter(_) => Some(
                "install a Vulkan driver (Debian and Ubuntu: apt install mesa-vulkan-drivers); `lat-wgpu info` lists what is found",
            ),
            Error::Weights { .. } | Error::Tensor { .. } => Some(
                "`lat-wgpu inspect FILE` lists the tensors of a file; weights/README.md tells what can be used",
            ),
            Error::TooLarge(_) => Some(
                "a smaller --batch, --micro-batch or --size needs less; .npy and .parquet take any number of rows",
            ),
            Error::Gpu(_) => {
                Some("try --adapter with another name from `lat-wgpu info`, or a smaller --batch")
            }
            Error::Lost(_) => {
                Some("a driver resets an adapter that works too long or runs too hot; what was saved stands")
            }
            Error::Memory(_) => {
                Some("a smaller --batch or --micro-batch needs less; do other programs use the adapter?")
            }
            Error::Python(_) => Some(
                "--to onnx needs Python with three packages: pip install onnx numpy safetensors; LAT_PYTHON=PATH names another Python",
            ),
            Error::NothingToDo(_) => Some("inputs are folders or .jpg .jpeg .png .bmp .webp .gif .tif files"),
            Error::Io { action: "create" | "write" | "replace", .. } => {
                Some("is the folder there, writable, and not full?")
            }
            Error::Io { action: "listen on", .. } => {
                Some("is the address this machine's, and the port free? --port 0 takes any that is free")
            }
            Error::NotFinite { .. } => {
                Some("the state before this step is saved; try a lower --lr, or --clip-norm 1")
            }
            Error::Io { source, .. } => match source.kind() {
                // It was found and read, but isn't what it should be.
                ErrorKind::InvalidData => None,
                _ => Some("is the path right, and may this user read it?"),
            },
            Error::Usage(_) | Error::Data(_) | Error::Image { .. } | Error::Interrupted { .. } => None,
        }
    }

    /// Exit code of the process: 2 for bad usage, 130 or 143 when interrupted, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Interrupted { signal, .. } => 128 + signal,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_needs_no_other_path() {
        let hint = |kind: ErrorKind| Error::io("read", Path::new("a"))(kind.into()).hint();
        assert!(hint(ErrorKind::NotFound).unwrap().contains("path right"));
        assert!(hint(ErrorKind::PermissionDenied).unwrap().contains("may this user read"));
        assert_eq!(hint(ErrorKind::InvalidData), None);
    }
}
