//! Burn's side of the table: the same products, attention and network in its tensor operations, on the same adapter.
//!
//! Burn is lazy: operations are queued, fused and run when something waits. So every run ends with a sync, results are
//! fetched and compared, and the time to fetch is reported.

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::module::{attention, layer_norm, linear};
use burn::tensor::{Device, DeviceKind, Int, Tensor, TensorData, activation};
use lat_wgpu::checkpoint::{HostTensor, Network};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::gpu::{self, Context, ContextOptions};
use lat_wgpu::images::decode::DecodeOptions;
use lat_wgpu::images::preprocess;
use lat_wgpu::images::walk::Image;
use lat_wgpu::shape::GeltConfig;
use lat_wgpu_peers::{
    ADAM_EPS, BATCHNORM_EPS, DEPTH, Form, Found, GRID, HEAD_WIDTH, LEARNING_RATE, Memory, Model, PATCH,
    Request, SIZE, TOKENS, Task, end, images, normalised, numbers, pixels, repeat, request, sample, streams,
    train,
};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "burn_peer measure SAMPLES FOLDER ROW...";
/// Batch size when embedding files.
const BATCH: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    end(match arguments.first().map(String::as_str) {
        Some("measure") => request(&arguments[1..]).and_then(measure),
        _ => Err(Error::Usage(USAGE.to_string())),
    })
}

/// Burn's device on the same adapter as ours, and its name.
fn device() -> Result<(Device, String)> {
    let ours = Context::open(&ContextOptions::from_environment(None))?;
    let kind = if ours.is_cpu() { DeviceKind::Cpu } else { DeviceKind::DefaultDevice };
    let device = Device::wgpu(kind);
    let name = device.identity().map_or_else(|| "unknown".to_string(), |identity| identity.name);
    if name != ours.adapter.name {
        let wanted = &ours.adapter.name;
        return Err(Error::Data(format!("Burn opens {name:?}, not {wanted:?}: nothing to compare")));
    }
    Ok((device, name))
}

fn measure(request: Request) -> Result<()> {
    let (device, name) = device()?;
    for (row, task) in &request.rows {
        let samples = request.samples;
        let found = match *task {
            Task::Gemm { form, m, k, n } => gemm(&device, samples, form, m, k, n)?,
            Task::Attention { backward, model } => attend(&device, samples, model, backward)?,
            Task::Forward { model, batch } => forward(&device, samples, model, batch)?,
            Task::Step { model, open, embeddings, batch } => {
                let stage = Stage { embeddings, first_open: DEPTH - open };
                step(&device, samples, model, stage, batch)?
            }
            Task::Embed { model, count } => embed(&device, samples, model, &images(&request.folder, count)?)?,
            Task::Nearest { .. } => continue,
        };
        found.print(row, "burn", &name);
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Gpu(gpu::Error::Failed(error.to_string()))
}

fn wait(device: &Device) -> Result<()> {
    device.sync().map_err(failed)
}

fn upload<const D: usize>(device: &Device, data: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data, shape), device)
}

fn fetch<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().try_to_vec::<f32>().map_err(|error| failed(format!("{error:?}")))
}

/// Times a function that returns a tensor, then fetches the last tensor.
fn time<const D: usize>(
    device: &Device,
    samples: usize,
    mut run: impl FnMut() -> Tensor<D>,
) -> Result<Found> {
    let mut last = None;
    let seconds = repeat(samples, || {
        last = Some(run());
        wait(device)
    })?;
    let start = Instant::now();
    let values = last.map(fetch).transpose()?.unwrap_or_default();
    let read_seconds = Some(start.elapsed().as_secs_f64());
    Ok(Found { seconds, read_seconds, values: sample(&values), ..Found::default() })
}

fn gemm(device: &Device, samples: usize, form: Form, m: usize, k: usize, n: usize) -> Result<Found> {
    let (left, right) = (numbers(streams::LEFT, m * k), numbers(streams::RIGHT, k * n));
    let (a, b) = match form {
        Form::Nn => (upload(device, left, [m, k]), upload(device, right, [k, n])),
        Form::Nt => (upload(device, left, [m, k]), upload::<2>(device, right, [n, k]).transpose()),
        Form::Tn => (upload::<2>(device, left, [k, m]).transpose(), upload(device, right, [k, n])),
    };
    time(device, samples, || a.clone().matmul(b.clone()))
}

/// Implementation of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    /// Burn's own operation.
    Whole,
    /// As softmax(Q·Kᵀ/√Dh)·V.
    Steps,
}

