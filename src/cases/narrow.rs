//! Cases of narrow. Other stems' quick cases in halves are compared with themselves in f32 by `tests/kernels/narrow.rs`.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, Rows, tolerance};
use crate::kernels::narrow::Narrow;
use crate::reference::Exact;

/// Records these words into `storage`.
pub fn narrow<'n>(run: &mut Run<'_>, wide: impl Into<Numbers<'n>>) {
    let wide = run.operand("wide", wide);
    let narrow = run.quads_output("narrow", wide.tensor.len);
    Narrow { wide: wide.tensor, narrow }.record(&mut run.recorder, "narrow");
    // Nothing happens on the way but the rounding of halves, which is allowed for.
    run.places("narrow", narrow, tolerance::NARROW, |i| Exact { value: f64::from(wide[i]), scale: 0.0 });
}

pub(super) fn list(list: &mut List) {
    for len in [4, 260] {
        list.add_stored("forward", format!("{len}"), move |run| narrow(run, drawn(1, len)));
    }
    for len in [12, 252, 256] {
        list.full(format!("{len}"), move |run| narrow(run, drawn(1, len)));
    }
}

pub(super) fn time(rows: &mut Rows<'_>) {
    let len = 4 * rows.model.dim * rows.model.dim;
    rows.add("fc1", move |run| {
        run.store_in_halves();
        narrow(run, drawn(1, len));
    });
}
