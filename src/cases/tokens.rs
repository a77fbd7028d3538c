//! Cases of tokens.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{GRID, List, TimedCases, tolerance};
use crate::kernels::tokens::{Backward, Forward};
use crate::reference::Exact;
use crate::reference::tokens::{Tokens, gradient, position_row};
use std::collections::BTreeSet;

/// The dimensions of a case.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Prefix tokens P.
    pub prefix: usize,
    /// Prefix tokens with a position S: all, the class token alone, or none.
    pub positioned: usize,
    /// Patches per image N.
    pub count: usize,
    /// Width of a token D.
    pub dim: usize,
}

/// Records the sequences of `patches` (batch, count, dim).
pub fn forward<'n>(run: &mut Run<'_>, patches: impl Into<Numbers<'n>>, shape: Shape) {
    let Shape { prefix, positioned, count, dim } = shape;
    let first = run.operand("prefix", drawn(1, prefix * dim));
    let patches = run.operand("patches", patches);
    let position = run.operand("position", drawn(3, (positioned + count) * dim));
    let (batch, sequence) = (patches.tensor.len / (count * dim), (prefix + count) * dim);
    let tokens = run.quads_output("tokens", batch * sequence);
    let call = Forward {
        prefix: first.tensor,
        patches: patches.tensor,
        position: position.tensor,
        tokens,
        batch,
        count,
        dim,
    };
    call.record(&mut run.recorder, "tokens");
    let exact = Tokens { prefix: &first, patches: &patches, position: &position, count, dim };
    run.all("tokens", tokens, tolerance::TOKENS, || {
        (0..tokens.len).map(|i| exact.at(i / sequence, i % sequence / dim, i % dim))
    });
}

/// Gradient of every position embedding.
pub fn position_gradient(dtokens: &[f32], shape: Shape) -> Vec<Exact> {
    let Shape { prefix, positioned, count, dim } = shape;
    let tokens = (0..prefix + count).filter(|&t| position_row(t, prefix, positioned).is_some());
    let gradient = |place| gradient(dtokens, (prefix + count) * dim, place);
    tokens.flat_map(|t| (t * dim..(t + 1) * dim).map(gradient)).collect()
}

fn backward(run: &mut Run<'_>, batch: usize, shape: Shape) {
    let Shape { prefix, positioned, count, dim } = shape;
    let sequence = (prefix + count) * dim;
    let dtokens = run.quads("dtokens", drawn(7, batch * sequence));
    let dprefix = run.output("dprefix", prefix * dim);
    let dposition = run.output("dposition", (positioned + count) * dim);
    let call = Backward { dtokens: dtokens.tensor, dprefix, dposition, batch, count, dim };
    call.record(&mut run.recorder, "tokens.backward");
    let allowed = tolerance::tokens_backward(batch);
    run.all("dposition", dposition, allowed, || position_gradient(&dtokens, shape));
    run.sampled("dprefix", dprefix, allowed, |i| gradient(&dtokens, sequence, i));
}

pub(super) fn list(list: &mut List) {
    for (batch, prefix, count, dim, positioned) in [(1, 1, 1, 4, 1), (3, 5, 13, 68, 1), (2, 2, 3, 28, 0)] {
        let name = format!("{batch}x({prefix}+{count})x{dim}, {positioned} positioned");
        let shape = Shape { prefix, positioned, count, dim };
        list.add_stored("forward", &name, move |run| forward(run, drawn(2, batch * count * dim), shape));
        list.add_stored("backward", &name, move |run| backward(run, batch, shape));
    }
    let mut full = |batch: usize, prefix: usize, count: usize, dim: usize| {
        for positioned in BTreeSet::from([prefix, 1, 0]) {
            let shape = Shape { prefix, positioned, count, dim };
            list.full(format!("forward {batch} {shape:?}"), move |run| {
                forward(run, drawn(2, batch * count * dim), shape);
            });
            list.full(format!("backward {batch} {shape:?}"), move |run| backward(run, batch, shape));
        }
    };
    // One, primes, and sizes around a workgroup.
    full(1, 1, 1, 4);
    for dim in [1, 3, 7, 15, 16, 17, 31, 33].map(|quads| 4 * quads) {
        full(1, 1, 2, dim);
        full(3, 5, 13, dim);
    }
    full(31, 1, 3, 20);
    full(8, 1, 196, 768);
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (batch, dim, count) = (timed.batch, timed.model.dim, GRID * GRID);
    let shape = Shape { prefix: 1, positioned: 1, count, dim };
    timed.add("", move |run| forward(run, drawn(2, batch * count * dim), shape));
    timed.add("backward", move |run| backward(run, batch, shape));
}
