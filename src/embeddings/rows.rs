//! Embeddings that are read in pieces, from memory or from files that are never loaded whole.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::f16;
use safetensors::tensor::Metadata;

use super::format::{
    Embeddings, Header, MAX_NPY_HEADER, MAX_SAFETENSORS_HEADER, extension, npy_header, npy_names,
    safetensors_header, unknown_extension,
};
use super::provenance::Provenance;
use crate::error::{Error, Result};
use crate::storage::Dtype;

/// Bytes of f16 values that are converted at a time.
const HALVES: usize = 1 << 17;

/// A matrix (N, D) of f32. Any thread may read its rows in any order.
pub trait Rows: Send + Sync {
    /// Number of rows N.
    fn len(&self) -> usize;

    /// Dimensions D.
    fn dim(&self) -> usize;

    /// Fills `out` with rows (rows, D).
    ///
    /// # Errors
    /// `Io` if they can't be read.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has another size.
    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// Name of a row for messages: its image, and its file.
    fn name(&self, _row: usize) -> Option<String> {
        None
    }

    /// Returns whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Rows for Embeddings {
    fn len(&self) -> usize {
        self.rows.len() / self.dim.max(1)
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.rows[rows.start * self.dim..rows.end * self.dim]);
        Ok(())
    }

    fn name(&self, row: usize) -> Option<String> {
        self.paths.get(row).cloned()
    }
}

/// A `.safetensors` or `.npy` file that is read row by row.
#[derive(Debug)]
pub struct EmbeddingFile {
    path: PathBuf,
    /// Name of each row.
    pub paths: Vec<String>,
    /// Provenance of the rows.
    pub provenance: Provenance,
    dim: usize,
    dtype: Dtype,
    /// Offset of the matrix in the file, in bytes.
    start: u64,
    /// One reader at a time: they share the file's position.
    file: Mutex<File>,
}

impl EmbeddingFile {
    /// Opens a file that `EmbeddingWriter` wrote and reads its names.
    ///
    /// # Errors
    /// `Usage` for another extension; `Io` if the file can't be read, is cut off or has another format.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let (paths, provenance, header) = match extension(path).as_str() {
            "safetensors" => read_safetensors_header(&mut file, path)?,
            "npy" => {
                let mut beginning = Vec::new();
                let read = file.by_ref().take(MAX_NPY_HEADER as u64).read_to_end(&mut beginning);
                read.map_err(Error::io("read", path))?;
                let header = npy_header(&beginning).map_err(Error::invalid(path))?;
                (npy_names(path)?, Provenance::default(), header)
            }
            _ => return Err(unknown_extension(path)),
        };
        let Header { rows, dim, dtype, start } = header;
        if paths.len() != rows {
            return Err(Error::invalid(path)(format!("it has {} paths for {rows} rows", paths.len())));
        }
        let bytes = rows.checked_mul(dim).and_then(|count| count.checked_mul(dtype.bytes()));
        if bytes.and_then(|bytes| bytes.checked_add(start)).is_none_or(|end| end as u64 > length) {
            return Err(Error::invalid(path)(format!(
                "its {length} bytes are too few for {rows} rows of {dim} dimensions"
            )));
        }
        Ok(EmbeddingFile {
            path: path.to_path_buf(),
            paths,
            provenance,
            dim,
            dtype,
            start: start as u64,
            file: Mutex::new(file),
        })
    }
}

