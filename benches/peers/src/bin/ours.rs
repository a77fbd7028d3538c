//! Our side of the table, and the weights and images that the others read.

use lat_wgpu::embeddings::Embeddings;
use lat_wgpu::error::{Error, Result};
use lat_wgpu::figures::{Figures, draw_figures};
use lat_wgpu::gpu::{Buffer, Context, ContextOptions, Recorder};
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::images::walk::Image;
use lat_wgpu::kernels::adam::{Betas, GroupValues, StepValues};
use lat_wgpu::kernels::{attention, gemm};
use lat_wgpu::model::{ClassifierSettings, Learner, Optimizer, Trainable, UpdateRule};
use lat_wgpu::retrieval::neighbours::Neighbours;
use lat_wgpu::tasks::embed::{Embedder, ImageOptions};
use lat_wgpu_peers::{
    ADAM_EPS, CLASSES, DEPTH, Form, Found, HEAD_WIDTH, KIND, LEARNING_RATE, MODELS, Memory, Model, NEAREST,
    Request, SIZE, TOKENS, Task, end, images, numbers, pixels, repeat, request, sample, streams, train,
};
use safetensors::{Dtype, tensor::TensorView};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "ours weights MODEL FILE | ours draw FOLDER | ours measure SAMPLES FOLDER ROW...";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    end(match words[..] {
        ["weights", model, file] => write_weights(model, Path::new(file)),
        ["draw", folder] => draw(Path::new(folder)),
        ["measure", ..] => request(&arguments[1..]).and_then(measure),
        _ => Err(Error::Usage(USAGE.to_string())),
    })
}

/// Writes a model's random weights.
fn write_weights(name: &str, file: &Path) -> Result<()> {
    let model = MODELS.into_iter().find(|model| model.name == name);
    let model = model.ok_or_else(|| Error::Usage(format!("there is no model {name}")))?;
    let network = model.network();
    let views = network.tensors.iter().chain(&network.classifiers).map(|(name, tensor)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.data));
        view.map(|view| (name.clone(), view)).map_err(|error| Error::Usage(format!("{name}: {error}")))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    safetensors::serialize_to_file(views, None, file)
        .map_err(|error| Error::Usage(format!("{} can't be written: {error}", file.display())))
}

/// Draws about two dozen images.
fn draw(folder: &Path) -> Result<()> {
    let figures = Figures { persons: 6, cameras: 2, images: 2, seed: 1 };
    draw_figures(folder, figures).map(|_| ())
}

fn measure(request: Request) -> Result<()> {
    let context = Context::open(&ContextOptions::from_environment(None))?;
    let name = &context.adapter.name;
    for (row, task) in &request.rows {
        let samples = request.samples;
        let found = match *task {
            Task::Gemm { form, m, k, n } => gemm(&context, samples, form, m, k, n)?,
            Task::Attention { backward: false, model } => attend(&context, samples, model)?,
            Task::Attention { backward: true, model } => attend_backward(&context, samples, model)?,
            Task::Forward { model, batch } => forward(&context, samples, model, batch)?,
            Task::Step { model, open, embeddings, batch } => {
                let stage = Trainable { embeddings, first_open: DEPTH - open };
                step(&context, samples, model, stage, batch)?
            }
            Task::Embed { model, count } => {
                embed(&context, samples, model, &images(&request.folder, count)?)?
            }
            Task::Nearest { queries, dim, gallery } => nearest(&context, samples, queries, dim, gallery)?,
        };
        found.print(row, "ours", name);
    }
    Ok(())
}

