//! `--profile`: tables, traces, and unchanged results.

#[path = "common/program.rs"]
mod program;

use program::{TINY, expect, figures};
use serde_json::Value;
use std::path::Path;

/// Runs, asserts the exit code and an empty stdout, and returns stderr.
fn lat(code: i32, folder: &Path, arguments: &[&str]) -> String {
    let (stdout, stderr) = expect(code, folder, arguments);
    assert!(stdout.is_empty(), "{stdout}");
    stderr
}

/// Titles of a trace's processes. Asserts that the events of a track have no gaps, and that both tracks end together.
fn titles(path: &Path) -> Vec<String> {
    let trace: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named: Vec<&Value> = events.iter().filter(|event| event["name"] == "process_name").collect();
    for process in &named {
        let ends = [1, 2].map(|track| {
            let mut now = 0.0;
            for event in events {
                if event["ph"] == "X" && event["pid"] == process["pid"] && event["tid"] == track {
                    let [start, duration] = ["ts", "dur"].map(|key| event[key].as_f64().unwrap());
                    assert!((start - now).abs() < 1e-3 && duration >= 0.0, "{event} does not start at {now}");
                    now = start + duration;
                }
            }
            now
        });
        assert!(ends[0] > 0.0 && (ends[0] - ends[1]).abs() < 1e-3, "{ends:?}");
    }
    named.iter().map(|event| event["args"]["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn embed_profiles_and_writes_the_same_embeddings() {
    let folder = figures("2");
    let here = folder.path();
    let embed = [
        "embed",
        "--model",
        TINY,
        "--heads",
        "2",
        "figures/bounding_box_train",
        "--batch-size",
        "4",
        "--out",
    ];
    lat(0, here, &[&embed[..], &["plain.safetensors"]].concat());
    // The word after the flag is an input, not its value.
    for (flag, file) in [("--profile", "trace.json"), ("--profile=my.json", "my.json")] {
        let stderr = lat(0, here, &[&embed[..], &["profiled.safetensors", flag, "figures/query"]].concat());
        assert!(
            stderr.contains("profile of a batch of 4: ") && stderr.contains(&format!("trace: {file}\n")),
            "{stderr}"
        );
        for line in ["kernel ", "layer ", "dispatch ", "layernorm ", "blocks.1 ", "blocks.*.attn.qkv "] {
            let word = line.trim_end();
            assert!(stderr.lines().any(|found| found.starts_with(word)), "no line {line} in: {stderr}");
        }
        assert_eq!(titles(&here.join(file)), ["a batch of 4"]);
    }
    lat(0, here, &[&embed[..], &["profiled.safetensors", "--profile"]].concat());
    let [plain, profiled] =
        ["plain", "profiled"].map(|name| std::fs::read(here.join(format!("{name}.safetensors"))).unwrap());
    assert!(plain == profiled, "--profile changed the embeddings");
}

#[test]
fn train_profiles_every_stage_and_writes_the_same_bits() {
    let folder = figures("2");
    let here = folder.path();
    // Two stages, dropout, running statistics, micro-batches, and a smaller last batch.
    let train = [
        "train",
        "--backbone",
        TINY,
        "--heads",
        "2",
        "--data",
        "figures",
        "--batch-size",
        "5",
        "--micro-batch",
        "3",
        "--epochs",
        "3",
        "--unfreeze-every",
        "2",
        "--lr",
        "0.01",
        "--out",
    ];
    lat(0, here, &[&train[..], &["plain"]].concat());
    let stderr = lat(0, here, &[&train[..], &["profiled", "--profile"]].concat());
    let wanted = ["epoch 0, 1 block unfrozen, a step of 5", "epoch 2, 2 blocks unfrozen, a step of 5"];
    assert_eq!(titles(&here.join("profiled/trace.json")), wanted);
    for stage in wanted {
        assert!(stderr.contains(&format!("profile of {stage}: ")), "{stderr}");
    }
    for line in [
        "adam ",
        "forward ",
        "backward ",
        "optimiser ",
        "backward blocks.1 ",
        "optimiser heads ",
        "adam.blocks.* ",
    ] {
        assert!(stderr.lines().any(|found| found.starts_with(line)), "no line {line} in: {stderr}");
    }
    for name in ["last.safetensors", "best.safetensors"] {
        let [plain, profiled] =
            ["plain", "profiled"].map(|run| std::fs::read(here.join(run).join(name)).unwrap());
        assert!(plain == profiled, "--profile changed {name}");
    }
    let losses = |run: &str| -> Vec<Value> {
        let log = std::fs::read_to_string(here.join(run).join("log.jsonl")).unwrap();
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].clone()).collect()
    };
    assert_eq!(losses("plain"), losses("profiled"));

    // A resumed run profiles its current stage.
    lat(0, here, &[&train[..], &["stopped", "--max-steps", "1"]].concat());
    lat(0, here, &[&train[..], &["stopped", "--resume", "--max-steps", "2", "--profile=p.json"]].concat());
    assert_eq!(titles(&here.join("p.json")), wanted[..1]);
    let refused = lat(2, here, &["train", "--backbone", TINY, "--data", "figures", "--dry-run", "--profile"]);
    assert!(refused.contains("--dry-run"), "{refused}");
}
