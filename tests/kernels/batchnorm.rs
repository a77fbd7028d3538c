//! batchnorm against the reference, whose gradients finite differences prove.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::adam::StepValues;
use lat_wgpu::kernels::batchnorm::{Backward, DROPOUT_STREAM, Evaluate, Layer, Train, Update};
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::batchnorm::{BatchNorm, Dropout};

const SEED: u64 = 0x1234_5678_9abc_def0;
const STEP: u32 = 17;
const PLACE: u32 = 96;

/// The operands of a layer and the gradient of its outputs.
struct Case {
    layer: Layer,
    place: u32,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

/// What the adapter made of a case.
struct Found {
    y: Vec<f32>,
    saved: Vec<f32>,
    dx: Vec<f32>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

impl Case {
    fn new(layer: Layer, fill: impl Fn(u64, usize) -> Vec<f32>) -> Case {
        let Layer { batch, parts, dim, .. } = layer;
        let mut case = Case {
            layer,
            place: PLACE,
            x: fill(1, parts * batch * dim),
            weight: fill(2, parts * dim),
            bias: fill(3, parts * dim),
            dy: fill(4, parts * batch * dim),
        };
        // Where ReLU's kink is within a rounding error, either gradient is right: none comes from there.
        let near: Vec<bool> = case.exact().before_relu().iter().map(|z| z.abs() < 1e-4).collect();
        case.dy.iter_mut().zip(near).filter(|(_, near)| *near).for_each(|(dy, _)| *dy = 0.0);
        case
    }

    fn exact(&self) -> BatchNorm<'_> {
        let Layer { batch, parts, dim, eps, relu, drop, .. } = self.layer;
        let dropout = Dropout { seed: SEED, step: STEP, stream: DROPOUT_STREAM, place: self.place, drop };
        BatchNorm {
            x: &self.x,
            weight: &self.weight,
            bias: &self.bias,
            batch,
            parts,
            dim,
            eps,
            relu,
            dropout,
        }
    }

    fn step(&self) -> Vec<f32> {
        let step = StepValues { seed: SEED, number: STEP, place: self.place, ..StepValues::default() };
        step.words().into_iter().map(f32::from_bits).collect()
    }

