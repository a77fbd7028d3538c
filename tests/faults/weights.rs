//! Weights: unknown tensors, ambiguous heads, prefixes, names of other programs, and files of other formats.

use crate::common::{TINY, assert_says, copies, expect, input, program, write};
use lat_wgpu::checkpoint::{self, Network, Settings};
use lat_wgpu::shape::{ImageSize, Normalize};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A tensor: name, shape, and values in f32 or f16.
type Tensor = (String, Vec<usize>, Vec<u8>);

/// The tensors and the metadata of a file.
fn read(path: &Path) -> (Vec<Tensor>, HashMap<String, String>) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec()))
        .collect();
    (tensors, header.metadata().clone().unwrap_or_default())
}

fn store(path: &Path, tensors: &[Tensor], metadata: &HashMap<String, String>) {
    let views: Vec<(&String, TensorView)> = tensors
        .iter()
        .map(|(name, shape, data)| {
            let whole = data.len() == 4 * shape.iter().product::<usize>();
            let dtype = if whole { Dtype::F32 } else { Dtype::F16 };
            (name, TensorView::new(dtype, shape.clone(), data).unwrap())
        })
        .collect();
    write(path, safetensors::serialize(views, Some(metadata.clone())).unwrap());
}

fn zeros(name: &str, shape: &[usize]) -> Tensor {
    (name.to_string(), shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()])
}

/// The tiny network with other names and more tensors.
fn renamed(folder: &TempDir, rename: impl Fn(&str) -> String, more: &[&str]) -> PathBuf {
    let (mut tensors, metadata) = read(Path::new(TINY));
    tensors.iter_mut().for_each(|(name, ..)| *name = rename(name));
    tensors.extend(more.iter().map(|name| zeros(name, &[64])));
    let path = folder.path().join("model.safetensors");
    store(&path, &tensors, &metadata);
    path
}

fn load(path: &Path) -> Network {
    checkpoint::load(path, &Settings::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn tiny() -> Network {
    load(Path::new(TINY))
}

#[test]
fn unknown_tensors_are_refused_by_name() {
    let folder = copies(&["two_p"]);
    for name in [
        "sie_embed",
        "cv_embed",
        "prompt_tokens",
        "storage_tokens",
        "registers",
        "ln_pre.weight",
        "pre_norm.weight",
        "blocks.1.adapter.down.weight",
        "patch_embed.norm.bias",
        "heads.0.fc3.weight",
        "something.else",
    ] {
        renamed(&folder, str::to_string, &[name]);
        let command = ["embed", "--model", "model.safetensors", "two_p", "--out", "o.npy"];
        let (_, stderr) = expect(1, folder.path(), &command);
        assert_says(&stderr, &["model.safetensors", &format!("tensor {name}:"), "--ignore-unknown"]);
        assert!(!folder.path().join("o.npy").exists());
        let (stdout, _) = expect(0, folder.path(), &["inspect", "model.safetensors", "--ignore-unknown"]);
        assert_says(&stdout, &["ViT: width 64", "note: unknown", name]);
    }
    // Several are listed together.
    renamed(&folder, str::to_string, &["sie_embed", "prompt_tokens", "other"]);
    let (stdout, _) = expect(0, folder.path(), &["inspect", "model.safetensors"]);
    assert_says(&stdout, &["cannot be run as a model", "sie_embed", "prompt_tokens", "other"]);
}

#[test]
fn another_network_is_always_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in
        ["rope_embed.periods", "blocks.0.attn.q_norm.weight", "blocks.1.mlp.w12.weight", "fc_norm.bias"]
    {
        renamed(&folder, str::to_string, &[name]);
        let (stdout, _) = expect(0, folder.path(), &["inspect", "model.safetensors", "--ignore-unknown"]);
        assert_says(&stdout, &["cannot be run as a model", name]);
    }
}

#[test]
fn listed_tensors_are_ignored_without_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let listed = [
        "head.weight",
        "head_dist.bias",
        "fc.weight",
        "classifier.bias",
        "classifier7.add_block.0.weight",
        "bottleneck.running_mean",
        "bottleneck.num_batches_tracked",
        "mask_token",
        "embeddings.position_ids",
        "pooler.dense.weight",
        "proj",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
        "text_model.encoder.layers.0.mlp.fc1.weight",
        "dino_head.mlp.0.weight",
        "decoder_pred.weight",
        "state.blocks.0.norm1.weight.m",
    ];
    let network = load(&renamed(&folder, str::to_string, &listed));
    assert_eq!(network.tensors, tiny().tensors);
}

