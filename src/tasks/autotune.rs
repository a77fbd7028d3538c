//! Finds the fastest tile for each product of a network on an adapter.
//!
//! Every candidate is validated, then timed. The choices are kept only if they make the whole step faster.

use crate::cases::numbers;
use crate::checkpoint::Network;
use crate::error::{Error, Result};
use crate::gpu::tuning::{self, Choices};
use crate::gpu::{self, AdapterSummary, Buffer, Context, Plan, Recorder, Storage};
use crate::kernels::adam::{Betas, GroupValues, StepValues};
use crate::kernels::gemm::{self, Form, Tile};
use crate::model::{ClassifierSettings, LaTransformer, Learner, Optimizer, Trainable, UpdateRule};
use crate::observer::Follower;
use crate::shape::ClassifierKind;
use crate::storage::atomic::write_atomically;
use crate::train::classifiers::init_classifiers;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Timed replays. A candidate's time is the shortest, a step's time is the median.
const REPLAYS: usize = 3;
/// A tile replaces the built-in one only if it takes less than this share of its time; smaller gains may be noise.
const GAIN: f64 = 0.97;

/// A matrix product of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// The transposes of the operands.
    pub form: Form,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Number of times that a step computes it.
    pub count: usize,
}

/// Result for one product.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The product.
    pub product: Product,
    /// Seconds of each valid tile: it gives the same bits as the built-in one, which comes first.
    pub seconds: Vec<(Tile, f64)>,
    /// The fastest tile.
    pub chosen: Tile,
    /// Tiles that gave other bits; they are never chosen.
    pub refused: Vec<Tile>,
}

/// Result of tuning.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Results of the products that there was time for, the most expensive first.
    pub findings: Vec<Finding>,
    /// Number of products that there was no time for.
    pub left: usize,
    /// Median seconds of a step with the built-in tiles, and with the chosen ones.
    pub step: (f64, f64),
    /// The choices to keep; empty if the step did not become faster.
    pub choices: Choices,
}

/// Finds the fastest tiles for embedding, or with `train` for training, batches of `batch` images. The context then
/// uses them; [`keep`] stores them for later runs.
///
/// # Errors
/// Those of the adapter, such as too little memory for the step.
pub fn tune(
    context: &Context,
    network: &Network,
    batch: usize,
    train: bool,
    limit: Duration,
    observer: &dyn Follower<Finding>,
) -> Result<Outcome> {
    let start = Instant::now();
    let before = context.set_choices(Choices::new());
    let outcome = search(context, network, batch, train, start + limit, observer);
    match &outcome {
        Ok(outcome) => context.set_choices(outcome.choices.clone()),
        Err(_) => context.set_choices(before),
    };
    outcome
}

/// Merges choices with those kept for the adapter, and stores them for later runs. Returns the file.
///
/// # Errors
/// Those of [`choices_file`], and [`Error::Io`] if the file cannot be written.
pub fn keep(adapter: &AdapterSummary, choices: &Choices) -> Result<PathBuf> {
    let path = choices_file(adapter)?;
    let mut all = tuning::load(adapter);
    all.extend(choices.clone());
    let text = tuning::text(adapter, &all).map_err(|error| Error::Data(error.to_string()))?;
    write_atomically(&path, text.as_bytes())?;
    Ok(path)
}

/// Removes the choices kept for an adapter. Returns the file, or `None` if there was none.
///
/// # Errors
/// [`Error::Io`] if the file cannot be removed.
pub fn clear(adapter: &AdapterSummary) -> Result<Option<PathBuf>> {
    let Some(path) = tuning::file(adapter) else { return Ok(None) };
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(Some(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("remove", &path)(error)),
    }
}

