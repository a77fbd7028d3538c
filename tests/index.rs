//! Index folders, shards and merging.

#[path = "common/program.rs"]
mod program;

use lat_wgpu::embeddings::index::{
    Found, IndexOptions, IndexWriter, Manifest, Origin, Shard, ShardNumber, Weights, hash_of_list,
};
use lat_wgpu::embeddings::merge::{Merge, Merged};
use lat_wgpu::embeddings::{self, Dtype, EmbeddingWriter, Embeddings};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::images::walk::{self, Image};
use program::{TINY, crops, expect, program, signal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

/// Names of the images in an index folder.
fn indexed(folder: &Path) -> Vec<String> {
    let manifest = Manifest::read(folder).unwrap().unwrap();
    let rows = manifest
        .segments
        .iter()
        .flat_map(|segment| embeddings::read(&folder.join(&segment.file)).unwrap().paths);
    let mut names: Vec<String> = rows.collect();
    names.sort();
    names
}

const EXTENSIONS: [&str; 3] = ["safetensors", "npy", "parquet"];
const DIM: usize = 3;

// The library: files that are no images, and embeddings made of their content.

fn origin() -> Origin {
    Origin {
        model: Weights { name: "m.safetensors".to_string(), sha256: "0123456789abcdef".to_string() },
        metadata: BTreeMap::from([(
            "lat_wgpu".to_string(),
            r#"{"model":{"gelt":{"lambda":0.8}}}"#.to_string(),
        )]),
        ignore_exif: false,
        dim: DIM,
        dtype: Dtype::F32,
    }
}

fn options(segment_rows: usize) -> IndexOptions {
    IndexOptions { segment_rows, ..IndexOptions::default() }
}

/// A folder with `images/`, in which each file holds its own name.
fn images(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    for name in names {
        std::fs::write(folder.path().join("images").join(name), name).unwrap();
    }
    folder
}

fn list(folder: &Path) -> Vec<Image> {
    walk::list_images(&[folder.join("images")], false).unwrap().images
}

/// The embedding of an image; `None` if it "can't be read".
fn look(image: &Image) -> Option<Vec<f32>> {
    let bytes = std::fs::read(&image.path).unwrap();
    let sum: u32 = bytes.iter().map(|&b| u32::from(b)).sum();
    (!bytes.starts_with(b"bad")).then(|| vec![sum as f32, bytes.len() as f32, 0.1])
}

/// Adds up to `most` missing images.
fn feed(writer: &mut IndexWriter, most: usize) {
    for image in writer.todo().iter().take(most) {
        match look(image) {
            Some(vector) => writer.push(&image.name, &vector).unwrap(),
            None => writer.skip(&image.name),
        }
    }
}

/// Extends an index by all missing images.
fn extend(index: &Path, images: Vec<Image>, options: &IndexOptions) -> (Found, (usize, usize)) {
    let mut writer = IndexWriter::open(index, origin(), images, options).unwrap();
    feed(&mut writer, usize::MAX);
    (writer.found(), writer.finish().unwrap())
}

fn shard(index: &Path, number: u32, of: u32, images: Vec<Image>, origin: Origin) -> Result<usize> {
    let number = ShardNumber { number, of };
    let (shard, images) = Shard::of_list(number, images)?;
    let options = IndexOptions { shard: Some(shard), ..options(2) };
    let mut writer = IndexWriter::open(&index.join(number.folder()), origin, images, &options)?;
    feed(&mut writer, usize::MAX);
    Ok(writer.finish()?.0)
}

/// All rows of the manifest, by name.
fn read(index: &Path) -> BTreeMap<String, Vec<f32>> {
    let manifest = Manifest::read(index).unwrap().unwrap();
    let mut rows = BTreeMap::new();
    for part in &manifest.segments {
        let Embeddings { paths, dim, rows: values } = embeddings::read(&index.join(&part.file)).unwrap();
        assert_eq!(paths.len(), part.rows);
        for (name, row) in paths.into_iter().zip(values.chunks(dim)) {
            assert!(rows.insert(name.clone(), row.to_vec()).is_none(), "{name} is there twice");
        }
    }
    assert_eq!(rows.len(), manifest.images);
    rows
}

fn wanted(images: &[Image]) -> BTreeMap<String, Vec<f32>> {
    images.iter().filter_map(|image| Some((image.name.clone(), look(image)?))).collect()
}

fn merge(folder: &Path, out: &Path) -> Result<Merged> {
    Merge::open(folder)?.write(out, &())
}

fn message<T>(result: Result<T>) -> String {
    let error = result.err().expect("an error");
    let cause = std::error::Error::source(&error).map(|cause| cause.to_string()).unwrap_or_default();
    format!("{error}: {cause}")
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_index_adds_missing_images_and_drops_changed_ones() {
    let folder = images(&["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]);
    let (here, index) = (folder.path(), folder.path().join("index"));
    assert_eq!(extend(&index, list(here), &options(2)).1, (5, 5));
    assert_eq!(read(&index), wanted(&list(here)));
    assert_eq!(Manifest::read(&index).unwrap().unwrap().segments.len(), 3);

    let before = names_in(&index);
    let bytes = std::fs::read(index.join("manifest.json")).unwrap();
    let (found, rows) = extend(&index, list(here), &options(2));
    assert_eq!((found, rows), (Found { known: 5, ..Found::default() }, (0, 5)));
    assert_eq!((names_in(&index), std::fs::read(index.join("manifest.json")).unwrap()), (before, bytes));

    // One image is changed, one removed, one new, and one now unreadable.
    std::fs::write(here.join("images/b.jpg"), "bright").unwrap();
    std::fs::remove_file(here.join("images/c.jpg")).unwrap();
    std::fs::write(here.join("images/bb.jpg"), "bb").unwrap();
    std::fs::write(here.join("images/e.jpg"), "bad image").unwrap();
    let gone = read(&index)["c.jpg"].clone();
    let (found, rows) = extend(&index, list(here), &options(2));
    assert_eq!((found, rows), (Found { known: 2, changed: 2, pruned: 0 }, (2, 5)));
    let mut all = wanted(&list(here));
    all.insert("c.jpg".to_string(), gone);
    assert_eq!(read(&index), all);
    assert_eq!(Manifest::read(&index).unwrap().unwrap().skipped, ["e.jpg"]);

    let prune = IndexOptions { prune: true, ..options(2) };
    let (found, _) = extend(&index, list(here), &prune);
    assert_eq!(found, Found { known: 4, changed: 0, pruned: 1 });
    assert_eq!(read(&index), wanted(&list(here)));
    for name in names_in(&index).iter().filter(|name| name.starts_with("part-")) {
        let manifest = std::fs::read_to_string(index.join("manifest.json")).unwrap();
        assert!(manifest.contains(name.split('.').next().unwrap()), "{name} is left over");
    }
}

#[test]
fn unfinished_work_is_repeated() {
    let folder = images(&["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]);
    let (here, index) = (folder.path(), folder.path().join("index"));
    let mut writer = IndexWriter::open(&index, origin(), list(here), &options(2)).unwrap();
    match IndexWriter::open(&index, origin(), list(here), &options(2)) {
        Err(Error::Usage(text)) => assert!(text.contains("another process"), "{text}"),
        _ => panic!("two writers"),
    }
    feed(&mut writer, 3);
    drop(writer);
    assert_eq!(read(&index).len(), 2, "the first segment counts, the second was not complete");
    assert!(!Manifest::read(&index).unwrap().unwrap().complete);
    assert!(message(Merge::open(&index)).contains("is not complete"));

    // A kill between two steps leaves a segment that no manifest lists, and half a file.
    std::fs::write(index.join("part-000002.safetensors"), "half").unwrap();
    std::fs::write(index.join("part-000009.json"), "half").unwrap();
    std::fs::write(index.join(".lat-wgpu-x"), "half").unwrap();
    let mut writer = IndexWriter::open(&index, origin(), list(here), &options(2)).unwrap();
    assert_eq!(writer.todo().len(), 3);
    feed(&mut writer, 1);
    writer.stop().unwrap();
    assert_eq!(read(&index).len(), 3, "rows before an orderly stop are kept");
    assert_eq!(extend(&index, list(here), &options(2)).1, (2, 5));
    assert_eq!(read(&index), wanted(&list(here)));
    assert!(!names_in(&index).iter().any(|name| name.contains("000009") || name.starts_with(".lat")));
}

#[test]
fn other_embeddings_are_refused() {
    let folder = images(&["a.jpg"]);
    let (here, index) = (folder.path(), folder.path().join("index"));
    extend(&index, list(here), &options(2));
    let refused = |change: &dyn Fn(&mut Origin)| {
        let mut other = origin();
        change(&mut other);
        message(IndexWriter::open(&index, other, list(here), &options(2)))
    };
    let model = refused(&|o| o.model = Weights { name: "n.safetensors".into(), sha256: "f".repeat(64) });
    for word in ["m.safetensors", "0123456789ab", "n.safetensors", "ffffffffffff"] {
        assert!(model.contains(word), "{model}");
    }
    let lambda = refused(&|o| {
        o.metadata.insert("lat_wgpu".into(), r#"{"model":{"gelt":{"lambda":0.5}}}"#.into());
    });
    assert!(lambda.contains("lat_wgpu.model.gelt.lambda: 0.8, not 0.5"), "{lambda}");
    let flip = refused(&|o| {
        o.metadata.insert("flip".into(), "true".into());
    });
    assert!(flip.contains("flip: null, not true"), "{flip}");
    assert!(refused(&|o| o.dtype = Dtype::F16).contains("\"f32\", not \"f16\""));
    assert!(refused(&|o| o.ignore_exif = true).contains("ignore_exif"));
    // Another name for the same weights is accepted.
    let mut renamed = origin();
    renamed.model.name = "other.safetensors".to_string();
    IndexWriter::open(&index, renamed, list(here), &options(2)).unwrap();

    // The same name from another folder is another image.
    let other = images(&["a.jpg"]);
    std::fs::write(other.path().join("images/a.jpg"), "another person").unwrap();
    let error = IndexWriter::open(&index, origin(), list(other.path()), &options(2)).err().unwrap();
    assert!(error.to_string().contains("another image of that name"), "{error}");
    assert!(error.hint().unwrap().contains("into a new index"), "{error}");
    assert_eq!(read(&index), wanted(&list(here)), "nothing is lost by an error");
    let prune = IndexOptions { prune: true, ..options(2) };
    assert_eq!(extend(&index, list(other.path()), &prune).0.changed, 1);

    let twice = [list(here), list(here)].concat();
    assert!(message(IndexWriter::open(&index, origin(), twice, &options(2))).contains("twice"));
    let text = message(IndexWriter::open(&here.join("images"), origin(), list(here), &options(2)));
    assert!(text.contains("needs its own folder"), "{text}");
    // A manifest must not point outside its folder.
    let path = index.join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.replace("part-", "../part-")).unwrap();
    assert!(message(Manifest::read(&index)).contains("is not a file name of a segment"));
    std::fs::write(&path, manifest.replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert!(message(Manifest::read(&index)).contains("format 2"));
}

#[test]
fn each_image_is_in_one_shard() {
    for text in ["0/4", "5/4", "1", "1/", "/4", "1/0", "-1/4", "a/b", ""] {
        assert!(text.parse::<ShardNumber>().is_err(), "{text}");
    }
    let shard: ShardNumber = "3/16".parse().unwrap();
    assert_eq!(shard.folder(), "shard-3-of-16");
    assert_eq!(ShardNumber::from_folder("shard-3-of-16"), Some(shard));
    for name in ["shard-03-of-16", "shard-3-of-2", "shard-3", "shard-3-of-16-old"] {
        assert_eq!(ShardNumber::from_folder(name), None, "{name}");
    }
    // The first eight bytes of SHA-256("abc") are ba7816bf8f01cfea.
    for of in [1, 2, 3, 7, 1000] {
        assert_eq!(u64::from(ShardNumber::of_name("abc", of)), 1 + 0xba78_16bf_8f01_cfea % u64::from(of));
    }
    let mut counts = [0; 4];
    for i in 0..4000 {
        counts[ShardNumber::of_name(&format!("{i:04}_c1s1_000451_03.jpg"), 4) as usize - 1] += 1;
    }
    assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    assert_ne!(hash_of_list(["ab", "c"].into_iter()), hash_of_list(["a", "bc"].into_iter()));
}

#[test]
fn merged_shards_equal_one_run() {
    let names: Vec<String> = (0..23).map(|i| format!("{:02}.jpg", i * 7 % 23)).collect();
    let folder = images(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let here = folder.path();
    for name in ["03.jpg", "11.jpg"] {
        std::fs::write(here.join("images").join(name), "bad image").unwrap();
    }
    let images = list(here);
    for number in 1..=3 {
        shard(&here.join("parts"), number, 3, images.clone(), origin()).unwrap();
    }
    extend(&here.join("index"), images.clone(), &options(4));
    for extension in EXTENSIONS {
        let whole = here.join("whole").with_extension(extension);
        let all: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
        let Origin { dim, dtype, metadata, .. } = origin();
        let mut writer = EmbeddingWriter::create(&whole, dim, dtype, &all, &metadata).unwrap();
        for (name, vector) in wanted(&images) {
            writer.push(&name, &vector).unwrap();
        }
        writer.finish().unwrap();
        for source in ["parts", "index"] {
            let out = here.join(source).with_extension(extension);
            let merged = merge(&here.join(source), &out).unwrap();
            assert_eq!((merged.rows, merged.skipped), (21, 2));
            assert!(
                std::fs::read(&out).unwrap() == std::fs::read(&whole).unwrap(),
                "{source} to {extension}"
            );
        }
    }
    let paths = |stem: &str| std::fs::read(here.join(stem).with_extension("paths.txt")).unwrap();
    assert_eq!(paths("parts"), paths("whole"));
}

#[test]
fn bad_shards_are_named() {
    let names: Vec<String> = (0..20).map(|i| format!("{i:02}.jpg")).collect();
    let folder = images(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (here, parts) = (folder.path(), folder.path().join("parts"));
    let out = here.join("out.npy");
    std::fs::create_dir(&parts).unwrap();
    assert!(message(merge(&parts, &out)).contains("neither"));
    for number in [1, 3] {
        shard(&parts, number, 4, list(here), origin()).unwrap();
    }
    let text = message(merge(&parts, &out));
    assert!(text.contains("2 of 4 shards are missing: 2/4, 4/4"), "{text}");

    let mut other = origin();
    other.model.sha256 = "e".repeat(64);
    shard(&parts, 2, 4, list(here), other).unwrap();
    shard(&parts, 4, 4, list(here), origin()).unwrap();
    let text = message(merge(&parts, &out));
    assert!(text.contains("shard-2-of-4") && text.contains("eeeeeeeeeeee"), "{text}");
    let text = message(shard(&parts, 2, 4, list(here), origin()));
    assert!(text.contains("was made with something else"), "{text}");
    std::fs::remove_dir_all(parts.join("shard-2-of-4")).unwrap();
    let text = message(merge(&parts, &out));
    assert!(text.contains("1 of 4 shards are missing: 2/4"), "{text}");
    shard(&parts, 2, 4, list(here), origin()).unwrap();
    merge(&parts, &out).unwrap();

    // Another image: every shard must be updated.
    std::fs::write(here.join("images/20.jpg"), "20").unwrap();
    let its = ShardNumber::of_name("20.jpg", 4);
    let redone: Vec<usize> =
        (1..=4).map(|number| shard(&parts, number, 4, list(here), origin()).unwrap()).collect();
    assert_eq!(redone.iter().sum::<usize>(), 1, "the others are not redone");
    assert_eq!(redone[its as usize - 1], 1);
    assert_eq!(merge(&parts, &out).unwrap().rows, 21);
    std::fs::remove_file(here.join("images/00.jpg")).unwrap();
    shard(&parts, 3, 4, list(here), origin()).unwrap();
    let text = message(merge(&parts, &out));
    assert!(text.contains("shard-3-of-4") && text.contains("another list"), "{text}");
    for number in [1, 2, 4] {
        shard(&parts, number, 4, list(here), origin()).unwrap();
    }
    assert_eq!(merge(&parts, &out).unwrap().rows, 20);

    // Flip one bit.
    let good = std::fs::read(&out).unwrap();
    let victim = parts.join("shard-4-of-4");
    let part = victim.join(&Manifest::read(&victim).unwrap().unwrap().segments[0].file);
    let whole = std::fs::read(&part).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    let text = message(merge(&parts, &out));
    assert!(text.contains(&*part.to_string_lossy()) && text.contains("damaged"), "{text}");
    std::fs::write(&part, &whole[..whole.len() - 1]).unwrap();
    assert!(message(merge(&parts, &out)).contains(&*part.to_string_lossy()));
    std::fs::remove_file(&part).unwrap();
    assert!(message(merge(&parts, &out)).contains(&*part.to_string_lossy()));
    std::fs::write(&part, &whole).unwrap();

    // Two shards with the same rows under two numbers.
    let path = victim.join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.replace("\"number\": 4", "\"number\": 1")).unwrap();
    assert!(message(merge(&parts, &out)).contains("is not that of shard 4/4"));
    std::fs::write(&path, &manifest).unwrap();
    let mut value: Value = serde_json::from_str(&manifest).unwrap();
    let skipped = read(&parts.join("shard-1-of-4")).keys().next().unwrap().clone();
    value["skipped"] = serde_json::json!([skipped]);
    std::fs::write(&path, value.to_string()).unwrap();
    let text = message(merge(&parts, &out));
    assert!(text.contains(&format!("{skipped} occurs twice")) && text.contains("shard-1-of-4"), "{text}");
    value["skipped"] = serde_json::json!(["new.jpg"]);
    std::fs::write(&path, value.to_string()).unwrap();
    assert!(message(merge(&parts, &out)).contains("21 images, which are not the 20"));
    assert_eq!(std::fs::read(&out).unwrap(), good, "no error replaces an older file");
    std::fs::create_dir(parts.join("shard-1-of-2")).unwrap();
    assert!(message(merge(&parts, &out)).contains("different splits"));
    assert!(message(merge(&victim, &out)).contains("is only shard"));
}

// The program.

fn embed(code: i32, folder: &Path, more: &[&str]) -> String {
    let mut arguments = vec!["embed", "--model", TINY, "--heads", "2"];
    arguments.extend(more);
    expect(code, folder, &arguments).1
}

#[test]
fn four_shards_equal_one_run_to_the_byte() {
    let folder = crops(9);
    let here = folder.path();
    std::fs::write(here.join("crops/0004_broken.png"), "no image").unwrap();
    for number in 1..=4 {
        // Batches differ from those of one run in size and images.
        let shard = format!("{number}/4");
        let arguments =
            ["crops", "--out", "parts", "--shard", &shard, "--batch-size", "3", "--part-rows", "3"];
        embed(0, here, &arguments);
    }
    for extension in EXTENSIONS {
        let (one, all) = (format!("one.{extension}"), format!("all.{extension}"));
        embed(0, here, &["crops", "--out", &one, "--batch-size", "5"]);
        let (_, stderr) = expect(0, here, &["merge", "parts", "--out", &all, "--json", "m.json"]);
        assert!(stderr.contains("merged 18 rows of 128 dimensions"), "{stderr}");
        assert!(
            std::fs::read(here.join(&one)).unwrap() == std::fs::read(here.join(&all)).unwrap(),
            "{extension}"
        );
    }
    let summary: Value = serde_json::from_slice(&std::fs::read(here.join("m.json")).unwrap()).unwrap();
    assert_eq!((&summary["rows"], &summary["skipped"]), (&18.into(), &1.into()));
    assert_eq!(
        std::fs::read(here.join("one.paths.txt")).unwrap(),
        std::fs::read(here.join("all.paths.txt")).unwrap()
    );
}

#[cfg(unix)]
#[test]
fn a_killed_shard_neither_loses_nor_repeats_rows() {
    let folder = crops(12);
    let here = folder.path();
    let slow = ["--size", "64x64", "--stride", "2", "--batch-size", "1"];
    let arguments = [&["crops", "--out", "parts", "--shard", "1/1", "--part-rows", "2"][..], &slow].concat();
    let start = || {
        let mut command = program(here, &["embed", "--model", TINY, "--heads", "2"]);
        command.args(&arguments).stderr(Stdio::null()).spawn().unwrap()
    };
    let index = here.join("parts/shard-1-of-1");
    let images = || Manifest::read(&index).unwrap().map_or(0, |manifest| manifest.images);
    let wait_for_more_than = |rows: usize| {
        while images() <= rows {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut child = start();
    wait_for_more_than(0);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = read(&index).len();
    assert!((2..24).contains(&killed), "{killed} rows");
    let (_, text) = expect(1, here, &["merge", "parts", "--out", "all.npy"]);
    assert!(text.contains("is not complete"), "{text}");

    // A signal keeps every row made so far.
    let mut child = start();
    wait_for_more_than(killed);
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let stopped = read(&index).len();
    assert!(stopped > killed && stopped < 24, "{stopped} rows after {killed}");

    let stderr = embed(0, here, &arguments);
    assert!(stderr.contains(&format!("24 images; {stopped} known")), "{stderr}");
    expect(0, here, &["merge", "parts", "--out", "all.npy"]);
    embed(0, here, &[&["crops", "--out", "one.npy"][..], &slow[..4]].concat());
    assert!(std::fs::read(here.join("one.npy")).unwrap() == std::fs::read(here.join("all.npy")).unwrap());
    assert!(!names_in(&index).iter().any(|name| name.starts_with(".lat")), "{:?}", names_in(&index));
}

#[test]
fn embed_appends_to_an_index() {
    let folder = crops(3);
    let here = folder.path();
    let summary =
        || -> Value { serde_json::from_slice(&std::fs::read(here.join("s.json")).unwrap()).unwrap() };
    let arguments = ["crops", "--out", "index", "--append", "--json", "s.json"];
    embed(0, here, &arguments);
    assert_eq!((&summary()["images"], &summary()["index"]["pictures"]), (&6.into(), &6.into()));
    // No adapter has this name: none is needed.
    let stderr = embed(0, here, &[&arguments[..], &["--adapter", "no such adapter"]].concat());
    assert!(stderr.contains("holds all of them") && stderr.contains("6 images; 6 known"), "{stderr}");

    let first = &names_in(&here.join("crops"))[0];
    std::fs::copy(here.join("crops").join(first), here.join("crops/9999_c1s1_000001_00.jpg")).unwrap();
    embed(0, here, &arguments);
    assert_eq!((&summary()["images"], &summary()["index"]["known"]), (&1.into(), &6.into()));
    expect(0, here, &["merge", "index", "--out", "all.safetensors"]);
    embed(0, here, &["crops", "--out", "one.safetensors"]);
    let bytes = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert!(bytes("one.safetensors") == bytes("all.safetensors"));

    let stderr = embed(1, here, &["crops", "--out", "index"]);
    assert!(stderr.contains("index is an index folder") && stderr.contains("add --append"), "{stderr}");
    let stderr = embed(1, here, &[&arguments[..], &["--lambda", "0.5"]].concat());
    assert!(stderr.contains("lat_wgpu.model.gelt.lambda: 0.8"), "{stderr}");
    embed(2, here, &["crops", "--out", "one.safetensors", "--append"]);
    let cases: [&[&str]; 4] =
        [&["--append", "--shard", "1/2"], &["--shard", "3/2"], &["--prune"], &["--part-rows", "5"]];
    for case in cases {
        embed(2, here, &[&["crops", "--out", "index"], case].concat());
    }
    std::fs::create_dir(here.join("bad")).unwrap();
    std::fs::write(here.join("bad/a.jpg"), "x").unwrap();
    embed(1, here, &["bad", "--out", "other", "--append"]);
}

#[test]
fn flipped_embeddings_are_kept_apart() {
    let folder = crops(2);
    let here = folder.path();
    embed(0, here, &["crops", "--out", "single.safetensors", "--json", "s.json"]);
    embed(0, here, &["crops", "--out", "flip.safetensors", "--flip", "--json", "f.json"]);
    let settings = |name: &str| -> Value {
        let bytes = std::fs::read(here.join(name)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        serde_json::from_str(header["__metadata__"]["lat_wgpu"].as_str().unwrap()).unwrap()
    };
    assert_eq!(settings("flip.safetensors")["flip"], true);
    let single = settings("single.safetensors");
    assert_eq!(single.as_object().unwrap().keys().collect::<Vec<_>>(), ["format", "model", "preprocess"]);
    let summary =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(here.join(name)).unwrap()).unwrap() };
    assert_eq!((&summary("s.json")["flip"], &summary("f.json")["flip"]), (&false.into(), &true.into()));
    let rows = |name: &str| embeddings::read(&here.join(name)).unwrap().rows;
    assert_ne!(rows("single.safetensors"), rows("flip.safetensors"));
    for row in rows("flip.safetensors").chunks(128) {
        let norm: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((norm - 1.0).abs() < 1e-5, "norm² {norm}");
    }
    embed(0, here, &["crops", "--out", "index", "--append"]);
    let stderr = embed(1, here, &["crops", "--out", "index", "--append", "--flip"]);
    assert!(stderr.contains("flip: null, not true"), "{stderr}");
}

#[test]
fn images_of_a_person_are_removed_from_an_index() {
    let folder = crops(3);
    let here = folder.path();
    let embed = ["embed", "--model", TINY, "--heads", "2", "crops", "--out", "index", "--append"];
    expect(0, here, &embed);
    let before = indexed(&here.join("index"));
    let of = |person: &str| before.iter().filter(|name| name.contains(person)).cloned().collect::<Vec<_>>();
    let (gone, first) = (of("0001_"), before[0].clone());
    assert!(!gone.is_empty() && gone.len() < before.len());
    let filter = ["index", "remove", "index", "--filter", "path=*0001_*"];
    let (listed, _) = expect(0, here, &[&filter[..], &["--dry-run"]].concat());
    assert_eq!(listed.lines().collect::<Vec<_>>(), gone);
    assert_eq!(indexed(&here.join("index")), before);
    let (_, said) = expect(0, here, &filter);
    assert!(said.contains(&format!("deleted {} images", gone.len())), "{said}");
    let left: Vec<String> = before.iter().filter(|name| !gone.contains(name)).cloned().collect();
    assert_eq!(indexed(&here.join("index")), left);
    // Neither the manifest nor any segment keeps a name.
    for file in std::fs::read_dir(here.join("index")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(5).any(|window| window == b"0001_"));
    }
    assert!(expect(1, here, &filter).1.contains("no image of the index matches"));
    // A list, of which one name is not there.
    std::fs::write(here.join("names.txt"), format!("{}\n{first}\n\n", left[1])).unwrap();
    let (_, said) = expect(0, here, &["index", "remove", "index", "--names", "names.txt"]);
    assert!(said.contains("deleted 1 images") && said.contains("1 names of the list are not"), "{said}");
    // The rest can still be merged, and extended.
    expect(0, here, &["merge", "index", "--out", "all.npy"]);
    expect(0, here, &embed);
    assert_eq!(indexed(&here.join("index")), before);
    for (command, words) in [
        (&["index", "remove", "crops", "--filter", "path=*"][..], "is no index"),
        (&["index", "remove", "index"], "--filter"),
    ] {
        let (_, said) = expect(2, here, command);
        assert!(said.contains(words), "{said}");
    }
}
