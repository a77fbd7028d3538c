//! `lat-wgpu bench`: figures, roofline, comparison and errors.

#[path = "common/program.rs"]
mod program;

use lat_wgpu::kernels::gemm::tiles::Table;
use program::{finish, program};
use serde_json::Value;
use std::path::Path;

/// Rows that take hardly any time.
const FEW: [&str; 4] = ["--match", "l2norm", "--samples", "3"];

fn bench(code: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    finish(code, program(folder, &["bench"]).args(arguments))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_few_rows_give_figures_a_roofline_and_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (out, _) = bench(0, here, &[&FEW[..], &["--json", "run.json", "--svg", "roof.svg"]].concat());
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
    // x and y of 14 parts of 384 dimensions, for one image or 32.
    assert_eq!(number(&rows[0], "bytes") % (2.0 * 4.0 * 14.0 * 384.0), 0.0);
    let svg = std::fs::read_to_string(here.join("roof.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">l2norm vit-b</text>"), "{svg}");

    // Saved runs that are 100 times as fast and 100 times as slow.
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
        let (_, err) = bench(code, here, &[&FEW[..], &["--baseline", "baseline.json"]].concat());
        assert!(err.contains(&format!("against the baseline: 2{word}")), "{err}");
    }

    // A missing baseline is reported before anything is measured.
    std::fs::write(here.join("baseline.json"), serde_json::json!({ "another card": run }).to_string())
        .unwrap();
    for file in ["baseline.json", "nowhere.json"] {
        let (out, err) = bench(1, here, &[&FEW[..], &["--baseline", file]].concat());
        assert!(out.is_empty() && err.contains(&format!("--save-baseline {file}")), "{out}{err}");
    }
}

#[test]
fn batch_precision_and_tokens_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let rows = |name: &str, arguments: &[&str]| -> Vec<Value> {
        let file = format!("{name}.json");
        let fixed = ["--quick", "--samples", "1", "--json", &file];
        bench(0, here, &[&fixed[..], arguments].concat());
        let run = json(&here.join(&file));
        assert_eq!(run["complete"], true);
        run["rows"].as_array().unwrap().clone()
    };
    let bytes = |rows: &[Value]| rows[0]["bytes"].as_f64().unwrap();
    let norm = ["--match", "layernorm vit-s"];
    let one = bytes(&rows("one", &norm));
    let three = bytes(&rows("three", &[&norm[..], &["--batch-size", "3"]].concat()));
    let halves = bytes(&rows("halves", &[&norm[..], &["--batch-size", "3", "--precision", "f16"]].concat()));
    // Weight and bias have 384 words each, and a placeholder for an unused buffer has four; all else grows with the
    // batch.
    let fixed = 4.0 * (2.0 * 384.0 + 4.0);
    assert_eq!((three - fixed, halves - fixed), (3.0 * (one - fixed), 1.5 * (one - fixed)));

    let mut found = rows("tokens", &["--match", "attention vit-s", "--tokens", "33,5"]);
    found.retain(|row| !row["name"].as_str().unwrap().starts_with("reattention"));
    let names: Vec<&str> = found.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let wanted = ["33 tokens", "5 tokens"]
        .map(|tokens| [format!("attention vit-s {tokens}"), format!("attention vit-s backward {tokens}")]);
    assert_eq!(names, wanted.concat());
    assert!(bytes(&found) > 6.0 * bytes(&found[2..]), "{found:?}");

    // Runs of another batch or precision aren't compared.
    let run = json(&here.join("three.json"));
    assert_eq!((run["batch"].as_u64(), run["precision"].as_str()), (Some(3), Some("f32")));
    let key = ["adapter", "driver", "class"].map(|key| run[key].as_str().unwrap()).join("; ");
    let key = format!("{key}; batch 3; f32");
    std::fs::write(here.join("saved.json"), serde_json::json!({ &key: run }).to_string()).unwrap();
    let judged = |code: i32, choice: &[&str]| {
        let fixed = ["--quick", "--samples", "1", "--baseline", "saved.json"];
        bench(code, here, &[&fixed[..], &norm, choice].concat())
    };
    for choice in [&[][..], &["--batch-size", "3", "--precision", "f16"]] {
        let (out, err) = judged(1, choice);
        assert!(out.is_empty() && err.contains(&format!("are not compared: {key}")), "{err}");
    }
    // Noise may make it a failure.
    let again = &[&["--quick", "--baseline", "saved.json", "--batch-size", "3"], &norm[..]].concat();
    let output = program(here, &["bench"]).args(again).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("against the baseline: "), "{err}");
}

