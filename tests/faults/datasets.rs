//! Every command reads data sets in the same way and refuses contradictions.

use super::common::{TINY, assert_says, copies, expect, input, paint, write};
use lat_wgpu::checkpoint::{self, Settings};
use lat_wgpu::train::config::Config;
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// Runs `train` without a step, and returns the persons in the model's metadata and stderr.
#[track_caller]
fn trained(folder: &Path, data: &str, more: &[&str]) -> (Vec<String>, String) {
    let out = format!("run-{}", std::fs::read_dir(folder).unwrap().count());
    let arguments = ["train", "--backbone", TINY, "--data", data, "--out", &out, "--max-steps", "0"];
    let (_, stderr) = expect(0, folder, &[&arguments[..], &["--batch-size", "2"], more].concat());
    let model = folder.join(out).join("last.safetensors");
    (checkpoint::load(&model, &Settings::default()).unwrap().class_names.unwrap(), stderr)
}

/// The JSON and the stderr of `data --json -`.
#[track_caller]
fn surveyed(folder: &Path, data: &str, more: &[&str]) -> (Value, String) {
    let (stdout, stderr) = expect(0, folder, &[&["data", data, "--json", "-"], more].concat());
    (serde_json::from_str(&stdout).unwrap(), stderr)
}

/// The JSON and the stderr of `eval --json -`.
#[track_caller]
fn scored(folder: &Path, more: &[&str]) -> (Value, String) {
    let (stdout, stderr) = expect(0, folder, &[&["eval", "--model", TINY, "--json", "-"], more].concat());
    (serde_json::from_str(&stdout).unwrap(), stderr)
}

/// A folder with small images.
fn images(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in names.iter().enumerate() {
        paint(&folder.path().join(name), [40 * i, 90, 20 * i].map(|c| (c % 256) as u8));
    }
    folder
}

#[test]
fn train_uses_the_train_split_only() {
    for (name, data, persons, images, of_train) in [
        ("msmt", "msmt", &["0000", "0001", "0002"][..], 12, "msmt/train/"),
        ("folders_split", "folders_split", &["a", "b", "c", "d"], 16, "folders_split/train/"),
        ("duke", "duke", &["0001", "0002", "0005", "0007"], 16, "duke/bounding_box_train/"),
        ("veri", "veri", &["0001", "0004", "0005"], 6, "veri/image_train/"),
        ("mars", "mars", &["0001", "0003"], 8, "mars/bbox_train/"),
        ("csv_split", "csv_split/set.csv", &["anna", "bob"], 4, "csv_split/p0.jpg"),
        ("csv_split", "csv_split", &["anna", "bob"], 4, "csv_split/p0.jpg"),
    ] {
        let folder = copies(&[name]);
        let (found, stderr) = trained(folder.path(), data, &[]);
        assert_eq!(found, persons, "{data}");
        assert!(!stderr.contains("no train split"), "{stderr}");
        assert!(
            stderr.lines().any(|line| line.contains(of_train) && line.contains(" is person ")),
            "{stderr}"
        );
        let (value, _) = surveyed(folder.path(), data, &["--fast"]);
        assert_eq!(value["splits"]["train"]["persons"], persons.len(), "{data}");
        assert_eq!(value["splits"]["train"]["images"], images, "{data}");
    }
}

#[test]
fn without_splits_everything_trains_with_a_note() {
    let folder = copies(&["two_p", "duke"]);
    let (found, stderr) = trained(folder.path(), "two_p", &[]);
    assert_eq!(found, ["a", "b"]);
    assert_says(&stderr, &["two_p has no train split: all 8 images of 2 persons train"]);
    let (found, stderr) = trained(folder.path(), "duke/bounding_box_test", &[]);
    assert_eq!(found, ["0003", "0004", "0009"]);
    assert_says(&stderr, &["bounding_box_test has no train split: all 12 images of 3 persons train"]);
    // Images without a camera in their names.
    let folder = images(&["set/7/0001.jpg", "set/7/0002.jpg", "set/8/0001.jpg"]);
    let (found, stderr) = trained(folder.path(), "set", &[]);
    assert_eq!(found, ["7", "8"]);
    assert_says(&stderr, &["set has no train split: all 3 images of 2 persons train"]);
}

