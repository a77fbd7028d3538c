//! Cases of narrow. `tests/kernels/narrow.rs` compares quick cases of other stems in f16 with the same cases in f32.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, TimedCases, tolerance};
use crate::kernels::narrow::Narrow;
use crate::reference::Exact;

/// Records the rounding of `wide` to the storage of activations.
pub fn narrow<'n>(run: &mut Run<'_>, wide: impl Into<Numbers<'n>>) {
    let wide = run.operand("wide", wide);
    let narrow = run.quads_output("narrow", wide.tensor.len);
    Narrow { wide: wide.tensor, narrow }.record(&mut run.recorder, "narrow");
    // The only error is the rounding to f16, which the tolerance includes.
    run.sampled("narrow", narrow, tolerance::NARROW, |i| Exact { value: f64::from(wide[i]), scale: 0.0 });
}

pub(super) fn list(list: &mut List) {
    for len in [4, 260] {
        list.add_stored("forward", format!("{len}"), move |run| narrow(run, drawn(1, len)));
    }
    for len in [12, 252, 256] {
        list.full(format!("{len}"), move |run| narrow(run, drawn(1, len)));
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let len = 4 * timed.model.dim * timed.model.dim;
    timed.add("fc1", move |run| {
        run.store_as_f16();
        narrow(run, drawn(1, len));
    });
}
