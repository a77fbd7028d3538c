//! `lat-wgpu init` and `lat-wgpu export`.

#[path = "common/program.rs"]
mod program;

use half::f16;
use lat_wgpu::checkpoint::{self, Network, Settings};
use lat_wgpu::shape::{ClassifierKind, ImageSize, Normalize, VitConfig};
use lat_wgpu::storage::onnx;
use program::{TINY, expect};
use prost::Message;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

fn load(path: &Path) -> Network {
    checkpoint::load(path, &Settings::default()).unwrap()
}

/// A model as `train` writes it: backbone, part classifiers, names, state.
fn trained(folder: &Path) -> Network {
    let size =
        ["--size", "32x16", "--patch", "8", "--dim", "16", "--depth", "2", "--heads", "4", "--seed", "5"];
    expect(0, folder, &[&["init", "--out", "start.safetensors"], &size[..]].concat());
    let mut network = load(&folder.join("start.safetensors"));
    let (parts, classes) = (network.config.parts(), 3);
    let kind = ClassifierKind::Parts { hidden: 8 };
    network.classifiers = lat_wgpu::train::classifiers::init_classifiers(1, parts, 16, kind, classes);
    let names = ["a", "b", "c"].map(String::from);
    let heads = checkpoint::ClassifiersInfo { kind, relu: true, classes };
    let metadata = checkpoint::trained_metadata(&network.config, &network.preprocess, &names, heads);
    let mut tensors = network.tensors.clone();
    tensors.extend(network.classifiers.clone());
    let state = [("step".to_string(), checkpoint::StateTensor::counts(vec![7]))].into();
    checkpoint::save(&folder.join("trained.safetensors"), &tensors, &state, metadata.text()).unwrap();
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
    assert_eq!(network.preprocess.normalize(), Some(Normalize::Half));
    assert!(network.classifiers.is_empty() && network.notes.is_empty(), "{:?}", network.notes);

    let (_, refused) =
        expect(2, folder.path(), &["init", "--out", "d.safetensors", "--dim", "10", "--heads", "4"]);
    assert!(refused.contains("--heads 4"), "{refused}");
    let (_, refused) = expect(2, folder.path(), &["init", "--out", "d.safetensors", "--size", "8x32"]);
    assert!(refused.contains("8x32"), "{refused}");
    assert!(!folder.path().join("d.safetensors").exists());
}

#[test]
fn export_omits_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let network = trained(here);
    let export = |out: &str, more: &[&str]| {
        let arguments = ["export", "--model", "trained.safetensors", "--to", "timm", "--out", out];
        expect(0, here, &[&arguments, more].concat());
        load(&here.join(out))
    };
    let whole = export("whole.safetensors", &[]);
    assert_eq!((&whole.tensors, &whole.classifiers), (&network.tensors, &network.classifiers));
    assert_eq!((&whole.config, &whole.class_names), (&network.config, &network.class_names));
    let (_, metadata) = checkpoint::list(&here.join("whole.safetensors")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(&metadata["lat_wgpu"]).unwrap();
    assert_eq!(entry["heads"], serde_json::json!({ "hidden": 8, "relu": true, "classes": 3 }));
    assert_eq!(entry["timm"]["architecture"], "vit_base_patch16_224");
    let arguments = &entry["timm"]["arguments"];
    assert_eq!((&arguments["embed_dim"], &arguments["num_heads"]), (&16.into(), &4.into()));

    let backbone = export("backbone.safetensors", &["--backbone-only"]);
    assert_eq!(backbone.tensors, network.tensors);
    assert!(backbone.classifiers.is_empty() && backbone.class_names.is_none());

    let halves = export("halves.safetensors", &["--dtype", "f16"]);
    for (name, tensor) in network.tensors.iter().chain(&network.classifiers) {
        let rounded: Vec<f32> = tensor.data.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        let found = halves.tensors.get(name).or(halves.classifiers.get(name)).unwrap();
        assert_eq!(found.data, rounded, "{name}");
    }
    let bytes = std::fs::read(here.join("halves.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert!(
        file.tensors().iter().all(|(name, view)| view.dtype() == Dtype::F16 && !name.starts_with("state."))
    );
}

#[test]
fn values_beyond_f16_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut network = trained(here);
    network.tensors.get_mut("norm.weight").unwrap().data[3] = 7e4;
    let metadata = checkpoint::lat_wgpu_metadata(&network.config, &network.preprocess, None);
    checkpoint::save(&here.join("large.safetensors"), &network.tensors, &Default::default(), metadata.text())
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
    let (_, refused) = expect(1, here, &export);
    assert!(refused.contains("norm.weight") && refused.contains("65504"), "{refused}");
    assert!(!here.join("o.safetensors").exists());
}

