//! The list of rows: one per kernel, shape and model. `cargo bench` and `lat-wgpu bench` measure the same.

use super::{GRID, MODELS, Model, PATCH, SIZE, TOKENS, numbers};
use crate::gpu::{Buffer, Context, Error, Plan, Recorder, Result, Storage, Tensor};
use crate::kernels::{
    accumulate, adam, attention, batchnorm, cross_entropy, distance, gelt, gelu, gemm, gradnorm, image,
    l2norm, layernorm, layerscale, narrow, part_linear, patch_embed, rollout, tokens, topk, triplet,
};
use crate::shape::{Activation, GeltConfig, Normalize};

/// What a step that counts leaves.
fn control() -> [f32; gradnorm::CONTROL_WORDS] {
    let control = gradnorm::Control { counted: true, ..gradnorm::Control::start(1.0) };
    control.words().map(f32::from_bits)
}

/// One kernel at one shape; backward of some kernels takes two launches or three.
pub struct Row {
    /// Kernel, model, and what of it.
    pub name: String,
    record: Box<dyn Fn(&mut Inputs<'_, '_>)>,
}

impl Row {
    /// Makes the row's plan, its inputs filled with numbers in [-1, 1).
    ///
    /// # Errors
    /// If the adapter can't hold it.
    pub fn plan(&self, context: &Context) -> Result<Plan> {
        let mut recorder = Recorder::new(context);
        let mut inputs = Inputs { recorder: &mut recorder, failure: None };
        (self.record)(&mut inputs);
        match inputs.failure {
            Some(error) => Err(error),
            None => recorder.finish(),
        }
    }
}

/// Every row, in the order in which they are measured, of `batch` pictures at once. `tokens` are the lengths of the
/// sequences in rows of attention; none: that of the models. `quick` leaves one shape of a kernel.
pub fn rows(batch: usize, tokens: &[usize], quick: bool) -> Vec<Row> {
    let mut all = Vec::new();
    for model in if quick { &MODELS[..1] } else { &MODELS[..] } {
        network(&mut all, model, batch, quick);
        if tokens.is_empty() {
            attention(&mut all, model, batch, TOKENS, "");
        }
        for &tokens in tokens {
            attention(&mut all, model, batch, tokens, &format!(" {tokens} tokens"));
        }
        rest_of_network(&mut all, model, batch);
        training(&mut all, model, quick);
        retrieval(&mut all, model, quick);
    }
    all
}

fn add(all: &mut Vec<Row>, name: String, record: impl Fn(&mut Inputs<'_, '_>) + 'static) {
    all.push(Row { name, record: Box::new(record) });
}

/// Makes tensors for a row's launches.
struct Inputs<'r, 'c> {
    recorder: &'r mut Recorder<'c>,
    /// The first tensor that the adapter couldn't hold.
    failure: Option<Error>,
}

impl Inputs<'_, '_> {
    /// A tensor of numbers in [-1, 1): zeros would be kinder than what a network sees.
    fn get(&mut self, len: usize) -> Tensor {
        self.numbers(len, Storage::F32)
    }

    /// The same as weights and activations are stored.
    fn quads(&mut self, len: usize) -> Tensor {
        self.numbers(len, self.recorder.context.storage())
    }

    fn numbers(&mut self, len: usize, storage: Storage) -> Tensor {
        let context = self.recorder.context;
        let made = numbers::tensor(context, "bench", len as u64, len, storage).unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            context.unallocated("bench", numbers::words(len, storage))
        });
        self.recorder.import_as(&made, storage)
    }

    /// A tensor of these numbers.
    fn hold(&mut self, data: &[f32]) -> Tensor {
        self.hold_as(data, Storage::F32)
    }

    fn hold_as(&mut self, data: &[f32], storage: Storage) -> Tensor {
        let buffer: Buffer = self.recorder.context.upload("bench", data).unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            self.recorder.context.unallocated("bench", data.len())
        });
        self.recorder.import_as(&buffer, storage)
    }

    /// A tensor of as many halves, zeros.
    fn halves(&mut self, len: usize) -> Tensor {
        let storage = match self.recorder.context.storage() {
            Storage::F32 => Storage::Packed,
            halves => halves,
        };
        self.hold_as(&vec![0.0; len / 2], storage)
    }

    /// A tensor of these words.
    fn words(&mut self, words: Vec<u32>) -> Tensor {
        let data: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
        self.hold(&data)
    }

    /// The words that steer the first step of training one group.
    fn step(&mut self) -> Tensor {
        let corrections = vec![adam::Betas::default().corrections(1)];
        let values = adam::StepValues { learning_rate: 3e-4, number: 1, corrections, ..Default::default() };
        self.words(values.words())
    }
}

