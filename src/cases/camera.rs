//! Cases of camera.

use super::random::drawn;
use super::run::Run;
use super::{List, TOKENS, TimedCases, tolerance};
use crate::kernels::camera::{Backward, Forward};
use crate::reference::camera as reference;
use crate::rng;

/// Factor of the table in TransReID.
const WEIGHT: f32 = 3.0;

/// The dimensions of a case: B, T, D and the rows of the table.
type Shape = [usize; 4];

/// Rows of images. Some repeat, and some rows have no image.
pub fn cameras(batch: usize, rows: usize) -> Vec<u32> {
    (0..batch as u64).map(|b| rng::bits(9, 3, b) % rows as u32).collect()
}

fn forward(run: &mut Run<'_>, [batch, tokens, dim, rows]: Shape) {
    let len = batch * tokens * dim;
    let x = run.quads("x", drawn(1, len));
    let table = run.operand("table", drawn(2, rows * dim));
    let by = cameras(batch, rows);
    let words = run.words("cameras", &by);
    let y = run.quads_output("y", len);
    let call = Forward {
        x: x.tensor,
        table: table.tensor,
        cameras: words,
        y,
        weight: WEIGHT,
        batch,
        tokens,
        dim,
    };
    call.record(&mut run.recorder, "camera");
    run.sampled("y", y, tolerance::CAMERA, |i| {
        let row = by[i / (tokens * dim)] as usize;
        reference::forward(x[i], WEIGHT, table[row * dim + i % dim])
    });
}

/// Records the gradient of the table (rows, dim) of the gradients `dy` of all tokens.
fn backward(run: &mut Run<'_>, [batch, tokens, dim, rows]: Shape) {
    let dy = run.quads("dy", drawn(3, batch * tokens * dim));
    let by = cameras(batch, rows);
    let words = run.words("cameras", &by);
    let dtable = run.output("dtable", rows * dim);
    let call = Backward { dy: dy.tensor, cameras: words, dtable, weight: WEIGHT, batch, tokens, dim };
    call.record(&mut run.recorder, "camera.backward");
    run.sampled("dtable", dtable, tolerance::camera_backward(batch, tokens), |i| {
        reference::gradient(&dy, &by, WEIGHT, [tokens * dim, dim], [i / dim, i % dim])
    });
}

pub(super) fn list(list: &mut List) {
    for (variant, record) in
        [("forward", forward as fn(&mut Run<'_>, Shape)), ("backward", backward as fn(&mut Run<'_>, Shape))]
    {
        for [batch, tokens, dim, rows] in [[1, 1, 4, 1], [5, 7, 52, 3], [3, 18, 20, 6]] {
            list.add_stored(variant, format!("{batch}x{tokens}x{dim} of {rows}"), move |run| {
                record(run, [batch, tokens, dim, rows]);
            });
        }
        // One, primes, and sizes around a workgroup.
        for (batch, rows) in [(1, 5), (2, 2), (13, 4)] {
            for (tokens, dim) in [(1, 4), (3, 12), (1, 252), (1, 256), (1, 260), (13, 68)] {
                list.full(format!("{variant} {batch}x{tokens}x{dim} of {rows}"), move |run| {
                    record(run, [batch, tokens, dim, rows]);
                });
            }
        }
        list.full(format!("{variant} of ViT-S"), move |run| record(run, [8, 211, 384, 6]));
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let shape = [timed.batch, TOKENS, timed.model.dim, 6];
    timed.add("forward", move |run| forward(run, shape));
    timed.add("backward", move |run| backward(run, shape));
}
