//! `lat-wgpu init` and `lat-wgpu export`: models that begin here, and models that leave.

use half::f16;
use lat_wgpu::checkpoint::{self, Network, Settings};
use lat_wgpu::shape::{ImageSize, VitConfig};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;
use std::process::{Command, Output};

/// A two-block ViT of width 32 for 32×32 pictures that doesn't say how many attention heads it has.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/plain.model.safetensors");

fn lat(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lat-wgpu")).args(arguments).current_dir(folder).output().unwrap()
}

/// Runs, asserts the exit code and returns stderr.
fn expect(code: i32, folder: &Path, arguments: &[&str]) -> String {
    let output = lat(folder, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}:\n{stderr}");
    stderr
}

fn load(path: &Path) -> Network {
    checkpoint::load(path, &Settings::default()).unwrap()
}

/// A model of the form `train` writes: backbone, heads, names, state.
fn trained(folder: &Path) -> Network {
    let size =
        ["--size", "32x16", "--patch", "8", "--dim", "16", "--depth", "2", "--heads", "4", "--seed", "5"];
    expect(0, folder, &[&["init", "--out", "start.safetensors"], &size[..]].concat());
    let mut network = load(&folder.join("start.safetensors"));
    let (parts, classes) = (network.config.parts(), 3);
    network.heads = lat_wgpu::train::heads::init_heads(1, parts, 16, 8, classes);
    let names = ["a", "b", "c"].map(String::from);
    let heads = checkpoint::HeadsInfo { hidden: 8, relu: true, classes };
    let metadata = checkpoint::trained_metadata(&network.config, &network.preprocess, &names, heads);
    let mut tensors = network.tensors.clone();
    tensors.extend(network.heads.clone());
    let state = [("step".to_string(), checkpoint::StateTensor::counts(vec![7]))].into();
    checkpoint::save(&folder.join("trained.safetensors"), &tensors, &state, &metadata).unwrap();
    load(&folder.join("trained.safetensors"))
}

#[test]
fn a_random_backbone_loads_without_flags() {
    let folder = tempfile::tempdir().unwrap();
    let make = |out: &str, seed: &str| {
        let flags = ["--size", "64x32", "--dim", "24", "--depth", "3", "--heads", "2", "--normalize", "half"];
        expect(0, folder.path(), &[&["init", "--out", out, "--seed", seed], &flags[..]].concat());
        std::fs::read(folder.path().join(out)).unwrap()
    };
    let first = make("a.safetensors", "1");
    assert_eq!(first, make("b.safetensors", "1"));
    assert_ne!(first, make("c.safetensors", "2"));
    let network = load(&folder.path().join("a.safetensors"));
    let size = ImageSize { height: 64, width: 32 };
    assert_eq!(network.config, VitConfig::plain(size, 16, 24, 3, 2));
    assert_eq!(network.preprocess.normalize_name(), "half");
    assert!(network.heads.is_empty() && network.notes.is_empty(), "{:?}", network.notes);

    let refused =
        expect(2, folder.path(), &["init", "--out", "d.safetensors", "--dim", "10", "--heads", "4"]);
    assert!(refused.contains("--heads 4"), "{refused}");
    let refused = expect(2, folder.path(), &["init", "--out", "d.safetensors", "--size", "8x32"]);
    assert!(refused.contains("8x32"), "{refused}");
    assert!(!folder.path().join("d.safetensors").exists());
}

#[test]
fn what_is_exported_is_the_model_without_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let network = trained(here);
    let export = |out: &str, more: &[&str]| {
        let arguments = ["export", "--model", "trained.safetensors", "--to", "timm", "--out", out];
        expect(0, here, &[&arguments, more].concat());
        load(&here.join(out))
    };
    let whole = export("whole.safetensors", &[]);
    assert_eq!((&whole.tensors, &whole.heads), (&network.tensors, &network.heads));
    assert_eq!((&whole.config, &whole.class_names), (&network.config, &network.class_names));
    let (_, metadata) = checkpoint::list(&here.join("whole.safetensors")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(&metadata["lat_wgpu"]).unwrap();
    assert_eq!(entry["heads"], serde_json::json!({ "hidden": 8, "relu": true, "classes": 3 }));

    let backbone = export("backbone.safetensors", &["--backbone-only"]);
    assert_eq!(backbone.tensors, network.tensors);
    assert!(backbone.heads.is_empty() && backbone.class_names.is_none());

    let halves = export("halves.safetensors", &["--dtype", "f16"]);
    for (name, tensor) in network.tensors.iter().chain(&network.heads) {
        let rounded: Vec<f32> = tensor.data.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        let found = halves.tensors.get(name).or(halves.heads.get(name)).unwrap();
        assert_eq!(found.data, rounded, "{name}");
    }
    let bytes = std::fs::read(here.join("halves.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert!(
        file.tensors().iter().all(|(name, view)| view.dtype() == Dtype::F16 && !name.starts_with("state."))
    );
}

#[test]
fn what_f16_cannot_hold_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut network = trained(here);
    network.tensors.get_mut("norm.weight").unwrap().data[3] = 7e4;
    let metadata = checkpoint::lat_wgpu_metadata(&network.config, &network.preprocess, None);
    checkpoint::save(&here.join("large.safetensors"), &network.tensors, &Default::default(), &metadata)
        .unwrap();
    let export = [
        "export",
        "--model",
        "large.safetensors",
        "--to",
        "timm",
        "--dtype",
        "f16",
        "--out",
        "o.safetensors",
    ];
    let refused = expect(1, here, &export);
    assert!(refused.contains("norm.weight") && refused.contains("65504"), "{refused}");
    assert!(!here.join("o.safetensors").exists());
}

#[test]
fn what_was_said_by_flags_stands_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let export = ["export", "--model", TINY, "--to", "timm", "--out", "o.safetensors"];
    let refused = expect(2, folder.path(), &export);
    assert!(refused.contains("--heads"), "{refused}");
    expect(0, folder.path(), &[&export[..], &["--heads", "2", "--lambda", "3"]].concat());
    let settings = Settings { heads: Some(2), lambda: Some(3.0), ..Settings::default() };
    let told = checkpoint::load(Path::new(TINY), &settings).unwrap();
    let found = load(&folder.path().join("o.safetensors"));
    assert_eq!((found.config, found.tensors), (told.config, told.tensors));
}