    fn run(&self) -> Found {
        let layer = self.layer;
        let mut run = Guarded::new(&format!("batchnorm {layer:?}"));
        let x = run.input("x", &self.x);
        let weight = run.input("weight", &self.weight);
        let bias = run.input("bias", &self.bias);
        let dy = run.input("dy", &self.dy);
        let step = run.input("step", &self.step());
        let y = run.output("y", self.x.len());
        let saved = run.output("saved", layer.saved_words());
        let dx = run.output("dx", self.x.len());
        let dweight = run.output("dweight", self.weight.len());
        let dbias = run.output("dbias", self.bias.len());
        Train { x, weight, bias, y, saved, step, layer }.record(&mut run.recorder, "train");
        Backward { x, saved, dy, step, dx, dweight, dbias, layer }.record(&mut run.recorder, "backward");
        let mut found = run.run().into_iter();
        let mut next = || found.next().unwrap();
        Found { y: next(), saved: next(), dx: next(), dweight: next(), dbias: next() }
    }
}

fn layer(batch: usize, parts: usize, dim: usize) -> Layer {
    Layer { batch, parts, dim, eps: 1e-5, relu: false, drop: 0.0, momentum: 0.1 }
}

fn check(layer: Layer, fill: impl Fn(u64, usize) -> Vec<f32>) {
    let case = Case::new(layer, fill);
    let found = case.run();
    let exact = case.exact();
    let statistics = exact.statistics();
    let gradients = exact.backward(&case.dy);
    let Layer { batch, parts, dim, relu, drop, .. } = layer;
    let shape = format!("{parts}x{batch}x{dim} relu {relu} drop {drop}");
    let (forward, backward) = (tolerance::batchnorm(batch), tolerance::batchnorm_backward(batch));
    // Of two samples, x̂ is ±1 whatever they are, and dx is 0 but for eps: there is nothing to be relative to.
    let nmse = if batch == 2 { f64::INFINITY } else { backward.nmse };
    let input = tolerance::Tolerance { nmse, ..backward };
    let mean: Vec<f32> = found.saved.iter().copied().step_by(4).collect();
    let var: Vec<f32> = found.saved.iter().copied().skip(1).step_by(4).collect();
    for (name, found, wanted, tolerance) in [
        ("y", &found.y, exact.train(), forward),
        ("mean", &mean, statistics.mean, forward),
        ("var", &var, statistics.var, forward),
        ("dx", &found.dx, gradients.dx, input),
        ("dweight", &found.dweight, gradients.dweight, backward),
        ("dbias", &found.dbias, gradients.dbias, backward),
    ] {
        compare(&format!("batchnorm {name} {shape}"), found, wanted.into_iter().enumerate(), tolerance);
    }
}

#[test]
fn two_primes_and_around_a_workgroup() {
    for dim in [1, 3, 7, 61, 63, 64, 65, 129] {
        for batch in [2, 3, 13] {
            check(layer(batch, 2, dim), normal);
        }
    }
}

#[test]
fn shape_of_the_part_classifiers() {
    for relu in [false, true] {
        for drop in [0.0, 0.1, 0.5] {
            check(Layer { relu, drop, ..layer(32, 14, 256) }, normal);
        }
    }
}

#[test]
fn a_large_mean_does_not_cancel_and_a_flat_unit_stays_finite() {
    for change in [|x: f32| x + 30.0, |x: f32| x * 1e-4] {
        check(layer(11, 2, 65), |stream, count| {
            // Stream 1 is x.
            normal(stream, count).into_iter().map(|v| if stream == 1 { change(v) } else { v }).collect()
        });
    }
    let case = Case { x: vec![2.5; 12], ..Case::new(layer(3, 2, 2), normal) };
    let found = case.run();
    for unit in 0..4 {
        let at = unit / 2 * 6 + unit % 2;
        assert_eq!((found.y[at], found.dweight[unit]), (case.bias[unit], 0.0));
    }
}

#[test]
fn dropped_outputs_are_those_of_the_reference() {
    let case = Case::new(Layer { drop: 0.5, ..layer(9, 3, 70) }, normal);
    let found = case.run();
    for (i, (found, wanted)) in found.y.iter().zip(case.exact().train()).enumerate() {
        assert_eq!(*found == 0.0, wanted.value == 0.0, "at {i}");
    }
    let share = found.y.iter().filter(|y| **y == 0.0).count() as f64 / found.y.len() as f64;
    assert!((share - 0.5).abs() < 0.03, "{share} dropped");
    // A share of 0 is no dropout at all.
    let none = Case::new(layer(9, 3, 70), normal).run().y;
    for (dropped, y) in found.y.iter().zip(none) {
        assert!(*dropped == 0.0 || *dropped == 2.0 * y);
    }
}

#[test]
fn a_mask_belongs_to_a_place_in_the_epoch() {
    // The same samples, once as the end of one batch and once as the start of another.
    let layer = Layer { drop: 0.5, ..layer(4, 2, 33) };
    let early = Case::new(layer, normal);
    let late = Case { place: PLACE + 2, ..Case::new(layer, normal) };
    let (early, late) = (early.run().y, late.run().y);
    let dropped = |y: &[f32], r: usize, b: usize| -> Vec<bool> {
        y[(r * 4 + b) * 33..][..33].iter().map(|y| *y == 0.0).collect()
    };
    for r in 0..2 {
        assert_eq!(dropped(&early, r, 2), dropped(&late, r, 0));
        assert_eq!(dropped(&early, r, 3), dropped(&late, r, 1));
        assert_ne!(dropped(&early, r, 0), dropped(&late, r, 0));
    }
    assert_ne!(dropped(&early, 0, 0), dropped(&early, 1, 0));
}

/// y in evaluation.
fn evaluate(case: &Case, mean: &[f32], var: &[f32]) -> Vec<f32> {
    let mut run = Guarded::new("batchnorm evaluate");
    let evaluate = Evaluate {
        x: run.input("x", &case.x),
        weight: run.input("weight", &case.weight),
        bias: run.input("bias", &case.bias),
        running_mean: run.input("running_mean", mean),
        running_var: run.input("running_var", var),
        y: run.output("y", case.x.len()),
        layer: case.layer,
    };
    evaluate.record(&mut run.recorder, "evaluate");
    run.run().remove(0)
}

#[test]
fn evaluation_uses_running_statistics() {
    for (batch, parts, dim) in [(1, 1, 1), (1, 3, 65), (7, 14, 256)] {
        for relu in [false, true] {
            // Dropout must not show.
            let case = Case::new(Layer { relu, drop: 0.5, ..layer(batch, parts, dim) }, normal);
            let mean = normal(5, parts * dim);
            let var: Vec<f32> = normal(6, parts * dim).iter().map(|v| v * v).collect();
            let y = evaluate(&case, &mean, &var);
            let wanted = case.exact().evaluate(&mean, &var);
            let name = format!("batchnorm evaluate {parts}x{batch}x{dim} relu {relu}");
            compare(&name, &y, wanted.into_iter().enumerate(), tolerance::batchnorm(1));
        }
    }
}

#[test]
fn a_sample_in_evaluation_does_not_depend_on_its_neighbours() {
    let case = Case::new(layer(4, 1, 50), normal);
    let (mean, var) = (normal(5, 50), vec![1.5; 50]);
    let all = evaluate(&case, &mean, &var);
    for b in 0..4 {
        let x = case.x[b * 50..][..50].to_vec();
        let alone = Case { x, layer: layer(1, 1, 50), ..Case::new(layer(2, 1, 50), normal) };
        let alone = evaluate(&alone, &mean, &var);
        assert_same_bits(&format!("sample {b}"), &all[b * 50..][..50], &alone);
    }
}

#[test]
fn what_is_no_number_passes_relu() {
    let layer = Layer { relu: true, ..layer(5, 2, 9) };
    let clean = Case::new(layer, normal);
    let (mean, var) = (normal(5, 18), vec![1.5; 18]);
    let (trained, evaluated) = (clean.run().y, evaluate(&clean, &mean, &var));
    // Of either sign, in one sample of one unit: training takes all samples of the unit with it.
    for bad in [f32::NAN, f32::from_bits(0xffc0_0001)] {
        let mut case = Case::new(layer, normal);
        case.x[5 * 9 + 2 * 9 + 4] = bad;
        let units = |i: usize| (i / 45, i % 9) == (1, 4);
        for (i, (found, clean)) in case.run().y.iter().zip(&trained).enumerate() {
            let right = if units(i) { found.is_nan() } else { found == clean };
            assert!(right, "training: {found} at {i}");
        }
        for (i, (found, clean)) in evaluate(&case, &mean, &var).iter().zip(&evaluated).enumerate() {
            let right = if i == 5 * 9 + 2 * 9 + 4 { found.is_nan() } else { found == clean };
            assert!(right, "evaluation: {found} at {i}");
        }
    }
}

/// Running mean and variance after a step.
fn update(case: &Case, mean: &[f32], var: &[f32], finite: u32) -> (Vec<f32>, Vec<f32>) {
    let saved = case.run().saved;
    let mut run = Guarded::new("batchnorm update");
    let update = Update {
        saved: run.input("saved", &saved),
        control: run.input("control", &[f32::from_bits(finite), 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0]),
        running_mean: run.in_place("running_mean", mean),
        running_var: run.in_place("running_var", var),
        layer: case.layer,
    };
    update.record(&mut run.recorder, "update");
    let mut found = run.run();
    let var = found.remove(1);
    (found.remove(0), var)
}

#[test]
fn running_statistics_follow_the_batch() {
    for (batch, parts, dim) in [(2, 1, 1), (3, 2, 63), (32, 14, 256)] {
        let case = Case::new(layer(batch, parts, dim), normal);
        let mean = normal(5, parts * dim);
        let var: Vec<f32> = normal(6, parts * dim).iter().map(|v| v * v).collect();
        let found = update(&case, &mean, &var, 1);
        let wanted = case.exact().update(&mean, &var, case.layer.momentum);
        for (name, found, wanted) in [("mean", &found.0, wanted.0), ("var", &found.1, wanted.1)] {
            let name = format!("batchnorm running {name} {parts}x{batch}x{dim}");
            compare(&name, found, wanted.into_iter().enumerate(), tolerance::batchnorm(batch));
        }
        let frozen = update(&case, &mean, &var, 0);
        assert_same_bits("mean of a step that doesn't count", &frozen.0, &mean);
        assert_same_bits("variance of a step that doesn't count", &frozen.1, &var);
    }
}

#[test]
fn the_reference_gradients_are_difference_quotients() {
    for relu in [false, true] {
        for drop in [0.0, 0.3] {
            let mut case = Case::new(Layer { relu, drop, ..layer(5, 2, 3) }, coarse);
            // A step to either side stays on its side of ReLU's kink.
            let near: Vec<bool> = case.exact().before_relu().iter().map(|z| z.abs() < 1e-2).collect();
            case.dy.iter_mut().zip(near).filter(|(_, near)| *near).for_each(|(dy, _)| *dy = 0.0);
            let exact = case.exact();
            let gradients = exact.backward(&case.dy);
            let values = |all: &[Exact]| all.iter().map(|v| v.value).collect::<Vec<_>>();
            let loss = |layer: BatchNorm<'_>| -> f64 {
                layer.train().iter().zip(&case.dy).map(|(y, &dy)| y.value * f64::from(dy)).sum()
            };
            let name = |what: &str| format!("batchnorm {what} relu {relu} drop {drop}");
            prove(&name("dx"), &case.x, &values(&gradients.dx), |x| loss(BatchNorm { x, ..exact }));
            prove(&name("dweight"), &case.weight, &values(&gradients.dweight), |weight| {
                loss(BatchNorm { weight, ..exact })
            });
            prove(&name("dbias"), &case.bias, &values(&gradients.dbias), |bias| {
                loss(BatchNorm { bias, ..exact })
            });
        }
    }
}

#[test]
#[should_panic(expected = "one sample has no variance")]
fn training_with_one_sample_is_refused() {
    Case::new(layer(1, 1, 4), normal).run();
}
