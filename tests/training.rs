//! Training against PyTorch: every gradient at every freeze stage, BatchNorm's statistics, ten losses of each preset.
//!
//! Third and fourth steps of the chain of trust: the goldens are computed in float64 by
//! `tools/make_training_goldens.py`.

mod common;
#[path = "common/goldens.rs"]
mod goldens;

use common::{assert_same_bits, bits, context};
use lat_wgpu::checkpoint::{self, ClassifiersInfo, HostTensor, Network, Settings, trained_metadata};
use lat_wgpu::datasets::cameras::Cameras;
use lat_wgpu::gpu::{Context, ContextOptions, Precision};
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::kernels::adam::{GroupValues, StepValues};
use lat_wgpu::kernels::triplet::Margin;
use lat_wgpu::model::{
    ClassifierSettings, EvaluationStep, GroupKind, HostMoments, Learner, PrototypeRule, Trainable,
    TrainingStep, UpdateRule,
};
use lat_wgpu::shape::{ClassifierKind, HeadEmbed, VitConfig};
use lat_wgpu::tasks::embed::Embedder;
use lat_wgpu::train::config::{Config, LrStep, Optimizer, Preset};
use lat_wgpu::train::schedule::Schedule;
use lat_wgpu::train::trainer::weighted_vote;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Largest relative error of the tenth loss.
const LOSS_TOLERANCE: f64 = 1e-4;
/// Largest NMSE of a gradient.
const GRADIENT_TOLERANCE: f64 = 1e-10;

/// Largest error of a parameter after ten steps, relative where it is above 1.
const TENSOR_TOLERANCE: f32 = 2e-6;

struct Golden {
    case: String,
    network: Network,
    recipe: Value,
    images: Vec<u8>,
    labels: Vec<u32>,
    tensors: BTreeMap<String, Vec<f32>>,
    counts: BTreeMap<String, Vec<i64>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/training")
}

