//! Runs the program as a user does, on small files.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use lat_wgpu::embeddings::{Dtype, EmbeddingWriter};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lat-wgpu");

/// A ViT of two blocks and width 32 for 32×32 images in patches of 8. It needs `--heads 2`.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/plain.model.safetensors");

/// The program with these arguments in `folder`, with built-in tiles. Runs it by the command that cargo runs tests by, if
/// there is one: another loader of shared libraries.
pub fn program<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> Command {
    let runner = std::env::var("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().chain([PROGRAM]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("LAT_TUNED", "0");
    command
}

/// Runs a command, asserts its exit code, and returns stdout and stderr.
#[track_caller]
pub fn finish(code: i32, command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(output.status.code(), Some(code), "{command:?}:\n{stdout}{stderr}");
    assert!(!stderr.contains("panicked"), "{command:?}:\n{stderr}");
    (stdout, stderr)
}

/// Runs the program with these arguments only.
#[track_caller]
pub fn expect(code: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    finish(code, &mut program(folder, arguments))
}

/// Sends a signal such as `-TERM`.
#[cfg(unix)]
pub fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// A folder with `figures/`: a synthetic data set of eight persons by two cameras, with `images` images each.
pub fn figures(images: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let counts = ["--persons", "8", "--cameras", "2", "--images", images, "--seed", "3"];
    expect(0, folder.path(), &[&["synth", "figures"], &counts[..]].concat());
    folder
}

/// A folder with `crops/`: synthetic images of `persons` persons by two cameras, one image each.
pub fn crops(persons: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    // Every second person is in the train split.
    let persons = (2 * persons).to_string();
    let counts = ["--persons", &persons, "--cameras", "2", "--images", "1", "--seed", "7"];
    expect(0, folder.path(), &[&["synth", "set"], &counts[..]].concat());
    std::fs::rename(folder.path().join("set/bounding_box_train"), folder.path().join("crops")).unwrap();
    std::fs::remove_dir_all(folder.path().join("set")).unwrap();
    folder
}

/// Writes embeddings of named points on a line.
pub fn write_points(file: &Path, rows: &[(f32, &str)]) {
    let names: Vec<String> = rows.iter().map(|(_, name)| name.to_string()).collect();
    let mut writer = EmbeddingWriter::create(file, 2, Dtype::F32, &names, &BTreeMap::new()).unwrap();
    for (x, name) in rows {
        writer.push(name, &[*x, 1.0]).unwrap();
    }
    writer.finish().unwrap();
}

/// A server that stops with its test.
pub struct Server {
    pub child: Child,
    pub address: String,
}

impl Server {
    /// Starts `command` and waits until it listens.
    pub fn spawn(command: &mut Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}"));
        Server { address: address.to_string(), child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status, lower-case head and body of an answer.
pub fn answer(mut stream: TcpStream) -> (u16, String, Vec<u8>) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // The server closes before it reads a whole refused request. Its answer comes first.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an end of the head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    (head[9..12].parse().unwrap(), head, bytes[end + 4..].to_vec())
}
