//! Files of PyTorch's `torch.save`, in both formats. Nothing in them is executed.
//!
//! Since version 1.6 a file is a zip archive: `NAME/data.pkl` is a pickle whose tensors refer to storages, which are
//! the entries `NAME/data/KEY`. Before, a file had five pickles: a magic number, a version, sizes of types, the object,
//! and the keys of the storages. The storages follow, each with its number of elements before it.

pub(super) mod archive;
mod pickle;

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::names::some_of;
use super::safetensors::{Container, FileTensor, MAX_TENSORS, Source, byte_width, check_name};
use crate::error::{Error, Result};
use archive::Entry;
use pickle::{Fault, Pickle, Tensor, Value};

/// The first pickle of the old format.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The second one.
const VERSION: i128 = 1001;

/// Bytes that compressed entries and views may take beyond the length of the file, and per byte of it. Weights hardly
/// shrink by compression, and few tensors share numbers.
const SPARE: u64 = 16 << 20;
const PER_BYTE: u64 = 8;

/// Largest reading at once of a tensor whose elements are far apart, relative to its own bytes.
const SPREAD: u64 = 16;

/// Keys of the dictionary that holds the weights, by precedence. A teacher is the average that is meant to be used.
const WRAPPERS: [&str; 8] =
    ["teacher", "state_dict", "model", "module", "student", "net", "network", "weights"];

/// End of the name of iBOT's mask token, which only the student has.
const MASK_TOKEN: &str = "masked_embed";

/// The dictionary of weights in a file.
pub(super) struct Weights {
    /// The keys that lead to it.
    pub(super) wrappers: Vec<String>,
    /// The keys of the outermost dictionary.
    pub(super) keys: Vec<String>,
    /// Parts of the file that are not in the container, and why.
    pub(super) dropped: Vec<String>,
    /// Remarks for the user.
    pub(super) notes: Vec<String>,
    /// True if iBOT's mask token is anywhere in the file.
    pub(super) is_masked: bool,
    pub(super) container: Container,
}

impl Weights {
    /// Takes the tensors of another format.
    pub(super) fn of(container: Container) -> Weights {
        let is_masked = container.tensors.iter().any(|tensor| tensor.name.ends_with(MASK_TOKEN));
        let (wrappers, keys, dropped, notes) = Default::default();
        Weights { wrappers, keys, dropped, notes, is_masked, container }
    }
}

/// Storages of a file, and the tensors in them.
pub(super) struct Storages {
    path: PathBuf,
    file: File,
    is_big_endian: bool,
    storages: Vec<Storage>,
    tensors: Vec<View>,
}

/// Numbers of a file, which tensors share.
struct Storage {
    bytes: u64,
    place: Place,
}

enum Place {
    /// As they are, from this byte.
    Bare(u64),
    /// As they are, in an entry; true after its checksum was compared.
    Stored(Entry, Cell<bool>),
    /// Compressed; the content after its first use.
    Packed(Entry, OnceCell<Vec<u8>>),
}

/// Elements of a storage.
struct View {
    storage: usize,
    dtype: &'static str,
    offset: u64,
    shape: Vec<u64>,
    stride: Vec<u64>,
    /// Elements from the first to the last, both included; 0 for a tensor without elements.
    span: u64,
}

/// Opens a file of PyTorch; `None` for another format.
///
/// # Errors
/// [`Error::Io`]; [`Error::Weights`] if it is damaged, too large, holds no weights, or asks for more than tensors;
/// [`Error::Tensor`] if a tensor lies outside of its storage.
pub(super) fn open(path: &Path) -> Result<Option<Weights>> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut start = [0; 4];
    let mut filled = 0;
    while filled < start.len() {
        match file.read(&mut start[filled..]).map_err(Error::io("read", path))? {
            0 => break,
            count => filled += count,
        }
    }
    let opened = match start {
        _ if start == *archive::ENTRY => Opened::archive(file),
        // The second byte of a pickle is its protocol version.
        [0x80, 2..=5, ..] => Opened::pickles(file),
        _ => return Ok(None),
    };
    match opened {
        Ok(opened) => opened.weights(path).map(Some),
        Err(Fault::Damaged(reason)) => Err(Error::Weights { path: path.to_path_buf(), reason }),
        Err(Fault::Refused(name)) => Err(refused(path, &name)),
    }
}

/// Error of a pickle that asks for something on no list.
fn refused(path: &Path, name: &str) -> Error {
    let reason = format!(
        "it asks for {name}, which is on no list: only tensors and plain containers are read, and nothing in it was executed"
    );
    Error::Weights { path: path.to_path_buf(), reason }
        .hinted("if you trust the file, save its weights alone in Python: torch.save(model.state_dict(), \"weights.pth\")")
}