fn read(case: &str) -> Golden {
    let path = folder().join(format!("{case}.golden.safetensors"));
    let (_, metadata) = checkpoint::list(&path).unwrap();
    let model = folder().join(format!("{}.model.safetensors", metadata["model"]));
    let network = checkpoint::load(&model, &goldens::settings(&metadata)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (mut tensors, mut counts) = (BTreeMap::new(), BTreeMap::new());
    for (name, view) in file.tensors() {
        match view.dtype() {
            safetensors::Dtype::F32 => {
                tensors.insert(name, bytemuck::pod_collect_to_vec(view.data()));
            }
            safetensors::Dtype::I64 => {
                counts.insert(name, bytemuck::pod_collect_to_vec(view.data()));
            }
            _ => {}
        }
    }
    Golden {
        case: case.to_string(),
        network,
        recipe: serde_json::from_str(&metadata["training"]).unwrap(),
        images: file.tensor("images").unwrap().data().to_vec(),
        labels: counts["labels"].iter().map(|&label| label as u32).collect(),
        tensors,
        counts,
    }
}

impl Golden {
    fn number(&self, key: &str) -> f64 {
        self.recipe[key].as_f64().unwrap_or_else(|| panic!("{}: {key}", self.case))
    }

    fn is(&self, key: &str) -> bool {
        self.recipe[key].as_bool().unwrap_or_else(|| panic!("{}: {key}", self.case))
    }

    /// The golden's settings as a configuration with one step per epoch.
    fn config(&self) -> Config {
        let mut config = Config::preset(Preset::Paper);
        let (optim, schedule) = (&mut config.optim, &mut config.schedule);
        optim.optimizer = serde_json::from_value(self.recipe["optimizer"].clone()).unwrap();
        optim.lr = self.number("lr");
        optim.lr_decay = self.number("lr_decay");
        optim.decay_every_interval = self.is("decay_every_interval");
        optim.warmup_epochs = self.number("warmup_epochs") as usize;
        optim.cosine = self.is("cosine");
        optim.weight_decay = self.number("weight_decay");
        optim.clip_norm = self.number("clip_norm");
        let given = |key: &str, default: f64| self.recipe[key].as_f64().unwrap_or(default);
        optim.momentum = given("sgd_momentum", optim.momentum);
        optim.bias_lr_factor = given("bias_lr_factor", 1.0);
        optim.layer_decay = given("layer_decay", 1.0);
        optim.ema = given("ema", 0.0);
        if self.recipe["warmup_factor"].is_number() {
            optim.lr_step = LrStep::Epoch;
            optim.warmup_factor = self.number("warmup_factor");
            optim.lr_min_factor = self.number("lr_min_factor");
            optim.lr_epoch_offset = given("lr_epoch_offset", 0.0) as usize;
        }
        schedule.epochs = self.number("epochs") as usize;
        schedule.unfreeze_every = self.number("unfreeze_every") as usize;
        schedule.first_unfreeze = self.number("first_unfreeze") as usize;
        schedule.blockwise = !self.is("all_open");
        schedule.freeze_embeddings = self.is("freeze_embeddings");
        config
    }

    fn learner(&self, trainable: Trainable) -> Learner<'static> {
        self.learner_on(context(), trainable)
    }

    fn rule(&self) -> UpdateRule {
        UpdateRule {
            optimizer: self.config().optim.rule(),
            ema: self.config().optim.averages(),
            identity: self.recipe["identity"].as_f64().unwrap_or(1.0) as f32,
            label_smoothing: self.number("smoothing") as f32,
            triplet_margin: match &self.recipe["triplet_margin"] {
                Value::String(_) => Some(Margin::Soft),
                margin => margin.as_f64().map(|margin| Margin::Hard(margin as f32)),
            },
            prototypes: self.recipe["prototypes"].as_f64().map(|weight| PrototypeRule {
                weight: weight as f32,
                temperature: self.number("temperature") as f32,
                momentum: self.number("momentum") as f32,
                hard: self.is("hard_update"),
            }),
            embed: if self.recipe["embed"] == "after" { HeadEmbed::After } else { HeadEmbed::Before },
        }
    }

    fn learner_on<'c>(&self, context: &'c Context, trainable: Trainable) -> Learner<'c> {
        let kind = match self.recipe["head"].as_str() {
            Some("bnneck") => ClassifierKind::Bnneck,
            _ => ClassifierKind::Parts { hidden: 256 },
        };
        let heads = ClassifierSettings { kind, classes: self.classes(), relu: self.is("relu"), dropout: 0.0 };
        let rule = self.rule();
        let mut learner = Learner::new(context, &self.network, heads, rule, trainable).unwrap();
        if let Some(memory) = self.tensors.get("memory") {
            let temperature = self.number("temperature") as f32;
            learner.write_prototypes(&memory.iter().map(|v| v / temperature).collect::<Vec<f32>>()).unwrap();
        }
        learner.set_drop_path(self.recipe["drop_path"].as_f64().unwrap_or(0.0) as f32);
        learner
    }

    /// Rows of the images in the camera embedding.
    fn cameras(&self) -> Option<Vec<u32>> {
        self.counts.get("cameras").map(|rows| rows.iter().map(|&row| row as u32).collect())
    }

    fn classes(&self) -> usize {
        let names = ["heads.0.fc2.weight", "heads.0.classifier.weight"];
        names.iter().find_map(|&name| self.network.classifiers.get(name)).unwrap().shape[0]
    }

    /// Runs one step, and returns the loss and the gradient norm.
    fn step(&self, step: &TrainingStep, values: &StepValues) -> (f64, f32) {
        step.write(context(), &self.images, &self.labels, &vec![0; self.labels.len()]);
        context().write(&step.step, bytemuck::cast_slice(&values.words()));
        if let Some(cameras) = self.cameras() {
            step.write_cameras(context(), &cameras);
        }
        if let Some(masks) = self.tensors.get("masks") {
            let each = masks.len() / 10;
            step.write_drop_path(context(), &masks[(values.number as usize - 1) * each..][..each]);
        }
        step.plan.fill_heaps(context(), 0x7fc0_0000);
        step.plan.run(context()).unwrap();
        let rows = context().read(&step.losses).unwrap();
        let control = context().read(&step.control).unwrap();
        assert_eq!(control[0].to_bits(), 1, "{}: not finite", self.case);
        (rows.iter().map(|&r| f64::from(r)).sum::<f64>() / self.labels.len() as f64, control[2])
    }
}

/// Values for a step that leaves gradients unchanged.
fn idle(depth: usize) -> StepValues {
    rated(depth, 0.0)
}

/// Values of a first step with a learning rate.
fn rated(depth: usize, rate: f32) -> StepValues {
    let groups = vec![GroupValues::new(rate, [1.0, 1.0]); depth + 3];
    StepValues { number: 1, groups, ..StepValues::default() }
}

/// The range of elements whose gradients are zero in exact arithmetic: BatchNorm cancels a constant added to every
/// sample, softmax one added to every key.
fn exactly_zero(name: &str, len: usize) -> Range<usize> {
    let cancelled = name == "norm.bias" || name == "b2.1.bias" || name.ends_with("reatten_matrix.bias");
    if cancelled || name.ends_with("fc1.bias") && name.starts_with("heads.") {
        0..len
    } else if name.ends_with("attn.qkv.bias") {
        len / 3..2 * len / 3
    } else {
        0..0
    }
}

/// Share of the tolerance that a gradient's error uses.
fn share(name: &str, found: &[f32], wanted: &[f32], zero: Range<usize>, scale: f64) -> f64 {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let (mut error, mut square, mut worst) = (0.0, 0.0, 0f64);
    for (i, (&f, &w)) in found.iter().zip(wanted).enumerate() {
        let (f, w) = (f64::from(f), f64::from(w));
        if zero.contains(&i) {
            worst = worst.max(f.abs());
        } else {
            error += (f - w) * (f - w);
            square += w * w;
        }
    }
    let nmse = if square > 0.0 { error / square } else { error };
    // Zeros are rounding errors of sums with terms as large as the largest gradient.
    (nmse / GRADIENT_TOLERANCE).max(worst / (1e-5 * scale))
}