#[test]
fn train_refuses_splits_without_train_images() {
    let folder = copies(&["viper"]);
    let (_, stderr) =
        expect(1, folder.path(), &["train", "--backbone", TINY, "--data", "viper", "--out", "run"]);
    assert_says(&stderr, &["viper: no train images", "only 3 of the query and 3 of the gallery"]);
    let folder = copies(&["empty_query"]);
    let (_, stderr) =
        expect(1, folder.path(), &["train", "--backbone", TINY, "--data", "empty_query", "--out", "run"]);
    assert_says(&stderr, &["empty_query: no train images", "only 0 of the query and 8 of the gallery"]);
    let (value, _) = surveyed(folder.path(), "empty_query", &[]);
    assert_says(value["refused"]["train"].as_str().unwrap(), &["no train images"]);
}

#[test]
fn train_takes_0000_as_a_person_and_minus_1_as_junk() {
    let market = [
        "set/bounding_box_train/0000_c1s1_000001_01.png",
        "set/bounding_box_train/0002_c1s1_000001_01.png",
        "set/bounding_box_train/-1_c1s1_000001_01.png",
        "set/bounding_box_test/0000_c1s1_000001_01.png",
    ];
    let split = [
        "set/train/0000/1_a.png",
        "set/train/0002/1_a.png",
        "set/train/-1/1_a.png",
        "set/gallery/0000/1_a.png",
    ];
    let mars = [
        "set/bbox_train/0000/0000C1T0001F001.png",
        "set/bbox_train/0002/0002C1T0001F001.png",
        "set/bbox_train/00-1/00-1C1T0001F001.png",
        "set/bbox_test/0000/0000C1T0001F001.png",
    ];
    for names in [market, split, mars] {
        let folder = images(&names);
        let (found, stderr) = trained(folder.path(), "set", &[]);
        assert_eq!(found, ["0000", "0002"], "{names:?}");
        assert_says(&stderr, &["1 files are junk or outside the layout"]);
        let (value, _) = surveyed(folder.path(), "set", &[]);
        let counts = |split: &str| {
            let counts = &value["splits"][split];
            ["persons", "images", "distractors", "junk"].map(|key| counts[key].as_u64().unwrap())
        };
        assert_eq!(counts("train"), [2, 2, 0, 1], "{names:?}");
        assert_eq!(counts("gallery"), [1, 1, 1, 0], "{names:?}");
    }
    let folder = images(&["set/1.png", "set/2.png", "set/3.png"]);
    write(&folder.path().join("set/all.csv"), "path,person,camera\n1.png,0000,1\n2.png,-1,1\n3.png,anna,2\n");
    assert_eq!(trained(folder.path(), "set", &[]).0, ["0000", "anna"]);
}

/// CUHK03 with labelled boxes by the classic protocol: four persons, two of them for testing.
fn cuhk03() -> TempDir {
    let mut names = Vec::new();
    for person in 1..=4 {
        for (view, index) in [(1, 1), (1, 2), (2, 6), (2, 7)] {
            names.push(format!("set/labelled/1_{person:03}_{view}_{index:02}.png"));
        }
    }
    let folder = images(&names.iter().map(String::as_str).collect::<Vec<_>>());
    write(&folder.path().join("set/classic_03.txt"), "1_002\n1_004\n");
    folder
}

const CLASSIC: [&str; 6] = ["--boxes", "labelled", "--cuhk03", "classic", "--split", "3"];