/// A file whose pickles were read.
struct Opened {
    file: File,
    pickle: Pickle,
    is_big_endian: bool,
    /// By key.
    storages: BTreeMap<String, Storage>,
}

impl Opened {
    /// Reads a zip archive.
    fn archive(file: File) -> std::result::Result<Opened, Fault> {
        let damaged = |reason: String| Fault::Damaged(format!("a zip archive of PyTorch, but {reason}"));
        let entries = archive::directory(&file).map_err(damaged)?;
        let folders: Vec<&str> = entries
            .keys()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .filter(|folder| folder.is_empty() || folder.ends_with('/'))
            .collect();
        let [folder] = folders[..] else {
            let reason = "a zip archive without one data.pkl: torch.save didn't write it";
            return Err(Fault::Damaged(reason.to_string()));
        };
        if entries.contains_key(&format!("{folder}constants.pkl")) {
            let reason = "a TorchScript archive, which holds a program: save the weights alone in Python, by torch.save(model.state_dict(), ...)";
            return Err(Fault::Damaged(reason.to_string()));
        }
        let read = |name: &str| {
            let entry = entries.get(&format!("{folder}{name}"));
            entry.map(|entry| entry.read(&file, pickle::MAX_BYTES)).transpose().map_err(damaged)
        };
        let bytes = read("data.pkl")?.unwrap_or_default();
        let order = read("byteorder")?;
        let is_big_endian = match order.as_deref() {
            None | Some(b"little") => false,
            Some(b"big") => true,
            Some(_) => return Err(damaged("its byte order is unknown".to_string())),
        };
        let pickle = Pickle::read(&mut &bytes[..])?;
        let numbers = format!("{folder}data/");
        let mut storages = BTreeMap::new();
        let mut unpacked = 0u64;
        for (name, entry) in &entries {
            let Some(key) = name.strip_prefix(&numbers) else { continue };
            let place = if entry.is_stored() {
                Place::Stored(*entry, Cell::new(false))
            } else {
                unpacked = unpacked.saturating_add(entry.size);
                Place::Packed(*entry, OnceCell::new())
            };
            storages.insert(key.to_string(), Storage { bytes: entry.size, place });
        }
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        if unpacked > allowance(length) {
            return Err(damaged(format!("its entries would grow from {length} to {unpacked} bytes")));
        }
        Ok(Opened { file, pickle, is_big_endian, storages })
    }

    /// Reads five pickles and the storages after them.
    fn pickles(mut file: File) -> std::result::Result<Opened, Fault> {
        let damaged =
            |reason: &str| Fault::Damaged(format!("a file of PyTorch before version 1.6, but {reason}"));
        let unreadable = |_: std::io::Error| damaged("it can't be read");
        file.rewind().map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut input = BufReader::new(file);
        let first = Pickle::read(&mut input);
        if !first.is_ok_and(|pickle| *pickle.value(pickle.root()) == Value::Integer(MAGIC)) {
            let reason = "a Python pickle, but torch.save didn't write it";
            return Err(Fault::Damaged(reason.to_string()));
        }
        let version = Pickle::read(&mut input)?;
        if *version.value(version.root()) != Value::Integer(VERSION) {
            return Err(damaged("its version is unknown"));
        }
        // Sizes of types on the writing machine. The numbers are little-endian in any case.
        Pickle::read(&mut input)?;
        let pickle = Pickle::read(&mut input)?;
        let keys = Pickle::read(&mut input)?;
        let Value::Sequence(keys_in_order) = keys.value(keys.root()) else {
            return Err(damaged("it has no list of storages"));
        };
        let widths = pickle.widths();
        let mut storages = BTreeMap::new();
        for &key in keys_in_order {
            let key = keys.text(key).ok_or_else(|| damaged("the key of a storage isn't text"))?;
            let width = widths.get(key).ok_or_else(|| damaged("no tensor has one of its storages"))?;
            let mut count = [0; 8];
            input.read_exact(&mut count).map_err(|_| damaged("it is cut off"))?;
            let start = input.stream_position().map_err(unreadable)?;
            let bytes = u64::from_le_bytes(count).checked_mul(*width);
            let end = bytes.and_then(|bytes| start.checked_add(bytes)).filter(|&end| end <= length);
            let (Some(bytes), Some(end)) = (bytes, end) else { return Err(damaged("it is cut off")) };
            input.seek(SeekFrom::Start(end)).map_err(unreadable)?;
            storages.insert(key.to_string(), Storage { bytes, place: Place::Bare(start) });
        }
        Ok(Opened { file: input.into_inner(), pickle, is_big_endian: false, storages })
    }