#[test]
fn train_and_ablate_know_the_flag() {
    let folder = copies(&["two_p"]);
    renamed(&folder, str::to_string, &["sie_embed"]);
    let command =
        ["train", "--backbone", "model.safetensors", "--data", "two_p", "--dry-run", "--batch-size", "2"];
    let (_, stderr) = expect(1, folder.path(), &command);
    assert_says(&stderr, &["sie_embed", "--ignore-unknown"]);
    for more in [&["--ignore-unknown"][..], &["--set", "model.ignore_unknown=true"]] {
        let output = program(folder.path(), &[&command[..], more].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("tensor sie_embed"), "{stderr}");
    }
    assert_says(&expect(0, folder.path(), &["ablate", "--help"]).0, &["--ignore-unknown"]);
}

#[test]
fn heads_are_required_where_published_networks_differ() {
    let folder = tempfile::tempdir().unwrap();
    for (width, heads) in [(1280, ["16", "20"]), (1408, ["16", "22"]), (1664, ["16", "26"])] {
        let config = format!(r#"{{"model":{{"heads":{}}}}}"#, heads[0]);
        for (entry, flags, code) in
            [(None, &[][..], 2), (None, &["--heads", heads[1]], 0), (Some(config.as_str()), &[], 0)]
        {
            let path = folder.path().join("wide.safetensors");
            sparse_network(&path, width, entry);
            let settings =
                Settings { heads: flags.last().map(|n| n.parse().unwrap()), ..Settings::default() };
            match checkpoint::load(&path, &settings) {
                Ok(network) => {
                    assert_eq!(code, 0, "{width}");
                    let wanted = if entry.is_some() { heads[0] } else { heads[1] };
                    assert_eq!(network.config.heads.to_string(), wanted);
                }
                Err(error) => {
                    assert_eq!(i32::from(error.exit_code()), code, "{error}");
                    assert_says(&error.to_string(), &["--heads", &width.to_string(), heads[0], heads[1]]);
                }
            }
        }
    }
    // Elsewhere all have 64 per head.
    sparse_network(&folder.path().join("wide.safetensors"), 1152, None);
    assert_eq!(load(&folder.path().join("wide.safetensors")).config.heads, 18);
}

/// A ViT of one block of zeros, as a sparse file.
fn sparse_network(path: &Path, width: usize, entry: Option<&str>) {
    let image = ImageSize::square(8);
    let config = lat_wgpu::shape::VitConfig {
        mlp_hidden: 4,
        ..lat_wgpu::shape::VitConfig::plain(image, 4, width, 1, 1)
    };
    let mut header = serde_json::Map::new();
    if let Some(entry) = entry {
        header.insert("__metadata__".into(), serde_json::json!({ "lat_wgpu": entry }));
    }
    let mut end = 0;
    for (name, shape) in checkpoint::parameter_shapes(&config) {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let tensor = serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name, tensor);
    }
    let header = serde_json::Value::Object(header).to_string();
    write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

#[test]
fn a_common_prefix_is_stripped_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    for prefix in [
        "module.",
        "model.",
        "backbone.",
        "base.",
        "encoder.",
        "student.backbone.",
        "module.model.",
        "my.own_name.0.",
    ] {
        let network = load(&renamed(&folder, |name| format!("{prefix}{name}"), &[]));
        assert_eq!(network.tensors, tiny().tensors, "{prefix}");
        let note = format!("prefix {prefix} stripped from all names");
        assert!(network.notes.contains(&note), "{prefix}: {:?}", network.notes);
    }
    // Part classifiers beside the backbone, and inside it.
    for more in [&["classifier.weight", "bottleneck.weight"][..], &["base.fc.weight", "head.bias"]] {
        let network = load(&renamed(&folder, |name| format!("base.{name}"), more));
        assert_eq!(network.tensors, tiny().tensors, "{more:?}");
        assert!(
            network.notes.iter().any(|note| note.starts_with("prefix base. stripped")),
            "{:?}",
            network.notes
        );
    }
    // Unknown tensors are refused on both sides.
    for more in ["base.sie_embed", "b1.0.norm1.weight"] {
        let path = renamed(&folder, |name| format!("base.{name}"), &[more]);
        let error = checkpoint::load(&path, &Settings::default()).unwrap_err().to_string();
        assert_says(&error, &[more, "--ignore-unknown"]);
    }
    // Nothing is stripped if the patch projection lacks the prefix.
    let path = renamed(&folder, |name| name.replacen("blocks.", "module.blocks.", 1), &[]);
    let error = checkpoint::load(&path, &Settings::default()).unwrap_err().to_string();
    assert_says(&error, &["module.blocks.0"]);
}

