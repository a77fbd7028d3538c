//! File formats of embeddings: extensions, headers, and the names beside a `.npy`.

use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

use crate::error::{Error, Result};
use crate::storage::Dtype;

/// Longest header that readers of safetensors accept, in bytes.
pub(super) const MAX_SAFETENSORS_HEADER: usize = 100_000_000;
/// Writer of one file format.
pub(super) trait FormatWriter: Send {
    fn push(&mut self, name: &str, embedding: &[f32]) -> Result<()>;
    fn finish(self: Box<Self>, rows: usize) -> Result<()>;
}

/// Embeddings in memory: N rows of D numbers, each row of unit length.
///
/// ```
/// let paths = vec!["a.jpg".to_string(), "b.jpg".to_string()];
/// let embeddings = lat_wgpu::Embeddings { paths, dim: 2, rows: vec![1.0, 0.0, 0.6, 0.8] };
/// assert_eq!(embeddings.row(1), [0.6, 0.8]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Name of each row.
    pub paths: Vec<String>,
    /// Dimensions D of a row.
    pub dim: usize,
    /// Rows (N, D), one after the other.
    pub rows: Vec<f32>,
}

impl Embeddings {
    /// Returns one row (D).
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.rows[index * self.dim..][..self.dim]
    }
}

pub(super) fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// The file of names beside an embeddings file, if its format has one.
pub fn side_file(file: &Path) -> Option<PathBuf> {
    (extension(file) == "npy").then(|| paths_beside(file))
}

/// `gallery.npy` → `gallery.paths.txt`.
pub(super) fn paths_beside(npy: &Path) -> PathBuf {
    npy.with_extension("paths.txt")
}

/// Writes a name in one line: a line break becomes `\n` or `\r`, a backslash `\\`.
pub(super) fn to_line(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

/// Reads a name that `to_line` wrote.
pub(super) fn from_line(line: &str) -> String {
    let mut name = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        name.push(match (letter, letter == '\\') {
            (letter, false) => letter,
            (backslash, true) => match letters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => backslash,
            },
        });
    }
    name
}

/// Error of a file that has no extension of embeddings.
pub(super) fn unknown_extension(path: &Path) -> Error {
    let what = match extension(path).as_str() {
        "npz" => "; a NumPy archive (.npz) holds several arrays: save one of them with numpy.save",
        _ => "",
    };
    Error::Usage(format!("{}: embeddings are read from .safetensors, .npy or .parquet{what}", path.display()))
}

/// Reads the names of a `.npy` file's rows.
pub(super) fn npy_names(path: &Path) -> Result<Vec<String>> {
    let beside = paths_beside(path);
    let lines = std::fs::read_to_string(&beside).map_err(Error::io("read", &beside))?;
    Ok(lines.lines().map(from_line).collect())
}

/// Shape and position of the matrix in a file.
pub(super) struct Header {
    pub(super) rows: usize,
    pub(super) dim: usize,
    pub(super) dtype: Dtype,
    /// Offset of the matrix in the file, in bytes.
    pub(super) start: usize,
}

/// Reads names and matrix position from a validated header of `header_len` bytes.
pub(super) fn safetensors_header(
    header: &Metadata,
    header_len: usize,
) -> std::result::Result<(Vec<String>, Header), String> {
    let tensor = header.info("embeddings").ok_or_else(|| {
        let is_model = header.tensors().keys().any(|name| name.ends_with(".weight"));
        if is_model { "it is a model, not embeddings" } else { "it has no tensor embeddings" }
    })?;
    let &[rows, dim] = &tensor.shape[..] else { return Err("tensor embeddings is not a matrix".to_string()) };
    let dtype = match tensor.dtype {
        safetensors::Dtype::F32 => Dtype::F32,
        safetensors::Dtype::F16 => Dtype::F16,
        other => return Err(format!("tensor embeddings holds {other}, not F32 or F16")),
    };
    let list =
        header.metadata().as_ref().and_then(|m| m.get("paths")).ok_or("it has no paths in the metadata")?;
    let paths =
        serde_json::from_str(list).map_err(|e| format!("its paths in the metadata are malformed: {e}"))?;
    Ok((paths, Header { rows, dim, dtype, start: 8 + header_len + tensor.data_offsets.0 }))
}

/// Largest header of a `.npy` file, in bytes.
pub(super) const MAX_NPY_HEADER: usize = 10 + u16::MAX as usize;

/// Reads the header of a matrix in C order, as NumPy writes it.
pub(super) fn npy_header(bytes: &[u8]) -> std::result::Result<Header, String> {
    let bad = || match bytes.starts_with(b"PK\x03\x04") {
        true => {
            "it is a NumPy archive (.npz) of several arrays: save one of them with numpy.save".to_string()
        }
        false => "it is not a NumPy matrix of f32 or f16 in C order".to_string(),
    };
    let (magic, rest) = bytes.split_at_checked(8).ok_or_else(bad)?;
    if magic != b"\x93NUMPY\x01\x00" {
        return Err(bad());
    }
    let (len, rest) = rest.split_first_chunk().ok_or_else(bad)?;
    let len = usize::from(u16::from_le_bytes(*len));
    let header = rest.get(..len).ok_or_else(bad)?;
    let header = std::str::from_utf8(header).map_err(|_| bad())?;
    let dtype = match (header.contains("'<f4'"), header.contains("'<f2'")) {
        (true, false) => Dtype::F32,
        (false, true) => Dtype::F16,
        _ => return Err(bad()),
    };
    let shape = header.split_once('(').and_then(|(_, rest)| rest.split_once(')')).ok_or_else(bad)?.0;
    let sides: Vec<usize> = shape.split(',').map_while(|side| side.trim().parse().ok()).collect();
    match sides[..] {
        [rows, dim] if header.contains("'fortran_order': False") => {
            Ok(Header { rows, dim, dtype, start: 10 + len })
        }
        _ => Err(bad()),
    }
}
