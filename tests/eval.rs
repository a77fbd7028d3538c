//! `lat-wgpu eval`.

#[path = "common/program.rs"]
mod program;

use lat_wgpu::checkpoint::{self, Settings};
use lat_wgpu::datasets::{LoadOptions, TestSet};
use lat_wgpu::embeddings::{Dtype, EmbeddingWriter};
use lat_wgpu::figures::{Figures, draw_figures};
use lat_wgpu::gpu::ContextOptions;
use lat_wgpu::rng;
use lat_wgpu::tasks::evaluate::{self, evaluate_model};
use program::{TINY, expect, write_points};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// A small ViT trained on synthetic images.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/demo.safetensors");

/// Scores a model on synthetic images by the library.
#[test]
fn library_scores_a_model() {
    let folder = tempfile::tempdir().unwrap();
    draw_figures(folder.path(), Figures { persons: 4, cameras: 2, images: 1, seed: 1 }).unwrap();
    let network = checkpoint::load(DEMO.as_ref(), &Settings::default()).unwrap();
    let set = TestSet::load(folder.path(), &LoadOptions::default(), true).unwrap();
    let (name, queries) = (set.name.clone(), set.query.len());
    let (adapter, request) = (ContextOptions::from_environment(None), evaluate::Request::default());
    let outcomes = evaluate_model(&[set], &network, &adapter, &request, &()).unwrap();
    let outcome = outcomes.into_iter().next().unwrap().unwrap();
    assert_eq!((outcome.name, outcome.queries, outcome.plain.valid_queries), (name, queries, queries));
    assert!(outcome.plain.ranks[0] > 0.0 && outcome.listed.is_none());
}

/// Runs `eval --json -` with more arguments.
fn scores(folder: &Path, more: &[&str]) -> Value {
    let arguments: Vec<&str> = ["eval", "--json", "-"].iter().chain(more).copied().collect();
    serde_json::from_str(&expect(0, folder, &arguments).0).unwrap()
}

/// Queries and a gallery with an obvious ranking, in files of one format.
fn written(extension: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let gallery = [
        (0., "0001_c1s1_000001_00.jpg"),
        (1., "-1_c2s1_000001_00.jpg"),
        (2., "0000_c2s1_000001_00.jpg"),
        (3., "0001_c2s1_000001_00.jpg"),
        (3., "0002_c2s1_000001_00.jpg"),
        (4., "0001_c3s1_000001_00.jpg"),
        (9., "0003_c1s1_000001_00.jpg"),
    ];
    let queries = [
        (0., "q/0001_c1s1_000002_00.jpg"),
        (3., "q/0002_c1s1_000002_00.jpg"),
        (8., "q/0003_c2s1_000002_00.jpg"),
        (5., "q/0003_c1s1_000003_00.jpg"),
        (5., "q/0004_c1s1_000002_00.jpg"),
    ];
    write_points(&folder.path().join("q").with_extension(extension), &queries);
    write_points(&folder.path().join("g").with_extension(extension), &gallery);
    folder
}

/// Small images of `persons` persons by two cameras in Market-1501's layout, one colour per person.
fn images(persons: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (place, camera) in [("query", 1u32), ("bounding_box_test", 2), ("bounding_box_test", 3)] {
        std::fs::create_dir_all(folder.path().join(place)).unwrap();
        for person in 1..=persons {
            let colour = |channel: u64| rng::bits(1, u64::from(person), channel) as u8;
            let image = image::RgbImage::from_fn(32, 32, |x, y| {
                let noise = rng::bits(u64::from(camera), u64::from(person), u64::from(32 * y + x)) as u8 / 8;
                image::Rgb([0, 1, 2].map(|channel| (colour(channel) / 2 + noise).saturating_add(x as u8)))
            });
            let name = format!("{person:04}_c{camera}s1_000001_00.png");
            image.save(folder.path().join(place).join(name)).unwrap();
        }
    }
    folder
}

