//! Attention rollout of whole networks against PyTorch, `lat-wgpu explain` and `lat-wgpu completions`.

mod common;
#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/program.rs"]
mod program;

use common::context;
use lat_wgpu::checkpoint;
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::rng;
use lat_wgpu::tasks::explain::{self, Explanation};
use program::{TINY, expect};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Tolerance relative to the largest value, as for the whole forward pass.
const TOLERANCE: f32 = 2e-5;

fn explain(code: i32, folder: &Path, more: &[&str]) -> (String, String) {
    let arguments: Vec<&str> =
        ["explain", "--model", TINY, "--heads", "2"].iter().chain(more).copied().collect();
    expect(code, folder, &arguments)
}

/// A folder with `crop.png`: noise around a bright spot, 40 pixels wide and 80 high.
fn images() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let image = image::RgbImage::from_fn(40, 80, |x, y| {
        let noise = rng::bits(4, 5, u64::from(40 * y + x)) as u8 / 4;
        let bright = if (10..20).contains(&x) && (20..50).contains(&y) { 180 } else { 20 };
        image::Rgb([bright + noise, bright, 90 + noise])
    });
    image.save(folder.path().join("crop.png")).unwrap();
    folder
}

fn shares(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|share| share.as_f64().unwrap()).collect()
}

/// Share of the tolerance that the largest error uses.
fn used(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let largest = wanted.iter().fold(0f32, |most, v| most.max(v.abs()));
    let worst = found.iter().zip(wanted).fold(0f32, |most, (f, w)| most.max((f - w).abs()));
    assert!(found.iter().all(|v| v.is_finite()));
    worst / (TOLERANCE * largest)
}

#[test]
fn rollout_equals_pytorch_for_every_option() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/rollout.safetensors");
    let bytes = std::fs::read(file).unwrap();
    let rollouts = SafeTensors::deserialize(&bytes).unwrap();
    let pairs = goldens::pairs();
    assert_eq!(pairs.len(), rollouts.len(), "a rollout for every golden");
    let mut worst = 0f32;
    for (model, golden) in pairs {
        let name = golden.file_name().unwrap().to_str().unwrap().trim_end_matches(".golden.safetensors");
        let (_, metadata) = checkpoint::list(&golden).unwrap();
        let network = checkpoint::load(&model, &goldens::settings(&metadata)).unwrap();
        let bytes = std::fs::read(&golden).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let images = file.tensor("images").unwrap();
        let size = network.config.image;
        let wanted: Vec<f32> = bytemuck::pod_collect_to_vec(rollouts.tensor(name).unwrap().data());
        let images = images.data().chunks(3 * size.height * size.width);
        for (i, (pixels, wanted)) in images.zip(wanted.chunks(network.config.tokens())).enumerate() {
            let image = Rgb { height: size.height, width: size.width, pixels: pixels.to_vec() };
            let found = explain::rollout(context(), &network, &image, 0).unwrap();
            let used = used(&found, wanted);
            println!("{name:<24} image {i}: rollout {:>5.1} % of the tolerance", 100.0 * used);
            assert!(used <= 1.0, "{name}, image {i}: {found:?} for {wanted:?}");
            let sum: f64 = found.iter().map(|&share| f64::from(share)).sum();
            assert!((sum - 1.0).abs() < 1e-5, "{name}: shares sum to {sum}");
            worst = worst.max(used);
        }
    }
    println!("at most {:.1} % of the tolerance", 100.0 * worst);
}

#[test]
fn comparison_with_pytorch_can_fail() {
    let wanted = [0.1, 0.5, 0.4];
    assert!(used(&wanted, &wanted) == 0.0);
    assert!(used(&[0.1, 0.5 + 1.1 * TOLERANCE * 0.5, 0.4], &wanted) > 1.0);
}

#[test]
fn shares_that_are_not_finite_are_an_error() {
    let settings = checkpoint::Settings { heads: Some(2), ..Default::default() };
    let config = checkpoint::load(Path::new(TINY), &settings).unwrap().config;
    let tokens = config.tokens();
    assert!(Explanation::new(&config, &vec![1.0 / tokens as f32; tokens]).is_ok());
    for bad in [f32::NAN, f32::INFINITY, 0.0] {
        let error = Explanation::new(&config, &vec![bad; tokens]).unwrap_err();
        assert!(error.to_string().contains("is not finite"), "{error}");
    }
}