#[test]
fn gradients_and_statistics_agree_with_pytorch_at_every_stage() {
    for case in [
        "paper",
        "released_code",
        "kinds",
        "registers",
        "adamw",
        "triplet",
        "soft_margin",
        "bnneck",
        "bnneck_rows",
        "prototypes",
        "prototypes_after",
        "clusters",
        "transreid",
        "cameras",
        "transreid_full",
        "prototypes_preset",
        "bands",
        "drop_path",
        "drop_path_scale",
        "deepvit",
    ] {
        let golden = read(case);
        let depth = golden.network.config.depth;
        // The loss of unit parts depends on a constant added to every sample.
        let unit_parts = golden.recipe["prototypes"].is_number() && golden.recipe["embed"] != "after";
        let scale = golden
            .tensors
            .iter()
            .filter(|(name, _)| name.starts_with("grad."))
            .flat_map(|(_, data)| data)
            .fold(0f64, |m, &v| m.max(f64::from(v).abs()));
        for embeddings in [false, true] {
            for first_open in 0..=depth {
                let stage = Trainable { embeddings, first_open };
                let learner = golden.learner(stage);
                let step = learner.record_step(golden.labels.len(), golden.labels.len()).unwrap();
                let (loss, _) = golden.step(&step, &idle(depth));
                let wanted = f64::from(golden.tensors["loss"][0]);
                assert!((loss - wanted).abs() <= 1e-6 * wanted, "{case} {stage:?}: loss {loss}, {wanted}");
                let gradients = learner.read_gradients().unwrap();
                let mut worst = (0.0, String::new());
                for (name, HostTensor { data, .. }) in &gradients {
                    let Some(wanted) = golden.tensors.get(&format!("grad.{name}")) else { continue };
                    let zero = match unit_parts && name == "norm.bias" {
                        true => 0..0,
                        false => exactly_zero(name, data.len()),
                    };
                    let used = share(name, data, wanted, zero, scale);
                    if used > worst.0 {
                        worst = (used, name.clone());
                    }
                    assert!(used <= 1.0, "{case} {stage:?} {name}: {:.0} % of the tolerance", 100.0 * used);
                }
                println!(
                    "{case:<14} {stage:?}: at most {:.2} % of the tolerance ({})",
                    100.0 * worst.0,
                    worst.1
                );
                let parameters = learner.read_parameters().unwrap();
                for (name, wanted) in &golden.tensors {
                    let Some(name) = name.strip_prefix("after.") else { continue };
                    for (f, w) in parameters[name].data.iter().zip(wanted) {
                        assert!((f - w).abs() <= 2e-6 * w.abs().max(1.0), "{case} {name}: {f}, {w}");
                    }
                }
            }
        }
    }
}

#[test]
fn ten_losses_agree_with_pytorch_for_each_preset() {
    for case in [
        "paper",
        "released_code",
        "full",
        "strong",
        "triplet",
        "soft_margin",
        "adamw",
        "sgd",
        "kinds",
        "registers",
        "bnneck",
        "bnneck_rows",
        "prototypes",
        "prototypes_after",
        "clusters",
        "transreid",
        "transreid_masks",
        "cameras",
        "transreid_full",
        "transreid_full_masks",
        "personvit",
        "prototypes_preset",
        "bands",
        "drop_path",
        "drop_path_scale",
        "deepvit",
        "deepvit_paper",
        "deepvit_masks",
    ] {
        let golden = read(case);
        let VitConfig { depth, .. } = golden.network.config;
        let config = golden.config();
        let schedule = Schedule::new(&config, depth, 1);
        let mut learner = golden.learner(schedule.stage(0));
        let mut step = learner.record_step(golden.labels.len(), golden.labels.len()).unwrap();
        let mut worst = 0f64;
        for epoch in 0..10 {
            let stage = schedule.stage(epoch);
            if stage != learner.trainable() {
                learner.open(stage).unwrap();
                step = learner.record_step(golden.labels.len(), golden.labels.len()).unwrap();
            }
            assert_eq!(learner.trainable_parameters() as i64, golden.counts["trainable"][epoch], "{case}");
            let number = epoch as u64 + 1;
            let lr = schedule.lr(epoch, 0);
            let wanted_lr = f64::from(golden.tensors["lr"][epoch]);
            assert!((lr - wanted_lr).abs() <= 1e-6 * wanted_lr, "{case}: lr {lr}, {wanted_lr}");
            let values = StepValues {
                number: number as u32,
                weight_decay: config.optim.weight_decay as f32,
                clip_norm: config.optim.clip_norm as f32,
                groups: schedule.groups(epoch, 0),
                ..StepValues::default()
            };
            let (loss, norm) = golden.step(&step, &values);
            let wanted = f64::from(golden.tensors["losses"][epoch]);
            let error = (loss - wanted).abs() / wanted;
            worst = worst.max(error / LOSS_TOLERANCE);
            assert!(error <= LOSS_TOLERANCE, "{case} step {number}: {loss}, PyTorch {wanted}: {error:e}");
            let wanted = golden.tensors["grad_norms"][epoch];
            assert!((norm - wanted).abs() <= 1e-3 * wanted, "{case} step {number}: norm {norm}, {wanted}");
        }
        println!("{case:<14} ten losses: at most {:.2} % of the tolerance", 100.0 * worst);
        // Adam makes large steps out of rounding errors where a gradient is zero in exact arithmetic.
        if config.optim.optimizer == Optimizer::Sgd {
            agree(&golden, "final.", &learner.read_parameters().unwrap());
        }
        assert_eq!(learner.read_averages().unwrap().is_some(), config.optim.ema > 0.0, "{case}");
        if let Some(averages) = learner.read_averages().unwrap() {
            agree(&golden, "average.", &averages);
        }
        let Some(wanted) = golden.tensors.get("final_memory") else { continue };
        let temperature = golden.number("temperature") as f32;
        let found = learner.read_prototypes().unwrap().unwrap();
        let error = found.iter().zip(wanted).map(|(f, w)| (f * temperature - w).abs()).fold(0f32, f32::max);
        println!("{case:<14} prototypes after ten steps differ by at most {error:.1e}");
        assert!(error < 1e-4, "{case}: prototypes differ by {error:e}");
    }
}

