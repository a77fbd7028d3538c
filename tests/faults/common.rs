//! Runs the program on copies of the inputs.

#![allow(dead_code, reason = "each module uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A backbone of two blocks for 64×32 images; its metadata holds its configuration.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/data/tiny/tiny.safetensors");

/// The program with these arguments, run in `folder`.
pub fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lat-wgpu"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("LAT_TUNED", "0");
    command
}

/// Runs the program, asserts its exit code and returns stdout and stderr.
#[track_caller]
pub fn expect(code: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = program(folder, arguments).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}:\n{stdout}{stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}:\n{stderr}");
    (stdout, stderr)
}

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

/// A temporary folder that holds copies of these inputs under their own names.
pub fn copies(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        copy(&input(name), &folder.path().join(name));
    }
    folder
}

/// Copies a file, or a folder with all below it.
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

/// Writes a file, with the folders above it.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Writes a small image of one colour that the path's ending decides the format of.
pub fn paint(path: &Path, colour: [u8; 3]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(16, 32, image::Rgb(colour)).save(path).unwrap();
}
