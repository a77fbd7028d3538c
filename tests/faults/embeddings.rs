//! Embeddings: the weights that made them, the folders of their images, and distances that aren't finite.

use crate::common::{TINY, assert_says, copies, expect, input, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// Copies of two persons' images, and two models of the same shapes with different values: `a.safetensors`,
/// `b.safetensors`.
fn set() -> TempDir {
    let folder = copies(&["two_p"]);
    std::fs::copy(TINY, folder.path().join("a.safetensors")).unwrap();
    let form = ["--size", "64x32", "--dim", "64", "--depth", "2", "--heads", "1", "--seed", "7"];
    expect(0, folder.path(), &[&["init", "--out", "b.safetensors"][..], &form].concat());
    folder
}

fn embed(folder: &Path, model: &str, inputs: &[&str], more: &[&str]) -> String {
    expect(0, folder, &[&["embed", "--model", model][..], inputs, more].concat()).1
}

/// Labels of the images.
const LABELS: &str = "path,person,camera\na/1_0.jpg,1,1\na/1_1.jpg,1,2\na/2_0.jpg,1,3\na/2_1.jpg,1,4\nb/1_0.jpg,2,1\n\
                  b/1_1.jpg,2,2\nb/2_0.jpg,2,3\nb/2_1.jpg,2,4\n";

/// The metadata of a `.safetensors` file.
fn metadata(path: &Path) -> BTreeMap<String, String> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    serde_json::from_value(header["__metadata__"].clone()).unwrap()
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// The hash that `inspect` prints.
fn hash(folder: &Path, model: &str, more: &[&str]) -> String {
    let (stdout, _) = expect(0, folder, &[&["inspect", model, "--json", "-"][..], more].concat());
    let value: Value = serde_json::from_str(&stdout).unwrap();
    value["weights_sha256"].as_str().unwrap().to_string()
}

#[test]
fn files_carry_the_hash_of_the_weights_and_the_inputs() {
    let folder = set();
    let here = folder.path();
    let (a, b) = (hash(here, "a.safetensors", &[]), hash(here, "b.safetensors", &[]));
    assert!(a.len() == 64 && a != b);
    // Neither settings nor a resized position table change the hash of the weights.
    assert_eq!(hash(here, "a.safetensors", &["--size", "96x32", "--lambda", "3"]), a);

    embed(here, "a.safetensors", &["two_p/a", "two_p/b"], &["--out", "g.safetensors"]);
    let found = metadata(&here.join("g.safetensors"));
    assert_eq!(found["weights_sha256"], a);
    assert_eq!(found["inputs"], r#"["two_p/a","two_p/b"]"#);

    embed(here, "a.safetensors", &["./two_p/"], &["--out", "g.parquet"]);
    let bytes = std::fs::read(here.join("g.parquet")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert_says(&text, &["weights_sha256", &a, r#"["./two_p/"]"#]);

    for input in ["two_p/a", "two_p/b/1_0.jpg"] {
        embed(here, "a.safetensors", &[input], &["--append", "--out", "index"]);
    }
    let index = manifest(&here.join("index"));
    assert_eq!(
        (&index["weights_sha256"], &index["inputs"]),
        (&a.as_str().into(), &serde_json::json!(["two_p/a", "two_p/b/1_0.jpg"]))
    );
    for (part, own) in
        index["parts"].as_array().unwrap().iter().zip([r#"["two_p/a"]"#, r#"["two_p/b/1_0.jpg"]"#])
    {
        let found = metadata(&here.join("index").join(part["file"].as_str().unwrap()));
        assert_eq!((found["weights_sha256"].as_str(), found["inputs"].as_str()), (a.as_str(), own));
    }

    // Merged shards equal one run to the byte.
    for shard in ["1/2", "2/2"] {
        embed(here, "a.safetensors", &["two_p/a", "two_p/b"], &["--shard", shard, "--out", "shards"]);
        let found = manifest(&here.join("shards").join(format!("shard-{}", shard.replace('/', "-of-"))));
        assert_eq!(found["weights_sha256"], a.as_str());
    }
    expect(0, here, &["merge", "shards", "--out", "merged.safetensors"]);
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert!(read("merged.safetensors") == read("g.safetensors"));

    // `.npy` can't hold a hash, which a note says.
    let stderr = embed(here, "a.safetensors", &["two_p"], &["--out", "g.npy"]);
    assert_eq!(stderr.matches(".npy file").count(), 1, "{stderr}");
}

#[test]
fn other_weights_are_refused() {
    let folder = set();
    let here = folder.path();
    let (a, b) = (hash(here, "a.safetensors", &[]), hash(here, "b.safetensors", &[]));
    for (model, out) in [("a", "a.out.safetensors"), ("b", "b.out.safetensors"), ("b", "b.out.parquet")] {
        embed(here, &format!("{model}.safetensors"), &["two_p"], &["--out", out]);
    }
    embed(here, "b.safetensors", &["two_p"], &["--append", "--out", "b.index"]);
    let allow = "--allow-other-weights";

    let search = |gallery: &str, more: &[&str], code| {
        let command =
            ["search", "--model", "a.safetensors", "--gallery", gallery, "--query", "two_p/a/1_0.jpg"];
        expect(code, here, &[&command[..], more].concat()).1
    };
    assert!(!search("a.out.safetensors", &[], 0).contains("weights"));
    for gallery in ["b.out.safetensors", "b.out.parquet", "b.index"] {
        let stderr = search(gallery, &[], 1);
        assert_says(&stderr, &["a.safetensors", gallery, &a[..12], &b[..12], allow]);
        assert_says(&search(gallery, &[allow], 0), &["note:", "different weights"]);
    }
    let serve = ["serve", "--model", "a.safetensors", "--gallery", "b.index", "--port", "0"];
    assert_says(&expect(1, here, &serve).1, &["b.index", allow]);

    write(&here.join("labels.csv"), LABELS);
    let eval = |gallery: &str, more: &[&str], code| {
        let command = ["eval", "--query-embeddings", "a.out.safetensors", "--gallery-embeddings", gallery];
        expect(code, here, &[&command[..], &["--labels", "labels.csv"], more].concat()).1
    };
    assert!(!eval("a.out.safetensors", &[], 0).contains("weights"));
    assert_says(&eval("b.out.parquet", &[], 1), &["a.out.safetensors", "b.out.parquet", allow]);
    assert_says(&eval("b.out.parquet", &[allow], 0), &["different weights"]);

    std::fs::create_dir(here.join("both")).unwrap();
    for name in ["a.out.safetensors", "b.out.safetensors"] {
        std::fs::copy(here.join(name), here.join("both").join(name)).unwrap();
    }
    let cluster = ["cluster", "--gallery", "both", "--out", "groups.csv"];
    assert_says(&expect(1, here, &cluster).1, &["a.out.safetensors", "b.out.safetensors", allow]);
    assert_says(&expect(0, here, &[&cluster[..], &[allow]].concat()).1, &["note:", "different weights"]);

    for (model, shard) in [("a.safetensors", "1/2"), ("b.safetensors", "2/2")] {
        embed(here, model, &["two_p"], &["--shard", shard, "--out", "mixed"]);
    }
    let stderr = expect(1, here, &["merge", "mixed", "--out", "mixed.safetensors"]).1;
    assert_says(&stderr, &["shard-2-of-2", &a[..12], &b[..12], allow]);
    let stderr = expect(0, here, &["merge", "mixed", "--out", "mixed.safetensors", allow]).1;
    assert_says(&stderr, &["note:", "shard-2-of-2"]);
    // Rows of different weights have no common hash.
    assert!(!metadata(&here.join("mixed.safetensors")).contains_key("weights_sha256"));

    // A projection belongs to the weights of the rows it was fitted on.
    expect(0, here, &["reduce", "b.out.safetensors", "--dim", "4", "--out", "pca.safetensors"]);
    let apply = ["reduce", "a.out.safetensors", "--apply", "pca.safetensors", "--out", "small.npy"];
    assert_says(&expect(1, here, &apply).1, &["pca.safetensors", "a.out.safetensors", allow]);
    expect(0, here, &[&apply[..], &[allow]].concat());
    let own = ["reduce", "b.out.safetensors", "--apply", "pca.safetensors", "--out", "small.safetensors"];
    expect(0, here, &own);
    assert_eq!(metadata(&here.join("small.safetensors"))["weights_sha256"], b);
    let direct =
        ["embed", "--model", "a.safetensors", "two_p", "--out", "d.npy", "--reduce", "pca.safetensors"];
    assert_says(&expect(1, here, &direct).1, &["pca.safetensors", allow]);
}

#[test]
fn files_without_a_hash_pass_with_one_note() {
    let folder = set();
    let here = folder.path();
    embed(here, "b.safetensors", &["two_p"], &["--out", "g.npy"]);
    embed(here, "b.safetensors", &["two_p"], &["--out", "g.safetensors"]);
    // As in earlier versions.
    let bytes = std::fs::read(here.join("g.safetensors")).unwrap();
    let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
    let at = 8 + text.find("weights_sha256").unwrap();
    let mut old = bytes;
    old[at..at + 7].copy_from_slice(b"nothing");
    std::fs::write(here.join("old.safetensors"), old).unwrap();
    for (gallery, words) in [("g.npy", ".npy file"), ("old.safetensors", "no weights_sha256")] {
        let command =
            ["search", "--model", "a.safetensors", "--gallery", gallery, "--query", "two_p/a/1_0.jpg"];
        let (_, stderr) = expect(0, here, &command);
        assert_eq!(stderr.matches("weights_sha256").count(), 1, "{stderr}");
        assert_says(&stderr, &["note:", gallery, words]);
    }
}

#[test]
fn thumbnails_are_found_where_the_inputs_are() {
    let folder = set();
    let here = folder.path();
    embed(here, "a.safetensors", &["two_p"], &["--out", "one.safetensors"]);
    embed(here, "a.safetensors", &["two_p/a", "two_p/b"], &["--out", "two.parquet"]);
    embed(here, "a.safetensors", &["two_p/a/1_0.jpg", "two_p/b/1_0.jpg"], &["--out", "files.safetensors"]);
    for input in ["two_p/a", "two_p/b/1_0.jpg"] {
        embed(here, "a.safetensors", &[input], &["--append", "--out", "index"]);
    }
    let page = |gallery: &str| {
        let query = ["--query", "two_p/a/1_0.jpg", "--html", "page.html"];
        expect(
            0,
            here,
            &[&["search", "--model", "a.safetensors", "--gallery", gallery][..], &query].concat(),
        );
        std::fs::read_to_string(here.join("page.html")).unwrap().matches("data:image").count()
    };
    // The query's image and all matches.
    for (gallery, images) in
        [("one.safetensors", 9), ("two.parquet", 9), ("files.safetensors", 3), ("index", 6)]
    {
        assert_eq!(page(gallery), images, "{gallery}");
    }
    write(&here.join("labels.csv"), LABELS);
    let eval = ["eval", "--query-embeddings", "one.safetensors", "--gallery-embeddings", "one.safetensors"];
    expect(0, here, &[&eval[..], &["--labels", "labels.csv", "--html", "eval.html"]].concat());
    let evaluated = || std::fs::read_to_string(here.join("eval.html")).unwrap();
    assert!(evaluated().contains("data:image") && !evaluated().contains("no --images"));
    // No output may replace an input or a file in an input folder.
    let image = std::fs::read(here.join("two_p/a/1_0.jpg")).unwrap();
    let search = ["search", "--model", "a.safetensors", "--gallery", "one.safetensors"];
    let query = ["--query", "two_p/b/1_0.jpg"];
    let labels = ["--labels", "labels.csv"];
    let reduce = ["reduce", "one.safetensors", "--dim", "2", "--out", "pca.safetensors"];
    for flag in ["--html", "--json"] {
        let over = [flag, "two_p/a/1_0.jpg"];
        for command in [[&search[..], &query, &over].concat(), [&eval[..], &labels, &over].concat()] {
            assert_says(&expect(2, here, &command).1, &[&over.join(" "), "two_p, which is an input"]);
        }
    }
    let over = [&reduce[..], &["--json", "two_p/a/1_0.jpg"]].concat();
    assert_says(&expect(2, here, &over).1, &["--json two_p/a/1_0.jpg", "two_p, which is an input"]);
    assert_eq!(std::fs::read(here.join("two_p/a/1_0.jpg")).unwrap(), image);
    // Missing images are shown by name only.
    std::fs::rename(here.join("two_p/b"), here.join("elsewhere")).unwrap();
    assert_eq!(page("one.safetensors"), 5);
    assert_eq!(page("two.parquet"), 5);
}

#[test]
fn only_rows_below_the_inputs_are_shown() {
    use lat_wgpu::embeddings::gallery::Gallery;
    use lat_wgpu::embeddings::provenance::Provenance;
    use lat_wgpu::embeddings::{Dtype, EmbeddingWriter};
    let folder = copies(&["two_p"]);
    let here = folder.path();
    let below = here.join("two_p/a").to_string_lossy().into_owned();
    let names = ["1_0.jpg", "../b/1_0.jpg", "two_p/b/1_0.jpg", "/etc/hostname", "", ".", "none.jpg"]
        .map(String::from);
    for inputs in [vec![below.clone()], vec![below.clone(), format!("{below}/1_1.jpg")]] {
        let file = here.join("g.safetensors");
        let provenance = Provenance { inputs: inputs.clone(), ..Provenance::default() };
        let metadata = provenance.add_to(&BTreeMap::new());
        let mut writer = EmbeddingWriter::create(&file, 1, Dtype::F32, &names, &metadata).unwrap();
        names.iter().for_each(|name| writer.push(name, &[0.0]).unwrap());
        writer.finish().unwrap();
        let gallery = Gallery::open(&file).unwrap();
        let images = gallery.images(None).unwrap().unwrap();
        let shown: Vec<usize> =
            (0..names.len()).filter(|&row| gallery.image(&images, row).is_some()).collect();
        assert_eq!(shown, [0], "{inputs:?}");
    }
}

/// Embeddings with the names of `ok.npy` and the given values.
fn embeddings(path: &Path, value: impl Fn(usize, usize) -> f32) {
    use lat_wgpu::embeddings::{Dtype, EmbeddingWriter};
    let text = std::fs::read_to_string(input("emb/ok.paths.txt")).unwrap();
    let names: Vec<String> = text.lines().map(String::from).collect();
    let mut writer = EmbeddingWriter::create(path, 8, Dtype::F32, &names, &BTreeMap::new()).unwrap();
    for (row, name) in names.iter().enumerate() {
        let vector: Vec<f32> = (0..8).map(|place| value(row, place)).collect();
        writer.push(name, &vector).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn distances_that_are_not_finite_are_errors() {
    let folder = copies(&["emb"]);
    let here = &folder.path().join("emb");
    let ordinary = |row: usize, place: usize| ((row * 5 + place * 3) % 7) as f32 - 3.0;
    let one = |bad: f32| move |row, place| if (row, place) == (5, 2) { bad } else { ordinary(row, place) };
    embeddings(&here.join("fine.npy"), ordinary);
    embeddings(&here.join("long.parquet"), one(2e19));
    embeddings(&here.join("negative.safetensors"), one(-3e38));
    embeddings(&here.join("infinite.npy"), one(f32::INFINITY));
    embeddings(&here.join("nan.parquet"), one(f32::NAN));
    let eval = |queries: &str, gallery: &str, more: &[&str]| {
        let command = ["eval", "--query-embeddings", queries, "--gallery-embeddings", gallery];
        let output = crate::common::program(here, &[&command[..], more].concat()).output().unwrap();
        assert!(output.stdout.is_empty(), "{queries} and {gallery}");
        assert!(matches!(output.status.code(), Some(1 | 2)), "{queries} and {gallery}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let (bad, first) = ("0002_c1s1_000001_00.jpg", "0001_c1s1_000000_00.jpg");
    for file in ["long.parquet", "negative.safetensors", "infinite.npy", "nan.parquet"] {
        let text = eval("fine.npy", file, &[]);
        assert_says(&text, &["row of the gallery 5", bad, file, "query 0", first, "not finite"]);
        let text = eval(file, "fine.npy", &[]);
        assert_says(&text, &["query 5", bad, file, "row of the gallery 0", first, "not finite"]);
        assert_says(&eval(file, file, &["--rerank"]), &[bad, file, "not finite"]);
    }
    assert_says(&eval("big_vals.npy", "big_vals.npy", &[]), &["big_vals.npy", "query 0", "not finite"]);
    assert_says(&eval("ok.npy", "big_vals.npy", &[]), &["big_vals.npy", "query 0", "row of the gallery 0"]);
    // With underflowing squares, all distances would be equal.
    embeddings(&here.join("short.npy"), |row, place| 1e-25 * ordinary(row, place));
    assert_says(&eval("short.npy", "fine.npy", &[]), &["short.npy", "query 0", "underflows in f32"]);
    // Large values with finite distances are accepted.
    embeddings(&here.join("large.npy"), |row, place| 1e17 * ordinary(row, place));
    expect(0, here, &["eval", "--query-embeddings", "large.npy", "--gallery-embeddings", "large.npy"]);
}

#[test]
fn search_names_the_row() {
    let folder = set();
    let here = folder.path();
    embed(here, "a.safetensors", &["two_p"], &["--out", "g.npy"]);
    let mut bytes = std::fs::read(here.join("g.npy")).unwrap();
    let end = bytes.len();
    for (value, code) in [(1e25f32, 1), (f32::NAN, 2)] {
        bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
        std::fs::write(here.join("g.npy"), &bytes).unwrap();
        let command =
            ["search", "--model", "a.safetensors", "--gallery", "g.npy", "--query", "two_p/a/1_0.jpg"];
        let (stdout, stderr) = expect(code, here, &command);
        assert_says(&stderr, &["b/2_1.jpg", "g.npy", "1_0.jpg", "not finite"]);
        assert_eq!(stdout, "");
        let (_, stderr) =
            expect(code, here, &["serve", "--model", "a.safetensors", "--gallery", "g.npy", "--port", "0"]);
        assert_says(&stderr, &["b/2_1.jpg", "not finite"]);
    }
}

#[test]
fn variances_that_are_not_finite_are_errors() {
    let folder = copies(&["emb"]);
    let here = &folder.path().join("emb");
    embeddings(&here.join("one.npy"), |row, place| if row == 7 { 3e38 } else { (row + place) as f32 });
    embeddings(&here.join("nan.npy"), |row, place| if row == 3 { f32::NAN } else { (row * place) as f32 });
    for (file, words) in [
        ("big_vals.npy", &["variance", "not finite"][..]),
        ("one.npy", &["variance", "not finite", "row 7", "0002_c2s1_000001_00.jpg"]),
        ("nan.npy", &["row 3", "0001_c2s1_000001_00.jpg", "nan.npy", "finite"]),
    ] {
        let (_, stderr) = expect(1, here, &["reduce", file, "--dim", "2", "--out", "pca.safetensors"]);
        assert_says(&stderr, words);
        assert!(!here.join("pca.safetensors").exists(), "{file}");
    }
    expect(0, here, &["reduce", "ok.npy", "--dim", "2", "--out", "pca.safetensors"]);
    let apply =
        |file: &str| ["reduce", file, "--apply", "pca.safetensors", "--out", "small.npy"].map(String::from);
    let apply = |file: &str| {
        let arguments = apply(file);
        expect(1, here, &arguments.each_ref().map(String::as_str)).1
    };
    assert_says(&apply("nan.npy"), &["row 3", "nan.npy", "not finite"]);
}

#[test]
fn embeddings_that_are_not_finite_are_not_written() {
    let folder = set();
    let here = folder.path();
    // Finite weights with infinite products.
    let mut bytes = std::fs::read(TINY).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offsets = &json["norm.weight"]["data_offsets"];
    let [start, end] = [0, 1].map(|i| 8 + header + offsets[i].as_u64().unwrap() as usize);
    for number in bytes[start..end].chunks_mut(4) {
        number.copy_from_slice(&3e38f32.to_le_bytes());
    }
    write(&here.join("huge.safetensors"), bytes);
    for more in [&["--out", "e.npy"][..], &["--out", "index", "--append"]] {
        let command = [&["embed", "--model", "huge.safetensors", "two_p"], more].concat();
        assert_says(&expect(1, here, &command).1, &["embedding of a/1_0.jpg is not finite"]);
    }
    assert!(!here.join("e.npy").exists());
    // Values beyond the range of f16.
    embed(here, "a.safetensors", &["two_p"], &["--out", "g.npy"]);
    expect(0, here, &["reduce", "g.npy", "--dim", "2", "--out", "pca.safetensors"]);
    let mut bytes = std::fs::read(here.join("g.npy")).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e9f32.to_le_bytes());
    write(&here.join("g.npy"), bytes);
    let apply = ["reduce", "g.npy", "--apply", "pca.safetensors", "--dtype", "f16", "--out", "short.npy"];
    assert_says(&expect(1, here, &apply).1, &["embedding of b/2_1.jpg is not finite", "16 bits"]);
}
