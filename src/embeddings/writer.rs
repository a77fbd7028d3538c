//! Writes embeddings row by row. The file gets its name when it is complete.
//!
//! The header of a file needs the number of rows, which depends on skipped images. `.safetensors` and `.npy` reserve
//! room for the largest possible header in front; `.parquet` has it at the end. Rows go to a temporary file in the
//! target's folder. An older output stays as it is until `finish`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use tempfile::NamedTempFile;

use super::format::{FormatWriter, MAX_SAFETENSORS_HEADER, extension, paths_beside, to_line};
#[cfg(feature = "parquet")]
use super::parquet::writer::Parquet;
use crate::error::{Error, Result};
use crate::storage::Dtype;
use crate::storage::atomic::{publish, temporary_beside};

/// Largest number of rows of a `.safetensors` file: readers hold its header, which has all names, in memory.
pub const MAX_SAFETENSORS_ROWS: usize = 500_000;
/// Length of the `.npy` header in bytes: enough for any shape.
const NPY_HEADER: usize = 128;

/// Checks that `dtype` can hold a row.
///
/// # Errors
/// `Data` if a number is infinite or NaN, or overflows in 16 bits.
pub fn check_finite(name: &str, row: &[f32], dtype: Dtype) -> Result<()> {
    let holds = |v: f32| match dtype {
        Dtype::F32 => v.is_finite(),
        Dtype::F16 => f16::from_f32(v).is_finite(),
    };
    match row.iter().position(|&v| !holds(v)) {
        None => Ok(()),
        Some(at) => Err(Error::Data(format!(
            "the embedding of {name} is not finite: dimension {at} is {} in {} bits",
            row[at],
            8 * dtype.bytes()
        ))),
    }
}

/// Writes embeddings one after the other. Only their names are held in memory.
///
/// If it is dropped before `finish`, it leaves no file, and an older output stays as it was.
pub struct EmbeddingWriter {
    dim: usize,
    rows: usize,
    format: Box<dyn FormatWriter>,
}

impl EmbeddingWriter {
    /// Creates a file of embeddings with `dim` dimensions. The extension of `out` decides the format.
    ///
    /// `names` lists all rows that may follow; rows of skipped images may be missing. The file stores `metadata`,
    /// except for `.npy`, which has no metadata.
    ///
    /// # Errors
    /// `Usage` for an extension other than `.safetensors`, `.npy` and `.parquet`; `TooLarge` if the names don't fit
    /// into a `.safetensors` header; `Io` if the folder can't be written.
    pub fn create(
        out: &Path,
        dim: usize,
        dtype: Dtype,
        names: &[String],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let format: Box<dyn FormatWriter> = match extension(out).as_str() {
            "safetensors" => Box::new(Safetensors::create(out, dim, dtype, names, metadata)?),
            "npy" => Box::new(Npy::create(out, dim, dtype)?),
            #[cfg(feature = "parquet")]
            "parquet" => Box::new(Parquet::create(out, dim, dtype, metadata)?),
            _ => {
                return Err(Error::Usage(format!(
                    "{}: embeddings are written to .safetensors, .npy or .parquet",
                    out.display()
                )));
            }
        };
        Ok(EmbeddingWriter { dim, rows: 0, format })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// `Io` if it can't be written.
    ///
    /// # Panics
    /// If the embedding doesn't have `dim` numbers.
    pub fn push(&mut self, name: &str, embedding: &[f32]) -> Result<()> {
        assert_eq!(embedding.len(), self.dim, "dimensions of the embedding of {name}");
        self.format.push(name, embedding)?;
        self.rows += 1;
        Ok(())
    }

    /// Completes and names the file; returns its number of rows.
    ///
    /// # Errors
    /// `Io` if it can't be written or renamed.
    pub fn finish(self) -> Result<usize> {
        self.format.finish(self.rows)?;
        Ok(self.rows)
    }
}

/// A matrix behind a header that is written last.
struct Flat {
    target: PathBuf,
    file: BufWriter<NamedTempFile>,
    dim: usize,
    dtype: Dtype,
    /// One row as bytes.
    row: Vec<u8>,
}

impl Flat {
    fn create(target: &Path, dim: usize, dtype: Dtype, header_len: usize) -> Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, temporary_beside(target)?);
        file.seek(SeekFrom::Start(header_len as u64)).map_err(Error::io("write", target))?;
        Ok(Flat { target: target.to_path_buf(), file, dim, dtype, row: Vec::new() })
    }

    fn push(&mut self, embedding: &[f32]) -> Result<()> {
        self.row.clear();
        match self.dtype {
            Dtype::F32 => self.row.extend(embedding.iter().flat_map(|v| v.to_le_bytes())),
            Dtype::F16 => self.row.extend(embedding.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
        }
        self.file.write_all(&self.row).map_err(Error::io("write", &self.target))
    }

    /// Writes the header and returns the complete file, still without its name.
    fn complete(self, header: &[u8]) -> Result<NamedTempFile> {
        let Flat { target, mut file, .. } = self;
        let filled = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(header));
        filled.map_err(Error::io("write", &target))?;
        unbuffered(file, &target)
    }

    fn finish(self, header: &[u8]) -> Result<()> {
        let target = self.target.clone();
        publish(self.complete(header)?, &target)
    }
}

