//! `lat-wgpu search`.

#[path = "common/program.rs"]
mod program;

use lat_wgpu::checkpoint::{self, Settings, Threshold};
use lat_wgpu::datasets::cameras::Cameras;
use lat_wgpu::embeddings::gallery::Gallery;
use lat_wgpu::embeddings::rows::Selected;
use lat_wgpu::embeddings::{self, Dtype, EmbeddingWriter, Embeddings};
use lat_wgpu::gpu::ContextOptions;
use lat_wgpu::images::walk::list_images;
use lat_wgpu::tasks;
use lat_wgpu::tasks::embed::ImageOptions;
use lat_wgpu::tasks::search::{Request, check_fits, verdicts};
use program::{TINY, expect};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;

fn search(code: i32, folder: &Path, more: &[&str]) -> (String, String) {
    expect(code, folder, &[&["search", "--model", TINY, "--heads", "2"], more].concat())
}

/// Runs `search --json -`.
fn found(folder: &Path, more: &[&str]) -> Value {
    serde_json::from_str(&search(0, folder, &[&["--json", "-"], more].concat()).0).unwrap()
}

/// Synthetic images in `query` and `bounding_box_test` with their embeddings `q.npy` and `g.safetensors`, made once.
fn drawn() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let counts = ["--persons", "8", "--cameras", "3", "--images", "2", "--seed", "5"];
        expect(0, here, &[&["synth", "."], &counts[..]].concat());
        for (part, out) in [("query", "q.npy"), ("bounding_box_test", "g.safetensors")] {
            expect(0, here, &["embed", "--model", TINY, "--heads", "2", part, "--out", out]);
        }
        folder
    });
    folder.path()
}

/// Squared Euclidean distances of a row to a gallery, nearest first, equal ones in order.
fn ranked(query: &[f32], gallery: &Embeddings) -> Vec<(usize, f64)> {
    let distance = |row: &[f32]| -> f64 {
        row.iter().zip(query).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
    };
    let rows = gallery.rows.chunks(gallery.dim).map(distance);
    let mut all: Vec<(usize, f64)> = rows.enumerate().collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all
}

fn paths(ranking: &Value) -> Vec<&str> {
    let results = ranking["results"].as_array().unwrap();
    results.iter().map(|result| result["path"].as_str().unwrap()).collect()
}

/// The library finds the same matches as the command.
#[test]
fn library_searches_a_gallery() {
    let here = drawn();
    let listed = found(here, &["--gallery", "g.safetensors", "--query", "query", "--top", "3"]);
    let settings = Settings { heads: Some(2), ..Settings::default() };
    let network = checkpoint::load(TINY.as_ref(), &settings).unwrap();
    let gallery = Gallery::open(&here.join("g.safetensors")).unwrap();
    check_fits(&gallery, &network, None, false).unwrap();
    let selected = Selected::new(&gallery, gallery.filtered(&[]).unwrap());
    let request = Request {
        network: &network,
        projection: None,
        adapter: ContextOptions::from_environment(None),
        memory: None,
        image_options: ImageOptions::default(),
        cameras: Cameras::default(),
        expansion: None,
        top: 3,
        verdicts: verdicts(&network, false, false),
    };
    let queries = list_images(&[here.join("query")], false).unwrap().images;
    let lists = tasks::search::search(&queries, &gallery, &selected, &request, &()).unwrap().queries;
    for (list, wanted) in lists.iter().zip(listed["queries"].as_array().unwrap()) {
        assert_eq!(list.results.iter().map(|found| &*found.path).collect::<Vec<_>>(), paths(wanted));
    }
    assert_eq!(lists.len(), listed["queries"].as_array().unwrap().len());
}

#[test]
fn search_finds_the_nearest_rows() {
    let here = drawn();
    let queries = embeddings::read(&here.join("q.npy")).unwrap();
    let gallery = embeddings::read(&here.join("g.safetensors")).unwrap();
    let got = found(here, &["--gallery", "g.safetensors", "--query", "query", "--top", "7"]);
    assert_eq!((&got["threshold"], &got["gallery"]), (&Value::Null, &gallery.paths.len().into()));
    let rankings = got["queries"].as_array().unwrap();
    assert_eq!(rankings.len(), queries.paths.len());
    for ((ranking, name), row) in rankings.iter().zip(&queries.paths).zip(queries.rows.chunks(queries.dim)) {
        assert_eq!(ranking["query"], **name);
        let results = ranking["results"].as_array().unwrap();
        let wanted = ranked(row, &gallery);
        assert_eq!(results.len(), 7);
        for (place, result) in results.iter().enumerate() {
            let index = result["row"].as_u64().unwrap() as usize;
            assert_eq!((&result["path"], &result["same"]), (&json!(gallery.paths[index]), &Value::Null));
            let by_hand = wanted.iter().find(|(row, _)| *row == index).unwrap().1;
            let distance = result["distance"].as_f64().unwrap();
            assert!((distance - by_hand).abs() < 1e-5, "{name}: {distance} and {by_hand}");
            // Rounding may swap equally near rows.
            assert!((by_hand - wanted[place].1).abs() < 1e-5, "{name}, place {place}: {wanted:?}");
        }
    }
}