/// Checks tensors against the golden's whose names begin with `prefix`.
fn agree(golden: &Golden, prefix: &str, tensors: &BTreeMap<String, HostTensor>) {
    let wanted: Vec<_> =
        golden.tensors.iter().filter_map(|(name, data)| Some((name.strip_prefix(prefix)?, data))).collect();
    assert!(!wanted.is_empty(), "{}: no {prefix}", golden.case);
    let mut worst = 0f32;
    for (name, wanted) in wanted {
        for (found, wanted) in tensors[name].data.iter().zip(wanted) {
            let error = (found - wanted).abs() / wanted.abs().max(1.0);
            worst = worst.max(error);
            assert!(error <= TENSOR_TOLERANCE, "{} {prefix}{name}: {found}, {wanted}", golden.case);
        }
    }
    println!(
        "{:<14} {prefix}: at most {:.2} % of the tolerance",
        golden.case,
        100.0 * worst / TENSOR_TOLERANCE
    );
}

#[test]
fn micro_batches_have_the_gradients_of_the_whole_batch() {
    for case in ["paper", "kinds", "bands", "cameras", "transreid_full_masks", "drop_path", "drop_path_scale"]
    {
        let mut golden = read(case);
        // Two persons, as the triplet loss needs.
        golden.labels.iter_mut().enumerate().for_each(|(i, label)| *label = i as u32 % 2);
        golden.recipe["triplet_margin"] = 0.3.into();
        let depth = golden.network.config.depth;
        let batch = golden.labels.len();
        for stage in
            [Trainable { embeddings: true, first_open: 0 }, Trainable { embeddings: false, first_open: 1 }]
        {
            let mut wanted: Option<(f64, BTreeMap<String, HostTensor>)> = None;
            for piece in [batch, 1, 2, 3, batch - 1] {
                let learner = golden.learner(stage);
                let step = learner.record_step(batch, piece).unwrap();
                let (loss, _) = golden.step(&step, &idle(depth));
                let gradients = learner.read_gradients().unwrap();
                let need = learner.need(stage, batch, piece).unwrap();
                assert_eq!(need.step_bytes, step.bytes(), "{case} {stage:?} {piece}: predicted bytes");
                assert_eq!(&need.step, step.plan.summary());
                assert_eq!(need.state_bytes, learner.state_bytes());
                let Some((whole_loss, whole)) = &wanted else {
                    wanted = Some((loss, gradients));
                    continue;
                };
                // The classifiers see the same parts, so their losses are bit-identical.
                assert_eq!(loss, *whole_loss, "{case} {stage:?} pieces of {piece}");
                for (name, HostTensor { data, .. }) in &gradients {
                    let wanted = &whole[name].data;
                    let square = |v: f64| v * v;
                    let sum: f64 = wanted.iter().map(|&w| square(f64::from(w))).sum();
                    let errors = data.iter().zip(wanted).map(|(&f, &w)| square(f64::from(f) - f64::from(w)));
                    let nmse = errors.sum::<f64>() / sum.max(1e-20);
                    let bound = if exactly_zero(name, data.len()).is_empty() { 1e-11 } else { f64::INFINITY };
                    assert!(nmse <= bound, "{case} {stage:?} pieces of {piece}, {name}: NMSE {nmse:e}");
                }
            }
        }
    }
}