#[test]
fn train_takes_the_same_options_as_eval() {
    let folder = cuhk03();
    let here = folder.path();
    let (found, _) = trained(here, "set", &CLASSIC);
    assert_eq!(found, ["1_001", "1_003"]);
    let keys = ["data.boxes=labelled", "data.cuhk03=classic", "data.split=3", "data.layout=cuhk03"];
    let set: Vec<&str> = keys.iter().flat_map(|key| ["--set", *key]).collect();
    assert_eq!(trained(here, "set", &set).0, found);
    let arguments = ["train", "--backbone", TINY, "--data", "set", "--out", "run", "--epochs", "1"];
    // The test images of this protocol are both queries and gallery, and none of them train.
    let run = [&arguments[..], &["--batch-size", "4", "--eval-every", "1"], &CLASSIC].concat();
    let (_, stderr) = expect(0, here, &run);
    assert_says(&stderr, &["R1 "]);
    let config = Config::read(&here.join("run/config.toml")).unwrap();
    assert_eq!((config.data.split, config.data.load_options().split), (3, 3));
    let (value, _) = scored(here, &[&["--data", "set"], &CLASSIC[..]].concat());
    assert_eq!(value["queries"], 8);

    let seeded: Vec<String> =
        (1..=8).flat_map(|p| [1, 3].map(|i| format!("cuhk01/{p:04}{i:03}.png"))).collect();
    let folder = images(&seeded.iter().map(String::as_str).collect::<Vec<_>>());
    let first = trained(folder.path(), "cuhk01", &[]).0;
    let others: Vec<_> =
        ["1", "2", "3"].map(|seed| trained(folder.path(), "cuhk01", &["--split-seed", seed]).0).into();
    assert!(first.len() == 4 && others.iter().any(|other| *other != first), "{others:?}");
    for wrong in [&["--layout", "market"][..], &["--set", "data.layout=market"], &["--set", "data.split=0"]] {
        let arguments = ["train", "--backbone", TINY, "--data", "cuhk01", "--out", "never"];
        expect(2, folder.path(), &[&arguments[..], wrong].concat());
    }
}

#[test]
fn ablate_takes_the_same_options() {
    let folder = cuhk03();
    let arguments =
        ["ablate", "--data", "set", "--backbone", TINY, "--set", "schedule.max_steps=0", "--batch-size", "2"];
    expect(0, folder.path(), &[&arguments[..], &CLASSIC].concat());
    let model = folder.path().join("ablation/la-gelt-paper/last.safetensors");
    assert_eq!(
        checkpoint::load(&model, &Settings::default()).unwrap().class_names.unwrap(),
        ["1_001", "1_003"]
    );
}

#[test]
fn published_names_are_read_in_their_own_and_market_1501s_folders() {
    for (data, layout, query, example) in [
        ("duke", "Market-1501", 2, "0003_c2_f0046509.jpg is person 0003, seen by camera 2"),
        ("veri", "VeRi-776", 2, "0002_c007_00016477_0.jpg is person 0002, seen by camera 7"),
        ("viper", "VIPeR", 3, "000_45.bmp is person 000, seen by camera a"),
        ("mars", "MARS", 0, "0002C1T0001F001.jpg is person 0002, seen by camera 1"),
    ] {
        let folder = copies(&[data]);
        let (value, stderr) = surveyed(folder.path(), data, &[]);
        assert_eq!((&value["layout"], &value["splits"]["query"]["images"]), (&layout.into(), &query.into()));
        assert!(stderr.lines().any(|line| line.ends_with(example)), "{stderr}");
        if query > 0 {
            let (value, stderr) = scored(folder.path(), &["--data", data]);
            assert_eq!(value["valid_queries"], query, "{data}");
            assert!(stderr.lines().any(|line| line.ends_with(example)), "{stderr}");
        }
    }
    for (train, query, gallery) in [
        ("0001_c001_00016450_0.png", "0002_c001_00016450_0.png", "0002_c013_00016450_0.png"),
        ("0001C1T0001F001.png", "0002C1T0001F001.png", "0002C6T0001F001.png"),
        ("0001_c2_f0046182.png", "0002_c2_f0046182.png", "0002_c6_f0046182.png"),
    ] {
        let folder = images(&[
            &format!("set/bounding_box_train/{train}"),
            &format!("set/query/{query}"),
            &format!("set/bounding_box_test/{gallery}"),
        ]);
        let (value, stderr) = surveyed(folder.path(), "set", &["--layout", "market1501"]);
        assert_eq!(value["skipped"], serde_json::json!([]), "{train}");
        assert_eq!(value["refused"]["eval"], Value::Null, "{train}");
        assert_says(&stderr, &["is person 0002, seen by camera "]);
    }
}

