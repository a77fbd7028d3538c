//! Cases of rollout.

use super::attention::{self, Shape};
use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, TOKENS, TimedCases, tolerance};
use crate::kernels::rollout::{Multiply, Probabilities};
use crate::reference::rollout as reference;

/// Records the matrix of one image's attention.
pub fn probabilities<'n>(run: &mut Run<'_>, qkv: impl Into<Numbers<'n>>, shape: Shape) {
    let Shape { tokens, heads, head_dim, .. } = shape;
    let qkv = run.operand("qkv", qkv);
    let lse = Numbers::new(heads * tokens, || attention::rounded(&attention::exact_forward(&qkv, shape).1));
    let lse = run.operand("lse", lse);
    let mixed = run.output("mixed", tokens * tokens);
    Probabilities { qkv: qkv.tensor, lse: lse.tensor, mixed, tokens, heads, head_dim }
        .record(&mut run.recorder, "probabilities");
    run.all("mixed", mixed, tolerance::rollout(heads, head_dim), || {
        reference::probabilities(shape.exact(&qkv), &lse)
    });
}

/// Records a row times a matrix.
pub fn multiply<'n>(run: &mut Run<'_>, row: impl Into<Numbers<'n>>, matrix: impl Into<Numbers<'n>>) {
    let (row, matrix) = (run.operand("row", row), run.operand("matrix", matrix));
    let tokens = row.tensor.len;
    let carried = run.output("carried", tokens);
    Multiply { row: row.tensor, matrix: matrix.tensor, carried, tokens }.record(&mut run.recorder, "multiply");
    run.all("carried", carried, tolerance::rollout_multiply(tokens), || reference::multiply(&row, &matrix));
}

pub(super) fn list(list: &mut List) {
    let shape = |tokens, heads, head_dim| Shape { batch: 1, tokens, heads, head_dim };
    let matrix = |shape: Shape, factor: f32| {
        move |run: &mut Run<'_>| probabilities(run, drawn(1, shape.qkv_len()).map(move |v| factor * v), shape)
    };
    let row = |tokens: usize| move |run: &mut Run<'_>| multiply(run, drawn(4, tokens), drawn(5, tokens * tokens));
    for (tokens, heads, head_dim) in [(1, 2, 16), (65, 3, 20)] {
        let name = format!("{tokens}x{heads}x{head_dim}");
        list.add("probabilities", name, matrix(shape(tokens, heads, head_dim), 1.0));
    }
    for tokens in [1, 13, 129] {
        list.add("multiply", format!("{tokens}"), row(tokens));
    }
    // Around a workgroup, and around the square root of its size, since an invocation owns a pair of tokens.
    for tokens in [1, 2, 3, 7, 8, 9, 13, 31, 63, 64, 65, 101, 127, 129] {
        list.full(format!("probabilities {tokens}"), matrix(shape(tokens, 2, 16), 1.0));
        list.full(format!("multiply {tokens}"), row(tokens));
    }
    for (heads, head_dim) in [(1, 4), (1, 128), (3, 20), (5, 12), (12, 64)] {
        list.full(format!("probabilities 19x{heads}x{head_dim}"), matrix(shape(19, heads, head_dim), 1.0));
    }
    // Scores above a hundred, whose exp would overflow on its own.
    list.full("probabilities of large scores", matrix(shape(23, 1, 32), 6.0));
    // Values like those of a rollout: shares.
    list.full("multiply shares", |run| {
        let shares: Vec<f32> = (0..257).map(|i| i as f32 / 32_896.0).collect();
        multiply(run, shares, vec![1.0 / 257.0; 257 * 257]);
    });
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    // Rollout handles one image at a time.
    let (dim, heads) = (timed.model.dim, timed.model.heads);
    let shape = Shape { batch: 1, tokens: TOKENS, heads, head_dim: dim / heads };
    timed.add("", move |run| {
        probabilities(run, drawn(1, shape.qkv_len()), shape);
        multiply(run, drawn(4, TOKENS), drawn(5, TOKENS * TOKENS));
    });
}