#[test]
fn evaluation_uses_running_statistics() {
    let golden = read("paper");
    let learner = golden.learner(Trainable { embeddings: false, first_open: 3 });
    let batch = golden.labels.len();
    let evaluation = learner.record_evaluation(batch).unwrap();
    evaluation.write(context(), &golden.images);
    evaluation.plan.run(context()).unwrap();
    let logits = context().read(&evaluation.output).unwrap();
    let classes = golden.classes();
    let (mut loss, mut votes) = (0.0, Vec::new());
    for (b, &label) in golden.labels.iter().enumerate() {
        let (row_loss, class) = lat_wgpu::train::trainer::vote(&logits, b, batch, classes, label as usize);
        loss += row_loss / batch as f64;
        votes.push(class as i64);
    }
    let wanted = f64::from(golden.tensors["eval_loss"][0]);
    assert!((loss - wanted).abs() <= 1e-5 * wanted, "{loss}, {wanted}");
    assert_eq!(votes, golden.counts["eval_predictions"]);
}

/// The logits of a golden's images.
fn logits(golden: &Golden, context: &Context, evaluation: &EvaluationStep) -> Vec<u32> {
    evaluation.write(context, &golden.images);
    evaluation.plan.run(context).unwrap();
    bits(&context.read(&evaluation.output).unwrap())
}

#[test]
fn averages_follow_the_open_groups() {
    const DECAY: f64 = 0.75;
    let mut golden = read("paper");
    golden.recipe["ema"] = DECAY.into();
    let depth = golden.network.config.depth;
    let stage = Trainable { embeddings: false, first_open: 1 };
    let learner = golden.learner(stage);
    let before = learner.read_parameters().unwrap();
    let batch = golden.labels.len();
    let step = learner.record_step(batch, batch).unwrap();
    assert_eq!(learner.need(stage, batch, batch).unwrap().state_bytes, learner.state_bytes());
    assert_eq!(learner.evaluation_need(batch), learner.record_evaluation(batch).unwrap().bytes());
    golden.step(&step, &rated(depth, 0.01));
    let after = learner.read_parameters().unwrap();
    let averages = learner.read_averages().unwrap().unwrap();
    assert_eq!(averages.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, HostTensor { data, .. }) in &averages {
        let (before, after) = (&before[name].data, &after[name].data);
        if !stage.contains(GroupKind::of(name)) {
            assert_same_bits(name, data, after);
            continue;
        }
        for ((average, before), after) in data.iter().zip(before).zip(after) {
            let [average, before, after] = [*average, *before, *after].map(f64::from);
            let wanted = before + (1.0 - DECAY) * (after - before);
            let error = (average - wanted).abs();
            assert!(error <= 2f64.powi(-22) * (before.abs() + after.abs()), "{name}: {average}, {wanted}");
        }
        assert!(bits(data) != bits(after), "{name} didn't move");
    }
    // Some of the averages can be written alone.
    let other = golden.learner(stage);
    let some = averages.iter().filter(|(name, _)| name.starts_with("heads."));
    other.write_averages(some.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()).unwrap();
    for (name, HostTensor { data, .. }) in other.read_averages().unwrap().unwrap() {
        let wanted = if name.starts_with("heads.") { &averages[&name] } else { &before[&name] };
        assert_same_bits(&name, &data, &wanted.data);
    }
}

#[test]
fn averages_are_evaluated_and_training_does_not_notice() {
    let f16 = ContextOptions { precision: Precision::F16, ..ContextOptions::from_environment(None) };
    let f16 = Context::open(&f16).unwrap();
    for context in [context(), &f16] {
        let mut golden = read("paper");
        golden.recipe["ema"] = 0.75.into();
        let depth = golden.network.config.depth;
        let stage = Trainable { embeddings: true, first_open: 0 };
        let [plain, evaluated] = [(); 2].map(|()| golden.learner_on(context, stage));
        let batch = golden.labels.len();
        let mut counted = 0;
        let evaluation = evaluated.record_evaluation(batch).unwrap();
        for learner in [&plain, &evaluated] {
            let step = learner.record_step(batch, batch).unwrap();
            step.write(context, &golden.images, &golden.labels, &vec![0; batch]);
            context.write(&step.step, bytemuck::cast_slice(&rated(depth, 0.01).words()));
            for _ in 0..6 {
                step.plan.run(context).unwrap();
                counted += usize::from(learner.read_control().unwrap().counted);
                if std::ptr::eq(learner, &evaluated) {
                    logits(&golden, context, &evaluation);
                }
            }
        }
        assert!(counted >= 4, "{counted} steps of {:?} counted", context.precision());
        let averages = plain.read_averages().unwrap().unwrap();
        for (name, tensor) in evaluated.read_averages().unwrap().unwrap() {
            assert_same_bits(&name, &tensor.data, &averages[&name].data);
        }
        // A network with the averages as its weights gives the same logits, and one with the weights gives others.
        golden.recipe["ema"] = Value::Null;
        let mut of = |tensors: &BTreeMap<String, HostTensor>| {
            let Network { tensors: backbone, classifiers, .. } = &mut golden.network;
            for (name, tensor) in backbone.iter_mut().chain(classifiers) {
                if let Some(found) = tensors.get(name) {
                    *tensor = found.clone();
                }
            }
            let learner = golden.learner_on(context, stage);
            logits(&golden, context, &learner.record_evaluation(batch).unwrap())
        };
        let (of_weights, of_averages) = (of(&plain.read_parameters().unwrap()), of(&averages));
        let found = logits(&golden, context, &evaluation);
        assert!(found == of_averages && found != of_weights, "{:?}", context.precision());
    }
}