#[test]
fn other_pairs_of_cameras_are_read() {
    for (names, layout) in [
        (["set/cam_a/person_0001.png", "set/cam_b/person_0001.png"], "PRID 2011"),
        (["set/single_shot/cam_a/person_0001.png", "set/single_shot/cam_b/person_0001.png"], "PRID 2011"),
        (
            ["set/occluded_body_images/001/001_01.tif", "set/whole_body_images/001/001_01.tif"],
            "Occluded-REID",
        ),
    ] {
        let folder = images(&names);
        let (value, _) = scored(folder.path(), &["--data", "set"]);
        assert_eq!(value["valid_queries"], 1);
        assert_eq!(surveyed(folder.path(), "set", &[]).0["layout"], layout);
    }
}

#[test]
fn mars_without_queries_can_only_train() {
    let folder = copies(&["mars"]);
    let here = folder.path();
    let (_, stderr) = expect(1, here, &["eval", "--model", TINY, "--data", "mars"]);
    assert_says(&stderr, &["info/*.mat", "only training is offered", "CSV of path,person,camera,split"]);
    let (text, _) = expect(0, here, &["data", "mars"]);
    assert_says(&text, &["note: cannot evaluate: ", "only training is offered", "`train` accepts it"]);
    expect(1, here, &["data", "mars", "--strict"]);
    // MATLAB lists change nothing.
    write(&here.join("mars/info/tracks_test_info.mat"), "MATLAB");
    let (_, stderr) = expect(1, here, &["eval", "--model", TINY, "--data", "mars"]);
    assert_says(&stderr, &["only training is offered"]);
}

#[test]
fn a_folder_one_level_too_high_is_refused() {
    let folder = copies(&["duke", "veri", "viper", "folders_split", "mars", "msmt"]);
    for (name, data) in
        [("duke", "a"), ("veri", "b"), ("viper", "c"), ("folders_split", "d"), ("mars", "e"), ("msmt", "f")]
    {
        std::fs::create_dir(folder.path().join(data)).unwrap();
        std::fs::rename(folder.path().join(name), folder.path().join(data).join(name)).unwrap();
        let inside = format!("give {data}/{name}");
        for command in [
            &["data", data][..],
            &["eval", "--model", TINY, "--data", data],
            &["train", "--backbone", TINY, "--data", data, "--out", "run"],
        ] {
            let (_, stderr) = expect(1, folder.path(), command);
            assert_says(&stderr, &["is one folder above a data set", &inside]);
        }
    }
    // Two levels, as the names of the files show.
    std::fs::create_dir(folder.path().join("g")).unwrap();
    std::fs::rename(folder.path().join("a"), folder.path().join("g/a")).unwrap();
    let (_, stderr) = expect(1, folder.path(), &["data", "g"]);
    assert_says(&stderr, &["a is read as the folder of one person", "0003", "further down"]);
    // Neither a camera nor a split of another name is a person.
    let folder = images(&["x/cam1/0001_1.png", "x/cam2/0001_1.png", "y/test/a/1_a.png", "y/val/a/1_a.png"]);
    assert_says(&expect(1, folder.path(), &["data", "x"]).1, &["cam1, cam2"]);
    assert_says(&expect(1, folder.path(), &["data", "y"]).1, &["train, query and gallery"]);
}

