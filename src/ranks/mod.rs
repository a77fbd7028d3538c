//! Processes that work together over MPI, one adapter each. A process is known by its rank, from 0.
//!
//! Without the feature `mpi` a program works alone, and [`Ranks`] has no value.

#[cfg(all(feature = "mpi", not(unix)))]
compile_error!("the feature mpi needs a Unix system");

#[cfg(not(feature = "mpi"))]
mod alone;
#[cfg(feature = "mpi")]
mod mpi;

#[cfg(not(feature = "mpi"))]
pub use alone::Ranks;
#[cfg(feature = "mpi")]
pub use mpi::Ranks;

use crate::error::Result;
use std::ops::Range;

impl Ranks {
    /// Returns the result of all ranks: an error if any has one. Every rank must call it at the same point of its work.
    ///
    /// # Errors
    /// The rank's own error, else the first of the others.
    pub fn agree<T>(ranks: Option<&Ranks>, result: Result<T>) -> Result<T> {
        ranks.map_or(Ok(()), |ranks| ranks.compare(&result)).and(result)
    }

    /// Returns true for the rank that writes files and messages: the first, or a process without others.
    pub fn is_first(ranks: Option<&Ranks>) -> bool {
        ranks.is_none_or(|ranks| ranks.rank() == 0)
    }
}

/// The piece of each batch that a rank computes: pieces of equal size, in the order of the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The rank.
    pub rank: usize,
    /// Number of ranks.
    pub ranks: usize,
    /// Images of a piece.
    pub each: usize,
}

impl Share {
    /// All images of every batch, for a process without others.
    pub const WHOLE: Share = Share { rank: 0, ranks: 1, each: usize::MAX };

    /// Returns the pieces of batches of up to `batch` images.
    pub fn new(ranks: Option<&Ranks>, batch: usize) -> Share {
        let piece = |ranks: &Ranks| Share {
            rank: ranks.rank(),
            ranks: ranks.size(),
            each: batch.div_ceil(ranks.size()),
        };
        ranks.map_or(Share::WHOLE, piece)
    }

    /// Returns the indices of the rank's images in a batch. A smaller batch leaves less for the last ranks, or nothing.
    pub fn places(&self, batch: usize) -> Range<usize> {
        let Share { rank, each, .. } = *self;
        (rank * each).min(batch)..((rank + 1).saturating_mul(each)).min(batch)
    }

    /// Returns the number of ranks that have images of a batch.
    pub fn busy(&self, batch: usize) -> usize {
        batch.div_ceil(self.each)
    }

    /// Returns true if other ranks have other pieces.
    pub fn is_part(&self) -> bool {
        self.ranks > 1
    }
}

/// Cuts `count` items into contiguous pieces of nearly equal size, one for each rank, and returns that of `rank`.
pub fn piece(count: usize, rank: usize, ranks: usize) -> Range<usize> {
    count * rank / ranks..count * (rank + 1) / ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_batch_in_order() {
        for (batch, ranks, each) in [(8, 2, 4), (9, 3, 3), (10, 4, 3), (5, 4, 3), (1, 3, 3)] {
            let shares = (0..ranks).map(|rank| Share { rank, ranks, each });
            let places: Vec<usize> = shares.flat_map(|share| share.places(batch)).collect();
            assert!(places.into_iter().eq(0..batch), "{batch} images, {ranks} ranks");
        }
        let last = Share { rank: 3, ranks: 4, each: 3 };
        assert_eq!((last.places(10), last.places(5), last.busy(10), last.busy(5)), (9..10, 5..5, 4, 2));
        assert_eq!((Share::WHOLE.places(7), Share::WHOLE.busy(7)), (0..7, 1));
        for (count, ranks) in [(0, 2), (1, 3), (7, 3), (8, 4)] {
            assert!((0..ranks).flat_map(|rank| piece(count, rank, ranks)).eq(0..count));
        }
    }
}
