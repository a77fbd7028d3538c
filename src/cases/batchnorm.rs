//! Cases of batchnorm.

use super::random::{Numbers, drawn, normal};
use super::run::{Operand, Run};
use super::tolerance::{self, Tolerance};
use super::{BATCH, GRID, HIDDEN, List, TimedCases};
use crate::gpu::Tensor;
use crate::kernels::adam::{GroupValues, StepValues};
use crate::kernels::batchnorm::{Backward, DROPOUT_STREAM, Evaluate, Layer, Train, Update};
use crate::kernels::gradnorm::Control;
use crate::kernels::part_linear::Layout;
use crate::reference::Exact;
use crate::reference::batchnorm::{BatchNorm, Dropout};

const SEED: u64 = 0x1234_5678_9abc_def0;
const STEP: u32 = 17;

/// Position of the first sample in the epoch.
pub const PLACE: u32 = 96;

/// A layer with the settings of training.
pub fn layer(batch: usize, parts: usize, dim: usize) -> Layer {
    let [inputs, outputs] = [Layout::PartFirst; 2];
    Layer { batch, parts, dim, eps: 1e-5, relu: false, drop: 0.0, momentum: 0.1, inputs, outputs }
}

/// Returns whether a layer of the cases has a bias. One whose inputs are the network's parts has none, as in BNNeck.
fn has_bias(layer: Layer) -> bool {
    layer.inputs == Layout::PartFirst
}

/// The reference of a layer.
pub fn exact<'n>([x, weight, bias]: [&'n [f32]; 3], layer: Layer, place: u32) -> BatchNorm<'n> {
    let Layer { batch, parts, dim, eps, relu, drop, inputs, outputs, .. } = layer;
    let [x_sample_first, y_sample_first] = [inputs, outputs].map(|layout| layout == Layout::SampleFirst);
    let dropout = Dropout { seed: SEED, step: STEP, stream: DROPOUT_STREAM, place, drop };
    BatchNorm { x, weight, bias, batch, parts, dim, eps, relu, dropout, x_sample_first, y_sample_first }
}

/// The operands of a layer: x, weight and bias.
pub fn operands<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, layer: Layer) -> [Operand; 3] {
    let units = layer.parts * layer.dim;
    let x = run.operand("x", x);
    let factor = if has_bias(layer) { 1.0 } else { 0.0 };
    let bias = drawn(3, units).map(move |v| factor * v);
    [x, run.operand("weight", drawn(2, units)), run.operand("bias", bias)]
}

fn step(place: u32) -> Vec<u32> {
    let groups = vec![GroupValues::default()];
    StepValues { seed: SEED, number: STEP, place, groups, ..StepValues::default() }.words()
}

/// `dy`, set to zero where an output is within `near` of ReLU's kink. The gradient there may be either side's.
pub fn away_from_kinks(mut dy: Vec<f32>, exact: &BatchNorm<'_>, near: f64) -> Vec<f32> {
    let kinks = exact.before_relu().into_iter().map(|z| z.abs() < near);
    dy.iter_mut().zip(kinks).filter(|(_, near)| *near).for_each(|(dy, _)| *dy = 0.0);
    dy
}

/// Records the forward pass of training: y, and the tensor saved for the backward pass.
pub fn train(run: &mut Run<'_>, [x, weight, bias]: &[Operand; 3], layer: Layer, place: u32) -> Tensor {
    let (y, saved) = (run.output("y", x.tensor.len), run.output("saved", layer.saved_words()));
    let step = run.words("step", &step(place));
    let call = Train {
        x: x.tensor,
        weight: weight.tensor,
        bias: has_bias(layer).then_some(bias.tensor),
        y,
        saved,
        step,
        layer,
    };
    call.record(&mut run.recorder, "train");
    let exact = exact([x, weight, bias], layer, place);
    let allowed = tolerance::batchnorm(layer.batch);
    let of_units = |values: Vec<Exact>, word: usize| (word..).step_by(4).zip(values);
    run.all("y", y, allowed, || exact.train());
    run.near("mean", saved, allowed, || of_units(exact.statistics().mean, 0));
    run.near("variance", saved, allowed, || of_units(exact.statistics().var, 1));
    saved
}

