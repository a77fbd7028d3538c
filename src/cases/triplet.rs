//! Cases of triplet. Each kernel reads the reference's results of the kernel before it.

use super::random::{Numbers, drawn, normal};
use super::run::Run;
use super::{GRID, List, TimedCases, tolerance};
use crate::gpu::Family;
use crate::kernels::gradnorm::Control;
use crate::kernels::triplet::{Backward, Columns, Distances, Margin, Mine, NONE};
use crate::reference::triplet as reference;
use crate::rng;

const MARGIN: Margin = Margin::Hard(0.3);

/// The two images of an anchor, if it has a gradient.
pub type Choice = Option<[usize; 2]>;

/// Records the distances of images (batch, length).
pub fn distances<'n>(run: &mut Run<'_>, parts: impl Into<Numbers<'n>>, batch: usize, family: Family) {
    let parts = run.operand("parts", parts);
    let length = parts.tensor.len / batch;
    let distances = run.output("distances", batch * batch);
    let columns = Columns::all(length);
    let call = Distances { parts: parts.tensor, distances, batch, length, columns };
    call.record_with(&mut run.recorder, "distances", family);
    run.all("distances", distances, tolerance::triplet_distances(length), || {
        reference::distances(&parts, batch)
    });
}

/// Losses and choices of all anchors.
fn mined(distances: &[f32], labels: &[u32], margin: Margin) -> (Vec<f64>, Vec<(crate::reference::Exact, Choice)>) {
    let exact: Vec<f64> = distances.iter().map(|&d| f64::from(d)).collect();
    let margin = match margin {
        Margin::Hard(margin) => Some(f64::from(margin)),
        Margin::Soft => None,
    };
    let mine = |anchor| reference::mine(&exact, labels, anchor, margin);
    let all = (0..labels.len()).map(mine).collect();
    (exact, all)
}

fn words(choices: impl IntoIterator<Item = Choice>) -> Vec<u32> {
    choices.into_iter().flat_map(|pair| pair.map_or([NONE; 2], |pair| pair.map(|i| i as u32))).collect()
}

/// Records losses and choices.
pub fn mine<'n>(run: &mut Run<'_>, distances: impl Into<Numbers<'n>>, labels: &[u32], margin: Margin) {
    let distances = run.operand("distances", distances);
    let batch = labels.len();
    let (loss, choice) = (run.output("loss", batch), run.output("choice", 2 * batch));
    let of_labels = run.words("labels", labels);
    Mine { distances: distances.tensor, labels: of_labels, loss, choice, batch, margin, weight: 1.0 }
        .record(&mut run.recorder, "mine");
    let mined = || mined(&distances, labels, margin).1.into_iter();
    run.all("loss", loss, tolerance::triplet_loss(margin), || mined().map(|mined| mined.0));
    run.same("choice", choice, || words(mined().map(|mined| mined.1)).into_iter().enumerate());
}

/// Records the addition of the gradient of the losses, times `scale`, to `before` (batch, length).
pub fn backward<'n>(
    run: &mut Run<'_>,
    parts: impl Into<Numbers<'n>>,
    distances: impl Into<Numbers<'n>>,
    choices: &[Choice],
    before: impl Into<Numbers<'n>>,
    scale: f32,
    margin: Margin,
) {
    let (parts, distances) = (run.operand("parts", parts), run.operand("distances", distances));
    let dparts = run.updated("dparts", before);
    let batch = choices.len();
    let length = parts.tensor.len / batch;
    let call = Backward {
        parts: parts.tensor,
        distances: distances.tensor,
        choice: run.words("choice", &words(choices.iter().copied())),
        dparts: dparts.tensor,
        control: run.words("control", &Control { counted: true, ..Control::start(scale) }.words()),
        batch,
        length,
        columns: Columns::all(length),
        margin,
        weight: 1.0,
    };
    call.record(&mut run.recorder, "backward");
    run.all("dparts", dparts.tensor, tolerance::triplet_backward(batch, margin), || {
        let exact: Vec<f64> = distances.iter().map(|&d| f64::from(d)).collect();
        reference::gradient(&parts, &exact, choices, &dparts, margin == Margin::Soft)
    });
    // TimedCases without a gradient keep their bits.
    let touched = |row: usize| {
        choices.iter().enumerate().any(|(anchor, pair)| {
            pair.is_some_and(|[positive, negative]| [anchor, positive, negative].contains(&row))
        })
    };
    run.same("other rows", dparts.tensor, || {
        (0..parts.len()).filter(|i| !touched(i / length)).map(|i| (i, dparts[i].to_bits()))
    });
}