#[test]
fn folders_that_are_no_persons_are_refused() {
    for (files, words) in [
        (&["Train/a/1_0.png", "Query/b/1_0.png", "Gallery/b/2_0.png"][..], "train, query and gallery"),
        (&["training/a/1_0.png", "testing/b/1_0.png"], "train, query and gallery"),
        (&["whole_body_images/001_1.png", "partial_body_images/001_1.png"], "train, query and gallery"),
        (&["day1/anna/1_0.png", "day1/bob/2_0.png", "day2/anna/2_1.png"], "further down"),
        (&["data/0001/1_0.png", "data/0001/2_0.png", "data/0002/1_0.png"], "further down"),
        (&["train/x/a/1_0.png", "query/b/1_0.png", "gallery/b/2_0.png"], "train/x/a/1_0.png"),
    ] {
        let names: Vec<String> = files.iter().map(|file| format!("set/{file}")).collect();
        let folder = images(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let train = ["train", "--backbone", TINY, "--data", "set", "--out", "run"];
        for command in [&["data", "set"][..], &["eval", "--model", TINY, "--data", "set"], &train] {
            assert_says(&expect(1, folder.path(), command).1, &[words]);
        }
    }
}

#[cfg(unix)]
#[test]
fn one_file_under_two_names_is_one_image() {
    let folder = copies(&["two_p"]);
    let set = folder.path().join("two_p");
    std::os::unix::fs::symlink("../a/1_0.jpg", set.join("b/9_9.jpg")).unwrap();
    expect(0, folder.path(), &["data", "two_p"]);
    let train = ["train", "--backbone", TINY, "--data", "two_p", "--follow-links", "--out", "run"];
    for command in [&["data", "two_p", "--follow-links"][..], &train] {
        assert_says(
            &expect(1, folder.path(), command).1,
            &["a/1_0.jpg for person a", "b/9_9.jpg for person b"],
        );
    }
    std::fs::remove_file(set.join("b/9_9.jpg")).unwrap();
    std::fs::hard_link(set.join("a/1_0.jpg"), set.join("a/1_9.jpg")).unwrap();
    assert_says(&expect(1, folder.path(), &["data", "two_p"]).1, &["a/1_0.jpg", "a/1_9.jpg", "twice"]);
    std::fs::rename(set.join("a/1_9.jpg"), set.join("b/1_9.jpg")).unwrap();
    assert_says(&expect(1, folder.path(), &["data", "two_p"]).1, &["a/1_0.jpg for person a", "b/1_9.jpg"]);
}

#[test]
fn a_file_that_contradicts_its_persons_folder_is_refused() {
    let folder = copies(&["contradict"]);
    for command in [
        &["data", "contradict"][..],
        &["eval", "--model", TINY, "--data", "contradict"],
        &["train", "--backbone", TINY, "--data", "contradict/gallery", "--out", "run"],
    ] {
        let (_, stderr) = expect(1, folder.path(), command);
        assert_says(&stderr, &["0001/0002_c2s1_000001_01.jpg", "folder of person 0001", "says person 0002"]);
    }
    for wrong in [
        "set/train/3/0004_c2_f0046182.png",
        "set/gallery/0003/deep/0004_c012_00016450_0.png",
        "set/train/0003/0004C2T0001F001.png",
        "set/query/0003/0004_000_01_0303morning_0015_0.png",
        "set/gallery/-1/0004_c1s1_000001_01.png",
        "set/query/0003/-1_c1s1_000001_01.png",
    ] {
        let folder = images(&[wrong, "set/train/0001/1_a.png", "set/train/0002/1_a.png"]);
        let (_, stderr) = expect(1, folder.path(), &["data", "set"]);
        assert_says(&stderr, &[wrong.strip_prefix("set/").unwrap(), "its name says person"]);
    }
    let fine = [
        "set/7/0001.png",
        "set/7/2_0001.png",
        "set/8/0008_c2s1_000001_01.png",
        "set/8/1_001_1_01.png",
        "set/anna/0001_c1s1_000001_01.png",
    ];
    let folder = images(&fine);
    let (_, stderr) = trained(folder.path(), "set", &[]);
    assert_says(&stderr, &["all 5 images of 3 persons train"]);
}

#[test]
fn data_reports_what_scoring_and_training_refuse() {
    let folder = copies(&["empty_query", "two_p", "folders_split"]);
    let here = folder.path();
    let (text, _) = expect(0, here, &["data", "empty_query"]);
    assert_says(&text, &["note: cannot evaluate: no query images", "note: cannot train: no train"]);
    expect(1, here, &["data", "empty_query", "--strict"]);
    let (_, stderr) = expect(1, here, &["eval", "--model", TINY, "--data", "empty_query"]);
    assert_says(&stderr, &["no query images"]);

    std::fs::rename(here.join("two_p/a"), here.join("a")).unwrap();
    std::fs::remove_dir_all(here.join("folders_split/gallery")).unwrap();
    let one = images(&["set/train/a/1_a.png", "set/query/b/1_a.png", "set/gallery/b/1_b.png"]);
    let empty = images(&["set/a/1_a.png", "set/a/2_a.png", "set/b/1_b.png"]);
    std::fs::create_dir(empty.path().join("set/c")).unwrap();
    for (here, data, eval, train) in [
        (here, "two_p", "", "only one person trains (b)"),
        (here, "folders_split", "no gallery images", ""),
        (one.path(), "set", "no query has a match", "only one person trains (a)"),
        (empty.path(), "set", "", "the folder of person c holds no image"),
    ] {
        let (value, _) = surveyed(here, data, &[]);
        expect(1, here, &["data", data, "--strict"]);
        let eval_arguments = ["eval", "--model", TINY, "--data", data];
        let train_arguments =
            ["train", "--backbone", TINY, "--data", data, "--out", "run", "--max-steps", "0"];
        for (key, refusal, arguments) in [
            ("eval", eval, &eval_arguments[..]),
            ("train", train, &[&train_arguments[..], &["--batch-size", "2"]].concat()),
        ] {
            let (_, stderr) = expect(i32::from(!refusal.is_empty()), here, arguments);
            if refusal.is_empty() {
                assert_eq!(value["refused"][key], Value::Null, "{data}");
            } else {
                assert_says(&stderr, &[refusal]);
                assert_says(value["refused"][key].as_str().unwrap(), &[refusal]);
            }
        }
    }
}

#[test]
fn matches_are_checked_before_any_image_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // None of these files can be decoded, which would be reported.
    for name in ["query/a/1_a.png", "gallery/a/1_b.png", "gallery/b/2_a.png"] {
        write(&here.join("set").join(name), "no image");
    }
    let run = ["eval", "--model", TINY, "--data", "set"];
    let (_, stderr) = expect(1, here, &run);
    assert_says(
        &stderr,
        &["no query has a match", "1 in the gallery by the same camera only", "--ignore-cameras"],
    );
    assert!(!stderr.contains("skipped"), "{stderr}");
    for more in [&["--ignore-cameras"][..], &["--protocol", "released-code"]] {
        let (_, stderr) = expect(1, here, &[&run[..], more].concat());
        assert_says(&stderr, &["skipped", "could be read"]);
    }
}

