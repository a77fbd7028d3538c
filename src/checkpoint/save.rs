//! Saves and exports models. A file gets its name when it is complete.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use bytemuck::NoUninit;
use half::f16;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use super::metadata::StoredThreshold;
use super::safetensors::Container;
use super::{HostTensor, MatchRate, Network, REDUCTION, STATISTICS, Threshold, lat_wgpu_metadata, timm};
use crate::error::{Error, Result};
use crate::shape::{ClassifierKind, HeadKind, Preprocess, VitConfig};
use crate::storage::Dtype;
use crate::storage::atomic::{publish, temporary_beside};
use crate::storage::entry::{Entry, KEY};

/// Prefix of the names of tensors that only resuming needs.
const STATE: &str = "state.";

/// Name of the state tensor with the hashes of the training images: the first 64 bits of each file's SHA-256, sorted.
pub const TRAINED_ON: &str = "trained_on";

/// Elements of a state tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum StateData {
    /// Adam's moments.
    F32(Vec<f32>),
    /// Small counts.
    U32(Vec<u32>),
    /// Counts and seeds.
    U64(Vec<u64>),
    /// Signed counts.
    I64(Vec<i64>),
}

/// A tensor that only resuming needs.
#[derive(Debug, Clone, PartialEq)]
pub struct StateTensor {
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: StateData,
}

impl StateTensor {
    /// Makes a list of counts.
    pub fn counts(values: Vec<u64>) -> StateTensor {
        StateTensor { shape: vec![values.len()], data: StateData::U64(values) }
    }
}

/// Metadata of the part classifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifiersInfo {
    /// Layers.
    pub kind: ClassifierKind,
    /// True if a ReLU follows the BatchNorm, in the kind parts.
    pub relu: bool,
    /// Number of classes.
    pub classes: usize,
}

/// Writes the `lat_wgpu` entry of a trained model: that of its backbone, and its part classifiers.
pub fn trained_metadata(
    config: &VitConfig,
    preprocess: &Preprocess,
    class_names: &[String],
    classifiers: ClassifiersInfo,
) -> Entry {
    let ClassifiersInfo { kind, relu, classes } = classifiers;
    let heads = match kind {
        ClassifierKind::Parts { hidden } => json!({ "hidden": hidden, "relu": relu, "classes": classes }),
        ClassifierKind::Bnneck => {
            json!({ "kind": HeadKind::Bnneck, "classes": classes, "embed": config.head_embed })
        }
    };
    lat_wgpu_metadata(config, preprocess, Some(class_names)).with("heads", heads)
}

/// A tensor to write.
struct Item<'a> {
    name: String,
    dtype: &'static str,
    width: usize,
    shape: &'a [usize],
    bytes: &'a [u8],
    /// True if the bytes are little-endian on every machine.
    is_little: bool,
}

impl<'a> Item<'a> {
    fn new<T: NoUninit>(name: String, dtype: &'static str, shape: &'a [usize], data: &'a [T]) -> Item<'a> {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "elements of {name}");
        let bytes = bytemuck::cast_slice(data);
        Item { name, dtype, width: size_of::<T>(), shape, bytes, is_little: cfg!(target_endian = "little") }
    }
}

/// Saves a model: `tensors` (backbone and part classifiers), `state` with the prefix `state.`, and `metadata` as its
/// `lat_wgpu` entry. The same values give the same bytes. An older file stays until the new one is complete and on the
/// disk.
///
/// # Errors
/// `Io` if it can't be written or renamed.
///
/// # Panics
/// If the number of elements of a tensor doesn't match its shape.
pub fn save(
    path: &Path,
    tensors: &BTreeMap<String, HostTensor>,
    state: &BTreeMap<String, StateTensor>,
    metadata: &str,
) -> Result<()> {
    write_items(path, items(tensors, &BTreeMap::new(), state), metadata)
}

/// Lists what to write: `tensors`, those of `halves` in f16, and `state`.
fn items<'a>(
    tensors: &'a BTreeMap<String, HostTensor>,
    halves: &'a BTreeMap<&String, Vec<f16>>,
    state: &'a BTreeMap<String, StateTensor>,
) -> Vec<Item<'a>> {
    let item = |(name, t): (&'a String, &'a HostTensor)| match halves.get(name) {
        Some(halves) => Item::new(name.clone(), "F16", &t.shape, halves),
        None => Item::new(name.clone(), "F32", &t.shape, &t.data),
    };
    let mut items: Vec<Item<'a>> = tensors.iter().map(item).collect();
    for (name, StateTensor { shape, data }) in state {
        let name = format!("{STATE}{name}");
        items.push(match data {
            StateData::F32(data) => Item::new(name, "F32", shape, data),
            StateData::U32(data) => Item::new(name, "U32", shape, data),
            StateData::U64(data) => Item::new(name, "U64", shape, data),
            StateData::I64(data) => Item::new(name, "I64", shape, data),
        });
    }
    items
}