/// With k = 2 and α = 0, the distances are those to the mean of a query and its nearest image.
#[test]
fn expanded_queries_are_joined_by_their_nearest() {
    let here = drawn();
    let queries = embeddings::read(&here.join("q.npy")).unwrap();
    let gallery = embeddings::read(&here.join("g.safetensors")).unwrap();
    let expanding = ["--query-expansion", "--expansion-k", "2", "--expansion-alpha", "0"];
    let got = found(here, &[&["--gallery", "g.safetensors", "--query", "query"], &expanding[..]].concat());
    for (ranking, row) in got["queries"].as_array().unwrap().iter().zip(queries.rows.chunks(queries.dim)) {
        let nearest = &gallery.rows[ranked(row, &gallery)[0].0 * gallery.dim..][..gallery.dim];
        let sum: Vec<f32> = row.iter().zip(nearest).map(|(a, b)| a + b).collect();
        let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        let mean: Vec<f32> = sum.iter().map(|value| value / length).collect();
        let wanted = ranked(&mean, &gallery);
        for (result, (_, wanted)) in ranking["results"].as_array().unwrap().iter().zip(wanted) {
            assert!((result["distance"].as_f64().unwrap() - wanted).abs() < 1e-5, "{result}, {wanted}");
            assert_eq!(result["same"], Value::Null);
        }
    }
}

#[test]
fn search_prints_a_table() {
    let here = drawn();
    let query = embeddings::read(&here.join("q.npy")).unwrap().paths[0].clone();
    let file = format!("query/{query}");
    let arguments = ["--gallery", "g.safetensors", "--query", &file, "--top", "3"];
    let (text, stderr) = search(0, here, &arguments);
    let json = found(here, &arguments);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, &*file), "{text}");
    for (line, path) in lines[1..].iter().zip(paths(&json["queries"][0])) {
        assert!(line.ends_with(path), "{text}");
    }
    assert!(stderr.contains("note: ") && stderr.contains("--store-threshold"), "{stderr}");

    // A table on stdout and a JSON file; an image given twice is searched for twice.
    let twice = [&arguments[..], &["--query", &file, "--json", "s.json"]].concat();
    let (text, _) = search(0, here, &twice);
    assert_eq!(text.lines().filter(|line| **line == file).count(), 2, "{text}");
    let file: Value = serde_json::from_slice(&std::fs::read(here.join("s.json")).unwrap()).unwrap();
    assert_eq!((&file["queries"][0], &file["queries"][1]), (&json["queries"][0], &json["queries"][0]));
    // More than the gallery has returns all.
    let all = found(here, &["--gallery", "g.safetensors", "--query", "query", "--top", "1000"]);
    assert_eq!(all["queries"][0]["results"].as_array().unwrap().len() as u64, all["gallery"]);
}

