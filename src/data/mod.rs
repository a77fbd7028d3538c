//! Host memory: pictures on their way in, embeddings on their way out. Knows no GPU.

pub mod walk;

pub mod augment;

pub mod decode;
mod jpeg;
pub mod preprocess;

pub mod files;
pub mod hash;
pub mod lock;

pub mod embeddings;
pub mod figures;
pub mod gallery;
pub mod index;
pub mod merge;
mod parquet_reader;
pub mod provenance;
pub mod reduce;
pub mod rows;
mod thrift;
