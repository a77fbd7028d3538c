//! More tests of gelt.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use crate::common::recordings::{judged, outputs};
use crate::common::{alone, assert_same_bits};
use lat_wgpu::cases::gelt::{Shape, backward, forward};
use lat_wgpu::kernels::gelt::{Backward, Forward};
use lat_wgpu::shape::GeltConfig;

const SHAPE: Shape = Shape { prefix: 2, parts: 3, rows: 4, columns: 5, dim: 52, weights: (0.25, 0.75) };

#[test]
fn reference_gradients_match_finite_differences() {
    for (parts, rows) in [(3, 3), (1, 3), (3, 5), (4, 5)] {
        let weights = GeltConfig::default().weights();
        let shape = Shape { prefix: 2, parts, rows, columns: 4, dim: 8, weights };
        let Shape { parts, dim, .. } = shape;
        let (tokens, dgelt) = (coarse(4, 2 * shape.tokens()), normal(5, 2 * parts * dim));
        let (exact, within) = (shape.exact(&[]), shape.tokens());
        let gradient: Vec<f64> = (0..2 * within)
            .map(|i| exact.gradient(&dgelt, i / within, i % within / dim, i % dim).value)
            .collect();
        check_gradient(&format!("gelt in {parts} of {rows}: dtokens"), &tokens, &gradient, |tokens| {
            let gelt = shape.exact(tokens);
            let at = |i: usize| gelt.at(i / (parts * dim), i / dim % parts, i % dim).value;
            dgelt.iter().enumerate().map(|(i, &g)| f64::from(g) * at(i)).sum()
        });
    }
}

#[test]
fn micro_batches_share_one_tensor() {
    let Shape { prefix, parts, rows, columns, dim, weights } = SHAPE;
    let (shape, pieces) = (SHAPE, [(0, 3), (3, 1), (4, 2)]);
    let (tokens, dgelt) = (normal(2, 6 * shape.tokens()), normal(3, 6 * parts * dim));
    let results = outputs("gelt in pieces", |run| {
        let (gelt, dgelt) = (run.output("gelt", dgelt.len()), run.operand("dgelt", &dgelt).tensor);
        for (first, batch) in pieces {
            let tokens =
                run.operand("tokens", &tokens[first * shape.tokens()..][..batch * shape.tokens()]).tensor;
            let dtokens = run.output("dtokens", batch * shape.tokens());
            Forward { tokens, gelt, first, batch, prefix, parts, rows, columns, dim, weights }
                .record(&mut run.recorder, "gelt");
            Backward { dgelt, dtokens, first, batch, prefix, parts, rows, columns, dim, weights }
                .record(&mut run.recorder, "gelt.backward");
        }
    });
    let whole = outputs("gelt", |run| {
        forward(run, &tokens, shape);
        backward(run, &dgelt, shape);
    });
    assert_same_bits("gelt", &results[0], &whole[0]);
    assert_same_bits("dtokens", &results[1..].concat(), &whole[1]);
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    alone(&normal(2, 4 * SHAPE.tokens()), 4, |tokens| judged("gelt", |run| forward(run, tokens, SHAPE)));
}