#[test]
fn scores_embeddings_in_every_format() {
    for extension in ["safetensors", "npy", "parquet"] {
        let folder = written(extension);
        let (q, g) = (format!("q.{extension}"), format!("g.{extension}"));
        let files = ["--query-embeddings", &q, "--gallery-embeddings", &g];
        let got = scores(folder.path(), &files);
        let figure = |key: &str| got[key].as_f64().unwrap();
        let wanted = [("rank1", 1. / 3.), ("rank5", 1.), ("rank20", 1.), ("map", 2. / 3.), ("minp", 2. / 3.)];
        for (key, wanted) in wanted {
            assert!((figure(key) - wanted).abs() < 1e-12, "{extension} {key}: {}", figure(key));
        }
        assert_eq!(got["valid_queries"], 3);
        assert_eq!(got["dropped"], serde_json::json!({"not_in_gallery": 1, "same_camera_only": 1}));
        assert_eq!(got["gallery"]["junk"], 1);
        assert_eq!(
            (&got["protocol"], &got["ap"], &got["note"]),
            (&"standard".into(), &"plain".into(), &Value::Null)
        );
        // Pairs of the same person: 9 and 16; 0; 1. All others are different persons.
        assert_eq!(got["verification"]["same_pairs"], 4);

        let (text, _) = expect(0, folder.path(), &[&["eval"], &files[..]].concat());
        for words in [
            "5 queries, 3 scored",
            "1 not in the gallery",
            "6 gallery images, 1 of them distractors",
            "33.33",
        ] {
            assert!(text.contains(words), "{words} in: {text}");
        }
    }
}

#[test]
fn released_code_protocol_warns_that_it_inflates() {
    let folder = written("npy");
    let files =
        ["--query-embeddings", "q.npy", "--gallery-embeddings", "g.npy", "--protocol", "released-code"];
    let (text, _) = expect(0, folder.path(), &[&["eval"], &files[..], &["--json", "s.json"]].concat());
    assert!(text.starts_with("released-code inflates"), "{text}");
    let got: Value = serde_json::from_slice(&std::fs::read(folder.path().join("s.json")).unwrap()).unwrap();
    assert_eq!(got["valid_queries"], 4);
    assert!(got["note"].as_str().unwrap().contains("inflates"));
    let (_, stderr) = expect(2, folder.path(), &[&["eval"], &files[..], &["--ap", "plain"]].concat());
    assert!(stderr.contains("--ap"), "{stderr}");
}

#[test]
fn labels_can_come_from_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write_points(&here.join("q.npy"), &[(0., "a.jpg"), (9., "b.jpg")]);
    write_points(&here.join("g.npy"), &[(1., "c.jpg"), (8., "d.jpg"), (8., "e.jpg")]);
    let files = ["--query-embeddings", "q.npy", "--gallery-embeddings", "g.npy"];
    let (_, stderr) = expect(1, here, &[&["eval"], &files[..]].concat());
    assert!(stderr.contains("a.jpg") && stderr.contains("--labels"), "{stderr}");

    let table = "path,person,camera\na.jpg,anna,door\nb.jpg,bob,door\nc.jpg,anna,hall\nd.jpg,-1,hall\n";
    std::fs::write(here.join("l.csv"), table).unwrap();
    let with_labels = [&files[..], &["--labels", "l.csv"]].concat();
    let (_, stderr) = expect(1, here, &[&["eval"], &with_labels[..]].concat());
    assert!(stderr.contains("l.csv does not list e.jpg"), "{stderr}");
    std::fs::write(here.join("l.csv"), format!("{table}e.jpg,bob,hall\n")).unwrap();
    assert_eq!(scores(here, &with_labels)["rank1"], 1.0);
    // No person has images by a second camera.
    std::fs::write(here.join("l.csv"), format!("{table}e.jpg,bob,hall\n").replace("door", "hall")).unwrap();
    let (_, stderr) = expect(1, here, &[&["eval"], &with_labels[..]].concat());
    assert!(stderr.contains("2 in the gallery by the same camera only"), "{stderr}");
    let ignoring = [&with_labels[..], &["--ignore-cameras"]].concat();
    assert_eq!(scores(here, &ignoring)["rank1"], 1.0);
}

