//! Embeddings on disk: rows are written as they come, the file takes its name only when it is complete.
//!
//! Each form begins with or ends in a table that needs the final number of rows, which skipped pictures decide. So
//! room for the largest possible header is left in front (`.safetensors`, `.npy`), or the table stands last
//! (`.parquet`). All is written to a temporary file in the target's folder; an output that is there already stays
//! untouched until `finish`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float16Array, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use half::f16;
use half::slice::HalfFloatSliceExt;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::files::{publish, temporary_beside};
use super::parquet_reader::read_parquet;
use crate::error::{Error, Result};

/// Most rows of a `.safetensors` file: all names stand in its header, which readers hold in memory.
pub const MAX_SAFETENSORS_ROWS: usize = 500_000;
/// Longest header that readers of safetensors accept, in bytes.
pub(super) const MAX_SAFETENSORS_HEADER: usize = 100_000_000;
/// Length of the `.npy` header, in bytes: room for any shape.
const NPY_HEADER: usize = 128;
/// Embeddings held back until they are written as one row group of `.parquet`, in bytes.
const ROW_GROUP: usize = 16 << 20;

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, rounded to nearest even.
    F16,
}

/// Refuses a row that `dtype` can't hold.
///
/// # Errors
/// `Data` naming the row and its first number that is infinite or NaN, or becomes infinite in 16 bits.
pub fn check_finite(name: &str, row: &[f32], dtype: Dtype) -> Result<()> {
    let holds = |v: f32| match dtype {
        Dtype::F32 => v.is_finite(),
        Dtype::F16 => f16::from_f32(v).is_finite(),
    };
    match row.iter().position(|&v| !holds(v)) {
        None => Ok(()),
        Some(at) => Err(Error::Data(format!(
            "the embedding of {name} is not finite: number {at} is {} in {} bits",
            row[at],
            8 * dtype.bytes()
        ))),
    }
}

impl Dtype {
    /// Size of one number.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
        }
    }
}

/// Writes one embedding after the other, in memory that doesn't grow with their number (names apart).
///
/// Dropped before `finish`, it leaves nothing behind and an older output as it was.
pub struct EmbeddingWriter {
    dim: usize,
    rows: usize,
    form: Box<dyn Form>,
}

/// One kind of file.
trait Form: Send {
    fn push(&mut self, name: &str, vector: &[f32]) -> Result<()>;
    fn finish(self: Box<Self>, rows: usize) -> Result<()>;
}

impl EmbeddingWriter {
    /// Begins a file at `out` whose ending decides its form; vectors have `dim` numbers.
    ///
    /// `names` are those of all rows that may come; some may stay away. `metadata` goes into the file as pairs of
    /// strings (`.npy` has no place for it).
    ///
    /// # Errors
    /// `Usage` for an ending that is none of `.safetensors`, `.npy`, `.parquet`; `TooLarge` where the names don't fit
    /// into a `.safetensors` header; `Io` where the folder can't be written.
    pub fn create(
        out: &Path,
        dim: usize,
        dtype: Dtype,
        names: &[String],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let form: Box<dyn Form> = match ending(out).as_str() {
            "safetensors" => Box::new(Safetensors::create(out, dim, dtype, names, metadata)?),
            "npy" => Box::new(Npy::create(out, dim, dtype)?),
            "parquet" => Box::new(Parquet::create(out, dim, dtype, metadata)?),
            _ => {
                return Err(Error::Usage(format!(
                    "{}: embeddings are written to .safetensors, .npy or .parquet",
                    out.display()
                )));
            }
        };
        Ok(EmbeddingWriter { dim, rows: 0, form })
    }

    /// Appends one row.
    ///
    /// # Errors
    /// `Io` where it can't be written.
    ///
    /// # Panics
    /// If the vector has not `dim` numbers.
    pub fn push(&mut self, name: &str, vector: &[f32]) -> Result<()> {
        assert_eq!(vector.len(), self.dim, "length of the embedding of {name}");
        self.form.push(name, vector)?;
        self.rows += 1;
        Ok(())
    }

