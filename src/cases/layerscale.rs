//! Cases of layerscale.

use super::random::drawn;
use super::run::Run;
use super::{List, TOKENS, TimedCases, tolerance};
use crate::kernels::layerscale::Backward;
use crate::reference::layerscale as reference;

fn backward(run: &mut Run<'_>, rows: usize, dim: usize) {
    let (x, dy) = (run.quads("x", drawn(1, rows * dim)), run.quads("dy", drawn(3, rows * dim)));
    let weight = run.operand("weight", drawn(2, dim));
    let (dx, dweight) = (run.quads_output("dx", rows * dim), run.output("dweight", dim));
    Backward { x: x.tensor, weight: weight.tensor, dy: dy.tensor, dx, dweight, rows, dim }
        .record(&mut run.recorder, "layerscale");
    run.all("dx", dx, tolerance::layerscale(0), || {
        (0..x.len()).map(|i| reference::forward(dy[i], weight[i % dim]))
    });
    run.sampled("dweight", dweight, tolerance::layerscale(rows), |d| reference::dweight(&x, &dy, dim, d));
}

pub(super) fn list(list: &mut List) {
    for (rows, dim) in [(1, 4), (67, 52), (129, 60)] {
        list.add_stored("backward", format!("{rows}x{dim}"), move |run| backward(run, rows, dim));
    }
    // One, primes, and sizes around a chunk and a workgroup.
    for rows in [1, 2, 7, 63, 64, 65, 127, 128, 129, 193] {
        for dim in [1, 3, 13, 15, 16, 17].map(|quads| 4 * quads) {
            list.full(format!("{rows}x{dim}"), move |run| backward(run, rows, dim));
        }
    }
    list.full("of ViT-S", |run| backward(run, 8 * 257, 384));
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (count, dim) = (timed.batch * TOKENS, timed.model.dim);
    timed.add("backward", move |run| backward(run, count, dim));
}
