//! `lat-wgpu demo`: the whole way, on a few persons.

use std::path::Path;
use std::process::{Command, Output};

fn demo(folder: &Path, more: &[&str]) -> Output {
    let small = ["demo", "--persons", "8", "--epochs", "2", "--seed", "3", "--out"];
    Command::new(env!("CARGO_BIN_EXE_lat-wgpu")).args(small).args(more).current_dir(folder).output().unwrap()
}

#[test]
fn it_ends_with_scores_and_a_report_and_repeats_itself() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let outputs = ["one", "two"].map(|out| {
        let output = demo(here, &[out]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains("epoch 1: loss"), "{stderr}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_string).collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (line, when) in lines.iter().zip(["before: rank-1 ", "after: rank-1 "]) {
            assert!(line.starts_with(when) && line.contains(" %, mAP "), "{text}");
        }
        assert_eq!(lines[2], format!("report: {out}/report.html"));
        lines[..2].to_vec()
    });
    assert_eq!(outputs[0], outputs[1]);
    let [one, two] =
        ["one", "two"].map(|out| std::fs::read(here.join(out).join("run/last.safetensors")).unwrap());
    assert!(one == two);
    let page = std::fs::read_to_string(here.join("one/report.html")).unwrap();
    assert!(page.contains("<!doctype html>") || page.contains("<!DOCTYPE html>"));
    assert!(page.contains("data:image/") && page.contains(&outputs[0][0]["before: ".len()..]));

    let refused = demo(here, &["one"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("one is there already"));
}
