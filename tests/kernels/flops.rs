//! The floating-point operations that every launch declares, against a count by hand for one shape.

use crate::common::context;
use lat_wgpu::gpu::{Family, Recorder, Storage, Tensor};
use lat_wgpu::kernels::adam::{Adam, Betas, StepValues};
use lat_wgpu::kernels::gradnorm::{CONTROL_WORDS, partial_words};
use lat_wgpu::kernels::{
    accumulate, attention, batchnorm, cross_entropy, distance, gelt, gelu, gemm, gradnorm, image, l2norm,
    layernorm, layerscale, narrow, part_linear, patch_embed, rollout, roof, tokens, topk, triplet, variants,
};
use lat_wgpu::shape::{Activation, ImageSize};
use std::collections::BTreeSet;

/// A tensor of `len` words.
fn new(recorder: &mut Recorder<'_>, len: usize) -> Tensor {
    let buffer = context().buffer("tensor", len).unwrap();
    recorder.import(&buffer)
}

/// Entry points that were counted.
struct Counted(BTreeSet<&'static str>);

impl Counted {
    /// Compares what the launches of a recording declare with entry points and operations, in order.
    #[track_caller]
    fn check(&mut self, record: impl FnOnce(&mut Recorder<'_>), wanted: &[(&'static str, f64)]) {
        let mut recorder = Recorder::new(context());
        record(&mut recorder);
        let launches = recorder.list().unwrap().dispatches;
        let declared: Vec<_> = launches.iter().map(|launch| (launch.kernel.entry, launch.flops)).collect();
        assert_eq!(declared, wanted);
        self.0.extend(declared.into_iter().map(|(entry, _)| entry));
    }
}

#[test]
fn every_kernel_declares_what_it_computes() {
    let mut counted = Counted(BTreeSet::new());
    products(&mut counted);
    attentions(&mut counted);
    rows(&mut counted);
    sequences(&mut counted);
    training(&mut counted);
    retrieval(&mut counted);
    let all: BTreeSet<_> = variants().into_iter().map(|(kernel, ..)| kernel.entry).collect();
    assert_eq!(all.difference(&counted.0).collect::<Vec<_>>(), Vec::<&&str>::new(), "not counted");
}

/// Multiply-adds alone.
fn products(counted: &mut Counted) {
    use gemm::Tile::Plain;
    let (m, n, k) = (4, 8, 12);
    let operands = |r: &mut Recorder<'_>| (new(r, m * k), new(r, n * k), new(r, m * n));
    let nt = |r: &mut Recorder<'_>| {
        let (a, b, c) = operands(r);
        gemm::Nt { a, b, c, m, n, k, epilogue: gemm::Epilogue::default() }.record_with(r, "nt", Plain);
    };
    counted.check(nt, &[("gemm_nt", 768.0)]);
    let nn = |r: &mut Recorder<'_>| {
        let (a, b, c) = operands(r);
        gemm::Nn { a, b, c, m, n, k, derivative: None, residual: None }.record_with(r, "nn", Plain);
    };
    counted.check(nn, &[("gemm_nn", 768.0)]);
    // Of slices every sum is added, and those of the columns.
    let tn = |r: &mut Recorder<'_>| {
        let (m, n, k) = (4, 8, 2048);
        let (a, b, c, column_sum) = (new(r, m * k), new(r, n * k), new(r, m * n), Some(new(r, m)));
        gemm::Tn { a, b, c, column_sum, m, n, k }.record_with(r, "tn", Plain);
    };
    let mut sliced = Recorder::new(context());
    tn(&mut sliced);
    let slices = sliced.list().unwrap().dispatches[0].grid[2];
    assert!(slices > 1);
    let wanted = [("gemm_tn", 2.0 * 32.0 * 2048.0), ("gemm_slices", f64::from(slices) * 36.0)];
    counted.check(tn, &wanted);

    // 2 images of 8×8 in 4 patches of 4×4, 8 columns.
    let (batch, size, patch, stride, dim) = (2, ImageSize { height: 8, width: 8 }, 4, 4, 8);
    for family in [Family::Tiled, Family::Subgroup(8)] {
        let embed = |r: &mut Recorder<'_>| {
            let (image, weight, patches) = (new(r, 384), new(r, dim * 48), new(r, 8 * dim));
            patch_embed::Forward { image, weight, bias: None, patches, batch, size, patch, stride, dim }
                .record_with(r, "embed", family);
        };
        counted.check(embed, &[("patch_embed_forward", 2.0 * 64.0 * 48.0)]);
    }

    // 3 samples, 2 parts, from 4 to 5.
    let layout = part_linear::Layout::PartFirst;
    let shape = part_linear::Shape { batch: 3, parts: 2, inputs: 4, outputs: 5, layout };
    for tile in [part_linear::Tile::Plain, part_linear::Tile::Wide] {
        let layer = |r: &mut Recorder<'_>| {
            let (x, weight, y) = (new(r, 24), new(r, 40), new(r, 30));
            let (dx, dweight, dy) = (new(r, 24), new(r, 40), new(r, 30));
            let [bias, dbias] = [(); 2].map(|()| new(r, 10));
            part_linear::Forward { x, weight, bias, y, shape }.record_with(r, "y", tile);
            part_linear::BackwardInput { weight, dy, dx, shape }.record_with(r, "dx", tile);
            part_linear::BackwardWeight { x, dy, dweight, dbias, shape }.record_with(r, "dweight", tile);
        };
        let entries = ["part_linear_forward", "part_linear_backward_input", "part_linear_backward_weight"];
        counted.check(layer, &entries.map(|entry| (entry, 2.0 * 6.0 * 20.0)));
    }
}

