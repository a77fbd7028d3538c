//! Atomic writes: a file gets its name when it is complete. Until then an older file stays as it is.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// Identity of the file or folder at a path: the same for all its names, links included.
///
/// Device and inode number if the system has them, else the canonical path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(#[cfg(unix)] (u64, u64), #[cfg(not(unix))] std::path::PathBuf);

impl Identity {
    /// Identifies an existing file or folder.
    ///
    /// # Errors
    /// If it is missing, or the system can't look it up.
    pub fn of(path: &Path) -> io::Result<Identity> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let found = std::fs::metadata(path)?;
            Ok(Identity((found.dev(), found.ino())))
        }
        #[cfg(not(unix))]
        std::fs::canonicalize(path).map(Identity)
    }
}

/// Creates a temporary file in the folder of `target`. Dropping it removes the file. For a device or a pipe, the file
/// is in the system's folder for temporary files.
///
/// # Errors
/// `Io` if the folder is missing or can't be written, or if `target` is a folder.
pub fn temporary_beside(target: &Path) -> Result<NamedTempFile> {
    let refused = Error::io("create", target);
    match std::fs::metadata(target) {
        Ok(found) if found.is_dir() => return Err(refused(ErrorKind::IsADirectory.into())),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) => return Err(refused(error)),
    }
    if target.as_os_str().as_encoded_bytes().last().is_some_and(|&last| std::path::is_separator(last.into()))
    {
        return Err(refused(ErrorKind::IsADirectory.into()));
    }
    let folder = if is_special(target) { std::env::temp_dir() } else { folder_of(target).to_path_buf() };
    temporary_in(&folder).map_err(refused)
}

/// Creates a temporary file in a folder.
///
/// # Errors
/// If the folder is missing or can't be written. The error doesn't show the temporary name.
pub fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lat-wgpu-");
    // Permissions by the user's umask, as for any new file. Temporary files would be private.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder).map_err(|error| match std::fs::metadata(folder) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => {
            io::Error::new(ErrorKind::NotFound, format!("there is no folder {}", folder.display()))
        }
        Ok(found) if !found.is_dir() => {
            io::Error::new(ErrorKind::NotADirectory, format!("{} is not a folder", folder.display()))
        }
        _ => without_temporary_name(error),
    })
}

/// Returns the system's error inside one that names the temporary file.
fn without_temporary_name(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|named| named.source()).and_then(|inner| inner.downcast_ref());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error,
    }
}

/// Returns the folder of a path.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns whether a path is a device, a pipe or a socket. These are written to and never replaced.
pub fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Waits until the content is on the disk, then names the file.
///
/// # Errors
/// `Io` if it can't be written or renamed.
pub fn publish(file: NamedTempFile, target: &Path) -> Result<()> {
    if is_special(target) {
        return copy_to_special(file, target).map_err(Error::io("write", target));
    }
    file.as_file().sync_all().map_err(Error::io("write", target))?;
    file.persist(target).map_err(|e| Error::io("replace", target)(e.error))?;
    // The new name is safe when the folder is on the disk, too. Not every system can wait for a folder.
    if let Ok(folder) = File::open(folder_of(target)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Copies the content to a device or a pipe.
fn copy_to_special(mut file: NamedTempFile, target: &Path) -> io::Result<()> {
    file.rewind()?;
    io::copy(&mut file, &mut File::options().write(true).open(target)?)?;
    Ok(())
}

/// Writes a file without waiting for the disk, for content that is fast to make again. After a power cut it may be
/// missing or empty. A full disk leaves an older file as it is.
///
/// # Errors
/// `Io` if it can't be written or renamed.
pub fn replace(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary_beside(target)?;
    file.write_all(bytes).map_err(Error::io("write", target))?;
    if is_special(target) {
        return copy_to_special(file, target).map_err(Error::io("write", target));
    }
    file.persist(target).map_err(|e| Error::io("replace", target)(e.error))?;
    Ok(())
}

/// Writes a file.
///
/// # Errors
/// `Io` if it can't be written or renamed.
pub fn write_atomically(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary_beside(target)?;
    file.write_all(bytes).map_err(Error::io("write", target))?;
    publish(file, target)
}

/// Copies a file.
///
/// # Errors
/// `Io` if it can't be read, written or renamed.
pub fn copy_atomically(source: &Path, target: &Path) -> Result<()> {
    let mut from = File::open(source).map_err(Error::io("open", source))?;
    let mut file = temporary_beside(target)?;
    std::io::copy(&mut from, file.as_file_mut()).map_err(Error::io("write", target))?;
    publish(file, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_folder_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        for (target, words) in
            [("nodir/o.npy", "there is no folder"), ("file/o.npy", "not a folder"), ("new/", "directory")]
        {
            let error = temporary_beside(&dir.path().join(target)).unwrap_err().with_causes();
            assert!(error.contains(words) && error.contains(target), "{error}");
            assert!(!error.contains(".lat-wgpu-"), "{error}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn names_of_one_file_have_one_identity() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), b"x").unwrap();
        std::fs::write(at("b"), b"x").unwrap();
        std::fs::hard_link(at("a"), at("hard")).unwrap();
        std::os::unix::fs::symlink("a", at("soft")).unwrap();
        for same in ["a", "./a", "hard", "soft"] {
            assert_eq!(Identity::of(&at(same)).unwrap(), Identity::of(&at("a")).unwrap(), "{same}");
        }
        assert_ne!(Identity::of(&at("b")).unwrap(), Identity::of(&at("a")).unwrap());
        assert!(Identity::of(&at("c")).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_written_to_and_stays_one() {
        let null = Path::new("/dev/null");
        write_atomically(null, b"x").unwrap();
        replace(null, b"x").unwrap();
        assert!(is_special(null));
    }
}
