//! Cases of layernorm, with every number of invocations per row.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{LANES, List, TOKENS, TimedCases, tolerance};
use crate::kernels::layernorm::{BackwardInput, BackwardParameters, Forward, Parameters};
use crate::reference::layernorm as reference;

const EPS: f32 = 1e-6;

/// Records the forward pass of x (rows, dim), with statistics if `keep`.
pub fn forward<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, dim: usize, eps: f32, keep: bool, lanes: u32) {
    let x = run.quads("x", x);
    let rows = x.tensor.len / dim;
    let (weight, bias) = (run.operand("weight", drawn(2, dim)), run.operand("bias", drawn(3, dim)));
    let (y, stats) = (run.quads_output("y", x.tensor.len), keep.then(|| run.output("stats", 2 * rows)));
    let (of_x, of_weight, of_bias) = (x.tensor, weight.tensor, bias.tensor);
    Forward { x: of_x, weight: of_weight, bias: of_bias, y, stats, rows, dim, eps }.record_with(
        &mut run.recorder,
        "layernorm",
        lanes,
    );
    let allowed = tolerance::layernorm(dim);
    run.all("y", y, allowed, || x.chunks(dim).flat_map(|row| reference::row(row, &weight, &bias, eps)));
    if let Some(stats) = stats {
        run.all("stats", stats, allowed, || x.chunks(dim).flat_map(|row| reference::stats(row, eps)));
    }
}

/// The statistics of x that the forward pass stores.
fn stats<'n>(x: &'n [f32], rows: usize, dim: usize) -> Numbers<'n> {
    Numbers::new(2 * rows, move || {
        x.chunks(dim).flat_map(|row| reference::stats(row, EPS)).map(|stat| stat.value as f32).collect()
    })
}

/// Records the gradient of the input x (rows, dim).
pub fn backward_input<'n>(
    run: &mut Run<'_>,
    x: impl Into<Numbers<'n>>,
    dim: usize,
    has_addend: bool,
    lanes: u32,
) {
    let x = run.quads("x", x);
    let len = x.tensor.len;
    let rows = len / dim;
    let (stats, dy) = (run.operand("stats", stats(&x, rows, dim)), run.quads("dy", drawn(10, len)));
    let (weight, addend) =
        (run.operand("weight", drawn(9, dim)), has_addend.then(|| run.quads("addend", drawn(11, len))));
    let dx = run.quads_output("dx", len);
    let call = BackwardInput {
        x: x.tensor,
        stats: stats.tensor,
        dy: dy.tensor,
        weight: weight.tensor,
        addend: addend.as_ref().map(|addend| addend.tensor),
        dx,
        rows,
        dim,
    };
    call.record_with(&mut run.recorder, "layernorm.input", lanes);
    run.all("dx", dx, tolerance::layernorm_backward(dim), || {
        reference::gradients(&x, &weight, EPS, &dy, addend.as_deref()).dx
    });
}

/// Records dweight and dbias for each (x, dy) of `norms`, one or two.
pub fn backward_parameters<'n>(run: &mut Run<'_>, norms: Vec<[Numbers<'n>; 2]>, dim: usize, lanes: u32) {
    let mut calls = Vec::new();
    for [x, dy] in norms {
        let (x, dy) = (run.quads("x", x), run.quads("dy", dy));
        let rows = x.tensor.len / dim;
        let stats = run.operand("stats", stats(&x, rows, dim)).tensor;
        let [dweight, dbias] = ["dweight", "dbias"].map(|name| run.output(name, dim));
        let allowed = tolerance::layernorm_parameters(rows);
        let exact = || reference::gradients(&x, &vec![1.0; dim], EPS, &dy, None);
        run.all("dweight", dweight, allowed, || exact().dweight);
        run.all("dbias", dbias, allowed, || exact().dbias);
        calls.push((Parameters { x: x.tensor, stats, dy: dy.tensor, dweight, dbias }, rows));
    }
    let other = calls.get(1).map(|(norm, _)| *norm);
    if let Some(&(norm, rows)) = calls.first() {
        let call = BackwardParameters { norm, other, rows, dim };
        call.record_with(&mut run.recorder, "layernorm.parameters", lanes);
    }
}