    /// Completes the file, gives it its name and returns its number of rows.
    ///
    /// # Errors
    /// `Io` where it can't be written or renamed.
    pub fn finish(self) -> Result<usize> {
        self.form.finish(self.rows)?;
        Ok(self.rows)
    }
}

pub(super) fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Rows of numbers behind a header that is filled in last.
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

    fn push(&mut self, vector: &[f32]) -> Result<()> {
        self.row.clear();
        match self.dtype {
            Dtype::F32 => self.row.extend(vector.iter().flat_map(|v| v.to_le_bytes())),
            Dtype::F16 => self.row.extend(vector.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
        }
        self.file.write_all(&self.row).map_err(Error::io("write", &self.target))
    }

    /// Fills in the header: the file lacks nothing but its name.
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

/// Tensor `embeddings` (N, D); the rows' names as a JSON list in the metadata entry `paths`.
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
                "{}: {} pictures: a .safetensors file {what}; write .npy or .parquet instead",
                out.display(),
                names.len()
            )))
        };
        if names.len() > MAX_SAFETENSORS_ROWS {
            return too_large(&format!("holds at most {MAX_SAFETENSORS_ROWS} rows"));
        }
        // Fewer rows make a shorter header. The numbers behind it begin at a multiple of 8 bytes.
        let header_len = safetensors_header(names, metadata, dtype, dim).len().next_multiple_of(8);
        if header_len > MAX_SAFETENSORS_HEADER {
            return too_large("has no room for so long names");
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

impl Form for Safetensors {
    fn push(&mut self, name: &str, vector: &[f32]) -> Result<()> {
        self.names.push(name.to_string());
        self.flat.push(vector)
    }

    fn finish(self: Box<Self>, _rows: usize) -> Result<()> {
        let json = safetensors_header(&self.names, &self.metadata, self.flat.dtype, self.flat.dim);
        assert!(json.len() <= self.header_len, "a row came whose name was not announced");
        let mut header = (self.header_len as u64).to_le_bytes().to_vec();
        header.extend(json.as_bytes());
        header.resize(8 + self.header_len, b' ');
        self.flat.finish(&header)
    }
}

/// NumPy's array file (N, D), and beside it the rows' names, one a line.
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

/// The file of names beside an embeddings file, if its form has one.
pub fn side_file(file: &Path) -> Option<PathBuf> {
    (ending(file) == "npy").then(|| paths_beside(file))
}

/// `gallery.npy` → `gallery.paths.txt`.
fn paths_beside(npy: &Path) -> PathBuf {
    npy.with_extension("paths.txt")
}

/// A name on one line: line breaks as `\n` and `\r`, and so a backslash as `\\`.
fn to_line(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

/// What `to_line` was given.
fn from_line(line: &str) -> String {
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

impl Form for Npy {
    fn push(&mut self, name: &str, vector: &[f32]) -> Result<()> {
        writeln!(self.paths, "{}", to_line(name)).map_err(Error::io("write", &self.paths_target))?;
        self.flat.push(vector)
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
        // Both are whole and on the disk before either takes its name: on a full one the older pair stays together. The
        // array comes last: where it is, its names are.
        let target = self.flat.target.clone();
        let array = self.flat.complete(&header)?;
        array.as_file().sync_all().map_err(Error::io("write", &target))?;
        publish(unbuffered(self.paths, &self.paths_target)?, &self.paths_target)?;
        publish(array, &target)
    }
}

/// Columns `path` and `embedding`, the latter a list of fixed size.
struct Parquet {
    target: PathBuf,
    writer: ArrowWriter<NamedTempFile>,
    schema: Arc<Schema>,
    dim: i32,
    dtype: Dtype,
    /// Rows of the next row group.
    names: Vec<String>,
    values: Vec<f32>,
}

impl Parquet {
    fn create(out: &Path, dim: usize, dtype: Dtype, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let number = match dtype {
            Dtype::F32 => DataType::Float32,
            Dtype::F16 => DataType::Float16,
        };
        let list_dim = i32::try_from(dim).map_err(|_| {
            Error::TooLarge(format!("embeddings of {dim} numbers do not fit into a .parquet file"))
        })?;
        let item = Arc::new(Field::new("item", number, false));
        let schema = Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("embedding", DataType::FixedSizeList(item, list_dim), false),
        ]));
        let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        // No two embeddings share numbers: a dictionary of them would only cost time.
        let column = ["embedding", "list", "item"].map(String::from).to_vec();
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(pairs))
            .set_column_dictionary_enabled(ColumnPath::new(column), false)
            .build();
        let writer = ArrowWriter::try_new(temporary_beside(out)?, schema.clone(), Some(properties))
            .map_err(parquet_error(out))?;
        let target = out.to_path_buf();
        Ok(Parquet { target, writer, schema, dim: list_dim, dtype, names: Vec::new(), values: Vec::new() })
    }

    /// Writes the rows held back as one row group.
    fn write_group(&mut self) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let values = std::mem::take(&mut self.values);
        let (item, values): (_, ArrayRef) = match self.dtype {
            Dtype::F32 => (DataType::Float32, Arc::new(Float32Array::from(values))),
            Dtype::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(&values);
                (DataType::Float16, Arc::new(Float16Array::from(halves)))
            }
        };
        let paths: ArrayRef = Arc::new(StringArray::from(std::mem::take(&mut self.names)));
        let item = Arc::new(Field::new("item", item, false));
        let written = FixedSizeListArray::try_new(item, self.dim, values, None)
            .and_then(|list| RecordBatch::try_new(self.schema.clone(), vec![paths, Arc::new(list)]))
            .map_err(ParquetError::from)
            .and_then(|batch| self.writer.write(&batch))
            .and_then(|()| self.writer.flush());
        written.map_err(parquet_error(&self.target))
    }
}

