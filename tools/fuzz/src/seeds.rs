//! Valid files to damage: from the engine's own writers, from the encoders of `image`, and in `seeds/` drawn by
//! `make_seeds.py`. None is a photograph.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::OnceLock;

use image::{DynamicImage, ImageFormat};
use lat_wgpu::checkpoint::{self, ClassifiersInfo, HostTensor, StateTensor};
use lat_wgpu::embeddings::index::{IndexOptions, IndexWriter, Origin, Shard, ShardNumber, Weights};
use lat_wgpu::embeddings::{Dtype, EmbeddingWriter, Embeddings};
use lat_wgpu::figures::{Figures, draw_figures};
use lat_wgpu::images::walk::Image;
use lat_wgpu::retrieval::pca::{FitOptions, Projection};
use lat_wgpu::shape::{ClassifierKind, ImageSize, Normalize, Preprocess, VitConfig};
use lat_wgpu::storage::entry::Entry;
use lat_wgpu::train::config::{Config, Preset};

use crate::files::{file, folder};

/// Dimensions of the embeddings.
const DIM: usize = 3;

/// The engine's own folder.
fn engine() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder, sorted.
fn files_in(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// Small images of every format that is read.
pub fn images() -> Vec<Vec<u8>> {
    let mut found = files_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds"));
    let drawn = folder().join("drawn");
    draw_figures(&drawn, Figures { persons: 2, cameras: 1, images: 1, seed: 5 }).expect("figures");
    for bytes in files_in(&drawn.join("query")) {
        let figure = image::load_from_memory(&bytes).expect("a figure").thumbnail_exact(12, 20);
        let kinds = [
            (ImageFormat::Png, DynamicImage::ImageRgb16(figure.to_rgb16())),
            (ImageFormat::Png, DynamicImage::ImageLumaA8(figure.to_luma_alpha8())),
            (ImageFormat::Tiff, DynamicImage::ImageRgb16(figure.to_rgb16())),
            (ImageFormat::Bmp, DynamicImage::ImageRgba8(figure.to_rgba8())),
            (ImageFormat::Jpeg, figure),
        ];
        for (format, image) in kinds {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).expect("an encoder");
            found.push(bytes.into_inner());
        }
    }
    found
}

fn small_config() -> VitConfig {
    let mut config = VitConfig::plain(ImageSize { height: 16, width: 8 }, 4, 8, 1, 2);
    config.mlp_hidden = 4;
    config
}

fn zeros(config: &VitConfig) -> BTreeMap<String, HostTensor> {
    let tensor = |shape: Vec<usize>| HostTensor { data: vec![0.0; shape.iter().product()], shape };
    checkpoint::parameter_shapes(config).into_iter().map(|(name, shape)| (name, tensor(shape))).collect()
}

fn entries() -> Vec<String> {
    let config = small_config();
    let preprocess = Preprocess::new(config.image, Normalize::Imagenet.mean_std());
    let names = ["0002".to_string(), "0007".to_string()];
    let heads = ClassifiersInfo { kind: ClassifierKind::Parts { hidden: 4 }, relu: true, classes: 2 };
    [
        checkpoint::lat_wgpu_metadata(&config, &preprocess, None),
        checkpoint::trained_metadata(&config, &preprocess, &names, heads),
    ]
    .map(|entry| entry.text().to_string())
    .to_vec()
}

/// `lat_wgpu` entries of a weights file.
pub fn metadata() -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = entries().into_iter().map(String::into_bytes).collect();
    let with_threshold = r#"{"format":1,"model":{"heads":2,"grid":[4,2]},"preprocess":{"size":[32,12]},
        "threshold":{"distance":0.5,"fpr":0.001,"settings":{"model":{}}}}"#;
    found.push(with_threshold.into());
    found.push(br#"{"model":{"stride":2,"ln_eps":1e-5,"act":"quick_gelu"},"preprocess":{"mean":[0,0,0],"std":[1,1,1]}}"#.to_vec());
    found
}

fn saved(
    tensors: &BTreeMap<String, HostTensor>,
    state: &BTreeMap<String, StateTensor>,
    entry: &str,
) -> Vec<u8> {
    let path = file("seed.safetensors", b"");
    checkpoint::save(&path, tensors, state, entry).expect("a model");
    read(&path)
}

