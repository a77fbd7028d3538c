//! Cases of jigsaw.

use super::random::drawn;
use super::run::Run;
use super::{List, TOKENS, TimedCases, tolerance};
use crate::kernels::jigsaw::{Cut, Features, Merge, Shape, Spread};
use crate::reference::{Exact, jigsaw as reference};

fn cut(run: &mut Run<'_>, shape: Shape) {
    let Shape { batch, tokens, dim, pieces } = shape;
    let z = run.quads("z", drawn(1, batch * tokens * dim));
    let out = run.quads_output("pieces", batch * pieces * shape.length() * dim);
    Cut { z: z.tensor, pieces: out, shape }.record(&mut run.recorder, "cut");
    run.all("pieces", out, tolerance::JIGSAW, || {
        z.chunks(tokens * dim).flat_map(|image| reference::cut(image, dim, pieces)).collect::<Vec<_>>()
    });
}

fn merge(run: &mut Run<'_>, shape: Shape) {
    let Shape { batch, tokens, dim, pieces } = shape;
    let each = pieces * shape.length() * dim;
    let dwhole = run.quads("dwhole", drawn(2, batch * tokens * dim));
    let dpieces = run.quads("dpieces", drawn(3, batch * each));
    let dz = run.quads_output("dz", batch * tokens * dim);
    let call = Merge { dwhole: dwhole.tensor, dpieces: dpieces.tensor, dz, shape };
    call.record(&mut run.recorder, "merge");
    run.all("dz", dz, tolerance::jigsaw_merge(pieces), || {
        let images = dwhole.chunks(tokens * dim).zip(dpieces.chunks(each));
        images.flat_map(|(whole, cut)| reference::merge(whole, cut, dim, pieces)).collect::<Vec<_>>()
    });
}

/// Records the features of all images, and the gradients of whole images and sequences of random features.
fn features(run: &mut Run<'_>, shape: Shape, scale: f32) {
    let Shape { batch, tokens, dim, pieces } = shape;
    let (length, parts) = (shape.length(), 1 + pieces);
    let whole = run.quads("whole", drawn(4, batch * tokens * dim));
    let sequences = run.quads("pieces", drawn(5, batch * pieces * length * dim));
    let out = run.output("features", batch * parts * dim);
    let call = Features { whole: whole.tensor, pieces: sequences.tensor, features: out, first: 0, scale, shape };
    call.record(&mut run.recorder, "features");
    run.sampled("features", out, tolerance::JIGSAW, |i| {
        let (image, part, d) = (i / dim / parts, i / dim % parts, i % dim);
        let (value, factor) = match part {
            0 => (whole[image * tokens * dim + d], 1.0),
            _ => (sequences[(image * pieces + part - 1) * length * dim + d], scale),
        };
        Exact { value: value.into(), scale: f64::from(value).abs() }.times(factor)
    });
}

fn spread(run: &mut Run<'_>, shape: Shape) {
    let Shape { batch, tokens, dim, pieces } = shape;
    let (length, parts) = (shape.length(), 1 + pieces);
    // The first image is that of another micro-batch.
    let dfeatures = run.operand("dfeatures", drawn(6, (1 + batch) * parts * dim));
    for (from, sequences, tokens) in [(0, 1, tokens), (1, pieces, length)] {
        let dtokens = run.quads_output("dtokens", batch * sequences * tokens * dim);
        let call = Spread {
            dfeatures: dfeatures.tensor,
            dtokens,
            first: 1,
            parts: [parts, from],
            sequences,
            tokens,
            dim,
        };
        call.record(&mut run.recorder, "spread");
        run.sampled("dtokens", dtokens, tolerance::JIGSAW, |i| {
            let (sequence, token, d) = (i / dim / tokens, i / dim % tokens, i % dim);
            let part = (1 + sequence / sequences) * parts + from + sequence % sequences;
            let value = if token == 0 { dfeatures[part * dim + d] } else { 0.0 };
            Exact { value: value.into(), scale: f64::from(value).abs() }
        });
    }
}

/// Records the kernel of a case.
type Record = fn(&mut Run<'_>, Shape);

pub(super) fn list(list: &mut List) {
    let mut add = |quick: bool, batch: usize, tokens: usize, dim: usize, pieces: usize| {
        let shape = Shape { batch, tokens, dim, pieces };
        let name = format!("{batch}x{tokens}x{dim} in {pieces}");
        let all: [(&str, Record); 4] = [
            ("cut", cut),
            ("merge", merge),
            ("features", |run, shape| features(run, shape, 0.25)),
            ("spread", spread),
        ];
        for (variant, record) in all {
            if quick {
                list.add_stored(variant, &name, move |run| record(run, shape));
            } else {
                list.full(format!("{variant} {name}"), move |run| record(run, shape));
            }
        }
    };
    add(true, 1, 6, 4, 4);
    add(true, 3, 10, 20, 4);
    add(true, 2, 19, 52, 4);
    // Even and odd numbers of patches, with and without rest, and sizes around a workgroup.
    for (tokens, pieces) in [(6, 1), (7, 2), (8, 3), (9, 4), (10, 4), (11, 4), (14, 5), (129, 4), (211, 4)] {
        for dim in [4, 12, 68, 260] {
            add(false, 2, tokens, dim, pieces);
        }
    }
    add(false, 8, 211, 384, 4);
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let shape = Shape { batch: timed.batch, tokens: TOKENS, dim: timed.model.dim, pieces: 4 };
    timed.add("cut", move |run| cut(run, shape));
    timed.add("merge", move |run| merge(run, shape));
    timed.add("features", move |run| features(run, shape, 0.25));
    timed.add("spread", move |run| spread(run, shape));
}
