//! Cases of prototypes, with every number of invocations per person.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{BATCH, CLASSES, GRID, LANES, List, TimedCases, tolerance};
use crate::kernels::gradnorm::Control;
use crate::kernels::prototypes::Update;
use crate::reference::l2norm;
use crate::reference::prototypes::{self as reference, Rule};
use crate::rng;

/// `count` vectors of unit length, divided by `temperature`.
fn units<'n>(stream: u64, count: usize, length: usize, temperature: f32) -> Numbers<'n> {
    let drawn = drawn(stream, count * length);
    Numbers::new(count * length, move || {
        let vectors = drawn.make();
        let unit = |vector: &[f32]| l2norm::part(vector, 1);
        vectors.chunks(length).flat_map(unit).map(|v| v.value as f32 / temperature).collect()
    })
}

/// Labels of which some repeat, and some persons have no image.
pub fn labels(batch: usize, persons: usize) -> Vec<u32> {
    (0..batch as u64).map(|b| rng::bits(8, 2, b) % persons as u32).collect()
}

/// Records the prototypes (persons, length) after a batch; they must not change unless `counted`.
pub fn update(
    run: &mut Run<'_>,
    labels: &[u32],
    [persons, length]: [usize; 2],
    rule: Rule,
    counted: bool,
    lanes: u32,
) {
    let Rule { momentum, temperature, hard } = rule;
    let memory = run.updated("memory", units(1, persons, length, temperature));
    let embeddings = run.operand("embeddings", units(2, labels.len(), length, 1.0));
    let call = Update {
        labels: run.words("labels", labels),
        embeddings: embeddings.tensor,
        memory: memory.tensor,
        control: run.words("control", &Control { counted, ..Control::start(1.0) }.words()),
        batch: labels.len(),
        length,
        momentum,
        temperature,
        hard,
    };
    call.record_with(&mut run.recorder, "update", lanes);
    if counted {
        run.all("memory", memory.tensor, tolerance::prototypes(length), || {
            reference::update(&memory, &embeddings, labels, rule)
        });
    }
    // Other persons keep their bits.
    let touched = |person: usize| counted && labels.contains(&(person as u32));
    run.same("other persons", memory.tensor, || {
        (0..memory.len()).filter(|i| !touched(i / length)).map(|i| (i, memory[i].to_bits()))
    });
}

pub(super) fn list(list: &mut List) {
    let one = |batch: usize, persons: usize, length: usize, hard: bool, lanes: u32| {
        let rule = Rule { momentum: 0.2, temperature: 0.05, hard };
        move |run: &mut Run<'_>| update(run, &labels(batch, persons), [persons, length], rule, true, lanes)
    };
    for lanes in LANES {
        for (batch, persons, length) in [(1, 1, 1), (7, 3, 13), (5, 9, 131)] {
            for (hard, kind) in [(false, ""), (true, " hard")] {
                let shape = format!("{batch}x{persons}x{length}");
                list.add(format!("{lanes} lanes{kind}"), &shape, one(batch, persons, length, hard, lanes));
            }
        }
        // One, primes, and sizes around every number of invocations.
        for length in [1, 2, 3, 7, 8, 9, 15, 17, 61, 63, 64, 65, 127, 129] {
            for hard in [false, true] {
                let name = format!("{lanes} lanes hard {hard} 13x5x{length}");
                list.full(name, one(13, 5, length, hard, lanes));
            }
        }
        list.full(format!("{lanes} lanes not counted"), move |run| {
            let rule = Rule { momentum: 0.2, temperature: 0.05, hard: false };
            update(run, &labels(7, 3), [3, 13], rule, false, lanes);
        });
        list.full(format!("{lanes} lanes momentum 0.5"), move |run| {
            let rule = Rule { momentum: 0.5, temperature: 0.1, hard: false };
            update(run, &labels(9, 2), [2, 40], rule, true, lanes);
        });
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let length = GRID * timed.model.dim;
    timed.add("", move |run| {
        let lanes = run.recorder.context.row_lanes();
        let rule = Rule { momentum: 0.2, temperature: 0.05, hard: false };
        update(run, &labels(BATCH, CLASSES), [CLASSES, length], rule, true, lanes);
    });
}
