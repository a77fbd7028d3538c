//! Reads embeddings from uncompressed `.parquet` files, even damaged ones.
//!
//! The Parquet library trusts a file: a single wrong number in a footer or page header makes version 60.1 allocate
//! gigabytes, loop for minutes or panic. So this module checks the schema, the counts of the columns and the bounds of
//! their bytes before the library reads the file.

mod thrift;
pub(super) mod writer;

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
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
use parquet::file::metadata::{ColumnChunkMetaData, FooterTail, ParquetMetaData};
use parquet::file::reader::{ChunkReader, Length};

use super::format::Embeddings;
use super::provenance::Provenance;
use super::rows::{NamedRows, Rows, name_in};
use crate::error::{Error, Result, catch_panic};
use thrift::{FOOTER, MAX_DEPTH, PAGE_HEADER, Value};

/// Largest size of a page header in bytes. Statistics of strings take up most of it.
const MAX_PAGE_HEADER: u64 = 1 << 16;

/// Reads the columns `path` and `embedding`, and the provenance of the rows.
pub(super) fn read_parquet(path: &Path) -> Result<(Embeddings, Provenance)> {
    // The library panics on some files that contradict themselves.
    catch_panic(|| read_parquet_or_panic(path))
        .unwrap_or_else(|| Err(Error::invalid(path)("it is damaged: the Parquet reader failed".to_string())))
}

/// Reads a file as named rows.
pub(super) fn open(path: &Path) -> Result<NamedRows> {
    let (embeddings, provenance) = read_parquet(path)?;
    let names = embeddings.paths.clone();
    let rows = Box::new(Whole { path: path.to_path_buf(), embeddings });
    Ok(NamedRows { rows, names, provenance })
}

/// Embeddings of a file that is held in memory.
struct Whole {
    path: PathBuf,
    embeddings: Embeddings,
}

impl Rows for Whole {
    fn len(&self) -> usize {
        self.embeddings.len()
    }

    fn dim(&self) -> usize {
        self.embeddings.dim
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.embeddings.read(rows, out)
    }

    fn name(&self, row: usize) -> Option<String> {
        name_in(&self.embeddings.paths, &self.path, row)
    }
}

/// Refuses row and value counts that the file is too small for. Returns the number of rows and of values per row, which
/// is 0 without rows.
fn check_parquet(file: &Bounded, metadata: &ParquetMetaData) -> std::result::Result<(usize, usize), String> {
    let length = file.len();
    let (mut rows, mut covered) = (0u64, 0u64);
    let mut dim = None;
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
            let values = u64::try_from(column.num_values()).unwrap_or(u64::MAX);
            // The library selects columns by the first part of their name, too.
            let each = match column.column_path().parts().first().map(String::as_str) {
                Some("path") => 1,
                Some("embedding") => match (dim, values.checked_div(here)) {
                    (Some(dim), _) => dim,
                    (None, Some(first)) => *dim.insert(first),
                    (None, None) => 0,
                },
                _ => continue,
            };
            if here.checked_mul(each) != Some(values) {
                let (name, values) = (column.column_path(), column.num_values());
                return Err(format!("column {name} has {values} values in {here} rows"));
            }
            if column.compression() != Compression::UNCOMPRESSED {
                let (name, codec) = (column.column_path(), column.compression());
                return Err(format!(
                    "column {name} is compressed ({codec}): only uncompressed columns are read"
                ));
            }
            covered = covered.saturating_add(column.compressed_size() as u64);
            if covered > length {
                return Err("its columns overlap".to_string());
            }
            read.push(column);
        }
    }
    let dim = dim.unwrap_or_default();
    // The path of a row takes as much memory as about six numbers, however short it is.
    if rows.saturating_mul(dim.saturating_add(6)) > most_from(length)
        || u64::try_from(metadata.file_metadata().num_rows()) != Ok(rows)
    {
        return Err(format!("{length} bytes can't hold {rows} rows of {dim} dimensions"));
    }
    for column in read {
        check_pages(file, column)
            .map_err(|reason| format!("a page of column {} {reason}", column.column_path()))?;
    }
    Ok((rows as usize, dim as usize))
}

/// Bound on the numbers, or bytes, that a file of `length` bytes decodes to. Embeddings hardly compress; the first
/// million is allowed because a few equal rows do.
fn most_from(length: u64) -> u64 {
    length.saturating_mul(64).saturating_add(1 << 20)
}

