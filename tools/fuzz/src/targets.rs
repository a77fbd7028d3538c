//! The entry points. Each writes its bytes to files, reads them, and checks invariants.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lat_wgpu::bench::baseline;
use lat_wgpu::checkpoint::{self, Settings};
use lat_wgpu::datasets::labels::Label;
use lat_wgpu::datasets::{self, Cuhk03Protocol, Layout, LoadOptions, read_label_names, read_labels};
use lat_wgpu::embeddings as files;
use lat_wgpu::embeddings::gallery::Gallery;
use lat_wgpu::embeddings::index::{IndexOptions, IndexWriter, Manifest};
use lat_wgpu::embeddings::merge::Merge;
use lat_wgpu::embeddings::rows::NamedRows;
use lat_wgpu::images::decode::{self, DecodeOptions, MAX_DECODED, MAX_SIDE};
use lat_wgpu::retrieval::pca::Projection;
use lat_wgpu::train::config::{Config, Layers};
use lat_wgpu::train::log;

use crate::files::{file, folder};
use crate::memory::peak_of;
use crate::seeds;

/// Bytes that a reader of text or of a header may hold, independent of the length of the input.
const BASE: usize = 1 << 20;

/// Runs a reader, and asserts that it holds at most `bound` bytes at once.
fn within<T>(what: &str, bound: usize, read: impl FnOnce() -> T) -> T {
    let (result, peak) = peak_of(read);
    assert!(peak <= bound, "memory: {what} held {peak} bytes at once, the bound is {bound}");
    result
}

/// The message that the user would see. An error must not be empty.
fn message<T, E: Display>(result: &Result<T, E>) -> String {
    match result {
        Ok(_) => "done".to_string(),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() > 8, "an error without a reason: {text:?}");
            text
        }
    }
}

/// An error with its causes, as the program prints it.
fn chain<T>(result: &lat_wgpu::error::Result<T>) -> String {
    message(&result.as_ref().map_err(|error| error.with_causes()))
}

/// Splits bytes into two texts; the first two bytes are the length of the first.
fn split_texts(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else { return (data, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()))
}

/// The decoder of images, which catches panics of the underlying decoders.
pub fn image(data: &[u8]) -> String {
    // For the largest image in its own format and as RGB, and the decoder's own memory.
    let bound = 4 * MAX_DECODED as usize;
    let image = within("the decoder", bound, || decode::decode(data, DecodeOptions::default()));
    if let Ok(image) = &image {
        assert_eq!(image.pixels.len(), 3 * image.height * image.width, "pixels of an image");
        assert!((1..=MAX_SIDE as usize).contains(&image.height.min(image.width)), "an image without pixels");
        assert!(decode::media_type(data).is_some(), "an image of no type");
    }
    message(&image)
}

/// A weights file: list, network and state.
pub fn model(data: &[u8]) -> String {
    let path = file("model.safetensors", data);
    let network = load(&path, data.len());
    let bound = BASE + 64 * data.len();
    let list = within("the header's reader", bound, || checkpoint::list(&path));
    let state = within("the state's reader", bound, || checkpoint::read_state(&path));
    [network, chain(&list), chain(&state)].join("; ")
}

fn load(path: &Path, length: usize) -> String {
    // The position table is resized to the requested size: at most 1 GiB for each step of resizing.
    let bound = (3 << 30) + BASE + 64 * length;
    let network = within("the network's reader", bound, || checkpoint::load(path, &Settings::default()));
    if let Ok(network) = &network {
        for (name, shape) in checkpoint::parameter_shapes(&network.config) {
            let tensor = &network.tensors[&name];
            assert!(
                tensor.shape == shape && tensor.data.len() == shape.iter().product::<usize>(),
                "shape of {name}"
            );
            assert!(
                tensor.data.iter().all(|value| value.is_finite()),
                "{name} has a value that isn't finite"
            );
        }
    }
    chain(&network)
}

/// A file of PyTorch. If it is converted, the result is a model.
pub fn pytorch(data: &[u8]) -> String {
    let (path, out) = (file("weights.pth", data), folder().join("converted.safetensors"));
    // A million values of a pickle, and numbers that tensors share.
    let bound = (1 << 28) + 64 * data.len();
    let settings = Settings { heads: Some(2), ..Settings::default() };
    let converted = within("the converter", bound, || checkpoint::convert(&path, &settings, &out));
    if converted.is_ok() {
        checkpoint::load(&out, &Settings::default()).expect("a converted model");
    }
    chain(&converted)
}

/// The `lat_wgpu` entry of an otherwise valid weights file.
pub fn metadata(data: &[u8]) -> String {
    let bytes = seeds::model_with(&String::from_utf8_lossy(data));
    load(&file("metadata.safetensors", &bytes), bytes.len())
}

/// A run's configuration. If accepted, it must read back the same after writing, and can be resumed.
pub fn config(data: &[u8]) -> String {
    let path = file("config.toml", data);
    let config = within("the configuration's reader", BASE + 1024 * data.len(), || Config::read(&path));
    if let Ok(config) = &config {
        let written = file("again.toml", config.to_toml().as_bytes());
        let again = Config::read(&written).expect("a written configuration is readable");
        assert!(again == *config, "the configuration changed:\n{config:?}\n{again:?}");
        Config::resume(&written, &Layers::default()).expect("a run resumes with its configuration");
        let _ = (config.settings(), config.sampling(), config.micro_batch());
    }
    chain(&config)
}