#[test]
fn two_networks_in_one_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (tensors, metadata) = read(Path::new(TINY));
    let under = |prefix: &str| {
        let under = |(name, shape, data): &Tensor| (format!("{prefix}{name}"), shape.clone(), data.clone());
        tensors.iter().map(under).collect::<Vec<Tensor>>()
    };
    let path = folder.path().join("both.safetensors");
    store(&path, &[under("student.backbone."), under("teacher.backbone.")].concat(), &metadata);
    let error = checkpoint::load(&path, &Settings::default()).unwrap_err().to_string();
    assert_says(&error, &["2 networks", "student.backbone.", "teacher.backbone."]);
}

/// The tiny network in Hugging Face's names for a ViT.
fn hugging_face(prefix: &str) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for (name, shape, data) in read(Path::new(TINY)).0 {
        let mut new = name.clone();
        for (timm, theirs) in [
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("blocks.", "encoder.layer."),
            (".norm1", ".layernorm_before"),
            (".norm2", ".layernorm_after"),
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ] {
            new = new.replace(timm, theirs);
        }
        if let Some(kind) = name.strip_prefix("norm.") {
            new = format!("layernorm.{kind}");
        }
        match new.split_once("attn.qkv.") {
            None => tensors.push((format!("{prefix}{new}"), shape, data)),
            Some((block, kind)) => {
                for (part, data) in ["query", "key", "value"].iter().zip(data.chunks(data.len() / 3)) {
                    let name = format!("{prefix}{block}attention.attention.{part}.{kind}");
                    let third = [&[shape[0] / 3], &shape[1..]].concat();
                    tensors.push((name, third, data.to_vec()));
                }
            }
        }
    }
    tensors
}

#[test]
fn hugging_face_vits_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hf.safetensors");
    for prefix in ["vit.", "", "module.vit."] {
        let mut tensors = hugging_face(prefix);
        tensors.push(zeros("classifier.weight", &[5, 64]));
        tensors.push(zeros(&format!("{prefix}pooler.dense.bias"), &[64]));
        store(&path, &tensors, &HashMap::new());
        let settings = Settings { size: Some(ImageSize { height: 64, width: 32 }), ..Settings::default() };
        let network = checkpoint::load(&path, &settings).unwrap_or_else(|e| panic!("{prefix}: {e}"));
        assert_eq!(network.tensors, tiny().tensors, "{prefix}");
        assert_eq!(network.config.ln_eps, 1e-12);
        assert_eq!((network.preprocess.mean, network.preprocess.std), Normalize::Half.mean_std());
        assert_says(&network.notes.join("\n"), &["Hugging Face ViT", "1e-12", "--normalize"]);
        let own = Settings { ln_eps: Some(1e-6), normalize: Some(Normalize::Imagenet), ..settings };
        let network = checkpoint::load(&path, &own).unwrap();
        assert_eq!(network.config.ln_eps, 1e-6);
        assert_eq!(network.preprocess.mean, Normalize::Imagenet.mean_std().0);
    }
    // Unknown tensors are named there too.
    let mut tensors = hugging_face("vit.");
    tensors.push(zeros("vit.embeddings.prompt_tokens", &[64]));
    store(&path, &tensors, &HashMap::new());
    let error = checkpoint::load(&path, &Settings::default()).unwrap_err().to_string();
    assert_says(&error, &["vit.embeddings.prompt_tokens", "--ignore-unknown"]);
}

#[test]
fn clip_names_imply_clips_mean_and_deviation() {
    let golden = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/{name}.model.safetensors"))
    };
    let load = |name: &str, normalize| {
        let settings = Settings { heads: Some(2), normalize, ..Settings::default() };
        let network = checkpoint::load(&golden(name), &settings).unwrap();
        ((network.preprocess.mean, network.preprocess.std), network.notes.join("\n"))
    };
    for name in ["clip_openai", "clip_hf"] {
        let (numbers, notes) = load(name, None);
        assert_eq!(numbers, Normalize::Clip.mean_std(), "{name}");
        assert_says(&notes, &["--normalize", "clip"]);
        let (numbers, notes) = load(name, Some(Normalize::Imagenet));
        assert_eq!(numbers, Normalize::Imagenet.mean_std(), "{name}");
        assert!(!notes.contains("mean and deviation"), "{notes}");
    }
    // timm's names don't identify the weights.
    assert_eq!(load("clip_timm", None).0, Normalize::Imagenet.mean_std());
    // Metadata takes precedence.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.safetensors");
    let entry = r#"{"preprocess":{"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}}"#;
    store(&path, &read(&golden("clip_openai")).0, &[("lat_wgpu".to_string(), entry.to_string())].into());
    let settings = Settings { heads: Some(2), ..Settings::default() };
    assert_eq!(checkpoint::load(&path, &settings).unwrap().preprocess.mean, [0.5; 3]);
}