/// 2 images of 5 tokens, 3 heads of 4: a product of rows is 2·3·5²·4 multiply-adds.
fn attentions(counted: &mut Counted) {
    let (batch, tokens, heads, head_dim) = (2, 5, 3, 4);
    for family in [Family::Tiled, Family::Subgroup(8)] {
        let forward = |r: &mut Recorder<'_>| {
            let (qkv, out, lse) = (new(r, 360), new(r, 120), Some(new(r, 30)));
            attention::Forward { qkv, out, lse, batch, tokens, heads, head_dim }
                .record_with(r, "out", family);
        };
        counted.check(forward, &[("attention_forward", 2.0 * 1200.0)]);
        let backward = |r: &mut Recorder<'_>| {
            let (qkv, out, lse, dout, dqkv) =
                (new(r, 360), new(r, 120), new(r, 30), new(r, 120), new(r, 360));
            attention::Backward { qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim }
                .record_with(r, "dqkv", family);
        };
        let wanted = [("attention_delta", 240.0), ("attention_dq", 3600.0), ("attention_dkv", 4800.0)];
        counted.check(backward, &wanted);
    }
    let rollout = |r: &mut Recorder<'_>| {
        let (qkv, lse, mixed) = (new(r, 180), new(r, 15), new(r, 25));
        rollout::Probabilities { qkv, lse, mixed, tokens, heads, head_dim }.record(r, "mixed");
        let (row, carried) = (new(r, 5), new(r, 5));
        rollout::Multiply { row, matrix: mixed, carried, tokens }.record(r, "carried");
    };
    // 25 pairs: 3 heads of 4 multiply-adds and 4 more, their mean and a half.
    counted.check(rollout, &[("rollout_probabilities", 25.0 * 38.0), ("rollout_multiply", 50.0)]);
}

