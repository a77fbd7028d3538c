//! Cases of drop_path.

use super::random::drawn;
use super::run::Run;
use super::{List, TOKENS, TimedCases, tolerance};
use crate::kernels::drop_path::DropPath;
use crate::reference::drop_path as reference;

/// Factors of a batch: every third image is dropped.
fn factors(count: usize) -> Vec<f32> {
    (0..count).map(|b| if b % 3 == 1 { 0.0 } else { 1.0 / 0.7 }).collect()
}

fn scale(run: &mut Run<'_>, batch: usize, tokens: usize, dim: usize, first: usize, forward: bool) {
    let len = batch * tokens * dim;
    let x = run.quads("x", drawn(1, len));
    let residual = forward.then(|| run.quads("residual", drawn(2, len)));
    let factors = run.operand("factors", factors(first + batch));
    let y = run.quads_output("y", len);
    let call = DropPath {
        x: x.tensor,
        residual: residual.as_ref().map(|residual| residual.tensor),
        y,
        factors: factors.tensor,
        first,
        batch,
        tokens,
        dim,
    };
    call.record(&mut run.recorder, "drop_path");
    run.all("y", y, tolerance::DROP_PATH, || {
        (0..len).map(|i| {
            let addend = residual.as_ref().map_or(0.0, |residual| residual[i]);
            reference::forward(x[i], factors[first + i / (tokens * dim)], addend)
        })
    });
}

pub(super) fn list(list: &mut List) {
    for (variant, forward) in [("forward", true), ("backward", false)] {
        for (batch, tokens, dim, first) in [(1, 1, 4, 0), (4, 5, 52, 3), (3, 17, 20, 0)] {
            list.add_stored(variant, format!("{batch}x{tokens}x{dim} from {first}"), move |run| {
                scale(run, batch, tokens, dim, first, forward);
            });
        }
        // One, primes, and sizes around a workgroup.
        for batch in [1, 2, 7] {
            for (tokens, dim) in [(1, 4), (3, 12), (1, 252), (1, 256), (1, 260), (13, 68)] {
                list.full(format!("{variant} {batch}x{tokens}x{dim}"), move |run| {
                    scale(run, batch, tokens, dim, 5, forward);
                });
            }
        }
    }
    list.full("of ViT-S", |run| scale(run, 8, 257, 384, 0, true));
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (batch, dim) = (timed.batch, timed.model.dim);
    timed.add("forward", move |run| scale(run, batch, TOKENS, dim, 0, true));
    timed.add("backward", move |run| scale(run, batch, TOKENS, dim, 0, false));
}