#[test]
fn drawing_has_three_panels_and_is_repeatable() {
    let folder = images();
    let here = folder.path();
    let (stdout, stderr) = explain(0, here, &["crop.png", "--out", "a.png", "--json", "a.json"]);
    assert_eq!(stdout, "");
    assert!(stderr.contains("drew a.png: the largest share of the patches is in part "), "{stderr}");
    explain(0, here, &["crop.png", "--out", "b.png", "--json", "b.json"]);
    let bytes = std::fs::read(here.join("a.png")).unwrap();
    assert_eq!(bytes, std::fs::read(here.join("b.png")).unwrap());

    let drawing = image::load_from_memory(&bytes).unwrap().into_rgb8();
    // 40×80 is enlarged until the shorter side is 256; titles of 13 + 10 above the panels, margins of 12 around.
    let top = 12 + 13 + 10;
    assert_eq!(drawing.height(), top + 512 + 12);
    // The image with rows equals the image except for the lines; the heat map differs.
    let [first, second, third] = [12, 12 + 256 + 12, drawing.width() - 12 - 256];
    let at = |left: u32| [*drawing.get_pixel(left + 90, 300), *drawing.get_pixel(left + 150, 60)];
    assert_eq!(at(first), at(third));
    assert_ne!(at(first), at(second));
    // Titles above all three.
    for left in [first, second, third] {
        let is_dark = |x: u32, y: u32| drawing.get_pixel(x, y).0 == [0; 3];
        assert!((12..25).any(|y| (left..left + 30).any(|x| is_dark(x, y))), "a title at {left}");
    }
    // Every row has a white line and a black one on top: 4 of 128 pixels.
    for row in 0..4 {
        let line = |y: u32| drawing.get_pixel(third + 128, top + 128 * row + y).0;
        assert_eq!((line(0), line(1)), ([255; 3], [0; 3]), "row {row}");
    }

    let value: Value = serde_json::from_slice(&std::fs::read(here.join("a.json")).unwrap()).unwrap();
    assert_eq!((&value["rows"], &value["columns"]), (&4.into(), &4.into()));
    let rows: Vec<Vec<f64>> = value["rollout"].as_array().unwrap().iter().map(shares).collect();
    assert!(rows.len() == 4 && rows.iter().all(|row| row.len() == 4), "{rows:?}");
    let total: f64 = rows.iter().flatten().sum();
    assert!((total - 1.0).abs() < 1e-9, "{total}");
    assert!(rows.iter().flatten().all(|&share| share > 0.0), "{rows:?}");
    let parts = shares(&value["parts"]);
    assert_eq!(parts.len(), 4);
    for (row, part) in rows.iter().zip(&parts) {
        assert!((row.iter().sum::<f64>() - part).abs() < 1e-12);
    }
    // Half of the class token passes each of the two blocks.
    let prefix = value["prefix"].as_f64().unwrap();
    assert!(prefix > 0.25 && prefix < 1.0, "{prefix}");
}

