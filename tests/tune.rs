//! `lat-wgpu tune` as a user meets it: what it measures, keeps, forgets, and never changes.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A two-block ViT of width 32 for 32×32 pictures; needs `--heads 2`.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/plain.model.safetensors");

fn lat(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lat-wgpu"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("LAT_CACHE", folder.join("cache")).env_remove("LAT_TUNED").env_remove("LAT_LIMITS");
    let output = command.output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    output
}

fn done(folder: &Path, arguments: &[&str]) {
    let output = lat(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The one file of choices.
fn kept(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder.join("cache/tune")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "more than one file");
    file
}

fn embed(folder: &Path, out: &str) -> Vec<u8> {
    done(folder, &["embed", "--model", TINY, "--heads", "2", "figures", "--out", out]);
    std::fs::read(folder.join(out)).unwrap()
}

#[test]
fn choices_are_proved_kept_and_change_no_vector() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    done(folder, &["draw", "figures", "--persons", "2", "--cameras", "2", "--images", "1"]);
    let before = embed(folder, "before.npy");
    for train in [&[][..], &["--train"]] {
        let mut arguments = vec!["tune", "--model", TINY, "--heads", "2", "--batch", "2", "--json", "t.json"];
        arguments.extend(train);
        done(folder, &arguments);
        let told = read(&folder.join("t.json"));
        let products = told["products"].as_array().unwrap();
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
        let step = &told["step_seconds"];
        assert!(step["built_in"].as_f64().unwrap() > 0.0);
        // Kept only if the whole step is quicker.
        let quicker = step["tuned"].as_f64().unwrap() < step["built_in"].as_f64().unwrap();
        assert_eq!(told["kept"].is_string(), quicker, "{step}");
    }
    assert!(embed(folder, "after.npy") == before, "tuning changed a vector");

    // Choices by hand: known ones are followed, others passed over, a broken file too.
    let told = read(&folder.join("t.json"));
    let file = folder.join("cache/tune");
    std::fs::create_dir_all(&file).unwrap();
    if !told["kept"].is_string() {
        done(folder, &["tune", "--clear"]);
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
    done(folder, &["tune", "--clear"]);
    assert!(!file.exists());
}

#[test]
fn what_tune_needs_is_said() {
    let temporary = tempfile::tempdir().unwrap();
    let output = lat(temporary.path(), &["tune"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--model"));
}
