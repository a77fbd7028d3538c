//! roof against the reference.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::{assert_same_bits, tolerance};
use lat_wgpu::kernels::roof::{ACCUMULATORS, CopyWords, EACH, MultiplyAdd, TOGETHER};
use lat_wgpu::reference::roof as reference;

#[test]
fn no_chain_is_merged_folded_or_dropped() {
    for accumulators in ACCUMULATORS {
        for (count, turns) in [(1, 0), (63, 1), (65, 3), (130, 50)] {
            let (multiplier, addend) = (0.984_375, 0.007_812_5);
            let name = format!("multiply_add {accumulators} {count} {turns}");
            let mut run = Guarded::new(&name);
            let y = run.output("y", 4 * count);
            MultiplyAdd { y, accumulators, turns, multiplier, addend }.record(&mut run.recorder, "roof");
            let links = (TOGETHER * turns) as usize;
            let wanted = (0..4 * count).map(|i| {
                let (lane, component) = (i / 4 % 64, i % 4);
                let chains = accumulators as usize;
                (i, reference::multiply_add(lane, component, chains, links, multiplier, addend))
            });
            compare(&name, &run.run()[0], wanted, tolerance::ROOF);
        }
    }
}

#[test]
fn copies_are_the_same_to_the_bit() {
    for each in EACH {
        for count in [1, 63, 64, 65, 255, 257, 4_099] {
            let data = normal(1, 4 * count);
            let name = format!("copy {each} {count}");
            let mut run = Guarded::new(&name);
            let from_words = run.input("from", &data);
            let to_words = run.output("to", data.len());
            CopyWords { from_words, to_words, each }.record(&mut run.recorder, "copy");
            assert_same_bits(&name, &data, &run.run()[0]);
        }
    }
}
