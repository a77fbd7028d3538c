//! The whole forward pass against PyTorch, and the independence of an image's embedding.
//!
//! Third step of the chain of trust: the goldens are computed in float64 by `tools/make_goldens.py`.

mod common;
#[path = "common/goldens.rs"]
mod goldens;

use common::context;
use lat_wgpu::checkpoint::{self, Network};
use lat_wgpu::gpu::{Plan, Recorder, Tensor};
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::model::LaTransformer;
use lat_wgpu::tasks::embed::Embedder;
use safetensors::SafeTensors;
use std::path::Path;

/// Tolerance against PyTorch that README promises, relative to the largest value.
const TOLERANCE: f32 = 2e-5;

struct Golden {
    name: String,
    network: Network,
    images: Vec<Rgb>,
    tokens: Vec<f32>,
    embedding: Vec<f32>,
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
}

fn read_golden(model: &Path, golden: &Path) -> Golden {
    let name =
        golden.file_name().unwrap().to_str().unwrap().trim_end_matches(".golden.safetensors").to_string();
    let bytes = std::fs::read(golden).unwrap();
    let (_, metadata) = checkpoint::list(golden).unwrap();
    let network =
        checkpoint::load(model, &goldens::settings(&metadata)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let images = file.tensor("images").unwrap();
    let [_, height, width, 3] = images.shape() else { panic!("{name}: images {:?}", images.shape()) };
    let (height, width) = (*height, *width);
    let images =
        images.data().chunks(height * width * 3).map(|p| Rgb { height, width, pixels: p.to_vec() }).collect();
    let (tokens, embedding) = (floats(&file, "tokens"), floats(&file, "embedding"));
    Golden { name, network, images, tokens, embedding }
}

fn all_goldens() -> Vec<Golden> {
    let pairs = goldens::pairs();
    assert!(pairs.len() >= 40, "only {} goldens found", pairs.len());
    pairs.iter().map(|(model, golden)| read_golden(model, golden)).collect()
}

fn golden(name: &str) -> Golden {
    all_goldens().into_iter().find(|golden| golden.name == name).unwrap()
}

/// A plan with readable tokens and embeddings.
struct Recorded {
    plan: Plan,
    pixels: lat_wgpu::gpu::Buffer,
    tokens: lat_wgpu::gpu::Buffer,
    embeddings: lat_wgpu::gpu::Buffer,
}

fn record(network: &Network, batch: usize) -> Recorded {
    let context = context();
    let model = LaTransformer::new(context, network).unwrap();
    let config = &network.config;
    let pixels = context.buffer("pixels", model.pixel_words(batch)).unwrap();
    let tokens = context.buffer("tokens", batch * config.tokens() * config.dim).unwrap();
    let embeddings = context.buffer("embeddings", batch * config.embedding_len()).unwrap();
    let mut recorder = Recorder::new(context);
    let [input, middle, output]: [Tensor; 3] = [&pixels, &tokens, &embeddings].map(|b| recorder.import(b));
    model.forward(&mut recorder, input, None, middle, output, batch);
    Recorded { plan: recorder.finish().unwrap(), pixels, tokens, embeddings }
}

fn write_images(recorded: &Recorded, images: &[Rgb]) {
    let mut bytes: Vec<u8> = images.iter().flat_map(|p| p.pixels.iter().copied()).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    context().write(&recorded.pixels, &bytes);
}

/// Share of the tolerance that the largest error uses.
fn share(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let largest = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(found.iter().all(|v| v.to_bits() & 0x7f80_0000 != 0x7f80_0000), "not finite");
    let worst = found.iter().zip(wanted).fold(0f32, |m, (f, w)| m.max((f - w).abs()));
    worst / (TOLERANCE * largest)
}

#[test]
fn tokens_and_embeddings_equal_pytorch_for_every_option() {
    for golden in all_goldens() {
        let recorded = record(&golden.network, golden.images.len());
        write_images(&recorded, &golden.images);
        recorded.plan.run(context()).unwrap();
        let tokens = share(&context().read(&recorded.tokens).unwrap(), &golden.tokens);
        let embedding = share(&context().read(&recorded.embeddings).unwrap(), &golden.embedding);
        println!(
            "{:<24} tokens {:>5.1} % of the tolerance, embedding {:>5.1} %",
            golden.name,
            100.0 * tokens,
            100.0 * embedding
        );
        assert!(tokens <= 1.0 && embedding <= 1.0, "{}: tokens {tokens}, embedding {embedding}", golden.name);
    }
}

#[test]
fn comparison_with_pytorch_can_fail() {
    let golden = golden("plain");
    let mut wrong = golden.tokens.clone();
    let largest = wrong.iter().fold(0f32, |m, v| m.max(v.abs()));
    wrong[7] += 2.1 * TOLERANCE * largest;
    assert!(share(&wrong, &golden.tokens) > 1.0);
}

#[test]
fn an_embedding_depends_only_on_its_image() {
    let golden = golden("plain");
    let mut images = golden.images.clone();
    // A neighbour with extreme pixels, and more images to make the batch odd.
    let len = images[0].pixels.len();
    let mut extreme = images[0].clone();
    extreme.pixels = (0..len).map(|i| if i % 2 == 0 { 255 } else { 0 }).collect();
    images.push(extreme);
    while images.len() < 5 {
        images.push(images[0].clone());
    }

    let mut alone = Embedder::new(context(), &golden.network, Some(1), 1 << 30).unwrap();
    let dim = alone.dim();
    let single: Vec<f32> =
        images.iter().flat_map(|p| alone.embed(std::slice::from_ref(p)).unwrap()).collect();
    let mut together = Embedder::new(context(), &golden.network, Some(8), 1 << 30).unwrap();
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&together.embed(&images).unwrap()), bits(&single), "batch of five against one by one");

    let reversed: Vec<Rgb> = images.iter().rev().cloned().collect();
    let back: Vec<f32> =
        together.embed(&reversed).unwrap().chunks(dim).rev().flat_map(<[f32]>::to_vec).collect();
    assert_eq!(bits(&back), bits(&single), "order");
    assert_eq!(bits(&together.embed(&images).unwrap()), bits(&single), "twice");
}