    /// Finds the dictionary of weights, and checks its tensors.
    fn weights(self, path: &Path) -> Result<Weights> {
        let Opened { file, pickle, is_big_endian, storages } = self;
        let unusable = |reason: String| Error::Weights { path: path.to_path_buf(), reason };
        let Some(outermost) = pickle.entries(pickle.root()) else {
            return Err(unusable("it holds no dictionary of named tensors".to_string()));
        };
        let keys: Vec<String> = outermost.keys().map(|key| shown(key)).collect();
        let is_masked = pickle.texts().any(|text| text.ends_with(MASK_TOKEN));
        let (mut wrappers, mut dropped) = (Vec::new(), Vec::new());
        let mut chosen = outermost;
        while let Some((wrapper, id)) = WRAPPERS.iter().find_map(|wrapper| {
            let id = *chosen.get(wrapper)?;
            let has_tensors = pickle.entries(id).is_some() && pickle.tensors(id, &mut pickle.unseen()) > 0;
            has_tensors.then_some((*wrapper, id))
        }) {
            let mut seen = pickle.unseen();
            pickle.tensors(id, &mut seen);
            let mut beside = Vec::new();
            for (key, &other) in chosen.iter().filter(|(_, other)| **other != id) {
                beside.push(match pickle.tensors(other, &mut seen) {
                    0 => shown(key),
                    1 => format!("{} (1 tensor)", shown(key)),
                    count => format!("{} ({count} tensors)", shown(key)),
                });
            }
            if !beside.is_empty() {
                dropped.push(format!("beside {wrapper}: {}", beside.join(", ")));
            }
            wrappers.push(wrapper.to_string());
            chosen = pickle.entries(id).unwrap_or_default();
            // A dictionary may hold itself.
            if wrappers.len() > WRAPPERS.len() {
                return Err(unusable("its dictionaries are nested too deeply".to_string()));
            }
        }

        let mut numbers = Storages {
            path: path.to_path_buf(),
            file,
            is_big_endian,
            storages: Vec::new(),
            tensors: Vec::new(),
        };
        let mut places = BTreeMap::new();
        for (key, storage) in storages {
            places.insert(key, numbers.storages.len());
            numbers.storages.push(storage);
        }
        let (mut tensors, mut others, mut doubles) = (Vec::new(), Vec::new(), 0);
        for (name, &id) in &chosen {
            let Value::Tensor(tensor) = pickle.value(id) else {
                others.push(shown(name));
                continue;
            };
            check_name(path, name)?;
            let fault = |expected: String, found: String| Error::Tensor {
                path: path.to_path_buf(),
                tensor: name.to_string(),
                expected,
                found,
            };
            let key = pickle.text(tensor.storage.key).unwrap_or_default();
            let Some(&storage) = places.get(key) else {
                return Err(fault(
                    "a storage in the file".to_string(),
                    format!("the key {:?}, which has none", shown(key)),
                ));
            };
            let view = View::new(tensor, storage, numbers.storages[storage].bytes)
                .map_err(|(expected, found)| fault(expected, found))?;
            let is_double = view.dtype == "F64";
            doubles += usize::from(is_double);
            let shape: Vec<usize> = view.shape.iter().map(|&size| size as usize).collect();
            let dtype = if is_double { "F32" } else { view.dtype };
            let count: u64 = view.shape.iter().product();
            let bytes = count.checked_mul(byte_width(dtype).unwrap_or(1));
            let bytes = bytes
                .ok_or_else(|| fault("a shape that fits into memory".to_string(), format!("{shape:?}")))?;
            tensors.push(FileTensor {
                name: name.to_string(),
                dtype: dtype.to_string(),
                shape,
                bytes,
                start: numbers.tensors.len() as u64,
            });
            numbers.tensors.push(view);
        }
        if tensors.is_empty() {
            let some: Vec<&str> = keys.iter().map(String::as_str).collect();
            return Err(unusable(format!(
                "it holds no dictionary of named tensors; its keys: {}",
                some_of(&some)
            )));
        }
        if tensors.len() > MAX_TENSORS {
            return Err(unusable(format!("it has {} tensors, the limit is {MAX_TENSORS}", tensors.len())));
        }
        if !others.is_empty() {
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            dropped.push(format!("not tensors: {}", some_of(&others)));
        }
        let notes = match doubles {
            0 => Vec::new(),
            count => vec![format!("{count} tensors of f64 are rounded to f32")],
        };
        let container = Container::new(path, Source::PyTorch(numbers), tensors);
        Ok(Weights { wrappers, keys, dropped, notes, is_masked, container })
    }
}

/// Bytes that a file of `length` bytes may become.
pub(super) fn allowance(length: u64) -> u64 {
    length.saturating_mul(PER_BYTE).saturating_add(SPARE)
}

/// A key for a message: short, and without control of the terminal.
fn shown(key: &str) -> String {
    key.chars().take(80).collect::<String>().escape_debug().to_string()
}