/// The linear layers of a network forward and backward, on `batch` pictures.
fn network(all: &mut Vec<Row>, model: &Model, batch: usize, quick: bool) {
    let (layers, model) = (model.layers(), model.name);
    let rows = batch * TOKENS;

    for (layer, n, k) in layers.into_iter().take(if quick { 1 } else { 4 }) {
        let activation = (layer == "fc1").then_some(Activation::Gelu);
        let residual = matches!(layer, "proj" | "fc2");
        add(all, format!("gemm {model} {layer}"), move |t| {
            let (a, b, c) = (t.quads(rows * k), t.quads(n * k), t.quads(rows * n));
            let epilogue = gemm::Epilogue {
                bias: Some(t.get(n)),
                activation,
                residual: residual.then(|| t.quads(rows * n)),
                ..Default::default()
            };
            let call = gemm::Nt { a, b, c, m: rows, n, k, epilogue };
            call.record(t.recorder, "gemm");
        });
        // Backward through the same layer: fc2's input gradient goes on through the activation before it.
        add(all, format!("gemm {model} {layer} input gradient"), move |t| {
            let (a, b, c) = (t.quads(rows * n), t.quads(n * k), t.quads(rows * k));
            let derivative = (k > n).then(|| (Activation::Gelu, t.quads(rows * k)));
            let call = gemm::Nn { a, b, c, m: rows, n: k, k: n, derivative, residual: None };
            call.record(t.recorder, "gemm");
        });
        add(all, format!("gemm {model} {layer} weight gradient"), move |t| {
            let (a, b, c) = (t.quads(rows * n), t.quads(rows * k), t.get(n * k));
            let call = gemm::Tn { a, b, c, column_sum: Some(t.get(n)), m: n, n: k, k: rows };
            call.record(t.recorder, "gemm");
        });
    }
}

/// Attention forward and backward, on `batch` sequences of so many tokens.
fn attention(all: &mut Vec<Row>, model: &Model, batch: usize, tokens: usize, note: &str) {
    let Model { name: model, dim, heads } = *model;
    let rows = batch * tokens;
    add(all, format!("attention {model}{note}"), move |t| {
        let head_dim = dim / heads;
        let (qkv, out) = (t.quads(rows * 3 * dim), t.quads(rows * dim));
        let call = attention::Forward { qkv, out, lse: None, batch, tokens, heads, head_dim };
        call.record(t.recorder, "attention");
    });
    add(all, format!("attention {model} backward{note}"), move |t| {
        let call = attention::Backward {
            qkv: t.quads(rows * 3 * dim),
            out: t.quads(rows * dim),
            lse: t.get(rows * heads),
            dout: t.quads(rows * dim),
            dqkv: t.quads(rows * 3 * dim),
            batch,
            tokens,
            heads,
            head_dim: dim / heads,
        };
        call.record(t.recorder, "attention");
    });
}

