//! Compares the floating-point operations that every dispatch declares with a count by hand for quick cases.

use crate::common::context;
use lat_wgpu::cases::gemm::tn;
use lat_wgpu::cases::quick;
use lat_wgpu::cases::run::{Purpose, Run};
use lat_wgpu::gpu::{Recorder, Storage};
use lat_wgpu::kernels::gemm::Tile;
use lat_wgpu::kernels::gradnorm::partial_words;
use lat_wgpu::kernels::{roof, variants};
use std::collections::BTreeSet;

/// A quick case, and the entry points and operations of its dispatches in order.
type Count = (&'static str, Vec<(&'static str, f64)>);

/// Multiply-adds alone.
fn products() -> Vec<Count> {
    let product = 2.0 * 7.0 * 11.0 * 13.0;
    let parts = |batch: f64, inputs: f64, outputs: f64| {
        let entries = ["part_linear_forward", "part_linear_backward_input", "part_linear_backward_weight"];
        entries.map(|entry| (entry, 2.0 * 2.0 * batch * inputs * outputs)).to_vec()
    };
    vec![
        ("gemm nt plain alone f32 7x11x13", vec![("gemm_nt", product)]),
        ("gemm nn plain alone f32 7x11x13", vec![("gemm_nn", product)]),
        ("gemm tn plain alone f32 7x11x13", vec![("gemm_tn", product)]),
        // 24 patches of 4×4.
        (
            "patch_embed forward workgroup tiles bias 2x16x12 patch 4/4 to 37",
            vec![("patch_embed_forward", 2.0 * 24.0 * 48.0 * 37.0)],
        ),
        (
            "patch_embed backward workgroup tiles bias f32 2x16x12 patch 4/4 to 36",
            vec![("patch_embed_backward", 2.0 * 24.0 * 48.0 * 36.0)],
        ),
        ("part_linear plain samplefirst 3x2x7 to 5", parts(3.0, 7.0, 5.0)),
        ("part_linear wide partfirst 5x2x68 to 65", parts(5.0, 68.0, 65.0)),
        // 2 images of 33 tokens, 3 heads of 16: a product of rows is 2·3·33²·16 multiply-adds.
        ("attention forward workgroup tiles lse f32 2x33x3x16", vec![("attention_forward", 4.0 * 104_544.0)]),
        (
            "attention backward workgroup tiles f32 2x33x3x16",
            vec![
                ("attention_delta", 2.0 * 3168.0),
                ("attention_dq", 6.0 * 104_544.0),
                ("attention_dkv", 8.0 * 104_544.0),
            ],
        ),
        // 3 images of 7 tokens, 2 heads of 12: 3·2·7² weights.
        ("reattention softmax f32 3x7x2x12", vec![("reattention_softmax", 2.0 * 294.0 * 12.0)]),
        ("reattention context f32 3x7x2x12", vec![("reattention_context", 2.0 * 294.0 * 12.0)]),
        ("reattention dmaps f32 3x7x2x12", vec![("reattention_dmaps", 2.0 * 294.0 * 12.0)]),
        ("reattention dqkv f32 3x7x2x12", vec![("reattention_dqkv", 6.0 * 294.0 * 12.0)]),
        ("reattention mix 3x7x2x12", vec![("reattention_mix", 4.0 * 294.0)]),
        ("reattention dheads 3x7x2x12", vec![("reattention_dheads", 4.0 * 294.0)]),
        // Per pair of tokens: 3 heads of 20 multiply-adds and 4 more operations, then their mean and the factor 1/2.
        ("rollout probabilities 65x3x20", vec![("rollout_probabilities", 65.0 * 65.0 * (3.0 * 44.0 + 2.0))]),
        ("rollout multiply 13", vec![("rollout_multiply", 2.0 * 13.0 * 13.0)]),
    ]
}

