//! Networks with weights and activations in f16 against f32.

#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/program.rs"]
mod program;

use lat_wgpu::checkpoint::{self, Network, random_backbone};
use lat_wgpu::gpu::{Context, ContextOptions, Precision, Storage};
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::kernels;
use lat_wgpu::kernels::gemm::{Form, Tile};
use lat_wgpu::rng;
use lat_wgpu::shape::{ImageSize, Normalize, Preprocess, VitConfig};
use lat_wgpu::tasks::embed::{Embedder, MemoryNeed};
use program::{TINY, expect, figures};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Least cosine between f16 and f32 embeddings, as README promises.
const LEAST_COSINE: f64 = 0.9995;

/// A context with native f16, if the adapter has it, and one with packed f16.
fn contexts() -> Vec<Context> {
    let open = |default_limits| {
        let environment = ContextOptions::from_environment(None);
        let options = ContextOptions { precision: Precision::F16, default_limits, ..environment };
        Context::open(&options).unwrap()
    };
    let packed = open(true);
    assert_eq!(packed.storage(), Storage::Packed);
    let native = open(ContextOptions::from_environment(None).default_limits);
    if native.storage() == Storage::F16 { vec![native, packed] } else { vec![packed] }
}

fn full() -> Context {
    Context::open(&ContextOptions::from_environment(None)).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn f16_embeddings_are_close_to_pytorch() {
    let contexts = contexts();
    for (model, golden) in goldens::pairs() {
        let name = golden.file_name().unwrap().to_string_lossy().into_owned();
        let (_, metadata) = checkpoint::list(&golden).unwrap();
        let network = checkpoint::load(&model, &goldens::settings(&metadata)).unwrap();
        let bytes = std::fs::read(&golden).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let images = file.tensor("images").unwrap();
        let [_, height, width, 3] = images.shape() else { panic!("{name}: {:?}", images.shape()) };
        let (height, width) = (*height, *width);
        let images: Vec<Rgb> = (images.data().chunks(height * width * 3))
            .map(|pixels| Rgb { height, width, pixels: pixels.to_vec() })
            .collect();
        let wanted: Vec<f32> = bytemuck::pod_collect_to_vec(file.tensor("embedding").unwrap().data());
        for context in &contexts {
            let mut embedder = Embedder::new(context, &network, Some(images.len()), 1 << 30).unwrap();
            let found = embedder.embed(&images).unwrap();
            let dim = embedder.dim();
            let least = (found.chunks(dim).zip(wanted.chunks(dim)))
                .map(|(found, wanted)| cosine(found, wanted))
                .fold(1.0, f64::min);
            println!("{name} {:?}: cosine {least:.6}", context.storage());
            assert!(least >= LEAST_COSINE, "{name} {:?}: cosine {least}", context.storage());
        }
    }
}

fn random(dim: usize) -> Network {
    let config = VitConfig::plain(ImageSize::square(64), 16, dim, 2, dim / 32);
    Network {
        tensors: random_backbone(&config, 3),
        file_positions: None,
        classifiers: BTreeMap::new(),
        preprocess: Preprocess::new(config.image, Normalize::Imagenet.mean_std()),
        config,
        class_names: None,
        threshold: None,
        match_rates: Vec::new(),
        notes: Vec::new(),
    }
}

#[test]
fn f16_takes_half_the_memory() {
    let network = random(384);
    let need = |context: &Context| Embedder::new(context, &network, Some(4), 1 << 30).unwrap().need();
    let whole: MemoryNeed = need(&full());
    for context in contexts() {
        let halves = need(&context);
        let weights = halves.parameters as f64 / whole.parameters as f64;
        let activations = halves.per_image as f64 / whole.per_image as f64;
        println!("{:?}: weights {weights:.3}, each image {activations:.3}", context.storage());
        // Patch embedding, positions, biases, norms, pixels and embeddings stay f32.
        assert!(weights < 0.62 && activations < 0.75, "{weights} {activations}");
    }
}

/// All ways to compute an embedding on this adapter: its own kernels and those for GPUs, in f32 and f16.
fn ways() -> Vec<Context> {
    let open = |precision, portable| {
        let environment = ContextOptions::from_environment(None);
        Context::open(&ContextOptions { precision, portable, ..environment }).unwrap()
    };
    let mut ways = contexts();
    ways.push(full());
    ways.push(open(Precision::F32, true));
    ways.push(open(Precision::F16, true));
    ways
}

#[test]
fn an_embedding_depends_only_on_its_image() {
    let network = random(64);
    let image = |seed: u64| {
        let pixels = (0..64 * 64 * 3).map(|i| rng::bits(seed, 0, i) as u8).collect();
        Rgb { height: 64, width: 64, pixels }
    };
    let images: Vec<Rgb> = (1..=33).map(image).collect();
    for context in ways() {
        // Layers of this width use matrix units for any number of rows.
        for rows in [1, 17, 33 * 17] {
            let units = Tile::units(Form::Nt, &context, rows, 192, 64).next();
            assert_eq!(units.is_some(), context.fragments().is_some(), "{rows} rows: {units:?}");
        }
        let case =
            format!("{} {:?}, fragments {:?}", context.family(), context.storage(), context.fragments());
        let mut alone = Embedder::new(&context, &network, Some(1), 1 << 30).unwrap();
        let wanted = alone.embed(&images[..1]).unwrap();
        let last = alone.embed(&images[32..]).unwrap();
        for batch in [3, 16, 33] {
            let mut embedder = Embedder::new(&context, &network, Some(batch), 1 << 30).unwrap();
            let together = embedder.embed(&images[..batch]).unwrap();
            assert_eq!(together.len(), batch * wanted.len());
            assert_eq!(bits(&together[..wanted.len()]), bits(&wanted), "{case}: the first of {batch}");
            if batch == 33 {
                assert_eq!(bits(&together[32 * wanted.len()..]), bits(&last), "{case}: the last of {batch}");
            }
        }
    }
}

#[test]
fn kernels_for_matrix_units_pass_validation() {
    for context in contexts() {
        let kernels = kernels::on_matrix_units(&context);
        assert_eq!(kernels.len(), if context.fragments().is_some() { 11 } else { 0 });
        assert!(kernels.iter().all(|(_, passes)| *passes), "{kernels:?}");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn odd_widths_are_refused_in_f16() {
    let mut network = random(64);
    network.config.mlp_hidden = 250;
    let contexts = contexts();
    let refused = Embedder::new(&contexts[0], &network, Some(1), 1 << 30).err().unwrap().to_string();
    assert!(refused.contains("multiples of 4") && refused.contains("250"), "{refused}");
}

fn steps(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|line: &Value| line.get("step").is_some()).collect()
}

#[test]
fn eval_and_search_take_a_precision() {
    let temporary = figures("3");
    let folder = temporary.path();
    let model = ["--model", TINY, "--heads", "2"];
    let eval = |precision: &str| {
        let arguments = ["eval", "--data", "figures", "--precision", precision, "--json", "-"];
        let (scores, _) = expect(0, folder, &[&arguments[..], &model].concat());
        serde_json::from_str::<Value>(&scores).unwrap()["map"].as_f64().unwrap()
    };
    assert!((eval("f32") - eval("f16")).abs() < 0.02);
    let embed = ["embed", "figures/bounding_box_test", "--out", "g.safetensors"];
    expect(0, folder, &[&embed[..], &model].concat());
    let search = |precision: &str| {
        let arguments = ["search", "--gallery", "g.safetensors", "--query", "figures/query", "--top", "1"];
        let arguments = [&arguments[..], &model, &["--precision", precision, "--json", "-"]].concat();
        let (found, _) = expect(0, folder, &arguments);
        serde_json::from_str::<Value>(&found).unwrap()["queries"][0]["results"][0]["distance"]
            .as_f64()
            .unwrap()
    };
    let (full, halves) = (search("f32"), search("f16"));
    assert!(full != halves && (full - halves).abs() < 1e-2, "{full} {halves}");
}

#[test]
fn f16_training_follows_f32_and_resumes_to_the_bit() {
    let temporary = figures("3");
    let folder = temporary.path();
    let train = |out: &str, more: &[&str]| {
        let mut arguments = vec!["train", "--backbone", TINY, "--heads", "2", "--data", "figures"];
        arguments.extend(["--batch-size", "7", "--epochs", "4", "--lr", "0.001", "--preset", "full"]);
        arguments.extend(["--out", out]);
        arguments.extend(more);
        expect(0, folder, &arguments);
    };
    train("whole", &[]);
    train("halves", &["--precision", "f16"]);
    let (whole, halves) = (steps(&folder.join("whole")), steps(&folder.join("halves")));
    assert_eq!(whole.len(), halves.len());
    let skipped = halves.iter().filter(|line| line.get("skipped").is_some()).count();
    assert!(skipped <= 4, "{skipped} of {} steps skipped", halves.len());
    let (mut used, mut last) = (0.0f64, 0.0);
    for (whole, halves) in whole.iter().zip(&halves) {
        assert!(whole.get("loss_scale").is_none() && halves["loss_scale"].as_f64().unwrap() >= 1.0);
        let [whole, halves] = [whole, halves].map(|line| line["loss"].as_f64().unwrap());
        last = (halves / whole - 1.0).abs();
        used = used.max(last);
    }
    println!(
        "losses differ by {:.3} % at most, {:.3} % in the end; {skipped} skipped",
        100.0 * used,
        100.0 * last
    );
    assert!(used < 0.03, "losses differ by {used}");

    train("again", &["--precision", "f16", "--max-steps", "5"]);
    train("again", &["--precision", "f16", "--resume"]);
    let read = |run: &str| std::fs::read(folder.join(run).join("last.safetensors")).unwrap();
    assert!(read("again") == read("halves"), "a resumed run differs");

    let mut arguments = vec!["train", "--backbone", TINY, "--heads", "2", "--data", "figures", "--resume"];
    arguments.extend(["--out", "halves", "--epochs", "5", "--precision", "f32"]);
    let (_, stderr) = expect(2, folder, &arguments);
    assert!(stderr.contains("device.precision"), "{stderr}");
}