#[test]
fn one_file_is_scored_against_itself() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["0001_c1s1.jpg", "0001_c2s1.jpg", "0002_c1s1.jpg", "0002_c2s1.jpg"];
    let rows: Vec<(f32, &str)> = names.iter().zip([0., 1., 10., 12.]).map(|(name, x)| (x, *name)).collect();
    write_points(&folder.path().join("all.npy"), &rows);
    for more in [&[][..], &["--rerank", "--rerank-k1", "1", "--rerank-k2", "1"]] {
        let files = ["--query-embeddings", "all.npy", "--gallery-embeddings", "./all.npy"];
        let got = scores(folder.path(), &[&files[..], more].concat());
        assert_eq!((&got["valid_queries"], &got["map"]), (&4.into(), &1.0.into()));
        assert_eq!(got["verification"]["eer"], 0.0);
    }
}

#[test]
fn mismatched_inputs_are_reported() {
    let folder = written("npy");
    let here = folder.path();
    let names = ["0001_c1.jpg".to_string()];
    let mut writer =
        EmbeddingWriter::create(&here.join("w.npy"), 3, Dtype::F32, &names, &BTreeMap::new()).unwrap();
    writer.push(&names[0], &[1., 2., 3.]).unwrap();
    writer.finish().unwrap();
    write_points(&here.join("none.npy"), &[]);
    write_points(&here.join("nan.npy"), &[(f32::NAN, "0001_c2.jpg")]);
    let of = |code, queries, gallery, more: &[&str]| {
        let files = ["eval", "--query-embeddings", queries, "--gallery-embeddings", gallery];
        expect(code, here, &[&files[..], more].concat()).1
    };
    for (code, queries, gallery, more, words) in [
        (1, "q.npy", "w.npy", &[][..], "2 dimensions"),
        (1, "q.npy", "none.npy", &[], "no embeddings"),
        (2, "q.npy", "nan.npy", &[], "finite"),
        (1, "q.npy", "missing.npy", &[], "missing.npy"),
        (2, "q.npy", "g.npy", &["--rerank", "--rerank-lambda", "2"], "λ"),
        (2, "q.npy", "g.npy", &["--rerank-k1", "5"], "--rerank"),
        (2, "q.npy", "g.npy", &["--heads", "2"], "--model"),
        (2, "q.npy", "g.npy", &["--flip"], "--flip"),
        (2, "q.npy", "g.npy", &["--layout", "csv"], "--model"),
        (2, "q.npy", "g.npy", &["--fpr", "1.5"], "0 to 1"),
    ] {
        let stderr = of(code, queries, gallery, more);
        assert!(stderr.contains(words), "{words} in: {stderr}");
    }
    expect(2, here, &["eval"]);
    expect(2, here, &["eval", "--query-embeddings", "q.npy"]);
    expect(2, here, &["eval", "--model", TINY]);
    expect(2, here, &["eval", "--model", TINY, "--data", ".", "--labels", "l.csv"]);
}

#[test]
fn a_model_scores_like_its_embeddings() {
    let folder = images(6);
    let here = folder.path();
    let model = ["--model", TINY, "--heads", "2"];
    for (part, out) in [("query", "q.npy"), ("bounding_box_test", "g.npy")] {
        expect(0, here, &[&["embed"], &model[..], &[part, "--out", out]].concat());
    }
    let from_files = scores(here, &["--query-embeddings", "q.npy", "--gallery-embeddings", "g.npy"]);
    let data = [&model[..], &["--data", "."]].concat();
    let got = scores(here, &data);
    for key in ["rank1", "rank5", "map", "minp", "valid_queries", "verification"] {
        assert_eq!(got[key], from_files[key], "{key}");
    }
    // Adding mirrored images changes the distances.
    let flipped = scores(here, &[&data[..], &["--flip", "--batch-size", "1"]].concat());
    assert_eq!((&flipped["flip"], &flipped["valid_queries"]), (&true.into(), &6.into()));
    assert_ne!(flipped["verification"], got["verification"]);

    let reranked = scores(here, &[&data[..], &["--rerank", "--rerank-k1", "3", "--rerank-k2", "2"]].concat());
    assert_eq!(reranked["without_rerank"]["map"], got["map"]);
    assert_eq!(reranked["rerank"]["k1"], 3);

    // The same data set twice gives two lines and two objects.
    let both = scores(here, &[&data[..], &["--data", "."]].concat());
    assert_eq!(both["sets"][0]["map"], got["map"]);
    assert_eq!(both["sets"].as_array().unwrap().len(), 2);

    std::fs::write(here.join("query/0003_c1s1_000001_00.png"), b"no image").unwrap();
    let (text, stderr) = expect(0, here, &[&["eval"], &data[..]].concat());
    assert!(stderr.contains("skipped") && stderr.contains("0003_c1s1"), "{stderr}");
    assert!(text.contains("6 queries, 5 scored (dropped: 1 unreadable)"), "{text}");
    assert_eq!(scores(here, &data)["dropped"]["unreadable"], 1);

    std::fs::remove_dir_all(here.join("query")).unwrap();
    let (_, stderr) = expect(1, here, &[&["eval"], &data[..]].concat());
    assert!(stderr.contains("no query images"), "{stderr}");
}