#[test]
fn files_of_other_formats_are_named() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    let data = |name: &str| std::fs::read(input("weights").join(name)).unwrap();
    let zip = |name: &[u8]| [&b"PK\x03\x04\x14\0\0\0"[..], &[0; 22], name].concat();
    let mut tar = vec![0; 2048];
    tar[..8].copy_from_slice(b"model.pt");
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, words) in [
        (data("html.safetensors"), &["HTML page"][..]),
        (data("lfs.safetensors"), &["Git LFS pointer", "git lfs pull"]),
        (data("legacy.pth"), &["pickle", "weights/README.md"]),
        (data("legacy_named.safetensors"), &["pickle"]),
        (data("model.safetensors.index.json"), &["index of shards", "model-00001-of-00002.safetensors"]),
        (b"\n<html><body>Sign in</body></html>".to_vec(), &["HTML page"]),
        (
            b"version https://git-lfs.github.com/spec/v1\r\noid sha256:00\r\nsize 3\r\n".to_vec(),
            &["git lfs pull"],
        ),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.".to_vec(), &["pickle"]),
        (zip(b"archive/data.pkl"), &["PyTorch"]),
        (zip(b"weight.npy"), &["NumPy", ".npz"]),
        (zip(b"notes.txt"), &["zip archive"]),
        (tar, &["tar archive"]),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc".to_vec(), &["gzip"]),
        (b"{\"error\": \"Invalid username or password.\"}".to_vec(), &["JSON"]),
        (Vec::new(), &["empty"]),
        (b"GGUF\x03\0\0\0\0\0\0\0".to_vec(), &["GGUF"]),
    ] {
        for name in ["model.safetensors", "model.pth"] {
            std::fs::write(here.join(name), &bytes).unwrap();
            let (_, stderr) = expect(1, here, &["embed", "--model", name, "two_p", "--out", "o.npy"]);
            assert_says(&stderr, words);
            assert_says(&stderr, &[name]);
            assert!(!stderr.contains("header of"), "{stderr}");
        }
    }
}

#[test]
fn values_have_the_same_spelling_in_every_command() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    std::fs::copy(TINY, here.join("m.safetensors")).unwrap();
    let (stdout, _) = expect(0, here, &["inspect", "m.safetensors", "--act", "quick-gelu"]);
    assert_says(&stdout, &["quick-gelu"]);
    let (stdout, _) = expect(0, here, &["inspect", "m.safetensors", "--act", "quick-gelu", "--json", "-"]);
    assert_says(&stdout, &["\"quick-gelu\""]);
    assert!(!stdout.contains("quick_gelu"), "{stdout}");
    expect(2, here, &["inspect", "m.safetensors", "--act", "quick_gelu"]);

    let train = ["train", "--backbone", "m.safetensors", "--data", "two_p", "--batch-size", "2", "--dry-run"];
    expect(0, here, &[&train[..], &["--act", "quick-gelu"]].concat());
    expect(2, here, &[&train[..], &["--act", "quick_gelu"]].concat());
    std::fs::write(here.join("new.toml"), "[model]\nact = \"quick-gelu\"\n").unwrap();
    expect(0, here, &[&train[..], &["--config", "new.toml"]].concat());
    // Files of earlier versions are readable.
    std::fs::write(here.join("old.toml"), "[model]\nact = \"quick_gelu\"\n").unwrap();
    expect(0, here, &[&train[..], &["--config", "old.toml"]].concat());
    let (tensors, metadata) = read(Path::new(TINY));
    let old = metadata["lat_wgpu"].replace("\"act\":\"gelu\"", "\"act\":\"quick_gelu\"");
    store(&here.join("old.safetensors"), &tensors, &[("lat_wgpu".to_string(), old)].into());
    let (stdout, _) = expect(0, here, &["inspect", "old.safetensors"]);
    assert_says(&stdout, &["tokens, quick-gelu,"]);
    // Also in notes.
    let (stdout, _) = expect(0, here, &["inspect", "old.safetensors", "--act", "gelu"]);
    assert_says(&stdout, &["--act gelu replaces the model's quick-gelu"]);
}