impl Attention {
    /// Attention of (B, T, 3·D), giving (B, T, D).
    fn run(self, qkv: Tensor<3>, heads: usize) -> Tensor<3> {
        let [batch, tokens, _] = qkv.dims();
        let qkv = qkv.reshape([batch, tokens, 3, heads, HEAD_WIDTH]).permute([2, 0, 3, 1, 4]);
        let pick = |which: usize| -> Tensor<4> { qkv.clone().narrow(0, which, 1).squeeze_dim(0) };
        let [q, k, v] = [0, 1, 2].map(pick);
        let out = match self {
            Attention::Whole => attention(q, k, v, None, None, Default::default()),
            Attention::Steps => {
                let scores = q.matmul(k.swap_dims(2, 3)) / (HEAD_WIDTH as f32).sqrt();
                activation::softmax(scores, 3).matmul(v)
            }
        };
        out.swap_dims(1, 2).reshape([batch, tokens, heads * HEAD_WIDTH])
    }
}

/// The implementation in networks: the faster one in measurements of forward and backward.
const FASTER: Attention = Attention::Whole;

/// The faster of both implementations.
fn attend(device: &Device, samples: usize, model: Model, backward: bool) -> Result<Found> {
    let mut best: Option<Found> = None;
    for (how, variant) in [(Attention::Whole, "attention()"), (Attention::Steps, "softmax of a product")] {
        let found = if backward {
            attend_backward(device, samples, model, how)?
        } else {
            let qkv = upload(
                device,
                numbers(streams::ATTENTION, TOKENS * 3 * model.dim),
                [1, TOKENS, 3 * model.dim],
            );
            time(device, samples, || how.run(qkv.clone(), model.heads()))?
        };
        let least = |found: &Found| found.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        if best.as_ref().is_none_or(|best| least(&found) < least(best)) {
            best = Some(Found { variant: Some(variant), ..found });
        }
    }
    Ok(best.unwrap_or_default())
}

/// Times only the backward pass: the forward pass finishes before the clock starts.
fn attend_backward(device: &Device, samples: usize, model: Model, how: Attention) -> Result<Found> {
    let device = device.clone().autodiff();
    let (len, dim) = (TOKENS * model.dim, model.dim);
    let qkv = numbers(streams::ATTENTION, 3 * len);
    let qkv: Tensor<3> = upload(&device, qkv, [1, TOKENS, 3 * dim]).require_grad();
    let dout: Tensor<3> = upload(&device, numbers(streams::GRADIENT, len), [1, TOKENS, dim]);
    let mut seconds = Vec::new();
    let mut last = None;
    // Three to warm up and tune.
    for round in 0..3 + 5 * samples {
        let loss = (how.run(qkv.clone(), model.heads()) * dout.clone()).sum();
        wait(&device)?;
        let start = Instant::now();
        let gradients = loss.backward();
        last = qkv.grad(&gradients);
        wait(&device)?;
        if round >= 3 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let seconds = seconds.chunks(5).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    let start = Instant::now();
    let values = last.map(fetch).transpose()?.unwrap_or_default();
    let read_seconds = Some(start.elapsed().as_secs_f64());
    Ok(Found { seconds, read_seconds, values: sample(&values), ..Found::default() })
}

/// The blocks and embeddings that train; the final norm and the classifiers always do.
#[derive(Debug, Clone, Copy)]
struct Stage {
    embeddings: bool,
    first_open: usize,
}

#[derive(Module, Debug)]
struct Linear {
    /// Weight (inputs, outputs), as Burn stores it.
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Norm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

/// All part classifiers at once.
#[derive(Module, Debug)]
struct PartClassifiers {
    /// First weight (R, D, E) and bias (R, 1, E).
    weight1: Param<Tensor<3>>,
    bias1: Param<Tensor<3>>,
    /// BatchNorm's weight and bias (R, 1, E).
    scale: Param<Tensor<3>>,
    shift: Param<Tensor<3>>,
    /// Second weight (R, E, K) and bias (R, 1, K).
    weight2: Param<Tensor<3>>,
    bias2: Param<Tensor<3>>,
}

#[derive(Module, Debug)]
struct Vit {
    /// (3·P·P, D).
    patch: Linear,
    /// (1, 1, D).
    class: Param<Tensor<3>>,
    /// (1, T, D).
    position: Param<Tensor<3>>,
    blocks: Vec<Block>,
    norm: Norm,
    heads: PartClassifiers,
}

/// Transposes a matrix (rows, columns).
fn turned(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| data[row * columns + column])).collect()
}

/// Copies a network's tensors to the device.
struct Loader<'a> {
    device: &'a Device,
    network: &'a Network,
}

