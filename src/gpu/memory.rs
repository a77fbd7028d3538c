//! The static memory planner: places the transient tensors of a recording into shared heaps.
//!
//! WebGPU forbids a dispatch to use one buffer both read-only and read-write. Tensors are therefore coloured, and each
//! colour has heaps of its own. Within a colour, tensors with disjoint lifetimes share bytes.

/// Alignment of tensors in a heap, in bytes: WebGPU's alignment of binding offsets.
const ALIGN: u64 = 256;

/// A tensor whose memory is needed from its first to its last dispatch.
#[derive(Debug, Clone)]
pub struct Transient {
    /// Size in bytes.
    pub bytes: u64,
    /// Index of the first dispatch that uses it.
    pub first: usize,
    /// Index of the last dispatch that uses it.
    pub last: usize,
}

/// The placement of transient tensors.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Bytes of each heap.
    pub heaps: Vec<u64>,
    /// Heap and byte offset of each tensor.
    pub slots: Vec<(usize, u64)>,
}

/// Places tensors by first fit, the largest first.
///
/// `conflicts` are pairs of which one dispatch reads one and writes the other. A heap has at most `max_heap` bytes.
pub fn place(transients: &[Transient], conflicts: &[(usize, usize)], max_heap: u64) -> Placement {
    let colours = colour(transients.len(), conflicts);
    let mut order: Vec<usize> = (0..transients.len()).collect();
    // Large tensors first leave fewer gaps. Ties are broken by age, so that the result depends on the recording alone.
    order.sort_by_key(|&i| (std::cmp::Reverse(transients[i].bytes), transients[i].first, i));

    let mut placement = Placement { heaps: Vec::new(), slots: vec![(0, 0); transients.len()] };
    let mut heap_colours: Vec<usize> = Vec::new();
    let mut placed: Vec<usize> = Vec::new();
    for &i in &order {
        let size = transients[i].bytes.next_multiple_of(ALIGN).max(ALIGN);
        let slot = (0..placement.heaps.len())
            .filter(|&heap| heap_colours[heap] == colours[i])
            .map(|heap| (heap, lowest_gap(i, heap, size, transients, &placed, &placement.slots)))
            .find(|&(_, offset)| offset + size <= max_heap);
        let (heap, offset) = slot.unwrap_or_else(|| {
            placement.heaps.push(0);
            heap_colours.push(colours[i]);
            (placement.heaps.len() - 1, 0)
        });
        placement.heaps[heap] = placement.heaps[heap].max(offset + size);
        placement.slots[i] = (heap, offset);
        placed.push(i);
    }
    placement
}

/// Returns the lowest offset in `heap` at which tensor `i` overlaps no tensor with an overlapping lifetime.
fn lowest_gap(
    i: usize,
    heap: usize,
    size: u64,
    transients: &[Transient],
    placed: &[usize],
    slots: &[(usize, u64)],
) -> u64 {
    let lives_with =
        |j: usize| transients[j].first <= transients[i].last && transients[i].first <= transients[j].last;
    let mut taken: Vec<(u64, u64)> = placed
        .iter()
        .filter(|&&j| slots[j].0 == heap && lives_with(j))
        .map(|&j| (slots[j].1, slots[j].1 + transients[j].bytes.next_multiple_of(ALIGN).max(ALIGN)))
        .collect();
    taken.sort_unstable();
    let mut offset = 0;
    for (start, end) in taken {
        if start >= offset + size {
            break;
        }
        offset = offset.max(end);
    }
    offset
}

/// Colours tensors greedily in order of age: each gets the lowest colour that no conflicting tensor has.
fn colour(count: usize, conflicts: &[(usize, usize)]) -> Vec<usize> {
    let mut neighbours: Vec<Vec<usize>> = vec![Vec::new(); count];
    for &(a, b) in conflicts {
        neighbours[a].push(b);
        neighbours[b].push(a);
    }
    let mut colours = vec![usize::MAX; count];
    for i in 0..count {
        colours[i] = (0..).find(|c| neighbours[i].iter().all(|&j| colours[j] != *c)).unwrap_or_default();
    }
    colours
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pseudo-random recording: tensor i is written by dispatch i and read by a few later ones.
    fn recording(seed: u64, count: usize) -> (Vec<Transient>, Vec<(usize, usize)>) {
        let mut state = seed;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        let mut transients: Vec<Transient> =
            (0..count).map(|i| Transient { bytes: 4 * (1 + next(5000)), first: i, last: i }).collect();
        let mut conflicts = Vec::new();
        for i in 1..count {
            for _ in 0..1 + next(3) {
                let read = i - 1 - next((i as u64).min(6)) as usize;
                transients[read].last = transients[read].last.max(i);
                conflicts.push((read, i));
            }
        }
        (transients, conflicts)
    }

    #[test]
    fn neighbours_in_time_never_share_bytes_and_conflicts_never_share_a_heap() {
        for seed in 0..200 {
            let (transients, conflicts) = recording(seed, 40);
            let max_heap = 24_000;
            let placement = place(&transients, &conflicts, max_heap);
            assert!(placement.heaps.iter().all(|&bytes| bytes <= max_heap));
            for &(a, b) in &conflicts {
                assert_ne!(placement.slots[a].0, placement.slots[b].0, "seed {seed}: {a} and {b}");
            }
            for (i, a) in transients.iter().enumerate() {
                let (heap, start) = placement.slots[i];
                assert!(start.is_multiple_of(ALIGN) && start + a.bytes <= placement.heaps[heap]);
                for (j, b) in transients.iter().enumerate().skip(i + 1) {
                    let apart = placement.slots[j].0 != heap
                        || start + a.bytes <= placement.slots[j].1
                        || placement.slots[j].1 + b.bytes <= start
                        || a.last < b.first
                        || b.last < a.first;
                    assert!(apart, "seed {seed}: {i} and {j} overlap");
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_two_tensors_worth_of_memory_however_long() {
        let chain = |count: usize| {
            let transients: Vec<_> =
                (0..count).map(|i| Transient { bytes: 1024, first: i, last: i + 1 }).collect();
            let conflicts: Vec<_> = (1..count).map(|i| (i - 1, i)).collect();
            place(&transients, &conflicts, u64::MAX).heaps.iter().sum::<u64>()
        };
        assert_eq!(chain(3), 2048);
        assert_eq!(chain(100), 2048);
    }
}
