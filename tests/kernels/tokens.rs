//! tokens against the reference: a single addition each, and backward a sum over the images.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::tokens::{Backward, Forward};
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::tokens::{Tokens, gradient, position_row};
use std::collections::BTreeSet;

fn run(prefix: &[f32], patches: &[f32], position: &[f32], count: usize, dim: usize) -> Vec<f32> {
    let batch = patches.len() / (count * dim);
    let mut run = Guarded::new(&format!("tokens {batch}x({}+{count})x{dim}", prefix.len() / dim));
    let tokens = Forward {
        prefix: run.input("prefix", prefix),
        patches: run.input("patches", patches),
        position: run.input("position", position),
        tokens: run.output("tokens", batch * (prefix.len() + count * dim)),
        batch,
        count,
        dim,
    };
    tokens.record(&mut run.recorder, "tokens");
    run.run().remove(0)
}

/// How many of some prefix tokens have a position: all, the class token alone, none.
fn positioned(prefix: usize) -> BTreeSet<usize> {
    BTreeSet::from([prefix, 1, 0])
}

fn check(batch: usize, prefix: usize, count: usize, dim: usize) {
    let (first, patches) = (normal(1, prefix * dim), normal(2, batch * count * dim));
    for positioned in positioned(prefix) {
        let position = normal(3, (positioned + count) * dim);
        let exact = Tokens { prefix: &first, patches: &patches, position: &position, count, dim };
        let within = (prefix + count) * dim;
        let wanted = (0..batch * within).map(|i| (i, exact.at(i / within, i % within / dim, i % dim)));
        let name = format!("tokens {batch}x({prefix}+{count})x{dim}, {positioned} positioned");
        compare(&name, &run(&first, &patches, &position, count, dim), wanted, tolerance::TOKENS);
    }
}

#[test]
fn one_primes_and_around_a_workgroup() {
    check(1, 1, 1, 4);
    for dim in [1, 3, 7, 15, 16, 17, 31, 33].map(|quads| 4 * quads) {
        check(1, 1, 2, dim);
        check(3, 5, 13, dim);
    }
}

#[test]
fn shape_of_vit_b() {
    check(2, 1, 196, 768);
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let (prefix, patches, position) = (normal(4, 2 * 28), normal(5, 4 * 7 * 28), normal(6, 9 * 28));
    let all = run(&prefix, &patches, &position, 7, 28);
    for (i, patches) in patches.chunks(7 * 28).enumerate() {
        let alone = run(&prefix, patches, &position, 7, 28);
        assert_same_bits(&format!("image {i}"), &all[i * alone.len()..][..alone.len()], &alone);
    }
}

/// The places of dposition with their gradients.
fn position_gradient(
    dtokens: &[f32],
    prefix: usize,
    positioned: usize,
    count: usize,
    dim: usize,
) -> Vec<Exact> {
    let sequence = (prefix + count) * dim;
    let tokens = (0..prefix + count).filter(|&t| position_row(t, prefix, positioned).is_some());
    tokens.flat_map(|t| (0..dim).map(move |d| gradient(dtokens, sequence, t * dim + d))).collect()
}

fn check_backward(batch: usize, prefix: usize, count: usize, dim: usize) {
    positioned(prefix).into_iter().for_each(|rows| check_backward_with(batch, prefix, rows, count, dim));
}

fn check_backward_with(batch: usize, prefix: usize, positioned: usize, count: usize, dim: usize) {
    let sequence = (prefix + count) * dim;
    let dtokens = normal(7, batch * sequence);
    let name = format!("tokens backward {batch}x({prefix}+{count})x{dim}, {positioned} positioned");
    let mut run = Guarded::new(&name);
    let backward = Backward {
        dtokens: run.input("dtokens", &dtokens),
        dprefix: run.output("dprefix", prefix * dim),
        dposition: run.output("dposition", (positioned + count) * dim),
        batch,
        count,
        dim,
    };
    backward.record(&mut run.recorder, "tokens.backward");
    let results = run.run();
    let wanted = position_gradient(&dtokens, prefix, positioned, count, dim);
    compare(&name, &results[1], wanted.into_iter().enumerate(), tolerance::tokens_backward(batch));
    let wanted = (0..prefix * dim).map(|i| (i, gradient(&dtokens, sequence, i)));
    compare(&format!("{name}: dprefix"), &results[0], wanted, tolerance::tokens_backward(batch));
    let shared = positioned * dim;
    assert_same_bits(&format!("{name}: both"), &results[0][..shared], &results[1][..shared]);
}

#[test]
fn backward_of_the_reference_against_differences() {
    let (batch, prefix, count, dim) = (3, 3, 4, 8);
    let sequence = (prefix + count) * dim;
    let (first, patches) = (coarse(8, prefix * dim), coarse(9, batch * count * dim));
    let dtokens = normal(11, batch * sequence);
    let dprefix: Vec<f64> = (0..prefix * dim).map(|i| gradient(&dtokens, sequence, i).value).collect();
    for positioned in positioned(prefix) {
        let position = coarse(10, (positioned + count) * dim);
        let loss = |prefix: &[f32], position: &[f32]| {
            let tokens = Tokens { prefix, patches: &patches, position, count, dim };
            let at = |i: usize| tokens.at(i / sequence, i % sequence / dim, i % dim).value;
            dtokens.iter().enumerate().map(|(i, &g)| f64::from(g) * at(i)).sum()
        };
        let dposition = position_gradient(&dtokens, prefix, positioned, count, dim);
        let dposition: Vec<f64> = dposition.iter().map(|g| g.value).collect();
        let case = format!("tokens, {positioned} of {prefix} positioned");
        prove(&format!("{case}: dposition"), &position, &dposition, |position| loss(&first, position));
        prove(&format!("{case}: dprefix"), &first, &dprefix, |first| loss(first, &position));
    }
}

#[test]
fn backward_of_one_primes_and_around_a_workgroup() {
    check_backward(1, 1, 1, 4);
    for dim in [1, 3, 7, 15, 16, 17, 31, 33].map(|quads| 4 * quads) {
        check_backward(1, 1, 2, dim);
        check_backward(3, 5, 13, dim);
    }
    check_backward(31, 1, 3, 20);
}

#[test]
fn backward_of_vit_b() {
    check_backward(8, 1, 196, 768);
}