#[test]
fn goldens_of_presets_have_their_settings() {
    for (case, preset) in [
        ("full", Preset::Full),
        ("transreid", Preset::Transreid),
        ("transreid_full", Preset::TransreidFull),
        ("personvit", Preset::Personvit),
        ("prototypes_preset", Preset::Prototypes),
    ] {
        let (golden, wanted) = (read(case), Config::preset(preset));
        let mut found = golden.config();
        assert_eq!(found.optim, wanted.optim, "{case}");
        found.schedule.batch_size = wanted.schedule.batch_size;
        found.schedule.micro_batch = wanted.schedule.micro_batch;
        assert_eq!(found.schedule, wanted.schedule, "{case}");
        let rule = golden.rule();
        assert_eq!(rule.triplet_margin, wanted.loss.triplet_margin(), "{case}");
        assert_eq!(rule.prototypes, wanted.loss.prototype_rule(), "{case}");
        assert_eq!((rule.identity, rule.embed), (wanted.loss.identity as f32, wanted.head.embed), "{case}");
        assert_eq!(rule.label_smoothing, wanted.loss.label_smoothing as f32, "{case}");
        let network = &golden.network.config;
        assert_eq!(network.jigsaw, wanted.model.jigsaw, "{case}");
        let weight = network.cameras.as_ref().map_or(0.0, |cameras| f64::from(cameras.weight));
        assert_eq!(weight, wanted.model.camera_embedding, "{case}");
        let gelt = golden.network.config.gelt;
        assert_eq!((gelt.tokens, gelt.parts), (wanted.model.tokens, wanted.model.parts), "{case}");
    }
}

#[test]
fn embeddings_after_bnneck_agree_with_pytorch() {
    for case in ["bnneck", "bnneck_rows"] {
        let golden = read(case);
        let size = golden.network.config.image;
        let len = size.height * size.width * 3;
        let images = golden.images.chunks(len);
        let images: Vec<Rgb> = images
            .map(|pixels| Rgb { height: size.height, width: size.width, pixels: pixels.to_vec() })
            .collect();
        let wanted = &golden.tensors["embeddings_after"];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        // As a run saves it: with all classifiers, and the side that embeds in the metadata.
        let mut config = golden.network.config.clone();
        config.head_embed = HeadEmbed::After;
        let names: Vec<String> = (0..golden.classes()).map(|class| class.to_string()).collect();
        let heads = ClassifiersInfo { kind: ClassifierKind::Bnneck, relu: false, classes: golden.classes() };
        let mut tensors = golden.network.tensors.clone();
        tensors.extend(golden.network.classifiers.clone());
        let entry = trained_metadata(&config, &golden.network.preprocess, &names, heads);
        checkpoint::save(&path, &tensors, &BTreeMap::new(), entry.text()).unwrap();
        let embed = |settings: &Settings| {
            let network = checkpoint::load(&path, settings).unwrap();
            let found = Embedder::new(context(), &network, Some(3), 1 << 30).unwrap().embed(&images).unwrap();
            let worst = found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0f32, f32::max);
            (network.weights_sha256(), worst)
        };
        let before = Settings { head_embed: Some(HeadEmbed::Before), ..Settings::default() };
        let ((after_hash, after), (before_hash, before)) = (embed(&Settings::default()), embed(&before));
        println!("{case}: embeddings after BNNeck differ by {after:.1e}, those before by {before:.1e}");
        assert!(after < 2e-6 && before > 0.05, "{case}: {after}, {before}");
        assert_ne!(after_hash, before_hash, "{case}: the BatchNorm belongs to the weights that embed");

        // A network that embeds after the BatchNorm needs its tensors.
        tensors.remove("heads.0.bn.running_var");
        checkpoint::save(&path, &tensors, &BTreeMap::new(), entry.text()).unwrap();
        let error = checkpoint::load(&path, &Settings::default()).unwrap_err().to_string();
        assert!(error.contains("heads.0.bn.running_var"), "{error}");
    }
}

#[test]
fn embeddings_by_camera_agree_with_pytorch() {
    for case in ["cameras", "transreid_full"] {
        embeds_as_pytorch(case);
    }
}