fn header_length(file: &[u8]) -> usize {
    let length = file.first_chunk().map(|length| u64::from_le_bytes(*length));
    length.and_then(|length| usize::try_from(length).ok()).expect("a file of safetensors")
}

/// A valid weights file with this `lat_wgpu` entry.
pub fn model_with(entry: &str) -> Vec<u8> {
    static BARE: OnceLock<(String, Vec<u8>)> = OnceLock::new();
    let (header, data) = BARE.get_or_init(|| {
        let bytes = saved(&zeros(&small_config()), &BTreeMap::new(), "@");
        let length = header_length(&bytes);
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).expect("JSON");
        (header, bytes[8 + length..].to_vec())
    });
    let header = header.replace("\"@\"", &serde_json::Value::from(entry).to_string());
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Weights files of many programs, with values of 0.
pub fn models() -> Vec<Vec<u8>> {
    let config = small_config();
    let [bare, trained] = &entries()[..] else { unreachable!("two entries") };
    let mut found = vec![saved(&zeros(&config), &BTreeMap::new(), bare)];
    let mut rich = VitConfig { registers: 2, prefix_rows: 3, norm_pre: true, layer_scale: true, ..config };
    rich.dist_token = false;
    let mut tensors = zeros(&rich);
    tensors.insert("heads.0.fc1.weight".to_string(), HostTensor { shape: vec![4, 8], data: vec![0.0; 32] });
    let state = BTreeMap::from([("step".to_string(), StateTensor::counts(vec![7, 0]))]);
    found.push(saved(&tensors, &state, trained));
    for name in ["clip_openai", "dinov2_reg_hf", "dist", "pos_resize_rect", "clip_hf", "bf16"] {
        let mut bytes = read(&engine().join(format!("tests/goldens/{name}.model.safetensors")));
        // `mutate::header_length` needs data without `}`.
        let end = 8 + header_length(&bytes);
        bytes[end..].fill(0);
        found.push(bytes);
    }
    found
}

/// Files of PyTorch.
pub fn pytorch() -> Vec<Vec<u8>> {
    let small =
        ["mixed_big_endian", "mixed_deflated", "personvit_student", "transreid_ssl", "transreid_sie", "beit"];
    small.iter().map(|name| read(&engine().join(format!("tests/pytorch/{name}.pth")))).collect()
}

/// Configurations of a run.
pub fn configs() -> Vec<Vec<u8>> {
    let presets = [Preset::Paper, Preset::ReleasedCode, Preset::Full, Preset::Strong];
    let mut found: Vec<Vec<u8>> =
        presets.iter().map(|preset| Config::preset(*preset).to_toml().into_bytes()).collect();
    found.push(b"preset = \"full\"\nmodel.size = \"256x128\" # by hand\n[optim]\nlr = 1e-4\n[schedule]\nepochs = 3\n".to_vec());
    found
}

fn names() -> Vec<String> {
    ["a.jpg", "sub/\"b\".jpg", "line\nbreak\\n.png"].map(String::from).to_vec()
}

fn write_embeddings(extension: &str, dtype: Dtype) -> Vec<u8> {
    let path = folder().join(format!("seed.{extension}"));
    let metadata = BTreeMap::from([("lat_wgpu".to_string(), entries().remove(0))]);
    let names = names();
    let mut writer = EmbeddingWriter::create(&path, DIM, dtype, &names, &metadata).expect("a writer");
    for (row, name) in names.iter().enumerate() {
        writer.push(name, &[row as f32, 0.5, -1.0]).expect("a row");
    }
    writer.finish().expect("a file");
    read(&path)
}

fn with_length(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&(first.len() as u16).to_le_bytes()[..], first, second].concat()
}

/// Files of names, each followed by a NumPy file.
pub fn npy() -> Vec<Vec<u8>> {
    let both = |dtype| {
        let array = write_embeddings("npy", dtype);
        with_length(&read(&folder().join("seed.paths.txt")), &array)
    };
    vec![both(Dtype::F32), both(Dtype::F16)]
}

/// Embeddings as safetensors.
pub fn embeddings() -> Vec<Vec<u8>> {
    vec![write_embeddings("safetensors", Dtype::F32), write_embeddings("safetensors", Dtype::F16)]
}

/// Embeddings as Parquet.
pub fn parquet() -> Vec<Vec<u8>> {
    vec![write_embeddings("parquet", Dtype::F32), write_embeddings("parquet", Dtype::F16)]
}

