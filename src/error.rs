//! The error type: the problem, its file or value, and a hint for the user.

use crate::gpu;
pub use crate::gpu::catch_panic;
use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Result of an operation that can fail for a reason outside of the program.
///
/// ```
/// fn dimensions(model: &str) -> lat_wgpu::Result<usize> {
///     Ok(lat_wgpu::Model::open(model)?.dim())
/// }
/// ```
pub type Result<T> = std::result::Result<T, Error>;

/// A failure. [`Error::with_causes`] is the message for a user, [`Error::hint`] the advice.
///
/// Wrong shapes inside the engine are bugs and panic instead.
///
/// ```
/// let error = lat_wgpu::Model::open("missing.safetensors").err().expect("there is no such file");
/// assert!(error.to_string().contains("missing.safetensors") && error.hint().is_some());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A failed action on a file or folder.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb, such as "read" or "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Contradictory or impossible settings; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// An image that cannot be decoded.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// The reason, for the user.
        reason: String,
    },
    /// A weights file that is unusable.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A tensor of a weights file that is missing, duplicate, not finite, or of another shape.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Shape or property that the model needs.
        expected: String,
        /// Shape or property in the file.
        found: String,
    },
    /// Inputs without anything to work on.
    #[error("{0}")]
    NothingToDo(String),
    /// Embeddings or labels that don't fit together, or that have nothing to measure.
    #[error("{0}")]
    Data(String),
    /// A failed or missing adapter.
    #[error(transparent)]
    Gpu(gpu::Error),
    /// A server that can't be reached, or that doesn't have or give what is asked.
    #[error("{0}")]
    Network(String),
    /// A signal that stopped the work; exit code 128 + its number.
    #[error("interrupted: {outcome}")]
    Interrupted {
        /// 2 for SIGINT, 15 for SIGTERM.
        signal: u8,
        /// Result of the work so far.
        outcome: &'static str,
    },
    /// A training step with an overflow of loss or gradients. The step changed nothing.
    #[error("step {step}: loss or gradients are not finite; its images: {images}")]
    NotFinite {
        /// Number of the step, from 1.
        step: u64,
        /// Names of the images in the batch.
        images: String,
    },
    /// The failure of one of several ranks.
    #[cfg(feature = "mpi")]
    #[error("rank {rank}: {message}")]
    Rank {
        /// The rank.
        rank: usize,
        /// Its error.
        message: String,
        /// Its exit code.
        code: u8,
    },
    /// Work that needs more memory, or larger bindings, than the adapter has.
    #[error("{0}")]
    TooLarge(String),
    /// Another error with a hint. [`Error::hinted`] makes it, [`Error::plain`] returns the other error.
    #[error("{error}")]
    Hinted {
        /// The other error.
        error: Box<Error>,
        /// Advice for the user.
        hint: Cow<'static, str>,
    },
}

impl From<gpu::Error> for Error {
    /// Adds a hint.
    fn from(error: gpu::Error) -> Error {
        let hint = match error {
            gpu::Error::Rehearsal(text) => return Error::Usage(text),
            gpu::Error::TooLarge(text) => {
                return Error::TooLarge(text)
                    .hinted("smaller images need smaller buffers; another adapter may allow larger ones");
            }
            gpu::Error::Overwritten(_) | gpu::Error::Refused(_) => return Error::Gpu(error),
            gpu::Error::NoAdapter => {
                "install a Vulkan driver (Debian and Ubuntu: apt install mesa-vulkan-drivers)"
            }
            gpu::Error::UnknownAdapter { .. } => {
                "--adapter and LAT_ADAPTER take an index of this list or any part of a name; without them the best adapter is used"
            }
            gpu::Error::Failed(_) => {
                "`lat-wgpu info` lists the adapters; LAT_ADAPTER=NAME selects another one"
            }
            gpu::Error::Lost(_) => {
                "a driver resets an adapter that works too long or becomes too hot: its log may say more"
            }
            gpu::Error::Memory(_) => "do other programs use the adapter's memory?",
        };
        Error::Gpu(error).hinted(hint)
    }
}

impl Error {
    /// Wraps an I/O error with its action and path.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// Wraps the reason why the content of a file is unusable.
    pub fn invalid(path: &Path) -> impl FnOnce(String) -> Error {
        move |reason| Error::io("read", path)(std::io::Error::new(ErrorKind::InvalidData, reason))
    }

    /// Error of a filter that matches no row of a table, with an example of a name.
    pub fn no_row(filter: &str, names: &[String]) -> Error {
        let mut kernels: Vec<&str> = names.iter().filter_map(|name| name.split(' ').next()).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let example = names.first().map_or("", String::as_str);
        Error::NothingToDo(format!("no row's name contains {filter:?}"))
            .hinted(format!("a name looks like {example:?}; the first words are {}", kernels.join(", ")))
    }