/// The other kernels of a network forward and backward, on `batch` pictures.
fn rest_of_network(all: &mut Vec<Row>, model: &Model, batch: usize) {
    let Model { name: model, dim, heads } = *model;
    let rows = batch * TOKENS;
    let patches = batch * GRID * GRID;
    // One picture at a time, whatever the batch of the others.
    add(all, format!("rollout {model}"), move |t| {
        let (tokens, head_dim, mixed) = (TOKENS, dim / heads, t.get(TOKENS * TOKENS));
        let (qkv, lse) = (t.get(TOKENS * 3 * dim), t.get(heads * TOKENS));
        let mix = rollout::Probabilities { qkv, lse, mixed, tokens, heads, head_dim };
        let carry = rollout::Multiply { row: t.get(TOKENS), matrix: mixed, carried: t.get(TOKENS), tokens };
        mix.record(t.recorder, "rollout");
        carry.record(t.recorder, "rollout");
    });
    add(all, format!("layernorm {model}"), move |t| {
        let (x, y) = (t.quads(rows * dim), t.quads(rows * dim));
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
        call.record(t.recorder, "layernorm");
    });
    add(all, format!("layernorm {model} backward input"), move |t| {
        let call = layernorm::BackwardInput {
            x: t.quads(rows * dim),
            stats: t.get(2 * rows),
            dy: t.quads(rows * dim),
            weight: t.get(dim),
            addend: Some(t.quads(rows * dim)),
            dx: t.quads(rows * dim),
            rows,
            dim,
        };
        call.record(t.recorder, "layernorm");
    });
    add(all, format!("layernorm {model} backward parameters"), move |t| {
        let norm = layernorm::Parameters {
            x: t.quads(rows * dim),
            stats: t.get(2 * rows),
            dy: t.quads(rows * dim),
            dweight: t.get(dim),
            dbias: t.get(dim),
        };
        let call = layernorm::BackwardParameters { norm, other: None, rows, dim };
        call.record(t.recorder, "layernorm");
    });
    add(all, format!("gelu {model}"), move |t| {
        let (x, y) = (t.get(rows * 4 * dim), t.get(rows * 4 * dim));
        let call = gelu::Forward { x, y, activation: Activation::Gelu };
        call.record(t.recorder, "gelu");
    });
    add(all, format!("gelu {model} backward"), move |t| {
        let (x, dy, dx) = (t.get(rows * 4 * dim), t.get(rows * 4 * dim), t.get(rows * 4 * dim));
        let call = gelu::Backward { x, dy, dx, activation: Activation::Gelu };
        call.record(t.recorder, "gelu");
    });
    add(all, format!("layerscale {model} backward"), move |t| {
        let call = layerscale::Backward {
            x: t.quads(rows * dim),
            weight: t.get(dim),
            dy: t.quads(rows * dim),
            dx: t.quads(rows * dim),
            dweight: t.get(dim),
            rows,
            dim,
        };
        call.record(t.recorder, "layerscale");
    });
    add(all, format!("accumulate {model} a block's gradients"), move |t| {
        let words = 12 * dim * dim;
        let call = accumulate::Accumulate { addend: t.get(words), sum: t.get(words) };
        call.record(t.recorder, "accumulate");
    });
    add(all, format!("image {model}"), move |t| {
        let pixels = t.get(image::pixel_words(batch, SIZE));
        let image = t.get(batch * 3 * SIZE.height * SIZE.width);
        let (mean, std) = Normalize::Imagenet.mean_std();
        let call = image::Forward { pixels, flip: Some(t.get(batch)), image, batch, size: SIZE, mean, std };
        call.record(t.recorder, "image");
    });
    add(all, format!("patch_embed {model}"), move |t| {
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
        call.record(t.recorder, "patch_embed");
    });
    add(all, format!("patch_embed {model} backward"), move |t| {
        let call = patch_embed::Backward {
            image: t.get(batch * 3 * SIZE.height * SIZE.width),
            dtokens: t.quads(rows * dim),
            dweight: t.get(dim * 3 * PATCH * PATCH),
            dbias: Some(t.get(dim)),
            batch,
            size: SIZE,
            patch: PATCH,
            stride: PATCH,
            prefix: 1,
            dim,
        };
        call.record(t.recorder, "patch_embed");
    });
    add(all, format!("tokens {model}"), move |t| {
        let call = tokens::Forward {
            prefix: t.get(dim),
            patches: t.get(patches * dim),
            position: t.get(TOKENS * dim),
            tokens: t.quads(rows * dim),
            batch,
            count: GRID * GRID,
            dim,
        };
        call.record(t.recorder, "tokens");
    });
    add(all, format!("tokens {model} backward"), move |t| {
        let call = tokens::Backward {
            dtokens: t.quads(rows * dim),
            dprefix: t.get(dim),
            dposition: t.get(TOKENS * dim),
            batch,
            count: GRID * GRID,
            dim,
        };
        call.record(t.recorder, "tokens");
    });
    add(all, format!("gelt {model}"), move |t| {
        let (tokens, gelt) = (t.quads(rows * dim), t.get(batch * GRID * dim));
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
        call.record(t.recorder, "gelt");
    });
    add(all, format!("gelt {model} backward"), move |t| {
        let (dgelt, dtokens) = (t.get(batch * GRID * dim), t.quads(rows * dim));
        let (parts, columns, weights) = (GRID, GRID, GeltConfig::default().weights());
        let call =
            gelt::Backward { dgelt, dtokens, first: 0, batch, prefix: 1, parts, columns, dim, weights };
        call.record(t.recorder, "gelt");
    });
    add(all, format!("l2norm {model}"), move |t| {
        let (x, y) = (t.get(batch * GRID * dim), t.get(batch * GRID * dim));
        let call = l2norm::Forward { x, y, batch, parts: GRID, dim };
        call.record(t.recorder, "l2norm");
    });
}

