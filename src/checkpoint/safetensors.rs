//! The safetensors container: an 8-byte length, a JSON header, then raw little-endian tensors.
//!
//! This module parses the header itself, because a JSON map silently drops duplicate keys, and because every error
//! should name its tensor.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::foreign;
use super::pytorch::Storages;
use crate::error::{Error, Result};

/// Largest header, in bytes. A ViT-g with optimiser state needs about 300 kB.
const MAX_HEADER: u64 = 16_000_000;

/// Largest number of tensors.
pub(super) const MAX_TENSORS: usize = 10_000;

/// A tensor of a file, from the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTensor {
    /// Name in the file.
    pub name: String,
    /// Element type in the file's spelling, such as "F32".
    pub dtype: String,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Size of the data in bytes.
    pub bytes: u64,
    /// Offset in the file, in bytes; in a file of PyTorch, the number of the tensor.
    pub(super) start: u64,
}

impl FileTensor {
    /// Describes type and shape for messages.
    pub(super) fn describe(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }

    /// Returns whether the elements can be read as f32.
    pub(super) fn is_float(&self) -> bool {
        matches!(self.dtype.as_str(), "F32" | "F16" | "BF16")
    }
}

/// The data of a [`Container`].
pub(super) enum Source {
    /// A safetensors file.
    File(File),
    /// A file of PyTorch.
    PyTorch(Storages),
}

/// An open file whose header has been read and checked.
pub(super) struct Container {
    path: PathBuf,
    source: Source,
    /// In the order of the header.
    pub(super) tensors: Vec<FileTensor>,
    /// The header's `__metadata__`.
    pub(super) metadata: BTreeMap<String, String>,
}

impl Container {
    /// Opens `path` and reads its header, but no tensor data.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Weights`] if the file is unusable; [`Error::Tensor`] if an entry is duplicate, cut off
    /// or overlapping, or if its shape doesn't match its bytes.
    pub(super) fn open(path: &Path) -> Result<Container> {
        let unusable = |reason: String| Error::Weights { path: path.to_path_buf(), reason };
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let mut start = Vec::new();
        file.by_ref().take(foreign::START).read_to_end(&mut start).map_err(Error::io("read", path))?;
        // Describes other kinds of files.
        let foreign = |otherwise: String| unusable(foreign::describe(&start).unwrap_or(otherwise));
        let Some(first) = start.first_chunk() else {
            return Err(foreign(format!("not a safetensors file: only {length} bytes long")));
        };
        let header_length = u64::from_le_bytes(*first);
        if header_length > length - 8 {
            return Err(foreign(format!(
                "truncated, or not a safetensors file: it announces a header of {header_length} bytes, but only {} follow",
                length - 8
            )));
        }
        if header_length > MAX_HEADER {
            return Err(foreign(format!("the header has {header_length} bytes, the limit is {MAX_HEADER}")));
        }
        let mut json = vec![0u8; header_length as usize];
        let read = file.seek(SeekFrom::Start(8)).and_then(|_| file.read_exact(&mut json));
        read.map_err(Error::io("read", path))?;
        let header: Header = serde_json::from_slice(&json)
            .map_err(|e| foreign(format!("not a safetensors file, or a damaged header: {e}")))?;
        if header.tensors.len() > MAX_TENSORS {
            return Err(unusable(format!(
                "the header lists {} tensors, the limit is {MAX_TENSORS}",
                header.tensors.len()
            )));
        }
        let data_start = 8 + header_length;
        let tensors = check_entries(path, header.tensors, length - data_start, data_start)?;
        let mut metadata = BTreeMap::new();
        for (key, value) in header.metadata {
            if metadata.insert(key.clone(), value).is_some() {
                return Err(unusable(format!("the metadata key {key:?} occurs twice")));
            }
        }
        Ok(Container { metadata, ..Container::new(path, Source::File(file), tensors) })
    }

    /// Makes a container of checked tensors, without metadata.
    pub(super) fn new(path: &Path, source: Source, tensors: Vec<FileTensor>) -> Container {
        Container { path: path.to_path_buf(), source, tensors, metadata: BTreeMap::new() }
    }

