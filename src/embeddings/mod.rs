//! Embeddings on disk: files, index folders, and galleries to search in.

mod format;
pub mod gallery;
pub mod index;
pub mod merge;
#[cfg(feature = "parquet")]
mod parquet;
pub mod provenance;
pub mod rows;
mod writer;

pub use crate::storage::Dtype;
pub use format::{Embeddings, side_file};
pub use writer::{EmbeddingWriter, MAX_SAFETENSORS_ROWS, check_finite};

use std::path::Path;

use half::f16;
use safetensors::SafeTensors;

use crate::error::{Error, Result};
use format::{Header, extension, npy_header, npy_names, safetensors_header, unknown_extension};
#[cfg(feature = "parquet")]
use parquet::read_parquet;
use rows::{EmbeddingFile, NamedRows};

/// Reads a `.safetensors` or `.parquet` file, or a `.npy` file with the `.paths.txt` beside it.
///
/// # Errors
/// `Usage` for another extension; `Io` if the file can't be read or has another format than `EmbeddingWriter` writes.
pub fn read(path: &Path) -> Result<Embeddings> {
    #[cfg(feature = "parquet")]
    if extension(path) == "parquet" {
        return read_parquet(path).map(|(embeddings, _)| embeddings);
    }
    let bytes = || std::fs::read(path).map_err(Error::io("read", path));
    let parsed = match extension(path).as_str() {
        "safetensors" => parse_safetensors(&bytes()?),
        "npy" => parse_npy(&bytes()?, npy_names(path)?),
        _ => return Err(unknown_extension(path)),
    };
    parsed.and_then(Stored::unpack).map_err(Error::invalid(path))
}

/// Opens a file that `EmbeddingWriter` wrote. Reads a `.parquet` file whole.
///
/// # Errors
/// `Usage` for another extension; `Io` if the file can't be read, is cut off or has another format.
pub fn open(path: &Path) -> Result<NamedRows> {
    #[cfg(feature = "parquet")]
    if extension(path) == "parquet" {
        return parquet::open(path);
    }
    let mut file = EmbeddingFile::open(path)?;
    // The file keeps a copy of the names for messages.
    let (names, provenance) = (file.paths.clone(), std::mem::take(&mut file.provenance));
    Ok(NamedRows { rows: Box::new(file), names, provenance })
}

/// Content of a file in its storage.
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
            return Err(format!("it has {} paths for {rows} rows", paths.len()));
        }
        let expected = rows.checked_mul(dim).and_then(|count| count.checked_mul(dtype.bytes()));
        if expected != Some(data.len()) {
            return Err(format!("it has {} bytes for {rows} rows of {dim} dimensions", data.len()));
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
    let (paths, Header { rows, dim, dtype, start }) = safetensors_header(&header, header_len)?;
    let end = start + rows * dim * dtype.bytes();
    Ok(Stored { paths, rows, dim, dtype, data: bytes[start..end].to_vec() })
}

fn parse_npy(bytes: &[u8], paths: Vec<String>) -> std::result::Result<Stored, String> {
    let Header { rows, dim, dtype, start } = npy_header(bytes)?;
    Ok(Stored { paths, rows, dim, dtype, data: bytes[start..].to_vec() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;

    use arrow_array::{FixedSizeListArray, Float32Array, StringArray};

    use super::format::{from_line, to_line};
    use super::*;

    const DIM: usize = 5;

    /// Names that are hard to store in JSON and in lines.
    fn names() -> Vec<String> {
        ["a.jpg", "sub/\"b\".jpg", "line\nbreak\\n.png", "größe.webp", "caf\\xe9.gif"]
            .map(String::from)
            .to_vec()
    }

    fn embedding(row: usize) -> Vec<f32> {
        (0..DIM).map(|i| (row * DIM + i) as f32 / 8.0 - 1.0).collect()
    }

    fn metadata() -> BTreeMap<String, String> {
        BTreeMap::from([("model".to_string(), "tiny \"x\"".to_string())])
    }

    /// Writes all rows except the second.
    fn write(out: &Path, dtype: Dtype) {
        let names = names();
        let mut writer = EmbeddingWriter::create(out, DIM, dtype, &names, &metadata()).unwrap();
        for row in [0, 2, 3, 4] {
            writer.push(&names[row], &embedding(row)).unwrap();
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
                assert_eq!(back.rows, [0, 2, 3, 4].map(embedding).concat());
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
        use ::parquet::file::reader::{FileReader, SerializedFileReader};
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

        let batches = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
            File::open(&out).unwrap(),
        );
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
            writer.push("a.jpg", &embedding(0)).unwrap();
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
