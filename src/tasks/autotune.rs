//! Which tile is quickest for each product of a network on this adapter: every candidate is proved, then timed; the
//! choice is confirmed on the whole step, or dropped.

use crate::cases::numbers;
use crate::checkpoint::Network;
use crate::error::{Error, Result};
use crate::gpu::tuning::Choices;
use crate::gpu::{self, Buffer, Context, Plan, Recorder, Storage};
use crate::kernels::adam::{Betas, StepValues};
use crate::kernels::gemm::{self, Form, Tile};
use crate::model::{ClassifierSettings, LaTransformer, Learner, Trainable, UpdateRule};
use crate::observer::Follower;
use crate::train::classifiers::init_classifiers;
use std::time::{Duration, Instant};

/// Timed replays of a candidate, and of a whole step: the quickest counts for a candidate, the median for a step.
const REPLAYS: usize = 3;
/// A candidate is replaced only by one that is quicker by this factor: less may be noise.
const GAIN: f64 = 0.97;

/// A product of the network's steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// Which operand is turned.
    pub form: Form,
    /// Rows of the result.
    pub m: usize,
    /// Its columns.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// How often a step computes it.
    pub count: usize,
}

/// What was found for one product.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The product.
    pub product: Product,
    /// Seconds of each tile that gave the same bits as the first, the built-in one first.
    pub seconds: Vec<(Tile, f64)>,
    /// The quickest.
    pub chosen: Tile,
    /// Tiles whose bits differed: never chosen.
    pub refused: Vec<Tile>,
}

/// What tuning came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// For each product that there was time for, the dearest first.
    pub findings: Vec<Finding>,
    /// Products that there was no time for.
    pub left: usize,
    /// Median seconds of a whole step with the built-in tiles, and with the chosen ones.
    pub step: (f64, f64),
    /// What is worth keeping: nothing if the whole step didn't become quicker.
    pub choices: Choices,
}

/// Finds the quickest tiles for embedding `batch` images at once, and with `train` for a training step of as many.
///
/// # Errors
/// If the adapter can't hold the step, or fails.
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
        // The last quarter of the time is for the proof on the whole step.
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
    // Once more as it was: the machine may have changed its pace in the meantime.
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

/// The products of a plan, those that take most of its operations first.
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

/// A whole step to time.
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
        let mut recorder = Recorder::new(context);
        model.embed(&mut recorder, &pixels, &embeddings, batch);
        Ok(Step { plan: recorder.finish()?, _memory: vec![pixels, embeddings] })
    }

    /// With everything open: of the stages the one that has all products.
    fn training(context: &Context, network: &Network, batch: usize) -> Result<Step> {
        const CLASSES: usize = 16;
        const HIDDEN: usize = 256;
        let (parts, dim) = (network.config.parts(), network.config.dim);
        let heads = init_classifiers(1, parts, dim, HIDDEN, CLASSES);
        let network = Network { heads, ..network.clone() };
        let settings = ClassifierSettings { hidden: HIDDEN, classes: CLASSES, relu: true, dropout: 0.5 };
        let betas = Betas::default();
        let rule = UpdateRule { betas, decoupled: false, label_smoothing: 0.0, triplet_margin: None };
        let stage = Trainable { embeddings: true, first_open: 0 };
        let learner = Learner::new(context, &network, settings, rule, stage)?;
        let step = learner.record_step(batch, batch)?;
        // A learning rate of 0.
        let corrections = vec![betas.corrections(1); learner.groups().len()];
        let values = StepValues { number: 1, corrections, ..StepValues::default() };
        context.write(&step.step, bytemuck::cast_slice(&values.words()));
        Ok(Step { plan: step.plan, _memory: vec![step.labels, step.step, step.losses, step.control] })
    }

    /// The median of a few replays, after one for the driver's compiler.
    fn seconds(&self, context: &Context) -> Result<f64> {
        let mut seconds = replay(context, &self.plan, REPLAYS)?;
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[REPLAYS / 2])
    }
}

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

/// Proves and times every tile for a product.
fn compare(context: &Context, product: Product) -> Result<Finding> {
    let Product { form, m, n, k, .. } = product;
    let tiles = Tile::equivalent(form, context, m, n, k);
    let operands = Operands::new(context, product)?;
    let mut proof: Option<Vec<u32>> = None;
    let (mut seconds, mut refused): (Vec<(Tile, f64)>, Vec<Tile>) = (Vec::new(), Vec::new());
    for tile in tiles {
        let plan = operands.record(context, product, tile)?;
        // NaN shows what a tile leaves unwritten.
        context.write(&operands.c, bytemuck::cast_slice(&vec![f32::NAN; operands.c.words]));
        plan.run(context)?;
        let bits: Vec<u32> = context.read(&operands.c)?.into_iter().map(f32::to_bits).collect();
        if *proof.get_or_insert_with(|| bits.clone()) != bits {
            refused.push(tile);
            continue;
        }
        // One replay tells whether more are worth their time.
        let first = replay(context, &plan, 1)?[0];
        let best = seconds.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
        let more = if first < 2.0 * best { replay(context, &plan, REPLAYS - 1)? } else { Vec::new() };
        seconds.push((tile, more.into_iter().fold(first, f64::min)));
    }
    let (mut chosen, mut best) = *seconds.first().ok_or_else(|| {
        Error::Gpu(gpu::Error::Failed(format!("no tile computes a product of {m}x{n}x{k} twice alike")))
    })?;
    best *= GAIN;
    for &(tile, seconds) in &seconds[1..] {
        if seconds < best {
            (chosen, best) = (tile, seconds);
        }
    }
    Ok(Finding { product, seconds, chosen, refused })
}

/// Operands and result of a product, in the context's storage where a step has them so.
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
