//! The walk that all commands share: hidden names, links and extensions.

use crate::common::{TINY, assert_says, copies, copy, expect, input, paint, write};
use lat_wgpu::checkpoint::{self, Settings};
use lat_wgpu::embeddings;
use serde_json::{Value, json};
use std::path::Path;

/// Runs `embed` on one folder, and returns its JSON summary and stderr.
#[track_caller]
fn embed(code: i32, here: &Path, more: &[&str]) -> (Value, String) {
    let embed = ["embed", "--model", TINY, "--out", "e.npy", "--json", "s.json"];
    let (_, stderr) = expect(code, here, &[&embed[..], more].concat());
    let summary = std::fs::read(here.join("s.json")).unwrap();
    (serde_json::from_slice(&summary).unwrap(), stderr)
}

/// The names of the rows that [`embed`] writes.
fn rows(here: &Path) -> Vec<String> {
    embeddings::read(&here.join("e.npy")).unwrap().paths
}

/// The JSON of `data`.
#[track_caller]
fn data(code: i32, here: &Path, more: &[&str]) -> Value {
    let (stdout, _) = expect(code, here, &[&["data", "--json", "-"], more].concat());
    serde_json::from_str(&stdout).unwrap()
}

/// The persons of a model that starts training on `folder`, and stderr.
#[track_caller]
fn persons(here: &Path, folder: &str, more: &[&str]) -> (Vec<String>, String) {
    let train = ["train", "--backbone", TINY, "--data", folder, "--out", "run", "--batch-size", "4"];
    let (_, stderr) = expect(0, here, &[&train[..], more].concat());
    let model = checkpoint::load(&here.join("run/last.safetensors"), &Settings::default()).unwrap();
    (model.class_names.unwrap(), stderr)
}

#[test]
fn notebook_checkpoints_are_left_out() {
    let folder = copies(&["ipynb_full"]);
    let here = folder.path();
    let (persons, stderr) = persons(here, "ipynb_full", &["--max-steps", "0"]);
    assert_eq!(persons, ["anna", "bob"]);
    assert_says(&stderr, &["left out: 1 hidden"]);

    let (summary, stderr) = embed(0, here, &["ipynb_full"]);
    assert_eq!((&summary["images"], &summary["left_out"]), (&json!(8), &json!({"hidden": 1})));
    assert_says(&stderr, &["(0 skipped, left out: 1 hidden)"]);
    assert!(rows(here).iter().all(|name| !name.contains("checkpoint")), "{:?}", rows(here));

    let found = data(0, here, &["ipynb_full", "--strict"]);
    assert_eq!(
        (&found["left_out"], &found["splits"]["gallery"]["persons"]),
        (&json!({"hidden": 1}), &json!(2))
    );
    let (text, _) = expect(0, here, &["data", "ipynb_full"]);
    assert_says(&text, &["left out: 1 hidden\n", "nothing looks wrong"]);

    let (text, _) = expect(0, here, &["eval", "--model", TINY, "--data", "ipynb_full", "--ignore-cameras"]);
    assert_says(&text, &["; left out: 1 hidden\n"]);
    let evaluated = ["eval", "--model", TINY, "--data", "ipynb_full", "--ignore-cameras", "--json", "-"];
    let scores: Value = serde_json::from_str(&expect(0, here, &evaluated).0).unwrap();
    assert_eq!((&scores["left_out"], &scores["queries"]), (&json!({"hidden": 1}), &json!(8)));

    let search = ["search", "--model", TINY, "--gallery", "e.npy", "--query", "ipynb_full", "--json", "-"];
    let (text, stderr) = expect(0, here, &search);
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((found["queries"].as_array().unwrap().len(), &found["left_out"]), (8, &json!({"hidden": 1})));
    assert_says(&stderr, &["note: left out: 1 hidden"]);
}

#[test]
fn files_of_mac_archives_are_left_out() {
    let folder = copies(&["macosx"]);
    let here = folder.path();
    let (persons, stderr) = persons(here, "macosx", &["--epochs", "1", "--val-fraction", "0"]);
    assert_eq!(persons, ["anna", "bob"]);
    // The folder __MACOSX, and four files in each person's folder.
    assert_says(&stderr, &["left out: 9 hidden"]);
    let (summary, _) = embed(0, here, &["macosx", "--strict"]);
    assert_eq!((&summary["images"], &summary["left_out"]), (&json!(8), &json!({"hidden": 9})));
    assert_eq!(data(0, here, &["macosx", "--strict"])["left_out"], json!({"hidden": 9}));
}