/// Refuses pages with more values than their column, dictionaries with more values than bytes, and encodings that store
/// their own counts.
fn check_pages(file: &Bounded, column: &ColumnChunkMetaData) -> std::result::Result<(), String> {
    let (mut at, length) = column.byte_range();
    let (end, mut left) = (at + length, column.num_values());
    while at < end {
        let (header, taken) = page_header(file, at, end)?.ok_or("has a damaged header")?;
        // The field that describes a page of this type, and the field within it that holds the encoding.
        let (field, encoding) = match header.number(1) {
            Some(0) => (5, 2),
            Some(2) => (7, 2),
            Some(3) => (8, 4),
            _ => return Err("is of an unknown type".to_string()),
        };
        let description = header.field(field).ok_or("has a damaged header")?;
        let numbers = (header.number(3), description.number(1), description.number(encoding));
        let (Some(size @ 0..), Some(values), Some(encoding)) = numbers else {
            return Err("has a damaged header".to_string());
        };
        // Plain, dictionary (2 and 8), byte-stream-split.
        if !matches!(encoding, 0 | 2 | 8 | 9) {
            return Err(format!(
                "has encoding {encoding}: only plain, dictionary and byte-stream-split are read"
            ));
        }
        at += taken + size as u64;
        let is_dictionary = field == 7;
        let most = if is_dictionary { size } else { left };
        if !(0..=most).contains(&values) || at > end {
            return Err("can't hold its values".to_string());
        }
        if !is_dictionary {
            left -= values;
        }
    }
    Ok(())
}

/// Parses the header of the page at `at`, before `end`; returns it with its length in bytes, or `None` if it is
/// damaged.
fn page_header(file: &Bounded, at: u64, end: u64) -> std::result::Result<Option<(Value, u64)>, String> {
    // Most headers fit into the smaller window.
    for most in [1 << 9, MAX_PAGE_HEADER] {
        let window = file.get_bytes(at, (end - at).min(most) as usize).map_err(|error| error.to_string())?;
        let mut rest = &window[..];
        if let Some(header) = Value::take_struct(&mut rest) {
            return Ok(header.fits(&PAGE_HEADER).then_some((header, (window.len() - rest.len()) as u64)));
        }
    }
    Ok(None)
}

/// A `.parquet` file that fails reads past its end. Otherwise the decoder would repeat empty reads as often as a
/// damaged page says.
#[derive(Clone)]
struct Bounded(Arc<File>);

/// Reader of a [`Bounded`] file.
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

/// Checks that the schema in a footer is one tree of moderate depth, with at most `most` bytes of names. The library
/// allocates as many children as an element claims, recurses at each level, and copies the names of all groups around
/// each column.
fn schema_is_a_tree(footer: &Value, most: u64) -> Option<()> {
    let Value::List(elements) = footer.field(2)? else { return None };
    // For each open group, from the root down: missing children, and bytes of the names down to it.
    let mut open = vec![(1, 0)];
    let mut names = 0u64;
    for (element, left) in elements.iter().zip((0..elements.len()).rev()) {
        let children = usize::try_from(element.number(5).unwrap_or_default()).ok()?;
        let (waiting, above) = open.last_mut()?;
        *waiting -= 1;
        let here = *above + element.number(4)? as u64;
        if children == 0 {
            names += here;
        }
        if children > left || open.len() > MAX_DEPTH || names > most {
            return None;
        }
        open.push((children, here));
        while open.last().is_some_and(|(waiting, _)| *waiting == 0) {
            open.pop();
        }
    }
    open.is_empty().then_some(())
}

/// Checks that the library can read a footer. It takes long, or much memory, over fields of unexpected types.
fn footer_is_sound(mut footer: &[u8]) -> Option<()> {
    let most = most_from(footer.len() as u64);
    let footer = Value::take_struct(&mut footer).filter(|footer| footer.fits(&FOOTER))?;
    schema_is_a_tree(&footer, most)
}

/// Opens a file after checking its footer.
fn builder(path: &Path) -> Result<(ParquetRecordBatchReaderBuilder<Bounded>, Bounded)> {
    let failed = |error: ParquetError| Error::invalid(path)(error.to_string());
    let file = Bounded(Arc::new(File::open(path).map_err(Error::io("read", path))?));
    let damaged = || Error::invalid(path)("its footer is damaged".to_string());
    let tail = file.len().checked_sub(FOOTER_SIZE as u64).ok_or_else(damaged)?;
    let announced = file.get_bytes(tail, FOOTER_SIZE).and_then(|bytes| FooterTail::try_from(&bytes[..]));
    let announced = announced.map_err(failed)?;
    if announced.is_encrypted_footer() {
        return Err(Error::invalid(path)("it is encrypted".to_string()));
    }
    let announced = announced.metadata_length();
    let start = tail.checked_sub(announced as u64).ok_or_else(damaged)?;
    let footer = file.get_bytes(start, announced).map_err(failed)?;
    footer_is_sound(&footer).ok_or_else(damaged)?;
    // Ignores the Arrow schema in the metadata, which can expand without limit. Parquet's own schema has all but the
    // fixed length of lists, and files of other libraries have no Arrow schema.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options);
    Ok((builder.map_err(failed)?, file))
}

