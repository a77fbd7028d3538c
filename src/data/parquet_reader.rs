//! Embeddings from `.parquet` files, whoever wrote them, and however damaged they are.
//!
//! The library for Parquet takes a file's word for what to make room for and how far to count. So a file is measured
//! before the library believes it: its schema, what its columns promise, and where its bytes end.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::{ColumnChunkMetaData, FooterTail, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use super::embeddings::{Embeddings, invalid};
use super::guard::guarded;
use super::thrift::{FOOTER, MAX_DEPTH, PAGE_HEADER, Value};
use crate::error::{Error, Result};

/// Bytes that the header of a page may have. Statistics of strings are the longest in it.
const MAX_PAGE_HEADER: u64 = 1 << 16;

/// Reads the columns `path` and `embedding`, and the metadata entry `lat_wgpu`.
pub(super) fn read_parquet(path: &Path) -> Result<(Embeddings, Option<String>)> {
    // Where a file contradicts itself, the library panics here and there.
    guarded(|| read_parquet_unguarded(path))
        .unwrap_or_else(|| Err(invalid(path)("it is damaged: the reader of Parquet gave up".to_string())))
}

/// Refuses what a file of so many bytes can't hold: a damaged one may promise anything, and a reader takes its word for
/// what to make room for and how far to count.
fn check_parquet(file: &Bounded, metadata: &ParquetMetaData, dim: usize) -> std::result::Result<(), String> {
    let length = file.len();
    let mut rows = 0u64;
    let mut read = Vec::new();
    for group in metadata.row_groups() {
        let here =
            u64::try_from(group.num_rows()).map_err(|_| "a row group has a negative number of rows")?;
        rows = rows.saturating_add(here);
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let end = start.checked_add(column.compressed_size()).and_then(|end| u64::try_from(end).ok());
            if start < 0 || column.compressed_size() < 0 || end.is_none_or(|end| end > length) {
                return Err(format!("column {} lies outside the file", column.column_path()));
            }
            let each = match column.column_path().string().as_str() {
                "path" => 1,
                name if name.starts_with("embedding.") => dim as u64,
                _ => continue,
            };
            if u64::try_from(column.num_values()).ok() != here.checked_mul(each) {
                let (name, values) = (column.column_path(), column.num_values());
                return Err(format!("column {name} has {values} values in {here} rows"));
            }
            if column.compression() != Compression::UNCOMPRESSED {
                let (name, codec) = (column.column_path(), column.compression());
                return Err(format!(
                    "column {name} is compressed ({codec}): only uncompressed columns are read"
                ));
            }
            read.push(column);
        }
    }
    // Embeddings hardly compress. The first million is free: few equal numbers do.
    let most = length.saturating_mul(64).saturating_add(1 << 20);
    if rows.saturating_mul(dim as u64) > most
        || u64::try_from(metadata.file_metadata().num_rows()) != Ok(rows)
    {
        return Err(format!("{length} bytes can't hold {rows} rows of {dim} numbers"));
    }
    for column in read {
        if !pages_can_hold_their_values(file, column).map_err(|error| error.to_string())? {
            return Err(format!("a page of column {} can't hold its values", column.column_path()));
        }
    }
    Ok(())
}