    /// Reads the bytes of tensor `index`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn read_bytes(&self, index: usize) -> Result<Vec<u8>> {
        let FileTensor { bytes, start, .. } = self.tensors[index];
        let mut file = match &self.source {
            Source::PyTorch(storages) => return storages.read(&self.tensors[index]),
            Source::File(file) => file,
        };
        let mut data = vec![0u8; bytes as usize];
        file.seek(SeekFrom::Start(start)).map_err(Error::io("read", &self.path))?;
        file.read_exact(&mut data).map_err(Error::io("read", &self.path))?;
        Ok(data)
    }

    /// Reads tensor `index` as f32, in row-major order.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tensor`] if its type is not F32, F16 or BF16, or if a value is not finite.
    pub(super) fn read_f32(&mut self, index: usize) -> Result<Vec<f32>> {
        let tensor = &self.tensors[index];
        let fault = |expected: &str, found: String| Error::Tensor {
            path: self.path.clone(),
            tensor: tensor.name.clone(),
            expected: expected.into(),
            found,
        };
        if !tensor.is_float() {
            return Err(fault("F32, F16 or BF16", tensor.dtype.clone()));
        }
        let bytes = self.read_bytes(index)?;
        let values: Vec<f32> = match tensor.dtype.as_str() {
            "F32" => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            "F16" => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        };
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(at) => {
                let what = if values[at].is_nan() { "NaN" } else { "infinity" };
                Err(fault("finite values", format!("{what} at index {:?}", unravel(at, &tensor.shape))))
            }
        }
    }
}

/// Lists the tensors and the metadata of a file from its header.
///
/// # Errors
/// [`Error::Io`], or [`Error::Weights`] and [`Error::Tensor`] for a damaged file.
pub fn list(path: &Path) -> Result<(Vec<FileTensor>, BTreeMap<String, String>)> {
    let container = Container::open(path)?;
    Ok((container.tensors, container.metadata))
}

/// The header with the order of the file, and with duplicates.
#[derive(Default)]
struct Header {
    tensors: Vec<(String, Entry)>,
    metadata: Vec<(String, String)>,
}

/// The header's entry of a tensor. Offsets count from the end of the header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The metadata with duplicates.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata.extend(map.next_value::<Pairs>()?.0);
                    } else {
                        let entry = map
                            .next_value()
                            .map_err(|e| A::Error::custom(format!("tensor {name:?}: {e}")))?;
                        header.tensors.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Checks that a name doesn't control the terminal.
pub(super) fn check_name(path: &Path, name: &str) -> Result<()> {
    if !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::Tensor {
        path: path.to_path_buf(),
        tensor: name.escape_debug().to_string(),
        expected: "a name without control characters".into(),
        found: "one with them".into(),
    })
}

/// Checks that every name is unique, that every shape matches its bytes, and that the tensors tile the data exactly.
fn check_entries(
    path: &Path,
    entries: Vec<(String, Entry)>,
    data_length: u64,
    data_start: u64,
) -> Result<Vec<FileTensor>> {
    let fault = |tensor: &str, expected: String, found: String| Error::Tensor {
        path: path.to_path_buf(),
        // A name must not control the terminal.
        tensor: tensor.escape_debug().to_string(),
        expected,
        found,
    };
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in &entries {
        check_name(path, name)?;
        if !names.insert(name.as_str()) {
            return Err(fault(name, "one tensor of this name".into(), "a duplicate".into()));
        }
        let (begin, end) = entry.data_offsets;
        let bytes = end.checked_sub(begin);
        let needed = byte_size(&entry.dtype, &entry.shape);
        let what = format!("{} {:?}", entry.dtype.escape_debug(), entry.shape);
        match (bytes, needed) {
            (None, _) => {
                return Err(fault(
                    name,
                    format!("{what} in a range of bytes"),
                    format!("offsets {begin}..{end}"),
                ));
            }
            (_, Size::Overflow) => {
                return Err(fault(name, "a shape that fits into memory".into(), what));
            }
            (Some(bytes), Size::Bytes(needed)) if bytes != needed => {
                return Err(fault(name, format!("{needed} bytes for {what}"), format!("{bytes} bytes")));
            }
            _ => {}
        }
        if end > data_length {
            return Err(fault(
                name,
                format!("{what} in bytes {begin}..{end} of the data"),
                format!("only {data_length} bytes of data (truncated file)"),
            ));
        }
        let shape = entry.shape.iter().map(|&n| n as usize).collect();
        let (dtype, start) = (entry.dtype.escape_debug().to_string(), data_start + begin);
        tensors.push(FileTensor { name: name.clone(), dtype, shape, bytes: end - begin, start });
    }

    let mut by_offset: Vec<&FileTensor> = tensors.iter().collect();
    by_offset.sort_by_key(|t| (t.start, t.bytes));
    let mut next = data_start;
    let mut before = "the header";
    for tensor in by_offset {
        if tensor.start != next {
            let found = if tensor.start < next { "an overlap" } else { "a hole" };
            return Err(fault(
                &tensor.name,
                format!("data that begins at byte {}, after {before}", next - data_start),
                format!("byte {}: {found}", tensor.start - data_start),
            ));
        }
        next += tensor.bytes;
        before = &tensor.name;
    }
    let rest = data_length - (next - data_start);
    if rest > 0 {
        let reason = format!("{rest} bytes after {before} belong to no tensor");
        return Err(Error::Weights { path: path.to_path_buf(), reason });
    }
    Ok(tensors)
}