impl Loader<'_> {
    fn host(&self, name: &str) -> Result<&HostTensor> {
        let found = self.network.tensors.get(name).or_else(|| self.network.classifiers.get(name));
        found.ok_or_else(|| Error::Usage(format!("the network has no {name}")))
    }

    fn parameter<const D: usize>(&self, data: Vec<f32>, shape: [usize; D], open: bool) -> Param<Tensor<D>> {
        Param::from_tensor(upload(self.device, data, shape)).set_require_grad(open)
    }

    fn linear(&self, name: &str, open: bool) -> Result<Linear> {
        let weight = self.host(&format!("{name}.weight"))?;
        let (outputs, inputs) = (weight.shape[0], weight.shape[1..].iter().product());
        let bias = self.host(&format!("{name}.bias"))?.data.clone();
        Ok(Linear {
            weight: self.parameter(turned(&weight.data, outputs, inputs), [inputs, outputs], open),
            bias: self.parameter(bias, [outputs], open),
        })
    }

    fn norm(&self, name: &str, open: bool) -> Result<Norm> {
        let [weight, bias] = ["weight", "bias"].map(|part| self.host(&format!("{name}.{part}")));
        let (weight, bias) = (weight?.data.clone(), bias?.data.clone());
        let dim = weight.len();
        Ok(Norm { weight: self.parameter(weight, [dim], open), bias: self.parameter(bias, [dim], open) })
    }

    /// A tensor of all classifiers, stacked: matrices transposed, vectors as rows.
    fn stacked(&self, name: &str) -> Result<Param<Tensor<3>>> {
        let parts = self.network.config.parts();
        let mut data = Vec::new();
        let mut shape = [parts, 1, 1];
        for part in 0..parts {
            let tensor = self.host(&format!("heads.{part}.{name}"))?;
            let [rows, columns] = match tensor.shape[..] {
                [outputs, inputs] => [outputs, inputs],
                _ => [tensor.data.len(), 1],
            };
            data.extend(turned(&tensor.data, rows, columns));
            shape = [parts, columns, rows];
        }
        Ok(self.parameter(data, shape, true))
    }

    fn vit(&self, stage: Stage) -> Result<Vit> {
        let whole = |name: &str, rows: usize| -> Result<Param<Tensor<3>>> {
            let tensor = self.host(name)?;
            Ok(self.parameter(tensor.data.clone(), [1, rows, tensor.data.len() / rows], stage.embeddings))
        };
        let block = |i: usize| -> Result<Block> {
            let (open, name) = (i >= stage.first_open, format!("blocks.{i}"));
            Ok(Block {
                norm1: self.norm(&format!("{name}.norm1"), open)?,
                qkv: self.linear(&format!("{name}.attn.qkv"), open)?,
                proj: self.linear(&format!("{name}.attn.proj"), open)?,
                norm2: self.norm(&format!("{name}.norm2"), open)?,
                fc1: self.linear(&format!("{name}.mlp.fc1"), open)?,
                fc2: self.linear(&format!("{name}.mlp.fc2"), open)?,
            })
        };
        Ok(Vit {
            patch: self.linear("patch_embed.proj", stage.embeddings)?,
            class: whole("cls_token", 1)?,
            position: whole("pos_embed", TOKENS)?,
            blocks: (0..DEPTH).map(block).collect::<Result<_>>()?,
            norm: self.norm("norm", true)?,
            heads: PartClassifiers {
                weight1: self.stacked("fc1.weight")?,
                bias1: self.stacked("fc1.bias")?,
                scale: self.stacked("bn.weight")?,
                shift: self.stacked("bn.bias")?,
                weight2: self.stacked("fc2.weight")?,
                bias2: self.stacked("fc2.bias")?,
            },
        })
    }
}

impl Linear {
    fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight.val(), Some(self.bias.val()))
    }
}

impl Norm {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        layer_norm(x, self.weight.val(), Some(self.bias.val()), 1e-6)
    }
}

impl Block {
    fn forward(&self, x: Tensor<3>, heads: usize) -> Tensor<3> {
        let mixed = FASTER.run(self.qkv.forward(self.norm1.forward(x.clone())), heads);
        let x = x + self.proj.forward(mixed);
        let hidden = activation::gelu(self.fc1.forward(self.norm2.forward(x.clone())));
        x + self.fc2.forward(hidden)
    }
}

impl PartClassifiers {
    /// Scores (R, B, K) of parts (B, R, D) with batch statistics. Burn doesn't update running statistics, which saves
    /// it work.
    fn forward(&self, parts: Tensor<3>) -> Tensor<3> {
        let hidden = parts.swap_dims(0, 1).matmul(self.weight1.val()) + self.bias1.val();
        let centred = hidden.clone() - hidden.mean_dim(1);
        let variance = centred.clone().powi_scalar(2).mean_dim(1);
        let normal = centred / (variance + BATCHNORM_EPS).sqrt();
        let hidden = activation::relu(normal * self.scale.val() + self.shift.val());
        hidden.matmul(self.weight2.val()) + self.bias2.val()
    }
}