/// Times the plan that `record` records, then reads `result`.
fn plan(
    context: &Context,
    samples: usize,
    result: &Buffer,
    record: impl FnOnce(&mut Recorder<'_>),
) -> Result<Found> {
    let mut recorder = Recorder::new(context);
    record(&mut recorder);
    let plan = recorder.finish()?;
    let seconds = repeat(samples, || Ok(plan.run(context).and_then(|()| context.wait())?))?;
    let start = Instant::now();
    let values = sample(&context.read(result)?);
    let read_seconds = Some(start.elapsed().as_secs_f64());
    Ok(Found { seconds, read_seconds, flops: Some(plan.summary().flops), values, ..Found::default() })
}

/// Columns of the widest tile.
const TILE: usize = 128;

fn gemm(context: &Context, samples: usize, form: Form, m: usize, k: usize, n: usize) -> Result<Found> {
    let left = numbers(streams::LEFT, m * k);
    let right = numbers(streams::RIGHT, k * n);
    // A result larger than a binding is computed in stripes of columns into the same memory. Stripes are whole tiles,
    // since a product with columns that are no multiple of four uses the slowest kernel.
    let most = (context.max_tensor_bytes() / 4) as usize / m / TILE * TILE;
    let stripes = if form == Form::Nt { n.div_ceil(most.max(1)) } else { 1 };
    let stripe = if stripes == 1 { n } else { n.div_ceil(stripes).next_multiple_of(TILE) };
    let a = context.upload("a", &left)?;
    let c = context.buffer("c", m * stripe)?;
    let parts: Vec<(usize, Buffer)> = right
        .chunks(if stripes == 1 { right.len() } else { stripe * k })
        .map(|rows| Ok((rows.len() / k, context.upload("b", rows)?)))
        .collect::<Result<_>>()?;
    let found = plan(context, samples, &c, |recorder| {
        let a = recorder.import(&a);
        for (n, b) in &parts {
            let (n, b, c) = (*n, recorder.import(b), recorder.import(&c.slice("c", 0, m * n)));
            match form {
                Form::Nt => {
                    gemm::Nt { a, b, c, m, n, k, epilogue: gemm::Epilogue::default() }
                        .record(recorder, "gemm");
                }
                Form::Nn => {
                    gemm::Nn { a, b, c, m, n, k, derivative: None, residual: None }.record(recorder, "gemm");
                }
                Form::Tn => gemm::Tn { a, b, c, column_sum: None, m, n, k }.record(recorder, "gemm"),
            }
        }
    })?;
    // The last stripe alone can't be compared with the whole result of another program.
    Ok(if stripes == 1 { found } else { Found { values: Vec::new(), ..found } })
}

/// Queries, keys and values of one image, attention's output and the log-sum-exps.
fn attention_tensors(context: &Context, model: Model) -> Result<[Buffer; 3]> {
    let qkv = context.upload("qkv", &numbers(streams::ATTENTION, TOKENS * 3 * model.dim))?;
    let out = context.buffer("out", TOKENS * model.dim)?;
    Ok([qkv, out, context.buffer("lse", model.heads() * TOKENS)?])
}

fn attend(context: &Context, samples: usize, model: Model) -> Result<Found> {
    let [qkv, out, _] = attention_tensors(context, model)?;
    plan(context, samples, &out, |recorder| {
        let (qkv, out) = (recorder.import(&qkv), recorder.import(&out));
        let (heads, head_dim) = (model.heads(), HEAD_WIDTH);
        attention::Forward { qkv, out, lse: None, batch: 1, tokens: TOKENS, heads, head_dim }
            .record(recorder, "attention");
    })
}

fn attend_backward(context: &Context, samples: usize, model: Model) -> Result<Found> {
    let [qkv, out, lse] = attention_tensors(context, model)?;
    let (heads, head_dim) = (model.heads(), HEAD_WIDTH);
    let mut recorder = Recorder::new(context);
    let [q, o, l] = [&qkv, &out, &lse].map(|buffer| recorder.import(buffer));
    attention::Forward { qkv: q, out: o, lse: Some(l), batch: 1, tokens: TOKENS, heads, head_dim }
        .record(&mut recorder, "attention");
    recorder.finish()?.run(context)?;
    let dout = context.upload("dout", &numbers(streams::GRADIENT, TOKENS * model.dim))?;
    let dqkv = context.buffer("dqkv", TOKENS * 3 * model.dim)?;
    plan(context, samples, &dqkv, |recorder| {
        let [qkv, out, lse, dout, dqkv] =
            [&qkv, &out, &lse, &dout, &dqkv].map(|buffer| recorder.import(buffer));
        attention::Backward { qkv, out, lse, dout, dqkv, batch: 1, tokens: TOKENS, heads, head_dim }
            .record(recorder, "attention");
    })
}

fn forward(context: &Context, samples: usize, model: Model, batch: usize) -> Result<Found> {
    let mut embedder = Embedder::new(context, &model.network(), Some(batch), context.default_memory())?;
    let pixels = pixels(batch);
    let images: Vec<Rgb> = pixels
        .chunks(SIZE.height * SIZE.width * 3)
        .map(|pixels| Rgb { height: SIZE.height, width: SIZE.width, pixels: pixels.to_vec() })
        .collect();
    let mut rows = Vec::new();
    let seconds = repeat(samples, || {
        rows = embedder.embed(&images)?;
        Ok(())
    })?;
    Ok(Found { seconds, values: sample(&rows), ..Found::default() })
}

fn step(context: &Context, samples: usize, model: Model, stage: Trainable, batch: usize) -> Result<Found> {
    let network = model.network();
    // No dropout, since losses are compared.
    let heads = ClassifierSettings { kind: KIND, classes: CLASSES, relu: true, dropout: 0.0 };
    let betas = Betas { beta1: 0.9, beta2: 0.999, eps: f64::from(ADAM_EPS) };
    let optimizer = Optimizer::Adam { betas, decoupled: false };
    let rule = UpdateRule { optimizer, ..UpdateRule::default() };
    let pixels = pixels(batch);
    let labels: Vec<u32> = (0..batch as u32).collect();

    let memory = Memory::watch();
    let learner = Learner::new(context, &network, heads, rule, stage)?;
    let step = learner.record_step(batch, batch)?;
    step.write(context, &pixels, &labels, &vec![0; batch]);
    let (seconds, losses) = train(samples, |number| {
        let group = GroupValues::new(LEARNING_RATE, betas.corrections(number));
        let groups = vec![group; learner.groups().len()];
        let values = StepValues { number, groups, ..StepValues::default() };
        context.write(&step.step, bytemuck::cast_slice(&values.words()));
        step.plan.run(context)?;
        let losses = context.read(&step.losses)?;
        Ok(losses.iter().sum::<f32>() / batch as f32)
    })?;
    let flops = Some(step.plan.summary().flops);
    Ok(Found { seconds, flops, values: losses, peak_growth: memory.growth(), ..Found::default() })
}

fn embed(context: &Context, samples: usize, model: Model, images: &[Image]) -> Result<Found> {
    let mut embedder = Embedder::new(context, &model.network(), None, context.default_memory())?;
    let mut rows = Vec::new();
    let seconds = repeat(samples, || {
        rows.clear();
        for row in embedder.embed_images(images.to_vec(), ImageOptions::default(), &()) {
            match row? {
                (image, Err(error)) => eprintln!("warning: {} has no row: {error}", image.name),
                (_, Ok(row)) => rows.extend(row),
            }
        }
        Ok(())
    })?;
    Ok(Found { seconds, values: sample(&rows), ..Found::default() })
}

fn nearest(context: &Context, samples: usize, queries: usize, dim: usize, gallery: usize) -> Result<Found> {
    let rows = |stream, count| Embeddings { paths: Vec::new(), dim, rows: numbers(stream, count * dim) };
    let (asked, kept) = (rows(streams::LEFT, queries), rows(streams::RIGHT, gallery));
    let mut neighbours = Neighbours::new(context, &asked, &kept, context.default_memory())?;
    let mut found = Vec::new();
    let seconds = repeat(samples, || {
        found = neighbours.nearest(0..queries, NEAREST)?;
        Ok(())
    })?;
    let distances: Vec<f32> = found.iter().flatten().map(|neighbour| neighbour.distance).collect();
    Ok(Found { seconds, values: sample(&distances), ..Found::default() })
}
