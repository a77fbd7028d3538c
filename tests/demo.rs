//! `lat-wgpu demo` on a few persons.

#[path = "common/program.rs"]
mod program;

use program::expect;
use std::path::Path;

fn demo(code: i32, folder: &Path, out: &str) -> (String, String) {
    expect(code, folder, &["demo", "--persons", "8", "--epochs", "2", "--seed", "3", "--out", out])
}

#[test]
fn demo_prints_scores_writes_a_report_and_is_repeatable() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let outputs = ["one", "two"].map(|out| {
        let (text, stderr) = demo(0, here, out);
        assert!(stderr.contains("epoch 1: loss"), "{stderr}");
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

    let (_, stderr) = demo(2, here, "one");
    assert!(stderr.contains("one exists already"), "{stderr}");
}