#[test]
fn filters_keep_the_order_of_the_rest() {
    let here = drawn();
    let base = ["--gallery", "g.safetensors", "--query", "query", "--top", "1000"];
    let all = found(here, &base);
    for (filters, admits) in [
        (&["camera=2,3"][..], (|path| path.contains("_c2") || path.contains("_c3")) as fn(&str) -> bool),
        (&["path=000[24]_*"], |path| path.starts_with("0002_") || path.starts_with("0004_")),
        (&["camera=1", "path=*_c1s1_*"], |path| path.contains("_c1s1_")),
    ] {
        let flags: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        let got = found(here, &[&base[..], &flags].concat());
        let rankings = got["queries"].as_array().unwrap();
        for (ranking, all) in rankings.iter().zip(all["queries"].as_array().unwrap()) {
            let wanted: Vec<&Value> = all["results"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|result| admits(result["path"].as_str().unwrap()))
                .collect();
            let results: Vec<&Value> = ranking["results"].as_array().unwrap().iter().collect();
            assert!(!wanted.is_empty());
            assert_eq!(results, wanted, "{filters:?}");
        }
        assert_eq!(got["gallery"], rankings[0]["results"].as_array().unwrap().len());
    }
    for (code, filter, words) in [
        (1, "path=nobody*", "none of the gallery's"),
        (2, "camera=a", "cameras are numbers"),
        (2, "person=3", "camera=1,2 or path=GLOB"),
    ] {
        let (_, stderr) = search(code, here, &[&base[..], &["--filter", filter]].concat());
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn a_folder_of_segments_equals_one_file() {
    let here = drawn();
    let parts = tempfile::tempdir().unwrap();
    let gallery = embeddings::read(&here.join("g.safetensors")).unwrap();
    let (dim, rows) = (gallery.dim, gallery.paths.len());
    let cuts = [0, rows / 3, rows / 2, rows];
    for (part, extension) in ["npy", "safetensors", "parquet"].iter().enumerate() {
        let range = cuts[part]..cuts[part + 1];
        let names = &gallery.paths[range.clone()];
        let out = parts.path().join(format!("part-{part}.{extension}"));
        let mut writer = EmbeddingWriter::create(&out, dim, Dtype::F32, names, &BTreeMap::new()).unwrap();
        for row in range {
            writer.push(&gallery.paths[row], &gallery.rows[row * dim..][..dim]).unwrap();
        }
        writer.finish().unwrap();
    }
    let arguments = ["--query", "query", "--filter", "camera=1,2"];
    let one = found(here, &[&["--gallery", "g.safetensors"], &arguments[..]].concat());
    let folder = parts.path().to_str().unwrap();
    assert_eq!(found(here, &[&["--gallery", folder], &arguments[..]].concat()), one);
}

#[test]
fn models_threshold_marks_the_same_person() {
    let here = drawn();
    let model = here.join("threshold.safetensors");
    std::fs::copy(TINY, &model).unwrap();
    let settings = Settings { heads: Some(2), ..Settings::default() };
    let network = checkpoint::load(&model, &settings).unwrap();
    let base = ["--gallery", "g.safetensors", "--query", "query"];
    let all = found(here, &base);
    // The threshold is a distance in the middle of a list, and includes it.
    let distance = all["queries"][0]["results"][4]["distance"].as_f64().unwrap() as f32;
    checkpoint::store_threshold(&model, &network, Threshold { distance, fpr: 0.5 }, &[]).unwrap();
    let model = ["search", "--model", "threshold.safetensors", "--heads", "2"];
    let (stdout, stderr) = expect(0, here, &[&model[..], &base, &["--json", "-"]].concat());
    let got: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(got["threshold"].as_f64(), Some(f64::from(distance)));
    assert!(!stderr.contains("same or different"), "{stderr}");
    let results = got["queries"][0]["results"].as_array().unwrap();
    assert_eq!((&results[4]["same"], &results[9]["same"]), (&true.into(), &false.into()));
    for result in results {
        let same = result["distance"].as_f64().unwrap() as f32 <= distance;
        assert_eq!(result["same"], same);
    }
    let (text, _) = expect(0, here, &[&model[..], &base].concat());
    assert!(text.contains("  same  ") && text.contains("  different  "), "{text}");

    let flipped = expect(0, here, &[&model[..], &base, &["--flip", "--json", "-"]].concat());
    let got: Value = serde_json::from_str(&flipped.0).unwrap();
    assert!(got["threshold"].is_null() && flipped.1.contains("--flip"), "{}", flipped.1);
    assert_ne!(got["queries"][0]["results"][0]["distance"], results[0]["distance"]);

    // Neither does it apply to a gallery of flipped embeddings.
    let embed = ["embed", "--model", "threshold.safetensors", "--heads", "2", "bounding_box_test", "--flip"];
    expect(0, here, &[&embed[..], &["--out", "two.safetensors"]].concat());
    let arguments = ["--gallery", "two.safetensors", "--query", "query", "--json", "-"];
    let (stdout, stderr) = expect(0, here, &[&model[..], &arguments].concat());
    let got: Value = serde_json::from_str(&stdout).unwrap();
    assert!(got["threshold"].is_null() && stderr.contains("single views"), "{stderr}");
}

#[test]
fn a_reduced_gallery_is_searched_with_reduced_queries() {
    let here = drawn();
    expect(0, here, &["reduce", "g.safetensors", "--dim", "5", "--out", "pca.safetensors"]);
    for (name, out) in [("q.npy", "q5.npy"), ("g.safetensors", "g5.safetensors")] {
        expect(0, here, &["reduce", name, "--apply", "pca.safetensors", "--out", out]);
    }
    let [queries, gallery] =
        ["q5.npy", "g5.safetensors"].map(|name| embeddings::read(&here.join(name)).unwrap());
    let base = ["--gallery", "g5.safetensors", "--query", "query", "--top", "1"];
    let got = found(here, &[&base[..], &["--reduce", "pca.safetensors"]].concat());
    for (ranking, row) in got["queries"].as_array().unwrap().iter().zip(queries.rows.chunks(5)) {
        let (_, by_hand) = ranked(row, &gallery)[0];
        let distance = ranking["results"][0]["distance"].as_f64().unwrap();
        assert!((distance - by_hand).abs() < 1e-5, "{distance} and {by_hand}");
    }
    let (_, stderr) = search(1, here, &base);
    assert!(stderr.contains("must be reduced"), "{stderr}");
    let (_, stderr) =
        search(1, here, &["--gallery", "g.safetensors", "--query", "query", "--reduce", "pca.safetensors"]);
    assert!(stderr.contains("must be reduced"), "{stderr}");
}

#[test]
fn an_index_folder_is_searched_like_one_file() {
    let here = drawn();
    let embed = ["embed", "--model", TINY, "--heads", "2", "bounding_box_test", "--out", "index", "--append"];
    expect(0, here, &[&embed[..], &["--part-rows", "7"]].concat());
    let base = ["--query", "query", "--top", "4"];
    let [one, many] =
        ["g.safetensors", "index"].map(|gallery| found(here, &[&base[..], &["--gallery", gallery]].concat()));
    assert_eq!(one, many);
}

#[test]
fn mismatched_inputs_are_reported() {
    let here = drawn();
    let folder = tempfile::tempdir().unwrap();
    let other = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let empty = other("empty.npy");
    EmbeddingWriter::create(Path::new(&empty), 128, Dtype::F32, &[], &BTreeMap::new())
        .and_then(EmbeddingWriter::finish)
        .unwrap();
    let broken = other("broken.png");
    std::fs::write(&broken, b"no image").unwrap();
    let narrow = other("narrow.npy");
    let names = ["a.jpg".to_string()];
    let mut writer =
        EmbeddingWriter::create(Path::new(&narrow), 3, Dtype::F32, &names, &BTreeMap::new()).unwrap();
    writer.push("a.jpg", &[1., 2., 3.]).unwrap();
    writer.finish().unwrap();
    let nowhere = other("none.npy");
    for (code, gallery, query, more, words) in [
        (
            1,
            "g.safetensors",
            "query",
            &["--lambda", "3"][..],
            &["g.safetensors was embedded with lambda 0.8", "the model has 3", "add --lambda 0.8"][..],
        ),
        (
            1,
            "g.safetensors",
            "query",
            &["--size", "48x16"],
            &["size 32x32, and the model has 48x16", "add --size 32x32"],
        ),
        (1, &narrow, "query", &[], &["narrow.npy", "of 3 dimensions", "have 128"]),
        (1, &empty, "query", &[], &["empty.npy holds no embeddings"]),
        (1, &nowhere, "query", &[], &["none.npy"]),
        (1, "query", "query", &[], &["query holds no embeddings", "`lat-wgpu embed --model MODEL query"]),
        (1, TINY, "query", &[], &["it is a model, not embeddings"]),
        (1, "g.safetensors", "nobody.jpg", &[], &["nobody.jpg"]),
        (1, "g.safetensors", &broken, &[], &["skipped", "broken.png: not a JPEG", "no query could be read"]),
        (2, "g.safetensors", "query", &["--top", "0"], &["--top"]),
        (2, "g.safetensors", "query", &["--top", "1025"], &["--top"]),
    ] {
        let arguments = [&["--gallery", gallery, "--query", query][..], more].concat();
        let (_, stderr) = search(code, here, &arguments);
        for words in words {
            assert!(stderr.contains(words), "{words} in: {stderr}");
        }
    }
    expect(2, here, &["search", "--model", TINY, "--gallery", "g.safetensors"]);

    let (_, stderr) =
        expect(1, here, &["embed", "--model", "g.safetensors", "query", "--out", &other("o.npy")]);
    assert!(stderr.contains("it holds embeddings, not a model"), "{stderr}");

    // A bad query among good ones is named and skipped.
    let got = search(
        0,
        here,
        &["--gallery", "g.safetensors", "--query", &broken, "--query", "query", "--json", "-"],
    );
    let queries = std::fs::read_dir(here.join("query")).unwrap().count();
    let value: Value = serde_json::from_str(&got.0).unwrap();
    assert_eq!(value["queries"].as_array().unwrap().len(), queries);
    assert!(value["queries"][0]["query"].as_str().unwrap().starts_with("query/"));
    assert!(got.1.contains("broken.png"), "{}", got.1);
}