fn rows() -> Vec<Count> {
    // One row of 4 columns; then 67 rows of 52 in 5 chunks, with an addend and a second norm.
    let backward = |entries: [f64; 3]| {
        let [input, partials, parameters] = entries;
        let of_input = ("layernorm_backward", input);
        vec![of_input, ("layernorm_partials", partials), ("layernorm_parameters", parameters)]
    };
    vec![
        ("accumulate sum 67", vec![("accumulate", 67.0)]),
        ("narrow forward f32 260", vec![("narrow_forward", 260.0)]),
        ("layernorm forward 4 lanes stats f32 7x52", vec![("layernorm_forward", 8.0 * 364.0)]),
        ("layernorm backward 4 lanes f32 1x4", backward([13.0 * 4.0, 5.0 * 4.0, 2.0 * 4.0])),
        (
            "layernorm backward 4 lanes addend f32 67x52",
            backward([14.0 * 3484.0, 2.0 * 5.0 * 3484.0, 2.0 * 2.0 * 52.0 * 5.0]),
        ),
        ("layerscale backward f32 1x4", vec![("layerscale_backward", 12.0), ("layerscale_sum", 4.0)]),
        // A multiply-add; backward a product.
        ("drop_path forward f32 1x1x4 from 0", vec![("drop_path", 2.0 * 4.0)]),
        ("drop_path backward f32 4x5x52 from 3", vec![("drop_path", 1040.0)]),
        ("l2norm 4 lanes 3x7x13", vec![("l2norm_forward", 3.0 * 273.0)]),
        (
            "l2norm 4 lanes backward 3x7x13",
            vec![("l2norm_forward", 3.0 * 273.0), ("l2norm_backward", 8.0 * 273.0)],
        ),
        ("statistics forward by camera 5x52 of 3", vec![("statistics_forward", 260.0)]),
        ("statistics forward divided 5x52 of 3", vec![("statistics_forward", 2.0 * 260.0)]),
        ("prototypes 4 lanes 7x3x13", vec![("prototypes_update", 9.0 * 91.0)]),
        ("prototypes 4 lanes hard 7x3x13", vec![("prototypes_update", 11.0 * 91.0)]),
        // Chains of 8 links in each of 3 iterations, 4 components.
        (
            "roof multiply-adds, 2 chains 67x4, 3 turns",
            vec![("multiply_add", 2.0 * 4.0 * 67.0 * 2.0 * 8.0 * 3.0)],
        ),
        ("roof copies, 1 together 257x4", vec![("copy", 0.0)]),
        ("image no flips 3x5x7", vec![("image_forward", 3.0 * 315.0)]),
        ("image noise 4x13x31 from 3", vec![("image_forward", 3.0 * 4836.0)]),
        // The other four tokens of the prefix have no position.
        ("tokens forward f32 3x(5+13)x68, 1 positioned", vec![("tokens_forward", 3.0 * 14.0 * 68.0)]),
        ("tokens backward f32 3x(5+13)x68, 1 positioned", vec![("tokens_backward", 3.0 * 18.0 * 68.0)]),
        // A multiply-add; backward sums of 7 tokens of 5 images, of these images, and a product of each of 3 rows.
        ("camera forward f32 5x7x52 of 3", vec![("camera_forward", 2.0 * 1820.0)]),
        (
            "camera backward f32 5x7x52 of 3",
            vec![("camera_sum", 1820.0), ("camera_backward", 5.0 * 52.0 + 3.0 * 52.0)],
        ),
        // 3 images in 4 sequences of 3 tokens: copies, a sum of each token, and a product of each class token.
        ("jigsaw cut f32 3x10x20 in 4", vec![("jigsaw_cut", 0.0)]),
        ("jigsaw merge f32 3x10x20 in 4", vec![("jigsaw_merge", 3.0 * 12.0 * 20.0)]),
        ("jigsaw features f32 3x10x20 in 4", vec![("jigsaw_features", 3.0 * 4.0 * 20.0)]),
        ("jigsaw spread f32 3x10x20 in 4", vec![("jigsaw_spread", 0.0); 2]),
        // Means of 3 columns, blended; then, for the class token, sums of 7 parts, and the patches.
        ("gelt forward f32 2x(2+7x3)x68", vec![("gelt_forward", 2.0 * 7.0 * 68.0 * 7.0)]),
        ("gelt backward f32 2x(2+7x3)x68", vec![("gelt_backward", 2.0 * 68.0 * (8.0 + 21.0))]),
        // Parts of 3 rows each; rows 2 and 4 are in two.
        ("gelt forward f32 2x(2+7x3 in 3)x68", vec![("gelt_forward", 2.0 * 68.0 * 3.0 * (9.0 + 4.0))]),
        (
            "gelt backward f32 2x(2+7x3 in 3)x68",
            vec![("gelt_backward", 2.0 * 68.0 * (4.0 + 21.0 + 2.0 * 6.0))],
        ),
    ]
}

