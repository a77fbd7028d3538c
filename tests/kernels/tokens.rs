//! tokens against the reference: a single addition each.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::tokens::Forward;
use lat_wgpu::reference::tokens::Tokens;

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