#[test]
fn embeddings_of_reattention_use_running_statistics() {
    let golden = read("deepvit");
    let size = golden.network.config.image;
    let images = golden.images.chunks(size.height * size.width * 3);
    let images: Vec<Rgb> = images
        .map(|pixels| Rgb { height: size.height, width: size.width, pixels: pixels.to_vec() })
        .collect();
    let embed = |network: &Network, images: &[Rgb]| {
        Embedder::new(context(), network, Some(images.len()), 1 << 30).unwrap().embed(images).unwrap()
    };
    let found = embed(&golden.network, &images);
    let pairs = found.iter().zip(&golden.tensors["embeddings"]);
    let worst = pairs.map(|(f, w)| (f - w).abs()).fold(0f32, f32::max);
    println!("deepvit: embeddings differ by {worst:.1e}");
    assert!(worst < 2e-6, "{worst}");
    // An image doesn't depend on the others.
    assert_same_bits("alone", &embed(&golden.network, &images[..1]), &found[..found.len() / images.len()]);
    // The statistics are part of the network.
    let mut other = golden.network.clone();
    other.tensors.get_mut("blocks.1.attn.var_norm.running_var").unwrap().data[2] *= 1.5;
    assert_ne!(embed(&other, &images), found);
    assert_ne!(other.weights_sha256(), golden.network.weights_sha256());
    // So does evaluation in training.
    let learner = golden.learner(Trainable { embeddings: true, first_open: 0 });
    let evaluation = learner.record_evaluation(images.len()).unwrap();
    logits(&golden, context(), &evaluation);
    let logits = context().read(&evaluation.output).unwrap();
    let losses = golden.labels.iter().enumerate().map(|(b, &label)| {
        weighted_vote(&logits, b, images.len(), golden.classes(), label as usize, [1.0; 2]).0
    });
    let loss = losses.sum::<f64>() / images.len() as f64;
    let wanted = f64::from(golden.tensors["eval_loss"][0]);
    assert!((loss - wanted).abs() < 1e-5 * wanted, "{loss}, {wanted}");
}

/// Compares embeddings and evaluation of a network with a camera embedding.
fn embeds_as_pytorch(case: &str) {
    let golden = read(case);
    let size = golden.network.config.image;
    let images = golden.images.chunks(size.height * size.width * 3);
    let images: Vec<Rgb> = images
        .map(|pixels| Rgb { height: size.height, width: size.width, pixels: pixels.to_vec() })
        .collect();
    let (wanted, rows) = (&golden.tensors["embeddings"], golden.cameras().unwrap());
    let embed = |network: &Network, rows: &[u32]| {
        let mut embedder = Embedder::new(context(), network, Some(images.len()), 1 << 30).unwrap();
        embedder.embed_by(&images, rows).unwrap()
    };
    let worst = |found: &[f32]| found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0f32, f32::max);
    let right = worst(&embed(&golden.network, &rows));
    println!("{case}: embeddings differ by {right:.1e}");
    assert!(right < 2e-6, "{right}");
    // The camera matters, and so does the table.
    let mut plain = golden.network.clone();
    plain.config.cameras = None;
    plain.tensors.remove(checkpoint::CAMERAS);
    for other in [embed(&golden.network, &vec![0; images.len()]), embed(&plain, &rows)] {
        assert!(worst(&other) > 1e-3);
    }
    assert_ne!(plain.weights_sha256(), golden.network.weights_sha256());
    // Images without a name need a camera that is set for all.
    let mut embedder = Embedder::new(context(), &golden.network, Some(2), 1 << 30).unwrap();
    let refused = embedder.embed(&images[..1]).unwrap_err();
    assert!(refused.hint().is_some_and(|hint| hint.contains("--camera")), "{refused}");
    embedder.set_cameras(Cameras::One("c1".to_string()));
    let first = embedder.embed(&images[..1]).unwrap();
    assert_same_bits("the first image", &first, &embed(&golden.network, &rows)[..first.len()]);
    // Evaluation takes the rows, too, and the forecast of its memory counts them.
    let learner = golden.learner(Trainable { embeddings: true, first_open: 0 });
    let evaluation = learner.record_evaluation(images.len()).unwrap();
    assert_eq!(learner.evaluation_need(images.len()), evaluation.bytes());
    let classes = golden.classes();
    let mut losses = [&rows, &vec![1; images.len()]].map(|rows| {
        evaluation.write_cameras(context(), rows);
        logits(&golden, context(), &evaluation);
        let logits = context().read(&evaluation.output).unwrap();
        let vote = |(b, &label): (usize, &u32)| {
            let weights = match golden.network.config.jigsaw {
                true => learner.loss_weights().map(f64::from),
                false => [1.0; 2],
            };
            weighted_vote(&logits, b, images.len(), classes, label as usize, weights).0
        };
        golden.labels.iter().enumerate().map(vote).sum::<f64>() / images.len() as f64
    });
    let wanted = f64::from(golden.tensors["eval_loss"][0]);
    losses.iter_mut().for_each(|loss| *loss = (*loss - wanted).abs() / wanted);
    assert!(losses[0] < 1e-5 && losses[1] > 1e-3, "{losses:?}");
}