fn read_parquet_or_panic(path: &Path) -> Result<(Embeddings, Provenance)> {
    let bad = |reason: &str| Error::invalid(path)(reason.to_string());
    let failed = |error: ParquetError| Error::invalid(path)(error.to_string());
    let (builder, file) = builder(path)?;
    let column = |name| builder.schema().field_with_name(name).map(Field::data_type).ok();
    let (Some(DataType::Utf8), Some(DataType::List(item))) = (column("path"), column("embedding")) else {
        return Err(bad("it needs a column path of strings and a column embedding of lists"));
    };
    if !matches!(item.data_type(), DataType::Float32 | DataType::Float16) {
        return Err(bad(&format!("embedding holds {}, not Float32 or Float16", item.data_type())));
    }
    let (rows, dim) = check_parquet(&file, builder.metadata()).map_err(|reason| bad(&reason))?;
    let metadata = builder.metadata().file_metadata();
    let entry = |key: &str| {
        let mut pairs = metadata.key_value_metadata().into_iter().flatten();
        pairs.find(|pair| pair.key == key)?.value.clone()
    };
    let provenance = Provenance::read(entry);
    let mut embeddings = Embeddings { paths: Vec::new(), dim, rows: Vec::new() };
    embeddings.rows.reserve(rows.saturating_mul(dim));
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["path", "embedding"]);
    // A dictionary may repeat one long path in every row.
    let mut left = most_from(file.len());
    for batch in builder.with_projection(columns).with_batch_size(64).build().map_err(failed)? {
        let batch = batch.map_err(|error| failed(error.into()))?;
        let [Some(paths), Some(lists)] = ["path", "embedding"].map(|name| batch.column_by_name(name)) else {
            return Err(bad("a batch lacks a column that the schema has"));
        };
        let lists = lists.as_list::<i32>();
        let numbers = lists.values();
        if paths.null_count() + lists.null_count() + numbers.null_count() > 0 {
            return Err(bad("a path or an embedding is missing (null)"));
        }
        let first = embeddings.paths.len();
        if let Some(row) = lists.offsets().lengths().position(|length| length != dim) {
            let (row, length) = (first + row + 1, lists.value_length(row));
            return Err(bad(&format!(
                "embedding of row {row} has {length} dimensions, the average is {dim}"
            )));
        }
        embeddings.paths.extend(paths.as_string::<i32>().iter().flatten().map(str::to_string));
        let bytes = embeddings.paths[first..].iter().map(|path| path.len() as u64).sum();
        left = u64::checked_sub(left, bytes).ok_or_else(|| bad("its paths are longer than the file"))?;
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
    Ok((embeddings, provenance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        ArrayRef, FixedSizeListArray, Float32Array, Int32Array, LargeListArray, LargeStringArray, ListArray,
        RecordBatch, StringArray, StringViewArray,
    };
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_writer::ArrowWriterOptions;
    use parquet::basic::Encoding;
    use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
    use parquet::file::properties::WriterProperties;
    use std::path::PathBuf;

    /// An element of a schema: a group of `children` children, or a column if there are none.
    fn element(children: u8) -> Vec<u8> {
        match children {
            // Type float, required, no name.
            0 => vec![0x15, 8, 0x25, 0, 0x18, 0, 0],
            // Required, no name.
            _ => vec![0x35, 0, 0x18, 0, 0x15, 2 * children, 0],
        }
    }

    /// A footer of version 2 with only a schema.
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

    /// A file of two rows.
    fn written(folder: &Path, paths: ArrayRef, lists: ArrayRef, options: ArrowWriterOptions) -> PathBuf {
        let batch = RecordBatch::try_from_iter([("path", paths), ("embedding", lists)]).unwrap();
        let path = folder.join("e.parquet");
        let file = File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    }

    fn names() -> ArrayRef {
        Arc::new(StringArray::from(vec!["a.jpg", "b.jpg"]))
    }

    /// Two lists of two numbers.
    fn pairs(numbers: impl Array + 'static) -> ArrayRef {
        let field = Arc::new(Field::new("item", numbers.data_type().clone(), true));
        Arc::new(FixedSizeListArray::new(field, 2, Arc::new(numbers), None))
    }

    fn zeros() -> ArrayRef {
        pairs(Float32Array::from(vec![0.0; 4]))
    }

    fn reason(path: &Path) -> String {
        read_parquet(path).map(|_| ()).unwrap_err().with_causes()
    }

    #[test]
    fn strings_and_lists_may_be_of_any_kind() {
        // Polars, pandas and DuckDB write these types.
        let numbers = || [[1.0, 2.0], [3.0, 4.0]].map(|list| Some(list.map(Some)));
        let dir = tempfile::tempdir().unwrap();
        let strings: [ArrayRef; 3] = [
            names(),
            Arc::new(LargeStringArray::from(vec!["a.jpg", "b.jpg"])),
            Arc::new(StringViewArray::from(vec!["a.jpg", "b.jpg"])),
        ];
        let lists: [ArrayRef; 3] = [
            pairs(Float32Array::from(vec![1.0, 2.0, 3.0, 4.0])),
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(numbers())),
            Arc::new(LargeListArray::from_iter_primitive::<Float32Type, _, _>(numbers())),
        ];
        for (paths, lists) in strings.iter().flat_map(|paths| lists.iter().map(move |lists| (paths, lists))) {
            let path = written(dir.path(), paths.clone(), lists.clone(), ArrowWriterOptions::new());
            let (read, provenance) = read_parquet(&path).unwrap();
            assert_eq!((read.paths, read.dim), (vec!["a.jpg".to_string(), "b.jpg".to_string()], 2));
            assert_eq!((read.rows, provenance), (vec![1.0, 2.0, 3.0, 4.0], Provenance::default()));
        }
    }

    #[test]
    fn lists_have_one_size() {
        let dir = tempfile::tempdir().unwrap();
        for (sizes, words) in [
            ([3, 1], "embedding of row 1 has 3 dimensions, the average is 2"),
            ([2, 3], "column \"embedding.list.item\" has 5 values in 2 rows"),
            ([0, 1], "embedding of row 1 has 0 dimensions, the average is 1"),
        ] {
            let lists = sizes.map(|size| Some(vec![Some(0.0); size]));
            let lists = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists));
            let path = written(dir.path(), names(), lists, ArrowWriterOptions::new());
            assert!(reason(&path).contains(words), "{}", reason(&path));
        }
    }

    #[test]
    fn arrows_own_schema_is_not_read() {
        // Tables that share their children expand 6 kB to 2 GB.
        let entry = KeyValue::new("ARROW:schema".to_string(), "neither base64 nor a schema".to_string());
        let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![entry])).build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), names(), zeros(), options);
        assert_eq!(read_parquet(&path).unwrap().0.rows, [0.0; 4]);
    }

    #[test]
    fn a_dictionary_has_a_byte_for_each_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), names(), zeros(), ArrowWriterOptions::new());
        let mut bytes = std::fs::read(&path).unwrap();
        // The first page has two strings in 18 bytes; now it claims 63.
        let header = bytes.windows(3).position(|bytes| bytes == [0x4c, 0x15, 4]).unwrap();
        bytes[header + 2] = 2 * 63;
        std::fs::write(&path, bytes).unwrap();
        assert!(
            reason(&path).contains("a page of column \"path\" can't hold its values"),
            "{}",
            reason(&path)
        );
    }

    #[test]
    fn encodings_that_count_for_themselves_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (encoding, number) in [(Encoding::DELTA_BYTE_ARRAY, 7), (Encoding::DELTA_LENGTH_BYTE_ARRAY, 6)] {
            let properties = WriterProperties::builder()
                .set_dictionary_enabled(false)
                .set_column_encoding("path".into(), encoding)
                .build();
            let options = ArrowWriterOptions::new().with_properties(properties);
            let path = written(dir.path(), names(), zeros(), options);
            let words = format!("has encoding {number}: only plain");
            assert!(reason(&path).contains(&words), "{}", reason(&path));
        }
    }

    #[test]
    fn numbers_of_another_kind_are_refused_before_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let numbers = pairs(Int32Array::from(vec![0; 4]));
        let path = written(dir.path(), names(), numbers, ArrowWriterOptions::new());
        assert!(reason(&path).contains("embedding holds Int32, not Float32 or Float16"), "{}", reason(&path));
    }

    #[test]
    fn names_of_groups_have_a_bound() {
        // A root, a group with a long name, and columns below it. Each column would get a copy of the name.
        let named = |length: usize, columns: usize| {
            let mut bytes = vec![0x15, 4, 0x19, 0xfc, 0x80 | (columns + 2) as u8, ((columns + 2) >> 7) as u8];
            bytes.extend([0x48, 0, 0x15, 2, 0]);
            bytes.extend([
                0x35,
                0,
                0x18,
                length as u8 | 0x80,
                (length >> 7) as u8 | 0x80,
                (length >> 14) as u8,
            ]);
            bytes.extend(vec![b'n'; length]);
            bytes.extend([0x15, (2 * columns) as u8 | 0x80, (columns >> 6) as u8, 0]);
            bytes.extend(element(0).repeat(columns));
            bytes.push(0);
            bytes
        };
        assert!(footer_is_sound(&named(100, 1000)).is_some());
        assert!(footer_is_sound(&named(20_000, 1000)).is_none());
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
        // The library would overflow the stack.
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