#[test]
fn good_data_sets_are_scored_and_the_bad_one_is_named() {
    let folder = copies(&["duke", "veri", "empty_query"]);
    let here = folder.path();
    for name in ["query/a/1_a.png", "gallery/a/2_a.png"] {
        write(&here.join("broken").join(name), "no image");
    }
    for bad in ["empty_query", "nowhere", "broken"] {
        let sets = ["--data", "duke", "--data", bad, "--data", "veri"];
        let run = [&["eval", "--model", TINY, "--json", "s.json"], &sets[..]].concat();
        let (stdout, stderr) = expect(1, here, &run);
        assert_says(&stdout, &["duke: 2 queries", "veri: 2 queries"]);
        assert_says(&stderr, &[&format!("error: {bad} was not scored: ")]);
        let value: Value = serde_json::from_slice(&std::fs::read(here.join("s.json")).unwrap()).unwrap();
        assert_eq!((&value["sets"][0]["name"], &value["sets"][1]["name"]), (&"duke".into(), &"veri".into()));
        assert_eq!(value["failed"][0]["data"], bad);
        std::fs::remove_file(here.join("s.json")).unwrap();
    }
    let (_, stderr) =
        expect(1, here, &["eval", "--model", TINY, "--data", "nowhere", "--data", "empty_query"]);
    assert_says(&stderr, &["nowhere was not scored", "empty_query was not scored"]);
}

