//! `lat-wgpu adapt`: statistics, and their parts against numpy (tools/make_statistics_goldens.py); training on clusters,
//! with bit-identical resuming. tests/training.rs has its steps against PyTorch.

mod common;
#[path = "common/program.rs"]
mod program;

use common::context;
use lat_wgpu::checkpoint::{self, HostTensor, Network, STATISTICS_DEVIATION, STATISTICS_MEAN, Settings};
use lat_wgpu::embeddings;
use lat_wgpu::gpu::Recorder;
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::kernels::l2norm;
use lat_wgpu::kernels::part_linear::Layout;
use lat_wgpu::kernels::statistics::Forward;
use lat_wgpu::retrieval::statistics::{Statistics, Sums};
use lat_wgpu::shape::CameraStatistics;
use lat_wgpu::tasks::embed::Embedder;
use program::{TINY, expect};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Largest difference from numpy.
const TOLERANCE: f64 = 1e-6;

fn golden(name: &str) -> Value {
    let golden: Value = serde_json::from_str(include_str!("goldens/statistics.json")).unwrap();
    golden[name].clone()
}

/// A matrix of a golden, row by row.
fn matrix(golden: &Value, name: &str) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(golden[name].clone()).unwrap();
    rows.concat()
}

/// Rows in the statistics of the images of a golden: the last one for an unknown camera.
fn rows_of(golden: &Value, cameras: usize) -> Vec<u32> {
    let by: Vec<i64> = serde_json::from_value(golden["cameras"].clone()).unwrap();
    by.into_iter().map(|camera| u32::try_from(camera).unwrap_or(cameras as u32)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

#[track_caller]
fn assert_near(what: &str, found: &[f32], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = found.iter().zip(wanted).map(|(f, w)| (f64::from(*f) - w).abs()).fold(0.0, f64::max);
    println!("{what}: {:.1} % of the tolerance", 100.0 * largest / tolerance);
    assert!(largest <= tolerance, "{what}: {largest:e}");
}

#[test]
fn statistics_equal_those_of_numpy() {
    let golden = golden("gallery");
    let rows = narrow(&matrix(&golden, "rows"));
    let (cameras, parts) = (4, golden["parts"].as_u64().unwrap() as usize);
    let by = rows_of(&golden, cameras);
    let dim = rows.len() / by.len();
    let mut all = Sums::new(dim);
    let mut own = vec![Sums::new(dim); cameras];
    for (row, &camera) in rows.chunks(dim).zip(&by) {
        all.add(row);
        own.get_mut(camera as usize).iter_mut().for_each(|sums| sums.add(row));
    }
    let Statistics { mean, deviation } = Statistics::new(&own, &all);
    assert_near("means", &mean, &matrix(&golden, "mean"), TOLERANCE);
    assert_near("deviations", &deviation, &matrix(&golden, "deviation"), TOLERANCE);

    // The embeddings less these statistics.
    let context = context();
    let upload = |label: &str, values: &[f32]| context.upload(label, values).unwrap();
    let buffers =
        [upload("x", &rows), upload("mean", &mean), upload("deviation", &deviation), upload("y", &rows)];
    let words = context.buffer("cameras", by.len()).unwrap();
    context.write(&words, bytemuck::cast_slice(&by));
    for (name, divided) in [("embeddings", false), ("divided", true)] {
        let mut recorder = Recorder::new(context);
        let [x, mean, deviation, y] = buffers.each_ref().map(|buffer| recorder.import(buffer));
        let (cameras, batch, row) = (Some(recorder.import(&words)), by.len(), cameras);
        let centred = recorder.tensor("centred", x.len);
        let deviation = divided.then_some(deviation);
        Forward { x, mean, deviation, cameras, row, y: centred, batch }.record(&mut recorder, "statistics");
        let (dim, layout) = (dim / parts, Layout::SampleFirst);
        l2norm::Forward { x: centred, y, batch, parts, dim, layout }.record(&mut recorder, "l2norm");
        recorder.finish().unwrap().run(context).unwrap();
        assert_near(name, &context.read(&buffers[3]).unwrap(), &matrix(&golden, name), TOLERANCE);
    }
}

/// The network of the golden `plain`, with the statistics of a golden.
fn with_statistics(golden: &Value, deviation: bool) -> Network {
    let settings = Settings { heads: Some(2), ..Settings::default() };
    let mut network = checkpoint::load(Path::new(TINY), &settings).unwrap();
    let rows = golden["mean"].as_array().unwrap().len();
    let shape = vec![rows, network.config.embedding_len()];
    let mut insert = |name: &str, values: &str| {
        let data = narrow(&matrix(golden, values));
        network.tensors.insert(name.to_string(), HostTensor { shape: shape.clone(), data });
    };
    insert(STATISTICS_MEAN, "mean");
    if deviation {
        insert(STATISTICS_DEVIATION, "deviation");
    }
    network.config.statistics = Some(CameraStatistics {
        cameras: (1..rows).map(|camera| camera.to_string()).collect(),
        images: vec![20; rows],
        deviation,
        folders: false,
    });
    network
}

#[test]
fn the_network_subtracts_the_statistics_of_the_cameras() {
    let golden = golden("network");
    let bytes = std::fs::read(TINY.replace("model.safetensors", "golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let images: Vec<Rgb> = file
        .tensor("images")
        .unwrap()
        .data()
        .chunks(32 * 32 * 3)
        .map(|pixels| Rgb { height: 32, width: 32, pixels: pixels.to_vec() })
        .collect();
    for (name, deviation) in [("embeddings", false), ("divided", true)] {
        let network = with_statistics(&golden, deviation);
        let by = rows_of(&golden, network.config.statistics.as_ref().unwrap().all());
        let mut embedder = Embedder::new(context(), &network, Some(3), 1 << 30).unwrap();
        let found = embedder.embed_by(&images, &by).unwrap();
        // The network's own error grows as differences are brought to unit length.
        assert_near(name, &found, &matrix(&golden, name), 2e-6);
        // An image without a name is by an unknown camera.
        let unknown = embedder.embed(&images[1..2]).unwrap();
        let dim = embedder.dim();
        assert_near(name, &unknown, &matrix(&golden, name)[dim..2 * dim], 2e-6);
    }
}

/// Crops of persons by two cameras, and the embeddings of a model.
fn rows(here: &Path, model: &str, more: &[&str]) -> (Vec<String>, Vec<f32>, String) {
    let command = ["embed", "crops", "--out", "e.safetensors", "--model", model];
    let (_, stderr) = expect(0, here, &[&command, more].concat());
    let read = embeddings::open(&here.join("e.safetensors")).unwrap();
    let mut values = vec![0.0; read.rows.len() * read.rows.dim()];
    read.rows.read(0..read.rows.len(), &mut values).unwrap();
    (read.names, values, stderr)
}

const ADAPT: [&str; 6] = ["adapt", "--statistics-only", "--model", TINY, "--heads", "2"];

fn adapt(here: &Path, out: &str, more: &[&str]) -> (Vec<u8>, String, String) {
    let (stdout, stderr) = expect(0, here, &[&ADAPT[..], &["--out", out], more].concat());
    (std::fs::read(here.join(out)).unwrap(), stdout, stderr)
}

#[test]
fn a_model_keeps_the_statistics_of_its_cameras() {
    let folder = program::crops(12);
    let here = folder.path();
    let (model, table, warning) = adapt(here, "a.safetensors", &["--images", "crops", "--deviation"]);
    assert!(table.contains("camera  images\n1           12\n2           12\nall         24\n"), "{table}");
    assert!(warning.contains("warning: cameras with few images: 1 (12), 2 (12)"), "{warning}");
    assert!(model == adapt(here, "again.safetensors", &["--images", "crops", "--deviation"]).0);

    // Against f64, from the embeddings of the model as it was.
    let (names, plain, _) = rows(here, TINY, &["--heads", "2"]);
    let dim = plain.len() / names.len();
    let (mut all, mut own) = (Sums::new(dim), [Sums::new(dim), Sums::new(dim)]);
    let camera = |name: &String| usize::from(name.contains("_c2"));
    for (name, row) in names.iter().zip(plain.chunks(dim)) {
        all.add(row);
        own[camera(name)].add(row);
    }
    let Statistics { mean, deviation } = Statistics::new(&own, &all);
    let network = checkpoint::load(&here.join("a.safetensors"), &Settings::default()).unwrap();
    let stored = |name: &str| &network.tensors[name].data;
    assert_eq!((stored(STATISTICS_MEAN), stored(STATISTICS_DEVIATION)), (&mean, &deviation));
    let parts = network.config.parts();
    let less = |row: &[f32], table: usize| -> Vec<f64> {
        let of = |values: &[f32], d: usize| f64::from(values[table * dim + d]);
        let divided = |d: usize| (f64::from(row[d]) - of(&mean, d)) / of(&deviation, d);
        let mut values: Vec<f64> = (0..dim).map(divided).collect();
        for part in values.chunks_mut(dim / parts) {
            let length = part.iter().map(|v| v * v).sum::<f64>().sqrt() * (parts as f64).sqrt();
            part.iter_mut().for_each(|v| *v /= length);
        }
        values
    };
    let by_camera = |camera: &dyn Fn(&String) -> usize| -> Vec<f64> {
        names.iter().zip(plain.chunks(dim)).flat_map(|(name, row)| less(row, camera(name))).collect()
    };
    let (_, adapted, stderr) = rows(here, "a.safetensors", &[]);
    assert_near("by camera", &adapted, &by_camera(&camera), TOLERANCE);
    assert!(!stderr.contains("mean of all images"), "{stderr}");
    for (more, table) in [(["--camera", "none"], 2), (["--camera", "c2"], 1), (["--camera", "9"], 2)] {
        let (_, found, stderr) = rows(here, "a.safetensors", &more);
        assert_near(&more.join(" "), &found, &by_camera(&|_| table), TOLERANCE);
        let is_noted = stderr.contains("24 of 24 images are by no camera of the model's statistics (1, 2)");
        assert_eq!(is_noted, more[1] == "9", "{stderr}");
    }
    // A table of cameras.
    let lines: Vec<String> = names.iter().map(|name| format!("{name},{}\n", 2 - camera(name))).collect();
    std::fs::write(here.join("swapped.csv"), format!("path,camera\n{}", lines.concat())).unwrap();
    let (_, swapped, _) = rows(here, "a.safetensors", &["--cameras", "swapped.csv"]);
    assert_near("swapped", &swapped, &by_camera(&|name| 1 - camera(name)), TOLERANCE);
    let refused = ["embed", "crops", "--out", "x.npy", "--cameras", "swapped.csv"];
    let (_, stderr) = expect(2, here, &[&refused[..], &["--model", TINY, "--heads", "2"]].concat());
    assert!(stderr.contains("--cameras swapped.csv: the model has no camera"), "{stderr}");

    // The statistics are part of the weights: another gallery doesn't fit.
    let search = ["search", "--query", "crops", "--gallery", "e.safetensors"];
    let (_, stderr) = expect(1, here, &[&search[..], &["--model", TINY, "--heads", "2"]].concat());
    assert!(stderr.contains("different weights"), "{stderr}");
    let (found, _) = expect(0, here, &[&search[..], &["--model", "a.safetensors", "--top", "1"]].concat());
    assert!(found.contains("0.0"), "{found}");

    let (text, _) = expect(0, here, &["inspect", "a.safetensors"]);
    let wanted = "camera statistics: means and deviations of 1 (12 images), 2 (12 images), all (24)";
    assert!(text.contains(wanted), "{text}");
    // New statistics take the place of the old ones.
    let command = ["adapt", "--statistics-only", "--images", "crops", "--deviation", "--model"];
    let (_, stderr) = expect(0, here, &[&command[..], &["a.safetensors", "--out", "b.safetensors"]].concat());
    assert!(stderr.contains("camera statistics are left out"), "{stderr}");
    assert!(model == std::fs::read(here.join("b.safetensors")).unwrap());
    // Statistics of other settings don't apply.
    let (_, other, stderr) = rows(here, "a.safetensors", &["--lambda", "3"]);
    assert!(stderr.contains("left out: they were computed with other settings"), "{stderr}");
    assert!(other == rows(here, TINY, &["--heads", "2", "--lambda", "3"]).1);
}

#[test]
fn cameras_come_from_names_folders_or_a_table() {
    let folder = program::crops(6);
    let here = folder.path();
    let (mut table, mut moved) = ("path,camera,note\n".to_string(), String::new());
    for entry in std::fs::read_dir(here.join("crops")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let camera = if name.contains("_c2") { "2" } else { "1" };
        table.push_str(&format!("{name},{camera},x\n"));
        let target = here.join("places").join(camera).join("may");
        std::fs::create_dir_all(&target).unwrap();
        std::fs::copy(here.join("crops").join(&name), target.join(name.replace("_c", "-"))).unwrap();
        moved = format!("places/{camera}/may/{}", name.replace("_c", "-"));
    }
    std::fs::write(here.join("t.csv"), table).unwrap();
    let names = adapt(here, "a.safetensors", &["--images", "crops"]).0;
    assert!(names == adapt(here, "b.safetensors", &["--images", "crops", "--cameras", "t.csv"]).0);
    adapt(here, "c.safetensors", &["--images", "places", "--cameras", "folders"]);
    let load = |name: &str| checkpoint::load(&here.join(name), &Settings::default()).unwrap();
    let (by_names, by_folders) = (load("a.safetensors"), load("c.safetensors"));
    assert_eq!(by_names.tensors[STATISTICS_MEAN].shape, by_folders.tensors[STATISTICS_MEAN].shape);
    let [own, other] = [&by_names, &by_folders].map(|network| network.config.statistics.clone().unwrap());
    assert_eq!(CameraStatistics { folders: true, ..own }, other);
    // The order of the images differs, and so the last bits of the sums.
    let wanted: Vec<f64> = by_names.tensors[STATISTICS_MEAN].data.iter().map(|&v| f64::from(v)).collect();
    assert_near("by folders", &by_folders.tensors[STATISTICS_MEAN].data, &wanted, 1e-7);
    // Embedding then takes the folders, too.
    for (input, noted) in [("places", false), (moved.as_str(), false), ("crops", true)] {
        let command = ["embed", input, "--model", "c.safetensors", "--out", "e.npy"];
        let (_, stderr) = expect(0, here, &command);
        assert_eq!(stderr.contains("mean of all images is subtracted"), noted, "{input}: {stderr}");
    }

    // Images without a camera count among all.
    let (_, text, _) = adapt(here, "d.safetensors", &["--images", "places", "--json", "s.json"]);
    assert!(text.contains("all         12") && text.contains("12 of all are by an unknown camera"), "{text}");
    let summary: Value = serde_json::from_slice(&std::fs::read(here.join("s.json")).unwrap()).unwrap();
    assert_eq!((&summary["images"], &summary["without_camera"]), (&12.into(), &12.into()));
    assert_eq!(summary["cameras"], serde_json::json!([]));

    let one = std::fs::read_dir(here.join("crops")).unwrap().next().unwrap().unwrap().path();
    std::fs::create_dir(here.join("one")).unwrap();
    std::fs::copy(&one, here.join("one/a.png")).unwrap();
    std::fs::create_dir(here.join("broken")).unwrap();
    std::fs::write(here.join("broken/a.png"), "no image").unwrap();
    std::fs::write(here.join("bad.csv"), "path,place\na.png,1\n").unwrap();
    std::fs::write(here.join("two.csv"), "path,camera\na.png,1\na.png,2\n").unwrap();
    for (code, more, words) in [
        (1, &["--images", "one"][..], "more than one image"),
        (1, &["--images", "broken"], "no image could be read"),
        (1, &["--images", "none"], "none"),
        (
            1,
            &["--images", "crops", "--cameras", "bad.csv"],
            "no column camera in the header; needed are path,camera,",
        ),
        (
            1,
            &["--images", "crops", "--cameras", "two.csv"],
            "line 3: a.png is by camera 2 here and by camera 1",
        ),
        (1, &["--images", "crops", "--cameras", "folder"], "folder"),
    ] {
        let (_, stderr) = expect(code, here, &[&ADAPT[..], &["--out", "x.safetensors"], more].concat());
        assert!(stderr.contains(words), "{more:?}: {stderr}");
    }
    let useless = [&ADAPT[..], &["--images", "crops", "--out", "x.safetensors", "--lr", "1"]].concat();
    let (_, stderr) = expect(2, here, &useless);
    assert!(stderr.contains("--lr has no effect with --statistics-only"), "{stderr}");
    let (_, stderr) = expect(2, here, &ADAPT);
    assert!(stderr.contains("missing --images, --out"), "{stderr}");
    assert!(!here.join("x.safetensors").exists());
}

#[test]
fn other_commands_know_the_statistics() {
    let folder = program::figures("2");
    let here = folder.path();
    let model = ["--model", TINY, "--heads", "2"];
    let images = ["--images", "figures/bounding_box_train"];
    // In f16, tensors stay as they are.
    let export = ["export", "--to", "timm", "--dtype", "f16", "--out", "half.safetensors"];
    expect(0, here, &[&export[..], &model].concat());
    let command = ["adapt", "--statistics-only", "--model", "half.safetensors", "--out", "a.safetensors"];
    expect(0, here, &[&command[..], &images].concat());
    let (tensors, _) = checkpoint::list(&here.join("a.safetensors")).unwrap();
    for tensor in &tensors {
        let wanted = if tensor.name == STATISTICS_MEAN { "F32" } else { "F16" };
        assert_eq!(tensor.dtype, wanted, "{}", tensor.name);
    }
    let load = |name: &str| checkpoint::load(&here.join(name), &Settings::default()).unwrap();
    let (half, adapted) = (load("half.safetensors"), load("a.safetensors"));
    let mut without = adapted.tensors.clone();
    without.remove(STATISTICS_MEAN);
    assert_eq!(without, half.tensors);

    let (_, stderr) = expect(0, here, &["eval", "--model", "a.safetensors", "--data", "figures"]);
    assert!(stderr.contains("statistics are of 16 images") && stderr.contains("not zero-shot"), "{stderr}");
    assert!(!stderr.contains("by no camera"), "{stderr}");

    // Exports subtract the mean of all images.
    expect(0, here, &["export", "--model", "a.safetensors", "--to", "timm", "--out", "t.safetensors"]);
    assert_eq!(load("t.safetensors").tensors, adapted.tensors);
    expect(0, here, &["export", "--model", "a.safetensors", "--to", "web", "--out", "web"]);
    let plan: Value = serde_json::from_slice(&std::fs::read(here.join("web/plan.json")).unwrap()).unwrap();
    let dispatches = plan["dispatches"].as_array().unwrap();
    let labels: Vec<&str> =
        dispatches.iter().rev().take(3).map(|dispatch| dispatch["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["statistics.l2norm", "statistics", "l2norm"]);
    let subtraction = &dispatches[dispatches.len() - 2];
    assert_eq!(subtraction["params"], serde_json::json!([1, 128, 2, 0]), "the last of three rows");
    assert_eq!(plan["weights_sha256"], adapted.weights_sha256());

    // A backbone gives its statistics up: training changes the embeddings.
    let train =
        ["train", "--data", "figures", "--backbone", "a.safetensors", "--out", "run", "--max-steps", "1"];
    let (_, stderr) = expect(0, here, &[&train[..], &["--batch-size", "4"]].concat());
    assert!(stderr.contains("camera statistics are left out"), "{stderr}");
    assert_eq!(load("run/last.safetensors").config.statistics, None);

    // The model of a training run keeps its classifiers and the hashes of its images.
    let command = ["adapt", "--statistics-only", "--model", "run/last.safetensors", "--out", "b.safetensors"];
    expect(0, here, &[&command[..], &images].concat());
    let [before, after] = ["run/last.safetensors", "b.safetensors"].map(load);
    assert_eq!((before.classifiers, before.class_names), (after.classifiers, after.class_names));
    let hashes = |name: &str| checkpoint::read_trained_on(&here.join(name)).unwrap();
    assert!(hashes("b.safetensors").is_some() && hashes("run/last.safetensors") == hashes("b.safetensors"));
}

#[test]
fn damaged_statistics_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let golden = golden("network");
    let refusal = |change: &dyn Fn(&mut Network)| {
        let mut network = with_statistics(&golden, true);
        change(&mut network);
        let metadata = checkpoint::lat_wgpu_metadata(&network.config, &network.preprocess, None);
        checkpoint::save(&path, &network.tensors, &BTreeMap::new(), metadata.text()).unwrap();
        checkpoint::load(&path, &Settings::default()).map(drop).map_err(|error| error.with_causes())
    };
    assert!(refusal(&|_| {}).is_ok());
    fn statistics(network: &mut Network) -> &mut CameraStatistics {
        network.config.statistics.as_mut().unwrap()
    }
    for (change, words) in [
        (&(|n: &mut Network| statistics(n).cameras[1] = "1".into()) as &dyn Fn(&mut Network), "a name twice"),
        (&|n| statistics(n).images.truncate(1), "without counts"),
        (&|n| n.tensors.get_mut(STATISTICS_DEVIATION).unwrap().data[5] = 0.0, "deviations above 0"),
        (&|n| drop(n.tensors.remove(STATISTICS_DEVIATION)), "statistics.deviation"),
        (&|n| n.tensors.get_mut(STATISTICS_MEAN).unwrap().shape = vec![128, 3], "statistics.mean"),
        (&|n| n.config.statistics = None, "an unknown tensor"),
    ] {
        let message = refusal(change).unwrap_err();
        assert!(message.contains(words), "{words}: {message}");
    }
}

/// `adapt` on the synthetic images in `figures`, without their labels: 4 persons by 2 cameras with 4 images each.
fn clustered(folder: &Path, more: &[&str]) -> Command {
    let mut arguments =
        vec!["adapt", "--model", TINY, "--heads", "2", "--images", "figures/bounding_box_train"];
    arguments.extend(["--k1", "8", "--k2", "2", "--min-samples", "2", "--epochs", "3", "--passes", "2"]);
    arguments.extend([
        "--persons-per-batch",
        "3",
        "--images-per-person",
        "2",
        "--batch-size",
        "6",
        "--lr",
        "1e-3",
    ]);
    arguments.extend(more);
    program::program(folder, &arguments)
}

fn lines(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn clusters_take_the_place_of_persons() {
    let folder = program::figures("4");
    let here = folder.path();
    let evaluated = ["--eval-every", "2", "--data", "figures"];
    let (_, stderr) = program::finish(0, clustered(here, &["--out", "run", "--verbose"]).args(evaluated));
    let run = here.join("run");
    let log = lines(&run);
    let epochs: Vec<&Value> = log.iter().filter(|line| line["kind"] == "epoch").collect();
    assert_eq!((log.len(), epochs.len()), (3 * 10 + 3, 3));
    for epoch in &epochs {
        let count = |key: &str| epoch[key].as_u64().unwrap();
        assert!(count("clusters") >= 2 && count("outliers") + 2 * count("clusters") <= 32, "{epoch}");
        assert!(count("largest") <= 32 - count("outliers"), "{epoch}");
        // The radius of the first epoch stays.
        assert_eq!(epoch["eps"], epochs[0]["eps"]);
        let note = format!("epoch {}: {} clusters of ", epoch["epoch"], epoch["clusters"]);
        assert!(stderr.contains(&note), "{note}: {stderr}");
    }
    assert!(stderr.contains("eps 0.65: "), "{stderr}");
    let scores: Vec<bool> = epochs.iter().map(|epoch| epoch["map"].is_number()).collect();
    assert_eq!(scores, [false, true, true]);
    assert!(std::fs::read_to_string(run.join("curves.svg")).unwrap().contains("Clusters"));
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("images = \"figures/bounding_box_train\"") && config.contains("eps = \"auto\""));
    assert!(stderr.contains("next: lat-wgpu eval --model run/best.safetensors --data figures"), "{stderr}");

    // The model has its own statistics and its BatchNorm, but no classifier, and embeds as it was scored.
    let best = run.join("best.safetensors");
    let network = checkpoint::load(&best, &Settings::default()).unwrap();
    let statistics = network.config.statistics.clone().unwrap();
    assert_eq!(
        (&statistics.cameras[..], &statistics.images[..]),
        (&["1".into(), "2".into()][..], &[16, 16, 32][..])
    );
    let names: Vec<String> =
        checkpoint::list(&best).unwrap().0.into_iter().map(|tensor| tensor.name).collect();
    assert!(names.iter().any(|name| name == "heads.0.bn.weight"), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with("classifier.weight")), "{names:?}");
    let eval = ["eval", "--model", "run/best.safetensors", "--data", "figures", "--json", "e.json"];
    let (_, stderr) = expect(0, here, &eval);
    assert!(stderr.contains("not zero-shot"), "{stderr}");
    let scored: Value = serde_json::from_slice(&std::fs::read(here.join("e.json")).unwrap()).unwrap();
    assert_eq!(scored["map"], epochs[2]["map"], "{scored}");

    // A second run starts from the BatchNorm of the first.
    let again = ["--model", "run/best.safetensors", "--out", "again", "--max-steps", "0"];
    program::finish(0, &mut clustered(here, &again));
    let neck = |run: &str| {
        let network =
            checkpoint::load(&here.join(run).join("best.safetensors"), &Settings::default()).unwrap();
        network.tensors["heads.3.bn.running_var"].data.clone()
    };
    assert!(neck("again") == neck("run") && neck("run").iter().any(|&v| v != 1.0));
}

#[test]
fn averaged_weights_have_statistics_of_their_own() {
    let folder = program::figures("4");
    let here = folder.path();
    program::finish(0, &mut clustered(here, &["--out", "run", "--ema", "0.9", "--lr", "1e-2"]));
    let command = ["adapt", "--statistics-only", "--model", "run/best.safetensors"];
    expect(
        0,
        here,
        &[&command[..], &["--images", "figures/bounding_box_train", "--out", "again.safetensors"]].concat(),
    );
    let means = |file: &str| {
        let network = checkpoint::load(&here.join(file), &Settings::default()).unwrap();
        network.tensors[STATISTICS_MEAN].data.clone()
    };
    let wanted: Vec<f64> = means("again.safetensors").iter().map(|&mean| f64::from(mean)).collect();
    assert_near("means", &means("run/best.safetensors"), &wanted, 1e-5);
}

#[test]
fn a_resumed_run_on_clusters_equals_an_uninterrupted_one() {
    let folder = program::figures("4");
    let here = folder.path();
    let file = |run: &str, name: &str| std::fs::read(here.join(run).join(name)).unwrap();
    for run in ["whole", "twice"] {
        program::finish(0, &mut clustered(here, &["--out", run]));
    }
    for (run, stops) in [("inside", &["1", "15"][..]), ("between", &["10"]), ("at the start", &["0", "29"])] {
        for stop in stops {
            program::finish(0, &mut clustered(here, &["--out", run, "--resume", "--max-steps", stop]));
        }
        let (_, stderr) = expect(0, here, &["adapt", "--out", run, "--resume"]);
        assert!(stderr.contains("best.safetensors: epoch 2"), "{stderr}");
    }
    #[cfg(unix)]
    {
        let mut command = clustered(here, &["--out", "killed"]);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        while std::fs::read_to_string(here.join("killed/log.jsonl")).unwrap_or_default().lines().count() < 14
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        program::signal(&child, "-TERM");
        assert_eq!(child.wait().unwrap().code(), Some(143));
        expect(0, here, &["adapt", "--out", "killed", "--resume"]);
    }
    let losses = |run: &str| -> Vec<Value> {
        lines(&here.join(run)).iter().map(|line| line["loss"].clone()).collect()
    };
    for run in ["twice", "inside", "between", "at the start", "killed"] {
        if run != "killed" || cfg!(unix) {
            assert_eq!(losses(run), losses("whole"), "{run}");
            for name in ["last.safetensors", "best.safetensors"] {
                assert!(file(run, name) == file("whole", name), "{run}: {name}");
            }
        }
    }
}

#[test]
fn impossible_clusters_are_refused_with_a_reason() {
    let folder = program::figures("1");
    let here = folder.path();
    for (code, more, words) in [
        (1, &["--out", "a", "--eps", "0.5", "--min-samples", "20"][..], "eps 0.5 gives 0 clusters"),
        (2, &["--out", "b", "--eps", "1"], "expected \"auto\" or a number from 0 to below 1"),
        (2, &["--out", "c", "--eval-every", "1"], "--eval-every needs --data"),
        (
            2,
            &["--out", "d", "--set", "loss.identity=1"],
            "cluster.images must be absent unless loss.identity is 0",
        ),
        (2, &["--out", "e", "--set", "schedule.best=accuracy"], "unless schedule.best is last"),
        (2, &["--out", "f", "--json", "f.json"], "--statistics-only"),
        (1, &["--out", "g", "--cameras", "folder"], "folder"),
        (1, &["--out", "h", "--images", "nowhere"], "nowhere"),
    ] {
        let (_, stderr) = program::finish(code, &mut clustered(here, more));
        assert!(stderr.contains(words), "{more:?}: {stderr}");
    }
    let (plan, _) = program::finish(0, clustered(here, &[]).arg("--dry-run"));
    assert!(plan.contains("8 images train, 0 validate, clusters as classes"), "{plan}");
    let (_, stderr) = expect(2, here, &["adapt", "--model", TINY]);
    assert!(stderr.contains("missing --images, --out"), "{stderr}");
    // A model whose embedding depends on cameras.
    let train = [
        "train",
        "--data",
        "figures",
        "--backbone",
        TINY,
        "--heads",
        "2",
        "--out",
        "run",
        "--max-steps",
        "0",
    ];
    expect(0, here, &[&train[..], &["--camera-embedding", "3", "--batch-size", "4"]].concat());
    let refused = ["--out", "i", "--model", "run/best.safetensors"];
    let (_, stderr) = program::finish(2, &mut clustered(here, &refused));
    assert!(
        stderr.contains("a model with a camera embedding or a jigsaw can't train on clusters"),
        "{stderr}"
    );
}