#[test]
fn exported_file_holds_settings_from_flags() {
    let folder = tempfile::tempdir().unwrap();
    let export = ["export", "--model", TINY, "--to", "timm", "--out", "o.safetensors"];
    let (_, refused) = expect(2, folder.path(), &export);
    assert!(refused.contains("--heads"), "{refused}");
    let (_, said) = expect(0, folder.path(), &[&export[..], &["--heads", "2", "--lambda", "3"]].concat());
    let written = folder.path().join("o.safetensors");
    let tensors = checkpoint::list(&written).unwrap().0.len();
    let bytes = std::fs::metadata(&written).unwrap().len();
    assert_eq!(said, format!("wrote o.safetensors: {tensors} tensors, {bytes} bytes\n"));
    let settings = Settings { heads: Some(2), lambda: Some(3.0), ..Settings::default() };
    let wanted = checkpoint::load(Path::new(TINY), &settings).unwrap();
    let found = load(&folder.path().join("o.safetensors"));
    assert_eq!((found.config, found.tensors), (wanted.config, wanted.tensors));
}

#[test]
fn flags_belong_to_their_format() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (form, flag, wanted) in [
        ("timm", &["--flip"][..], "--to web"),
        ("timm", &["--input", "u8"], "--to onnx"),
        ("web", &["--for", "boxmot"], "--to onnx"),
        ("onnx", &["--batch-size", "2"], "--to web"),
        ("onnx", &["--backbone-only"], "--to timm"),
        ("web", &["--dtype", "f16"], "--to timm or onnx"),
    ] {
        let export = ["export", "--model", TINY, "--heads", "2", "--to", form, "--out", "o"];
        let (_, refused) = expect(2, here, &[&export[..], flag].concat());
        assert!(refused.contains(flag[0]) && refused.contains(wanted), "{refused}");
    }
    assert!(std::fs::read_dir(here).unwrap().next().is_none());
}