#[test]
fn time_between_cameras_adds_a_row_of_scores() {
    let folder = images(6);
    let here = folder.path();
    let timed = ["--model", TINY, "--heads", "2", "--data", ".", "--spatio-temporal"];
    let (_, stderr) = expect(1, here, &[&["eval"], &timed[..]].concat());
    assert!(stderr.contains("no training person") && stderr.contains("column frame"), "{stderr}");

    let train = here.join("bounding_box_train");
    std::fs::create_dir(&train).unwrap();
    for (person, camera, frame) in [(101, 1, 5), (101, 2, 45), (102, 1, 300), (102, 2, 320)] {
        let image = here.join("query/0001_c1s1_000001_00.png");
        std::fs::copy(image, train.join(format!("{person:04}_c{camera}s1_{frame:06}_00.png"))).unwrap();
    }
    let got = scores(here, &timed);
    assert_eq!(
        (&got["spatio_temporal"]["valid_queries"], &got["spatio_temporal_bin"]),
        (&6.into(), &100.into())
    );
    // The plain scores stay as they are without time.
    assert_eq!(got["map"], scores(here, &timed[..6])["map"]);
    assert_eq!(scores(here, &timed[..6])["spatio_temporal"], Value::Null);
    let (text, _) = expect(0, here, &[&["eval"], &timed[..]].concat());
    assert!(text.contains("\n  spatio-temporal"), "{text}");

    for more in [&["--distance", "aligned"][..], &["--spatio-temporal-bin", "0"]] {
        expect(2, here, &[&["eval"], &timed[..], more].concat());
    }
    std::fs::copy(here.join("query/0001_c1s1_000001_00.png"), here.join("query/0007_c1.png")).unwrap();
    let (_, stderr) = expect(1, here, &[&["eval"], &timed[..]].concat());
    assert!(stderr.contains("0007_c1.png has no frame number"), "{stderr}");
}

