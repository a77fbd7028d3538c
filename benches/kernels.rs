//! Microbenchmarks: one row per kernel, shape and model; `cargo bench` prints time, GFLOP/s and GB/s of each.
//!
//! A number is the time of one replay of a plan with a single launch, submit and wait included. GB/s counts every tensor
//! once, as if each word moved once between memory and kernel. One image at a time on CPU adapters, 32 on others.

use criterion::{Criterion, SamplingMode};
use lat_wgpu::gpu::{Context, ContextOptions, Recorder, Tensor};
use lat_wgpu::kernels::{attention, gelt, gelu, gemm, image, l2norm, layernorm, patch_embed, tokens};
use lat_wgpu::rng;
use lat_wgpu::shape::{Activation, GeltConfig, ImageSize, Normalize};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A model whose shapes are measured: 224 × 224 pixels in patches of 16.
struct Model {
    name: &'static str,
    dim: usize,
    heads: usize,
}

const MODELS: [Model; 2] =
    [Model { name: "vit-s", dim: 384, heads: 6 }, Model { name: "vit-b", dim: 768, heads: 12 }];
const SIZE: ImageSize = ImageSize::square(224);
const PATCH: usize = 16;
const GRID: usize = 14;
const TOKENS: usize = 1 + GRID * GRID;

/// Makes tensors for one launch and remembers how many words they have.
struct Tensors<'r, 'c> {
    recorder: &'r mut Recorder<'c>,
    words: usize,
}

impl Tensors<'_, '_> {
    /// A buffer of numbers in [-1, 1): zeros would be kinder than what a network sees.
    fn get(&mut self, len: usize) -> Tensor {
        let data: Vec<f32> = (0..len as u64).map(|i| 2.0 * rng::uniform(0, len as u64, i) - 1.0).collect();
        let buffer = self.recorder.context.upload("bench", &data).expect("a buffer");
        self.words += len;
        self.recorder.import(&buffer)
    }
}

/// Measures the one launch that `record` makes.
fn measure(
    criterion: &mut Criterion,
    context: &Context,
    name: &str,
    record: impl FnOnce(&mut Tensors<'_, '_>) -> Box<dyn FnOnce(&mut Recorder<'_>)>,
) {
    let mut recorder = Recorder::new(context);
    let mut tensors = Tensors { recorder: &mut recorder, words: 0 };
    let launch = record(&mut tensors);
    let bytes = 4.0 * tensors.words as f64;
    launch(&mut recorder);
    let plan = recorder.finish().expect("a plan");
    plan.run(context).and_then(|()| context.wait()).expect("a run");

    let best = Cell::new(f64::INFINITY);
    let mut group = criterion.benchmark_group("kernels");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let start = Instant::now();
            for _ in 0..count {
                plan.run(context).and_then(|()| context.wait()).expect("a run");
            }
            let elapsed = start.elapsed();
            best.set(best.get().min(elapsed.as_secs_f64() / count as f64));
            elapsed
        });
    });
    group.finish();
    let (seconds, flops) = (best.get(), plan.summary().flops);
    // A filter on the command line skips rows.
    if seconds.is_finite() {
        println!(
            "{name}: {:.2} ms {:.1} GFLOP/s {:.2} GB/s",
            1e3 * seconds,
            flops / seconds / 1e9,
            bytes / seconds / 1e9
        );
    }
}

