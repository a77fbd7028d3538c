//! Files that the readers read.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder of the files, one per process, in `LAT_FUZZ_DIR` or the system's temporary folder.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let above = std::env::var_os("LAT_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = above.join(format!("lat-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the files that are read");
        folder
    })
}

/// Writes a file to [`folder`].
pub(crate) fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("room for a file");
    path
}
