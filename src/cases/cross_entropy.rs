//! Cases of cross_entropy, with every number of invocations per row.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::tolerance::{Tolerance, UNIT};
use super::{BATCH, CLASSES, GRID, LANES, List, TimedCases, tolerance};
use crate::kernels::cross_entropy::CrossEntropy;
use crate::kernels::gradnorm::Control;
use crate::reference::{Exact, cross_entropy as reference};
use crate::rng;

/// The dimensions of a case, and label smoothing.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Classes K.
    pub classes: usize,
    /// Label smoothing.
    pub smoothing: f32,
    /// Factor of the first part, and of the others.
    pub weights: [f32; 2],
}

impl Shape {
    /// Labels, of which two are the first and the last class.
    pub fn labels(&self) -> Vec<u32> {
        let classes = self.classes as u32;
        let drawn = (0..self.batch as u64).map(|b| rng::bits(5, 0, b) % classes);
        drawn.enumerate().map(|(b, label)| [0, classes - 1].get(b).copied().unwrap_or(label)).collect()
    }

    fn len(&self) -> usize {
        self.parts * self.batch * self.classes
    }
}

/// Records losses and, if there is a loss scale, gradients.
pub fn losses<'n>(
    run: &mut Run<'_>,
    logits: impl Into<Numbers<'n>>,
    labels: &[u32],
    shape: Shape,
    scale: Option<f32>,
    lanes: u32,
) {
    let Shape { batch, parts, classes, smoothing, weights } = shape;
    let weight = move |row: usize| weights[usize::from(row >= batch)];
    let logits = run.operand("logits", logits);
    let loss = run.output("loss", parts * batch);
    let control = |scale: f32| Control { counted: true, ..Control::start(scale) }.words();
    let gradient = scale.map(|scale| (run.output("dlogits", shape.len()), run.words("control", &control(scale))));
    let call = CrossEntropy {
        logits: logits.tensor,
        labels: run.words("labels", labels),
        loss,
        gradient,
        batch,
        parts,
        classes,
        smoothing,
        weights,
    };
    call.record_with(&mut run.recorder, "cross_entropy", lanes);
    let rows = || {
        let rows = logits.chunks(classes).enumerate();
        rows.map(|(i, row)| (row, labels[i % batch] as usize, weight(i)))
    };
    let allowed = tolerance::cross_entropy(classes);
    run.all("loss", loss, allowed, || rows().map(|(row, label, weight)| reference::loss(row, label, smoothing).times(weight)));
    if let Some((dlogits, _)) = gradient {
        // With one class the gradient is zero except for rounding.
        let nothing = Tolerance { nmse: f64::INFINITY, c: 1e-7 / UNIT };
        run.all("dlogits", dlogits, if classes > 1 { allowed } else { nothing }, || {
            rows().flat_map(move |(row, label, weight)| {
                let gradient = reference::gradient(row, label, smoothing, batch).into_iter();
                let mut gradient: Vec<Exact> = gradient.map(|exact| exact.times(weight)).collect();
                if classes == 1 {
                    gradient[0].scale = 1.0;
                }
                gradient
            })
        });
    }
}

pub(super) fn list(list: &mut List) {
    for classes in [2, 13, 67] {
        for lanes in LANES {
            for (smoothing, scale, weights, note) in
                [
                    (0.1, Some(1.0), [1.0; 2], " smoothed gradient"),
                    (0.0, None, [1.0; 2], ""),
                    (0.0, Some(1.0), [0.5, 0.3], " weighted gradient"),
                ]
            {
                let shape = Shape { batch: 3, parts: 2, classes, smoothing, weights };
                list.add(format!("{lanes} lanes{note}"), format!("3x2x{classes}"), move |run| {
                    losses(run, drawn(1, shape.len()), &shape.labels(), shape, scale, lanes);
                });
            }
        }
    }
    for lanes in LANES {
        let mut full = |batch, parts, classes, smoothing, factor: f32| {
            let shape = Shape { batch, parts, classes, smoothing, weights: [1.0; 2] };
            // Losses are the same without gradients.
            let ways = [Some(1.0), None];
            list.full_ways(usize::MAX, format!("{lanes} lanes {shape:?} times {factor}"), ways, move |run, scale| {
                let logits = drawn(1, shape.len()).map(move |v| factor * v);
                losses(run, logits, &shape.labels(), shape, scale, lanes);
            });
        };
        // One, primes, and sizes around every number of invocations per row.
        for classes in [1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 63, 64, 65, 127, 129] {
            [0.0, 0.1].into_iter().for_each(|smoothing| full(3, 2, classes, smoothing, 1.0));
        }
        full(1, 1, 11, 0.0, 1.0);
        // The number of persons in Market-1501.
        full(4, 14, 751, 0.0, 0.01);
        full(4, 14, 751, 0.1, 10.0);
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let shape = Shape { batch: BATCH, parts: GRID, classes: CLASSES, smoothing: 0.1, weights: [1.0; 2] };
    timed.add("", move |run| {
        let lanes = run.recorder.context.row_lanes();
        losses(run, drawn(1, shape.len()), &shape.labels(), shape, Some(1.0), lanes);
    });
}