#[test]
fn other_hidden_names_are_left_out() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    for name in ["@eaDir/a.jpg", ".git/objects/b.jpg", "a/@eaDir/1_0.jpg/SYNO_M.jpg", ".cache/1_x.jpg"] {
        paint(&here.join("two_p").join(name), [9, 9, 9]);
    }
    for name in ["Thumbs.db", "a/.DS_Store", "b/.nomedia"] {
        write(&here.join("two_p").join(name), "x");
    }
    let (summary, _) = embed(0, here, &["two_p", "--strict"]);
    assert_eq!((&summary["images"], &summary["left_out"]), (&json!(8), &json!({"hidden": 7})));
    assert_eq!(persons(here, "two_p", &["--max-steps", "0"]).0, ["a", "b"]);
    let found = data(0, here, &["two_p", "--strict"]);
    assert_eq!((&found["left_out"], &found["skipped"]), (&json!({"hidden": 7}), &json!([])));

    // An input given by name is always used.
    let (summary, _) = embed(0, here, &["two_p/.cache"]);
    assert_eq!((&summary["images"], &summary["left_out"]), (&json!(1), &json!({})));
    let (summary, _) = embed(0, here, &["two_p/.git/objects/b.jpg", "two_p/a"]);
    assert_eq!((&summary["images"], &summary["left_out"]), (&json!(5), &json!({"hidden": 2})));
    // A folder with only such files is reported.
    write(&here.join("only/.DS_Store"), "x");
    write(&here.join("only/a.HEIC"), "x");
    let (_, stderr) = expect(1, here, &["embed", "--model", TINY, "only", "--out", "f.npy"]);
    assert_says(&stderr, &["no image in only; left out: 1 hidden, 1 .heic"]);
}

#[test]
fn names_beside_the_splits_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for name in ["query/0001_c1s1_000001_01.jpg", "bounding_box_test/0001_c2s1_000001_01.jpg"] {
        paint(&here.join("set").join(name), [200, 9, 9]);
    }
    write(&here.join("set/__MACOSX/query/._0001_c1s1_000001_01.jpg"), "x");
    write(&here.join("set/query/._0001_c1s1_000001_01.jpg"), "x");
    write(&here.join("set/query/notes.txt"), "x");
    let found = data(0, here, &["set", "--layout", "market1501"]);
    assert_eq!(found["left_out"], json!({"hidden": 2, ".txt": 1}));
    assert_eq!(found["splits"]["query"]["images"], 1);

    copy(&input("folders_split"), &here.join("split"));
    write(&here.join("split/.ipynb_checkpoints/1_0-checkpoint.jpg"), "x");
    write(&here.join("split/train/.ipynb_checkpoints/1_0-checkpoint.jpg"), "x");
    assert_eq!(data(0, here, &["split"])["left_out"], json!({"hidden": 2}));

    // A table beside its Mac twin is the only table.
    copy(&input("csv_split"), &here.join("csv"));
    write(&here.join("csv/._set.csv"), "x");
    assert_eq!(data(0, here, &["csv"])["layout"], "CSV");

    // So is a segment of a gallery.
    copy(&input("emb/ok.npy"), &here.join("parts/ok.npy"));
    copy(&input("emb/ok.paths.txt"), &here.join("parts/ok.paths.txt"));
    write(&here.join("parts/._ok.npy"), "x");
    expect(0, here, &["reduce", "parts", "--dim", "1", "--out", "pca.safetensors"]);
}

