//! Microbenchmarks: one row per kernel, shape and model; `cargo bench` prints time, GFLOP/s and GB/s of each.
//!
//! A number is the time of one replay of a plan with one kernel's launches, submit and wait included. GB/s counts every tensor
//! once, as if each word moved once between memory and kernel. One image at a time on CPU adapters, 32 on others.

use criterion::{Criterion, SamplingMode};
use lat_wgpu::gpu::{Context, ContextOptions, Recorder, Storage, Tensor};
use lat_wgpu::kernels::{
    accumulate, adam, attention, batchnorm, cross_entropy, distance, gelt, gelu, gemm, gradnorm, image,
    l2norm, layernorm, layerscale, narrow, part_linear, patch_embed, rollout, tokens, topk, triplet,
};
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
        self.hold(&data)
    }

    /// A buffer of as many halves, zeros.
    fn half(&mut self, len: usize) -> Tensor {
        let buffer = self.recorder.context.buffer("bench", len / 2).expect("a buffer");
        self.words += buffer.words;
        self.recorder.import_as(&buffer, Storage::Packed)
    }

    /// A buffer of these numbers.
    fn hold(&mut self, data: &[f32]) -> Tensor {
        let buffer = self.recorder.context.upload("bench", data).expect("a buffer");
        self.words += data.len();
        self.recorder.import(&buffer)
    }
}

