//! One whole training step (forward, loss, backward, optimiser) of ViT-Ti, ViT-S and ViT-B, as blocks open.
//!
//! `cargo bench --bench training_step` prints for each stage the best of a few steps: pictures and GFLOP a second, launches,
//! device memory. Two pictures on CPU adapters, 32 on others, of 224 × 224 pixels; 14 classifiers of Market-1501's 751
//! persons. Weights are random: a step takes as long with any.

use lat_wgpu::checkpoint::{HostTensor, Network, parameter_shapes};
use lat_wgpu::gpu::{Context, ContextOptions};
use lat_wgpu::kernels::adam::{Betas, StepValues};
use lat_wgpu::model::{HeadSettings, Learner, Trainable, UpdateRule};
use lat_wgpu::rng;
use lat_wgpu::shape::{ImageSize, Normalize, Preprocess, VitConfig};
use lat_wgpu::train::heads::init_heads;
use std::time::Instant;

const CLASSES: usize = 751;
const HIDDEN: usize = 256;
const DEPTH: usize = 12;

fn network(dim: usize) -> Network {
    let config = VitConfig::plain(ImageSize::square(224), 16, dim, DEPTH, dim / 64);
    let tensors = parameter_shapes(&config).into_iter().enumerate().map(|(stream, (name, shape))| {
        let len = shape.iter().product::<usize>() as u64;
        let data = (0..len).map(|i| 0.04 * rng::uniform(1, stream as u64, i) - 0.02).collect();
        (name, HostTensor { shape, data })
    });
    Network {
        tensors: tensors.collect(),
        file_positions: None,
        heads: init_heads(1, config.parts(), dim, HIDDEN, CLASSES),
        preprocess: Preprocess::new(config.image, Normalize::Imagenet.mean_std()),
        config,
        class_names: None,
        threshold: None,
        notes: Vec::new(),
    }
}

fn main() {
    let context = Context::open(&ContextOptions::from_environment(None)).expect("an adapter");
    let (batch, rounds) = if context.is_cpu() { (2, 2) } else { (32, 10) };
    println!("{context:?}, {batch} pictures a step");
    // `cargo bench` passes flags of its own; a word is a filter, as with the kernels.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for (name, dim) in [("vit-ti", 192), ("vit-s", 384), ("vit-b", 768)] {
        for (stage, embeddings, open) in
            [("1 block", false, 1), ("6 blocks", false, 6), ("12 blocks", false, 12), ("all", true, 12)]
        {
            let row = format!("training step {name} {stage}");
            if filter.as_ref().is_none_or(|filter| row.contains(filter.as_str())) {
                let stage = Trainable { embeddings, first_open: DEPTH - open };
                measure(&context, &row, &network(dim), stage, batch, rounds);
            }
        }
    }
}

fn measure(context: &Context, row: &str, network: &Network, stage: Trainable, batch: usize, rounds: usize) {
    let heads = HeadSettings { hidden: HIDDEN, classes: CLASSES, relu: true, dropout: 0.5 };
    let betas = Betas { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let rule = UpdateRule { betas, decoupled: false, label_smoothing: 0.0, triplet_margin: None };
    let learner = Learner::new(context, network, heads, rule, stage).expect("a learner");
    let step = learner.record_step(batch, batch).expect("a step");
    let pixels: Vec<u8> = (0..batch * 224 * 224 * 3).map(|i| rng::bits(1, 0, i as u64) as u8).collect();
    let labels: Vec<u32> = (0..batch as u32).collect();
    step.write(context, &pixels, &labels, &vec![0; batch]);
    let corrections = vec![betas.corrections(1); learner.groups().len()];
    let values = StepValues { number: 1, corrections, ..StepValues::default() };
    context.write(&step.step, bytemuck::cast_slice(&values.words()));
    let run = || {
        let start = Instant::now();
        step.plan.run(context).and_then(|()| context.wait()).expect("a run");
        start.elapsed().as_secs_f64()
    };
    // The first compiles.
    run();
    let seconds = (0..rounds).map(|_| run()).fold(f64::INFINITY, f64::min);
    let summary = step.plan.summary();
    println!(
        "{row}: {:.2} s, {:.2} images/s, {:.1} GFLOP/s, {} launches, {} MiB",
        seconds,
        batch as f64 / seconds,
        summary.flops / seconds / 1e9,
        summary.dispatches,
        (learner.state_bytes() + step.bytes()) >> 20
    );
}
