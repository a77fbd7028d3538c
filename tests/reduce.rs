//! `lat-wgpu reduce`.

#[path = "common/program.rs"]
mod program;

use lat_wgpu::embeddings::{self, Dtype, EmbeddingWriter};
use lat_wgpu::retrieval::pca::Projection;
use lat_wgpu::rng;
use program::{TINY, expect};
use serde_json::Value;
use std::collections::BTreeMap;
use tempfile::TempDir;

/// Persons on a circle in the first two of eight dimensions, cameras in the third, noise in the others.
fn gallery(names: impl Fn(u64, u64) -> String) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let people: Vec<(u64, u64)> =
        (1..=20).flat_map(|person| (1..=3).map(move |camera| (person, camera))).collect();
    let all: Vec<String> = people.iter().map(|&(person, camera)| names(person, camera)).collect();
    let file = folder.path().join("g.safetensors");
    let metadata = BTreeMap::from([("lat_wgpu".to_string(), r#"{"format":1}"#.to_string())]);
    let mut writer = EmbeddingWriter::create(&file, 8, Dtype::F32, &all, &metadata).unwrap();
    for (name, &(person, camera)) in all.iter().zip(&people) {
        let angle = person as f32 * std::f32::consts::TAU / 20.0;
        let mut row: Vec<f32> = (0..8).map(|i| 0.02 * (rng::uniform(camera, person, i) - 0.5)).collect();
        row[0] += angle.cos();
        row[1] += angle.sin();
        row[2] += 0.05 * camera as f32;
        writer.push(name, &row).unwrap();
    }
    writer.finish().unwrap();
    folder
}

fn market(person: u64, camera: u64) -> String {
    format!("{person:04}_c{camera}s1_000001_00.jpg")
}

#[test]
fn table_shows_the_loss_per_dimension() {
    let folder = gallery(market);
    let here = folder.path();
    let fit = ["reduce", "g.safetensors", "--dim", "1,3,8", "--out", "pca.safetensors"];
    let value = |more: &[&str]| -> Value {
        serde_json::from_str(&expect(0, here, &[&fit[..], &["--json", "-"], more].concat()).0).unwrap()
    };
    let table = value(&[]);
    assert_eq!(
        (&table["rows"], &table["full_dim"], &table["method"]),
        (&60.into(), &8.into(), &"covariance".into())
    );
    let figure = |i: usize, key: &str| table["dims"][i][key].as_f64().unwrap();
    let whole = table["map"].as_f64().unwrap();
    assert!(figure(0, "lost") > 0.2, "one direction can't hold a circle: {table}");
    assert!(figure(1, "lost").abs() < 0.02, "{table}");
    assert!(figure(2, "lost").abs() < 1e-9, "all directions lose nothing: {table}");
    assert!(figure(0, "variance") < 0.6 && figure(1, "variance") > 0.99, "{table}");
    assert!((figure(2, "variance") - 1.0).abs() < 1e-6, "{table}");
    for i in 0..3 {
        assert!((whole - figure(i, "map") - figure(i, "lost")).abs() < 1e-12);
    }
    let scores: Value = serde_json::from_str(
        &expect(
            0,
            here,
            &[
                "eval",
                "--query-embeddings",
                "g.safetensors",
                "--gallery-embeddings",
                "g.safetensors",
                "--json",
                "-",
            ],
        )
        .0,
    )
    .unwrap();
    assert!((scores["map"].as_f64().unwrap() - whole).abs() < 1e-12, "as in eval");
    let same = value(&["--query-embeddings", "g.safetensors"]);
    assert_eq!(same["dims"], table["dims"]);

    // The written projection has the measured score, and is repeatable.
    let (text, stderr) = expect(0, here, &fit);
    assert!(text.lines().count() == 5 && text.contains("variance"), "{text}");
    assert!(stderr.contains("fitted on 60 of 60 rows (covariance)"), "{stderr}");
    let bytes = std::fs::read(here.join("pca.safetensors")).unwrap();
    expect(0, here, &fit);
    assert_eq!(std::fs::read(here.join("pca.safetensors")).unwrap(), bytes);

    let three = ["reduce", "g.safetensors", "--dim", "3", "--out", "three.safetensors"];
    expect(0, here, &three);
    for out in ["r.safetensors", "r.npy", "r.parquet"] {
        expect(0, here, &["reduce", "g.safetensors", "--apply", "three.safetensors", "--out", out]);
        let (full, reduced) = (
            embeddings::read(&here.join("g.safetensors")).unwrap(),
            embeddings::read(&here.join(out)).unwrap(),
        );
        assert_eq!((&reduced.paths, reduced.dim), (&full.paths, 3));
        let projection = Projection::read(&here.join("three.safetensors")).unwrap();
        assert_eq!(reduced.rows, projection.apply(&full.rows), "{out}");
    }
    let scores = expect(
        0,
        here,
        &["eval", "--query-embeddings", "r.npy", "--gallery-embeddings", "r.parquet", "--json", "-"],
    );
    let scores: Value = serde_json::from_str(&scores.0).unwrap();
    assert!((scores["map"].as_f64().unwrap() - figure(1, "map")).abs() < 1e-9);
}

#[test]
fn labels_are_optional() {
    let folder = gallery(|person, camera| format!("{person}/{camera}.jpg"));
    let here = folder.path();
    let fit = ["reduce", "g.safetensors", "--dim", "2", "--out", "pca.safetensors"];
    // Without labels no adapter is needed.
    let (text, stderr) = expect(0, here, &[&fit[..], &["--adapter", "no such adapter"]].concat());
    assert!(stderr.contains("note: mAP is not measured: 1/1.jpg"), "{stderr}");
    assert!(text.lines().count() == 3, "{text}");
    let mut table = "path,person,camera\n".to_string();
    for person in 1..=20 {
        for camera in 1..=3 {
            table.push_str(&format!("{person}/{camera}.jpg,{person},{camera}\n"));
        }
    }
    std::fs::write(here.join("labels.csv"), &table).unwrap();
    let (text, _) = expect(0, here, &[&fit[..], &["--labels", "labels.csv", "--json", "-"]].concat());
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["map"].is_number() && value["dims"][0]["lost"].is_number(), "{value}");
    std::fs::write(here.join("labels.csv"), table.replace("20/3.jpg", "20/4.jpg")).unwrap();
    let (_, stderr) = expect(1, here, &[&fit[..], &["--labels", "labels.csv"]].concat());
    assert!(stderr.contains("labels.csv does not list 20/3.jpg"), "{stderr}");
}

#[test]
fn impossible_reductions_are_refused() {
    let folder = gallery(market);
    let here = folder.path();
    let (_, stderr) = expect(2, here, &["reduce", "g.safetensors", "--dim", "9", "--out", "p.safetensors"]);
    assert!(stderr.contains("to 1 to 8 dimensions, not to 9"), "{stderr}");
    expect(2, here, &["reduce", "g.safetensors", "--out", "p.safetensors"]);
    expect(2, here, &["reduce", "g.safetensors", "--dim", "0", "--out", "p.safetensors"]);
    expect(2, here, &["reduce", "g.safetensors", "--dim", "2", "--apply", "g.safetensors", "--out", "p.npy"]);
    let (_, stderr) =
        expect(1, here, &["reduce", "g.safetensors", "--apply", "g.safetensors", "--out", "p.npy"]);
    assert!(stderr.contains("is no projection"), "{stderr}");
    expect(1, here, &["reduce", "none.npy", "--dim", "2", "--out", "p.safetensors"]);
    assert!(!here.join("p.npy").exists() && !here.join("p.safetensors").exists());
}

#[test]
fn embed_reduces_like_reduce() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    expect(0, here, &["synth", "set", "--persons", "6", "--cameras", "2", "--images", "1"]);
    let embed = |out: &str, more: &[&str], code: i32| {
        let arguments = ["embed", "--model", TINY, "--heads", "2", "set/bounding_box_train", "--out", out];
        expect(code, here, &[&arguments[..], more].concat()).1
    };
    embed("full.safetensors", &[], 0);
    expect(0, here, &["reduce", "full.safetensors", "--dim", "4", "--out", "pca.safetensors"]);
    embed("short.safetensors", &["--reduce", "pca.safetensors", "--json", "s.json"], 0);
    expect(
        0,
        here,
        &["reduce", "full.safetensors", "--apply", "pca.safetensors", "--out", "later.safetensors"],
    );
    let bytes = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert!(bytes("short.safetensors") == bytes("later.safetensors"));
    let summary: Value = serde_json::from_slice(&bytes("s.json")).unwrap();
    assert_eq!((&summary["dim"], &summary["reduce"]), (&4.into(), &"pca.safetensors".into()));

    // Shards of reduced embeddings merge like others.
    for shard in ["1/2", "2/2"] {
        embed("parts", &["--reduce", "pca.safetensors", "--shard", shard], 0);
    }
    expect(0, here, &["merge", "parts", "--out", "merged.safetensors"]);
    assert!(bytes("short.safetensors") == bytes("merged.safetensors"));
    let stderr = embed("parts", &["--shard", "1/2"], 1);
    assert!(stderr.contains("reduction"), "{stderr}");
    let stderr = embed("o.npy", &["--reduce", "pca.safetensors", "--size", "48x16"], 1);
    assert!(stderr.contains("the projection is for 128 dimensions"), "{stderr}");
    let stderr = embed("o.npy", &["--reduce", "pca.safetensors", "--lambda", "0.1"], 1);
    assert!(stderr.contains("model.gelt.lambda: 0.8, not 0.1"), "{stderr}");
    let stderr = embed("o.npy", &["--reduce", "pca.safetensors", "--flip"], 1);
    assert!(stderr.contains("flip: null, not true"), "{stderr}");
}