/// Reads the header and nothing behind it.
fn read_safetensors_header(file: &mut File, path: &Path) -> Result<(Vec<String>, Provenance, Header)> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(Error::io("read", path))?;
    // A damaged file may claim any length: allocates no more than the file holds.
    let rest = file.metadata().map_err(Error::io("read", path))?.len().saturating_sub(8);
    let length = Some(u64::from_le_bytes(length)).filter(|&length| length <= rest);
    let length =
        length.and_then(|length| usize::try_from(length).ok()).filter(|&n| n <= MAX_SAFETENSORS_HEADER);
    let length =
        length.ok_or_else(|| Error::invalid(path)("it is cut off, or not a safetensors file".to_string()))?;
    let mut json = vec![0; length];
    file.read_exact(&mut json).map_err(Error::io("read", path))?;
    let header: Metadata = serde_json::from_slice(&json).map_err(|e| Error::invalid(path)(e.to_string()))?;
    let entry = |key: &str| header.metadata().as_ref()?.get(key).cloned();
    let (paths, header) = safetensors_header(&header, length).map_err(Error::invalid(path))?;
    Ok((paths, Provenance::read(entry), header))
}

impl Rows for EmbeddingFile {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        assert!(rows.end <= self.paths.len(), "rows {rows:?} of {}", self.path.display());
        assert_eq!(out.len(), rows.len() * self.dim, "room for rows {rows:?} of {}", self.path.display());
        let start = self.start + (rows.start * self.dim * self.dtype.bytes()) as u64;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start)).map_err(Error::io("read", &self.path))?;
        match self.dtype {
            Dtype::F32 => {
                file.read_exact(bytemuck::cast_slice_mut(out)).map_err(Error::io("read", &self.path))?;
                // The file is little-endian.
                out.iter_mut().for_each(|v| *v = f32::from_bits(u32::from_le(v.to_bits())));
            }
            Dtype::F16 => {
                let mut bytes = vec![0; HALVES];
                for out in out.chunks_mut(HALVES / 2) {
                    let bytes = &mut bytes[..2 * out.len()];
                    file.read_exact(bytes).map_err(Error::io("read", &self.path))?;
                    for (v, &half) in out.iter_mut().zip(bytes.as_chunks().0) {
                        *v = f16::from_le_bytes(half).to_f32();
                    }
                }
            }
        }
        Ok(())
    }

    fn name(&self, row: usize) -> Option<String> {
        name_in(&self.paths, &self.path, row)
    }
}

/// Name of a row for messages.
pub(super) fn name_in(names: &[String], file: &Path, row: usize) -> Option<String> {
    Some(format!("{} in {}", names.get(row)?, file.display()))
}

/// An open file of embeddings in any format.
pub struct NamedRows {
    /// The matrix.
    pub rows: Box<dyn Rows>,
    /// Name of each row.
    pub names: Vec<String>,
    /// Provenance of the rows.
    pub provenance: Provenance,
}

/// Selected rows of a matrix, as a matrix.
pub struct Selected<'a> {
    rows: &'a dyn Rows,
    /// The selected rows, ascending.
    kept: Vec<usize>,
}

impl<'a> Selected<'a> {
    /// Selects rows.
    ///
    /// # Panics
    /// If the rows don't ascend, or there is no such row.
    pub fn new(rows: &'a dyn Rows, kept: Vec<usize>) -> Self {
        assert!(kept.is_sorted_by(|a, b| a < b), "rows must ascend");
        assert!(kept.last().is_none_or(|&last| last < rows.len()), "row {:?} of {}", kept.last(), rows.len());
        Selected { rows, kept }
    }

    /// Returns the whole matrix.
    pub fn whole(&self) -> &'a dyn Rows {
        self.rows
    }

    /// Returns the row in the whole matrix of the selected row `index`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> usize {
        self.kept[index]
    }
}

impl Rows for Selected<'_> {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let kept = &self.kept[rows];
        assert_eq!(out.len(), kept.len() * self.dim(), "room for {} rows", kept.len());
        let mut rest = out;
        // Adjacent rows are read at once.
        for run in kept.chunk_by(|a, b| a + 1 == *b) {
            let (mine, behind) = rest.split_at_mut(run.len() * self.dim());
            self.rows.read(run[0]..run[0] + run.len(), mine)?;
            rest = behind;
        }
        Ok(())
    }

    fn name(&self, row: usize) -> Option<String> {
        self.rows.name(*self.kept.get(row)?)
    }
}

