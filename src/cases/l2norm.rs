//! Cases of l2norm, with every number of invocations per part.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{GRID, LANES, List, TimedCases, tolerance};
use crate::kernels::l2norm::Forward;
use crate::reference::l2norm as reference;

/// Records the normalisation of x (batch, parts, dim).
pub fn forward<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, parts: usize, dim: usize, lanes: u32) {
    let x = run.operand("x", x);
    let y = run.output("y", x.tensor.len);
    let call = Forward { x: x.tensor, y, batch: y.len / (parts * dim), parts, dim };
    call.record_with(&mut run.recorder, "l2norm", lanes);
    run.all("y", y, tolerance::l2norm(dim), || x.chunks(dim).flat_map(|part| reference::part(part, parts)));
}

pub(super) fn list(list: &mut List) {
    for lanes in LANES {
        let one = move |batch: usize, parts: usize, dim: usize, factor: f32| {
            move |run: &mut Run<'_>| {
                forward(run, drawn(1, batch * parts * dim).map(move |v| factor * v), parts, dim, lanes)
            }
        };
        for (batch, parts, dim) in [(1, 1, 1), (3, 7, 13), (2, 3, 129)] {
            list.add(format!("{lanes} lanes"), format!("{batch}x{parts}x{dim}"), one(batch, parts, dim, 1.0));
        }
        // One, primes, and sizes around every number of invocations.
        for dim in [1, 2, 3, 7, 8, 9, 13, 15, 16, 17, 31, 61, 63, 64, 65, 127, 128, 129] {
            for (batch, parts) in [(1, 1), (3, 7)] {
                list.full(format!("{lanes} lanes {batch}x{parts}x{dim}"), one(batch, parts, dim, 1.0));
            }
        }
        list.full(format!("{lanes} lanes of ViT-B"), one(2, 14, 768, 1.0));
        for factor in [0.0, 1e-8, 1e8] {
            list.full(format!("{lanes} lanes times {factor:e}"), one(1, 14, 40, factor));
        }
    }
    // The grid folds into a second dimension and has one workgroup too many.
    list.full("folded", |run| forward(run, drawn(5, 65_537 * 4), 1, 4, 4));
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (batch, dim) = (timed.batch, timed.model.dim);
    timed.add("", move |run| {
        let lanes = run.recorder.context.row_lanes();
        forward(run, drawn(1, batch * GRID * dim), GRID, dim, lanes);
    });
}
