//! attention: both families against the reference.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::{normal, sample, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::gpu::Family;
use lat_wgpu::kernels::attention::{Backward, Forward};
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::attention::Attention;

/// B, T, H and Dh.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl Shape {
    fn qkv_len(&self) -> usize {
        self.batch * self.tokens * 3 * self.heads * self.head_dim
    }
}

/// What this adapter can run.
fn families() -> Vec<Family> {
    match context().family() {
        Family::Tiled => vec![Family::Tiled],
        subgroup => vec![Family::Tiled, subgroup],
    }
}

/// out, and lse if it is kept.
fn run(shape: Shape, qkv: &[f32], keep: bool, family: Family) -> Vec<Vec<f32>> {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let mut run = Guarded::new(&format!("attention {shape:?} {family:?}"));
    let qkv = run.input("qkv", qkv);
    let out = run.output("out", batch * tokens * heads * head_dim);
    let lse = keep.then(|| run.output("lse", batch * heads * tokens));
    let attention = Forward { qkv, out, lse, batch, tokens, heads, head_dim };
    attention.record_with(&mut run.recorder, "attention", family);
    run.run()
}

/// Compares about `count` rows, with and without log-sum-exp.
fn check(shape: Shape, qkv: &[f32], count: usize) {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let exact = Attention { qkv, tokens, heads, head_dim };
    let mut outs: Vec<(usize, Exact)> = Vec::new();
    let mut sums: Vec<(usize, Exact)> = Vec::new();
    for place in sample(batch * heads * tokens, count) {
        // Counted as lse is: (B, H, T).
        let (image, head, token) = (place / (heads * tokens), place / tokens % heads, place % tokens);
        let row = exact.row(image, head, token);
        let start = ((image * tokens + token) * heads + head) * head_dim;
        outs.extend((start..).zip(row.out));
        sums.push((place, row.lse));
    }
    let allowed = tolerance::attention(tokens, head_dim);
    for family in families() {
        let name = format!("attention {batch}x{tokens}x{heads}x{head_dim} {family:?}");
        let kept = run(shape, qkv, true, family);
        compare(&name, &kept[0], outs.iter().copied(), allowed);
        compare(&format!("{name}: lse"), &kept[1], sums.iter().copied(), allowed);
        assert_same_bits(&format!("{name} without lse"), &kept[0], &run(shape, qkv, false, family)[0]);
    }
}

/// One, primes, and what lies around the tiles of each family: tiles of 32 rows up to 32 and at 49 to 64, 127 and 128, of
/// 48 at 41 to 48, 81 and 129, else of 40.
const TOKENS: [usize; 31] = [
    1, 2, 3, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 37, 39, 40, 41, 47, 48, 49, 61, 63, 64, 65, 79, 80, 81,
    127, 128, 129, 257,
];

#[test]
fn one_primes_and_around_every_tile() {
    for tokens in TOKENS {
        let shape = Shape { batch: 1, tokens, heads: 2, head_dim: 16 };
        check(shape, &normal(1, shape.qkv_len()), usize::MAX);
    }
}

#[test]
fn every_width_of_head() {
    // Whole rows of 52 and of 104 take more workgroup memory than the tiles of the scores. tests/shader_contract.rs validates
    // 80 and 128, which take a software driver long to compile.
    for head_dim in [4, 20, 52, 64, 104] {
        let shape = Shape { batch: 2, tokens: 35, heads: 3, head_dim };
        check(shape, &normal(2, shape.qkv_len()), usize::MAX);
    }
}