impl Vit {
    /// Parts (B, R, D) of images (B, 3, height, width).
    fn parts(&self, images: Tensor<4>) -> Tensor<3> {
        let [batch, ..] = images.dims();
        let [_, _, dim] = self.class.dims();
        let patches = images
            .reshape([batch, 3, GRID, PATCH, GRID, PATCH])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, GRID * GRID, 3 * PATCH * PATCH]);
        let patches = self.patch.forward(patches);
        let class = self.class.val().repeat_dim(0, batch);
        let mut z = Tensor::cat(vec![class, patches], 1) + self.position.val();
        for block in &self.blocks {
            z = block.forward(z, dim / HEAD_WIDTH);
        }
        let tokens = self.norm.forward(z);
        let (class_weight, local_weight) = GeltConfig::default().weights();
        let class = tokens.clone().narrow(1, 0, 1);
        let rows = tokens.narrow(1, 1, GRID * GRID).reshape([batch, GRID, GRID, dim]);
        let means: Tensor<3> = rows.mean_dim(2).squeeze_dim(2);
        class * class_weight + means * local_weight
    }

    /// Embeddings (B, R, D) with parts of length 1/√R.
    fn embeddings(&self, images: Tensor<4>) -> Tensor<3> {
        let parts = self.parts(images);
        let length = parts.clone().powi_scalar(2).sum_dim(2).sqrt() * (GRID as f32).sqrt();
        parts / length
    }
}

fn image_tensor(device: &Device, pixels: &[u8]) -> Tensor<4> {
    let batch = pixels.len() / (3 * SIZE.height * SIZE.width);
    upload(device, normalised(pixels), [batch, 3, SIZE.height, SIZE.width])
}

fn inference(device: &Device, model: Model) -> Result<Vit> {
    let stage = Stage { embeddings: false, first_open: DEPTH };
    Loader { device, network: &model.network() }.vit(stage).map(|vit| vit.no_grad())
}

fn forward(device: &Device, samples: usize, model: Model, batch: usize) -> Result<Found> {
    let vit = inference(device, model)?;
    let images = image_tensor(device, &pixels(batch));
    let mut rows = Vec::new();
    let seconds = repeat(samples, || {
        rows = fetch(vit.embeddings(images.clone()))?;
        Ok(())
    })?;
    Ok(Found { seconds, values: sample(&rows), ..Found::default() })
}

fn step(device: &Device, samples: usize, model: Model, stage: Stage, batch: usize) -> Result<Found> {
    let device = &device.clone().autodiff();
    let network = model.network();
    let pixels = pixels(batch);
    wait(device)?;

    let memory = Memory::watch();
    let mut vit = Loader { device, network: &network }.vit(stage)?;
    let mut optimiser = AdamConfig::new().with_epsilon(ADAM_EPS).init();
    let images = image_tensor(device, &pixels);
    let labels: Vec<i32> = (0..GRID * batch).map(|i| (i % batch) as i32).collect();
    let labels: Tensor<3, Int> = Tensor::from_data(TensorData::new(labels, [GRID, batch, 1]), device);
    let (seconds, losses) = train(samples, |_| {
        let logits = vit.heads.forward(vit.parts(images.clone()));
        let chosen = activation::log_softmax(logits, 2).gather(2, labels.clone());
        let loss = chosen.sum() / -(batch as f32);
        let gradients = GradientsParams::from_grads(loss.backward(), &vit);
        vit = optimiser.step(f64::from(LEARNING_RATE), vit.clone(), gradients);
        let loss = fetch(loss)?;
        wait(device)?;
        Ok(loss[0])
    })?;
    Ok(Found { seconds, values: losses, peak_growth: memory.growth(), ..Found::default() })
}

fn embed(device: &Device, samples: usize, model: Model, files: &[Image]) -> Result<Found> {
    let vit = inference(device, model)?;
    let mut rows = Vec::new();
    let seconds = repeat(samples, || {
        rows.clear();
        for files in files.chunks(BATCH) {
            let mut bytes = Vec::new();
            for file in files {
                bytes.extend(preprocess::load(&file.path, DecodeOptions::default(), SIZE)?.pixels);
            }
            rows.extend(fetch(vit.embeddings(image_tensor(device, &bytes)))?);
        }
        Ok(())
    })?;
    Ok(Found { seconds, values: sample(&rows), ..Found::default() })
}
