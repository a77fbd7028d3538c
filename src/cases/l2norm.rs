//! Cases of l2norm, with every number of invocations per part.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{GRID, LANES, List, TimedCases, tolerance};
use crate::kernels::l2norm::{Backward, Forward};
use crate::kernels::part_linear::Layout;
use crate::reference::l2norm as reference;

/// Records the normalisation of x (batch, parts, dim).
pub fn forward<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, parts: usize, dim: usize, lanes: u32) {
    let x = run.operand("x", x);
    let y = run.output("y", x.tensor.len);
    let layout = Layout::SampleFirst;
    let call = Forward { x: x.tensor, y, batch: y.len / (parts * dim), parts, dim, layout };
    call.record_with(&mut run.recorder, "l2norm", lanes);
    run.all("y", y, tolerance::l2norm(dim), || x.chunks(dim).flat_map(|part| reference::part(part, parts)));
}

/// Index of row b·R + r in parts of the order (R, B).
fn part_first(row: usize, batch: usize, parts: usize) -> usize {
    row % parts * batch + row / parts
}

/// Records the embedding of x (parts, batch, dim), and the gradient of x in either order.
pub fn ordered(run: &mut Run<'_>, [batch, parts, dim]: [usize; 3], layout: Layout, factor: f32, lanes: u32) {
    let len = batch * parts * dim;
    let x = run.operand("x", drawn(1, len).map(move |v| factor * v));
    let dy = run.operand("dy", drawn(2, len));
    let dx = run.updated("dx", drawn(3, len));
    let y = run.output("y", len);
    let place = move |row: usize| match layout {
        Layout::SampleFirst => row,
        Layout::PartFirst => part_first(row, batch, parts),
    };
    Forward { x: x.tensor, y, batch, parts, dim, layout }.record_with(&mut run.recorder, "l2norm", lanes);
    Backward { x: x.tensor, dy: dy.tensor, dx: dx.tensor, batch, parts, dim, layout }.record_with(
        &mut run.recorder,
        "backward",
        lanes,
    );
    let of = |values: &[f32], row: usize| values[row * dim..][..dim].to_vec();
    run.all("y", y, tolerance::l2norm(dim), || {
        (0..batch * parts).flat_map(|row| reference::part(&of(&x, place(row)), parts))
    });
    run.near("dx", dx.tensor, tolerance::l2norm_backward(dim), || {
        (0..batch * parts).flat_map(move |row| {
            let at = place(row);
            let gradient = reference::gradient(&of(&x, at), &of(&dy, row), &of(&dx, at), parts);
            gradient.into_iter().enumerate().map(move |(d, exact)| (at * dim + d, exact))
        })
    });
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
            let ordered = move |layout: Layout| {
                move |run: &mut Run<'_>| ordered(run, [batch, parts, dim], layout, 1.0, lanes)
            };
            let shape = format!("{batch}x{parts}x{dim}");
            list.add(format!("{lanes} lanes backward"), &shape, ordered(Layout::SampleFirst));
            list.add(format!("{lanes} lanes backward of part first"), &shape, ordered(Layout::PartFirst));
        }
        for dim in [1, 2, 7, 8, 9, 15, 63, 64, 65, 129] {
            list.full(format!("{lanes} lanes backward {dim}"), move |run| {
                ordered(run, [3, 7, dim], Layout::PartFirst, 1.0, lanes);
            });
        }
        for factor in [0.0, 1e-4, 1e4] {
            list.full(format!("{lanes} lanes backward times {factor:e}"), move |run| {
                ordered(run, [2, 3, 40], Layout::SampleFirst, factor, lanes);
            });
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
