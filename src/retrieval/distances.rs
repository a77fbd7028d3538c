//! Rows of distances, a few queries at a time, so that the whole queries × gallery matrix is never in memory.

use crate::error::Result;
use std::ops::Range;

/// Most bytes of distances that [`visit`] holds at once.
const CHUNK: usize = 64 << 20;

/// Distances from every query to every gallery row.
pub trait DistanceRows {
    /// Number of queries Q.
    fn queries(&self) -> usize;
    /// Number of gallery rows G.
    fn gallery(&self) -> usize;
    /// Number of queries of which [`Self::rows`] is best asked for a multiple.
    fn step(&self) -> usize {
        1
    }
    /// Distances of `queries` (`queries.len()`, G), row by row.
    ///
    /// # Errors
    /// Errors of the adapter and of the embeddings' file.
    fn rows(&mut self, queries: Range<usize>) -> Result<Vec<f32>>;
}

/// Calls `each` with the rows of all queries in order, some queries at a time.
///
/// # Errors
/// Errors of the distances and of `each`.
pub fn visit(
    distances: &mut dyn DistanceRows,
    each: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
) -> Result<()> {
    let all = 0..distances.queries();
    visit_some(distances, all, each)
}

/// As [`visit`], with these queries.
///
/// # Errors
/// As [`visit`].
pub fn visit_some(
    distances: &mut dyn DistanceRows,
    some: Range<usize>,
    mut each: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
) -> Result<()> {
    let row_bytes = distances.gallery().max(1) * size_of::<f32>();
    let fits = (CHUNK / row_bytes).max(1);
    let step = distances.step();
    let most = if fits > step { fits - fits % step } else { fits };
    for start in some.clone().step_by(most) {
        let range = start..(start + most).min(some.end);
        let rows = distances.rows(range.clone())?;
        each(range, &rows)?;
    }
    Ok(())
}