#[test]
fn shape_of_vit_b() {
    // Of 224×112 and of 224×224 pixels.
    for tokens in [129, 197] {
        let shape = Shape { batch: 1, tokens, heads: 12, head_dim: 64 };
        check(shape, &normal(3, shape.qkv_len()), 64);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    // Scores of ±80 and beyond: exp of them alone is past what f32 holds.
    let shape = Shape { batch: 1, tokens: 37, heads: 2, head_dim: 16 };
    let qkv = scaled(4, shape.qkv_len(), 6.0);
    let exact = Attention { qkv: &qkv, tokens: 37, heads: 2, head_dim: 16 };
    let largest = (0..37).map(|t| exact.row(0, 0, t).lse.value.abs()).fold(0.0, f64::max);
    assert!(largest > 88.8, "the test's own scores reach only {largest}");
    check(shape, &qkv, usize::MAX);
    // Scores that rise by 80 from tile to tile, and fall.
    for step in [80.0, -80.0] {
        let shape = Shape { batch: 1, tokens: 100, heads: 1, head_dim: 4 };
        let mut qkv = normal(5, shape.qkv_len());
        for (token, row) in qkv.chunks_mut(12).enumerate() {
            row[..4].fill(1.0);
            row[4..8].fill(step * (token / 10) as f32 / 2.0);
        }
        check(shape, &qkv, usize::MAX);
    }
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let three = Shape { batch: 3, tokens: 50, heads: 2, head_dim: 32 };
    let one = Shape { batch: 1, ..three };
    let qkv = normal(6, three.qkv_len());
    for family in families() {
        let all = run(three, &qkv, true, family);
        for (i, qkv) in qkv.chunks(one.qkv_len()).enumerate() {
            let alone = run(one, qkv, true, family);
            let (out, lse) = (alone[0].len(), alone[1].len());
            assert_same_bits(&format!("image {i} {family:?}"), &all[0][i * out..][..out], &alone[0]);
            assert_same_bits(&format!("lse {i} {family:?}"), &all[1][i * lse..][..lse], &alone[1]);
        }
    }
}

/// dqkv, from the reference's out and lse rounded to f32.
fn run_backward(shape: Shape, qkv: &[f32], dout: &[f32], family: Family) -> Vec<f32> {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let exact = Attention { qkv, tokens, heads, head_dim };
    let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; batch * heads * tokens]);
    for (place, lse) in lse.iter_mut().enumerate() {
        let (image, head, token) = (place / (heads * tokens), place / tokens % heads, place % tokens);
        let row = exact.row(image, head, token);
        *lse = row.lse.value as f32;
        let start = ((image * tokens + token) * heads + head) * head_dim;
        for (out, exact) in out[start..].iter_mut().zip(row.out) {
            *out = exact.value as f32;
        }
    }
    let mut run = Guarded::new(&format!("attention backward {shape:?} {family:?}"));
    let backward = Backward {
        qkv: run.input("qkv", qkv),
        out: run.input("out", &out),
        lse: run.input("lse", &lse),
        dout: run.input("dout", dout),
        dqkv: run.output("dqkv", qkv.len()),
        batch,
        tokens,
        heads,
        head_dim,
    };
    backward.record_with(&mut run.recorder, "attention.backward", family);
    run.run().remove(0)
}

/// Everything in dqkv, in its order.
fn gradient(shape: Shape, qkv: &[f32], dout: &[f32]) -> Vec<Exact> {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let exact = Attention { qkv, tokens, heads, head_dim };
    let mut all = vec![Exact::default(); qkv.len()];
    for (image, head) in (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head))) {
        for (part, gradient) in exact.gradients(image, head, dout).dqkv.iter().enumerate() {
            for (token, row) in gradient.chunks(head_dim).enumerate() {
                let start = (((image * tokens + token) * 3 + part) * heads + head) * head_dim;
                all[start..start + head_dim].copy_from_slice(row);
            }
        }
    }
    all
}

fn check_backward(shape: Shape, qkv: &[f32]) {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let width = heads * head_dim;
    let dout = normal(7, qkv.len() / 3);
    let exact = gradient(shape, qkv, &dout);
    for family in families() {
        let dqkv = run_backward(shape, qkv, &dout, family);
        for (part, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
            // A single token has nothing to choose from: dq and dk are zero but for rounding.
            if tokens > 1 || part == 2 {
                let name = format!("attention {name} {batch}x{tokens}x{heads}x{head_dim} {family:?}");
                let wanted = exact.iter().copied().enumerate().filter(|(i, _)| i / width % 3 == part);
                compare(&name, &dqkv, wanted, tolerance::attention_backward(tokens, head_dim));
            }
        }
    }
}

#[test]
fn backward_of_the_reference_against_differences() {
    let shape = Shape { batch: 2, tokens: 5, heads: 2, head_dim: 4 };
    let Shape { batch, tokens, heads, head_dim } = shape;
    let (qkv, dout) = (coarse(8, shape.qkv_len()), normal(9, shape.qkv_len() / 3));
    let gradient: Vec<f64> = gradient(shape, &qkv, &dout).iter().map(|g| g.value).collect();
    prove("attention: dqkv", &qkv, &gradient, |qkv| {
        let exact = Attention { qkv, tokens, heads, head_dim };
        let mut loss = 0.0;
        for (i, dout) in dout.chunks(head_dim).enumerate() {
            // Counted as out is: (B, T, H).
            let row = exact.row(i / (tokens * heads), i % heads, i / heads % tokens);
            loss += row.out.iter().zip(dout).map(|(o, &g)| o.value * f64::from(g)).sum::<f64>();
        }
        assert_eq!(dout.len(), batch * tokens * heads * head_dim);
        loss
    });
}

#[test]
fn backward_of_one_primes_and_around_every_tile() {
    for tokens in TOKENS {
        let shape = Shape { batch: 1, tokens, heads: 2, head_dim: 16 };
        check_backward(shape, &normal(10, shape.qkv_len()));
    }
}