fn main() {
    let context = Context::open(&ContextOptions::from_environment(None)).expect("an adapter");
    let batch = if context.is_cpu() { 1 } else { 32 };
    println!("{context:?}, {batch} image(s) at a time");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .without_plots()
        .configure_from_args();
    for model in MODELS {
        bench(&mut criterion, &context, &model, batch);
    }
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion, context: &Context, model: &Model, batch: usize) {
    let Model { name: model, dim, heads } = *model;
    let rows = batch * TOKENS;
    let patches = batch * GRID * GRID;

    // n, k, and which of activation and residual the network has behind this product.
    for (layer, n, k, activation, residual) in [
        ("qkv", 3 * dim, dim, None, false),
        ("proj", dim, dim, None, true),
        ("fc1", 4 * dim, dim, Some(Activation::Gelu), false),
        ("fc2", dim, 4 * dim, None, true),
    ] {
        measure(criterion, context, &format!("gemm {model} {layer}"), |t| {
            let (a, b, c) = (t.get(rows * k), t.get(n * k), t.get(rows * n));
            let epilogue = gemm::Epilogue {
                bias: Some(t.get(n)),
                activation,
                residual: residual.then(|| t.get(rows * n)),
                ..Default::default()
            };
            let call = gemm::Nt { a, b, c, m: rows, n, k, epilogue };
            Box::new(move |recorder| call.record(recorder, "gemm"))
        });
    }
    measure(criterion, context, &format!("attention {model}"), |t| {
        let head_dim = dim / heads;
        let (qkv, out) = (t.get(rows * 3 * dim), t.get(rows * dim));
        let call = attention::Forward { qkv, out, lse: None, batch, tokens: TOKENS, heads, head_dim };
        Box::new(move |recorder| call.record(recorder, "attention"))
    });
    measure(criterion, context, &format!("layernorm {model}"), |t| {
        let (x, y) = (t.get(rows * dim), t.get(rows * dim));
        let call = layernorm::Forward { x, weight: t.get(dim), bias: t.get(dim), y, rows, dim, eps: 1e-6 };
        Box::new(move |recorder| call.record(recorder, "layernorm"))
    });
    measure(criterion, context, &format!("gelu {model}"), |t| {
        let (x, y) = (t.get(rows * 4 * dim), t.get(rows * 4 * dim));
        let call = gelu::Forward { x, y, activation: Activation::Gelu };
        Box::new(move |recorder| call.record(recorder, "gelu"))
    });
    measure(criterion, context, &format!("image {model}"), |t| {
        let pixels = t.get(image::pixel_words(batch, SIZE));
        let image = t.get(batch * 3 * SIZE.height * SIZE.width);
        let (mean, std) = Normalize::Imagenet.mean_std();
        let call = image::Forward { pixels, image, batch, size: SIZE, mean, std };
        Box::new(move |recorder| call.record(recorder, "image"))
    });
    measure(criterion, context, &format!("patch_embed {model}"), |t| {
        let call = patch_embed::Forward {
            image: t.get(batch * 3 * SIZE.height * SIZE.width),
            weight: t.get(dim * 3 * PATCH * PATCH),
            bias: Some(t.get(dim)),
            patches: t.get(patches * dim),
            batch,
            size: SIZE,
            patch: PATCH,
            stride: PATCH,
            dim,
        };
        Box::new(move |recorder| call.record(recorder, "patch_embed"))
    });
    measure(criterion, context, &format!("tokens {model}"), |t| {
        let call = tokens::Forward {
            prefix: t.get(dim),
            patches: t.get(patches * dim),
            position: t.get(TOKENS * dim),
            tokens: t.get(rows * dim),
            batch,
            count: GRID * GRID,
            dim,
        };
        Box::new(move |recorder| call.record(recorder, "tokens"))
    });
    measure(criterion, context, &format!("gelt {model}"), |t| {
        let (tokens, gelt) = (t.get(rows * dim), t.get(batch * GRID * dim));
        let weights = GeltConfig::default().weights();
        let call = gelt::Forward { tokens, gelt, batch, prefix: 1, parts: GRID, columns: GRID, dim, weights };
        Box::new(move |recorder| call.record(recorder, "gelt"))
    });
    measure(criterion, context, &format!("l2norm {model}"), |t| {
        let (x, y) = (t.get(batch * GRID * dim), t.get(batch * GRID * dim));
        let call = l2norm::Forward { x, y, batch, parts: GRID, dim };
        Box::new(move |recorder| call.record(recorder, "l2norm"))
    });
}
