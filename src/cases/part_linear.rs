//! Cases of part_linear, with every file and both layouts.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{BATCH, CLASSES, GRID, HIDDEN, List, TimedCases, tolerance};
use crate::kernels::part_linear::{BackwardInput, BackwardWeight, Forward, Layout, Shape, Tile};
use crate::reference::part_linear::PartLinear;

/// The reference of a layer.
pub fn exact<'n>([x, weight, bias]: [&'n [f32]; 3], shape: Shape) -> PartLinear<'n> {
    let Shape { batch, parts, inputs, outputs, .. } = shape;
    PartLinear { x, weight, bias, batch, parts, inputs, outputs, strides: shape.strides() }
}

/// Number of outputs of the layers without bias.
const WITHOUT_BIAS: usize = 9;

fn has_bias(shape: Shape) -> bool {
    shape.outputs != WITHOUT_BIAS
}

fn lens(shape: Shape) -> [usize; 4] {
    let Shape { batch, parts, inputs, outputs, .. } = shape;
    [parts * batch * inputs, parts * outputs * inputs, parts * outputs, parts * batch * outputs]
}

/// Records y.
fn forward(run: &mut Run<'_>, x: Numbers<'_>, shape: Shape, tile: Tile) {
    let [_, weight, bias, y] = lens(shape);
    let factor = if has_bias(shape) { 1.0 } else { 0.0 };
    let bias = drawn(3, bias).map(move |v| factor * v);
    let [x, weight, bias] =
        [("x", x), ("weight", drawn(2, weight)), ("bias", bias)].map(|(name, data)| run.operand(name, data));
    let y = run.output("y", y);
    Forward { x: x.tensor, weight: weight.tensor, bias: has_bias(shape).then_some(bias.tensor), y, shape }.record_with(
        &mut run.recorder,
        "forward",
        tile,
    );
    let exact = exact([&x, &weight, &bias], shape);
    run.all("y", y, tolerance::gemm(shape.inputs), || exact.forward());
}

/// Records dx.
fn backward_input(run: &mut Run<'_>, dy: Numbers<'_>, shape: Shape, tile: Tile) {
    let [x, weight, ..] = lens(shape);
    let (weight, dy) = (run.operand("weight", drawn(2, weight)), run.operand("dy", dy));
    let dx = run.output("dx", x);
    BackwardInput { weight: weight.tensor, dy: dy.tensor, dx, shape }.record_with(&mut run.recorder, "input", tile);
    let exact = exact([&[], &weight, &[]], shape);
    run.all("dx", dx, tolerance::gemm(shape.outputs), || exact.backward_input(&dy));
}

/// Records dweight and dbias.
fn backward_weight(run: &mut Run<'_>, x: Numbers<'_>, dy: Numbers<'_>, shape: Shape, tile: Tile) {
    let [_, weight, bias, _] = lens(shape);
    let (x, dy) = (run.operand("x", x), run.operand("dy", dy));
    let dweight = run.output("dweight", weight);
    let dbias = has_bias(shape).then(|| run.output("dbias", bias));
    BackwardWeight { x: x.tensor, dy: dy.tensor, dweight, dbias, shape }.record_with(
        &mut run.recorder,
        "weight",
        tile,
    );
    let exact = exact([&x, &[], &[]], shape);
    let allowed = tolerance::gemm(shape.batch);
    run.all("dweight", dweight, allowed, || exact.backward_weight(&dy).0);
    if let Some(dbias) = dbias {
        run.all("dbias", dbias, allowed, || exact.backward_weight(&dy).1);
    }
}

/// Records y, dx, dweight and dbias from x and dy.
pub fn layer<'n>(run: &mut Run<'_>, [x, dy]: [&dyn Fn() -> Numbers<'n>; 2], shape: Shape, tile: Tile) {
    forward(run, x(), shape, tile);
    backward_input(run, dy(), shape, tile);
    backward_weight(run, x(), dy(), shape, tile);
}

pub(super) fn list(list: &mut List) {
    let one = |shape: Shape| {
        move |run: &mut Run<'_>, tile| {
            let [x, .., dy] = lens(shape);
            layer(run, [&|| drawn(1, x), &|| drawn(4, dy)], shape, tile);
        }
    };
    for layout in [Layout::SampleFirst, Layout::PartFirst] {
        for (batch, inputs, outputs) in [(1, 1, 1), (3, 7, 5), (5, 68, 65), (3, 260, 9)] {
            let shape = Shape { batch, parts: 2, inputs, outputs, layout };
            for tile in shape.menu(list.family) {
                let (variant, record) = (format!("{tile:?} {layout:?}").to_lowercase(), one(shape));
                list.add(variant, format!("{batch}x2x{inputs} to {outputs}"), move |run| record(run, tile));
            }
        }
        let mut full = |batch, parts, inputs, outputs| {
            let shape = Shape { batch, parts, inputs, outputs, layout };
            list.full_ways(usize::MAX, format!("{shape:?}"), shape.menu(list.family), one(shape));
        };
        // One, primes, and sizes around every tile.
        for (inputs, outputs) in [(1, 1), (3, 7), (4, 1), (5, 63), (8, 65), (12, 61), (60, 4), (68, 5)] {
            [1, 3, 4, 5].into_iter().for_each(|batch| full(batch, 2, inputs, outputs));
        }
        // Around the rows of a workgroup of the subgroup kernels: samples, then outputs.
        [(31, 9), (32, 31), (33, 33)].into_iter().for_each(|(batch, outputs)| full(batch, 2, 36, outputs));
        // Around the 256 inputs that a workgroup of the wide backward kernels owns.
        [252, 256, 260].into_iter().for_each(|inputs| full(3, 1, inputs, 9));
        full(6, 14, 384, 256);
        full(6, 3, 256, 751);
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let layers =
        [("fc1", timed.model.dim, HIDDEN, Layout::SampleFirst), ("fc2", HIDDEN, CLASSES, Layout::PartFirst)];
    for (name, inputs, outputs, layout) in layers.into_iter().take(if timed.quick { 1 } else { 2 }) {
        let shape = Shape { batch: BATCH, parts: GRID, inputs, outputs, layout };
        let [x, .., dy] = lens(shape);
        let tile = move |run: &Run<'_>| shape.tile(run.recorder.context.family());
        timed.add(name, move |run| forward(run, drawn(1, x), shape, tile(run)));
        timed.add(&format!("{name} backward input"), move |run| {
            backward_input(run, drawn(4, dy), shape, tile(run));
        });
        timed.add(&format!("{name} backward weight"), move |run| {
            backward_weight(run, drawn(1, x), drawn(4, dy), shape, tile(run));
        });
    }
}