/// Kernels of training alone: part classifiers on a batch of 32 with the persons of Market-1501, loss, and one step of a
/// block.
fn training(all: &mut Vec<Row>, model: &Model, quick: bool) {
    const BATCH: usize = 32;
    const HIDDEN: usize = 256;
    const CLASSES: usize = 751;
    let Model { name: model, dim, .. } = *model;
    let layers = [
        ("fc1", dim, HIDDEN, part_linear::Layout::SampleFirst),
        ("fc2", HIDDEN, CLASSES, part_linear::Layout::PartFirst),
    ];
    for (layer, inputs, outputs, layout) in layers.into_iter().take(if quick { 1 } else { 2 }) {
        let shape = part_linear::Shape { batch: BATCH, parts: GRID, inputs, outputs, layout };
        let x_len = GRID * BATCH * inputs;
        let (weight_len, y_len) = (GRID * outputs * inputs, GRID * BATCH * outputs);
        add(all, format!("part_linear {model} {layer}"), move |t| {
            let (x, weight, y) = (t.get(x_len), t.get(weight_len), t.get(y_len));
            let call = part_linear::Forward { x, weight, bias: t.get(GRID * outputs), y, shape };
            call.record(t.recorder, "part_linear");
        });
        add(all, format!("part_linear {model} {layer} backward input"), move |t| {
            let (weight, dy, dx) = (t.get(weight_len), t.get(y_len), t.get(x_len));
            let call = part_linear::BackwardInput { weight, dy, dx, shape };
            call.record(t.recorder, "part_linear");
        });
        add(all, format!("part_linear {model} {layer} backward weight"), move |t| {
            let (x, dy, dweight) = (t.get(x_len), t.get(y_len), t.get(weight_len));
            let call = part_linear::BackwardWeight { x, dy, dweight, dbias: t.get(GRID * outputs), shape };
            call.record(t.recorder, "part_linear");
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
    add(all, format!("batchnorm {model}"), move |t| {
        let call = batchnorm::Train {
            x: t.get(BATCH * units),
            weight: t.get(units),
            bias: t.get(units),
            y: t.get(BATCH * units),
            saved: t.get(layer.saved_words()),
            step: t.step(),
            layer,
        };
        call.record(t.recorder, "batchnorm");
    });
    add(all, format!("batchnorm {model} backward"), move |t| {
        let call = batchnorm::Backward {
            x: t.get(BATCH * units),
            saved: t.get(layer.saved_words()),
            dy: t.get(BATCH * units),
            step: t.step(),
            dx: t.get(BATCH * units),
            dweight: t.get(units),
            dbias: t.get(units),
            layer,
        };
        call.record(t.recorder, "batchnorm");
    });
    add(all, format!("narrow {model} fc1"), move |t| {
        let call = narrow::Narrow { wide: t.get(4 * dim * dim), narrow: t.halves(4 * dim * dim) };
        call.record(t.recorder, "narrow");
    });
    add(all, format!("cross_entropy {model}"), move |t| {
        let call = cross_entropy::CrossEntropy {
            logits: t.get(GRID * BATCH * CLASSES),
            // Random bits: labels past the last class cost the same.
            labels: t.get(BATCH),
            loss: t.get(GRID * BATCH),
            gradient: Some((t.get(GRID * BATCH * CLASSES), t.hold(&control()))),
            batch: BATCH,
            parts: GRID,
            classes: CLASSES,
            smoothing: 0.1,
        };
        call.record(t.recorder, "cross_entropy");
    });
    // Sixteen persons with four pictures each; each picture's farthest and nearest are any two.
    let pictures = 64;
    let length = GRID * dim;
    add(all, format!("triplet {model}"), move |t| {
        let (parts, distances) = (t.get(pictures * length), t.get(pictures * pictures));
        let labels = t.words((0..pictures as u32).map(|i| i / 4).collect());
        let measure = triplet::Distances { parts, distances, batch: pictures, length };
        let (loss, choice) = (t.get(pictures), t.get(2 * pictures));
        let mine = triplet::Mine { distances, labels, loss, choice, batch: pictures, margin: 0.3 };
        measure.record(t.recorder, "triplet");
        mine.record(t.recorder, "triplet");
    });
    add(all, format!("triplet {model} backward"), move |t| {
        let choice = t.words((0..pictures as u32).flat_map(|i| [i ^ 1, (i + 4) % pictures as u32]).collect());
        let call = triplet::Backward {
            parts: t.get(pictures * length),
            distances: t.get(pictures * pictures),
            choice,
            dparts: t.get(pictures * length),
            control: t.hold(&control()),
            batch: pictures,
            length,
        };
        call.record(t.recorder, "triplet");
    });
    // A block's parameters: four D × D matrices of attention, eight of the MLP, biases and norms.
    let block = 12 * dim * dim + 13 * dim;
    add(all, format!("gradnorm {model}"), move |t| {
        let partial =
            gradnorm::Partial { gradients: t.get(block), partials: t.get(gradnorm::partial_words(block)) };
        let finish = gradnorm::Finish {
            partials: partial.partials,
            losses: t.get(GRID * BATCH),
            step: t.step(),
            control: t.hold(&control()),
        };
        partial.record(t.recorder, "gradnorm");
        finish.record(t.recorder, "gradnorm");
    });
    add(all, format!("adam {model}"), move |t| {
        let call = adam::Adam {
            gradients: t.get(block),
            step: t.step(),
            control: t.hold(&control()),
            parameters: t.get(block),
            first_moment: t.get(block),
            second_moment: t.get(block),
            group: 0,
            betas: adam::Betas::default(),
            decoupled: false,
        };
        call.record(t.recorder, "adam");
    });
}

/// A tile of retrieval: distances between embeddings of all parts, and the 50 nearest.
fn retrieval(all: &mut Vec<Row>, model: &Model, quick: bool) {
    // The gallery of ViT-B has 88 MB: fits a binding of WebGPU's default limits.
    let (queries, gallery) = if quick { (64, 256) } else { (256, 2048) };
    const K: usize = 50;
    let dim = GRID * model.dim;
    let model = model.name;

    add(all, format!("distance {model}"), move |t| {
        let call = distance::Distances {
            queries: distance::slabs(queries, dim).map(|(_, width)| t.get(queries * width)).collect(),
            gallery: distance::slabs(gallery, dim).map(|(_, width)| t.get(gallery * width)).collect(),
            query_norms: t.get(queries),
            gallery_norms: t.get(gallery),
            distances: t.get(queries * gallery),
            partial: t.get(queries * gallery),
            query_count: queries,
            gallery_count: gallery,
            dim,
        };
        call.record(t.recorder, "distance");
    });
    add(all, format!("distance {model} norms"), move |t| {
        let call = distance::Norms { rows: t.get(gallery * dim), norms: t.get(gallery), count: gallery, dim };
        call.record(t.recorder, "norms");
    });
    add(all, format!("topk {model}"), move |t| {
        // A gallery's first tile: the one that brings most.
        let place = topk::Place { first: 0, count: gallery as u32, fresh: true };
        let call = topk::Merge {
            distances: t.get(queries * gallery),
            place: t.hold(&place.words().map(f32::from_bits)),
            nearest_distance: t.get(queries * K),
            nearest_index: t.get(queries * K),
            queries,
            gallery,
            k: K,
        };
        call.record(t.recorder, "topk");
    });
}