fn rows(counted: &mut Counted) {
    let sum = |r: &mut Recorder<'_>| {
        accumulate::Accumulate { addend: new(r, 12), sum: new(r, 12) }.record(r, "sum")
    };
    counted.check(sum, &[("accumulate", 12.0)]);
    let narrow =
        |r: &mut Recorder<'_>| narrow::Narrow { wide: new(r, 12), narrow: new(r, 12) }.record(r, "narrow");
    counted.check(narrow, &[("narrow_forward", 12.0)]);
    for (activation, forward, backward) in
        [(Activation::Gelu, 31.0, 39.0), (Activation::QuickGelu, 5.0, 11.0)]
    {
        let gelu = |r: &mut Recorder<'_>| {
            let [x, y, dy, dx] = [(); 4].map(|()| new(r, 10));
            gelu::Forward { x, y, activation }.record(r, "gelu");
            gelu::Backward { x, dy, dx, activation }.record(r, "dgelu");
        };
        counted.check(gelu, &[("gelu_forward", 10.0 * forward), ("gelu_backward", 10.0 * backward)]);
    }

    // 3 rows of 8.
    let (rows, dim) = (3, 8);
    for (has_addend, backward) in [(false, 13.0), (true, 14.0)] {
        let norm = |r: &mut Recorder<'_>| {
            let [x, y, dy, dx] = [(); 4].map(|()| new(r, 24));
            let [weight, bias, dweight, dbias] = [(); 4].map(|()| new(r, dim));
            let (stats, addend) = (new(r, 6), has_addend.then(|| new(r, 24)));
            layernorm::Forward { x, weight, bias, y, stats: Some(stats), rows, dim, eps: 1e-6 }
                .record(r, "y");
            layernorm::BackwardInput { x, stats, dy, weight, addend, dx, rows, dim }.record(r, "dx");
            let norm = layernorm::Parameters { x, stats, dy, dweight, dbias };
            layernorm::BackwardParameters { norm, other: None, rows, dim }.record(r, "dweight");
        };
        let wanted = [
            ("layernorm_forward", 8.0 * 24.0),
            ("layernorm_backward", backward * 24.0),
            ("layernorm_partials", 5.0 * 24.0),
            // One chunk of rows: a sum of one for each of 16.
            ("layernorm_parameters", 16.0),
        ];
        counted.check(norm, &wanted);
    }
    let scale = |r: &mut Recorder<'_>| {
        let ([x, dy, dx], [weight, dweight]) = ([(); 3].map(|()| new(r, 24)), [(); 2].map(|()| new(r, dim)));
        layerscale::Backward { x, weight, dy, dx, dweight, rows, dim }.record(r, "dx");
    };
    counted.check(scale, &[("layerscale_backward", 72.0), ("layerscale_sum", 8.0)]);
    let length = |r: &mut Recorder<'_>| {
        let (x, y) = (new(r, 24), new(r, 24));
        l2norm::Forward { x, y, batch: 1, parts: rows, dim }.record(r, "y");
    };
    counted.check(length, &[("l2norm_forward", 72.0)]);

    // 4 chains of 8 links in each turn, 4 components.
    let chains = |r: &mut Recorder<'_>| {
        let y = new(r, 40);
        roof::MultiplyAdd { y, accumulators: 4, turns: 3, multiplier: 0.5, addend: 0.5 }.record(r, "chains");
    };
    counted.check(chains, &[("multiply_add", 2.0 * 40.0 * 96.0)]);
    // One workgroup of 16 blocks, 4 products of 8³ multiply-adds each in 8 links of 3 turns.
    let fragments = |r: &mut Recorder<'_>| {
        let operands = context().buffer("operands", 34 * 64 / 2).unwrap();
        let (operands, y) = (r.import_as(&operands, Storage::F16), new(r, 64 * 64));
        roof::MultiplyFragments { operands, y, side: 8, turns: 3 }.record(r, "fragments");
    };
    counted.check(fragments, &[("multiply_fragments", 2.0 * 64.0 * 24.0 * 512.0)]);
    let copy = |r: &mut Recorder<'_>| {
        let (from_words, to_words) = (new(r, 40), new(r, 40));
        roof::CopyWords { from_words, to_words, each: 1 }.record(r, "copy");
    };
    counted.check(copy, &[("copy", 0.0)]);
}

