//! Cases of accumulate.

use super::random::drawn;
use super::run::Run;
use super::{List, TimedCases, tolerance};
use crate::kernels::accumulate::Accumulate;
use crate::reference::accumulate::forward;

fn sum(run: &mut Run<'_>, len: usize) {
    let (sum, addend) = (run.updated("sum", drawn(1, len)), run.operand("addend", drawn(2, len)));
    Accumulate { addend: addend.tensor, sum: sum.tensor }.record(&mut run.recorder, "accumulate");
    run.all("sum", sum.tensor, tolerance::ACCUMULATE, || (0..len).map(|i| forward(sum[i], addend[i])));
}

pub(super) fn list(list: &mut List) {
    for len in [1, 67, 4_099] {
        list.add("sum", format!("{len}"), move |run| sum(run, len));
    }
    // One element, primes, and sizes around a workgroup.
    for len in [1, 2, 7, 63, 64, 65, 127, 4_099] {
        list.full(format!("{len}"), move |run| sum(run, len));
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let dim = timed.model.dim;
    timed.add("a block's gradients", move |run| sum(run, 12 * dim * dim));
}