#[test]
fn two_images_are_compared_part_by_part() {
    let folder = images();
    let here = folder.path();
    // The same image with another lower half.
    let mut other = image::open(here.join("crop.png")).unwrap().into_rgb8();
    for (x, y, pixel) in other.enumerate_pixels_mut().filter(|(_, y, _)| *y >= 40) {
        *pixel = image::Rgb([(x * 6) as u8, (y * 3) as u8, 250]);
    }
    other.save(here.join("other.png")).unwrap();
    let compare = |against: &str| -> (Value, String) {
        let (text, said) =
            explain(0, here, &["crop.png", "--against", against, "--out", "x.png", "--json", "-"]);
        (serde_json::from_str(&text).unwrap(), said)
    };
    let (own, said) = compare("crop.png");
    assert!(shares(&own["agreement"]).iter().all(|cosine| (cosine - 1.0).abs() < 1e-5), "{own}");
    assert!(own["distance"].as_f64().unwrap().abs() < 1e-5 && said.contains("distance 0.0000"), "{said}");

    let (value, said) = compare("other.png");
    let cosines = shares(&value["agreement"]);
    assert!(cosines.len() == 4 && cosines.iter().all(|cosine| (-1.0..1.0).contains(cosine)), "{value}");
    assert!(said.contains("drew x.png: distance ") && said.contains(" agrees most"), "{said}");
    // The distance is that of a search.
    for (name, out) in [("crop.png", "q.npy"), ("other.png", "g.npy")] {
        expect(0, here, &["embed", "--model", TINY, "--heads", "2", name, "--out", out]);
    }
    let rows = ["q.npy", "g.npy"].map(|name| lat_wgpu::embeddings::read(&here.join(name)).unwrap().rows);
    let squared: f32 = rows[0].iter().zip(&rows[1]).map(|(a, b)| (a - b) * (a - b)).sum();
    let distance = value["distance"].as_f64().unwrap();
    assert!((f64::from(squared) - distance).abs() < 1e-5, "{squared} and {distance}");

    // Query and match are beside each other, both 512 pixels high.
    let drawing = image::open(here.join("x.png")).unwrap().into_rgb8();
    assert_eq!(drawing.height(), 35 + 512 + 12);
    assert!(drawing.width() > 2 * 256);
    let (_, error) = explain(1, here, &["crop.png", "--against", "nowhere.png", "--out", "y.png"]);
    assert!(error.contains("nowhere.png") && !here.join("y.png").exists(), "{error}");
}

#[test]
fn flags_choose_the_network_and_one_part() {
    let folder = images();
    let here = folder.path();
    let flags = ["--size", "48x24", "--stride", "4", "--parts", "1"];
    let arguments = [&["crop.png", "--out", "x.PNG", "--json", "-"][..], &flags].concat();
    let value: Value = serde_json::from_str(&explain(0, here, &arguments).0).unwrap();
    assert_eq!((&value["rows"], &value["columns"]), (&11.into(), &5.into()));
    let parts = shares(&value["parts"]);
    assert!(parts.len() == 1 && (parts[0] - 1.0).abs() < 1e-9, "{parts:?}");
    assert!(here.join("x.PNG").is_file());
}

#[test]
fn errors_are_named_and_nothing_is_written() {
    let folder = images();
    let here = folder.path();
    std::fs::write(here.join("words.png"), "no image").unwrap();
    let listed = || std::fs::read_dir(here).unwrap().count();
    let before = listed();
    for (code, arguments, word) in [
        (1, ["words.png", "--out", "a.png"], "words.png: not a JPEG"),
        (1, ["nowhere.png", "--out", "a.png"], "nowhere.png: cannot be read"),
        (2, ["crop.png", "--out", "a.jpg"], "--out a.jpg: the drawing is a PNG"),
        (2, ["crop.png", "--out", "png"], "--out png: the drawing is a PNG"),
        (1, ["crop.png", "--out", "no/folder/a.png"], "cannot create no/folder/a.png"),
    ] {
        let (_, stderr) = explain(code, here, &arguments);
        assert!(stderr.contains(word), "{word} in: {stderr}");
    }
    let arguments = ["explain", "--model", "nothing.safetensors", "crop.png", "--out", "a.png"];
    let (_, stderr) = expect(1, here, &arguments);
    assert!(stderr.contains("nothing.safetensors"), "{stderr}");
    assert_eq!(listed(), before, "nothing was written");
}

#[test]
fn completions_exist_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (script, _) = expect(0, folder.path(), &["completions", shell]);
        for word in ["lat-wgpu", "embed", "explain", "--ignore-exif"] {
            // Fish writes a long flag as `-l NAME`.
            let found = script.contains(word) || script.contains(&word.replace("--", "-l "));
            assert!(found, "{shell}: no {word}");
        }
        if shell == "bash" {
            let file = folder.path().join("completions.bash");
            std::fs::write(&file, &script).unwrap();
            // Not every machine has this shell.
            if let Ok(checked) = Command::new("bash").arg("-n").arg(&file).output() {
                assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
            }
        }
    }
    expect(2, folder.path(), &["completions", "cmd"]);
}
