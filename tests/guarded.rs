//! `LAT_GUARDED` and `LAT_CHECKED`: embedding and training give the same bits in memory full of NaN with guard words
//! after every tensor, and with checked shaders. Guarded memory finds the faults it is meant for.

mod common;

use common::{bits, random};
use lat_wgpu::checkpoint::{self, HostTensor, Network, Settings};
use lat_wgpu::entry_points;
use lat_wgpu::gpu::{Context, ContextOptions, Precision, Recorder, ShaderFile, Tensor};
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::kernels::adam::{Betas, GroupValues, StepValues};
use lat_wgpu::kernels::triplet::Margin;
use lat_wgpu::model::{
    ClassifierSettings, DropPath, Learner, Optimizer, PrototypeRule, Trainable, UpdateRule,
};
use lat_wgpu::shape::{CameraTable, ClassifierKind};
use lat_wgpu::tasks::embed::Embedder;
use std::path::Path;

const BATCH: usize = 4;

fn open(change: impl FnOnce(&mut ContextOptions)) -> Context {
    let mut options = ContextOptions { tuned: false, ..ContextOptions::from_environment(None) };
    change(&mut options);
    Context::open(&options).unwrap()
}

/// Three blocks of width 32 with four parts and two cameras, for 32 × 32 pixels.
fn network() -> Network {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/training/tiny.model.safetensors");
    let mut network = checkpoint::load(&path, &Settings::default()).unwrap();
    let names = ["c1", "c2"].map(String::from).to_vec();
    let table = HostTensor { shape: vec![2, 1, 32], data: random::normal(5, 2 * 32) };
    network.tensors.insert(checkpoint::CAMERAS.to_string(), table);
    network.config.cameras = Some(CameraTable { weight: 3.0, names });
    network
}

fn pixels() -> Vec<u8> {
    random::bytes(1, BATCH * 32 * 32 * 3)
}

/// The embeddings of three images in batches of two; the last batch is not full.
fn embeddings(context: &Context) -> Vec<u32> {
    let image = |pixels: &[u8]| Rgb { height: 32, width: 32, pixels: pixels.to_vec() };
    let images: Vec<Rgb> = pixels().chunks(32 * 32 * 3).take(3).map(image).collect();
    let mut embedder = Embedder::new(context, &network(), Some(2), 1 << 30).unwrap();
    let (pair, last) = images.split_at(2);
    let mut embeddings = embedder.embed_by(pair, &[1, 0]).unwrap();
    embeddings.extend(embedder.embed_by(last, &[1]).unwrap());
    bits(&embeddings)
}

/// Losses of two steps that train everything, with dropout and triplets, and the parameters after them.
fn trained(context: &Context) -> Vec<u32> {
    let betas = Betas::default();
    let heads = ClassifierSettings {
        kind: ClassifierKind::Parts { hidden: 256 },
        classes: 5,
        relu: true,
        dropout: 0.5,
    };
    let rule = UpdateRule {
        optimizer: Optimizer::Adam { betas, decoupled: true },
        ema: Some(0.5),
        label_smoothing: 0.1,
        triplet_margin: Some(Margin::Hard(0.3)),
        prototypes: Some(PrototypeRule { weight: 0.5, temperature: 0.05, momentum: 0.2, hard: false }),
        ..UpdateRule::default()
    };
    let network = network();
    let stage = Trainable { embeddings: true, first_open: 0 };
    let mut learner = Learner::new(context, &network, heads, rule, stage).unwrap();
    let prototypes = random::normal(9, 5 * network.config.embedding_len());
    learner.write_prototypes(&prototypes).unwrap();
    learner.set_drop_path(0.5);
    learner.erase_with_noise();
    let step = learner.record_step(BATCH, BATCH).unwrap();
    let mut found = Vec::new();
    for number in 1..=2 {
        let values = StepValues {
            seed: 7,
            number,
            weight_decay: 0.01,
            clip_norm: 1.0,
            groups: vec![GroupValues::new(1e-2, betas.corrections(number)); network.config.depth + 3],
            ..StepValues::default()
        };
        step.write(context, &pixels(), &[0, 0, 1, 3], &[0, 1, 0, 1]);
        context.write(&step.step, bytemuck::cast_slice(&values.words()));
        step.write_cameras(context, &[1, 0, 0, 1]);
        step.write_erased(context, &[[0; 4], [3, 5, 20, 11], [0, 0, 32, 32], [31, 31, 1, 1]]);
        step.write_drop_path(context, &DropPath::masks(0.5, 3, BATCH, 7, 0, BATCH * number as usize));
        step.plan.run(context).unwrap();
        found.extend(bits(&context.read(&step.losses).unwrap()));
        assert_eq!(context.read(&step.control).unwrap()[0].to_bits(), 1, "step {number} isn't finite");
    }
    for tensors in [learner.read_parameters().unwrap(), learner.read_averages().unwrap().unwrap()] {
        found.extend(tensors.values().flat_map(|tensor| bits(&tensor.data)));
    }
    found
}

