//! rollout against the reference: a block's matrix and a row carried through it; then behind the attention that it follows.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{normal, scaled};
use crate::common::tolerance;
use lat_wgpu::kernels::attention;
use lat_wgpu::kernels::rollout::{Multiply, Probabilities};
use lat_wgpu::reference::attention::Attention;
use lat_wgpu::reference::rollout as reference;

/// Log-sum-exp (H, T) of all scores, as an adapter would round it.
fn sums(exact: Attention<'_>) -> Vec<f32> {
    let Attention { tokens, heads, .. } = exact;
    let all = (0..heads).flat_map(|head| (0..tokens).map(move |token| (head, token)));
    all.map(|(head, token)| exact.row(0, head, token).lse.value as f32).collect()
}

/// Compares the matrix of one picture's attention, and returns it.
fn check(name: &str, qkv: &[f32], tokens: usize, heads: usize, head_dim: usize) -> Vec<f32> {
    let exact = Attention { qkv, tokens, heads, head_dim };
    let lse = sums(exact);
    let case = format!("rollout probabilities {name} {tokens}x{heads}x{head_dim}");
    let mut run = Guarded::new(&case);
    let probabilities = Probabilities {
        qkv: run.input("qkv", qkv),
        lse: run.input("lse", &lse),
        mixed: run.output("mixed", tokens * tokens),
        tokens,
        heads,
        head_dim,
    };
    probabilities.record(&mut run.recorder, "probabilities");
    let mixed = run.run().remove(0);
    let wanted = reference::probabilities(exact, &lse);
    compare(&case, &mixed, wanted.into_iter().enumerate(), tolerance::rollout(heads, head_dim));
    mixed
}

fn multiply(row: &[f32], matrix: &[f32]) -> Vec<f32> {
    let tokens = row.len();
    let mut run = Guarded::new(&format!("rollout multiply {tokens}"));
    let (row, matrix) = (run.input("row", row), run.input("matrix", matrix));
    let carried = run.output("carried", tokens);
    Multiply { row, matrix, carried, tokens }.record(&mut run.recorder, "multiply");
    run.run().remove(0)
}

fn check_multiply(name: &str, row: &[f32], matrix: &[f32]) {
    let carried = multiply(row, matrix);
    let wanted = reference::multiply(row, matrix).into_iter().enumerate();
    let case = format!("rollout multiply {name} {}", row.len());
    compare(&case, &carried, wanted, tolerance::rollout_multiply(row.len()));
}

/// Around a workgroup, and around its square root: a pair is what an invocation owns.
const TOKENS: [usize; 14] = [1, 2, 3, 7, 8, 9, 13, 31, 63, 64, 65, 101, 127, 129];

#[test]
fn matrices_of_one_primes_and_around_a_workgroup() {
    for tokens in TOKENS {
        let mixed = check("normal", &normal(1, tokens * 3 * 2 * 16), tokens, 2, 16);
        if tokens == 1 {
            assert!((mixed[0] - 1.0).abs() < 1e-6, "a token alone stays itself: {mixed:?}");
        }
    }
}

#[test]
fn every_width_and_number_of_heads() {
    for (heads, head_dim) in [(1, 4), (1, 128), (3, 20), (5, 12), (12, 64)] {
        check("normal", &normal(2, 19 * 3 * heads * head_dim), 19, heads, head_dim);
    }
}

#[test]
fn large_scores_pick_one_token() {
    // Scores above a hundred: exp of them alone would overflow.
    let mixed = check("large", &scaled(3, 23 * 3 * 32, 6.0), 23, 1, 32);
    assert!(mixed.iter().all(|v| (0.0..=1.001).contains(v)), "{mixed:?}");
}

#[test]
fn rows_of_one_primes_and_around_a_workgroup() {
    for tokens in TOKENS {
        check_multiply("normal", &normal(4, tokens), &normal(5, tokens * tokens));
    }
    // What a real row is made of: shares.
    let shares: Vec<f32> = (0..257).map(|i| i as f32 / 32_896.0).collect();
    check_multiply("shares", &shares, &[1.0 / 257.0; 257 * 257]);
}

#[test]
fn behind_attention_rows_sum_to_one() {
    let (tokens, heads, head_dim) = (67, 3, 16);
    let mut run = Guarded::new("rollout behind attention");
    let qkv = run.input("qkv", &normal(6, tokens * 3 * heads * head_dim));
    let out = run.output("out", tokens * heads * head_dim);
    let lse = run.output("lse", heads * tokens);
    let mixed = run.output("mixed", tokens * tokens);
    let class = run.input("class", &[&[1.0], &vec![0.0; tokens - 1][..]].concat());
    let carried = run.output("carried", tokens);
    attention::Forward { qkv, out, lse: Some(lse), batch: 1, tokens, heads, head_dim }
        .record(&mut run.recorder, "attention");
    Probabilities { qkv, lse, mixed, tokens, heads, head_dim }.record(&mut run.recorder, "probabilities");
    Multiply { row: class, matrix: mixed, carried, tokens }.record(&mut run.recorder, "multiply");
    let found = run.run();
    let (mixed, carried) = (&found[2], &found[3]);
    for (i, row) in mixed.chunks(tokens).enumerate() {
        let sum: f64 = row.iter().map(|&v| f64::from(v)).sum();
        assert!((sum - 1.0).abs() < 2e-6, "row {i} sums to {sum}");
        assert!(row[i] > 0.5, "row {i} keeps {}", row[i]);
    }
    assert_eq!(carried[..], mixed[..tokens], "the class token alone takes its own row");
}
