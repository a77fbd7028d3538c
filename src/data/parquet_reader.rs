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
use parquet::column::page::PageReader;
use parquet::errors::ParquetError;
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::{ColumnChunkMetaData, FooterTail, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::embeddings::{Embeddings, invalid};
use super::guard::guarded;
use crate::error::{Error, Result};

/// Levels of a schema, groups and columns. Ours has four.
const MAX_DEPTH: usize = 64;

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

/// Whether the pages of a column promise no more values than it has, and dictionaries no more than their bytes. Reads no
/// other bytes than headers and dictionaries.
fn pages_can_hold_their_values(
    file: &Bounded,
    column: &ColumnChunkMetaData,
) -> parquet::errors::Result<bool> {
    let values = usize::try_from(column.num_values()).unwrap_or_default();
    // The number of rows counts only where an index tells the places of pages.
    let mut pages = SerializedPageReader::new(Arc::new(file.clone()), column, 0, None)?;
    while let Some(page) = pages.peek_next_page()? {
        let fits = if page.is_dict {
            let dictionary = pages.get_next_page()?;
            dictionary.is_some_and(|page| page.num_values() as usize <= page.buffer().len())
        } else {
            pages.skip_next_page()?;
            page.num_levels.is_some_and(|count| count <= values)
        };
        if !fits {
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

/// Values of compact Thrift, in which footers are written. Each is None where the bytes end early, or are of no such form.
struct Thrift<'b>(&'b [u8]);

/// Kinds of values, as Thrift numbers them.
const I32: u8 = 5;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Number and kind of a struct's next field, the one after `last`; kind 0 at the struct's end. Numbers ascend: no
    /// footer needs the long form that lets them fall.
    fn field(&mut self, last: u8) -> Option<(u8, u8)> {
        let head = self.byte()?;
        let (step, kind) = (head >> 4, head & 15);
        (kind == 0 || step > 0).then_some((last.checked_add(step)?, kind))
    }

    /// Passes over one value of a kind that schemas have.
    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let bytes = match kind {
            1 | 2 => 0,
            3 => 1,
            4..=6 => self.varint().map(|_| 0)?,
            7 => 8,
            BINARY => usize::try_from(self.varint()?).ok()?,
            STRUCT if depth > 0 => {
                let mut last = 0;
                loop {
                    let (number, kind) = self.field(last)?;
                    if kind == 0 {
                        break 0;
                    }
                    self.skip(kind, depth - 1)?;
                    last = number;
                }
            }
            _ => return None,
        };
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    /// How many children an element of a schema claims.
    fn children(&mut self) -> Option<u64> {
        let (mut last, mut children) = (0, 0);
        loop {
            let (number, kind) = self.field(last)?;
            last = number;
            // What the library doesn't ask: whether a field has the kind that it reads.
            match (number, kind) {
                (_, 0) => return Some(children),
                // Whole numbers alternate in sign: 0, −1, 1, −2…
                (5, I32) => children = self.varint().filter(|n| n % 2 == 0)? / 2,
                (1..=3 | 6..=9, I32) | (4, BINARY) | (10, STRUCT) | (11.., _) => {
                    self.skip(kind, MAX_DEPTH)?
                }
                _ => return None,
            }
        }
    }
}

/// Whether the schema in a footer is one tree of moderate depth: the library makes room for as many children as an element
/// claims, and calls itself at each level.
fn schema_is_a_tree(footer: &[u8]) -> Option<()> {
    let mut thrift = Thrift(footer);
    let mut last = 0;
    loop {
        match thrift.field(last)? {
            (2, LIST) => break,
            (1, kind) => thrift.skip(kind, MAX_DEPTH)?,
            _ => return None,
        }
        last = 1;
    }
    let head = thrift.byte()?;
    let count = if head >> 4 == 15 { thrift.varint()? } else { u64::from(head >> 4) };
    if head & 15 != STRUCT {
        return None;
    }
    // Children that each open group still waits for, the root's above all.
    let mut open = vec![1];
    for left in (0..count).rev() {
        let children = thrift.children()?;
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

/// Opens a file whose schema the library may believe.
fn open(path: &Path) -> Result<(ParquetRecordBatchReaderBuilder<Bounded>, Bounded)> {
    let failed = |error: ParquetError| Error::io("read", path)(std::io::Error::other(error));
    let file = Bounded(Arc::new(File::open(path).map_err(Error::io("read", path))?));
    let damaged = || invalid(path)("its footer is damaged".to_string());
    let tail = file.len().checked_sub(FOOTER_SIZE as u64).ok_or_else(damaged)?;
    let announced = file.get_bytes(tail, FOOTER_SIZE).and_then(|bytes| FooterTail::try_from(&bytes[..]));
    let announced = announced.map_err(failed)?.metadata_length();
    let start = tail.checked_sub(announced as u64).ok_or_else(damaged)?;
    let footer = file.get_bytes(start, announced).map_err(failed)?;
    schema_is_a_tree(&footer).ok_or_else(damaged)?;
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
    let (Some(DataType::Utf8), Some(DataType::FixedSizeList(_, dim))) = (column("path"), column("embedding"))
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
        embeddings.paths.extend(paths.as_string::<i32>().iter().flatten().map(str::to_string));
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

    /// An element of a schema: a group of so many children, or a column.
    fn element(children: u8) -> Vec<u8> {
        match children {
            // Type float, required, no name.
            0 => vec![0x15, 8, 0x25, 0, 0x18, 0, 0],
            // Required, no name.
            _ => vec![0x35, 0, 0x18, 0, 0x15, 2 * children, 0],
        }
    }

    /// A footer of version 2 with a schema, without what comes behind it.
    fn footer(children: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x15, 4, 0x19, 0xf0 | STRUCT];
        let mut count = children.len();
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        bytes.extend(children.iter().flat_map(|&children| element(children)));
        bytes
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
            assert_eq!(schema_is_a_tree(&footer).is_some(), right, "{children:?}");
            assert_eq!(ParquetMetaDataReader::decode_schema(&footer).is_ok(), right, "{children:?}");
            assert!(schema_is_a_tree(&footer[..footer.len() - 1]).is_none(), "{children:?} cut off");
        }
    }

    #[test]
    fn groups_within_groups_have_a_bound() {
        let nested = |groups| footer(&[vec![1; groups], vec![0]].concat());
        assert!(schema_is_a_tree(&nested(MAX_DEPTH - 1)).is_some());
        assert!(schema_is_a_tree(&nested(MAX_DEPTH)).is_none());
        // The library would call itself until the stack ends.
        assert!(schema_is_a_tree(&nested(1_000_000)).is_none());
    }

    #[test]
    fn fields_of_another_kind_are_refused() {
        let sound = footer(&[1, 0]);
        let place = 4 + 1 + 4;
        assert_eq!(sound[place], 0x15, "the number of children");
        for kind in 1..16 {
            let mut footer = sound.clone();
            footer[place] = 0x10 | kind;
            assert_eq!(schema_is_a_tree(&footer).is_some(), kind == I32, "{kind}");
        }
    }
}