#[test]
fn frozen_groups_cost_nothing_and_stay_unchanged() {
    let golden = read("paper");
    let depth = golden.network.config.depth;
    let stage = |first_open: usize, embeddings: bool| Trainable { embeddings, first_open };
    let mut last: Option<(usize, u64, u64)> = None;
    for stage in [stage(3, false), stage(2, false), stage(1, false), stage(0, false), stage(0, true)] {
        let learner = golden.learner(stage);
        let before = learner.read_parameters().unwrap();
        let step = learner.record_step(golden.labels.len(), golden.labels.len()).unwrap();
        let summary = step.plan.summary();
        let cost = (summary.dispatches, summary.heap_bytes, learner.state_bytes());
        println!("{stage:?}: {} dispatches, {} heap bytes, {} state bytes", cost.0, cost.1, cost.2);
        if let Some(last) = last {
            assert!(cost.0 > last.0 && cost.2 > last.2 && cost.1 >= last.1, "{last:?} {cost:?}");
        }
        last = Some(cost);
        // A frozen group has no dispatch for its gradients or the optimiser.
        for group in learner.groups() {
            let name = group.kind.to_string();
            let adam = step.plan.dispatches.iter().any(|d| d.label == format!("adam.{name}"));
            assert_eq!(adam, stage.contains(group.kind), "{stage:?} {name}");
            if let GroupKind::Block(i) = group.kind {
                let backward = format!("backward.blocks.{i}.");
                let launches = step.plan.dispatches.iter().filter(|d| d.label.starts_with(&backward));
                assert_eq!(launches.count() > 0, i >= stage.first_open || stage.embeddings);
            }
        }
        golden.step(&step, &rated(depth, 0.01));
        let after = learner.read_parameters().unwrap();
        for group in learner.groups() {
            let names = group.slots.iter().flat_map(|slot| &slot.tensors).map(|(name, _)| name);
            for name in names {
                let same =
                    before[name].data.iter().zip(&after[name].data).all(|(a, b)| a.to_bits() == b.to_bits());
                assert_eq!(same, !stage.contains(group.kind), "{stage:?} {name}");
            }
        }
    }
}

#[test]
fn an_infinite_step_changes_nothing() {
    let mut golden = read("paper");
    golden.recipe["ema"] = 0.75.into();
    golden.network.tensors.get_mut("norm.weight").unwrap().data[3] = 3e38;
    let depth = golden.network.config.depth;
    let learner = golden.learner(Trainable { embeddings: true, first_open: 0 });
    let before = learner.read_parameters().unwrap();
    let step = learner.record_step(golden.labels.len(), golden.labels.len()).unwrap();
    step.write(context(), &golden.images, &golden.labels, &vec![0; golden.labels.len()]);
    context().write(&step.step, bytemuck::cast_slice(&rated(depth, 0.01).words()));
    step.plan.run(context()).unwrap();
    assert_eq!(context().read(&step.control).unwrap()[0].to_bits(), 0);
    let after = learner.read_parameters().unwrap();
    for (name, tensor) in &before {
        let same = tensor.data.iter().zip(&after[name].data).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name} changed");
    }
    for (name, tensor) in learner.read_averages().unwrap().unwrap() {
        assert_same_bits(&name, &tensor.data, &before[&name].data);
    }
    for HostMoments { kind, first, second } in learner.read_moments().unwrap() {
        assert!(first.iter().chain(second.iter().flatten()).all(|&v| v == 0.0), "{kind}: moments");
    }
}

#[test]
fn a_block_takes_seven_dispatches_forward_and_fifteen_backward() {
    let golden = read("paper");
    let depth = golden.network.config.depth;
    let learner = golden.learner(Trainable { embeddings: false, first_open: 0 });
    let step = learner.record_step(golden.labels.len(), golden.labels.len()).unwrap();
    for block in 0..depth {
        // Gradients below the lowest trained block are not computed.
        let backward = 15 - usize::from(block == 0);
        let found = step.dispatches_of_block(block);
        println!("block {block}: {} dispatches forward, {} backward", found.0, found.1);
        assert_eq!(found, (7, backward), "block {block}");
    }
    // Stochastic depth adds one for each branch in each pass, except in the first block.
    let golden = read("drop_path");
    let learner = golden.learner(Trainable { embeddings: true, first_open: 0 });
    let step = learner.record_step(golden.labels.len(), golden.labels.len()).unwrap();
    assert_eq!(
        (0..3).map(|block| step.dispatches_of_block(block)).collect::<Vec<_>>(),
        [(7, 15), (9, 17), (9, 17)]
    );
}
