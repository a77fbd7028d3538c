//! Outputs, messages and exit codes of the program.

#[path = "common/program.rs"]
mod program;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use lat_wgpu::embeddings;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{TINY, crops, expect, finish, program, signal};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn embed(code: i32, folder: &Path, more: &[&str]) -> String {
    let mut arguments = vec!["embed", "--model", TINY, "--heads", "2"];
    arguments.extend(more);
    expect(code, folder, &arguments).1
}

fn read_parquet(path: &Path) -> (Vec<String>, Vec<f32>) {
    let file = std::fs::File::open(path).unwrap();
    let (mut paths, mut rows) = (Vec::new(), Vec::new());
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        paths.extend(column("path").as_string::<i32>().iter().map(|p| p.unwrap().to_string()));
        let vectors = column("embedding").as_fixed_size_list().values().clone();
        rows.extend_from_slice(vectors.as_primitive::<Float32Type>().values());
    }
    (paths, rows)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn all_formats_hold_the_same_rows_in_sorted_order() {
    let folder = crops(3);
    let here = folder.path();
    for out in ["a.safetensors", "a.npy", "a.parquet"] {
        let stderr = embed(0, here, &["crops", "--out", out]);
        for word in ["embedded 6 images (0 skipped)", "32x32 imagenet", "λ 0.8 on class", "4 parts of 32"] {
            assert!(stderr.contains(word), "{word} in: {stderr}");
        }
    }
    let wanted = embeddings::read(&here.join("a.safetensors")).unwrap();
    assert_eq!(wanted.dim, 4 * 32);
    let mut sorted = wanted.paths.clone();
    sorted.sort();
    assert_eq!(wanted.paths, sorted);
    assert!(wanted.paths[0].starts_with("0001_c1s1_"), "{:?}", wanted.paths);
    let npy = embeddings::read(&here.join("a.npy")).unwrap();
    assert_eq!((npy.paths, npy.rows), (wanted.paths.clone(), wanted.rows.clone()));
    assert_eq!(read_parquet(&here.join("a.parquet")), (wanted.paths.clone(), wanted.rows.clone()));
    for row in wanted.rows.chunks(wanted.dim) {
        let norm: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((norm - 1.0).abs() < 1e-5, "norm² {norm}");
    }
    assert_eq!(files(here).len(), 5, "a temporary file is left: {:?}", files(here));
}