#[test]
fn a_model_keeps_its_components() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    expect(0, here, &["synth", "set", "--persons", "8", "--cameras", "2", "--images", "2"]);
    let size = ["--size", "32x16", "--patch", "8", "--dim", "16", "--depth", "1", "--heads", "2"];
    expect(0, here, &[&["init", "--out", "m.safetensors"], &size[..]].concat());
    let half =
        ["export", "--model", "m.safetensors", "--to", "timm", "--dtype", "f16", "--out", "h.safetensors"];
    expect(0, here, &half);
    let embed = |code: i32, model: &str, out: &str, more: &[&str]| {
        let arguments = ["embed", "--model", model, "set/bounding_box_test", "--out", out];
        expect(code, here, &[&arguments[..], more].concat()).1
    };
    let rows = |file: &str| embeddings::read(&here.join(file)).unwrap();
    embed(0, "h.safetensors", "whole.safetensors", &[]);
    let stderr = embed(2, "h.safetensors", "x.npy", &["--dim", "4"]);
    assert!(stderr.contains("no principal components") && stderr.contains("reduce EMBEDDINGS"), "{stderr}");

    let fit = ["reduce", "whole.safetensors", "--dim", "6,4", "--into", "h.safetensors"];
    let (table, _) = expect(0, here, &[&fit[..], &["--json", "-"]].concat());
    let table: Value = serde_json::from_str(&table).unwrap();
    assert_eq!((&table["out"], table["dims"][1]["map"].is_number()), (&"h.safetensors".into(), true));
    let stored = std::fs::read(here.join("h.safetensors")).unwrap();
    // The network is the same, and a second fit replaces the first.
    embed(0, "h.safetensors", "again.safetensors", &[]);
    assert_eq!(rows("again.safetensors"), rows("whole.safetensors"));
    expect(0, here, &fit);
    assert_eq!(std::fs::read(here.join("h.safetensors")).unwrap(), stored);

    embed(0, "h.safetensors", "four.safetensors", &["--dim", "4"]);
    let projection = ["reduce", "whole.safetensors", "--dim", "6", "--out", "pca.safetensors"];
    expect(0, here, &projection);
    let projection = Projection::read(&here.join("pca.safetensors")).unwrap().leading(4).to_unit();
    let four = rows("four.safetensors");
    assert_eq!((four.dim, &four.rows), (4, &projection.apply(&rows("whole.safetensors").rows)));
    for row in four.rows.chunks(4) {
        let length: f32 = row.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }

    // `eval` shows the cost, `search` takes a gallery of the same kind alone.
    let eval = ["eval", "--model", "h.safetensors", "--data", "set"];
    let scores = |more: &[&str]| -> Value {
        serde_json::from_str(&expect(0, here, &[&eval[..], more, &["--json", "-"]].concat()).0).unwrap()
    };
    let (whole, reduced) = (scores(&[]), scores(&["--dim", "4"]));
    assert_eq!((&reduced["dim"], &reduced["without_dim"]["map"]), (&4.into(), &whole["map"]));
    assert_ne!(reduced["map"], whole["map"]);
    let (text, _) = expect(0, here, &[&eval[..], &["--dim", "4"]].concat());
    assert!(text.contains("  without --dim"), "{text}");
    let search = ["search", "--model", "h.safetensors", "--query", "set/query", "--dim", "4", "--gallery"];
    expect(0, here, &[&search[..], &["four.safetensors"]].concat());
    let (_, stderr) = expect(1, here, &[&search[..], &["whole.safetensors"]].concat());
    assert!(stderr.contains("both or neither must be reduced"), "{stderr}");

    for (code, arguments, words) in [
        (2, &["embed", "--dim", "7", "set", "--out", "x.npy"][..], "has 6 principal components"),
        (2, &["embed", "--dim", "4", "--reduce", "pca.safetensors", "set", "--out", "x.npy"], "--reduce"),
        (1, &["embed", "--dim", "4", "--flip", "set", "--out", "x.npy"], "flip"),
        (1, &["embed", "--dim", "4", "--parts", "1", "set", "--out", "x.npy"], "dimensions"),
        (2, &["eval", "--dim", "4", "--data", "set", "--distance", "aligned"], "--dim"),
        (2, &["eval", "--dim", "4", "--data", "set", "--fpr", "0.1", "--store-threshold"], "--dim"),
    ] {
        let arguments = [&arguments[..1], &["--model", "h.safetensors"], &arguments[1..]].concat();
        let (_, stderr) = expect(code, here, &arguments);
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    // Embeddings of another model.
    let other = ["reduce", "whole.safetensors", "--dim", "4", "--into", "m.safetensors"];
    let (_, stderr) = expect(1, here, &other);
    assert!(stderr.contains("weights"), "{stderr}");
    assert!(!here.join("x.npy").exists());
}