fn training() -> Vec<Count> {
    let norm = |train: f64, backward: f64| {
        vec![("batchnorm_train", train * 402.0), ("batchnorm_backward", backward * 402.0)]
    };
    vec![
        // 3 samples of 2 parts of 67 units.
        ("batchnorm train, backward 2x3x67", norm(11.0, 15.0)),
        ("batchnorm train, backward relu dropout 2x3x67", norm(12.0, 18.0)),
        ("batchnorm evaluate 2x3x67", vec![("batchnorm_evaluate", 4.0 * 402.0)]),
        ("batchnorm evaluate relu dropout 2x3x67", vec![("batchnorm_evaluate", 5.0 * 402.0)]),
        // One chunk of each of 2 heads: mean, variance, and their sums; 294 elements in all.
        (
            "reattention statistics 3x7x2x12",
            vec![
                ("reattention_moment", 294.0),
                ("reattention_sum", 2.0),
                ("reattention_moment", 3.0 * 294.0),
                ("reattention_sum", 2.0),
                ("reattention_norm", 0.0),
                ("reattention_norm", 0.0),
                ("reattention_norm", 0.0),
            ],
        ),
        (
            "reattention dnorm 3x7x2x12",
            vec![("reattention_dnorm", 5.0 * 294.0), ("reattention_sum", 2.0), ("reattention_sum", 2.0)],
        ),
        ("reattention dmix 3x7x2x12", vec![("reattention_dmix", 7.0 * 294.0)]),
        ("reattention dtheta 3x7x2x12", vec![("reattention_dtheta", 4.0 * 294.0), ("reattention_sum", 4.0)]),
        ("reattention dscores 3x7x2x12", vec![("reattention_dscores", 4.0 * 294.0)]),
        ("batchnorm update 2x3x67", vec![("batchnorm_update", 8.0 * 134.0)]),
        ("cross_entropy 4 lanes 3x2x13", vec![("cross_entropy", 6.0 * 78.0)]),
        ("cross_entropy 4 lanes smoothed gradient 3x2x13", vec![("cross_entropy", 12.0 * 78.0)]),
        ("triplet distances 7x13", vec![("triplet_distances", 3.0 * 49.0 * 13.0)]),
        ("triplet mine 7x13", vec![("triplet_mine", 49.0)]),
        ("triplet backward 7x13", vec![("triplet_backward", 16.0 * 91.0)]),
        ("triplet soft backward 7x13", vec![("triplet_backward", 21.0 * 91.0)]),
        (
            "gradnorm 4 lanes, clip 1 4100",
            vec![("gradnorm_partial", 2.0 * 4100.0), ("gradnorm_finish", partial_words(4100) as f64)],
        ),
        ("adam coupled decay 268", vec![("adam", 17.0 * 268.0)]),
        ("adam decoupled decay 268", vec![("adam", 16.0 * 268.0)]),
        ("sgd momentum 268", vec![("sgd", 7.0 * 268.0)]),
        ("average decay 0.999 67", vec![("average", 3.0 * 67.0)]),
        ("distance norms 13x516", vec![("distance_norms", 2.0 * 13.0 * 516.0)]),
        ("distance plain 1x4x4", vec![("gemm_nt", 32.0), ("distance_finish", 5.0 * 4.0)]),
        ("topk 64 slots, workgroup tiles 64 of 2x1501", vec![("topk_merge", 2.0 * 751.0); 2]),
    ]
}

fn declared(recorder: Recorder<'_>) -> Vec<(&'static str, f64)> {
    let dispatches = recorder.list().unwrap().dispatches;
    dispatches.iter().map(|dispatch| (dispatch.kernel.entry, dispatch.flops)).collect()
}

#[test]
fn every_kernel_declares_what_it_computes() {
    let cases = quick(context());
    let mut counted = BTreeSet::new();
    for (name, wanted) in [products(), rows(), training()].concat() {
        let case = cases.iter().find(|case| case.name() == name).unwrap_or_else(|| panic!("no case {name}"));
        let mut run = Run::new(context(), case.storage, Purpose::Time);
        case.record(&mut run);
        assert_eq!(declared(run.recorder), wanted, "{name}");
        counted.extend(wanted.into_iter().map(|(entry, _)| entry));
    }

    // Products in slices: the second dispatch adds up the slices of every output, and of the column sums.
    let mut run = Run::new(context(), Storage::F32, Purpose::Time);
    tn(&mut run, [4, 8, 2048], true, Some(Tile::Plain));
    let dispatches = run.recorder.list().unwrap().dispatches;
    let slices = dispatches[0].grid[2];
    assert!(slices > 1);
    assert_eq!((dispatches[0].kernel.entry, dispatches[0].flops), ("gemm_tn", 2.0 * 32.0 * 2048.0));
    assert_eq!((dispatches[1].kernel.entry, dispatches[1].flops), ("gemm_slices", f64::from(slices) * 36.0));
    // One workgroup of 16 blocks, each with 4 products of 8³ multiply-adds in 8 links of 3 iterations. Only listed,
    // because not every adapter can run it.
    let mut run = Run::new(context(), Storage::F16, Purpose::Time);
    let (operands, y) = (run.quads_output("operands", 34 * 64), run.output("y", 64 * 64));
    roof::MultiplyFragments { operands, y, side: 8, turns: 3 }.record(&mut run.recorder, "fragments");
    assert_eq!(declared(run.recorder), [("multiply_fragments", 2.0 * 64.0 * 24.0 * 512.0)]);
    counted.extend(["gemm_slices", "multiply_fragments"]);

    let all: BTreeSet<_> = variants().into_iter().map(|(kernel, ..)| kernel.entry).collect();
    assert_eq!(all.difference(&counted).collect::<Vec<_>>(), Vec::<&&str>::new(), "not counted");
}
