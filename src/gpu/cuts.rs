//! The cuts of a plan into submits.

use super::class::AdapterClass;

/// Submits that a GPU gets a plan in at least, so that it starts while the rest is encoded.
const SUBMITS: usize = 6;
/// Fewest dispatches of a submit. A submit costs as much CPU time as about ten dispatches.
const DISPATCHES_PER_SUBMIT: usize = 8;

/// Ends of the submits of a plan, given the floating-point operations of each dispatch: depends on these and on the
/// class alone.
///
/// A submit ends when it holds enough dispatches or enough work. A CPU adapter gets everything in one submit, because
/// it encodes on the cores that it computes on.
pub(super) fn submit_ends(flops: &[f64], class: AdapterClass) -> Vec<usize> {
    let most = match class {
        AdapterClass::Cpu => usize::MAX,
        _ => flops.len().div_ceil(SUBMITS).max(DISPATCHES_PER_SUBMIT),
    };
    let (mut ends, mut start, mut work) = (Vec::new(), 0, 0.0);
    for (i, flops) in flops.iter().enumerate() {
        if i > start && (i - start == most || work + flops > class.submit_flops()) {
            ends.push(i);
            (start, work) = (i, 0.0);
        }
        work += flops;
    }
    if !flops.is_empty() {
        ends.push(flops.len());
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_plans_are_cut_so_that_encoding_overlaps() {
        for class in [AdapterClass::Integrated, AdapterClass::Discrete] {
            for dispatches in [32, 90, 124, 320] {
                let ends = submit_ends(&vec![1e6; dispatches], class);
                assert!((4..=8).contains(&ends.len()), "{dispatches} dispatches in {} submits", ends.len());
                assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
                assert_eq!(ends.last(), Some(&dispatches));
            }
            assert_eq!(submit_ends(&[1e6; 8], class), [8]);
            assert_eq!(submit_ends(&[], class), [0; 0]);
        }
        assert_eq!(submit_ends(&[1e12; 90], AdapterClass::Cpu), [90]);
    }

    #[test]
    fn no_submit_takes_long() {
        for class in [AdapterClass::Integrated, AdapterClass::Discrete] {
            let longest = class.dispatch_flops();
            for share in [0.01, 0.3, 1.0, 20.0] {
                let flops = vec![share * longest; 90];
                let mut start = 0;
                for end in submit_ends(&flops, class) {
                    let work: f64 = flops[start..end].iter().sum();
                    assert!(end == start + 1 || work <= class.submit_flops(), "{start} to {end}");
                    start = end;
                }
                assert_eq!(start, flops.len());
            }
        }
    }
}