/// All files below a folder with their content.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(content(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn web_folder_is_complete_and_keeps_default_limits() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let export = |out: &str, more: &[&str]| {
        let arguments = ["export", "--model", TINY, "--heads", "2", "--to", "web", "--out", out];
        expect(0, here, &[&arguments, more].concat());
        content(&here.join(out))
    };
    // An empty folder is accepted; the adapter's limits make no difference.
    std::fs::create_dir(here.join("web")).unwrap();
    let files = export("web", &["--batch-size", "3", "--flip"]);
    assert_eq!(files, export("again", &["--batch-size", "3", "--flip"]));
    assert_eq!(std::fs::read_dir(here).unwrap().count(), 2, "no other file is left");
    let source = |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    for name in ["index.html", "page.js", "player.js"] {
        assert_eq!(files[name], source(&format!("tools/web/{name}")), "{name}");
    }
    let style = [source("src/plot/colours.css"), b"\n".to_vec(), source("tools/web/page.css")].concat();
    assert_eq!(files["page.css"], style);

    let plan: serde_json::Value = serde_json::from_slice(&files["plan.json"]).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
    assert_eq!((number(&plan["format"]), number(&plan["batch"])), (1, 3));
    assert_eq!(plan["preprocess"]["size"], serde_json::json!([32, 32]));
    assert_eq!(plan["preprocess"]["flip"], true);
    let network =
        checkpoint::load(Path::new(TINY), &Settings { heads: Some(2), ..Settings::default() }).unwrap();
    assert_eq!(plan["weights_sha256"], network.weights_sha256());
    assert_eq!(number(&plan["embedding"]["dim"]) as usize, network.config.embedding_len());

    let buffers = list(&plan["buffers"]);
    let of_kind = |kind: &str| buffers.iter().filter(|buffer| buffer["kind"] == kind).count();
    assert_eq!((of_kind("input"), of_kind("output"), of_kind("weights")), (1, 1, 1));
    assert!(buffers.iter().all(|buffer| number(&buffer["bytes"]) <= 128 << 20));
    let weights = buffers.iter().find(|buffer| buffer["kind"] == "weights").unwrap();
    let bytes = &files[weights["file"].as_str().unwrap()];
    assert_eq!(bytes.len() as u64, number(&weights["bytes"]));
    for (name, place) in weights["tensors"].as_object().unwrap() {
        let (start, len) = (number(&place[0]) as usize, number(&place[1]) as usize);
        let found: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[start..start + len]);
        let tensor = if name == "prefix" { "cls_token" } else { name };
        assert!(start.is_multiple_of(256) && found == network.tensors[tensor].data, "{name}");
    }
    assert_eq!(weights["tensors"].as_object().unwrap().len(), network.tensors.len());

    let (pipelines, dispatches) = (list(&plan["pipelines"]), list(&plan["dispatches"]));
    for pipeline in &pipelines {
        let text = &files[&format!("shaders/{}", pipeline["shader"].as_str().unwrap())];
        let text = String::from_utf8_lossy(text);
        assert!(text.contains(&format!("fn {}(", pipeline["entry"].as_str().unwrap())));
        let mut code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        assert!(
            !code.any(|line| line.contains("subgroup") || line.contains("enable ")),
            "an optional feature"
        );
        assert!(list(&pipeline["writes"]).len() <= 8);
    }
    let mut written = vec![false; buffers.len()];
    for dispatch in &dispatches {
        let pipeline = &pipelines[number(&dispatch["pipeline"]) as usize];
        let bindings = list(&dispatch["bindings"]);
        assert_eq!(bindings.len(), list(&pipeline["writes"]).len(), "{dispatch}");
        for (binding, writes) in bindings.iter().zip(list(&pipeline["writes"])) {
            let [buffer, offset, size] = [0, 1, 2].map(|i| number(&binding[i]));
            let (kind, most) =
                (&buffers[buffer as usize]["kind"], number(&buffers[buffer as usize]["bytes"]));
            assert!(offset.is_multiple_of(256) && size >= 16 && offset + size <= most, "{dispatch}");
            assert!(writes == false || !["input", "weights"].contains(&kind.as_str().unwrap()), "{dispatch}");
            written[buffer as usize] |= writes == true;
            // A dispatch must not bind a buffer both read-only and read-write.
            let both = bindings
                .iter()
                .zip(list(&pipeline["writes"]))
                .any(|(b, w)| b[0] == binding[0] && w != writes);
            assert!(!both, "{dispatch}");
        }
    }
    assert!(written[1], "the output is written");
    let shaders = files.keys().filter(|name| name.starts_with("shaders/")).count();
    let used: std::collections::BTreeSet<_> = pipelines.iter().map(|p| p["shader"].to_string()).collect();
    assert_eq!(shaders, used.len());

    let (_, refused) =
        expect(2, here, &["export", "--model", TINY, "--heads", "2", "--to", "web", "--out", "web"]);
    assert!(refused.contains("new or an empty folder"), "{refused}");
    assert_eq!(content(&here.join("web")), files);
}

/// Bytes of an element of an ONNX tensor.
fn element(data_type: i32) -> usize {
    match data_type {
        onnx::data_type::FLOAT => 4,
        onnx::data_type::FLOAT16 => 2,
        onnx::data_type::INT64 => 8,
        other => panic!("data type {other}"),
    }
}

/// Sizes of an input or output; 0 for the free one.
fn sizes(value: &onnx::Value) -> (i32, Vec<i64>) {
    let tensor = value.r#type.clone().unwrap().tensor_type.unwrap();
    let dims = tensor.shape.unwrap().dim;
    (tensor.elem_type, dims.iter().map(|dim| dim.dim_value.unwrap_or(0)).collect())
}