#[test]
fn groups_and_distances_are_checked() {
    let folder = images(4);
    let here = folder.path();
    let model = ["eval", "--model", TINY, "--heads", "2", "--data", "."];
    let (_, stderr) = expect(1, here, &[&model[..], &["--group-by", "tracklet"]].concat());
    assert!(stderr.contains("0001_c1s1_000001_00.png has no tracklet"), "{stderr}");
    let one = ["--distance", "aligned", "--parts", "1"];
    assert!(expect(1, here, &[&model[..], &one].concat()).1.contains("two parts or more"));
    let got = scores(here, &[&model[1..], &["--distance", "aligned", "--query-expansion"]].concat());
    assert_eq!((&got["distance"], &got["query_expansion"]["k"]), (&"aligned".into(), &5.into()));
    assert_ne!(got["without_expansion"], Value::Null);
    for more in [&["--expansion-k", "3"][..], &["--query-expansion", "--expansion-k", "0"]] {
        expect(2, here, &[&model[..], more].concat());
    }
    let store = ["--store-threshold", "--fpr", "0.1", "--distance", "aligned"];
    assert!(expect(2, here, &[&model[..], &store].concat()).1.contains("--distance"));

    // Two frames of one tracklet, of two persons by the table.
    let table = "path,person,camera,tracklet\na.jpg,1,1,t\nb.jpg,2,1,t\nc.jpg,1,2,u\n";
    std::fs::write(here.join("l.csv"), table).unwrap();
    write_points(&here.join("all.npy"), &[(1., "a.jpg"), (2., "b.jpg"), (3., "c.jpg")]);
    let files = ["--query-embeddings", "all.npy", "--gallery-embeddings", "all.npy", "--labels", "l.csv"];
    let grouped = [&files[..], &["--group-by", "tracklet"]].concat();
    let (_, stderr) = expect(1, here, &[&["eval"], &grouped[..]].concat());
    assert!(stderr.contains("a.jpg and b.jpg are of one tracklet, t, but of two persons"), "{stderr}");
    std::fs::write(here.join("l.csv"), table.replace("b.jpg,2", "b.jpg,1")).unwrap();
    let (text, _) = expect(0, here, &[&["eval"], &grouped[..]].concat());
    assert!(text.contains("2 query tracklets; 2 gallery tracklets"), "{text}");
    let (_, stderr) = expect(1, here, &[&["eval"], &files[..], &["--distance", "aligned"]].concat());
    assert!(stderr.contains("number of parts"), "{stderr}");
}

#[test]
fn store_threshold_writes_the_threshold_into_the_model() {
    let folder = images(8);
    let here = folder.path();
    std::fs::copy(TINY, here.join("m.safetensors")).unwrap();
    let run = ["eval", "--model", "m.safetensors", "--heads", "2", "--data", ".", "--store-threshold"];
    let (_, stderr) = expect(2, here, &run);
    assert!(stderr.contains("--fpr"), "{stderr}");
    let (text, stderr) = expect(0, here, &[&run[..], &["--fpr", "0.5"]].concat());
    assert!(
        text.contains("threshold for --fpr 0.5") && stderr.contains("stored in m.safetensors"),
        "{text}{stderr}"
    );
    let (text, _) = expect(0, here, &["inspect", "m.safetensors", "--heads", "2"]);
    assert!(text.contains("same person up to a squared distance of"), "{text}");

    // Two images compared: the distance alone without calibration, the rate and the verdict with it.
    let queries = std::fs::read_dir(here.join("query")).unwrap();
    let mut queries: Vec<String> =
        queries.map(|file| file.unwrap().path().to_string_lossy().into_owned()).collect();
    queries.sort();
    let compare = |model: &str, a: &str, b: &str| -> Value {
        let words = ["compare", "--model", model, "--heads", "2", a, b, "--json", "-"];
        serde_json::from_str(&expect(0, here, &words).0).unwrap()
    };
    let plain = compare(TINY, &queries[0], &queries[1]);
    assert!(plain["distance"].as_f64().unwrap() > 0.0);
    assert_eq!((&plain["false_match_rate"], &plain["same"]), (&Value::Null, &Value::Null));
    let same = compare("m.safetensors", &queries[0], &queries[0]);
    assert_eq!((&same["distance"], &same["same"]), (&0.0.into(), &true.into()));
    let rate = |found: &Value| found["false_match_rate"].as_f64().unwrap();
    let mut found: Vec<Value> =
        queries[1..].iter().map(|other| compare("m.safetensors", &queries[0], other)).collect();
    found.sort_by(|a, b| a["distance"].as_f64().unwrap().total_cmp(&b["distance"].as_f64().unwrap()));
    assert!(found.windows(2).all(|pair| rate(&pair[0]) <= rate(&pair[1])), "{found:?}");
    assert!(rate(&same) <= rate(&found[0]) && rate(&found[found.len() - 1]) <= 1.0, "{found:?}");
    let words = ["compare", "--model", "m.safetensors", "--heads", "2", &queries[0], &queries[1]];
    let (text, _) = expect(0, here, &words);
    assert!(text.starts_with("distance  ") && text.contains("false-match rate"), "{text}");
    for more in [&["--flip"][..], &["--data", "."], &["--protocol", "released-code"]] {
        expect(2, here, &[&run[..], &["--fpr", "0.5"], more].concat());
    }
}
