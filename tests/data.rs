//! `lat-wgpu data`: table, findings and exit codes.

#[path = "common/program.rs"]
mod program;

use program::{finish, program};
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;

/// Runs `lat-wgpu data .` in `folder`, asserts the exit code and returns stdout, or stderr where that is empty.
fn data(code: i32, folder: &Path, more: &[&str]) -> String {
    let (stdout, stderr) = finish(code, program(folder, &["data", "."]).args(more));
    if stdout.is_empty() { stderr } else { stdout }
}

/// `count` empty files of the persons in turn, by six cameras in turn.
fn fill(folder: &Path, persons: impl Iterator<Item = String> + Clone, count: usize) {
    fs::create_dir_all(folder).unwrap();
    for (i, person) in persons.cycle().take(count).enumerate() {
        File::create(folder.join(format!("{person}_c{}s1_{i:06}_00.jpg", 1 + (i / 7 + i) % 6))).unwrap();
    }
}

#[test]
fn market_1501_has_its_published_counts() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("Market");
    let (train, test) = (0..751, 751..1501);
    let named = |range: std::ops::Range<u32>| range.map(|i| format!("{:04}", i + 1));
    fill(&root.join("bounding_box_train"), named(train), 12_936);
    fill(&root.join("query"), named(test.clone()), 3_368);
    let gallery = root.join("bounding_box_test");
    fill(&gallery, named(test), 13_115);
    fill(&gallery, std::iter::once("0000".to_string()), 2_798);
    fill(&gallery, std::iter::once("-1".to_string()), 3_819);
    assert_eq!(fs::read_dir(&gallery).unwrap().count(), 19_732);
    File::create(gallery.join("Thumbs.db")).unwrap();

    let text = data(0, &root, &["--fast"]);
    for line in [
        "Market: Market-1501",
        "  train         751    12936        6",
        "  query         750     3368        6",
        "  gallery       751    15913        6",
        "gallery: 2798 distractor images (0000)",
        "gallery: 3819 junk images (-1)",
        "left out: 1 hidden",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line:?} in:\n{text}");
    }
    let value: Value = serde_json::from_str(&data(0, &root, &["--fast", "--json", "-"])).unwrap();
    assert_eq!(value["splits"]["gallery"]["images"], 15_913);
    assert_eq!((&value["unreadable"], &value["only_camera"]), (&Value::Null, &Value::Null));
}

#[test]
fn data_reports_findings_and_strict_fails() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for name in ["anna/1_a", "anna/1_b", "bob/1_a"] {
        let path = here.join(format!("{name}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::new(4, 8).save(path).unwrap();
    }
    fs::write(here.join("bob/1_b.jpg"), "no image").unwrap();
    let text = data(0, here, &[]);
    for words in [
        "no split: every image is a query against all others",
        "images that cannot be read: 1",
        "bob/1_b.jpg: not a JPEG",
        "--ignore-cameras",
        "by the query's camera: 4",
    ] {
        assert!(text.contains(words), "{words} in:\n{text}");
    }
    data(1, here, &["--strict"]);

    fs::remove_file(here.join("bob/1_b.jpg")).unwrap();
    for person in ["anna", "bob"] {
        fs::copy(here.join(format!("{person}/1_a.png")), here.join(format!("{person}/2_a.png"))).unwrap();
    }
    assert!(data(0, here, &["--strict"]).ends_with("nothing looks wrong\n"));
}

#[test]
fn other_folders_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let text = data(1, here, &[]);
    assert!(text.starts_with("error: no image in "), "{text}");
    fs::write(here.join("a.jpg"), "").unwrap();
    let text = data(1, here, &[]);
    assert!(text.contains("bounding_box_train") && text.contains("`embed` and `search` need none"), "{text}");
    let text = data(1, here, &["--layout", "msmt17"]);
    assert!(text.contains("list_train.txt"), "{text}");
    data(2, here, &["--layout", "elsewhere"]);
    data(2, here, &["--split", "0"]);
}