/// Writes a header and tensors; `metadata` becomes the `lat_wgpu` entry.
fn write_items(path: &Path, mut items: Vec<Item<'_>>, metadata: &str) -> Result<()> {
    // The widest elements come first, so that every tensor is aligned to its elements.
    items.sort_by(|a, b| b.width.cmp(&a.width).then_with(|| a.name.cmp(&b.name)));

    let mut file = temporary_beside(path)?;
    let write = |out: &mut dyn Write, bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write", path));
    {
        let mut out = BufWriter::new(file.as_file_mut());
        let header = header(&items, metadata);
        write(&mut out, &(header.len() as u64).to_le_bytes())?;
        write(&mut out, header.as_bytes())?;
        for item in &items {
            write_little_endian(&mut out, item).map_err(Error::io("write", path))?;
        }
        out.flush().map_err(Error::io("write", path))?;
    }
    publish(file, path)
}

/// Checks that other programs can run a network.
///
/// # Errors
/// `Usage` for a network with a camera embedding or a jigsaw.
pub fn check_exportable(network: &Network) -> Result<()> {
    if network.config.jigsaw {
        let reason = "exports have no jigsaw, whose features are most of this model's embedding".to_string();
        return Err(Error::Usage(reason));
    }
    if network.config.cameras.is_none() {
        return Ok(());
    }
    let reason = "exports have no camera embedding, which this model adds to its tokens".to_string();
    Err(Error::Usage(reason)
        .hinted("--camera none exports the model without it, which changes its embeddings"))
}

/// Exports the network of `source` as a model file without training state: the backbone in timm's names, the part
/// classifiers if `classifiers` is set and it has any, and the metadata to load it without flags and by timm's
/// `create_model`.
///
/// # Errors
/// Those of [`check_exportable`]; `Usage` for re-attention; `Io` if it can't be written or renamed; `Tensor` for a value that overflows in f16.
pub fn export(
    source: &Path,
    network: &Network,
    classifiers: bool,
    dtype: Dtype,
    target: &Path,
) -> Result<()> {
    check_exportable(network)?;
    if network.config.reattention {
        return Err(Error::Usage(
            "timm has no re-attention: --to onnx and --to web export this model".to_string(),
        ));
    }
    let classifiers = classifiers && !network.classifiers.is_empty();
    let class_names = network.class_names.as_deref().filter(|_| classifiers);
    let mut metadata = lat_wgpu_metadata(&network.config, &network.preprocess, class_names)
        .with("timm", timm::create_model(&network.config));
    let mut tensors = network.tensors.clone();
    if classifiers {
        tensors.extend(network.classifiers.clone());
        let (_, mut stored) = super::list(source)?;
        if let Some(info) = stored.remove(KEY).and_then(|text| Entry::new(text).value().get("heads").cloned())
        {
            metadata = metadata.with("heads", info);
        }
    }
    let metadata = metadata.text();
    if dtype == Dtype::F32 {
        return save(target, &tensors, &BTreeMap::new(), metadata);
    }
    let mut halves: BTreeMap<&String, Vec<f16>> = BTreeMap::new();
    for (name, HostTensor { data, .. }) in &tensors {
        halves.insert(name, to_f16(source, name, data)?);
    }
    write_items(target, items(&tensors, &halves, &BTreeMap::new()), metadata)
}

/// Rounds the tensor `name` of a file to f16.
///
/// # Errors
/// `Tensor` for a value that overflows.
pub fn to_f16(source: &Path, name: &str, data: &[f32]) -> Result<Vec<f16>> {
    let halves: Vec<f16> = data.iter().map(|&v| f16::from_f32(v)).collect();
    if halves.iter().all(|v| v.is_finite()) {
        return Ok(halves);
    }
    Err(Error::Tensor {
        path: source.to_path_buf(),
        tensor: name.to_string(),
        expected: "values up to 65504, the largest of f16".to_string(),
        found: "a larger one: export it as f32".to_string(),
    })
}