#[test]
fn lab_checks_and_compares_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for precision in ["f32", "f16"] {
        let few = ["--lab", "--quick", "--samples", "1", "--precision", precision, "--json", "lab.json"];
        let (out, _) = bench(0, here, &[&few[..], &["--write-tiles", "tiles.toml"]].concat());
        assert!(out.contains("vit-s qkv nn batch 1"), "{out}");
        let run = json(&here.join("lab.json"));
        assert_eq!((run["complete"].as_bool(), run["wrong"].as_u64()), (Some(true), Some(0)), "{run}");
        assert_eq!(run["precision"], precision);
        assert!(run["roof"]["gflops"].as_f64().unwrap() > 0.0);
        let shapes = run["shapes"].as_array().unwrap();
        let forms: Vec<&str> = shapes.iter().map(|shape| shape["form"].as_str().unwrap()).collect();
        assert_eq!(forms, ["nt", "nn", "tn"]);
        // The table differs from the built-in one only in tiles that were measured.
        let table = std::fs::read_to_string(here.join("tiles.toml")).unwrap();
        Table::parse(&table).unwrap();
        let built_in = Table::built_in().text();
        let added = table.lines().filter(|line| !built_in.contains(line));
        for line in added.filter(|line| line.contains("form")) {
            let found = shapes.iter().find(|shape| line.contains(&format!("form = {}", shape["form"])));
            let tiles = found.unwrap()["tiles"].as_array().unwrap();
            assert!(
                tiles.iter().any(|tile| line.ends_with(&format!("tile = {} }},", tile["tile"]))),
                "{line}"
            );
        }
        for shape in shapes {
            let sizes = ["m", "n", "k"].map(|key| shape[key].as_f64().unwrap());
            assert_eq!(shape["flops"].as_f64(), Some(2.0 * sizes.iter().product::<f64>()));
            let tiles = shape["tiles"].as_array().unwrap();
            assert!(tiles.len() > 4, "{shape}");
            let time = |tile: &Value| tile["seconds"].as_f64().unwrap();
            let best = tiles.iter().min_by(|a, b| time(a).total_cmp(&time(b))).unwrap();
            assert_eq!(shape["winner"], best["tile"]);
            assert!(tiles.iter().any(|tile| tile["tile"] == shape["picked"]), "{shape}");
            for tile in tiles {
                let used = tile["tolerance_used"].as_f64().unwrap();
                assert!(used > 0.0 && used <= 1.0 && tile["wrong"] == false, "{tile}");
            }
        }
    }
    // Filters shapes and tiles by name, with a chosen batch.
    let chosen = ["--match", "proj tn batch 2 tiled 32x32", "--batch-size", "2"];
    bench(0, here, &[&["--lab", "--samples", "1", "--json", "lab.json"], &chosen[..]].concat());
    let run = json(&here.join("lab.json"));
    let shapes = run["shapes"].as_array().unwrap();
    let names: Vec<&str> = shapes.iter().map(|shape| shape["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["vit-s proj tn batch 2", "vit-b proj tn batch 2"]);
    for shape in shapes {
        let tiles = shape["tiles"].as_array().unwrap();
        assert!(
            tiles.iter().all(|tile| tile["tile"].as_str().unwrap().starts_with("tiled 32x32")),
            "{shape}"
        );
    }
}

#[test]
fn overheads_and_steps_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    bench(0, here, &["--overheads", "--quick", "--json", "overheads.json"]);
    let run = json(&here.join("overheads.json"));
    let overheads = run["overheads"].as_array().unwrap();
    let names: Vec<&str> = overheads.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let wanted = [
        "empty dispatch, dependent",
        "empty dispatch, independent",
        "encoding of a dispatch",
        "submit of a dispatch",
        "empty submit and its wait",
    ];
    assert_eq!((names, run["complete"].as_bool()), (wanted.to_vec(), Some(true)));
    for row in overheads {
        let [least, middle, most] = ["min", "microseconds", "max"].map(|key| row[key].as_f64().unwrap());
        assert!(0.0 <= least && least <= middle && middle <= most && most > 0.0, "{row}");
    }
    assert!(run["roof"]["gbps"].as_f64().unwrap() > 0.0);

    let few = ["--steps", "--quick", "--samples", "1", "--match", "1 block", "--json", "steps.json"];
    let (out, _) = bench(0, here, &few);
    assert!(out.contains("training step vit-s 1 block"), "{out}");
    let run = json(&here.join("steps.json"));
    assert_eq!((run["batch"].as_u64(), run["complete"].as_bool()), (Some(2), Some(true)));
    let row = &run["rows"][0];
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {row}"));
    assert!((number("images_per_second") * number("seconds") - 2.0).abs() < 1e-9);
    let gflops = run["roof"]["gflops"].as_f64().unwrap();
    assert!((number("percent_of_roof") - 100.0 * number("gflops") / gflops).abs() < 1e-6);
    assert!(number("launches") > 100.0 && number("memory_bytes") > 1e8);
}