#[test]
fn bad_images_are_named_and_change_no_other_embedding() {
    let folder = crops(3);
    let here = folder.path();
    embed(0, here, &["crops", "--out", "good.safetensors", "--batch-size", "4"]);
    let good = embeddings::read(&here.join("good.safetensors")).unwrap();

    let whole = std::fs::read(&files(&here.join("crops"))[0]).unwrap();
    std::fs::write(here.join("crops/0000_empty.jpg"), b"").unwrap();
    std::fs::write(here.join("crops/0002_cut.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(here.join("crops/zz_text.jpeg"), b"no image").unwrap();
    std::fs::write(here.join("crops/readme.txt"), b"stray").unwrap();
    std::fs::create_dir(here.join("crops/folder.png")).unwrap();

    let stderr =
        embed(0, here, &["crops", "--out", "bad.safetensors", "--batch-size", "1", "--json", "s.json"]);
    for name in ["0000_empty.jpg", "0002_cut.png", "zz_text.jpeg"] {
        assert_eq!(stderr.matches(name).count(), 1, "{name} in: {stderr}");
    }
    assert!(stderr.contains("embedded 6 images (3 skipped, left out: 1 .txt)"), "{stderr}");
    let bad = embeddings::read(&here.join("bad.safetensors")).unwrap();
    assert_eq!((bad.paths, bad.rows), (good.paths, good.rows), "to the bit");
    let summary: Value = serde_json::from_slice(&std::fs::read(here.join("s.json")).unwrap()).unwrap();
    assert_eq!((&summary["images"], &summary["skipped"]), (&6.into(), &3.into()));

    embed(1, here, &["crops", "--out", "bad.safetensors", "--strict"]);
    assert!(here.join("bad.safetensors").exists(), "--strict changes only the exit code");
}

#[test]
fn f16_rounds_the_f32_rows() {
    let folder = crops(1);
    let here = folder.path();
    embed(0, here, &["crops", "--out", "full.npy"]);
    embed(0, here, &["crops", "--out", "half.npy", "--dtype", "f16"]);
    let full = embeddings::read(&here.join("full.npy")).unwrap();
    let half = embeddings::read(&here.join("half.npy")).unwrap();
    let rounded: Vec<f32> = full.rows.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
    assert_eq!(half.rows, rounded);
}

#[test]
fn names_follow_the_inputs() {
    let folder = crops(1);
    let here = folder.path();
    let names = |inputs: &[&str]| {
        let mut arguments = inputs.to_vec();
        arguments.extend(["--out", "names.safetensors"]);
        embed(0, here, &arguments);
        embeddings::read(&here.join("names.safetensors")).unwrap().paths
    };
    let file = files(&here.join("crops"))[0].file_name().unwrap().to_str().unwrap().to_string();
    let path = format!("crops/{file}");
    std::fs::create_dir(here.join("crops/inner")).unwrap();
    std::fs::rename(here.join(&path), here.join(format!("crops/inner/{file}"))).unwrap();
    assert!(names(&["crops"]).contains(&format!("inner/{file}")));
    let one = format!("crops/inner/{file}");
    assert_eq!(names(&[&one]), vec![one.clone()]);
    let both = names(&["crops", &one]);
    assert_eq!(both.len(), 3);
    assert_eq!(both.iter().filter(|name| **name == one).count(), 2, "{both:?}");
}

#[test]
fn weights_are_checked_before_the_adapter_is_opened() {
    let folder = crops(1);
    let here = folder.path();
    let whole = std::fs::read(TINY).unwrap();
    std::fs::write(here.join("cut.safetensors"), &whole[..whole.len() - 100]).unwrap();
    // No adapter has this name, so opening one would fail with another error.
    let run = |model: &str| {
        let arguments = [
            "embed",
            "--model",
            model,
            "--heads",
            "2",
            "crops",
            "--out",
            "o.npy",
            "--adapter",
            "no such adapter",
        ];
        expect(1, here, &arguments).1
    };
    for (model, word) in [("cut.safetensors", "cut.safetensors"), ("none.safetensors", "none.safetensors")] {
        let stderr = run(model);
        assert!(stderr.starts_with("error: ") && stderr.contains(word), "{stderr}");
        assert!(stderr.contains("\nhint: ") && !stderr.contains("adapter's name"), "{stderr}");
    }
    let stderr = run(TINY);
    assert!(stderr.contains("no such adapter") && stderr.contains("hint: "), "{stderr}");
    assert!(!here.join("o.npy").exists());
}

#[test]
fn missing_inputs_and_folders_are_errors_with_a_hint() {
    let folder = crops(1);
    let here = folder.path();
    std::fs::create_dir(here.join("empty")).unwrap();
    std::fs::create_dir(here.join("broken")).unwrap();
    std::fs::write(here.join("broken/a.jpg"), b"x").unwrap();
    std::fs::write(here.join("old.npy"), b"old").unwrap();
    let cases: [&[&str]; 5] = [
        &["empty", "--out", "old.npy"],
        &["broken", "--out", "old.npy"],
        &["no such folder", "--out", "old.npy"],
        &["crops", "--out", "no such folder/o.npy"],
        &["crops", "--out", "old.npy", "--batch-size", "4000000"],
    ];
    for case in cases {
        let stderr = embed(1, here, case);
        assert!(stderr.contains("error: ") && stderr.contains("\nhint: "), "{case:?}: {stderr}");
    }
    assert_eq!(std::fs::read(here.join("old.npy")).unwrap(), b"old", "an output is replaced on success only");
    assert!(files(here).iter().all(|f| !f.to_string_lossy().contains(".lat-wgpu-")), "{:?}", files(here));
    embed(0, here, &["crops", "--out", "old.npy"]);
    assert_ne!(std::fs::read(here.join("old.npy")).unwrap(), b"old");
}

#[test]
fn bad_usage_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("a.png"), b"x").unwrap();
    let cases: [&[&str]; 7] = [
        &["a.png"],
        &["--out", "o.npy"],
        &["a.png", "--out", "o.txt"],
        &["a.png", "--out", "o.npy", "--size", "0x3"],
        &["a.png", "--out", "o.npy", "--lambda", "-1"],
        &["a.png", "--out", "o.npy", "--batch-size", "0"],
        &["a.png", "--out", "o.npy", "--no-such-flag"],
    ];
    for case in cases {
        embed(2, here, case);
    }
    expect(2, here, &[]);
    expect(0, here, &["--help"]);
    expect(0, here, &["embed", "--help"]);
    expect(0, here, &["--version"]);
}