/// 2 images of a class token, another one and 3 parts of 5 patches, 4 columns.
fn sequences(counted: &mut Counted) {
    let (batch, prefix, parts, columns, dim, weights) = (2, 2, 3, 5, 4, (0.5, 0.5));
    let size = ImageSize { height: 3, width: 5 };
    let picture = |r: &mut Recorder<'_>| {
        let (pixels, image) = (new(r, image::pixel_words(batch, size)), new(r, 90));
        image::Forward { pixels, flip: None, image, batch, size, mean: [0.5; 3], std: [0.5; 3] }
            .record(r, "image");
    };
    counted.check(picture, &[("image_forward", 270.0)]);
    let tokens = |r: &mut Recorder<'_>| {
        let (first, patches, position, tokens) = (new(r, 8), new(r, 120), new(r, 64), new(r, 136));
        tokens::Forward { prefix: first, patches, position, tokens, batch, count: 15, dim }
            .record(r, "tokens");
        let (dprefix, dposition) = (new(r, 8), new(r, 64));
        tokens::Backward { dtokens: tokens, dprefix, dposition, batch, count: 15, dim }.record(r, "dtokens");
    };
    // The second token has no position.
    counted.check(tokens, &[("tokens_forward", 128.0), ("tokens_backward", 136.0)]);
    let blend = |r: &mut Recorder<'_>| {
        let (tokens, gelt) = (new(r, 136), new(r, 24));
        gelt::Forward { tokens, gelt, first: 0, batch, prefix, parts, columns, dim, weights }
            .record(r, "gelt");
        let (dtokens, dgelt) = (new(r, 136), new(r, 24));
        gelt::Backward { dgelt, dtokens, first: 0, batch, prefix, parts, columns, dim, weights }
            .record(r, "dgelt");
    };
    // 24 means of 5, blended; 2·4 sums of 3 parts, and 2·15·4 patches.
    counted.check(blend, &[("gelt_forward", 24.0 * 9.0), ("gelt_backward", 8.0 * 4.0 + 120.0)]);
}

fn training(counted: &mut Counted) {
    // 3 samples of 2 parts of 5 units.
    for (relu, train, evaluate, backward) in [(false, 11.0, 4.0, 15.0), (true, 12.0, 5.0, 18.0)] {
        let layer =
            batchnorm::Layer { batch: 3, parts: 2, dim: 5, eps: 1e-5, relu, drop: 0.5, momentum: 0.1 };
        let norm = |r: &mut Recorder<'_>| {
            let [x, y, dy, dx] = [(); 4].map(|()| new(r, 30));
            let [weight, bias, running_mean, running_var, dweight, dbias] = [(); 6].map(|()| new(r, 10));
            let (saved, step, control) = (new(r, 40), new(r, StepValues::len_of(1)), new(r, CONTROL_WORDS));
            batchnorm::Train { x, weight, bias, y, saved, step, layer }.record(r, "train");
            batchnorm::Evaluate { x, weight, bias, running_mean, running_var, y, layer }
                .record(r, "evaluate");
            batchnorm::Update { saved, control, running_mean, running_var, layer }.record(r, "update");
            batchnorm::Backward { x, saved, dy, step, dx, dweight, dbias, layer }.record(r, "backward");
        };
        let wanted = [
            ("batchnorm_train", train * 30.0),
            ("batchnorm_evaluate", evaluate * 30.0),
            ("batchnorm_update", 8.0 * 10.0),
            ("batchnorm_backward", backward * 30.0),
        ];
        counted.check(norm, &wanted);
    }

    // 6 rows of 7 classes.
    for (has_gradient, each) in [(false, 6.0), (true, 12.0)] {
        let loss = |r: &mut Recorder<'_>| {
            let call = cross_entropy::CrossEntropy {
                logits: new(r, 42),
                labels: new(r, 3),
                loss: new(r, 6),
                gradient: has_gradient.then(|| (new(r, 42), new(r, CONTROL_WORDS))),
                batch: 3,
                parts: 2,
                classes: 7,
                smoothing: 0.1,
            };
            call.record(r, "loss");
        };
        counted.check(loss, &[("cross_entropy", each * 42.0)]);
    }

    // 3 pictures of 10.
    let (batch, length) = (3, 10);
    let triplet = |r: &mut Recorder<'_>| {
        let (parts, distances, choice, dparts) = (new(r, 30), new(r, 9), new(r, 6), new(r, 30));
        let (labels, loss, control) = (new(r, 3), new(r, 3), new(r, CONTROL_WORDS));
        triplet::Distances { parts, distances, batch, length }.record(r, "distances");
        triplet::Mine { distances, labels, loss, choice, batch, margin: 0.3 }.record(r, "mine");
        triplet::Backward { parts, distances, choice, dparts, control, batch, length }.record(r, "backward");
    };
    let wanted = [("triplet_distances", 270.0), ("triplet_mine", 9.0), ("triplet_backward", 16.0 * 30.0)];
    counted.check(triplet, &wanted);

    // 12 parameters.
    let norm = |r: &mut Recorder<'_>| {
        let (gradients, partials) = (new(r, 12), new(r, partial_words(12)));
        gradnorm::Partial { gradients, partials }.record(r, "partial");
        let (losses, step, control) = (new(r, 3), new(r, StepValues::len_of(1)), new(r, CONTROL_WORDS));
        gradnorm::Finish { partials, losses, step, control }.record(r, "finish");
    };
    counted.check(norm, &[("gradnorm_partial", 24.0), ("gradnorm_finish", partial_words(12) as f64)]);
    for (decoupled, each) in [(false, 17.0), (true, 16.0)] {
        let step = |r: &mut Recorder<'_>| {
            let call = Adam {
                gradients: new(r, 12),
                step: new(r, StepValues::len_of(1)),
                control: new(r, CONTROL_WORDS),
                parameters: new(r, 12),
                first_moment: new(r, 12),
                second_moment: new(r, 12),
                group: 0,
                betas: Betas::default(),
                decoupled,
            };
            call.record(r, "adam");
        };
        counted.check(step, &[("adam", each * 12.0)]);
    }
    patches_backward(counted);
}