#[test]
fn guarded_memory_gives_the_same_bits() {
    for precision in [Precision::F32, Precision::F16] {
        let plain = open(|options| options.precision = precision);
        let guarded = open(|options| {
            options.precision = precision;
            options.guarded = true;
        });
        assert_eq!(embeddings(&plain), embeddings(&guarded), "embeddings in {precision:?}");
        assert_eq!(trained(&plain), trained(&guarded), "training in {precision:?}");
    }
}

#[test]
fn checked_shaders_give_the_same_bits() {
    let plain = open(|_| {});
    let checked = open(|options| options.checked = true);
    assert_eq!(embeddings(&plain), embeddings(&checked));
    assert_eq!(trained(&plain), trained(&checked));
}

/// Writes y[i] = x[first + i] for i below `count`, whatever the tensors' length.
static COPY: ShaderFile = ShaderFile::new(
    "copy",
    "
struct Params { first: u32, count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn copy(@builtin(workgroup_id) group: vec3u) {
    if (group.x < params.count) {
        y[group.x] = x[params.first + group.x];
    }
}
",
);

entry_points! {
    struct Params in 8 bytes { first: u32, count: u32 }
    fn copy(x: read, y: write);
    fn nothing();
}

fn record_copy(recorder: &mut Recorder<'_>, x: Tensor, y: Tensor, first: u32, count: u32) {
    let launch = COPY.launch(Params { first, count }, copy { x, y }).workgroups(count as usize);
    launch.record(recorder, "copy", 0.0);
}

/// Copies eight words through a tensor of the plan, `counts` words per copy, and returns the last word.
fn through(context: &Context, first: u32, counts: [u32; 2]) -> lat_wgpu::error::Result<u32> {
    let data = [1.0; 8];
    let (input, output) = (context.upload("input", &data)?, context.buffer("output", 8)?);
    let mut recorder = Recorder::new(context);
    let (x, y) = (recorder.import(&input), recorder.import(&output));
    let middle = recorder.tensor("middle", 8);
    record_copy(&mut recorder, x, middle, 0, counts[0]);
    record_copy(&mut recorder, middle, y, first, counts[1]);
    let plan = recorder.finish()?;
    // A second replay sees no values of the first.
    plan.run(context)?;
    plan.run(context)?;
    Ok(context.read(&output)?[7].to_bits())
}

#[test]
fn guarded_memory_finds_faults() {
    let guarded = open(|options| options.guarded = true);
    assert_eq!(through(&guarded, 0, [8, 8]).unwrap(), 1f32.to_bits());
    // Unwritten words, and words past the end, are NaN.
    for (first, counts) in [(0, [7, 8]), (1, [8, 8])] {
        let found = f32::from_bits(through(&guarded, first, counts).unwrap());
        assert!(found.is_nan(), "{counts:?}: {found}");
    }
    for (label, counts) in [("middle", [9, 8]), ("output", [8, 9])] {
        let error = through(&guarded, 0, counts).unwrap_err().to_string();
        assert!(error.contains(&format!("{label} was written past its end")), "{error}");
    }
}

#[test]
fn the_first_invalid_shader_is_named() {
    static WRONG: [ShaderFile; 4] = [
        ShaderFile::new("wrong_a", "fn main() { first }"),
        ShaderFile::new("wrong_b", "fn main() { second }"),
        ShaderFile::new("wrong_c", "fn main() { third }"),
        ShaderFile::new("wrong_d", "fn main() { fourth }"),
    ];
    let refusal = |order: &mut dyn Iterator<Item = &'static ShaderFile>| {
        let context = open(|_| ());
        let mut recorder = Recorder::new(&context);
        for file in order {
            file.launch(Params { first: 0, count: 0 }, nothing {}).record(&mut recorder, file.name, 0.0);
        }
        recorder.finish().expect_err("a refusal").to_string()
    };
    let first = refusal(&mut WRONG.iter());
    assert!(first.contains("wrong_a"), "{first}");
    for _ in 0..4 {
        assert_eq!(refusal(&mut WRONG.iter().rev()), first);
    }
}