/// Records the whole backward pass. With an addend, also that of a second norm, whose dy is x.
fn backward(run: &mut Run<'_>, x: impl Fn() -> Numbers<'static>, dim: usize, has_addend: bool, lanes: u32) {
    backward_input(run, x(), dim, has_addend, lanes);
    let len = x().len;
    let norms = [[x(), drawn(10, len)], [x(), x()]];
    backward_parameters(run, norms.into_iter().take(1 + usize::from(has_addend)).collect(), dim, lanes);
}

pub(super) fn list(list: &mut List) {
    for lanes in LANES {
        for (rows, dim, keep) in [(1, 4, true), (7, 52, true), (3, 260, false)] {
            let variant = format!("forward {lanes} lanes{}", if keep { " stats" } else { "" });
            list.add_stored(variant, format!("{rows}x{dim}"), move |run| {
                forward(run, drawn(1, rows * dim), dim, EPS, keep, lanes);
            });
        }
        for (rows, dim, has_addend) in [(1, 4, false), (67, 52, true), (5, 260, false)] {
            let variant = format!("backward {lanes} lanes{}", if has_addend { " addend" } else { "" });
            list.add_stored(variant, format!("{rows}x{dim}"), move |run| {
                backward(run, || drawn(1, rows * dim), dim, has_addend, lanes);
            });
        }

        let mut full = |note: &str, rows: usize, dim: usize, eps: f32, change: fn(f32) -> f32| {
            let name = format!("forward {lanes} lanes {rows}x{dim} {note}");
            // Storing statistics must not change y.
            list.full_ways(usize::MAX, name, [true, false], move |run, keep| {
                forward(run, drawn(1, rows * dim).map(change), dim, eps, keep, lanes);
            });
        };
        // One, primes, and sizes around every number of invocations.
        const QUADS: [usize; 17] = [1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33, 61, 63, 64, 65];
        for quads in QUADS {
            [1, 7].into_iter().for_each(|rows| full("", rows, 4 * quads, EPS, |v| v));
        }
        full("of ViT-B", 197, 768, EPS, |v| v);
        full("of CLIP", 197, 768, 1e-5, |v| v);
        // Large means must not cause cancellation, and nearly constant rows must stay finite.
        full("mean 10", 11, 384, EPS, |v| v + 10.0);
        full("deviation 1e-5", 5, 96, EPS, |v| 1e-5 * v);
        full("zeros", 3, 96, EPS, |_| 0.0);

        let mut full = |rows: usize, dim: usize, has_addend: bool, mean: f32| {
            let name = format!("backward {lanes} lanes {rows}x{dim} addend {has_addend} mean {mean}");
            list.full(name, move |run| {
                backward(run, || drawn(17, rows * dim).map(move |v| v + mean), dim, has_addend, lanes);
            });
        };
        for quads in QUADS {
            [1, 7].into_iter().for_each(|rows| full(rows, 4 * quads, rows == 1, 0.0));
        }
        // Around a chunk of 16 rows, and where chunks become longer: 64 chunks of 16 are 1024 rows.
        [15, 16, 17, 33, 1023, 1024, 1025, 1061].into_iter().for_each(|rows| full(rows, 12, true, 0.0));
        full(2 * 197, 384, true, 0.0);
        full(11, 384, false, 30.0);
    }
    // The grid folds into a second dimension and has one workgroup too many.
    list.full("folded", |run| forward(run, drawn(8, 65_537 * 4), 4, EPS, false, 4));
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (count, dim) = (timed.batch * TOKENS, timed.model.dim);
    let x = move || drawn(1, count * dim);
    let lanes = |run: &Run<'_>| run.recorder.context.row_lanes();
    timed.add("", move |run| forward(run, x(), dim, EPS, false, lanes(run)));
    timed.add("backward input", move |run| backward_input(run, x(), dim, true, lanes(run)));
    timed.add("backward parameters", move |run| backward_parameters(run, vec![[x(), x()]], dim, lanes(run)));
}
