//! More tests of rollout: a single token, large scores, and a plan with attention.

use crate::common::random::{drawn, scaled};
use crate::common::recordings::{judged, outputs};
use lat_wgpu::cases::attention::Shape;
use lat_wgpu::cases::rollout::probabilities;
use lat_wgpu::kernels::attention;
use lat_wgpu::kernels::rollout::{Multiply, Probabilities};

#[test]
fn probabilities_stay_probabilities() {
    let run = |qkv: Vec<f32>, tokens, heads, head_dim| {
        let shape = Shape { batch: 1, tokens, heads, head_dim };
        judged("rollout", |run| probabilities(run, qkv, shape)).remove(0)
    };
    let mixed = run(scaled(1, 3 * 2 * 16, 1.0), 1, 2, 16);
    assert!((mixed[0] - 1.0).abs() < 1e-6, "a token alone stays itself: {mixed:?}");
    // With scores above a hundred the softmax selects a single token.
    let mixed = run(scaled(3, 23 * 3 * 32, 6.0), 23, 1, 32);
    assert!(mixed.iter().all(|v| (0.0..=1.001).contains(v)), "{mixed:?}");
}

#[test]
fn after_attention_rows_sum_to_one() {
    let (tokens, heads, head_dim) = (67, 3, 16);
    let found = outputs("rollout behind attention", |run| {
        let qkv = run.operand("qkv", drawn(6, tokens * 3 * heads * head_dim)).tensor;
        let out = run.output("out", tokens * heads * head_dim);
        let (lse, mixed) = (run.output("lse", heads * tokens), run.output("mixed", tokens * tokens));
        let class = run.operand("class", [&[1.0], &vec![0.0; tokens - 1][..]].concat()).tensor;
        let carried = run.output("carried", tokens);
        attention::Forward { qkv, out, lse: Some(lse), batch: 1, tokens, heads, head_dim }
            .record(&mut run.recorder, "attention");
        Probabilities { qkv, lse, mixed, tokens, heads, head_dim }.record(&mut run.recorder, "probabilities");
        Multiply { row: class, matrix: mixed, carried, tokens }.record(&mut run.recorder, "multiply");
    });
    let (mixed, carried) = (&found[2], &found[3]);
    for (i, row) in mixed.chunks(tokens).enumerate() {
        let sum: f64 = row.iter().map(|&v| f64::from(v)).sum();
        assert!((sum - 1.0).abs() < 2e-6, "row {i} sums to {sum}");
        assert!(row[i] > 0.5, "row {i} keeps {}", row[i]);
    }
    assert_eq!(carried[..], mixed[..tokens], "the class token alone takes its own row");
}