#[test]
fn seconds_limits_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (mode, rows) in [(&[][..], "rows"), (&["--lab"], "shapes"), (&["--steps"], "rows")] {
        let (out, _) = bench(0, here, &[mode, &["--seconds", "1", "--json", "cut.json"]].concat());
        assert!(out.contains("the time was up"), "{out}");
        let run = json(&here.join("cut.json"));
        assert_eq!(run["complete"], false, "{run}");
        assert!(run[rows].as_array().unwrap().len() < 60, "{run}");
    }
}

#[test]
fn impossible_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (_, err) = bench(1, here, &["--match", "no such kernel"]);
    assert!(err.contains("no row's name contains \"no such kernel\""), "{err}");
    bench(2, here, &["--samples", "0"]);
    // With part of a baseline, later runs would look incomplete.
    for partly in
        [&["--match", "l2norm"][..], &["--quick"], &["--seconds", "9"], &["--tokens", "33"], &["--lab"]]
    {
        bench(2, here, &[partly, &["--save-baseline", "baseline.json"]].concat());
    }
    for arguments in [
        &["--lab", "--steps"][..],
        &["--lab", "--svg", "roof.svg"],
        &["--steps", "--baseline", "baseline.json"],
        &["--overheads", "--match", "empty"],
        &["--steps", "--tokens", "33"],
        &["--write-tiles", "tiles.toml"],
        &["--steps", "--batch-size", "1"],
        &["--tokens", "0"],
        &["--seconds", "0"],
    ] {
        bench(2, here, arguments);
    }
    let (_, err) = bench(1, here, &["--lab", "--match", "vit-x"]);
    assert!(err.contains("no row's name contains \"vit-x\"") && err.contains("vit-b, vit-s"), "{err}");
    std::fs::write(here.join("broken.json"), "no json").unwrap();
    let (_, err) = bench(1, here, &["--baseline", "broken.json"]);
    assert!(err.contains("broken.json"), "{err}");
    assert_eq!(std::fs::read_dir(here).unwrap().count(), 1);
}
