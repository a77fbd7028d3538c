//! Rows of distances, a few queries at a time: nobody holds a whole queries × gallery matrix.

use crate::error::Result;
use std::ops::Range;

/// Distances that are held at once by [`visit`], in bytes.
const CHUNK: usize = 64 << 20;

/// Squared Euclidean distances from every query to every gallery row.
pub trait DistanceRows {
    /// Number of queries, Q.
    fn queries(&self) -> usize;
    /// Number of gallery rows, G.
    fn gallery(&self) -> usize;
    /// A multiple of that many queries at a time is the least work.
    fn step(&self) -> usize {
        1
    }
    /// (`queries.len()`, G), row after row.
    ///
    /// # Errors
    /// What the adapter or the embeddings' file reports.
    fn rows(&mut self, queries: Range<usize>) -> Result<Vec<f32>>;
}

/// Shows all rows to `each`, some queries at a time and in their order.
///
/// # Errors
/// What the distances or `each` report.
pub fn visit(
    distances: &mut dyn DistanceRows,
    mut each: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
) -> Result<()> {
    let queries = distances.queries();
    let row_bytes = distances.gallery().max(1) * size_of::<f32>();
    let fits = (CHUNK / row_bytes).max(1);
    let step = distances.step();
    let most = if fits > step { fits - fits % step } else { fits };
    for start in (0..queries).step_by(most) {
        let range = start..(start + most).min(queries);
        let rows = distances.rows(range.clone())?;
        each(range, &rows)?;
    }
    Ok(())
}