/// Records the backward pass.
fn backward(run: &mut Run<'_>, [x, weight, bias]: &[Operand; 3], saved: Tensor, layer: Layer) {
    let exact = exact([x, weight, bias], layer, PLACE);
    let (len, units) = (x.tensor.len, weight.tensor.len);
    let dy = run.operand("dy", Numbers::new(len, || away_from_kinks(normal(4, len), &exact, 1e-4)));
    let step = run.words("step", &step(PLACE));
    let (dx, dweight) = (run.output("dx", len), run.output("dweight", units));
    let dbias = has_bias(layer).then(|| run.output("dbias", units));
    Backward { x: x.tensor, saved, dy: dy.tensor, step, dx, dweight, dbias, layer }
        .record(&mut run.recorder, "backward");
    let allowed = tolerance::batchnorm_backward(layer.batch);
    // With two samples x̂ is ±1 and dx is 0 except for eps, so a relative error has no meaning.
    let nmse = if layer.batch == 2 { f64::INFINITY } else { allowed.nmse };
    run.all("dx", dx, Tolerance { nmse, ..allowed }, || exact.backward(&dy).dx);
    run.all("dweight", dweight, allowed, || exact.backward(&dy).dweight);
    if let Some(dbias) = dbias {
        run.all("dbias", dbias, allowed, || exact.backward(&dy).dbias);
    }
}

/// Running mean and variance.
fn running<'n>(units: usize) -> [Numbers<'n>; 2] {
    [drawn(5, units), drawn(6, units).map(|v| v * v)]
}

/// Records y in evaluation.
pub fn evaluate<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, layer: Layer) {
    let [x, weight, bias] = operands(run, x, layer);
    let [mean, var] = running(weight.tensor.len).map(|numbers| run.operand("running", numbers));
    let y = run.output("y", x.tensor.len);
    let call = Evaluate {
        x: x.tensor,
        weight: weight.tensor,
        bias: has_bias(layer).then_some(bias.tensor),
        running_mean: mean.tensor,
        running_var: var.tensor,
        y,
        layer,
    };
    call.record(&mut run.recorder, "evaluate");
    run.all("y", y, tolerance::batchnorm(1), || {
        exact([&x, &weight, &bias], layer, PLACE).evaluate(&mean, &var)
    });
}

/// Records running statistics after a batch of x; they must not change unless `counted`.
pub fn update<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, layer: Layer, counted: bool) {
    let [x, weight, bias] = operands(run, x, layer);
    let exact = exact([&x, &weight, &bias], layer, PLACE);
    let saved = Numbers::new(layer.saved_words(), || {
        let (statistics, mut saved) = (exact.statistics(), Vec::new());
        for (unit, (mean, var)) in statistics.mean.iter().zip(&statistics.var).enumerate() {
            saved.extend([mean.value as f32, var.value as f32, weight[unit], bias[unit]]);
        }
        saved
    });
    let saved = run.operand("saved", saved).tensor;
    let control = run.words("control", &Control { counted, ..Control::start(1.0) }.words());
    let [mean, var] = running(weight.tensor.len).map(|numbers| run.updated("running", numbers));
    let (running_mean, running_var) = (mean.tensor, var.tensor);
    Update { saved, control, running_mean, running_var, layer }.record(&mut run.recorder, "update");
    if counted {
        let allowed = tolerance::batchnorm(layer.batch);
        run.all("running_mean", running_mean, allowed, || exact.update(&mean, &var, layer.momentum).0);
        run.all("running_var", running_var, allowed, || exact.update(&mean, &var, layer.momentum).1);
    } else {
        for (running, tensor) in [(&mean, running_mean), (&var, running_var)] {
            run.same("running", tensor, || running.iter().map(|v| v.to_bits()).enumerate());
        }
    }
}

