//! The one error type: what went wrong, in which file or tensor, and what the user can do about it.

use crate::gpu;
pub use crate::gpu::catch_panic;
use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Result of everything that can fail for a reason outside the program.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure that a user can cause or meet.
///
/// Wrong shapes inside the engine are programmer mistakes and panic at record time instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// An image that cannot be decoded.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The image.
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
    /// The adapter failed, or there is none.
    #[error(transparent)]
    Gpu(gpu::Error),
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
    #[error("step {step}: loss or gradients are not finite; its images: {images}")]
    NotFinite {
        /// Number of the step, from 1.
        step: u64,
        /// Names of the batch's images.
        images: String,
    },
    /// The need is larger than the memory or binding that the adapter offers.
    #[error("{0}")]
    TooLarge(String),
    /// One of the others, with what the user can try next: made by [`Error::hinted`], seen through by [`Error::plain`].
    #[error("{error}")]
    Hinted {
        /// The failure.
        error: Box<Error>,
        /// The advice.
        hint: Cow<'static, str>,
    },
}

impl From<gpu::Error> for Error {
    /// Adds what the user can try next.
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
                "--adapter and LAT_ADAPTER take any part of such a name; without them the best one is used"
            }
            gpu::Error::Failed(_) => {
                "`lat-wgpu info` lists the adapters; LAT_ADAPTER=NAME chooses another one"
            }
            gpu::Error::Lost(_) => {
                "a driver resets an adapter that works too long or runs too hot: its log may say more"
            }
            gpu::Error::Memory(_) => "do other programs use the adapter's memory?",
        };
        Error::Gpu(error).hinted(hint)
    }
}

impl Error {
    /// Wraps an I/O error with the action and the path it belongs to.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// Wraps a reason why the content of the file at `path` is unusable.
    pub fn invalid(path: &Path) -> impl FnOnce(String) -> Error {
        move |reason| Error::io("read", path)(std::io::Error::new(ErrorKind::InvalidData, reason))
    }

    /// That no row of a table is named as a filter says, with what names look like.
    pub fn no_row(filter: &str, names: &[String]) -> Error {
        let mut kernels: Vec<&str> = names.iter().filter_map(|name| name.split(' ').next()).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let example = names.first().map_or("", String::as_str);
        Error::NothingToDo(format!("no row's name contains {filter:?}"))
            .hinted(format!("a name is such as {example:?}; the first words are {}", kernels.join(", ")))
    }

    /// The same error with what the user can try next; a hint that it had is replaced.
    ///
    /// A hint is given where the cause is known, and where it names flags, by the command that has them.
    pub fn hinted(self, hint: impl Into<Cow<'static, str>>) -> Error {
        let error = match self {
            Error::Hinted { error, .. } => error,
            plain => Box::new(plain),
        };
        Error::Hinted { error, hint: hint.into() }
    }

    /// The error without its hint.
    pub fn plain(&self) -> &Error {
        match self {
            Error::Hinted { error, .. } => error,
            plain => plain,
        }
    }

    /// The message and those of its causes, in one line.
    pub fn with_causes(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self.plain());
        while let Some(error) = cause {
            line.push_str(&format!(": {error}"));
            cause = error.source();
        }
        line
    }

    /// Whether the same work may succeed on the same adapter, opened anew.
    pub fn may_pass(&self) -> bool {
        matches!(self.plain(), Error::Gpu(gpu::Error::Lost(_))) || self.is_out_of_memory()
    }

    /// Returns true if the adapter had no memory for a buffer.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self.plain(), Error::Gpu(gpu::Error::Memory(_) | gpu::Error::Refused(_)))
    }

    /// Advice for the user, if there is any: the text that [`Error::hinted`] was given, and of the file system
    /// what the system's own reason tells.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Hinted { hint, .. } => Some(hint),
            Error::Io { action: "create" | "write" | "replace", source, .. } => Some(match source.kind() {
                ErrorKind::NotFound => "make that folder first, or choose another name",
                ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
                    "something else has that name: choose another one"
                }
                _ => "is the folder there, writable, and not full?",
            }),
            Error::Io { action: "open" | "read", source, .. } => match source.kind() {
                // It was found and read, but isn't what it should be.
                ErrorKind::InvalidData => None,
                _ => Some("is the path right, and may this user read it?"),
            },
            _ => None,
        }
    }

    /// Exit code of the process: 2 for bad usage, 130 or 143 when interrupted, else 1.
    pub fn exit_code(&self) -> u8 {
        match self.plain() {
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
        let hint = |kind: ErrorKind| Some(Error::io("read", Path::new("a"))(kind.into()).hint()?.to_string());
        assert!(hint(ErrorKind::NotFound).unwrap().contains("path right"));
        assert!(hint(ErrorKind::PermissionDenied).unwrap().contains("may this user read"));
        assert_eq!(hint(ErrorKind::InvalidData), None);
    }

    #[test]
    fn a_hint_changes_nothing_but_the_hint() {
        let io = || Error::io("write", Path::new("a"))(ErrorKind::StorageFull.into());
        for (plain, code) in
            [(io(), 1), (Error::Usage("u".into()), 2), (Error::Interrupted { signal: 2, outcome: "" }, 130)]
        {
            let words = plain.with_causes();
            let hinted = plain.hinted("first").hinted("second");
            assert_eq!(
                (hinted.with_causes(), hinted.exit_code(), hinted.hint()),
                (words, code, Some("second"))
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
            Error::Python(text()),
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
