//! A lock on a folder: one writer at a time, and no temporary files of a killed one.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};

/// Name of the locked file. It is empty and stays in the folder.
const LOCK: &str = ".lock";

/// Prefix of temporary files, as `atomic` names them.
const TEMPORARY: &str = ".lat-wgpu-";

/// The lock on a folder. It ends when it is dropped or when the process dies.
#[derive(Debug)]
pub struct FolderLock {
    // Locked while it is open.
    _file: File,
}

impl FolderLock {
    /// Locks an existing folder and removes the temporary files of a killed writer.
    ///
    /// # Errors
    /// `Usage` if another process writes into the folder; `Io` if it can't be written.
    pub fn acquire(folder: &Path) -> Result<FolderLock> {
        let path = folder.join(LOCK);
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let file = options.map_err(Error::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Usage(format!(
                    "{}: another process is writing into it",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
        }
        sweep(folder)?;
        Ok(FolderLock { _file: file })
    }
}

/// Returns whether a writer has locked the folder before.
pub fn was_taken(folder: &Path) -> bool {
    folder.join(LOCK).exists()
}

/// Removes temporary files. Their writer no longer exists.
fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let is_temporary = entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes());
        if is_temporary && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Returns whether the folder holds any file except a lock, temporary files and the names `except`. A missing folder
/// holds none.
///
/// # Errors
/// `Io` if it can't be read.
pub fn holds_files(folder: &Path, except: &[&str]) -> Result<bool> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("read", folder)(e)),
    };
    for entry in entries {
        let name = entry.map_err(Error::io("read", folder))?.file_name();
        let is_excepted = name == LOCK || except.iter().any(|known| name == *known);
        if !is_excepted && !name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(dir.path()).unwrap();
        match FolderLock::acquire(dir.path()) {
            Err(Error::Usage(text)) => assert!(text.contains(&*dir.path().to_string_lossy()), "{text}"),
            other => panic!("{other:?}"),
        }
        drop(lock);
        FolderLock::acquire(dir.path()).unwrap();
        assert!(matches!(FolderLock::acquire(&dir.path().join("nowhere")), Err(Error::Io { .. })));
    }

    #[test]
    fn only_temporary_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".lat-wgpu-Ab3", ".lat-wgpu-", "last.safetensors", ".lat", "log.jsonl"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        std::fs::create_dir(dir.path().join(".lat-wgpu-folder")).unwrap();
        let _lock = FolderLock::acquire(dir.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".lat", ".lat-wgpu-folder", ".lock", "last.safetensors", "log.jsonl"]);
    }

    #[test]
    fn a_lock_and_temporary_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!holds_files(&dir.path().join("nowhere"), &[]).unwrap());
        assert!(!holds_files(dir.path(), &[]).unwrap());
        std::fs::write(dir.path().join(".lat-wgpu-1"), b"x").unwrap();
        std::fs::write(dir.path().join(".lock"), b"").unwrap();
        assert!(!holds_files(dir.path(), &[]).unwrap());
        std::fs::write(dir.path().join("notes.txt"), b"x").unwrap();
        assert!(holds_files(dir.path(), &[]).unwrap());
        assert!(holds_files(&dir.path().join("notes.txt"), &[]).is_err());
    }
}