/// Reads embeddings as a whole and row by row.
fn embeddings_at(path: &Path, bound: usize) -> String {
    let opened = within("the rows' reader", bound, || files::open(path));
    let whole = within("the embeddings' reader", bound, || files::read(path));
    if let (Ok(NamedRows { rows, names, .. }), Ok(whole)) = (&opened, &whole) {
        assert_eq!(
            (names, rows.len(), rows.dim()),
            (&whole.paths, whole.paths.len(), whole.dim),
            "the readers disagree"
        );
        let mut read = vec![0.0; rows.len() * rows.dim()];
        rows.read(0..rows.len(), &mut read).expect("existing rows");
        let same = read.iter().zip(&whole.rows).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && read.len() == whole.rows.len(), "the readers give different values");
    }
    let result = [chain(&opened), chain(&whole)].join("; ");
    drop(opened);
    result
}

/// A file of names, followed by a NumPy file.
pub fn npy(data: &[u8]) -> String {
    let (names, array) = split_texts(data);
    file("e.paths.txt", names);
    embeddings_at(&file("e.npy", array), BASE + 64 * data.len())
}

/// Embeddings as safetensors.
pub fn embeddings(data: &[u8]) -> String {
    embeddings_at(&file("e.safetensors", data), BASE + 64 * data.len())
}

/// Embeddings as Parquet.
pub fn parquet(data: &[u8]) -> String {
    // Few bytes may give a million values, held as columns and as rows, beside the unpacked pages.
    embeddings_at(&file("e.parquet", data), (64 << 20) + 2048 * data.len())
}

/// A table of labels.
pub fn table(data: &[u8]) -> String {
    let path = file("labels.csv", data);
    file("a.png", b"");
    let bound = BASE + 256 * data.len();
    let labels = within("the labels' reader", bound, || read_labels(&path));
    let names = within("the names' reader", bound, || read_label_names(&path));
    let set = within("the table's reader", bound, || datasets::load(&path, &LoadOptions::default()));
    [chain(&labels), chain(&names), chain(&set)].join("; ")
}

/// The lists of data sets: MSMT17's and both of CUHK03's; and Market-1501's names.
pub fn lists(data: &[u8]) -> String {
    static FOLDERS: OnceLock<PathBuf> = OnceLock::new();
    let root = FOLDERS.get_or_init(|| {
        for name in ["sets/train", "sets/test", "sets/images_detected"] {
            std::fs::create_dir_all(folder().join(name)).expect("a folder");
        }
        for name in ["sets/test/a.jpg", "sets/images_detected/1_001_1_01.png"] {
            file(name, b"");
        }
        folder().join("sets")
    });
    for name in ["list_train.txt", "list_query.txt", "new_detected.txt", "classic_01.txt"] {
        file(&format!("sets/{name}"), data);
    }
    let mut answers = Vec::new();
    for (layout, protocol) in [
        (Layout::Msmt17, Cuhk03Protocol::New),
        (Layout::Cuhk03, Cuhk03Protocol::New),
        (Layout::Cuhk03, Cuhk03Protocol::Classic),
    ] {
        let options = LoadOptions { layout: Some(layout), cuhk03: protocol, ..LoadOptions::default() };
        let bound = BASE + 1024 * data.len();
        answers.push(chain(&within("the lists' reader", bound, || datasets::load(root, &options))));
    }
    for line in String::from_utf8_lossy(data).lines() {
        answers.push(if Label::from_market_name(line).is_some() {
            "a label".into()
        } else {
            "no label".into()
        });
    }
    answers.dedup();
    answers.join("; ")
}

/// An index folder: its manifest, and the record of its only segment, which is valid.
pub fn index(data: &[u8]) -> String {
    let (manifest, states) = split_texts(data);
    let folder = folder().join("index");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("room for a file");
    put("part-000001.safetensors", seeds::segment());
    put("part-000001.json", states);
    put("manifest.json", manifest);
    let bound = BASE + 256 * data.len();
    let read = within("the manifest's reader", bound, || Manifest::read(&folder));
    let gallery = within("the gallery's reader", bound, || Gallery::open(&folder));
    let merged = Merge::open(&folder).and_then(|merge| {
        let _ = (merge.rows(), merge.dim());
        merge.write(&folder.join("merged.npy"), &())
    });
    let options = IndexOptions { prune: data.len().is_multiple_of(2), ..IndexOptions::default() };
    let written = within("the index", bound, || {
        IndexWriter::open(&folder, seeds::origin(), Vec::new(), &options).and_then(IndexWriter::finish)
    });
    [chain(&read), chain(&gallery), chain(&merged), chain(&written)].join("; ")
}

/// Smaller files: a projection, saved runs of the bench, the log of a run.
pub fn records(data: &[u8]) -> String {
    let path = file("record", data);
    let bound = BASE + 256 * data.len();
    let projection = within("the projection's reader", bound, || Projection::read(&path));
    if let Ok(projection) = &projection {
        let row = vec![0.5; projection.full_dim()];
        assert_eq!(projection.apply(&row).len(), projection.dim(), "dimensions of a reduced row");
        let _ = (projection.explained(projection.dim()), projection.settings_of_reduced(None));
    }
    let baselines = within("the saved runs' reader", bound, || baseline::read(&path));
    if let Ok(baselines) = &baselines {
        for one in baselines.values() {
            for other in baselines.values() {
                baseline::table(&baseline::judge(one, other));
            }
        }
    }
    let log = within("the log's reader", bound, || log::epochs(&path));
    [chain(&projection), chain(&baselines), chain(&log)].join("; ")
}