impl Form for Parquet {
    fn push(&mut self, name: &str, vector: &[f32]) -> Result<()> {
        self.names.push(name.to_string());
        self.values.extend_from_slice(vector);
        if self.values.len() * self.dtype.bytes() >= ROW_GROUP { self.write_group() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>, _rows: usize) -> Result<()> {
        self.write_group()?;
        let Parquet { target, writer, .. } = *self;
        let file = writer.into_inner().map_err(parquet_error(&target))?;
        publish(file, &target)
    }
}

fn parquet_error(target: &Path) -> impl FnOnce(ParquetError) -> Error {
    let target = target.to_path_buf();
    move |error| Error::io("write", target)(std::io::Error::other(error))
}

/// Embeddings read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Name of each row.
    pub paths: Vec<String>,
    /// D, numbers in a row.
    pub dim: usize,
    /// (N, D).
    pub rows: Vec<f32>,
}

/// Reads a `.safetensors` or `.parquet` file, or a `.npy` file with the `.paths.txt` beside it.
///
/// # Errors
/// `Usage` for another ending, `Io` where the file can't be read or is not of the form that `EmbeddingWriter` writes.
pub fn read(path: &Path) -> Result<Embeddings> {
    if ending(path) == "parquet" {
        return read_parquet(path).map(|(embeddings, ..)| embeddings);
    }
    let bytes = || std::fs::read(path).map_err(Error::io("read", path));
    let parsed = match ending(path).as_str() {
        "safetensors" => parse_safetensors(&bytes()?),
        "npy" => parse_npy(&bytes()?, npy_names(path)?),
        _ => return Err(other_ending(path)),
    };
    parsed.and_then(Stored::unpack).map_err(invalid(path))
}

