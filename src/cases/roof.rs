//! Cases of roof.

use super::random::{Numbers, bytes, drawn};
use super::run::Run;
use super::{List, TimedCases, tolerance};
use crate::gpu::{Fragments, Storage};
use crate::kernels::roof::{ACCUMULATORS, BLOCKS, CopyWords, EACH, MultiplyAdd, MultiplyFragments, TOGETHER};
use crate::reference::roof as reference;

fn chains(run: &mut Run<'_>, accumulators: u32, count: usize, turns: u32) {
    let (multiplier, addend) = (0.984_375, 0.007_812_5);
    let y = run.output("y", 4 * count);
    MultiplyAdd { y, accumulators, turns, multiplier, addend }.record(&mut run.recorder, "roof");
    let links = (TOGETHER * turns) as usize;
    run.sampled("y", y, tolerance::ROOF, |i| {
        reference::multiply_add(i / 4 % 64, i % 4, accumulators as usize, links, multiplier, addend)
    });
}

fn copy(run: &mut Run<'_>, each: u32, count: usize) {
    let from = run.operand("from", drawn(1, 4 * count));
    let to_words = run.output("to", 4 * count);
    CopyWords { from_words: from.tensor, to_words, each }.record(&mut run.recorder, "copy");
    run.same("to", to_words, || from.iter().map(|v| v.to_bits()).enumerate());
}

fn fragments(run: &mut Run<'_>, side: u32, groups: usize, turns: u32) {
    let edge = side as usize;
    // Sums of integers are exact in any order.
    let count = (2 * BLOCKS + 2) * edge * edge;
    let whole = || bytes(1, count).into_iter().map(|byte| f32::from(byte % 8) - 3.0).collect();
    let operands = run.quads("operands", Numbers::new(count, whole));
    let y = run.output("y", groups * BLOCKS * 4 * edge * edge);
    MultiplyFragments { operands: operands.tensor, y, side, turns }.record(&mut run.recorder, "roof");
    let fragment = |i: usize| &operands[i * edge * edge..(i + 1) * edge * edge];
    let links = (TOGETHER * turns) as usize;
    let value = |i: usize| {
        let (place, sum, block) = (i % (edge * edge), i / (edge * edge) % 4, i / (4 * edge * edge));
        let (left, right) = (fragment(2 * (block % BLOCKS) + sum / 2), fragment(2 * BLOCKS + sum % 2));
        let exact = reference::multiply_fragments(left, right, edge, links, (place / edge, place % edge));
        (i, (exact.value as f32 + 0.0).to_bits())
    };
    run.same("y", y, || (0..y.len).map(value));
}

pub(super) fn list(list: &mut List) {
    for accumulators in ACCUMULATORS {
        list.add(format!("multiply-adds, {accumulators} chains"), "67x4, 3 turns", move |run| {
            chains(run, accumulators, 67, 3);
        });
        for (count, turns) in [(1, 0), (63, 1), (65, 3), (130, 50)] {
            list.full(format!("{accumulators} chains, {count}, {turns} turns"), move |run| {
                chains(run, accumulators, count, turns);
            });
        }
    }
    for each in EACH {
        list.add(format!("copies, {each} together"), "257x4", move |run| copy(run, each, 257));
        for count in [1, 63, 64, 65, 255, 257, 4_099] {
            list.full(format!("copies, {each} together, {count}"), move |run| copy(run, each, count));
        }
    }
    if let Some(Fragments { side, .. }) = list.matrix_units {
        let variant = format!("multiply-adds, fragments of {side}x{side}");
        list.add_in(Storage::F16, &variant, "3 workgroups, 5 turns", move |run| fragments(run, side, 3, 5));
    }
}

/// Times nothing: `bench` measures roofs itself.
pub(super) fn time(_: &mut TimedCases<'_>) {}