/// Writes the network of `source` with its camera statistics as a model file: the backbone in timm's names, the part
/// classifiers, the hashes of the training images, and the metadata of `source`, without its threshold. Tensors of a
/// file in f16 stay in f16.
///
/// # Errors
/// Those of [`read_trained_on`]; `Io` if the file can't be written or renamed.
pub fn save_with_statistics(source: &Path, network: &Network, target: &Path) -> Result<()> {
    const RENEWED: [&str; 6] = ["format", "model", "preprocess", "class_names", "timm", "threshold"];
    let (listed, stored) = super::list(source)?;
    let Network { config, preprocess, class_names, .. } = network;
    let mut metadata = lat_wgpu_metadata(config, preprocess, class_names.as_deref())
        .with("timm", timm::create_model(config));
    let stored = stored.get(KEY).map(|text| Entry::new(text.clone()));
    for (key, value) in stored.iter().filter_map(|entry| entry.value().as_object()).flatten() {
        if !RENEWED.contains(&key.as_str()) {
            metadata = metadata.with(key, value.clone());
        }
    }
    let mut tensors = network.tensors.clone();
    tensors.extend(network.classifiers.clone());
    let trained_on =
        read_trained_on(source)?.map(|hashes| (TRAINED_ON.to_string(), StateTensor::counts(hashes)));
    let state = trained_on.into_iter().collect();
    let is_other = |name: &str| name.starts_with(STATE) || name.starts_with(STATISTICS);
    let is_half = listed.iter().all(|tensor| tensor.dtype == "F16" || is_other(&tensor.name));
    let halves = |values: &HostTensor| -> Option<Vec<f16>> {
        let halves: Vec<f16> = values.data.iter().map(|&value| f16::from_f32(value)).collect();
        let is_exact = halves.iter().zip(&values.data).all(|(half, value)| half.to_f32() == *value);
        Some(halves).filter(|_| is_exact)
    };
    let halves: BTreeMap<&String, Vec<f16>> = tensors
        .iter()
        .filter(|_| is_half)
        .filter_map(|(name, tensor)| Some((name, halves(tensor)?)))
        .collect();
    write_items(target, items(&tensors, &halves, &state), metadata.text())
}

/// Stores a threshold and the rates around it in the metadata of the file of `network`. Everything else stays as it is.
///
/// # Errors
/// Those of [`super::load`] for a damaged file; `Io` if it can't be read, written or replaced.
pub fn store_threshold(
    path: &Path,
    network: &Network,
    threshold: Threshold,
    rates: &[MatchRate],
) -> Result<()> {
    // Checks that the header is complete and that the file has all tensors.
    drop(Container::open(path)?);
    let unusable = |e: serde_json::Error| Error::Weights { path: path.to_path_buf(), reason: e.to_string() };
    let mut source = File::open(path).map_err(Error::io("open", path))?;
    let mut length = [0; 8];
    source.read_exact(&mut length).map_err(Error::io("read", path))?;
    let mut text = vec![0; u64::from_le_bytes(length) as usize];
    source.read_exact(&mut text).map_err(Error::io("read", path))?;

    let stored = StoredThreshold::new(threshold, rates, &network.config, &network.preprocess);
    let mut header: Map<String, Value> = serde_json::from_slice(&text).map_err(unusable)?;
    let metadata = header.entry("__metadata__").or_insert_with(|| json!({}));
    let entry = metadata.get(KEY).and_then(Value::as_str).unwrap_or("{}");
    let entry = Entry::new(entry.to_string()).with("threshold", json!(stored));
    metadata[KEY] = entry.text().into();
    let text = padded(Value::Object(header).to_string());

    let mut file = temporary_beside(path)?;
    let out = file.as_file_mut();
    let written = out
        .write_all(&(text.len() as u64).to_le_bytes())
        .and_then(|()| out.write_all(text.as_bytes()))
        .and_then(|()| std::io::copy(&mut source, out));
    written.map_err(Error::io("write", path))?;
    publish(file, path)
}