/// Scores the embeddings in `emb` by a table.
#[track_caller]
fn by_labels(code: i32, folder: &Path, table: &str) -> (String, String) {
    let files = ["--query-embeddings", "emb/ok.npy", "--gallery-embeddings", "emb/ok.npy"];
    expect(code, folder, &[&["eval"], &files[..], &["--labels", table]].concat())
}

#[test]
fn one_person_has_one_spelling() {
    let folder = copies(&["emb", "two_p"]);
    let here = folder.path();
    for (table, words) in [
        ("emb/lead0.csv", ["persons 2", "0002", "same number", "line 6", "line 8"]),
        ("emb/mixlead.csv", ["persons 1", "0001", "same number", "line 2", "line 3"]),
    ] {
        let (_, stderr) = by_labels(1, here, table);
        assert_says(&stderr, &words);
        let reduce = ["reduce", "emb/ok.npy", "--dim", "2", "--out", "r.safetensors", "--labels", table];
        assert_says(&expect(1, here, &reduce).1, &words[..3]);
    }
    std::fs::rename(here.join("two_p/a"), here.join("two_p/1")).unwrap();
    std::fs::rename(here.join("two_p/b"), here.join("two_p/001")).unwrap();
    for command in [
        &["data", "two_p"][..],
        &["eval", "--model", TINY, "--data", "two_p"],
        &["train", "--backbone", TINY, "--data", "two_p", "--out", "run"],
    ] {
        assert_says(&expect(1, here, command).1, &["persons 001 (001) and 1 (1) are the same number"]);
    }
    let folder =
        images(&["set/train/7/1_a.png", "set/query/8/1_a.png", "set/gallery/0007/2_a.png", "a.png", "b.png"]);
    let (_, stderr) = expect(1, folder.path(), &["data", "set"]);
    assert_says(&stderr, &["persons 7 (train/7) and 0007 (gallery/0007)"]);
    write(&folder.path().join("t.csv"), "path,person,camera\na.png,012,1\nb.png,12,2\n");
    assert_says(&expect(1, folder.path(), &["data", "t.csv"]).1, &["persons 012 (line 2) and 12 (line 3)"]);
}

#[test]
fn one_image_shows_one_person() {
    let folder = copies(&["csv_split", "emb", "msmt"]);
    let here = folder.path();
    let table = std::fs::read_to_string(here.join("csv_split/set.csv")).unwrap();
    for (row, words) in [
        ("p0.jpg,bob,0,train", ["p0.jpg", "person bob", "person anna in line 2"]),
        ("./p0.jpg,bob,0,train", ["p0.jpg", "person bob", "person anna in line 2"]),
        ("../csv_split//p4.jpg,joe,1,gallery", ["p4.jpg", "person joe", "person eve in line 6"]),
        ("p4.jpg,0000,1,gallery", ["p4.jpg", "person 0000", "person eve in line 6"]),
        ("p4.jpg,eve,2,gallery", ["p4.jpg", "camera 2", "camera 1 in line 6"]),
        ("./p4.jpg,eve,1,query", ["p4.jpg", "second time", "line 6"]),
    ] {
        write(&here.join("csv_split/set.csv"), format!("{table}{row}\n"));
        for command in [
            &["data", "csv_split"][..],
            &["eval", "--model", TINY, "--data", "csv_split"],
            &["train", "--backbone", TINY, "--data", "csv_split/set.csv", "--out", "run"],
        ] {
            let (_, stderr) = expect(1, here, command);
            assert_says(&stderr, &words);
            assert_says(&stderr, &["line 9"]);
        }
    }
    // The same image in two splits is a finding, not an error.
    write(&here.join("csv_split/set.csv"), format!("{table}p4.jpg,eve,1,gallery\n"));
    assert_eq!(surveyed(here, "csv_split", &[]).0["duplicates"], serde_json::json!(["p4.jpg"]));

    let labels = std::fs::read_to_string(here.join("emb/ok.csv")).unwrap();
    for name in ["0001_c1s1_000000_00.jpg", "./0001_c1s1_000000_00.jpg"] {
        write(&here.join("emb/two.csv"), format!("{labels}{name},0002,1\n"));
        let (_, stderr) = by_labels(1, here, "emb/two.csv");
        assert_says(&stderr, &["line 14", "person 0002", "person 0001 in line 2"]);
    }
    let list = std::fs::read_to_string(here.join("msmt/list_train.txt")).unwrap();
    let first = "0000/0000_000_01_0303morning_0001_0.jpg";
    write(&here.join("msmt/list_val.txt"), format!("{first} 1\n"));
    assert_says(&expect(1, here, &["data", "msmt"]).1, &[first, "person 0000", "person 0001"]);
    write(&here.join("msmt/list_val.txt"), "");
    write(&here.join("msmt/list_train.txt"), format!("{list}\n{first} 0\n"));
    assert_says(&expect(1, here, &["data", "msmt"]).1, &[first, "listed twice"]);
}