impl View {
    /// Checks that a tensor lies in its storage of `bytes` bytes.
    ///
    /// # Errors
    /// The expected and the found property.
    fn new(tensor: &Tensor, storage: usize, bytes: u64) -> std::result::Result<View, (String, String)> {
        let pickle::Storage { dtype, count, first, .. } = tensor.storage;
        let width = byte_width(dtype).unwrap_or(1);
        if count.checked_mul(width) != Some(bytes) {
            return Err((
                format!("{count} numbers of {width} bytes in its storage"),
                format!("{bytes} bytes"),
            ));
        }
        let numbers = |list: &[i128]| {
            list.iter().map(|&number| u64::try_from(number).ok()).collect::<Option<Vec<u64>>>()
        };
        let inside = || {
            let (shape, stride) = (numbers(&tensor.shape)?, numbers(&tensor.stride)?);
            let offset = u64::try_from(tensor.offset).ok()?.checked_add(first)?;
            if shape.len() != stride.len() {
                return None;
            }
            shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
            let mut span = 0;
            if !shape.contains(&0) {
                let last = shape
                    .iter()
                    .zip(&stride)
                    .try_fold(0u64, |last, (&size, &step)| last.checked_add((size - 1).checked_mul(step)?))?;
                span = last.checked_add(1)?;
            }
            (offset.checked_add(span)? <= count).then_some(View {
                storage,
                dtype,
                offset,
                shape,
                stride,
                span,
            })
        };
        inside().ok_or_else(|| {
            let Tensor { offset, shape, stride, .. } = tensor;
            let found = format!("shape {shape:?} with steps {stride:?} from {offset}");
            (format!("a view of its {count} numbers"), found)
        })
    }

    /// Returns whether the elements are next to each other in row-major order.
    fn is_dense(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.stride).rev().all(|(&size, &step)| {
            let fits = size == 1 || step == expected;
            expected *= size;
            fits
        })
    }

    /// Offsets of the elements from the first one, in row-major order.
    fn offsets(&self) -> impl Iterator<Item = u64> {
        let mut index = vec![0u64; self.shape.len()];
        let mut at = 0u64;
        (0..self.shape.iter().product::<u64>()).map(move |_| {
            let here = at;
            for ((place, &size), &step) in index.iter_mut().zip(&self.shape).zip(&self.stride).rev() {
                *place += 1;
                // The step of a dimension of length 1 has no bound.
                at = at.wrapping_add(step);
                if *place < size {
                    break;
                }
                at = at.wrapping_sub(step.wrapping_mul(size));
                *place = 0;
            }
            here
        })
    }
}

impl Storages {
    /// Reads a tensor: its elements in row-major order, little-endian, f64 as f32.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Weights`] if the storage is damaged.
    pub(super) fn read(&self, tensor: &FileTensor) -> Result<Vec<u8>> {
        let view = &self.tensors[tensor.start as usize];
        let width = byte_width(view.dtype).unwrap_or(1);
        let count: u64 = view.shape.iter().product();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = if view.is_dense() {
            self.range(view.storage, view.offset * width, count * width)?
        } else if view.span / SPREAD > count {
            let mut bytes = Vec::new();
            for offset in view.offsets() {
                bytes.extend(self.range(view.storage, (view.offset + offset) * width, width)?);
            }
            bytes
        } else {
            let span = self.range(view.storage, view.offset * width, view.span * width)?;
            let element = |offset: u64| &span[(offset * width) as usize..][..width as usize];
            view.offsets().flat_map(element).copied().collect()
        };
        if self.is_big_endian {
            bytes.chunks_exact_mut(width as usize).for_each(<[u8]>::reverse);
        }
        if view.dtype != "F64" {
            return Ok(bytes);
        }
        let (doubles, _) = bytes.as_chunks::<8>();
        Ok(doubles.iter().flat_map(|bytes| (f64::from_le_bytes(*bytes) as f32).to_le_bytes()).collect())
    }

    /// Reads bytes of a storage.
    fn range(&self, storage: usize, start: u64, count: u64) -> Result<Vec<u8>> {
        let Storages { path, file, .. } = self;
        let unusable = |reason: String| Error::Weights { path: path.clone(), reason };
        let first = match &self.storages[storage].place {
            Place::Bare(first) => *first,
            Place::Stored(entry, is_compared) => {
                if !is_compared.replace(true) {
                    entry.verify(file).map_err(unusable)?;
                }
                entry.start(file).map_err(unusable)?
            }
            Place::Packed(entry, content) => {
                if content.get().is_none() {
                    let _ = content.set(entry.read(file, entry.size).map_err(unusable)?);
                }
                let content = content.get().map(Vec::as_slice).unwrap_or_default();
                return Ok(content[start as usize..][..count as usize].to_vec());
            }
        };
        archive::read_at(file, first + start, count).map_err(Error::io("read", path))
    }
}