/// Returns the file that keeps choices for an adapter, and creates its folder.
///
/// # Errors
/// [`Error::Usage`] without a cache folder; [`Error::Io`] if the folder cannot be created.
pub fn choices_file(adapter: &AdapterSummary) -> Result<PathBuf> {
    let path = tuning::file(adapter).ok_or_else(|| {
        Error::Usage("no folder to keep choices in: set HOME or LAT_CACHE to a folder".to_string())
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    Ok(path)
}

fn search(
    context: &Context,
    network: &Network,
    batch: usize,
    train: bool,
    end: Instant,
    observer: &dyn Follower<Finding>,
) -> Result<Outcome> {
    let step = Step::record(context, network, batch, train)?;
    let products = products(&step.plan);
    let built_in = step.seconds(context)?;
    drop(step);

    let mut findings: Vec<Finding> = Vec::new();
    for product in &products {
        // Leaves time to record and measure the whole step twice.
        let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
        if left < 4.0 * (REPLAYS as f64 + 1.0) * built_in && !findings.is_empty() {
            break;
        }
        let finding = compare(context, *product)?;
        observer.event(finding.clone())?;
        findings.push(finding);
    }
    let chosen = findings.iter().filter(|finding| finding.chosen != finding.seconds[0].0);
    let choices: Choices = chosen.map(|finding| (key(context, finding.product), name(finding))).collect();
    let left = products.len() - findings.len();
    if choices.is_empty() {
        return Ok(Outcome { findings, left, step: (built_in, built_in), choices });
    }
    context.set_choices(choices.clone());
    let tuned = Step::record(context, network, batch, train)?.seconds(context)?;
    context.set_choices(Choices::new());
    // Measures the built-in tiles again: the clock of the adapter may have changed meanwhile.
    let again = Step::record(context, network, batch, train)?.seconds(context)?;
    let built_in = built_in.min(again);
    let kept = if tuned < built_in { choices } else { Choices::new() };
    Ok(Outcome { findings, left, step: (built_in, tuned), choices: kept })
}

fn key(context: &Context, product: Product) -> String {
    let Product { form, m, n, k, .. } = product;
    gemm::class_of(form, context.storage(), m, n, k)
}

fn name(finding: &Finding) -> String {
    finding.chosen.name(finding.product.form)
}

/// The products of a plan, the most expensive first.
fn products(plan: &Plan) -> Vec<Product> {
    let mut found: Vec<Product> = Vec::new();
    for (form, [m, n, k]) in plan.dispatches.iter().filter_map(gemm::shape_of) {
        match found.iter_mut().find(|p| (p.form, p.m, p.n, p.k) == (form, m, n, k)) {
            Some(product) => product.count += 1,
            None => found.push(Product { form, m, n, k, count: 1 }),
        }
    }
    found.retain(|p| p.form.in_quads(p.m, p.n, p.k));
    found.sort_by_key(|p| std::cmp::Reverse(p.count * p.m * p.n * p.k));
    found
}

/// A step to time.
struct Step {
    plan: Plan,
    _memory: Vec<Buffer>,
}

impl Step {
    fn record(context: &Context, network: &Network, batch: usize, train: bool) -> Result<Step> {
        if train { Step::training(context, network, batch) } else { Step::embedding(context, network, batch) }
    }

    fn embedding(context: &Context, network: &Network, batch: usize) -> Result<Step> {
        let model = LaTransformer::new(context, network)?;
        let pixels = context.buffer("pixels", model.pixel_words(batch))?;
        let embeddings = context.buffer("embeddings", batch * model.config().embedding_len())?;
        let cameras = context.buffer("cameras", batch)?;
        let mut recorder = Recorder::new(context);
        let by = network.config.cameras.as_ref().map(|_| &cameras);
        model.embed(&mut recorder, &pixels, by, &embeddings, batch);
        Ok(Step { plan: recorder.finish()?, _memory: vec![pixels, cameras, embeddings] })
    }

    /// A training step with all blocks open, which has all products.
    fn training(context: &Context, network: &Network, batch: usize) -> Result<Step> {
        const CLASSES: usize = 16;
        const KIND: ClassifierKind = ClassifierKind::Parts { hidden: 256 };
        let (parts, dim) = (network.config.parts(), network.config.dim);
        let classifiers = init_classifiers(1, parts, dim, KIND, CLASSES);
        let network = Network { classifiers, ..network.clone() };
        let settings = ClassifierSettings { kind: KIND, classes: CLASSES, relu: true, dropout: 0.5 };
        let betas = Betas::default();
        let optimizer = Optimizer::Adam { betas, decoupled: false };
        let rule = UpdateRule { optimizer, ..UpdateRule::default() };
        let stage = Trainable { embeddings: true, first_open: 0 };
        let learner = Learner::new(context, &network, settings, rule, stage)?;
        let step = learner.record_step(batch, batch)?;
        // The learning rate is 0, so replays do not change the weights.
        let groups = vec![GroupValues::new(0.0, betas.corrections(1)); learner.groups().len()];
        let values = StepValues { number: 1, groups, ..StepValues::default() };
        context.write(&step.step, bytemuck::cast_slice(&values.words()));
        Ok(Step { plan: step.plan, _memory: vec![step.labels, step.step, step.losses, step.control] })
    }

    /// The median of a few replays.
    fn seconds(&self, context: &Context) -> Result<f64> {
        let mut seconds = replay(context, &self.plan, REPLAYS)?;
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[REPLAYS / 2])
    }
}

/// Seconds of `count` replays, after one that warms up the driver.
fn replay(context: &Context, plan: &Plan, count: usize) -> Result<Vec<f64>> {
    plan.run(context)?;
    context.wait()?;
    (0..count)
        .map(|_| {
            let start = Instant::now();
            plan.run(context)?;
            context.wait()?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect()
}

/// Validates and times every tile for a product.
fn compare(context: &Context, product: Product) -> Result<Finding> {
    let Product { form, m, n, k, .. } = product;
    let tiles = Tile::equivalent(form, context, m, n, k);
    let operands = Operands::new(context, product)?;
    let mut expected: Option<Vec<u32>> = None;
    let (mut seconds, mut refused): (Vec<(Tile, f64)>, Vec<Tile>) = (Vec::new(), Vec::new());
    for tile in tiles {
        let plan = operands.record(context, product, tile)?;
        // NaN marks elements that a tile does not write.
        context.write(&operands.c, bytemuck::cast_slice(&vec![f32::NAN; operands.c.words]));
        plan.run(context)?;
        let bits: Vec<u32> = context.read(&operands.c)?.into_iter().map(f32::to_bits).collect();
        if *expected.get_or_insert_with(|| bits.clone()) != bits {
            refused.push(tile);
            continue;
        }
        // More replays only if the first is not far from the best.
        let first = replay(context, &plan, 1)?[0];
        let best = seconds.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
        let more = if first < 2.0 * best { replay(context, &plan, REPLAYS - 1)? } else { Vec::new() };
        seconds.push((tile, more.into_iter().fold(first, f64::min)));
    }
    let (mut chosen, mut best) = *seconds.first().ok_or_else(|| {
        Error::Gpu(gpu::Error::Failed(format!("no tile can compute a product of {m}x{n}x{k}")))
    })?;
    best *= GAIN;
    for &(tile, seconds) in &seconds[1..] {
        if seconds < best {
            (chosen, best) = (tile, seconds);
        }
    }
    Ok(Finding { product, seconds, chosen, refused })
}

/// Operands and result of a product, stored as in a step.
struct Operands {
    a: Buffer,
    b: Buffer,
    c: Buffer,
    storage: Storage,
}

impl Operands {
    fn new(context: &Context, product: Product) -> Result<Operands> {
        let Product { form, m, n, k, .. } = product;
        let storage = context.storage();
        let result = if form == Form::Tn { m * n } else { numbers::words(m * n, storage) };
        Ok(Operands {
            a: numbers::tensor(context, "a", 1, m * k, storage)?,
            b: numbers::tensor(context, "b", 2, n * k, storage)?,
            c: context.buffer("c", result)?,
            storage,
        })
    }

    fn record(&self, context: &Context, product: Product, tile: Tile) -> gpu::Result<Plan> {
        let Product { form, m, n, k, .. } = product;
        let mut recorder = Recorder::new(context);
        let result = if form == Form::Tn { Storage::F32 } else { self.storage };
        let [a, b] = [&self.a, &self.b].map(|operand| recorder.import_as(operand, self.storage));
        let c = recorder.import_as(&self.c, result);
        gemm::record_alone(&mut recorder, form, [a, b, c], [m, n, k], tile);
        recorder.finish()
    }
}