/// Stores components that reduce embeddings in a model file: `tensors` with their shapes under the prefix [`REDUCTION`],
/// and `about` in the metadata. They replace older ones; everything else stays as it is.
///
/// # Errors
/// Those of [`super::load`] for a damaged file; `Weights` for tensors of a type that no model has; `Io` if it can't be
/// read, written or replaced.
pub fn store_reduction(path: &Path, tensors: &[(&str, Vec<usize>, &[f32])], about: &Value) -> Result<()> {
    drop(Container::open(path)?);
    let unusable = |reason: String| Error::Weights { path: path.to_path_buf(), reason };
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let failed = |error: safetensors::SafeTensorError| unusable(error.to_string());
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(failed)?;
    let entry = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let entry = Entry::new(entry.map_or("{}", String::as_str).to_string()).with("reduction", about.clone());
    let file = SafeTensors::deserialize(&bytes).map_err(failed)?;
    let kept: Vec<_> = file.iter().filter(|(name, _)| !name.starts_with(REDUCTION)).collect();
    let mut items = Vec::new();
    for (name, view) in &kept {
        let (dtype, width) = match view.dtype() {
            safetensors::Dtype::F16 => ("F16", 2),
            safetensors::Dtype::BF16 => ("BF16", 2),
            safetensors::Dtype::F32 => ("F32", 4),
            safetensors::Dtype::U32 => ("U32", 4),
            safetensors::Dtype::U64 => ("U64", 8),
            safetensors::Dtype::I64 => ("I64", 8),
            other => return Err(unusable(format!("tensor {name} holds {other}"))),
        };
        let (name, shape, bytes) = (name.to_string(), view.shape(), view.data());
        items.push(Item { name, dtype, width, shape, bytes, is_little: true });
    }
    for (name, shape, values) in tensors {
        items.push(Item::new(format!("{REDUCTION}{name}"), "F32", shape, values));
    }
    write_items(path, items, entry.text())
}