/// Size of a tensor's data.
enum Size {
    Bytes(u64),
    /// More than 64 bits can hold.
    Overflow,
    /// The element type is unknown. The tensor can only be ignored.
    Unknown,
}

/// Bytes of an element; `None` for an unknown type.
pub(super) fn byte_width(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => Some(1),
        "U16" | "I16" | "F16" | "BF16" => Some(2),
        "U32" | "I32" | "F32" => Some(4),
        "U64" | "I64" | "F64" => Some(8),
        _ => None,
    }
}

/// Computes the size of `shape` elements of `dtype`.
fn byte_size(dtype: &str, shape: &[u64]) -> Size {
    let Some(width) = byte_width(dtype) else { return Size::Unknown };
    match shape.iter().try_fold(width, |product: u64, &n| product.checked_mul(n)) {
        Some(bytes) => Size::Bytes(bytes),
        None => Size::Overflow,
    }
}

/// Splits a flat index into an index per dimension.
fn unravel(flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = flat;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&n| {
            let here = rest % n;
            rest /= n;
            here
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this header and as many zero bytes of data.
    fn open(header: &str, data: usize) -> Result<Container> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        Container::open(file.path())
    }

    fn message(header: &str, data: usize) -> String {
        match open(header, data) {
            Ok(_) => panic!("accepted: {header}"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn a_sound_header_is_read_in_its_order() {
        let c = open(
            r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"__metadata__":{"k":"v"},
                "a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"z":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}  "#,
            12,
        )
        .unwrap();
        assert_eq!(c.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["b", "a", "z"]);
        assert_eq!(c.metadata["k"], "v");
        assert_eq!((c.tensors[1].bytes, c.tensors[1].shape.clone()), (4, vec![1, 2]));
    }

    #[test]
    fn each_fault_names_its_tensor() {
        let t = |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{offsets}]}}"#);
        let two = |a: &str, b: &str| format!(r#"{{"a":{},"b":{}}}"#, t(a), t(b));
        for (header, data, words) in [
            (format!(r#"{{"a":{},"a":{}}}"#, t("0,8"), t("0,8")), 8, "tensor a: expected one tensor"),
            (
                two("0,8", "4,12"),
                12,
                "tensor b: expected data that begins at byte 8, after a, found byte 4: an overlap",
            ),
            (two("0,8", "12,20"), 20, "a hole"),
            (two("0,8", "8,16"), 15, "tensor b: expected F32 [2] in bytes 8..16 of the data, found only 15"),
            (two("0,8", "8,12"), 12, "tensor b: expected 8 bytes for F32 [2], found 4 bytes"),
            (two("0,8", "16,8"), 16, "offsets 16..8"),
            (two("0,8", "8,16"), 17, "1 bytes after b belong to no tensor"),
            (
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.into(),
                0,
                "fits",
            ),
            (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#.into(), 0, "tensor \"a\""),
            (r#"{"a":{"dtype":"F32","shape":[1]}}"#.into(), 0, "data_offsets"),
            (r#"{"a\u001b[2J":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#.into(), 0, "control"),
            (r#"{"__metadata__":{"k":"v","k":"w"}}"#.into(), 0, "twice"),
            (r#"{"__metadata__":{"k":1}}"#.into(), 0, "string"),
            ("[]".into(), 0, "not a safetensors file"),
            ("".into(), 0, "not a safetensors file"),
        ] {
            let text = message(&header, data);
            assert!(text.contains(words), "{header}\n{text}");
        }
    }

    #[test]
    fn too_many_tensors_are_refused() {
        let entries: Vec<String> = (0..=MAX_TENSORS)
            .map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
            .collect();
        assert!(message(&format!("{{{}}}", entries.join(",")), 0).contains("10001 tensors"));
    }

    #[test]
    fn flat_indices_unravel() {
        assert_eq!(unravel(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(unravel(0, &[1]), [0]);
    }
}
