//! Cases of statistics.

use super::camera::cameras;
use super::random::drawn;
use super::run::Run;
use super::{GRID, List, TimedCases, tolerance};
use crate::kernels::statistics::Forward;
use crate::reference::statistics as reference;

/// Records embeddings (batch, dim) less a row of `rows` means. `divided` divides by deviations; `by_camera` takes the
/// rows of random cameras instead of the last one.
fn forward(run: &mut Run<'_>, [batch, dim, rows]: [usize; 3], divided: bool, by_camera: bool) {
    let len = batch * dim;
    let (x, mean) = (run.operand("x", drawn(1, len)), run.operand("mean", drawn(2, rows * dim)));
    let deviation =
        divided.then(|| run.operand("deviation", drawn(3, rows * dim).map(|v| 0.05 + v.abs())));
    let by = by_camera.then(|| cameras(batch, rows));
    let words = by.as_ref().map(|by| run.words("cameras", by));
    let y = run.output("y", len);
    let call = Forward {
        x: x.tensor,
        mean: mean.tensor,
        deviation: deviation.as_ref().map(|deviation| deviation.tensor),
        cameras: words,
        row: rows - 1,
        y,
        batch,
    };
    call.record(&mut run.recorder, "statistics");
    run.sampled("y", y, tolerance::STATISTICS, |i| {
        let row = by.as_ref().map_or(rows - 1, |by| by[i / dim] as usize);
        let place = row * dim + i % dim;
        reference::forward(x[i], mean[place], deviation.as_ref().map(|deviation| deviation[place]))
    });
}

/// The name of a variant.
fn variant(divided: bool, by_camera: bool) -> String {
    let [divided, by_camera] = [(divided, " divided"), (by_camera, " by camera")]
        .map(|(is_set, words)| if is_set { words } else { "" });
    format!("forward{divided}{by_camera}")
}

pub(super) fn list(list: &mut List) {
    for (divided, by_camera) in [(false, false), (false, true), (true, false), (true, true)] {
        let name = variant(divided, by_camera);
        let one = move |shape| move |run: &mut Run<'_>| forward(run, shape, divided, by_camera);
        for [batch, dim, rows] in [[1, 4, 1], [5, 52, 3], [3, 260, 6]] {
            list.add(&name, format!("{batch}x{dim} of {rows}"), one([batch, dim, rows]));
        }
        // One, primes, and sizes around a workgroup.
        for (batch, rows) in [(1, 5), (2, 2), (13, 4)] {
            for dim in [4, 12, 68, 252, 256, 260] {
                list.full(format!("{name} {batch}x{dim} of {rows}"), one([batch, dim, rows]));
            }
        }
        list.full(format!("{name} of ViT-S"), one([8, 14 * 384, 7]));
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let shape = [timed.batch, GRID * timed.model.dim, 7];
    timed.add("", move |run| forward(run, shape, true, true));
}