/// Whether the pages of a column fill its bytes and promise no more values than it has, and dictionaries no more than they
/// have bytes.
fn pages_can_hold_their_values(
    file: &Bounded,
    column: &ColumnChunkMetaData,
) -> parquet::errors::Result<bool> {
    let (mut at, length) = column.byte_range();
    let end = at + length;
    while at < end {
        let window = file.get_bytes(at, (end - at).min(MAX_PAGE_HEADER) as usize)?;
        let mut rest = &window[..];
        let Some(header) = Value::take_struct(&mut rest).filter(|header| header.fits(&PAGE_HEADER)) else {
            return Ok(false);
        };
        let size = header.number(3).and_then(|size| u64::try_from(size).ok());
        // Its type, and the struct that goes with it, which begins with the number of values.
        let (most, about) = match header.number(1) {
            Some(0) => (Some(column.num_values()), 5),
            Some(2) => (header.number(3), 7),
            Some(3) => (Some(column.num_values()), 8),
            _ => (None, 0),
        };
        let values = header.field(about).and_then(|about| about.number(1));
        let (Some(size), Some(most), Some(values)) = (size, most, values) else { return Ok(false) };
        at += (window.len() - rest.len()) as u64 + size;
        if !(0..=most).contains(&values) || at > end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A `.parquet` file behind whose last byte every read fails: the decoder skips what isn't there by reading nothing, as often
/// as a damaged page says.
#[derive(Clone)]
struct Bounded(Arc<File>);

/// What it reads from.
struct BoundedRead(BufReader<File>);

impl Read for BoundedRead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

impl Length for Bounded {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Bounded {
    type T = BoundedRead;

    fn get_read(&self, start: u64) -> parquet::errors::Result<BoundedRead> {
        self.0.get_read(start).map(BoundedRead)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// Whether the schema in a footer is one tree of moderate depth: the library makes room for as many children as an element
/// claims, and calls itself at each level.
fn schema_is_a_tree(footer: &Value) -> Option<()> {
    let Value::List(elements) = footer.field(2)? else { return None };
    // Children that each open group still waits for, the root's above all.
    let mut open = vec![1];
    for (element, left) in elements.iter().zip((0..elements.len()).rev()) {
        let children = usize::try_from(element.number(5).unwrap_or_default()).ok()?;
        *open.last_mut()? -= 1;
        if children > left || open.len() > MAX_DEPTH {
            return None;
        }
        open.push(children);
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    open.is_empty().then_some(())
}

/// Whether the library may read a footer: it does so for long, or with much room, where fields aren't what it takes them
/// for.
fn footer_is_sound(mut footer: &[u8]) -> Option<()> {
    Value::take_struct(&mut footer)
        .filter(|footer| footer.fits(&FOOTER))
        .and_then(|footer| schema_is_a_tree(&footer))
}

/// Opens a file whose footer the library may believe.
fn open(path: &Path) -> Result<(ParquetRecordBatchReaderBuilder<Bounded>, Bounded)> {
    let failed = |error: ParquetError| Error::io("read", path)(std::io::Error::other(error));
    let file = Bounded(Arc::new(File::open(path).map_err(Error::io("read", path))?));
    let damaged = || invalid(path)("its footer is damaged".to_string());
    let tail = file.len().checked_sub(FOOTER_SIZE as u64).ok_or_else(damaged)?;
    let announced = file.get_bytes(tail, FOOTER_SIZE).and_then(|bytes| FooterTail::try_from(&bytes[..]));
    let announced = announced.map_err(failed)?.metadata_length();
    let start = tail.checked_sub(announced as u64).ok_or_else(damaged)?;
    let footer = file.get_bytes(start, announced).map_err(failed)?;
    footer_is_sound(&footer).ok_or_else(damaged)?;
    // Given to the library, lest it believes a second one in the same footer.
    let schema = ParquetMetaDataReader::decode_schema(&footer).map_err(failed)?;
    let options = ArrowReaderOptions::new().with_parquet_schema(schema);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options);
    Ok((builder.map_err(failed)?, file))
}

fn read_parquet_unguarded(path: &Path) -> Result<(Embeddings, Option<String>)> {
    let bad = |reason: &str| invalid(path)(reason.to_string());
    let failed = |error: ParquetError| Error::io("read", path)(std::io::Error::other(error));
    let (builder, file) = open(path)?;
    let column = |name| builder.schema().field_with_name(name).map(Field::data_type).ok();
    let (Some(DataType::Utf8 | DataType::LargeUtf8), Some(DataType::FixedSizeList(_, dim))) =
        (column("path"), column("embedding"))
    else {
        return Err(bad("needed are the columns path, of strings, and embedding, of lists of one size"));
    };
    let dim = usize::try_from(*dim).map_err(|_| bad("lists of embedding have a negative size"))?;
    check_parquet(&file, builder.metadata(), dim).map_err(|reason| bad(&reason))?;
    let metadata = builder.metadata().file_metadata();
    let pairs = metadata.key_value_metadata().into_iter().flatten();
    let settings = pairs.filter(|pair| pair.key == "lat_wgpu").find_map(|pair| pair.value.clone());
    let rows = usize::try_from(metadata.num_rows()).unwrap_or_default();
    let mut embeddings = Embeddings { paths: Vec::new(), dim, rows: Vec::new() };
    embeddings.rows.reserve(rows.saturating_mul(dim));
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["path", "embedding"]);
    for batch in builder.with_projection(columns).build().map_err(failed)? {
        let batch = batch.map_err(|error| failed(error.into()))?;
        let [Some(paths), Some(lists)] = ["path", "embedding"].map(|name| batch.column_by_name(name)) else {
            return Err(bad("a batch lacks a column that the schema has"));
        };
        let lists = lists.as_fixed_size_list();
        let numbers = lists.values();
        if paths.null_count() + lists.null_count() + numbers.null_count() > 0 {
            return Err(bad("a path or an embedding is missing (null)"));
        }
        match paths.as_string_opt::<i64>() {
            Some(large) => embeddings.paths.extend(large.iter().flatten().map(str::to_string)),
            None => embeddings.paths.extend(paths.as_string::<i32>().iter().flatten().map(str::to_string)),
        }
        match numbers.data_type() {
            DataType::Float32 => {
                embeddings.rows.extend_from_slice(numbers.as_primitive::<Float32Type>().values())
            }
            DataType::Float16 => {
                let halves = numbers.as_primitive::<Float16Type>().values();
                embeddings.rows.extend(halves.iter().map(|half| half.to_f32()));
            }
            other => return Err(bad(&format!("embedding holds {other}, not Float32 or Float16"))),
        }
    }
    Ok((embeddings, settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, LargeStringArray, RecordBatch};
    use parquet::arrow::ArrowWriter;

    /// An element of a schema: a group of so many children, or a column.
    fn element(children: u8) -> Vec<u8> {
        match children {
            // Type float, required, no name.
            0 => vec![0x15, 8, 0x25, 0, 0x18, 0, 0],
            // Required, no name.
            _ => vec![0x35, 0, 0x18, 0, 0x15, 2 * children, 0],
        }
    }

    /// A footer of version 2 with a schema and nothing else.
    fn footer(children: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x15, 4, 0x19, 0xfc];
        let mut count = children.len();
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        bytes.extend(children.iter().flat_map(|&children| element(children)));
        bytes.push(0);
        bytes
    }

    #[test]
    fn strings_may_be_large() {
        // What Polars and pandas write.
        let paths: ArrayRef = Arc::new(LargeStringArray::from(vec!["a.jpg", "b.jpg"]));
        let numbers = Arc::new(Float32Array::from(vec![1.0, 2.0, 3.0, 4.0]));
        let field = Arc::new(Field::new("item", DataType::Float32, true));
        let lists: ArrayRef = Arc::new(FixedSizeListArray::new(field, 2, numbers, None));
        let batch = RecordBatch::try_from_iter([("path", paths), ("embedding", lists)]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.parquet");
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let (read, settings) = read_parquet(&path).unwrap();
        assert_eq!((read.paths, read.dim), (vec!["a.jpg".to_string(), "b.jpg".to_string()], 2));
        assert_eq!((read.rows, settings), (vec![1.0, 2.0, 3.0, 4.0], None));
    }

    #[test]
    fn trees_are_read_as_the_library_reads_them() {
        for (children, right) in [
            (&[1, 0][..], true),
            (&[2, 0, 1, 0], true),
            (&[3, 1, 1, 0, 0, 0], true),
            (&[2, 0], false),
            (&[1, 0, 0], false),
            (&[1, 100, 0], false),
        ] {
            let footer = footer(children);
            assert_eq!(footer_is_sound(&footer).is_some(), right, "{children:?}");
            assert_eq!(ParquetMetaDataReader::decode_schema(&footer).is_ok(), right, "{children:?}");
            assert!(footer_is_sound(&footer[..footer.len() - 1]).is_none(), "{children:?} cut off");
        }
    }

    #[test]
    fn groups_within_groups_have_a_bound() {
        let nested = |groups| footer(&[vec![1; groups], vec![0]].concat());
        assert!(footer_is_sound(&nested(MAX_DEPTH - 1)).is_some());
        assert!(footer_is_sound(&nested(MAX_DEPTH)).is_none());
        // The library would call itself until the stack ends.
        assert!(footer_is_sound(&nested(1_000_000)).is_none());
    }

    #[test]
    fn fields_of_another_kind_are_refused() {
        let sound = footer(&[1, 0]);
        let place = 4 + 1 + 4;
        assert_eq!(sound[place], 0x15, "the number of children");
        for kind in 1..16 {
            let mut footer = sound.clone();
            footer[place] = 0x10 | kind;
            assert_eq!(footer_is_sound(&footer).is_some(), kind == 5, "{kind}");
        }
    }
}
