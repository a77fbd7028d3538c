//! `lat-wgpu bench` as a user meets it: figures, picture, comparison, refusals.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Rows that take next to no time.
const FEW: [&str; 4] = ["--filter", "l2norm", "--samples", "3"];

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lat-wgpu"))
        .arg("bench")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn expect(code: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = bench(folder, arguments);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}:\n{out}{err}");
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn figures_picture_and_comparison_of_a_few_rows() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (out, _) = expect(0, here, &[&FEW[..], &["--json", "run.json", "--svg", "roof.svg"]].concat());
    assert!(
        out.contains("roofs: ") && out.contains("l2norm vit-s ") && out.contains("l2norm vit-b "),
        "{out}"
    );
    let run = json(&here.join("run.json"));
    for key in ["adapter", "driver", "class", "precision"] {
        assert!(run[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {run}");
    }
    let number = |value: &Value, key: &str| {
        let number = value[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {value}"));
        assert!(number.is_finite() && number >= 0.0, "{key}: {number}");
        number
    };
    let (gflops, gbps) = (number(&run["roof"], "gflops"), number(&run["roof"], "gbps"));
    assert!(gflops > 0.0 && gbps > 0.0);
    let rows = run["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["samples"], 3);
        let [seconds, flops, bytes] = ["seconds", "flops", "bytes"].map(|key| number(row, key));
        assert!(number(row, "min") <= seconds && seconds <= number(row, "max") && seconds > 0.0, "{row}");
        let close = |key: &str, wanted: f64| {
            let found = number(row, key);
            assert!((found - wanted).abs() <= 1e-9 * wanted, "{key}: {found}, not {wanted}");
        };
        close("gflops", flops / seconds / 1e9);
        close("gbps", bytes / seconds / 1e9);
        close("intensity", flops / bytes);
        close("percent_of_roof", 100.0 * (flops / gflops).max(bytes / gbps) / 1e9 / seconds);
    }
    // x and y of 14 parts of 384 numbers, one picture or 32.
    assert_eq!(number(&rows[0], "bytes") % (2.0 * 4.0 * 14.0 * 384.0), 0.0);
    let svg = std::fs::read_to_string(here.join("roof.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">l2norm vit-b</text>"), "{svg}");

    // A saved run whose rows were ten times as quick, and one where they were ten times as slow.
    let key = ["adapter", "driver", "class"].map(|key| run[key].as_str().unwrap()).join("; ");
    for (factor, code, word) in [(0.01, 1, " loss"), (100.0, 0, " gain")] {
        let mut saved = run.clone();
        for row in saved["rows"].as_array_mut().unwrap() {
            for (key, factor) in [("seconds", factor), ("deviation", 0.0), ("percent_of_roof", 1.0 / factor)]
            {
                row[key] = (row[key].as_f64().unwrap() * factor).into();
            }
        }
        for key in ["gflops_deviation", "gbps_deviation"] {
            saved["roof"][key] = 0.0.into();
        }
        let file = serde_json::json!({ &key: saved, "another card": run });
        std::fs::write(here.join("baseline.json"), file.to_string()).unwrap();
        let (_, err) = expect(code, here, &[&FEW[..], &["--baseline", "baseline.json"]].concat());
        assert!(err.contains(&format!("against the baseline: 2{word}")), "{err}");
    }

    // Nothing to compare with is told before anything is measured.
    std::fs::write(here.join("baseline.json"), serde_json::json!({ "another card": run }).to_string())
        .unwrap();
    for file in ["baseline.json", "nowhere.json"] {
        let (out, err) = expect(1, here, &[&FEW[..], &["--baseline", file]].concat());
        assert!(out.is_empty() && err.contains(&format!("--save-baseline {file}")), "{out}{err}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (_, err) = expect(1, here, &["--filter", "no such kernel"]);
    assert!(err.contains("no row's name contains \"no such kernel\""), "{err}");
    expect(2, here, &["--samples", "0"]);
    // Half a baseline would make later runs look incomplete.
    expect(2, here, &["--filter", "l2norm", "--save-baseline", "baseline.json"]);
    std::fs::write(here.join("broken.json"), "no json").unwrap();
    let (_, err) = expect(1, here, &["--baseline", "broken.json"]);
    assert!(err.contains("broken.json"), "{err}");
    assert_eq!(std::fs::read_dir(here).unwrap().count(), 1);
}