/// That a file's ending is none of those that embeddings have.
pub(super) fn other_ending(path: &Path) -> Error {
    let what = match ending(path).as_str() {
        "npz" => "; a NumPy archive (.npz) holds several arrays: save the one with numpy.save",
        _ => "",
    };
    Error::Usage(format!("{}: embeddings are read from .safetensors, .npy or .parquet{what}", path.display()))
}

/// What is wrong with the content of a file.
pub(super) fn invalid(path: &Path) -> impl FnOnce(String) -> Error {
    move |reason| Error::io("read", path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason))
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

/// What a file holds, as it stands there.
struct Stored {
    paths: Vec<String>,
    rows: usize,
    dim: usize,
    dtype: Dtype,
    data: Vec<u8>,
}

impl Stored {
    fn unpack(self) -> std::result::Result<Embeddings, String> {
        let Stored { paths, rows, dim, dtype, data } = self;
        if paths.len() != rows {
            return Err(format!("{} paths for {rows} rows", paths.len()));
        }
        let expected = rows.checked_mul(dim).and_then(|count| count.checked_mul(dtype.bytes()));
        if expected != Some(data.len()) {
            return Err(format!("{} bytes for {rows} rows of {dim} numbers", data.len()));
        }
        let rows = match dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        };
        Ok(Embeddings { paths, dim, rows })
    }
}