#[test]
fn onnx_graphs_are_complete() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let size = ["--size", "24x16", "--patch", "8", "--dim", "16", "--depth", "2", "--heads", "4"];
    expect(0, here, &[&["init", "--out", "m.safetensors"], &size[..]].concat());
    expect(0, here, &[&["init", "--reattention", "--out", "r.safetensors"], &size[..]].concat());
    let export = |model: &str, more: &[&str]| {
        let arguments = ["export", "--model", model, "--to", "onnx", "--out", "o.onnx"];
        let (_, said) = expect(0, here, &[&arguments, more].concat());
        let bytes = std::fs::read(here.join("o.onnx")).unwrap();
        assert!(said.contains(&format!("tensors, {} bytes", bytes.len())), "{said}");
        (onnx::Model::decode(&bytes[..]).unwrap(), bytes)
    };
    let f32s = onnx::data_type::FLOAT;
    for (model, more, name, wanted) in [
        ("m.safetensors", &[][..], "image", (f32s, vec![0, 3, 24, 16])),
        ("r.safetensors", &[], "image", (f32s, vec![0, 3, 24, 16])),
        ("m.safetensors", &["--input", "f32", "--parts", "2"], "image", (f32s, vec![0, 3, 24, 16])),
        ("m.safetensors", &["--input", "u8"], "image", (onnx::data_type::UINT8, vec![0, 24, 16, 3])),
        ("m.safetensors", &["--for", "boxmot", "--parts", "1"], "images", (f32s, vec![0, 3, 256, 128])),
        (
            "m.safetensors",
            &["--for", "ultralytics", "--tokens", "global"],
            "images",
            (f32s, vec![0, 3, 224, 224]),
        ),
    ] {
        let (file, bytes) = export(model, more);
        assert_eq!(bytes, export(model, more).1, "{more:?}");
        assert_eq!((file.ir_version, file.opset_import[0].version), (8, 17));
        let graph = file.graph.unwrap();
        assert_eq!((&graph.input[0].name[..], sizes(&graph.input[0])), (name, wanted), "{more:?}");
        let parts = if more.contains(&"--parts") { more[more.len() - 1].parse().unwrap() } else { 3 };
        assert_eq!(sizes(&graph.output[0]), (f32s, vec![0, parts * 16]), "{more:?}");
        // Every input of a node comes before it, and every result is used.
        let mut known: BTreeMap<&str, usize> = [(name, 0)].into();
        for tensor in &graph.initializer {
            let count: i64 = tensor.dims.iter().product();
            assert_eq!(tensor.raw_data.len(), count as usize * element(tensor.data_type), "{}", tensor.name);
            assert_eq!(known.insert(&tensor.name, 0), None, "{}", tensor.name);
        }
        for node in &graph.node {
            for input in &node.input {
                *known.get_mut(&input[..]).unwrap_or_else(|| panic!("{}: {input}", node.name)) += 1;
            }
            assert_eq!(known.insert(&node.output[0], 0), None, "{}", node.name);
        }
        let unused: Vec<_> = known.iter().filter(|(_, uses)| **uses == 0).map(|(name, _)| *name).collect();
        assert_eq!(unused, ["embedding"], "{more:?}");
        let properties: BTreeMap<_, _> =
            file.metadata_props.iter().map(|entry| (&entry.key[..], &entry.value[..])).collect();
        let preprocess: serde_json::Value = serde_json::from_str(properties["preprocess"]).unwrap();
        let scale = if more.contains(&"u8") { 1.0 } else { 1.0 / 255.0 };
        assert_eq!(preprocess["scale"], scale, "{more:?}");
        assert!(properties["lat_wgpu"].contains("\"gelt\""));
    }

    let (halves, bytes) = export("m.safetensors", &["--dtype", "f16"]);
    assert!(bytes.len() * 3 < export("m.safetensors", &[]).1.len() * 2);
    let network = load(&here.join("m.safetensors"));
    let graph = halves.graph.unwrap();
    let bias = graph.initializer.iter().find(|tensor| tensor.name == "blocks.1.attn.qkv.bias").unwrap();
    let rounded = network.tensors[&bias.name].data.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
    assert_eq!(bias.raw_data, rounded.collect::<Vec<u8>>());

    let refused = |more: &[&str]| {
        let export = ["export", "--model", "m.safetensors", "--out", "x"];
        expect(2, here, &[&export[..], more].concat()).1
    };
    assert!(refused(&["--to", "onnx", "--for", "boxmot", "--input", "u8"]).contains("--input"));
    assert!(!here.join("x").exists());
}