#[test]
fn a_replay_does_not_depend_on_old_memory() {
    let golden = golden("clip_timm");
    let recorded = record(&golden.network, golden.images.len());
    write_images(&recorded, &golden.images);
    let mut runs = Vec::new();
    for pattern in [0x7fc0_0000, 0xffff_ffff, 0x3f80_0000] {
        recorded.plan.fill_heaps(context(), pattern);
        recorded.plan.run(context()).unwrap();
        let found = context().read(&recorded.embeddings).unwrap();
        runs.push(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    }
    assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_block_takes_seven_dispatches_and_blocks_share_memory() {
    let golden = golden("plain");
    let plan = record(&golden.network, 1).plan;
    let in_block =
        |i: usize| plan.dispatches.iter().filter(|d| d.label.starts_with(&format!("blocks.{i}."))).count();
    assert_eq!((in_block(0), in_block(1)), (7, 7));
    let summary = plan.summary();
    // The short-lived tensors of two blocks would take far more than those alive at once.
    assert!(summary.heap_bytes * 2 < summary.unshared_bytes, "{summary:?}");
}

#[test]
fn a_batch_that_does_not_fit_is_reported_before_allocation() {
    let golden = golden("plain");
    let refused = Embedder::new(context(), &golden.network, Some(1 << 20), 1 << 20).err().unwrap();
    assert!(refused.to_string().contains("batch of 1048576"), "{refused}");
    let fits = Embedder::new(context(), &golden.network, None, 64 << 20).unwrap();
    assert!(fits.need().bytes(fits.batch()) <= 64 << 20);
}
