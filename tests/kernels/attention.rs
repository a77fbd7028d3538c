//! More tests of attention.

use crate::common::compare::compare;
use crate::common::differences::{check_gradient, coarse};
use crate::common::random::{normal, scaled};
use crate::common::recordings::{every_case_in, judged, outputs};
use crate::common::{alone, assert_same_bits, context, tolerance};
use lat_wgpu::cases::attention::{Shape, backward, forward, gradients};
use lat_wgpu::cases::run::{Purpose, Run};
use lat_wgpu::gpu::{Context, ContextOptions, Family, Precision};
use lat_wgpu::kernels::attention::{Backward, Forward};
use lat_wgpu::reference::Exact;

/// The families that this adapter can run.
fn families() -> Vec<Family> {
    match context().family() {
        Family::Tiled => vec![Family::Tiled],
        subgroup => vec![Family::Tiled, subgroup],
    }
}

/// dqkv of the reference.
fn gradient(shape: Shape, qkv: &[f32], dout: &[f32]) -> Vec<Exact> {
    let mut all = vec![Exact::default(); qkv.len()];
    gradients(qkv, None, dout, shape).into_iter().flatten().for_each(|(place, exact)| all[place] = exact);
    all
}

/// Records both passes in one plan, as in a training step. The backward pass reads the adapter's own out and lse.
fn both(run: &mut Run<'static>, qkv: &[f32], dout: &[f32], shape: Shape, family: Family) {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let (qkv, dout) = (run.operand("qkv", qkv).tensor, run.operand("dout", dout).tensor);
    let (out, lse) = (run.output("out", dout.len), run.output("lse", shape.lse_len()));
    let dqkv = run.output("dqkv", qkv.len);
    let forward = Forward { qkv, out, lse: Some(lse), batch, tokens, heads, head_dim };
    forward.record_with(&mut run.recorder, "attention", family);
    let backward = Backward { qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim };
    backward.record_with(&mut run.recorder, "attention.backward", family);
}

#[test]
fn the_large_scores_of_cases_are_large() {
    let shape = Shape { batch: 1, tokens: 37, heads: 2, head_dim: 16 };
    let qkv = scaled(4, shape.qkv_len(), 6.0);
    let largest = (0..37).map(|t| shape.exact(&qkv).row(0, 0, t).lse.value.abs()).fold(0.0, f64::max);
    assert!(largest > 88.8, "scores reach only {largest}");
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let one = Shape { batch: 1, tokens: 50, heads: 2, head_dim: 32 };
    let len = one.out_len();
    for family in families() {
        // Queries, keys and values of an image, then the gradient of its output.
        alone(&normal(6, 12 * len), 3, |data| {
            let shape = Shape { batch: data.len() / (4 * len), ..one };
            let (qkv, dout): (Vec<&[f32]>, Vec<&[f32]>) =
                data.chunks(4 * len).map(|image| image.split_at(3 * len)).unzip();
            let (qkv, dout) = (qkv.concat(), dout.concat());
            judged(&format!("attention {family:?}"), |run| {
                forward(run, &qkv, shape, true, Some(family.into()));
                backward(run, &qkv, &dout, shape, Some(family.into()));
            })
        });
    }
}

#[test]
fn reference_gradients_match_finite_differences() {
    let shape = Shape { batch: 2, tokens: 5, heads: 2, head_dim: 4 };
    let Shape { batch, tokens, heads, head_dim } = shape;
    let (qkv, dout) = (coarse(8, shape.qkv_len()), normal(9, shape.qkv_len() / 3));
    let gradient: Vec<f64> = gradient(shape, &qkv, &dout).iter().map(|g| g.value).collect();
    check_gradient("attention: dqkv", &qkv, &gradient, |qkv| {
        let exact = shape.exact(qkv);
        let mut loss = 0.0;
        for (i, dout) in dout.chunks(head_dim).enumerate() {
            // In the order of out: (B, T, H).
            let row = exact.row(i / (tokens * heads), i % heads, i / heads % tokens);
            loss += row.out.iter().zip(dout).map(|(o, &g)| o.value * f64::from(g)).sum::<f64>();
        }
        assert_eq!(dout.len(), batch * tokens * heads * head_dim);
        loss
    });
}

#[test]
fn split_dispatches_have_the_same_bits() {
    let shape = Shape { batch: 3, tokens: 13, heads: 2, head_dim: 8 };
    let Shape { tokens, head_dim, .. } = shape;
    let (qkv, dout) = (normal(17, shape.qkv_len()), normal(18, shape.qkv_len() / 3));
    let product = (2 * tokens * tokens * head_dim) as f64;
    for family in families() {
        // Largest number of operations per dispatch; dispatches of forward, delta, dq and dkv over six heads.
        let runs =
            [(f64::INFINITY, [1; 4]), (4.0 * product, [3, 1, 6, 6]), (1.0, [6; 4])].map(|(most, wanted)| {
                outputs(&format!("attention in dispatches of {most} {family:?}"), |run| {
                    run.recorder.dispatch_flops = most;
                    both(run, &qkv, &dout, shape, family);
                    let dispatches = run.recorder.summary().dispatches;
                    assert_eq!(dispatches, wanted.iter().sum::<usize>(), "dispatches of {most}");
                })
                .concat()
            });
        for run in &runs[1..] {
            assert_same_bits(&format!("split dispatches {family:?}"), &runs[0], run);
        }
    }
}

#[test]
fn backward_of_a_forward_on_the_adapter() {
    // Both passes in one plan, as in a training step. The backward pass reads the adapter's own out and lse.
    let shape = Shape { batch: 2, tokens: 29, heads: 2, head_dim: 8 };
    let (qkv, dout) = (normal(15, shape.qkv_len()), normal(16, shape.qkv_len() / 3));
    let exact = gradient(shape, &qkv, &dout);
    for family in families() {
        let name = format!("attention both ways {family:?}");
        let dqkv = outputs(&name, |run| both(run, &qkv, &dout, shape, family)).remove(2);
        compare(&name, &dqkv, exact.iter().copied().enumerate(), tolerance::attention_backward(29, 8));
    }
}

/// One test, because software adapters take long to compile the kernels of a context.
#[test]
fn matrix_units_agree_with_the_reference_and_are_used_for_common_widths() {
    let options = ContextOptions { precision: Precision::F16, ..ContextOptions::from_environment(None) };
    let context = Context::open(&options).unwrap();
    every_case_in(&context, "attention", "fragments");
    for head_dim in [16, 32, 64, 80, 128] {
        let mut run = Run::new(&context, context.storage(), Purpose::Time);
        let shape = Shape { batch: 1, tokens: 5, heads: 1, head_dim };
        forward(&mut run, vec![0.0; shape.qkv_len()], shape, true, None);
        backward(&mut run, vec![0.0; shape.qkv_len()], vec![0.0; shape.out_len()], shape, None);
        let dispatches = run.recorder.list().unwrap().dispatches;
        let used = dispatches.iter().filter(|one| one.kernel.multiplies_fragments()).count();
        let wanted = if context.fragments().is_some() && head_dim >= 32 { 3 } else { 0 };
        assert_eq!(used, wanted, "heads of {head_dim}");
    }
}