pub(super) fn list(list: &mut List) {
    let both = |layer: Layer, change: fn(f32) -> f32| {
        move |run: &mut Run<'_>| {
            let operands = operands(run, drawn(1, layer.parts * layer.batch * layer.dim).map(change), layer);
            let saved = train(run, &operands, layer, PLACE);
            backward(run, &operands, saved, layer);
        }
    };
    let x = |layer: Layer| drawn(1, layer.parts * layer.batch * layer.dim);
    for (batch, parts, dim) in [(2, 1, 1), (3, 2, 67), (13, 2, 33)] {
        for (relu, drop, switches) in [(false, 0.0, ""), (true, 0.5, " relu dropout")] {
            let (layer, shape) = (Layer { relu, drop, ..layer(batch, parts, dim) }, format!("{parts}x{batch}x{dim}"));
            list.add(format!("train, backward{switches}"), &shape, both(layer, |v| v));
            list.add(format!("evaluate{switches}"), &shape, move |run| evaluate(run, x(layer), layer));
            list.add(format!("update{switches}"), &shape, move |run| update(run, x(layer), layer, true));
        }
    }
    // Inputs that are the network's parts; outputs in the order of a classifier, or of embeddings.
    for (batch, parts, dim) in [(2, 1, 1), (3, 2, 67), (13, 3, 33)] {
        let shape = format!("{batch}x{parts}x{dim}");
        let of_parts = Layer { inputs: Layout::SampleFirst, ..layer(batch, parts, dim) };
        let in_order = Layer { outputs: Layout::SampleFirst, ..of_parts };
        list.add("train, backward of parts", &shape, both(of_parts, |v| v));
        list.add("evaluate of parts", &shape, move |run| evaluate(run, x(of_parts), of_parts));
        list.add("evaluate parts in order", &shape, move |run| evaluate(run, x(in_order), in_order));
        list.full(format!("train, backward in order {shape}"), both(in_order, |v| v));
    }
    // Two, primes, and sizes around a workgroup.
    for dim in [1, 3, 7, 61, 63, 64, 65, 129] {
        for batch in [2, 3, 13] {
            list.full(format!("2x{batch}x{dim}"), both(layer(batch, 2, dim), |v| v));
        }
    }
    for relu in [false, true] {
        for drop in [0.0, 0.1, 0.5] {
            let layer = Layer { relu, drop, ..layer(32, 14, 256) };
            list.full(format!("of a part classifier, relu {relu} drop {drop}"), both(layer, |v| v));
        }
        for (batch, parts, dim) in [(1, 1, 1), (1, 3, 65), (7, 14, 256)] {
            // Dropout must have no effect.
            let layer = Layer { relu, drop: 0.5, ..layer(batch, parts, dim) };
            list.full(format!("evaluate {layer:?}"), move |run| evaluate(run, x(layer), layer));
        }
    }
    // A large mean must not cause cancellation, and a unit with a small variance must stay finite.
    list.full("mean 30", both(layer(11, 2, 65), |v| v + 30.0));
    list.full("deviation 1e-4", both(layer(11, 2, 65), |v| 1e-4 * v));
    for (batch, parts, dim) in [(2, 1, 1), (3, 2, 63), (32, 14, 256)] {
        for counted in [true, false] {
            let layer = layer(batch, parts, dim);
            list.full(format!("update {layer:?} counted {counted}"), move |run| {
                update(run, x(layer), layer, counted);
            });
        }
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let layer = Layer { relu: true, drop: 0.5, ..layer(BATCH, GRID, HIDDEN) };
    let x = || drawn(1, GRID * BATCH * HIDDEN);
    timed.add("", move |run| {
        let operands = operands(run, x(), layer);
        train(run, &operands, layer, PLACE);
    });
    timed.add("backward", move |run| {
        let operands = operands(run, x(), layer);
        let saved = run.output("saved", layer.saved_words());
        backward(run, &operands, saved, layer);
    });
}