/// Tables of labels.
pub fn tables() -> Vec<Vec<u8>> {
    vec![
        b"path,person,camera,split\na.png,0002,1,train\na.png,anna,hall,query\n\"b,c.png\",-1,2,gallery\n"
            .to_vec(),
        b"\xef\xbb\xbfPATH,Person,camera,note\r\na.png,0000,c1,\"said \"\"no\"\"\"\r\nsub\\b.png,7,2,\r\n"
            .to_vec(),
    ]
}

/// Lists of data sets.
pub fn lists() -> Vec<Vec<u8>> {
    vec![
        b"# test\n0000/0000_000_01_0303morning_0015_0.jpg 0\n0001/0001_004_12_0303noon_0015_0.jpg 1\n\na.jpg 2\n".to_vec(),
        b"train 1_001_1_01.png\nquery 1_002_1_01.png\ngallery 5_099_2_10.png\n".to_vec(),
        b"1_001\n5_099\n0002_c1s1_000451_03.jpg\n-1_c3s1_000401_03.jpg\n".to_vec(),
    ]
}

/// Origin of the embeddings in the index.
pub fn origin() -> Origin {
    Origin {
        model: Weights { name: "m.safetensors".to_string(), sha256: "0123456789abcdef".to_string() },
        metadata: BTreeMap::from([("lat_wgpu".to_string(), "{}".to_string())]),
        ignore_exif: false,
        dim: DIM,
        dtype: Dtype::F32,
    }
}

/// Fills an index folder, and returns manifest, segment and the segment's record.
fn index_of(shard: bool) -> [Vec<u8>; 3] {
    let index = folder().join("seed-index");
    let _ = std::fs::remove_dir_all(&index);
    let images: Vec<Image> = ["a.jpg", "b.jpg", "c.jpg"]
        .map(|name| Image { path: file(name, b"x"), name: name.to_string() })
        .to_vec();
    let number = ShardNumber { number: 1, of: 1 };
    let shard = shard.then(|| Shard::of_list(number, images.clone()).expect("a shard").0);
    let options = IndexOptions { shard, ..IndexOptions::default() };
    let mut writer = IndexWriter::open(&index, origin(), images, &options).expect("an index");
    for (row, image) in writer.todo().iter().enumerate() {
        writer.push(&image.name, &[row as f32, 0.5, -1.0]).expect("a row");
    }
    writer.finish().expect("an index");
    ["manifest.json", "part-000001.safetensors", "part-000001.json"].map(|name| read(&index.join(name)))
}

/// The segment of every index.
pub fn segment() -> &'static [u8] {
    static SEGMENT: OnceLock<Vec<u8>> = OnceLock::new();
    SEGMENT.get_or_init(|| {
        let [_, segment, _] = index_of(false);
        segment
    })
}

/// Manifests, each followed by the record of the segment.
pub fn indexes() -> Vec<Vec<u8>> {
    [false, true]
        .map(|shard| {
            let [manifest, _, states] = index_of(shard);
            with_length(&manifest, &states)
        })
        .to_vec()
}

/// A projection, saved runs of the bench, and the log of a run.
pub fn records() -> Vec<Vec<u8>> {
    let rows: Vec<f32> = (0..8 * 4).map(|i| ((i * 7) % 11) as f32).collect();
    let gallery = Embeddings { paths: (0..8).map(|i| format!("{i}.jpg")).collect(), dim: 4, rows };
    let options = FitOptions { dim: 2, rows: 8, seed: 1 };
    let projection =
        Projection::fit(&gallery, Some(&Entry::new("{}".to_string())), options, &()).expect("a projection");
    let path = file("seed.reduction", b"");
    projection.write(&path).expect("a projection's file");
    let mut saved: serde_json::Value =
        serde_json::from_slice(&read(&engine().join("benches/baseline.json"))).expect("saved runs");
    for report in saved.as_object_mut().into_iter().flat_map(|runs| runs.values_mut()) {
        if let Some(rows) = report["rows"].as_array_mut() {
            rows.truncate(2);
        }
    }
    let log = "{\"kind\":\"step\",\"step\":1,\"epoch\":0,\"loss\":5.5}\n\
               {\"kind\":\"epoch\",\"epoch\":0,\"train_loss\":5.5,\"val_loss\":5.0,\"val_accuracy\":0.5,\"retrieval\":null,\"seconds\":1.5}\n";
    vec![read(&path), saved.to_string().into_bytes(), log.into()]
}
