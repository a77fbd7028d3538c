//! gelt against the reference.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::gelt::{Backward, Forward};
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::gelt::Gelt;
use lat_wgpu::shape::{GeltConfig, LambdaOn, PartTokens};

/// P, R, C and D.
#[derive(Debug, Clone, Copy)]
struct Shape {
    prefix: usize,
    parts: usize,
    columns: usize,
    dim: usize,
}

impl Shape {
    fn tokens(&self) -> usize {
        (self.prefix + self.parts * self.columns) * self.dim
    }
}

fn run(shape: Shape, tokens: &[f32], weights: (f32, f32)) -> Vec<f32> {
    let Shape { prefix, parts, columns, dim } = shape;
    let batch = tokens.len() / shape.tokens();
    let mut run = Guarded::new(&format!("gelt {batch} {shape:?}"));
    let tokens = run.input("tokens", tokens);
    let gelt = run.output("gelt", batch * parts * dim);
    Forward { tokens, gelt, first: 0, batch, prefix, parts, columns, dim, weights }
        .record(&mut run.recorder, "gelt");
    run.run().remove(0)
}

fn check(shape: Shape, batch: usize, weights: (f32, f32)) {
    let Shape { prefix, parts, columns, dim } = shape;
    let tokens = normal(1, batch * shape.tokens());
    let exact = Gelt { tokens: &tokens, prefix, parts, columns, dim, weights };
    let wanted = (0..batch * parts * dim).map(|i| (i, exact.at(i / (parts * dim), i / dim % parts, i % dim)));
    let name = format!("gelt {batch}x({prefix}+{parts}x{columns})x{dim} weights {weights:?}");
    compare(&name, &run(shape, &tokens, weights), wanted, tolerance::gelt(columns));
}

fn run_backward(shape: Shape, dgelt: &[f32], weights: (f32, f32)) -> Vec<f32> {
    let Shape { prefix, parts, columns, dim } = shape;
    let batch = dgelt.len() / (parts * dim);
    let mut run = Guarded::new(&format!("gelt backward {batch} {shape:?}"));
    let dgelt = run.input("dgelt", dgelt);
    let dtokens = run.output("dtokens", batch * shape.tokens());
    Backward { dgelt, dtokens, first: 0, batch, prefix, parts, columns, dim, weights }
        .record(&mut run.recorder, "gelt.backward");
    run.run().remove(0)
}

/// The gradient of every token.
fn gradient(shape: Shape, batch: usize, dgelt: &[f32], weights: (f32, f32)) -> Vec<Exact> {
    let Shape { prefix, parts, columns, dim } = shape;
    let exact = Gelt { tokens: &[], prefix, parts, columns, dim, weights };
    let within = shape.tokens();
    (0..batch * within).map(|i| exact.gradient(dgelt, i / within, i % within / dim, i % dim)).collect()
}

fn check_backward(shape: Shape, batch: usize, weights: (f32, f32)) {
    let Shape { prefix, parts, columns, dim } = shape;
    let dgelt = normal(3, batch * parts * dim);
    let wanted = gradient(shape, batch, &dgelt, weights).into_iter().enumerate();
    let name = format!("gelt backward {batch}x({prefix}+{parts}x{columns})x{dim} weights {weights:?}");
    compare(&name, &run_backward(shape, &dgelt, weights), wanted, tolerance::gelt_backward(parts));
}

#[test]
fn backward_of_the_reference_against_differences() {
    let shape = Shape { prefix: 2, parts: 3, columns: 4, dim: 8 };
    let Shape { prefix, parts, columns, dim } = shape;
    let weights = GeltConfig::default().weights();
    let (tokens, dgelt) = (coarse(4, 2 * shape.tokens()), normal(5, 2 * parts * dim));
    let gradient: Vec<f64> = gradient(shape, 2, &dgelt, weights).iter().map(|g| g.value).collect();
    prove("gelt: dtokens", &tokens, &gradient, |tokens| {
        let gelt = Gelt { tokens, prefix, parts, columns, dim, weights };
        let at = |i: usize| gelt.at(i / (parts * dim), i / dim % parts, i % dim).value;
        dgelt.iter().enumerate().map(|(i, &g)| f64::from(g) * at(i)).sum()
    });
}

