//! Files that take their name only when they are complete: an older one stays as it was until then.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// A file under a passing name in the folder of `target`; removed when dropped.
///
/// # Errors
/// `Io` where the folder can't be written or `target` is a folder.
pub fn temporary_beside(target: &Path) -> Result<NamedTempFile> {
    if target.is_dir() {
        let reason = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(Error::io("create", target)(reason));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lat-wgpu-");
    // What the user's umask leaves, as for any new file; temporary files are private otherwise.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder_of(target)).map_err(Error::io("create", target))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes sure that the content is on the disk, then gives the file its name.
///
/// # Errors
/// `Io` where it can't be written or renamed.
pub fn publish(file: NamedTempFile, target: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(Error::io("write", target))?;
    file.persist(target).map_err(|e| Error::io("replace", target)(e.error))?;
    // The new name lasts once the folder is on the disk too. Not every system can: then it lasts a moment later.
    if let Ok(folder) = File::open(folder_of(target)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Writes a whole file without waiting for the disk: after a power cut it may be lost or empty, but a full disk leaves an
/// older one as it was. For what is quickly made again.
///
/// # Errors
/// `Io` where it can't be written or renamed.
pub fn replace(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary_beside(target)?;
    file.write_all(bytes).map_err(Error::io("write", target))?;
    file.persist(target).map_err(|e| Error::io("replace", target)(e.error))?;
    Ok(())
}

/// Writes a whole file.
///
/// # Errors
/// `Io` where it can't be written or renamed.
pub fn write_atomically(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary_beside(target)?;
    file.write_all(bytes).map_err(Error::io("write", target))?;
    publish(file, target)
}

/// Copies a whole file.
///
/// # Errors
/// `Io` where it can't be read, written or renamed.
pub fn copy_atomically(source: &Path, target: &Path) -> Result<()> {
    let mut from = File::open(source).map_err(Error::io("open", source))?;
    let mut file = temporary_beside(target)?;
    std::io::copy(&mut from, file.as_file_mut()).map_err(Error::io("write", target))?;
    publish(file, target)
}