#[test]
fn backward_of_every_width_of_head() {
    // Whole rows of 52 and of 104 take more workgroup memory than the tiles of the scores. tests/shader_contract.rs validates
    // 80 and 128, which take a software driver long to compile.
    for head_dim in [4, 20, 52, 64, 104] {
        let shape = Shape { batch: 2, tokens: 35, heads: 3, head_dim };
        check_backward(shape, &normal(11, shape.qkv_len()));
    }
}

#[test]
fn backward_of_vit_s() {
    // Of 224×112 and of 224×224 pixels.
    for (tokens, heads) in [(129, 2), (197, 6)] {
        let shape = Shape { batch: 1, tokens, heads, head_dim: 64 };
        check_backward(shape, &normal(12, shape.qkv_len()));
    }
}

#[test]
fn backward_of_large_scores_does_not_overflow() {
    let shape = Shape { batch: 1, tokens: 37, heads: 2, head_dim: 16 };
    check_backward(shape, &scaled(4, shape.qkv_len(), 4.0));
}

#[test]
fn backward_of_an_image_does_not_depend_on_its_neighbours() {
    let three = Shape { batch: 3, tokens: 50, heads: 2, head_dim: 32 };
    let one = Shape { batch: 1, ..three };
    let (qkv, dout) = (normal(13, three.qkv_len()), normal(14, three.qkv_len() / 3));
    for family in families() {
        let all = run_backward(three, &qkv, &dout, family);
        let images = qkv.chunks(one.qkv_len()).zip(dout.chunks(one.qkv_len() / 3));
        for (i, (qkv, dout)) in images.enumerate() {
            let alone = run_backward(one, qkv, dout, family);
            assert_same_bits(
                &format!("image {i} {family:?}"),
                &all[i * alone.len()..][..alone.len()],
                &alone,
            );
        }
    }
}

#[test]
fn launches_cut_short_have_the_same_bits() {
    let shape = Shape { batch: 3, tokens: 13, heads: 2, head_dim: 8 };
    let Shape { batch, tokens, heads, head_dim } = shape;
    let (qkv, dout) = (normal(17, shape.qkv_len()), normal(18, shape.qkv_len() / 3));
    let product = (2 * tokens * tokens * head_dim) as f64;
    for family in families() {
        // Operations that a launch has at most; launches of forward, delta, dq and dkv over six heads.
        let runs =
            [(f64::INFINITY, [1; 4]), (4.0 * product, [3, 1, 6, 6]), (1.0, [6; 4])].map(|(most, wanted)| {
                let mut run = Guarded::new(&format!("attention in launches of {most} {family:?}"));
                run.recorder.dispatch_flops = most;
                let (qkv, dout) = (run.input("qkv", &qkv), run.input("dout", &dout));
                let (out, lse) = (run.output("out", dout.len), run.output("lse", batch * heads * tokens));
                let dqkv = run.output("dqkv", qkv.len);
                let forward = Forward { qkv, out, lse: Some(lse), batch, tokens, heads, head_dim };
                forward.record_with(&mut run.recorder, "attention", family);
                let backward = Backward { qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim };
                backward.record_with(&mut run.recorder, "attention", family);
                let launches = run.recorder.summary().dispatches;
                assert_eq!(launches, wanted.iter().sum::<usize>(), "launches of {most}");
                run.run().concat()
            });
        for run in &runs[1..] {
            assert_same_bits(&format!("launches cut short {family:?}"), &runs[0], run);
        }
    }
}

#[test]
fn backward_of_a_forward_on_the_adapter() {
    // Both passes in one plan, as a training step has them; out and lse are the adapter's own.
    let shape = Shape { batch: 2, tokens: 29, heads: 2, head_dim: 8 };
    let Shape { batch, tokens, heads, head_dim } = shape;
    let (qkv, dout) = (normal(15, shape.qkv_len()), normal(16, shape.qkv_len() / 3));
    let exact = gradient(shape, &qkv, &dout);
    for family in families() {
        let mut run = Guarded::new(&format!("attention both ways {family:?}"));
        let (qkv, dout) = (run.input("qkv", &qkv), run.input("dout", &dout));
        let out = run.recorder.tensor("out", dout.len);
        let lse = run.recorder.tensor("lse", batch * heads * tokens);
        let dqkv = run.output("dqkv", qkv.len);
        let forward = Forward { qkv, out, lse: Some(lse), batch, tokens, heads, head_dim };
        forward.record_with(&mut run.recorder, "attention", family);
        let backward = Backward { qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim };
        backward.record_with(&mut run.recorder, "attention.backward", family);
        let wanted = exact.iter().copied().enumerate();
        let allowed = tolerance::attention_backward(tokens, head_dim);
        compare(&format!("attention both ways {family:?}"), &run.run()[0], wanted, allowed);
    }
}