#[test]
fn extensions_decide_which_files_are_images() {
    let folder = copies(&["extensions"]);
    let here = folder.path();
    let left_out = json!({".avif": 1, ".heic": 1, ".jp2": 1, ".ppm": 1, ".txt": 1});
    let (summary, stderr) = embed(0, here, &["extensions"]);
    assert_eq!((&summary["images"], &summary["left_out"]), (&json!(7), &left_out));
    assert_says(&stderr, &["left out: 1 .avif, 1 .heic, 1 .jp2, 1 .ppm, 1 .txt)"]);
    let (_, stderr) = embed(1, here, &["extensions", "--strict"]);
    assert_says(&stderr, &["x_heic.heic is in a format that can't be read", "x_avif.avif", "x_jp2.jp2"]);
    assert!(!stderr.contains("x_txt.txt") && !stderr.contains("x_ppm.ppm"), "{stderr}");

    // As a data set.
    copy(&input("two_p"), &here.join("set"));
    for (from, to) in
        [("x_jpe.jpe", "a/1_z.jpe"), ("x_JPE.JPE", "b/2_z.PJPEG"), ("x_jfif.jfif", "b/2_y.Jfif")]
    {
        copy(&input("extensions").join(from), &here.join("set").join(to));
    }
    write(&here.join("set/a/labels.csv"), "x");
    write(&here.join("set/README"), "x");
    let found = data(0, here, &["set", "--strict"]);
    assert_eq!(
        (&found["splits"]["gallery"]["images"], &found["left_out"]),
        (&json!(11), &json!({".csv": 1, "none": 1}))
    );
    for extension in ["HEIC", "heif", "jxl", "Avif", "JP2"] {
        let name = format!("set/a/1_w.{extension}");
        write(&here.join(&name), "x");
        let found = data(1, here, &["set", "--strict"]);
        assert_eq!(found["left_out"][format!(".{}", extension.to_lowercase())], 1, "{found}");
        let (text, _) = expect(0, here, &["data", "set"]);
        assert_says(
            &text,
            &["WRONG: images that are left out: 1\n", &format!("a/1_w.{extension} is in a format")],
        );
        std::fs::remove_file(here.join(name)).unwrap();
    }
    expect(0, here, &["data", "set", "--strict"]);
}

#[cfg(unix)]
mod links {
    use super::*;
    use std::os::unix::fs::symlink;

    /// `set` with persons `a` and `b`, a link to an image, and a person that is a link to another folder.
    fn linked() -> tempfile::TempDir {
        let folder = copies(&["two_p"]);
        let here = folder.path();
        std::fs::rename(here.join("two_p"), here.join("set")).unwrap();
        paint(&here.join("beside/1_0.jpg"), [1, 200, 3]);
        paint(&here.join("beside/deep/2_0.jpg"), [1, 2, 200]);
        symlink("../beside", here.join("set/carol")).unwrap();
        paint(&here.join("single/9_0.jpg"), [200, 2, 100]);
        symlink("../../single/9_0.jpg", here.join("set/a/9_0.jpg")).unwrap();
        folder
    }

    #[test]
    fn links_are_left_out_by_default_and_counted() {
        let folder = linked();
        let here = folder.path();
        let (summary, stderr) = embed(0, here, &["set"]);
        assert_eq!((&summary["images"], &summary["left_out"]), (&json!(8), &json!({"link": 2})));
        assert_says(&stderr, &["(0 skipped, left out: 2 links)"]);
        let (_, stderr) = embed(1, here, &["set", "--strict"]);
        assert_says(
            &stderr,
            &["left out: a/9_0.jpg is a link; --follow-links follows it", "left out: carol is a link"],
        );
        assert_eq!(data(1, here, &["set", "--strict"])["left_out"], json!({"link": 2}));
        assert_eq!(persons(here, "set", &["--max-steps", "0"]).0, ["a", "b"]);

        // Links to other files are counted, but only images matter to --strict.
        for name in ["set/carol", "set/a/9_0.jpg"] {
            std::fs::remove_file(here.join(name)).unwrap();
        }
        write(&here.join("notes.txt"), "x");
        symlink("../notes.txt", here.join("set/notes.txt")).unwrap();
        symlink("nowhere", here.join("set/lost")).unwrap();
        assert_eq!(embed(0, here, &["set", "--strict"]).0["left_out"], json!({"link": 2}));
        // A link to an image without an extension, and a link to a missing image.
        for (target, name) in [("a/1_0.jpg", "set/latest"), ("gone.png", "set/b/gone.png")] {
            symlink(target, here.join(name)).unwrap();
            embed(1, here, &["set", "--strict"]);
            data(1, here, &["set", "--strict"]);
            std::fs::remove_file(here.join(name)).unwrap();
        }
    }

