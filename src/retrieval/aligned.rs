//! Distances between sequences of parts, aligned from top to bottom.
//!
//! Source: Zhang et al. 2017, "AlignedReID: Surpassing Human-Level Performance in Person Re-Identification", equations 1
//! and 2. Parts aᵢ and bⱼ of two images, each of unit length, have the distance dᵢⱼ = (eˣ - 1)/(eˣ + 1) = tanh(x/2) with
//! x = ‖aᵢ - bⱼ‖. The local distance is the smallest sum of dᵢⱼ on a path from the pair of first parts to the pair of last
//! ones, which goes on by one part of either image at each step:
//!
//! Sᵢⱼ = dᵢⱼ + min(Sᵢ₋₁ⱼ, Sᵢⱼ₋₁)
//!
//! It has 2R - 1 terms for R parts. As there, the distance of two images is the squared Euclidean distance of their
//! whole embeddings plus the local distance.

use super::distances::DistanceRows;
use crate::embeddings::rows::Rows;
use crate::error::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Most bytes of distances between parts that are in memory at once.
const CHUNK: usize = 64 << 20;

/// The parts of embeddings as rows of their own (N·R, D/R), each divided by its length.
pub struct Parts<'a> {
    rows: &'a dyn Rows,
    count: usize,
}

impl<'a> Parts<'a> {
    /// Divides each row into `count` parts of the same size.
    ///
    /// # Panics
    /// If a row can't be divided so.
    pub fn new(rows: &'a dyn Rows, count: usize) -> Self {
        assert!(count > 0 && rows.dim().is_multiple_of(count), "{count} parts of {} dimensions", rows.dim());
        Parts { rows, count }
    }
}

impl Rows for Parts<'_> {
    fn len(&self) -> usize {
        self.rows.len() * self.count
    }

    fn dim(&self) -> usize {
        self.rows.dim() / self.count
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (dim, whole) = (self.dim(), self.rows.dim());
        assert_eq!(out.len(), rows.len() * dim, "room for rows {rows:?}");
        let covering = rows.start / self.count..rows.end.div_ceil(self.count);
        let mut values = vec![0.0; covering.len() * whole];
        self.rows.read(covering.clone(), &mut values)?;
        let skipped = (rows.start - covering.start * self.count) * dim;
        out.copy_from_slice(&values[skipped..][..out.len()]);
        for part in out.chunks_mut(dim.max(1)) {
            let length = part.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            if length > 0.0 {
                part.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        }
        Ok(())
    }

    fn name(&self, row: usize) -> Option<String> {
        self.rows.name(row / self.count)
    }
}

/// Distances of whole embeddings plus the local distances of their parts.
pub struct Aligned<'d> {
    /// Squared Euclidean distances of whole embeddings.
    whole: &'d mut dyn DistanceRows,
    /// Those of [`Parts`].
    parts: &'d mut dyn DistanceRows,
    count: usize,
}

impl<'d> Aligned<'d> {
    /// Combines the distances of whole embeddings with those of their `count` parts.
    ///
    /// # Panics
    /// If the numbers of rows contradict each other.
    pub fn new(whole: &'d mut dyn DistanceRows, parts: &'d mut dyn DistanceRows, count: usize) -> Self {
        let rows = (whole.queries() * count, whole.gallery() * count);
        assert_eq!((parts.queries(), parts.gallery()), rows, "parts of queries and gallery");
        Aligned { whole, parts, count }
    }
}

impl DistanceRows for Aligned<'_> {
    fn queries(&self) -> usize {
        self.whole.queries()
    }

    fn gallery(&self) -> usize {
        self.whole.gallery()
    }

    fn step(&self) -> usize {
        self.whole.step()
    }

    fn rows(&mut self, queries: Range<usize>) -> Result<Vec<f32>> {
        let (count, gallery) = (self.count, self.gallery());
        let mut all = self.whole.rows(queries.clone())?;
        let bytes = count * count * gallery.max(1) * size_of::<f32>();
        let step = (CHUNK / bytes).max(1);
        for start in queries.clone().step_by(step) {
            let range = start..(start + step).min(queries.end);
            let parts = self.parts.rows(range.start * count..range.end * count)?;
            let out = &mut all[(range.start - queries.start) * gallery..][..range.len() * gallery];
            let local = |query: usize, row: usize| {
                let first = query * count * count * gallery + row * count;
                shortest_path(count, |i, j| {
                    let squared = f64::from(parts[first + i * count * gallery + j]);
                    (squared.max(0.0).sqrt() / 2.0).tanh()
                })
            };
            out.par_chunks_mut(gallery.max(1)).enumerate().for_each(|(query, out)| {
                for (row, distance) in out.iter_mut().enumerate() {
                    *distance = (f64::from(*distance) + local(query, row)) as f32;
                }
            });
        }
        Ok(all)
    }
}

/// The smallest sum of costs on a path from (0, 0) to (count - 1, count - 1) of steps that add 1 to one index.
fn shortest_path(count: usize, cost: impl Fn(usize, usize) -> f64) -> f64 {
    // Sᵢⱼ of the row before, then of this one.
    let mut sums = vec![f64::INFINITY; count];
    sums[0] = 0.0;
    for i in 0..count {
        let mut before = f64::INFINITY;
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = cost(i, j) + sum.min(before);
            before = *sum;
        }
    }
    sums[count - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_around_large_costs() {
        let costs = [[1., 9., 9., 9.], [1., 9., 9., 9.], [1., 1., 1., 9.], [9., 9., 2., 3.]];
        assert_eq!(shortest_path(4, |i, j| costs[i][j]), 10.0);
        assert_eq!(shortest_path(4, |i, j| costs[j][i]), 10.0, "symmetric");
        assert_eq!(shortest_path(1, |_, _| 7.0), 7.0);
        let diagonal = |i: usize, j: usize| if i.abs_diff(j) > 1 { 1.0 } else { 0.0 };
        assert_eq!(shortest_path(9, diagonal), 0.0);
    }
}