fn parse_safetensors(bytes: &[u8]) -> std::result::Result<Stored, String> {
    let (header_len, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let (paths, Head { rows, dim, dtype, start }) = safetensors_head(&header, header_len)?;
    let end = start + rows * dim * dtype.bytes();
    Ok(Stored { paths, rows, dim, dtype, data: bytes[start..end].to_vec() })
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

fn parse_npy(bytes: &[u8], paths: Vec<String>) -> std::result::Result<Stored, String> {
    let Head { rows, dim, dtype, start } = npy_head(bytes)?;
    Ok(Stored { paths, rows, dim, dtype, data: bytes[start..].to_vec() })
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const DIM: usize = 5;

    /// Names that strain JSON and line-based files.
    fn names() -> Vec<String> {
        ["a.jpg", "sub/\"b\".jpg", "line\nbreak\\n.png", "größe.webp", "caf\\xe9.gif"]
            .map(String::from)
            .to_vec()
    }

    fn vector(row: usize) -> Vec<f32> {
        (0..DIM).map(|i| (row * DIM + i) as f32 / 8.0 - 1.0).collect()
    }

    fn metadata() -> BTreeMap<String, String> {
        BTreeMap::from([("model".to_string(), "tiny \"x\"".to_string())])
    }

    /// Writes all rows but the second.
    fn write(out: &Path, dtype: Dtype) {
        let names = names();
        let mut writer = EmbeddingWriter::create(out, DIM, dtype, &names, &metadata()).unwrap();
        for row in [0, 2, 3, 4] {
            writer.push(&names[row], &vector(row)).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 4);
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn rows_come_back() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["e.safetensors", "e.npy", "e.parquet"] {
            for dtype in [Dtype::F32, Dtype::F16] {
                let out = dir.path().join(file);
                write(&out, dtype);
                let back = read(&out).unwrap();
                let all = names();
                assert_eq!(back.paths, [&all[0], &all[2], &all[3], &all[4]].map(String::clone));
                assert_eq!(back.dim, DIM);
                assert_eq!(back.rows, [0, 2, 3, 4].map(vector).concat());
            }
        }
        assert_eq!(files(dir.path()), ["e.npy", "e.parquet", "e.paths.txt", "e.safetensors"]);
    }

    #[test]
    fn safetensors_header_is_padded_and_complete() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("e.safetensors");
        write(&out, Dtype::F32);
        let bytes = std::fs::read(&out).unwrap();
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(len % 8, 0);
        assert_eq!(bytes.len(), 8 + len + 4 * DIM * 4);
        assert_eq!((bytes[8], bytes[7 + len]), (b'{', b' '));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["model"], "tiny \"x\"");
    }

    #[test]
    fn parquet_reads_back_in_row_groups() {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("e.parquet");
        let dim = 1 << 20;
        let mut writer = EmbeddingWriter::create(&out, dim, Dtype::F32, &[], &metadata()).unwrap();
        for row in 0..6 {
            writer.push(&format!("{row}.jpg"), &vec![row as f32; dim]).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 6);
        let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
        assert_eq!(reader.metadata().row_groups().iter().map(|g| g.num_rows()).collect::<Vec<_>>(), [4, 2]);
        let pairs = reader.metadata().file_metadata().key_value_metadata().unwrap();
        assert!(pairs.iter().any(|pair| pair.key == "model"));

        let batches =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(File::open(&out).unwrap());
        let mut rows = 0;
        for batch in batches.unwrap().with_batch_size(1).build().unwrap() {
            let batch = batch.unwrap();
            let paths = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap();
            assert_eq!(paths.value(0), format!("{rows}.jpg"));
            let list = batch.column(1).as_any().downcast_ref::<FixedSizeListArray>().unwrap().value(0);
            let values = list.as_any().downcast_ref::<Float32Array>().unwrap();
            assert!(values.values().iter().all(|&v| v == rows as f32) && values.values().len() == dim);
            rows += 1;
        }
        assert_eq!(rows, 6);
    }

    #[test]
    fn unfinished_files_leave_the_old_ones() {
        let dir = tempfile::tempdir().unwrap();
        let old = ["e.npy", "e.parquet", "e.paths.txt", "e.safetensors"];
        for name in old {
            std::fs::write(dir.path().join(name), "old").unwrap();
        }
        for file in ["e.safetensors", "e.npy", "e.parquet"] {
            let out = dir.path().join(file);
            let mut writer = EmbeddingWriter::create(&out, DIM, Dtype::F32, &names(), &metadata()).unwrap();
            writer.push("a.jpg", &vector(0)).unwrap();
            drop(writer);
        }
        assert_eq!(files(dir.path()), old);
        for name in old {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"old");
        }
    }

    #[test]
    fn impossible_outputs_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let create = |out: &Path, names: &[String]| {
            EmbeddingWriter::create(out, DIM, Dtype::F32, names, &BTreeMap::new()).err().unwrap()
        };
        assert!(matches!(create(&dir.path().join("e.csv"), &[]), Error::Usage(_)));
        assert!(matches!(create(&dir.path().join("no/where/e.npy"), &[]), Error::Io { .. }));
        let folder = dir.path().join("folder.npy");
        std::fs::create_dir(&folder).unwrap();
        assert!(matches!(create(&folder, &[]), Error::Io { .. }));
        let many = vec![String::new(); MAX_SAFETENSORS_ROWS + 1];
        match create(&dir.path().join("e.safetensors"), &many) {
            Error::TooLarge(text) => assert!(text.contains(".parquet"), "{text}"),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["e.safetensors", "e.npy", "e.parquet"] {
            let out = dir.path().join(file);
            write(&out, Dtype::F16);
            let bytes = std::fs::read(&out).unwrap();
            for cut in 0..bytes.len() {
                std::fs::write(&out, &bytes[..cut]).unwrap();
                assert!(matches!(read(&out), Err(Error::Io { .. })), "{file} cut at {cut}");
            }
        }
        write(&dir.path().join("e.npy"), Dtype::F32);
        std::fs::write(dir.path().join("e.paths.txt"), "one\n").unwrap();
        assert!(read(&dir.path().join("e.npy")).is_err());
        assert!(matches!(read(Path::new("e.txt")), Err(Error::Usage(_))));
    }

    #[test]
    fn names_survive_a_line() {
        for name in names().iter().map(String::as_str).chain(["", "\\", "\r\n", "\\\\n", "a\\nb\nc"]) {
            let line = to_line(name);
            assert!(!line.contains(['\n', '\r']));
            assert_eq!(from_line(&line), name);
        }
    }
}