/// 2 images of 8×8 in 4 patches of 4×4 behind a class token, 8 columns.
fn patches_backward(counted: &mut Counted) {
    let (batch, size, patch, stride, dim) = (2, ImageSize { height: 8, width: 8 }, 4, 4, 8);
    let backward = |r: &mut Recorder<'_>| {
        let (image, dtokens, dweight) = (new(r, 384), new(r, 10 * dim), new(r, dim * 48));
        patch_embed::Backward {
            image,
            dtokens,
            dweight,
            dbias: None,
            batch,
            size,
            patch,
            stride,
            prefix: 1,
            dim,
        }
        .record(r, "dweight");
    };
    counted.check(backward, &[("patch_embed_backward", 2.0 * 64.0 * 48.0)]);
}

/// 3 queries, 4 rows of a gallery, 8 columns.
fn retrieval(counted: &mut Counted) {
    let distances = |r: &mut Recorder<'_>| {
        let (queries, gallery, distances, partial) = (new(r, 24), new(r, 32), new(r, 12), new(r, 12));
        let (query_norms, gallery_norms) = (new(r, 3), new(r, 4));
        distance::Norms { rows: queries, norms: query_norms, count: 3, dim: 8 }.record(r, "norms");
        let call = distance::Distances {
            queries: vec![queries],
            gallery: vec![gallery],
            query_norms,
            gallery_norms,
            distances,
            partial,
            query_count: 3,
            gallery_count: 4,
            dim: 8,
        };
        call.record_with(r, "distances", gemm::Tile::Plain);
    };
    counted.check(distances, &[("distance_norms", 48.0), ("gemm_nt", 192.0), ("distance_finish", 60.0)]);
    let nearest = |r: &mut Recorder<'_>| {
        let call = topk::Merge {
            distances: new(r, 12),
            place: new(r, topk::PLACE_WORDS),
            nearest_distance: new(r, 6),
            nearest_index: new(r, 6),
            queries: 3,
            gallery: 4,
            k: 2,
        };
        call.record(r, "nearest");
    };
    counted.check(nearest, &[("topk_merge", 12.0)]);
}
