//! Forms of embeddings files: endings, headers, and the names beside a `.npy`.

use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

use crate::error::{Error, Result};
use crate::storage::Dtype;

/// Longest header that readers of safetensors accept, in bytes.
pub(super) const MAX_SAFETENSORS_HEADER: usize = 100_000_000;
/// One kind of file.
pub(super) trait Form: Send {
    fn push(&mut self, name: &str, vector: &[f32]) -> Result<()>;
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
    /// (N, D).
    pub rows: Vec<f32>,
}

impl Embeddings {
    /// One row (D).
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.rows[index * self.dim..][..self.dim]
    }
}

pub(super) fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// The file of names beside an embeddings file, if its form has one.
pub fn side_file(file: &Path) -> Option<PathBuf> {
    (ending(file) == "npy").then(|| paths_beside(file))
}

/// `gallery.npy` → `gallery.paths.txt`.
pub(super) fn paths_beside(npy: &Path) -> PathBuf {
    npy.with_extension("paths.txt")
}

/// A name on one line: line breaks as `\n` and `\r`, and so a backslash as `\\`.
pub(super) fn to_line(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

/// What `to_line` was given.
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

/// That a file's ending is none of those that embeddings have.
pub(super) fn other_ending(path: &Path) -> Error {
    let what = match ending(path).as_str() {
        "npz" => "; a NumPy archive (.npz) holds several arrays: save the one with numpy.save",
        _ => "",
    };
    Error::Usage(format!("{}: embeddings are read from .safetensors, .npy or .parquet{what}", path.display()))
}

/// Names of the rows of a `.npy` file.
pub(super) fn npy_names(path: &Path) -> Result<Vec<String>> {
    let beside = paths_beside(path);
    let lines = std::fs::read_to_string(&beside).map_err(Error::io("read", &beside))?;
    Ok(lines.lines().map(from_line).collect())
}

/// Where a file has its matrix.
pub(super) struct Head {
    pub(super) rows: usize,
    pub(super) dim: usize,
    pub(super) dtype: Dtype,
    /// First byte of the numbers, counted from the start of the file.
    pub(super) start: usize,
}

/// Names and matrix of a file whose validated header has `header_len` bytes.
pub(super) fn safetensors_head(
    header: &Metadata,
    header_len: usize,
) -> std::result::Result<(Vec<String>, Head), String> {
    let tensor = header.info("embeddings").ok_or("no tensor embeddings")?;
    let &[rows, dim] = &tensor.shape[..] else { return Err("tensor embeddings is not a matrix".to_string()) };
    let dtype = match tensor.dtype {
        safetensors::Dtype::F32 => Dtype::F32,
        safetensors::Dtype::F16 => Dtype::F16,
        other => return Err(format!("tensor embeddings holds {other}, not F32 or F16")),
    };
    let list = header.metadata().as_ref().and_then(|m| m.get("paths")).ok_or("no paths in the metadata")?;
    let paths = serde_json::from_str(list).map_err(|e| format!("paths in the metadata: {e}"))?;
    Ok((paths, Head { rows, dim, dtype, start: 8 + header_len + tensor.data_offsets.0 }))
}

/// Longest beginning of a `.npy` file that is a header, in bytes.
pub(super) const MAX_NPY_HEADER: usize = 10 + u16::MAX as usize;

/// Reads the beginning of a matrix in C order, as NumPy writes it too.
pub(super) fn npy_head(bytes: &[u8]) -> std::result::Result<Head, String> {
    let bad = || match bytes.starts_with(b"PK\x03\x04") {
        true => "is a NumPy archive (.npz) of several arrays: save the one with numpy.save".to_string(),
        false => "is not a NumPy matrix of f32 or f16 in C order".to_string(),
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
            Ok(Head { rows, dim, dtype, start: 10 + len })
        }
        _ => Err(bad()),
    }
}