/// Measures what `record` records: one launch, backward of some kernels two or three.
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
        bench_training(&mut criterion, &context, &model);
        bench_retrieval(&mut criterion, &context, &model);
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
        // Backward through the same layer: fc2's input gradient goes on through the activation before it.
        measure(criterion, context, &format!("gemm {model} {layer} input gradient"), |t| {
            let (a, b, c) = (t.get(rows * n), t.get(n * k), t.get(rows * k));
            let derivative = (k > n).then(|| (Activation::Gelu, t.get(rows * k)));
            let call = gemm::Nn { a, b, c, m: rows, n: k, k: n, derivative, residual: None };
            Box::new(move |recorder| call.record(recorder, "gemm"))
        });
        measure(criterion, context, &format!("gemm {model} {layer} weight gradient"), |t| {
            let (a, b, c) = (t.get(rows * n), t.get(rows * k), t.get(n * k));
            let call = gemm::Tn { a, b, c, column_sum: Some(t.get(n)), m: n, n: k, k: rows };
            Box::new(move |recorder| call.record(recorder, "gemm"))
        });
    }
    measure(criterion, context, &format!("attention {model}"), |t| {
        let head_dim = dim / heads;
        let (qkv, out) = (t.get(rows * 3 * dim), t.get(rows * dim));
        let call = attention::Forward { qkv, out, lse: None, batch, tokens: TOKENS, heads, head_dim };
        Box::new(move |recorder| call.record(recorder, "attention"))
    });
    measure(criterion, context, &format!("attention {model} backward"), |t| {
        let call = attention::Backward {
            qkv: t.get(rows * 3 * dim),
            out: t.get(rows * dim),
            lse: t.get(rows * heads),
            dout: t.get(rows * dim),
            dqkv: t.get(rows * 3 * dim),
            batch,
            tokens: TOKENS,
            heads,
            head_dim: dim / heads,
        };
        Box::new(move |recorder| call.record(recorder, "attention"))
    });
    // One picture at a time, whatever the batch of the others.
    measure(criterion, context, &format!("rollout {model}"), |t| {
        let (tokens, head_dim, mixed) = (TOKENS, dim / heads, t.get(TOKENS * TOKENS));
        let (qkv, lse) = (t.get(TOKENS * 3 * dim), t.get(heads * TOKENS));
        let mix = rollout::Probabilities { qkv, lse, mixed, tokens, heads, head_dim };
        let carry = rollout::Multiply { row: t.get(TOKENS), matrix: mixed, carried: t.get(TOKENS), tokens };
        Box::new(move |recorder| {
            mix.record(recorder, "rollout");
            carry.record(recorder, "rollout");
        })
    });
    measure(criterion, context, &format!("layernorm {model}"), |t| {
        let (x, y) = (t.get(rows * dim), t.get(rows * dim));
        let call = layernorm::Forward {
            x,
            weight: t.get(dim),
            bias: t.get(dim),
            y,
            stats: None,
            rows,
            dim,
            eps: 1e-6,
        };
        Box::new(move |recorder| call.record(recorder, "layernorm"))
    });
    measure(criterion, context, &format!("layernorm {model} backward input"), |t| {
        let call = layernorm::BackwardInput {
            x: t.get(rows * dim),
            stats: t.get(2 * rows),
            dy: t.get(rows * dim),
            weight: t.get(dim),
            addend: Some(t.get(rows * dim)),
            dx: t.get(rows * dim),
            rows,
            dim,
        };
        Box::new(move |recorder| call.record(recorder, "layernorm"))
    });
    measure(criterion, context, &format!("layernorm {model} backward parameters"), |t| {
        let call = layernorm::BackwardParameters {
            x: t.get(rows * dim),
            stats: t.get(2 * rows),
            dy: t.get(rows * dim),
            dweight: t.get(dim),
            dbias: t.get(dim),
            rows,
            dim,
        };
        Box::new(move |recorder| call.record(recorder, "layernorm"))
    });
    measure(criterion, context, &format!("gelu {model}"), |t| {
        let (x, y) = (t.get(rows * 4 * dim), t.get(rows * 4 * dim));
        let call = gelu::Forward { x, y, activation: Activation::Gelu };
        Box::new(move |recorder| call.record(recorder, "gelu"))
    });
    measure(criterion, context, &format!("gelu {model} backward"), |t| {
        let (x, dy, dx) = (t.get(rows * 4 * dim), t.get(rows * 4 * dim), t.get(rows * 4 * dim));
        let call = gelu::Backward { x, dy, dx, activation: Activation::Gelu };
        Box::new(move |recorder| call.record(recorder, "gelu"))
    });
    measure(criterion, context, &format!("layerscale {model} backward"), |t| {
        let call = layerscale::Backward {
            x: t.get(rows * dim),
            weight: t.get(dim),
            dy: t.get(rows * dim),
            dx: t.get(rows * dim),
            dweight: t.get(dim),
            rows,
            dim,
        };
        Box::new(move |recorder| call.record(recorder, "layerscale"))
    });
    measure(criterion, context, &format!("accumulate {model} a block's gradients"), |t| {
        let words = 12 * dim * dim;
        let call = accumulate::Accumulate { addend: t.get(words), sum: t.get(words) };
        Box::new(move |recorder| call.record(recorder, "accumulate"))
    });
    measure(criterion, context, &format!("image {model}"), |t| {
        let pixels = t.get(image::pixel_words(batch, SIZE));
        let image = t.get(batch * 3 * SIZE.height * SIZE.width);
        let (mean, std) = Normalize::Imagenet.mean_std();
        let call = image::Forward { pixels, flip: Some(t.get(batch)), image, batch, size: SIZE, mean, std };
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
    measure(criterion, context, &format!("patch_embed {model} backward"), |t| {
        let call = patch_embed::Backward {
            image: t.get(batch * 3 * SIZE.height * SIZE.width),
            dtokens: t.get(rows * dim),
            dweight: t.get(dim * 3 * PATCH * PATCH),
            dbias: Some(t.get(dim)),
            batch,
            size: SIZE,
            patch: PATCH,
            stride: PATCH,
            prefix: 1,
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
    measure(criterion, context, &format!("tokens {model} backward"), |t| {
        let call = tokens::Backward {
            dtokens: t.get(rows * dim),
            dprefix: t.get(dim),
            dposition: t.get(TOKENS * dim),
            batch,
            count: GRID * GRID,
            dim,
        };
        Box::new(move |recorder| call.record(recorder, "tokens"))
    });
    measure(criterion, context, &format!("gelt {model}"), |t| {
        let (tokens, gelt) = (t.get(rows * dim), t.get(batch * GRID * dim));
        let weights = GeltConfig::default().weights();
        let call = gelt::Forward {
            tokens,
            gelt,
            first: 0,
            batch,
            prefix: 1,
            parts: GRID,
            columns: GRID,
            dim,
            weights,
        };
        Box::new(move |recorder| call.record(recorder, "gelt"))
    });
    measure(criterion, context, &format!("gelt {model} backward"), |t| {
        let (dgelt, dtokens) = (t.get(batch * GRID * dim), t.get(rows * dim));
        let (parts, columns, weights) = (GRID, GRID, GeltConfig::default().weights());
        let call =
            gelt::Backward { dgelt, dtokens, first: 0, batch, prefix: 1, parts, columns, dim, weights };
        Box::new(move |recorder| call.record(recorder, "gelt"))
    });
    measure(criterion, context, &format!("l2norm {model}"), |t| {
        let (x, y) = (t.get(batch * GRID * dim), t.get(batch * GRID * dim));
        let call = l2norm::Forward { x, y, batch, parts: GRID, dim };
        Box::new(move |recorder| call.record(recorder, "l2norm"))
    });
}

/// What a step that counts leaves.
fn control(tensors: &mut Tensors<'_, '_>) -> Tensor {
    let control = gradnorm::Control { counted: true, ..gradnorm::Control::start(1.0) };
    tensors.hold(&control.words().map(f32::from_bits))
}

/// What only training has: part classifiers on a batch of 32 with the persons of Market-1501, loss, and one step of a block.
fn bench_training(criterion: &mut Criterion, context: &Context, model: &Model) {
    const BATCH: usize = 32;
    const HIDDEN: usize = 256;
    const CLASSES: usize = 751;
    let Model { name: model, dim, .. } = *model;
    let groups = 1;

    measure(criterion, context, &format!("narrow {model} fc1"), |t| {
        let len = 4 * dim * dim;
        let call = narrow::Narrow { wide: t.get(len), narrow: t.half(len) };
        Box::new(move |recorder| call.record(recorder, "narrow"))
    });

    for (layer, inputs, outputs, layout) in [
        ("fc1", dim, HIDDEN, part_linear::Layout::SampleFirst),
        ("fc2", HIDDEN, CLASSES, part_linear::Layout::PartFirst),
    ] {
        let shape = part_linear::Shape { batch: BATCH, parts: GRID, inputs, outputs, layout };
        let x_len = GRID * BATCH * inputs;
        let (weight_len, y_len) = (GRID * outputs * inputs, GRID * BATCH * outputs);
        measure(criterion, context, &format!("part_linear {model} {layer}"), |t| {
            let (x, weight, y) = (t.get(x_len), t.get(weight_len), t.get(y_len));
            let call = part_linear::Forward { x, weight, bias: t.get(GRID * outputs), y, shape };
            Box::new(move |recorder| call.record(recorder, "part_linear"))
        });
        measure(criterion, context, &format!("part_linear {model} {layer} backward input"), |t| {
            let (weight, dy, dx) = (t.get(weight_len), t.get(y_len), t.get(x_len));
            let call = part_linear::BackwardInput { weight, dy, dx, shape };
            Box::new(move |recorder| call.record(recorder, "part_linear"))
        });
        measure(criterion, context, &format!("part_linear {model} {layer} backward weight"), |t| {
            let (x, dy, dweight) = (t.get(x_len), t.get(y_len), t.get(weight_len));
            let call = part_linear::BackwardWeight { x, dy, dweight, dbias: t.get(GRID * outputs), shape };
            Box::new(move |recorder| call.record(recorder, "part_linear"))
        });
    }
    let units = GRID * HIDDEN;
    let layer = batchnorm::Layer {
        batch: BATCH,
        parts: GRID,
        dim: HIDDEN,
        eps: 1e-5,
        relu: true,
        drop: 0.5,
        momentum: 0.1,
    };
    measure(criterion, context, &format!("batchnorm {model}"), |t| {
        let call = batchnorm::Train {
            x: t.get(BATCH * units),
            weight: t.get(units),
            bias: t.get(units),
            y: t.get(BATCH * units),
            saved: t.get(layer.saved_words()),
            step: t.get(adam::StepValues::len_of(groups)),
            layer,
        };
        Box::new(move |recorder| call.record(recorder, "batchnorm"))
    });
    measure(criterion, context, &format!("batchnorm {model} backward"), |t| {
        let call = batchnorm::Backward {
            x: t.get(BATCH * units),
            saved: t.get(layer.saved_words()),
            dy: t.get(BATCH * units),
            step: t.get(adam::StepValues::len_of(groups)),
            dx: t.get(BATCH * units),
            dweight: t.get(units),
            dbias: t.get(units),
            layer,
        };
        Box::new(move |recorder| call.record(recorder, "batchnorm"))
    });
    measure(criterion, context, &format!("cross_entropy {model}"), |t| {
        let call = cross_entropy::CrossEntropy {
            logits: t.get(GRID * BATCH * CLASSES),
            // Random bits: labels past the last class cost the same.
            labels: t.get(BATCH),
            loss: t.get(GRID * BATCH),
            gradient: Some((t.get(GRID * BATCH * CLASSES), control(t))),
            batch: BATCH,
            parts: GRID,
            classes: CLASSES,
            smoothing: 0.1,
        };
        Box::new(move |recorder| call.record(recorder, "cross_entropy"))
    });
    // Sixteen persons with four pictures each; each picture's farthest and nearest are any two.
    let pictures = 64;
    let length = GRID * dim;
    let words = |t: &mut Tensors<'_, '_>, words: Vec<usize>| {
        let data: Vec<f32> = words.iter().map(|&word| f32::from_bits(word as u32)).collect();
        let buffer = t.recorder.context.upload("bench", &data).expect("a buffer");
        t.words += words.len();
        t.recorder.import(&buffer)
    };
    measure(criterion, context, &format!("triplet {model}"), |t| {
        let (parts, distances) = (t.get(pictures * length), t.get(pictures * pictures));
        let labels = words(t, (0..pictures).map(|i| i / 4).collect());
        let measure = triplet::Distances { parts, distances, batch: pictures, length };
        let (loss, choice) = (t.get(pictures), t.get(2 * pictures));
        let mine = triplet::Mine { distances, labels, loss, choice, batch: pictures, margin: 0.3 };
        Box::new(move |recorder| {
            measure.record(recorder, "triplet");
            mine.record(recorder, "triplet");
        })
    });
    measure(criterion, context, &format!("triplet {model} backward"), |t| {
        let choice = words(t, (0..pictures).flat_map(|i| [i ^ 1, (i + 4) % pictures]).collect());
        let call = triplet::Backward {
            parts: t.get(pictures * length),
            distances: t.get(pictures * pictures),
            choice,
            dparts: t.get(pictures * length),
            control: control(t),
            batch: pictures,
            length,
        };
        Box::new(move |recorder| call.record(recorder, "triplet"))
    });
    // A block's parameters: four D × D matrices of attention, eight of the MLP, biases and norms.
    let block = 12 * dim * dim + 13 * dim;
    measure(criterion, context, &format!("gradnorm {model}"), |t| {
        let partial =
            gradnorm::Partial { gradients: t.get(block), partials: t.get(gradnorm::partial_words(block)) };
        let finish = gradnorm::Finish {
            partials: partial.partials,
            losses: t.get(GRID * BATCH),
            step: t.get(adam::StepValues::len_of(groups)),
            control: control(t),
        };
        Box::new(move |recorder| {
            partial.record(recorder, "gradnorm");
            finish.record(recorder, "gradnorm");
        })
    });
    measure(criterion, context, &format!("adam {model}"), |t| {
        let call = adam::Adam {
            gradients: t.get(block),
            step: t.get(adam::StepValues::len_of(groups)),
            control: control(t),
            parameters: t.get(block),
            first_moment: t.get(block),
            second_moment: t.get(block),
            group: 0,
            betas: adam::Betas::default(),
            decoupled: false,
        };
        Box::new(move |recorder| call.record(recorder, "adam"))
    });
}

/// A tile of retrieval: distances between embeddings of all parts, and the 50 nearest.
fn bench_retrieval(criterion: &mut Criterion, context: &Context, model: &Model) {
    const QUERIES: usize = 256;
    // Of ViT-B 88 MB: fits a binding of WebGPU's default limits.
    const GALLERY: usize = 2048;
    const K: usize = 50;
    let dim = GRID * model.dim;
    let model = model.name;

    measure(criterion, context, &format!("distance {model}"), |t| {
        let call = distance::Distances {
            queries: distance::slabs(QUERIES, dim).map(|(_, width)| t.get(QUERIES * width)).collect(),
            gallery: distance::slabs(GALLERY, dim).map(|(_, width)| t.get(GALLERY * width)).collect(),
            query_norms: t.get(QUERIES),
            gallery_norms: t.get(GALLERY),
            distances: t.get(QUERIES * GALLERY),
            partial: t.get(QUERIES * GALLERY),
            query_count: QUERIES,
            gallery_count: GALLERY,
            dim,
        };
        Box::new(move |recorder| call.record(recorder, "distance"))
    });
    measure(criterion, context, &format!("distance {model} norms"), |t| {
        let call = distance::Norms { rows: t.get(GALLERY * dim), norms: t.get(GALLERY), count: GALLERY, dim };
        Box::new(move |recorder| call.record(recorder, "norms"))
    });
    measure(criterion, context, &format!("topk {model}"), |t| {
        // A gallery's first tile: the one that brings most.
        let place = topk::Place { first: 0, count: GALLERY as u32, fresh: true };
        let call = topk::Merge {
            distances: t.get(QUERIES * GALLERY),
            place: t.hold(&place.words().map(f32::from_bits)),
            nearest_distance: t.get(QUERIES * K),
            nearest_index: t.get(QUERIES * K),
            queries: QUERIES,
            gallery: GALLERY,
            k: K,
        };
        Box::new(move |recorder| call.record(recorder, "topk"))
    });
}