    #[test]
    fn links_are_followed_on_request_by_every_command() {
        let folder = linked();
        let here = folder.path();
        let (summary, _) = embed(0, here, &["set", "--follow-links", "--strict"]);
        assert_eq!((&summary["images"], &summary["left_out"]), (&json!(11), &json!({})));
        assert_eq!(rows(here)[8..], ["b/2_1.jpg", "carol/1_0.jpg", "carol/deep/2_0.jpg"]);
        let found = data(0, here, &["set", "--follow-links"]);
        assert_eq!((&found["splits"]["gallery"]["persons"], &found["left_out"]), (&json!(3), &json!({})));
        assert_eq!(persons(here, "set", &["--max-steps", "0", "--follow-links"]).0, ["a", "b", "carol"]);
        std::fs::remove_dir_all(here.join("run")).unwrap();
        let set = ["--max-steps", "0", "--set", "data.follow_links=true"];
        assert_eq!(persons(here, "set", &set).0, ["a", "b", "carol"]);
        for (command, queries) in [
            (&["eval", "--model", TINY, "--data", "set", "--ignore-cameras"][..], &json!(11)),
            (&["search", "--model", TINY, "--gallery", "e.npy", "--query", "set"], &json!(11)),
        ] {
            let (text, _) = expect(0, here, &[command, &["--follow-links", "--json", "-"]].concat());
            let found: Value = serde_json::from_str(&text).unwrap();
            let count =
                found["queries"].as_array().map_or(found["queries"].clone(), |list| json!(list.len()));
            assert_eq!((&count, &found["left_out"]), (queries, &json!({})), "{command:?}");
        }
    }

    #[test]
    fn loops_are_cut_and_a_folder_is_entered_once() {
        let folder = linked();
        let here = folder.path();
        let wanted = {
            embed(0, here, &["set", "--follow-links"]);
            rows(here)
        };
        // Loops, a second link to a folder that sorts first, a dangling link, and a link to itself.
        symlink("..", here.join("set/a/up")).unwrap();
        symlink("../set", here.join("beside/again")).unwrap();
        symlink("b", here.join("set/0_b")).unwrap();
        symlink("carol", here.join("set/dora")).unwrap();
        symlink("nowhere", here.join("set/nowhere.jpg")).unwrap();
        symlink("self", here.join("set/self")).unwrap();
        let (summary, _) = embed(0, here, &["set", "--follow-links"]);
        assert_eq!(rows(here), wanted);
        assert_eq!(summary["left_out"], json!({"link": 6}));
        assert_eq!(embed(0, here, &["set"]).0["left_out"], json!({"link": 7}));
        // A link as the root, and hidden folders behind links.
        symlink("set", here.join("way")).unwrap();
        write(&here.join("beside/.cache/1_9.jpg"), "x");
        let (summary, _) = embed(0, here, &["way", "--follow-links"]);
        assert_eq!((rows(here), &summary["left_out"]), (wanted, &json!({"hidden": 1, "link": 6})));
        let (_, stderr) = embed(1, here, &["way", "--follow-links", "--strict"]);
        assert_says(&stderr, &["left out: nowhere.jpg is a link that leads nowhere"]);
        assert!(!stderr.contains("up is a link"), "{stderr}");
    }

    #[test]
    fn a_link_may_point_to_a_parent_folder() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        for name in ["top/1.jpg", "top/in/2.jpg", "top/other/3.jpg"] {
            paint(&here.join(name), [5, 5, 5]);
        }
        symlink("..", here.join("top/in/all")).unwrap();
        let (summary, _) = embed(0, here, &["top/in", "--follow-links"]);
        assert_eq!(rows(here), ["2.jpg", "all/1.jpg", "all/other/3.jpg"]);
        assert_eq!(summary["left_out"], json!({}));
        // For two links to one folder, the first name is used.
        std::fs::create_dir(here.join("two")).unwrap();
        for name in ["y", "x", "z"] {
            symlink("../top/other", here.join("two").join(name)).unwrap();
        }
        let (summary, _) = embed(0, here, &["two", "--follow-links"]);
        assert_eq!((rows(here), &summary["left_out"]), (vec!["x/3.jpg".to_string()], &json!({"link": 2})));
    }
}
