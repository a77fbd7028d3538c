//! Cases of gelt.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{GRID, List, TimedCases, tolerance};
use crate::kernels::gelt::{Backward, Forward};
use crate::reference::gelt::Gelt;
use crate::shape::{GeltConfig, LambdaOn, PartTokens};

/// The dimensions of a case, and the weights of the blend.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Tokens before the patches P.
    pub prefix: usize,
    /// Parts R.
    pub parts: usize,
    /// Rows of patches H.
    pub rows: usize,
    /// Patches per row C.
    pub columns: usize,
    /// Width of a token D.
    pub dim: usize,
    /// Weights of the class token and of the mean.
    pub weights: (f32, f32),
}

impl Shape {
    /// Elements of the tokens of an image.
    pub fn tokens(&self) -> usize {
        (self.prefix + self.rows * self.columns) * self.dim
    }

    /// The reference for `tokens`.
    pub fn exact<'t>(&self, tokens: &'t [f32]) -> Gelt<'t> {
        let Shape { prefix, parts, rows, columns, dim, weights } = *self;
        Gelt { tokens, prefix, parts, rows, columns, dim, weights }
    }
}

/// Records the parts of whole images.
pub fn forward<'n>(run: &mut Run<'_>, tokens: impl Into<Numbers<'n>>, shape: Shape) {
    let Shape { prefix, parts, rows, columns, dim, weights } = shape;
    let of = run.quads("tokens", tokens);
    let (tokens, batch) = (of.tensor, of.tensor.len / shape.tokens());
    let gelt = run.output("gelt", batch * parts * dim);
    Forward { tokens, gelt, first: 0, batch, prefix, parts, rows, columns, dim, weights }
        .record(&mut run.recorder, "gelt");
    let exact = shape.exact(&of);
    run.sampled("gelt", gelt, tolerance::gelt(rows.div_ceil(parts) * columns), |i| {
        exact.at(i / (parts * dim), i / dim % parts, i % dim)
    });
}

/// Records the gradient of all tokens for dgelt (batch, parts, dim).
pub fn backward<'n>(run: &mut Run<'_>, dgelt: impl Into<Numbers<'n>>, shape: Shape) {
    let Shape { prefix, parts, rows, columns, dim, weights } = shape;
    let of = run.operand("dgelt", dgelt);
    let (dgelt, batch, within) = (of.tensor, of.tensor.len / (parts * dim), shape.tokens());
    let dtokens = run.quads_output("dtokens", batch * within);
    Backward { dgelt, dtokens, first: 0, batch, prefix, parts, rows, columns, dim, weights }
        .record(&mut run.recorder, "gelt.backward");
    let exact = shape.exact(&[]);
    run.all("dtokens", dtokens, tolerance::gelt_backward(parts), || {
        (0..dtokens.len).map(|i| exact.gradient(&of, i / within, i % within / dim, i % dim))
    });
}

fn both(batch: usize, shape: Shape) -> (impl Fn(&mut Run<'_>), impl Fn(&mut Run<'_>)) {
    let (tokens, gelt) = (batch * shape.tokens(), batch * shape.parts * shape.dim);
    (
        move |run: &mut Run<'_>| forward(run, drawn(1, tokens), shape),
        move |run: &mut Run<'_>| backward(run, drawn(3, gelt), shape),
    )
}

pub(super) fn list(list: &mut List) {
    let weights = GeltConfig::default().weights();
    for (batch, prefix, parts, rows, columns, dim) in
        [(1, 1, 1, 1, 1, 4), (2, 2, 7, 7, 3, 68), (2, 5, 3, 3, 11, 28), (2, 2, 3, 7, 3, 68), (2, 1, 1, 3, 5, 28)]
    {
        let bands = if parts == rows { String::new() } else { format!(" in {parts}") };
        let name = format!("{batch}x({prefix}+{rows}x{columns}{bands})x{dim}");
        let (forward, backward) = both(batch, Shape { prefix, parts, rows, columns, dim, weights });
        list.add_stored("forward", &name, forward);
        list.add_stored("backward", &name, backward);
    }
    let mut full =
        |batch: usize, prefix: usize, parts: [usize; 2], columns: usize, dim: usize, weights: (f32, f32)| {
            let [parts, rows] = parts;
            let shape = Shape { prefix, parts, rows, columns, dim, weights };
            let (forward, backward) = both(batch, shape);
            list.full(format!("forward {batch} {shape:?}"), forward);
            list.full(format!("backward {batch} {shape:?}"), backward);
        };
    // One, primes, and sizes around a workgroup.
    full(1, 1, [1, 1], 1, 4, weights);
    for dim in [1, 3, 7, 15, 16, 17, 31, 33].map(|quads| 4 * quads) {
        for (prefix, parts, columns) in [(1, [1, 1], 13), (2, [7, 7], 3), (5, [3, 3], 11), (2, [5, 7], 3)] {
            full(2, prefix, parts, columns, dim, weights);
        }
    }
    for tokens in [PartTokens::Gelt, PartTokens::Local, PartTokens::Global] {
        for lambda_on in [LambdaOn::Class, LambdaOn::Local] {
            let config = GeltConfig { tokens, lambda_on, ..GeltConfig::default() };
            full(2, 1, [14, 14], 14, 768, config.weights());
        }
    }
    // One part with all patches.
    full(1, 1, [1, 1], 196, 768, weights);
    full(1, 1, [1, 14], 14, 768, weights);
    // Every number of bands, with and without rows that two share.
    for rows in [1, 2, 5, 12, 16] {
        (1..=rows).for_each(|parts| full(2, 1, [parts, rows], 2, 12, weights));
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let weights = GeltConfig::default().weights();
    let shape = Shape { prefix: 1, parts: GRID, rows: GRID, columns: GRID, dim: timed.model.dim, weights };
    let (forward, backward) = both(timed.batch, shape);
    timed.add("", forward);
    timed.add("backward", backward);
}
