//! Files found by the fuzzers of tools/fuzz or in code review, reduced to a small size. Each must be refused with a
//! reason. Those that can't be made in a few lines are in tests/found.

use lat_wgpu::checkpoint::{self, HostTensor, Settings};
use lat_wgpu::embeddings::index::{IndexOptions, IndexWriter, MANIFEST, Manifest, Origin, Weights};
use lat_wgpu::embeddings::{self, Dtype, EmbeddingWriter};
use lat_wgpu::images::decode::{DecodeOptions, decode};
use lat_wgpu::shape::{ImageSize, VitConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn found(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found").join(name)
}

fn refused<T>(result: lat_wgpu::error::Result<T>, words: &str) {
    match result {
        Ok(_) => panic!("accepted, expected: {words}"),
        Err(error) => assert!(error.with_causes().contains(words), "{words} in: {}", error.with_causes()),
    }
}

#[test]
fn a_missing_header_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.safetensors");
    // Once allocated 14 MB for the header.
    std::fs::write(&path, 14_548_186u64.to_le_bytes()).unwrap();
    refused(embeddings::open(&path), "is cut off, or not a safetensors file");
    assert!(embeddings::read(&path).is_err());
}

#[test]
fn a_missing_chunk_allocates_nothing() {
    // The EXIF chunk claims 3.3 GB, which the decoder once allocated.
    let bytes = std::fs::read(found("exif.webp")).unwrap();
    let reason = decode(&bytes, DecodeOptions::default()).unwrap_err();
    assert_eq!(reason, "truncated: the file is shorter than a chunk says");
}

#[test]
fn parquet_that_contradicts_itself_is_refused() {
    for (name, words) in [
        // A column that starts before the file, which once caused a panic.
        ("negative.parquet", "lies outside the file"),
        // Arrow's schema has its own size of lists: 2²⁸ values of one row were once allocated. That schema is no longer
        // read, and the rest is damaged too.
        ("promises.parquet", "has a damaged header"),
        ("rows.parquet", "has a damaged header"),
        // A page's header lists missing values, which once took minutes to skip.
        ("skips.parquet", "has a damaged header"),
        // The footer lists 2³¹ flags that take no bytes.
        ("flags.parquet", "its footer is damaged"),
        // An element of the schema claims 457 million children, which were once allocated.
        ("children.parquet", "its footer is damaged"),
        // So were the 805 million values of a dictionary with a page of a few bytes.
        ("dictionary.parquet", "has a damaged header"),
        // Valid, and what pyarrow writes without `compression="none"`.
        ("snappy.parquet", "is compressed (SNAPPY): only uncompressed columns are read"),
    ] {
        let start = Instant::now();
        refused(embeddings::open(&found(name)), words);
        assert!(start.elapsed() < Duration::from_secs(5), "{name} took {:?}", start.elapsed());
    }
}

/// A small network of zeros; `shape` replaces the shapes of some tensors.
fn network(folder: &Path, metadata: &str, shape: impl Fn(&str) -> Option<Vec<usize>>) -> PathBuf {
    let config = VitConfig::plain(ImageSize { height: 16, width: 8 }, 4, 8, 1, 2);
    let tensor = |shape: Vec<usize>| HostTensor { data: vec![0.0; shape.iter().product()], shape };
    let tensors = checkpoint::parameter_shapes(&config)
        .into_iter()
        .map(|(name, usual)| (name.clone(), tensor(shape(&name).unwrap_or(usual))))
        .collect();
    let path = folder.join("m.safetensors");
    checkpoint::save(&path, &tensors, &BTreeMap::new(), metadata).unwrap();
    path
}

#[test]
fn a_grid_without_positions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let one_row = |name: &str| (name == "pos_embed").then(|| vec![1, 1, 8]);
    for grid in ["[0,9223372036854775807]", "[9223372036854775807,0]"] {
        // The width in pixels once overflowed; with a size, a filter as long as the grid was allocated.
        for size in ["", r#","preprocess":{"size":[16,8]}"#] {
            let path =
                network(dir.path(), &format!(r#"{{"model":{{"heads":2,"grid":{grid}}}{size}}}"#), one_row);
            refused(checkpoint::load(&path, &Settings::default()), "positions of the metadata");
        }
    }
}

#[test]
fn a_shape_of_an_unknown_type_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = network(dir.path(), r#"{"model":{"heads":2}}"#, |_| None);
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let usual = r#""dtype":"F32","shape":[8,3,4,4]"#;
    assert!(header.contains(usual), "{header}");
    // The size of such a type is unknown, so the shape can't be checked.
    let lie = header.replace(usual, r#""dtype":"X","shape":[8,3,4611686018427387904,4611686018427387904]"#);
    let file = [&(lie.len() as u64).to_le_bytes()[..], lie.as_bytes(), &bytes[8 + length..]].concat();
    std::fs::write(&path, file).unwrap();
    refused(checkpoint::load(&path, &Settings::default()), "expected F32, F16 or BF16 [D, 3, P, P], found X");
}

#[test]
fn a_manifest_with_wrong_counts_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin {
        model: Weights { name: "m.safetensors".to_string(), sha256: "00".to_string() },
        metadata: BTreeMap::new(),
        ignore_exif: false,
        dim: 1,
        dtype: Dtype::F32,
    };
    let part = dir.path().join("part-000001.safetensors");
    let names = ["a".to_string()];
    let mut writer = EmbeddingWriter::create(&part, 1, Dtype::F32, &names, &BTreeMap::new()).unwrap();
    writer.push("a", &[1.0]).unwrap();
    writer.finish().unwrap();
    let states = r#"{"folders":[""],"folder":[0],"size":[1],"modified":[1]}"#;
    std::fs::write(dir.path().join("part-000001.json"), states).unwrap();
    let manifest = |images: u64, next_part: u64| {
        let origin = serde_json::to_value(&origin).unwrap();
        let mut manifest = serde_json::json!({
            "format": 1, "shard": null, "complete": true, "pictures": images, "skipped": [], "next_part": next_part,
            "parts": [{"file": "part-000001.safetensors", "rows": 1, "sha256": ""}],
        });
        manifest.as_object_mut().unwrap().extend(origin.as_object().unwrap().clone());
        std::fs::write(dir.path().join(MANIFEST), manifest.to_string()).unwrap();
    };
    // Fewer images than its segments hold: removing one once counted below 0. A number used twice would overwrite a
    // segment.
    for (images, next_part, words) in [
        (0, 2, "don't hold 0 images"),
        (1, 1, "next_part can't be 1"),
        (1, u32::MAX.into(), "next_part can't be"),
    ] {
        manifest(images, next_part);
        refused(Manifest::read(dir.path()), words);
        let options = IndexOptions { prune: true, ..IndexOptions::default() };
        assert!(IndexWriter::open(dir.path(), origin.clone(), Vec::new(), &options).is_err());
        assert!(part.is_file(), "nothing is removed");
    }
    manifest(1, 2);
    assert!(Manifest::read(dir.path()).unwrap().is_some());
}
