//! The Markdown files of the project.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no document of the project, besides hidden ones.
const FOREIGN: [&str; 2] = ["target", "node_modules"];

/// Returns all Markdown files below a folder, sorted. Follows no links.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && !FOREIGN.contains(&&*name) {
            found.extend(below(&path));
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found.sort();
    found
}
