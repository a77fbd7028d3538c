//! `lat-wgpu runs`, and the logs that it reads.

#[path = "common/program.rs"]
mod program;

use program::{TINY, expect, figures, finish, program};
use serde_json::Value;
use std::path::Path;

fn train(here: &Path, out: &str, more: &[&str]) {
    let mut arguments = vec!["train", "--backbone", TINY, "--heads", "2", "--data", "figures", "--out", out];
    arguments.extend(["--batch-size", "4", "--epochs", "2"]);
    arguments.extend(more);
    finish(0, &mut program(here, &arguments));
}

#[test]
fn runs_are_compared() {
    let folder = figures("2");
    let here = folder.path();
    train(here, "a", &["--eval-every", "1"]);
    train(here, "b", &["--lr", "1e-3", "--preset", "full", "--max-steps", "5", "--log", "tensorboard"]);
    let (table, _) = expect(0, here, &["runs", "a", "b", "--svg", "runs.svg", "--json", "runs.json"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["run", "epochs", "loss", "R1", "mAP", "in", "epoch", "images/s", "MiB", "seconds"]);
    assert_eq!((&rows[1][..2], &rows[2][..2]), (&["a", "2/2"][..], &["b", "1/2"][..]));
    assert!(rows[1][4] == "%" && rows[1][7] == "1" && rows[2][3..6] == ["–"; 3], "{table}");
    for row in [["key", "a", "b"], ["preset", "paper", "full"], ["optim.lr", "0.0003", "0.001"]] {
        assert!(rows.iter().any(|found| found[..] == row), "{row:?} in {table}");
    }
    assert!(!table.contains("data.seed"), "{table}");
    let json: Value = serde_json::from_slice(&std::fs::read(here.join("runs.json")).unwrap()).unwrap();
    assert_eq!(json["runs"][1]["epochs"], 1);
    assert_eq!(json["differences"]["schedule.eval_every"], serde_json::json!(["1", "0"]));
    let log = std::fs::read_to_string(here.join("a/log.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&json["runs"][0]["map"], &json["runs"][0]["train_loss"]),
        (&last["map"], &last["train_loss"])
    );
    let svg = std::fs::read_to_string(here.join("runs.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">2 runs</text>"), "{svg}");

    // The table of the epochs has the numbers of the log.
    let csv = std::fs::read_to_string(here.join("a/log.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let column = rows[0].iter().position(|name| *name == "map").unwrap();
    assert_eq!((rows.len(), rows[2][column].parse::<f64>().unwrap()), (3, last["map"].as_f64().unwrap()));
    // An event file only where it was asked for, also for a resumed run.
    let events = |run: &str| std::fs::metadata(here.join(run).join("events.out.tfevents.lat-wgpu"));
    let before = events("b").unwrap().len();
    expect(0, here, &["train", "--resume", "--out", "b"]);
    assert!(events("a").is_err() && events("b").unwrap().len() > before);

    // A single run, also one without an epoch.
    train(here, "c", &["--max-steps", "0"]);
    let (table, _) = expect(0, here, &["runs", "c"]);
    assert!(table.lines().count() == 2 && table.contains("0/2"), "{table}");
    for (code, arguments, words) in [
        (2, &["runs", "figures"][..], "figures is no run folder: there is no figures/config.toml"),
        (2, &["runs", "nowhere"], "nowhere"),
        (2, &["runs", "a", "--svg", "a/log.csv"], "a/log.csv"),
    ] {
        let (_, stderr) = expect(code, here, arguments);
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    assert!(std::fs::read_to_string(here.join("a/log.csv")).unwrap() == csv);
}