/// Writes the JSON of a safetensors header, padded to a multiple of 8 bytes.
fn header(items: &[Item<'_>], metadata: &str) -> String {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_string(), json!({ KEY: metadata }));
    let mut begin = 0;
    for item in items {
        let end = begin + item.bytes.len();
        let entry = json!({ "dtype": item.dtype, "shape": item.shape, "data_offsets": [begin, end] });
        entries.insert(item.name.clone(), entry);
        begin = end;
    }
    padded(Value::Object(entries).to_string())
}

/// Pads with spaces to a multiple of 8 bytes.
fn padded(mut text: String) -> String {
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    text
}

/// Writes the elements in little-endian order.
fn write_little_endian(out: &mut impl Write, item: &Item<'_>) -> std::io::Result<()> {
    if item.is_little {
        return out.write_all(item.bytes);
    }
    for element in item.bytes.chunks_exact(item.width) {
        let reversed: Vec<u8> = element.iter().rev().copied().collect();
        out.write_all(&reversed)?;
    }
    Ok(())
}

/// Reads the `state` that [`save`] wrote, without the prefix `state.`; empty for a model without state.
///
/// # Errors
/// `Io`; `Weights` for a damaged file; `Tensor` for a state tensor of another type or with a value that is not finite.
pub fn read_state(path: &Path) -> Result<BTreeMap<String, StateTensor>> {
    let mut container = Container::open(path)?;
    let mut state = BTreeMap::new();
    for index in 0..container.tensors.len() {
        let tensor = &container.tensors[index];
        let Some(name) = tensor.name.strip_prefix(STATE).map(str::to_string) else { continue };
        let (shape, dtype) = (tensor.shape.clone(), tensor.dtype.clone());
        let data = match dtype.as_str() {
            "F32" => StateData::F32(container.read_f32(index)?),
            "U32" => StateData::U32(elements(&container.read_bytes(index)?, u32::from_le_bytes)),
            "U64" => StateData::U64(elements(&container.read_bytes(index)?, u64::from_le_bytes)),
            "I64" => StateData::I64(elements(&container.read_bytes(index)?, i64::from_le_bytes)),
            _ => {
                return Err(Error::Tensor {
                    path: path.to_path_buf(),
                    tensor: format!("{STATE}{name}"),
                    expected: "F32, U32, U64 or I64".to_string(),
                    found: dtype,
                });
            }
        };
        state.insert(name, StateTensor { shape, data });
    }
    Ok(state)
}

/// Reads the hashes of the training images, sorted; `None` if the model doesn't have them.
///
/// # Errors
/// Those of [`read_state`].
pub fn read_trained_on(path: &Path) -> Result<Option<Vec<u64>>> {
    let container = Container::open(path)?;
    let name = format!("{STATE}{TRAINED_ON}");
    let found = container.tensors.iter().position(|tensor| tensor.name == name && tensor.dtype == "U64");
    found.map(|index| Ok(elements(&container.read_bytes(index)?, u64::from_le_bytes))).transpose()
}

/// Splits bytes into elements of N bytes.
fn elements<T, const N: usize>(bytes: &[u8], element: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| element(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, load};
    use super::*;

    fn tensor(shape: &[usize]) -> HostTensor {
        let count: usize = shape.iter().product();
        HostTensor { shape: shape.to_vec(), data: (0..count).map(|i| i as f32 - 1.5).collect() }
    }

    fn model() -> (BTreeMap<String, HostTensor>, BTreeMap<String, StateTensor>) {
        let tensors = [("b", &[2usize, 3][..]), ("a", &[1]), ("scalar", &[]), ("empty", &[0, 4])];
        let tensors = tensors.iter().map(|(name, shape)| (name.to_string(), tensor(shape))).collect();
        let state = [
            ("step", StateTensor::counts(vec![u64::MAX, 7])),
            (TRAINED_ON, StateTensor::counts(vec![3, u64::MAX])),
            ("m.b", StateTensor { shape: vec![2], data: StateData::F32(vec![-0.0, 1e-40]) }),
            ("odd", StateTensor { shape: vec![3], data: StateData::U32(vec![1, 2, u32::MAX]) }),
            ("signed", StateTensor { shape: vec![1, 1], data: StateData::I64(vec![-5]) }),
        ];
        (tensors, state.into_iter().map(|(name, t)| (name.to_string(), t)).collect())
    }

    #[test]
    fn what_is_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last.safetensors");
        let (tensors, state) = model();
        save(&path, &tensors, &state, "{\"format\":1}").unwrap();
        assert_eq!(read_state(&path).unwrap(), state);
        assert_eq!(read_trained_on(&path).unwrap(), Some(vec![3, u64::MAX]));
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in &tensors {
            let view = file.tensor(name).unwrap();
            assert_eq!(view.shape(), tensor.shape);
            assert_eq!(view.data(), bytemuck::cast_slice::<f32, u8>(&tensor.data));
        }
        let mut container = Container::open(&path).unwrap();
        assert_eq!(container.metadata["lat_wgpu"], "{\"format\":1}");
        let index = container.tensors.iter().position(|t| t.name == "b").unwrap();
        assert_eq!(container.read_f32(index).unwrap(), tensors["b"].data);
        // Saving again gives the same bytes and no other files.
        save(&path, &tensors, &state, "{\"format\":1}").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn tensors_start_at_multiples_of_their_elements() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let (tensors, state) = model();
        save(&path, &tensors, &state, "{}").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (length, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(length % 8, 0);
        for (name, info) in header.tensors() {
            let width =
                if ["step", TRAINED_ON, "signed"].iter().any(|end| name.ends_with(end)) { 8 } else { 4 };
            assert_eq!(info.data_offsets.0 % width, 0, "{name}");
        }
    }

    #[test]
    fn a_threshold_is_stored_for_the_settings_it_was_measured_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/plain.model.safetensors");
        std::fs::copy(golden, &path).unwrap();
        let settings = Settings { heads: Some(2), ..Settings::default() };
        let network = load(&path, &settings).unwrap();
        assert_eq!(network.threshold, None);
        assert_eq!(network.match_rate(0.3), None);
        for distance in [0.6, 0.7] {
            let threshold = Threshold { distance, fpr: 1e-3 };
            let match_rates =
                vec![MatchRate { distance: 0.5, rate: 1e-4 }, MatchRate { distance, rate: 1e-3 }];
            store_threshold(&path, &network, threshold, &match_rates).unwrap();
            let again = load(&path, &settings).unwrap();
            assert_eq!(again, Network { threshold: Some(threshold), match_rates, ..network.clone() });
        }
        let again = load(&path, &settings).unwrap();
        for (distance, rate) in [(0.3, 1e-4), (0.5, 1e-4), (0.501, 1e-3), (0.8, 1.0)] {
            assert_eq!(again.match_rate(distance), Some(rate), "{distance}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let other = load(&path, &Settings { lambda: Some(3.0), ..settings }).unwrap();
        assert_eq!(other.threshold, None);
        assert!(other.notes.iter().any(|note| note.contains("threshold")), "{:?}", other.notes);
        let missing = dir.path().join("none.safetensors");
        assert!(store_threshold(&missing, &network, Threshold { distance: 1.0, fpr: 0.1 }, &[]).is_err());
    }

    #[test]
    fn a_failed_save_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let (tensors, state) = model();
        assert!(matches!(save(dir.path(), &tensors, &state, "{}"), Err(Error::Io { .. })));
        let missing = dir.path().join("no/last.safetensors");
        assert!(matches!(save(&missing, &tensors, &state, "{}"), Err(Error::Io { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn state_of_another_type_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let state = StateTensor { shape: vec![1], data: StateData::F32(vec![f32::NAN]) };
        save(&path, &BTreeMap::new(), &[("v".to_string(), state)].into(), "{}").unwrap();
        let message = read_state(&path).unwrap_err().to_string();
        assert!(message.contains("state.v") && message.contains("NaN"), "{message}");
        save(&path, &BTreeMap::new(), &BTreeMap::new(), "{}").unwrap();
        assert!(read_state(&path).unwrap().is_empty());
        assert_eq!(read_trained_on(&path).unwrap(), None);
    }
}