#[test]
fn tables_may_have_any_separator_and_a_byte_order_mark() {
    let folder = copies(&["csv_split", "emb"]);
    let here = folder.path();
    let (wanted, stderr) = by_labels(0, here, "emb/ok.csv");
    assert_says(&stderr, &["0001_c1s1_000000_00.jpg is person 0001, seen by camera 1"]);
    assert_eq!(by_labels(0, here, "emb/semi.csv").0, wanted);
    assert_eq!(by_labels(0, here, "emb/tab.csv").0, wanted);
    let table = std::fs::read_to_string(input("csv_split").join("set.csv")).unwrap();
    let labels = std::fs::read_to_string(input("emb/ok.csv")).unwrap();
    let quoted = |text: &str| {
        let line = |line: &str| {
            format!("{}\r\n", line.split(',').map(|c| format!("\"{c}\"")).collect::<Vec<_>>().join(","))
        };
        text.lines().map(line).collect::<String>()
    };
    let counts = surveyed(here, "csv_split", &[]).0;
    for separator in [",", ";", "\t"] {
        for mark in ["", "\u{feff}"] {
            for text in [&table, &quoted(&table)] {
                write(&here.join("csv_split/set.csv"), format!("{mark}{}", text.replace(',', separator)));
                assert_eq!(surveyed(here, "csv_split", &[]).0, counts, "{separator:?} {mark:?}");
            }
            write(&here.join("emb/l.csv"), format!("{mark}{}", quoted(&labels).replace(',', separator)));
            assert_eq!(by_labels(0, here, "emb/l.csv").0, wanted, "{separator:?} {mark:?}");
        }
    }
    // Names that contain the other separators.
    let folder = images(&["set/a, b.png", "set/c;d.png"]);
    write(&folder.path().join("set/t.csv"), "path;person;camera\na, b.png;1;1\n\"c;d.png\";1;2\n");
    assert_eq!(surveyed(folder.path(), "set", &[]).0["splits"]["query"]["images"], 2);

    for bytes in [
        [&[0xff, 0xfe][..], &table.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat(),
        [&[0xfe, 0xff][..], &table.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>()].concat(),
    ] {
        write(&here.join("csv_split/set.csv"), bytes);
        assert_says(&expect(1, here, &["data", "csv_split"]).1, &["UTF-16", "save it as UTF-8"]);
    }
    write(&here.join("csv_split/set.csv"), "path|person|camera\np0.jpg|a|1\n");
    assert_says(
        &expect(1, here, &["data", "csv_split"]).1,
        &["no column path", "commas, semicolons or tabs"],
    );
}