/// Records the loss of one of the parts (batch, parts, dim) with a weight, and adds its gradient to random numbers.
fn one_part(run: &mut Run<'_>, [batch, parts, dim]: [usize; 3], part: usize, family: Family) {
    const WEIGHT: f32 = 0.125;
    let stride = parts * dim;
    let columns = Columns { first: part * dim, stride };
    let of_labels = labels(batch, 3);
    let all = run.operand("parts", drawn(1, batch * stride));
    let rows = |all: &[f32]| -> Vec<f32> {
        all.chunks(stride).flat_map(|row| row[part * dim..][..dim].to_vec()).collect()
    };
    let measured = reference::distances(&rows(&normal(1, batch * stride)), batch);
    let measured: Vec<f32> = measured.iter().map(|d| d.value as f32).collect();
    let (exact, mined) = mined(&measured, &of_labels, Margin::Soft);
    let choices: Vec<Choice> = mined.iter().map(|mined| mined.1).collect();

    let distances = run.output("distances", batch * batch);
    Distances { parts: all.tensor, distances, batch, length: dim, columns }
        .record_with(&mut run.recorder, "distances", family);
    run.all("distances", distances, tolerance::triplet_distances(dim), || {
        reference::distances(&rows(&all), batch)
    });
    let measured = run.operand("measured", measured);
    let (loss, choice) = (run.output("loss", batch), run.output("choice", 2 * batch));
    let label_words = run.words("labels", &of_labels);
    let (margin, weight) = (Margin::Soft, WEIGHT);
    Mine { distances: measured.tensor, labels: label_words, loss, choice, batch, margin, weight }
        .record(&mut run.recorder, "mine");
    run.all("loss", loss, tolerance::triplet_loss(margin), || mined.iter().map(|mined| mined.0.times(WEIGHT)));
    let dparts = run.updated("dparts", drawn(99, batch * stride));
    let call = Backward {
        parts: all.tensor,
        distances: measured.tensor,
        choice: run.words("chosen", &words(choices.iter().copied())),
        dparts: dparts.tensor,
        control: run.words("control", &Control { counted: true, ..Control::start(1.0) }.words()),
        batch,
        length: dim,
        columns,
        margin,
        weight,
    };
    call.record(&mut run.recorder, "backward");
    run.near("dparts", dparts.tensor, tolerance::triplet_backward(batch, margin), || {
        let zeros = vec![0.0; batch * dim];
        let sums = reference::gradient(&rows(&all), &exact, &choices, &zeros, true).into_iter();
        let added = sums.enumerate().map(|(i, sum)| {
            let (at, sum) = (i / dim * stride + part * dim + i % dim, sum.times(WEIGHT));
            let before = f64::from(dparts[at]);
            (at, crate::reference::Exact { value: before + sum.value, scale: before.abs() + sum.scale })
        });
        added.collect::<Vec<_>>()
    });
    run.same("other parts", dparts.tensor, || {
        let others = (0..batch * stride).filter(|i| i % stride / dim != part);
        others.map(|i| (i, dparts[i].to_bits())).collect::<Vec<_>>()
    });
}

/// Labels of up to `persons` persons, some of which may have a single image.
pub fn labels(batch: usize, persons: u32) -> Vec<u32> {
    (0..batch as u64).map(|i| 1000 + rng::bits(6, 1, i) % persons).collect()
}

pub(super) fn list(list: &mut List) {
    let exact = |batch: usize, length: usize| -> Vec<f32> {
        reference::distances(&normal(1, batch * length), batch).iter().map(|d| d.value as f32).collect()
    };
    let of_distances = |batch: usize, length: usize| {
        move |run: &mut Run<'_>, family| distances(run, drawn(1, batch * length), batch, family)
    };
    let of_mine = move |batch: usize, length: usize, margin: Margin| {
        move |run: &mut Run<'_>| mine(run, exact(batch, length), &labels(batch, 3), margin)
    };
    let of_backward = move |batch: usize, length: usize, margin: Margin| {
        move |run: &mut Run<'_>| {
            let distances = exact(batch, length);
            let choices = mined(&distances, &labels(batch, 3), margin).1.into_iter().map(|mined| mined.1);
            let (parts, before) = (drawn(1, batch * length), drawn(99, batch * length));
            backward(run, parts, distances, &choices.collect::<Vec<_>>(), before, 1.0, margin);
        }
    };
    let own = list.family;
    for (batch, length) in [(1, 1), (7, 13), (13, 131), (19, 132)] {
        let (name, record) = (format!("{batch}x{length}"), of_distances(batch, length));
        list.add("distances", &name, move |run| record(run, own));
        list.add("mine", &name, of_mine(batch, length, MARGIN));
        list.add("backward", &name, of_backward(batch, length, MARGIN));
        list.add("soft mine", &name, of_mine(batch, length, Margin::Soft));
        list.add("soft backward", &name, of_backward(batch, length, Margin::Soft));
    }
    for (batch, parts, dim, part) in [(7, 3, 12, 1), (9, 2, 5, 0), (6, 5, 16, 4)] {
        list.add("soft one part", format!("{batch}x{parts}x{dim} part {part}"), move |run| {
            one_part(run, [batch, parts, dim], part, own);
        });
        list.full(format!("one part, tiled {batch}x{parts}x{dim}"), move |run| {
            one_part(run, [batch, parts, dim], part, Family::Tiled);
        });
    }
    // One, primes, and sizes around four and around a workgroup.
    let lengths = [1, 2, 3, 4, 5, 7, 8, 13, 31, 63, 64, 65, 127, 129].map(|length| (6, length));
    let batches = [1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 127].map(|batch| (batch, 11));
    for (batch, length) in lengths.into_iter().chain(batches) {
        let name = format!("{batch}x{length}");
        let ways = [own, Family::Tiled];
        list.full_ways(usize::MAX, format!("distances {name}"), ways, of_distances(batch, length));
        for (kind, margin) in [("", MARGIN), ("soft ", Margin::Soft)] {
            list.full(format!("{kind}mine {name}"), of_mine(batch, length, margin));
            list.full(format!("{kind}backward {name}"), of_backward(batch, length, margin));
        }
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    // Sixteen persons with four images each. The choices are arbitrary.
    const IMAGES: usize = 64;
    let len = IMAGES * GRID * timed.model.dim;
    timed.add("", move |run| {
        let family = run.recorder.context.family();
        distances(run, drawn(1, len), IMAGES, family);
        mine(run, drawn(2, IMAGES * IMAGES), &(0..IMAGES as u32).map(|i| i / 4).collect::<Vec<_>>(), MARGIN);
    });
    timed.add("backward", move |run| {
        let choices: Vec<Choice> = (0..IMAGES).map(|i| Some([i ^ 1, (i + 4) % IMAGES])).collect();
        backward(run, drawn(1, len), drawn(2, IMAGES * IMAGES), &choices, drawn(3, len), 1.0, MARGIN);
    });
}
