//! tokens against the reference: a single addition each, and backward a sum over the images.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::tokens::{Backward, Forward};
use lat_wgpu::reference::tokens::{Tokens, gradient};

fn run(prefix: &[f32], patches: &[f32], position: &[f32], dim: usize) -> Vec<f32> {
    let count = (position.len() - prefix.len()) / dim;
    let batch = patches.len() / (count * dim);
    let mut run = Guarded::new(&format!("tokens {batch}x({}+{count})x{dim}", prefix.len() / dim));
    let tokens = Forward {
        prefix: run.input("prefix", prefix),
        patches: run.input("patches", patches),
        position: run.input("position", position),
        tokens: run.output("tokens", batch * position.len()),
        batch,
        count,
        dim,
    };
    tokens.record(&mut run.recorder, "tokens");
    run.run().remove(0)
}

fn check(batch: usize, prefix: usize, count: usize, dim: usize) {
    let (first, patches) = (normal(1, prefix * dim), normal(2, batch * count * dim));
    let position = normal(3, (prefix + count) * dim);
    let exact = Tokens { prefix: &first, patches: &patches, position: &position, count, dim };
    let within = position.len();
    let wanted = (0..batch * within).map(|i| (i, exact.at(i / within, i % within / dim, i % dim)));
    let name = format!("tokens {batch}x({prefix}+{count})x{dim}");
    compare(&name, &run(&first, &patches, &position, dim), wanted, tolerance::TOKENS);
}

#[test]
fn one_primes_and_around_a_workgroup() {
    check(1, 1, 1, 1);
    for dim in [3, 7, 31, 63, 64, 65, 127, 129] {
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
    let (prefix, patches, position) = (normal(4, 2 * 30), normal(5, 4 * 7 * 30), normal(6, 9 * 30));
    let all = run(&prefix, &patches, &position, 30);
    for (i, patches) in patches.chunks(7 * 30).enumerate() {
        let alone = run(&prefix, patches, &position, 30);
        assert_same_bits(&format!("image {i}"), &all[i * alone.len()..][..alone.len()], &alone);
    }
}

fn check_backward(batch: usize, prefix: usize, count: usize, dim: usize) {
    let sequence = (prefix + count) * dim;
    let dtokens = normal(7, batch * sequence);
    let name = format!("tokens backward {batch}x({prefix}+{count})x{dim}");
    let mut run = Guarded::new(&name);
    let backward = Backward {
        dtokens: run.input("dtokens", &dtokens),
        dprefix: run.output("dprefix", prefix * dim),
        dposition: run.output("dposition", sequence),
        batch,
        count,
        dim,
    };
    backward.record(&mut run.recorder, "tokens.backward");
    let results = run.run();
    let wanted = (0..sequence).map(|i| (i, gradient(&dtokens, sequence, i)));
    compare(&name, &results[1], wanted, tolerance::tokens_backward(batch));
    assert_same_bits(&format!("{name}: dprefix"), &results[0], &results[1][..prefix * dim]);
}

#[test]
fn backward_of_the_reference_against_differences() {
    let (batch, prefix, count, dim) = (3, 2, 4, 5);
    let sequence = (prefix + count) * dim;
    let (first, patches) = (coarse(8, prefix * dim), coarse(9, batch * count * dim));
    let (position, dtokens) = (coarse(10, sequence), normal(11, batch * sequence));
    let loss = |prefix: &[f32], position: &[f32]| {
        let tokens = Tokens { prefix, patches: &patches, position, count, dim };
        let at = |i: usize| tokens.at(i / sequence, i % sequence / dim, i % dim).value;
        dtokens.iter().enumerate().map(|(i, &g)| f64::from(g) * at(i)).sum()
    };
    let gradient: Vec<f64> = (0..sequence).map(|i| gradient(&dtokens, sequence, i).value).collect();
    prove("tokens: dposition", &position, &gradient, |position| loss(&first, position));
    prove("tokens: dprefix", &first, &gradient[..prefix * dim], |first| loss(first, &position));
}

#[test]
fn backward_of_one_primes_and_around_a_workgroup() {
    check_backward(1, 1, 1, 1);
    for dim in [3, 7, 31, 63, 64, 65, 127, 129] {
        check_backward(1, 1, 2, dim);
        check_backward(3, 5, 13, dim);
    }
    check_backward(31, 1, 3, 17);
}

#[test]
fn backward_of_vit_b() {
    check_backward(8, 1, 196, 768);
}
