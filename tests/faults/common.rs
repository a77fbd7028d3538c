//! Copies of the inputs.

#![allow(dead_code, reason = "each module uses its own part of this")]

pub use crate::program::{expect, program};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A backbone of two blocks for 64×32 images; its metadata holds its configuration.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/data/tiny/tiny.safetensors");

/// Asserts that a text contains each of `words`.
#[track_caller]
pub fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

/// An input in `data/`.
pub fn input(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/data").join(name)
}

/// A temporary folder with copies of these inputs.
pub fn copies(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        copy(&input(name), &folder.path().join(name));
    }
    folder
}

/// Copies a file or a whole folder.
pub fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
}

/// Writes a file, and creates its folders.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Writes a small image of one colour, in the format of the path's extension.
pub fn paint(path: &Path, colour: [u8; 3]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(16, 32, image::Rgb(colour)).save(path).unwrap();
}