fn unbuffered(file: BufWriter<NamedTempFile>, target: &Path) -> Result<NamedTempFile> {
    file.into_inner().map_err(|e| Error::io("write", target)(e.into_error()))
}

/// Writer of a tensor `embeddings` (N, D), with the names as a JSON list in the metadata entry `paths`.
struct Safetensors {
    flat: Flat,
    names: Vec<String>,
    metadata: BTreeMap<String, String>,
    header_len: usize,
}

impl Safetensors {
    fn create(
        out: &Path,
        dim: usize,
        dtype: Dtype,
        names: &[String],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let too_large = |what: &str| {
            Err(Error::TooLarge(format!(
                "{}: {} images are too many: a .safetensors file {what}; write .npy or .parquet instead",
                out.display(),
                names.len()
            )))
        };
        if names.len() > MAX_SAFETENSORS_ROWS {
            return too_large(&format!("holds at most {MAX_SAFETENSORS_ROWS} rows"));
        }
        // Fewer rows make a shorter header. The matrix behind it begins at a multiple of 8 bytes.
        let header_len = safetensors_header(names, metadata, dtype, dim).len().next_multiple_of(8);
        if header_len > MAX_SAFETENSORS_HEADER {
            return too_large(&format!("has at most {MAX_SAFETENSORS_HEADER} bytes of names"));
        }
        let flat = Flat::create(out, dim, dtype, 8 + header_len)?;
        Ok(Safetensors { flat, names: Vec::new(), metadata: metadata.clone(), header_len })
    }
}

/// The JSON of a safetensors header.
fn safetensors_header(
    names: &[String],
    metadata: &BTreeMap<String, String>,
    dtype: Dtype,
    dim: usize,
) -> String {
    let mut metadata = metadata.clone();
    metadata.insert("paths".to_string(), serde_json::json!(names).to_string());
    let dtype_name = match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
    };
    serde_json::json!({
        "__metadata__": metadata,
        "embeddings": {
            "dtype": dtype_name,
            "shape": [names.len(), dim],
            "data_offsets": [0, names.len() * dim * dtype.bytes()],
        },
    })
    .to_string()
}

impl FormatWriter for Safetensors {
    fn push(&mut self, name: &str, embedding: &[f32]) -> Result<()> {
        self.names.push(name.to_string());
        self.flat.push(embedding)
    }

    fn finish(self: Box<Self>, _rows: usize) -> Result<()> {
        let json = safetensors_header(&self.names, &self.metadata, self.flat.dtype, self.flat.dim);
        assert!(json.len() <= self.header_len, "the name of a row was not announced");
        let mut header = (self.header_len as u64).to_le_bytes().to_vec();
        header.extend(json.as_bytes());
        header.resize(8 + self.header_len, b' ');
        self.flat.finish(&header)
    }
}

/// Writer of a NumPy array (N, D), and of a file beside it with one name per line.
struct Npy {
    flat: Flat,
    paths_target: PathBuf,
    paths: BufWriter<NamedTempFile>,
}

impl Npy {
    fn create(out: &Path, dim: usize, dtype: Dtype) -> Result<Self> {
        let paths_target = paths_beside(out);
        let paths = BufWriter::new(temporary_beside(&paths_target)?);
        Ok(Npy { flat: Flat::create(out, dim, dtype, NPY_HEADER)?, paths_target, paths })
    }
}

impl FormatWriter for Npy {
    fn push(&mut self, name: &str, embedding: &[f32]) -> Result<()> {
        writeln!(self.paths, "{}", to_line(name)).map_err(Error::io("write", &self.paths_target))?;
        self.flat.push(embedding)
    }

    fn finish(self: Box<Self>, rows: usize) -> Result<()> {
        let descr = match self.flat.dtype {
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
        };
        let dim = self.flat.dim;
        let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        header.extend(((NPY_HEADER - 10) as u16).to_le_bytes());
        header.extend(dict.as_bytes());
        header.resize(NPY_HEADER - 1, b' ');
        header.push(b'\n');
        // Both files are complete and on the disk before either gets its name, so that a full disk leaves the older
        // pair. The array is named last: an array always has its names.
        let target = self.flat.target.clone();
        let array = self.flat.complete(&header)?;
        array.as_file().sync_all().map_err(Error::io("write", &target))?;
        publish(unbuffered(self.paths, &self.paths_target)?, &self.paths_target)?;
        publish(array, &target)
    }
}
