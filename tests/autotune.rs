//! `lat-wgpu autotune`: measuring, keeping and forgetting choices, without changing results.

#[path = "common/program.rs"]
mod program;

use program::{TINY, finish, program};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn lat(code: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = program(folder, arguments);
    command.env("LAT_CACHE", folder.join("cache")).env_remove("LAT_TUNED").env_remove("LAT_LIMITS");
    finish(code, &mut command)
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The only file of choices.
fn kept(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder.join("cache/tune")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "more than one file");
    file
}

fn embed(folder: &Path, out: &str) -> Vec<u8> {
    lat(0, folder, &["embed", "--model", TINY, "--heads", "2", "figures", "--out", out]);
    std::fs::read(folder.join(out)).unwrap()
}

#[test]
fn choices_are_validated_and_kept_and_change_no_embedding() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    lat(0, folder, &["synth", "figures", "--persons", "2", "--cameras", "2", "--images", "1"]);
    let before = embed(folder, "before.npy");
    for train in [&[][..], &["--train"]] {
        let mut arguments =
            vec!["autotune", "--model", TINY, "--heads", "2", "--batch-size", "2", "--json", "t.json"];
        arguments.extend(train);
        lat(0, folder, &arguments);
        let found = read(&folder.join("t.json"));
        let products = found["products"].as_array().unwrap();
        let forms: Vec<&str> = products.iter().map(|product| product["form"].as_str().unwrap()).collect();
        let backward = forms.contains(&"tn") && forms.contains(&"nn");
        assert!(forms.contains(&"nt") && backward != train.is_empty());
        for product in products {
            let seconds = product["seconds"].as_object().unwrap();
            assert!(
                seconds.len() > 1 && seconds.contains_key(product["chosen"].as_str().unwrap()),
                "{product}"
            );
            assert!(seconds.values().all(|seconds| seconds.as_f64().unwrap() > 0.0), "{product}");
            assert_eq!(product["refused"].as_array().unwrap().len(), 0, "{product}");
        }
        let step = &found["step_seconds"];
        assert!(step["built_in"].as_f64().unwrap() > 0.0);
        // Kept only if the whole step is faster.
        let quicker = step["tuned"].as_f64().unwrap() < step["built_in"].as_f64().unwrap();
        assert_eq!(found["kept"].is_string(), quicker, "{step}");
    }
    assert!(embed(folder, "after.npy") == before, "tuning changed an embedding");

    // Edited choices: known ones are used; unknown ones and a broken file are ignored.
    let found = read(&folder.join("t.json"));
    let file = folder.join("cache/tune");
    std::fs::create_dir_all(&file).unwrap();
    if !found["kept"].is_string() {
        lat(0, folder, &["autotune", "--clear"]);
        return;
    }
    let file = kept(folder);
    let mut choices = read(&file);
    for choice in choices["choices"].as_object_mut().unwrap().values_mut() {
        *choice = Value::from("a tile of the future #0123456789abcdef");
    }
    std::fs::write(&file, choices.to_string()).unwrap();
    assert!(embed(folder, "future.npy") == before);
    std::fs::write(&file, "{").unwrap();
    assert!(embed(folder, "broken.npy") == before);
    lat(0, folder, &["autotune", "--clear"]);
    assert!(!file.exists());
}