#[test]
fn backward_of_one_primes_and_around_a_workgroup() {
    let weights = GeltConfig::default().weights();
    check_backward(Shape { prefix: 1, parts: 1, columns: 1, dim: 4 }, 1, weights);
    for dim in [1, 3, 7, 15, 16, 17, 31, 33].map(|quads| 4 * quads) {
        for (prefix, parts, columns) in [(1, 1, 13), (2, 7, 3), (5, 3, 11)] {
            check_backward(Shape { prefix, parts, columns, dim }, 2, weights);
        }
    }
}

#[test]
fn backward_of_vit_b_with_every_blend() {
    for tokens in [PartTokens::Gelt, PartTokens::Local, PartTokens::Global] {
        let config = GeltConfig { tokens, ..GeltConfig::default() };
        check_backward(Shape { prefix: 1, parts: 14, columns: 14, dim: 768 }, 2, config.weights());
    }
}

#[test]
fn one_primes_and_around_a_workgroup() {
    let weights = GeltConfig::default().weights();
    check(Shape { prefix: 1, parts: 1, columns: 1, dim: 4 }, 1, weights);
    for dim in [1, 3, 7, 15, 16, 17, 31, 33].map(|quads| 4 * quads) {
        for (prefix, parts, columns) in [(1, 1, 13), (2, 7, 3), (5, 3, 11)] {
            check(Shape { prefix, parts, columns, dim }, 2, weights);
        }
    }
}

#[test]
fn shape_of_vit_b_with_every_blend() {
    for tokens in [PartTokens::Gelt, PartTokens::Local, PartTokens::Global] {
        for lambda_on in [LambdaOn::Class, LambdaOn::Local] {
            let config = GeltConfig { tokens, lambda_on, ..GeltConfig::default() };
            check(Shape { prefix: 1, parts: 14, columns: 14, dim: 768 }, 2, config.weights());
        }
    }
    // One part of all positions.
    check(Shape { prefix: 1, parts: 1, columns: 196, dim: 768 }, 1, GeltConfig::default().weights());
}

#[test]
fn pieces_of_a_batch_meet_in_one_tensor() {
    let shape = Shape { prefix: 2, parts: 3, columns: 5, dim: 52 };
    let Shape { prefix, parts, columns, dim } = shape;
    let (weights, pieces) = ((0.25, 0.75), [(0, 3), (3, 1), (4, 2)]);
    let (tokens, dgelt) = (normal(2, 6 * shape.tokens()), normal(3, 6 * parts * dim));
    let mut run_pieces = Guarded::new("gelt in pieces");
    let gelt = run_pieces.output("gelt", dgelt.len());
    let dgelt_of = run_pieces.input("dgelt", &dgelt);
    for (first, batch) in pieces {
        let tokens = &tokens[first * shape.tokens()..][..batch * shape.tokens()];
        let tokens = run_pieces.input("tokens", tokens);
        let dtokens = run_pieces.output("dtokens", batch * shape.tokens());
        Forward { tokens, gelt, first, batch, prefix, parts, columns, dim, weights }
            .record(&mut run_pieces.recorder, "gelt");
        Backward { dgelt: dgelt_of, dtokens, first, batch, prefix, parts, columns, dim, weights }
            .record(&mut run_pieces.recorder, "gelt.backward");
    }
    let results = run_pieces.run();
    assert_same_bits("gelt", &results[0], &run(shape, &tokens, weights));
    assert_same_bits("dtokens", &results[1..].concat(), &run_backward(shape, &dgelt, weights));
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let shape = Shape { prefix: 2, parts: 3, columns: 5, dim: 52 };
    let tokens = normal(2, 4 * shape.tokens());
    let all = run(shape, &tokens, (0.25, 0.75));
    for (i, tokens) in tokens.chunks(shape.tokens()).enumerate() {
        let alone = run(shape, tokens, (0.25, 0.75));
        assert_same_bits(&format!("image {i}"), &all[i * alone.len()..][..alone.len()], &alone);
    }
}