#[test]
fn settings_change_the_network_and_the_file() {
    let folder = crops(1);
    let here = folder.path();
    let run = |more: &[&str]| {
        let mut arguments = vec!["crops", "--out", "s.safetensors", "--json", "s.json"];
        arguments.extend(more);
        embed(0, here, &arguments);
        let summary: Value = serde_json::from_slice(&std::fs::read(here.join("s.json")).unwrap()).unwrap();
        (embeddings::read(&here.join("s.safetensors")).unwrap().rows, summary)
    };
    let (plain, summary) = run(&[]);
    assert_eq!((&summary["dim"], &summary["parts"]), (&128.into(), &4.into()));
    let flags: [&[&str]; 8] = [
        &["--lambda", "3"],
        &["--lambda-on", "local"],
        &["--tokens", "local"],
        &["--tokens", "global"],
        &["--normalize", "half"],
        &["--act", "quick-gelu"],
        &["--ln-eps", "0.1"],
        &["--stride", "4"],
    ];
    for flag in flags {
        assert_ne!(run(flag).0, plain, "{flag:?} changes nothing");
    }
    assert_eq!(run(&["--size", "48x16"]).1["parts"], 6);
    assert_eq!(run(&["--parts", "1"]).1["dim"], 32);
}

#[test]
fn inspect_and_info_print_text_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (text, _) = expect(0, here, &["inspect", TINY, "--heads", "2"]);
    for word in ["width 32", "depth 2", "heads 2", "blocks.1.mlp.fc2.weight", "[32, 128]"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let (text, _) = expect(0, here, &["inspect", TINY, "--heads", "2", "--json", "-"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["model"]["dim"], 32);
    assert!(value["tensors"].as_array().unwrap().len() > 20);

    let value: Value = serde_json::from_str(&expect(0, here, &["info", "--json", "-"]).0).unwrap();
    let adapters = value.as_array().unwrap();
    assert!(!adapters.is_empty());
    for adapter in adapters {
        assert!(
            adapter["matrix_units"].is_array() && adapter["pipeline_cache"]["state"].is_string(),
            "{adapter}"
        );
        assert!(adapter["largest_allocation_bytes"].as_u64().unwrap() >= 1 << 20, "{adapter}");
        assert!(adapter["subgroup_min"].as_u64() <= adapter["subgroup_max"].as_u64(), "{adapter}");
        let validated = adapter["validated"].as_object().unwrap();
        assert!(validated.values().all(Value::is_boolean), "{adapter}");
        let families = adapter["families"].as_array().unwrap();
        let named =
            |choice: &Value| format!("{} {}", choice["precision"], choice["kernels"]).replace('"', "");
        let names: Vec<String> = families.iter().map(named).collect();
        let kernels = ["products", "attention", "patch embedding", "row-wise"];
        let wanted = ["f32", "f16"].map(|precision| kernels.map(|kernels| format!("{precision} {kernels}")));
        assert_eq!(names, wanted.concat());
        assert!(families.iter().all(|choice| !choice["family"].as_str().unwrap().is_empty()), "{adapter}");
    }
    let (text, _) = expect(0, here, &["info"]);
    for word in ["limits: ", "matrix units: ", "largest allocation ", "pipeline cache: ", "f16 products: "] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

/// Files of compiled pipelines below a folder.
fn pipelines(cache: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cache.join("pipelines")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn pipelines_are_cached_and_a_damaged_file_is_replaced() {
    let folder = crops(2);
    let here = folder.path();
    let cache = here.join("cache");
    let start = |keep: &str, out: &str| {
        program(here, &["embed", "--model", TINY, "--heads", "2", "crops", "--batch-size", "1", "--out", out])
            .env("LAT_CACHE", &cache)
            .env("LAT_PIPELINE_CACHE", keep)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    assert!(start("0", "none.npy").wait().unwrap().success());
    assert_eq!(pipelines(&cache), Vec::<PathBuf>::new());
    let info: Value = serde_json::from_str(&expect(0, here, &["info", "--json", "-"]).0).unwrap();
    let adapter = info.as_array().unwrap().iter().find(|adapter| adapter["class"] == "CPU");
    let Some(adapter) = adapter.filter(|adapter| adapter["name"] == info[0]["name"]) else { return };
    let features = adapter["features"].as_array().unwrap();
    if std::env::var("LAT_LIMITS").is_ok() || !features.contains(&"pipeline cache".into()) {
        return;
    }

    // Two processes at once leave one complete file.
    let both = ["one.npy", "two.npy"].map(|out| start("1", out));
    both.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    let [file] = pipelines(&cache).try_into().expect("a single file");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert!(start("1", "three.npy").wait().unwrap().success());
    assert_eq!(std::fs::read(&file).unwrap().len(), whole.len());
    let vectors = |name: &str| std::fs::read(here.join(name)).unwrap();
    for name in ["one.npy", "two.npy", "three.npy"] {
        assert!(vectors(name) == vectors("none.npy"), "{name}");
    }
}

#[test]
fn info_names_the_switches_in_effect() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, reason) in [
        ("LAT_LIMITS", "default", "without optional features"),
        ("LAT_PIPELINE_CACHE", "0", "LAT_PIPELINE_CACHE=0"),
        ("LAT_MATRIX_UNITS", "0", "LAT_MATRIX_UNITS=0"),
    ] {
        let (text, _) =
            finish(0, program(folder.path(), &["info"]).env_remove("LAT_LIMITS").env(name, value));
        assert!(text.contains(reason), "{reason} in {text}");
    }
}

#[test]
fn doctor_finds_a_missing_driver() {
    let folder = tempfile::tempdir().unwrap();
    let findings = |code: i32, changes: &[(&str, &str)]| -> Vec<Value> {
        let mut command = program(folder.path(), &["doctor", "--json", "-"]);
        serde_json::from_str(&finish(code, command.envs(changes.iter().copied())).0).unwrap()
    };
    let cache = folder.path().join("cache");
    let here = findings(0, &[("LAT_CACHE", cache.to_str().unwrap())]);
    assert!(here.iter().any(|finding| finding["check"] == "adapter"), "{here:?}");
    assert!(here.iter().any(|finding| finding["check"] == "cache" && finding["state"] == "ok"), "{here:?}");
    let (text, _) = finish(0, &mut program(folder.path(), &["doctor"]));
    assert_eq!(text.lines().filter(|line| !line.contains('→')).count(), here.len(), "{text}");
    if cfg!(target_os = "linux") {
        let nowhere = [("VK_DRIVER_FILES", "/nowhere.json"), ("VK_ICD_FILENAMES", "/nowhere.json")];
        let without = findings(1, &nowhere);
        for check in ["driver", "adapter"] {
            let finding = without.iter().find(|finding| finding["check"] == check).unwrap();
            assert!(finding["state"] == "problem" && finding["advice"].is_string(), "{finding}");
        }
    }
}

#[test]
fn figures_follow_from_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (dir, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        expect(0, here, &["synth", dir, "--persons", "2", "--cameras", "2", "--images", "2", "--seed", seed]);
    }
    let bytes = |dir: &str| -> Vec<Vec<u8>> {
        let folders = ["bounding_box_train", "query", "bounding_box_test"];
        let files = folders.into_iter().flat_map(|folder| files(&here.join(dir).join(folder)));
        files.map(|f| std::fs::read(f).unwrap()).collect()
    };
    // Two persons by two cameras with two images each, a stranger and a bad detection.
    assert_eq!(bytes("a").len(), 10);
    assert_eq!(bytes("a"), bytes("b"));
    assert_ne!(bytes("a"), bytes("c"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_the_old_output_and_leaves_nothing_else() {
    let folder = crops(60);
    let here = folder.path();
    std::fs::write(here.join("o.npy"), b"old").unwrap();
    let mut child = program(here, &["embed", "--model", TINY, "--heads", "2", "crops", "--out", "o.npy"])
        .args(["--batch-size", "1", "--size", "128x64", "--stride", "1"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(std::fs::read(here.join("o.npy")).unwrap(), b"old");
    assert_eq!(files(here).len(), 2, "{:?}", files(here));
}

#[test]
fn quiet_prints_errors_only() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let synth = ["synth", "set", "--persons", "1", "--cameras", "1", "--images", "1"];
    assert_eq!(expect(0, here, &[&["--quiet"], &synth[..]].concat()).1, "");
    let (_, stderr) = expect(2, here, &[&synth[..], &["-q"]].concat());
    assert!(stderr.starts_with("error: ") && stderr.contains("not empty"), "{stderr}");
    expect(2, here, &["info", "-q", "-v"]);
}

#[test]
#[cfg(not(feature = "mpi"))]
fn processes_that_work_alone_are_not_started_together() {
    let folder = crops(2);
    let train = ["train", "--backbone", TINY, "--heads", "2", "--data", "crops", "--out", "run"];
    let (_, stderr) = finish(2, program(folder.path(), &train).env("OMPI_COMM_WORLD_SIZE", "4"));
    assert!(stderr.contains("4 processes were started together"), "{stderr}");
    assert!(stderr.contains("hint: ") && stderr.contains("--features mpi"), "{stderr}");
    assert!(!folder.path().join("run").exists());
}
