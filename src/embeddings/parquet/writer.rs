//! Writes embeddings to `.parquet`.

use std::collections::BTreeMap;
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
use tempfile::NamedTempFile;

use crate::embeddings::format::FormatWriter;
use crate::error::{Error, Result};
use crate::storage::Dtype;
use crate::storage::atomic::{publish, temporary_beside};

/// Size of a row group in bytes.
const ROW_GROUP: usize = 16 << 20;

/// Writer of the columns `path`, strings, and `embedding`, lists of fixed length.
pub(in crate::embeddings) struct Parquet {
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
    pub fn create(out: &Path, dim: usize, dtype: Dtype, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let number = match dtype {
            Dtype::F32 => DataType::Float32,
            Dtype::F16 => DataType::Float16,
        };
        let list_dim = i32::try_from(dim).map_err(|_| {
            Error::TooLarge(format!("embeddings of {dim} dimensions do not fit into a .parquet file"))
        })?;
        let item = Arc::new(Field::new("item", number, false));
        let schema = Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("embedding", DataType::FixedSizeList(item, list_dim), false),
        ]));
        let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        // Embeddings rarely share values: a dictionary would only cost time.
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

    /// Writes the collected rows as one row group.
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

impl FormatWriter for Parquet {
    fn push(&mut self, name: &str, embedding: &[f32]) -> Result<()> {
        self.names.push(name.to_string());
        self.values.extend_from_slice(embedding);
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