    /// Adds or replaces the hint.
    ///
    /// The code that knows the cause adds the hint; a hint that names flags comes from the command that has them.
    pub fn hinted(self, hint: impl Into<Cow<'static, str>>) -> Error {
        let error = match self {
            Error::Hinted { error, .. } => error,
            plain => Box::new(plain),
        };
        Error::Hinted { error, hint: hint.into() }
    }

    /// Replaces the outcome of an interruption. Other errors are unchanged.
    pub fn with_outcome(self, outcome: &'static str) -> Error {
        match self {
            Error::Interrupted { signal, .. } => Error::Interrupted { signal, outcome },
            error => error,
        }
    }

    /// Returns the error without its hint.
    pub fn plain(&self) -> &Error {
        match self {
            Error::Hinted { error, .. } => error,
            plain => plain,
        }
    }

    /// Joins the messages of the error and its causes in one line.
    pub fn with_causes(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self.plain());
        while let Some(error) = cause {
            line.push_str(&format!(": {error}"));
            cause = error.source();
        }
        line
    }

    /// Returns whether a signal stopped the work, of this process or of another rank.
    pub fn is_interruption(&self) -> bool {
        self.exit_code() > 128
    }

    /// Returns whether the same work may succeed after the adapter is opened again.
    pub fn may_pass(&self) -> bool {
        matches!(self.plain(), Error::Gpu(gpu::Error::Lost(_))) || self.is_out_of_memory()
    }

    /// Returns whether the adapter had no memory for a buffer.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self.plain(), Error::Gpu(gpu::Error::Memory(_) | gpu::Error::Refused(_)))
    }

    /// Returns advice for the user: the text of [`Error::hinted`], or for [`Error::Io`] one that fits the system's
    /// error.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Hinted { hint, .. } => Some(hint),
            Error::Io { action: "create" | "write" | "replace", source, .. } => Some(match source.kind() {
                ErrorKind::NotFound => "create that folder first, or choose another name",
                ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
                    "that name is already in use: choose another one"
                }
                _ => "does the folder exist, is it writable, and does the disk have space?",
            }),
            Error::Io { action: "open" | "read", source, .. } => match source.kind() {
                // The path is right, the content is not.
                ErrorKind::InvalidData => None,
                ErrorKind::NotFound => Some("check the path"),
                _ => Some("is the path correct, and may this user read it?"),
            },
            _ => None,
        }
    }

    /// Exit code of the process: 2 for wrong usage, 130 or 143 after a signal, else 1.
    pub fn exit_code(&self) -> u8 {
        match self.plain() {
            Error::Usage(_) => 2,
            Error::Interrupted { signal, .. } => 128 + signal,
            #[cfg(feature = "mpi")]
            Error::Rank { code, .. } => *code,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_of_io_errors_fit_their_kind() {
        let hint = |kind: ErrorKind| Some(Error::io("read", Path::new("a"))(kind.into()).hint()?.to_string());
        assert!(hint(ErrorKind::NotFound).unwrap().contains("check the path"));
        assert!(hint(ErrorKind::PermissionDenied).unwrap().contains("may this user read"));
        assert_eq!(hint(ErrorKind::InvalidData), None);
    }

    #[test]
    fn a_hint_changes_nothing_but_the_hint() {
        let io = || Error::io("write", Path::new("a"))(ErrorKind::StorageFull.into());
        for (plain, code) in
            [(io(), 1), (Error::Usage("u".into()), 2), (Error::Interrupted { signal: 2, outcome: "" }, 130)]
        {
            let message = plain.with_causes();
            let hinted = plain.hinted("first").hinted("second");
            assert_eq!(
                (hinted.with_causes(), hinted.exit_code(), hinted.hint()),
                (message, code, Some("second"))
            );
            assert!(!matches!(hinted.plain(), Error::Hinted { .. }));
        }
        assert!(Error::Gpu(gpu::Error::Lost("l".into())).hinted("h").may_pass());
    }

    #[test]
    fn no_hint_comes_with_a_kind_of_error() {
        let text = || "what happened".to_string();
        let path = || PathBuf::from("a");
        for error in [
            Error::Usage(text()),
            Error::NothingToDo(text()),
            Error::Data(text()),
            Error::Gpu(gpu::Error::Lost(text())),
            Error::Network(text()),
            Error::TooLarge(text()),
            Error::Image { path: path(), reason: text() },
            Error::Weights { path: path(), reason: text() },
            Error::Tensor { path: path(), tensor: text(), expected: text(), found: text() },
            Error::NotFinite { step: 1, images: text() },
        ] {
            assert_eq!(error.hint(), None, "{error}");
        }
    }
}