/// Matrices of the same D, stacked into one.
pub struct Stacked<'a> {
    parts: Vec<&'a dyn Rows>,
    dim: usize,
    len: usize,
}

impl<'a> Stacked<'a> {
    /// Stacks matrices.
    ///
    /// # Errors
    /// `Usage` if they differ in D.
    pub fn new(parts: Vec<&'a dyn Rows>) -> Result<Self> {
        let dim = parts.first().map_or(0, |part| part.dim());
        if let Some(other) = parts.iter().find(|part| part.dim() != dim) {
            return Err(Error::Usage(format!(
                "embeddings have {dim} and {} dimensions: all must come from the same model",
                other.dim()
            )));
        }
        let len = parts.iter().map(|part| part.len()).sum();
        Ok(Stacked { parts, dim, len })
    }
}

impl Rows for Stacked<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        assert!(rows.end <= self.len, "rows {rows:?} of {}", self.len);
        assert_eq!(out.len(), rows.len() * self.dim, "room for rows {rows:?}");
        let mut rest = out;
        let mut first = 0;
        for part in &self.parts {
            let end = first + part.len();
            let inside = rows.start.max(first)..rows.end.min(end);
            if !inside.is_empty() {
                let (mine, behind) = rest.split_at_mut(inside.len() * self.dim);
                part.read(inside.start - first..inside.end - first, mine)?;
                rest = behind;
            }
            first = end;
        }
        Ok(())
    }

    fn name(&self, row: usize) -> Option<String> {
        let mut row = row;
        for part in &self.parts {
            if row < part.len() {
                return part.name(row);
            }
            row -= part.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{self as embeddings, EmbeddingWriter};
    use super::*;
    use crate::storage::entry::Entry;
    use std::collections::BTreeMap;

    /// Writes `rows` rows of distinct numbers and reads the file whole.
    fn write(out: &Path, rows: usize, dim: usize, dtype: Dtype) -> Embeddings {
        let names: Vec<String> = (0..rows).map(|row| format!("{row}\n.jpg")).collect();
        let mut writer = EmbeddingWriter::create(out, dim, dtype, &names, &BTreeMap::new()).unwrap();
        for (row, name) in names.iter().enumerate() {
            let embedding: Vec<f32> = (0..dim).map(|i| (row * dim + i) as f32 / 8.0 - 9.0).collect();
            writer.push(name, &embedding).unwrap();
        }
        writer.finish().unwrap();
        embeddings::read(out).unwrap()
    }

    fn all(rows: &dyn Rows, range: Range<usize>) -> Vec<f32> {
        let mut out = vec![f32::NAN; range.len() * rows.dim()];
        rows.read(range, &mut out).unwrap();
        out
    }

    #[test]
    fn pieces_of_a_file_are_those_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["e.npy", "e.safetensors"] {
            for dtype in [Dtype::F32, Dtype::F16] {
                let out = dir.path().join(name);
                let memory = write(&out, 13, 7, dtype);
                let file = EmbeddingFile::open(&out).unwrap();
                assert_eq!((file.len(), file.dim(), &file.paths), (13, 7, &memory.paths));
                for range in [0..13, 0..0, 13..13, 12..13, 3..8, 0..1] {
                    let wanted = &memory.rows[range.start * 7..range.end * 7];
                    assert_eq!(all(&file, range.clone()), wanted, "{name} {dtype:?} {range:?}");
                    assert_eq!(all(&memory, range), wanted);
                }
            }
        }
    }

    #[test]
    fn long_rows_of_halves_come_in_several_reads() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("e.npy");
        let memory = write(&out, 3, HALVES / 2 + 1, Dtype::F16);
        assert_eq!(all(&EmbeddingFile::open(&out).unwrap(), 1..3), all(&memory, 1..3));
    }

    #[test]
    fn parts_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let memory = write(&dir.path().join("a.npy"), 5, 3, Dtype::F32);
        let empty = write(&dir.path().join("b.npy"), 0, 3, Dtype::F32);
        write(&dir.path().join("c.safetensors"), 4, 3, Dtype::F16);
        let file = EmbeddingFile::open(&dir.path().join("c.safetensors")).unwrap();
        let parts = Stacked::new(vec![&memory, &empty, &file, &memory]).unwrap();
        assert_eq!((parts.len(), parts.dim(), parts.is_empty()), (14, 3, false));
        let whole = [&memory.rows[..], &memory.rows[..12], &memory.rows[..]].concat();
        for start in 0..=14 {
            for end in start..=14 {
                assert_eq!(all(&parts, start..end), whole[3 * start..3 * end], "{start} to {end}");
            }
        }
        let wide = write(&dir.path().join("d.npy"), 1, 4, Dtype::F32);
        assert!(
            matches!(Stacked::new(vec![&memory, &wide]), Err(Error::Usage(text)) if text.contains("3 and 4"))
        );
        assert!(Stacked::new(vec![]).unwrap().is_empty());
    }

    #[test]
    fn selected_rows_are_those_of_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let memory = write(&dir.path().join("a.npy"), 9, 3, Dtype::F32);
        let kept = vec![0, 1, 3, 4, 5, 8];
        let selected = Selected::new(&memory, kept.clone());
        assert_eq!((selected.len(), selected.dim(), selected.row(2)), (6, 3, 3));
        for start in 0..=kept.len() {
            for end in start..=kept.len() {
                let wanted: Vec<f32> =
                    kept[start..end].iter().flat_map(|&row| memory.rows[3 * row..][..3].to_vec()).collect();
                assert_eq!(all(&selected, start..end), wanted, "{start} to {end}");
            }
        }
    }

    #[test]
    fn any_form_opens_with_names_and_settings() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = BTreeMap::from([("lat_wgpu".to_string(), "{}".to_string())]);
        for (name, settings) in [("e.npy", None), ("e.safetensors", Some("{}")), ("e.parquet", Some("{}"))] {
            let out = dir.path().join(name);
            let memory = write(&out, 4, 3, Dtype::F32);
            let mut writer = EmbeddingWriter::create(&out, 3, Dtype::F32, &memory.paths, &metadata).unwrap();
            for (name, embedding) in memory.paths.iter().zip(memory.rows.chunks(3)) {
                writer.push(name, embedding).unwrap();
            }
            writer.finish().unwrap();
            let opened = embeddings::open(&out).unwrap();
            let stored = opened.provenance.settings.as_ref().map(Entry::text);
            assert_eq!((opened.names, stored), (memory.paths, settings), "{name}");
            assert_eq!(all(&*opened.rows, 0..4), memory.rows, "{name}");
        }
        std::fs::write(dir.path().join("e.csv"), "").unwrap();
        assert!(matches!(embeddings::open(&dir.path().join("e.csv")), Err(Error::Usage(_))));
    }

    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["e.npy", "e.safetensors"] {
            let out = dir.path().join(name);
            write(&out, 4, 5, Dtype::F32);
            let bytes = std::fs::read(&out).unwrap();
            for cut in 0..bytes.len() {
                std::fs::write(&out, &bytes[..cut]).unwrap();
                match EmbeddingFile::open(&out) {
                    Err(Error::Io { path, .. }) => assert_eq!(path, out),
                    other => panic!("{name} cut at {cut}: {other:?}"),
                }
            }
        }
        std::fs::write(dir.path().join("e.csv"), "").unwrap();
        assert!(matches!(EmbeddingFile::open(&dir.path().join("e.csv")), Err(Error::Usage(_))));
        assert!(matches!(EmbeddingFile::open(&dir.path().join("none.npy")), Err(Error::Io { .. })));
    }
}
