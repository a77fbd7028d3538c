//! k-reciprocal re-ranking (Zhong et al. 2017, "Re-ranking Person Re-identification with k-reciprocal Encoding").
//!
//! Images are similar if they are among each other's nearest, and more similar the more such neighbours they share. The
//! published algorithm holds several N × N matrices of all N = queries + gallery images. This one keeps the k nearest
//! of each image, and the nonzero values of its row of V. It computes distances in chunks three times: for the
//! neighbours, for the weights, and for the queries' final distances. The results are those of the dense algorithm.
//!
//! Source: sections 3.2 to 3.5 of the paper, and the authors' program where the paper leaves a choice. Distances are
//! squared Euclidean. Each image's distances are divided by their largest, for the weights exp(-d) and for the final
//! blend. Equally near images are ordered as in the list. k1/2 is rounded half to even.

use super::distances::{DistanceRows, visit_some};
use super::metrics::nearer;
use crate::error::{Error, Result};
use crate::observer::Stage;
use crate::ranks::{Ranks, piece};
use rayon::prelude::*;
use std::ops::Range;

/// Share of a candidate's neighbours that must be shared for all of them to join (the paper's equation 4).
const SHARED: f64 = 2. / 3.;

/// Settings, named as in the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RerankOptions {
    /// Neighbours that must be mutual, without the image itself.
    pub k1: usize,
    /// Images whose rows of V are averaged, with the image itself; 1 averages none.
    pub k2: usize,
    /// Weight λ of the original distance, from 0 to 1.
    pub lambda: f64,
}

impl Default for RerankOptions {
    fn default() -> RerankOptions {
        RerankOptions { k1: 20, k2: 6, lambda: 0.3 }
    }
}

impl RerankOptions {
    /// Checks the settings.
    ///
    /// # Errors
    /// `Usage` for an impossible value.
    pub fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Usage(format!("re-ranking: {text}")));
        match self {
            RerankOptions { k1: 0, .. } => wrong("k1 must be 1 or more".to_string()),
            RerankOptions { k2: 0, .. } => wrong("k2 must be 1 or more (1: no expansion)".to_string()),
            RerankOptions { lambda, .. } if !(0.0..=1.0).contains(lambda) => {
                wrong(format!("λ must be from 0 to 1, not {lambda}"))
            }
            _ => Ok(()),
        }
    }

    /// Neighbours of a candidate that must be mutual.
    fn half(&self) -> usize {
        (self.k1 as f64 / 2.0).round_ties_even() as usize
    }
}

/// Rows of a sparse matrix: nonzero values as (column, value), by ascending column.
pub(super) type Sparse = Vec<Vec<(u32, f64)>>;

/// Re-ranked distances from queries, the first images of a list, to the gallery, its last images.
pub struct Reranked<'d> {
    /// From every image to every image.
    distances: &'d mut dyn DistanceRows,
    encoding: Encoding,
}

/// The data of re-ranking without the original distances.
pub struct Encoding {
    queries: usize,
    /// Index of the first gallery image.
    gallery: usize,
    lambda: f64,
    /// Largest distance of each query.
    largest: Vec<f32>,
    /// The queries' rows of V.
    encoded: Sparse,
    /// The gallery's columns of V: for each image, (gallery row, value).
    inverted: Sparse,
}

impl<'d> Reranked<'d> {
    /// Finds the neighbours of all images and encodes them.
    ///
    /// `distances` are those from all images of a list to all. The first `queries` images are the queries. The gallery
    /// starts at image `gallery`: after the queries, or at 0 if every image is both. `stage` advances by twice the
    /// number of images.
    ///
    /// # Errors
    /// `Usage` for impossible options; errors of the distances; `Interrupted`.
    ///
    /// # Panics
    /// If the distances are not square or too few.
    pub fn new(
        distances: &'d mut dyn DistanceRows,
        queries: usize,
        gallery: usize,
        options: RerankOptions,
        stage: &Stage<'_>,
    ) -> Result<Reranked<'d>> {
        options.check()?;
        let all = distances.queries();
        assert_eq!(all, distances.gallery(), "re-ranking needs the distances from all images to all");
        assert!(queries <= all && gallery <= all, "{queries} queries, gallery from {gallery}: {all} images");

        let neighbourhood =
            Neighbourhood { k: options.k1, half: options.half(), k2: options.k2, scale_by_largest: true };
        let (mut encoded, largest) = neighbourhood.encode(distances, None, stage)?;
        let inverted = columns(&encoded[gallery..], all);
        encoded.truncate(queries);
        let encoding = Encoding { queries, gallery, lambda: options.lambda, largest, encoded, inverted };
        Ok(Reranked { distances, encoding })
    }

    /// Returns the encoding, for callers that have the original distances.
    pub fn into_encoding(self) -> Encoding {
        self.encoding
    }
}

impl Encoding {
    /// Re-ranked distances (G) of one query, from its original distances to all images (N).
    pub fn row(&self, query: usize, original: &[f32]) -> Vec<f64> {
        let mut shared = vec![0.0; original.len() - self.gallery];
        for &(column, own) in &self.encoded[query] {
            for &(row, theirs) in &self.inverted[column as usize] {
                shared[row as usize] += own.min(theirs);
            }
        }
        // Each row of V sums to 1, so the union of two is 2 - their intersection.
        for (value, &distance) in shared.iter_mut().zip(&original[self.gallery..]) {
            let jaccard = 1.0 - *value / (2.0 - *value);
            *value = jaccard * (1.0 - self.lambda) + normalised(distance, self.largest[query]) * self.lambda;
        }
        shared
    }
}

impl DistanceRows for Reranked<'_> {
    fn queries(&self) -> usize {
        self.encoding.queries
    }

    fn gallery(&self) -> usize {
        self.distances.gallery() - self.encoding.gallery
    }

    fn step(&self) -> usize {
        self.distances.step()
    }

    fn rows(&mut self, queries: Range<usize>) -> Result<Vec<f32>> {
        let all = self.distances.gallery();
        let original = self.distances.rows(queries.clone())?;
        let encoding = &self.encoding;
        let rows = queries.into_par_iter().zip(original.par_chunks(all));
        Ok(rows
            .flat_map_iter(|(query, row)| encoding.row(query, row).into_iter().map(|value| value as f32))
            .collect())
    }
}

/// A distance divided by the largest of its row; 0 if all are 0.
fn normalised(distance: f32, largest: f32) -> f64 {
    if largest > 0.0 { f64::from(distance) / f64::from(largest) } else { 0.0 }
}

/// Settings of the encoding of neighbours as rows of V.
pub(super) struct Neighbourhood {
    /// Neighbours that must be mutual, without the image itself.
    pub k: usize,
    /// The same for the neighbours of a neighbour.
    pub half: usize,
    /// Images whose rows of V are averaged, with the image itself.
    pub k2: usize,
    /// True if the distances in the weights are divided by the largest of each image.
    pub scale_by_largest: bool,
}

impl Neighbourhood {
    /// Encodes every image of a list, from the distances of all to all. Returns V and the largest distance of each
    /// image. Each of several ranks computes the distances of some images; `stage` advances by twice their number.
    pub fn encode(
        &self,
        distances: &mut dyn DistanceRows,
        ranks: Option<&Ranks>,
        stage: &Stage<'_>,
    ) -> Result<(Sparse, Vec<f32>)> {
        let all = distances.gallery();
        let own = ranks.map_or(0..all, |ranks| piece(all, ranks.rank(), ranks.size()));
        let count = (self.k + 1).max(self.k2);
        let found = Ranks::agree(ranks, Nearest::find(distances, own.clone(), count, stage))?;
        let Nearest { rows: nearest, largest } = match ranks {
            Some(ranks) => found.gathered(ranks)?,
            None => found,
        };
        let expanded: Vec<Vec<u32>> = own
            .clone()
            .into_par_iter()
            .map(|image| expanded_neighbours(&nearest, image, self.k, self.half))
            .collect();
        let mut encoded: Sparse = Vec::with_capacity(own.len());
        let visited = visit_some(distances, own.clone(), |range, rows| {
            stage.advance(range.len())?;
            let encode = |(image, row): (usize, &[f32])| {
                let divisor = if self.scale_by_largest { largest[image] } else { 1.0 };
                weights(&expanded[image - own.start], row, divisor)
            };
            encoded.par_extend(range.into_par_iter().zip(rows.par_chunks(all)).map(encode));
            Ok(())
        });
        Ranks::agree(ranks, visited)?;
        drop(expanded);
        if let Some(ranks) = ranks {
            encoded = gathered(&encoded, ranks)?;
        }
        Ok((if self.k2 > 1 { averaged(&encoded, &nearest, self.k2) } else { encoded }, largest))
    }
}

/// Collects the rows of V of all ranks.
fn gathered(own: &Sparse, ranks: &Ranks) -> Result<Sparse> {
    let lengths: Vec<u32> = own.iter().map(|row| row.len() as u32).collect();
    let (columns, values): (Vec<u32>, Vec<f64>) = own.iter().flatten().copied().unzip();
    let lengths = ranks.gather(&lengths)?;
    let mut entries = ranks.gather(&columns)?.into_iter().zip(ranks.gather(&values)?);
    Ok(lengths.into_iter().map(|length| entries.by_ref().take(length as usize).collect()).collect())
}

/// The `count` columns of V: for each image, (row, value).
pub(super) fn columns(encoded: &[Vec<(u32, f64)>], count: usize) -> Sparse {
    let mut columns: Sparse = vec![Vec::new(); count];
    for (row, image) in encoded.iter().enumerate() {
        for &(column, value) in image {
            columns[column as usize].push((row as u32, value));
        }
    }
    columns
}

/// The nearest images of every image.
struct Nearest {
    /// For each image, nearest first. They include the image itself, unless others too are at distance 0.
    rows: Vec<Vec<u32>>,
    /// Largest distance of each image.
    largest: Vec<f32>,
}

impl Nearest {
    /// Finds the `count` nearest images of each of some images.
    fn find(
        distances: &mut dyn DistanceRows,
        some: Range<usize>,
        count: usize,
        stage: &Stage<'_>,
    ) -> Result<Nearest> {
        let all = distances.gallery();
        let count = count.min(all);
        let mut found = Vec::with_capacity(some.len());
        visit_some(distances, some, |range, rows| {
            stage.advance(range.len())?;
            found.par_extend(rows.par_chunks(all).map(|row| {
                let mut order: Vec<(f32, usize)> = row.iter().copied().zip(0..).collect();
                if count < all {
                    order.select_nth_unstable_by(count, |&a, &b| nearer(a, b));
                }
                order.truncate(count);
                order.sort_unstable_by(|&a, &b| nearer(a, b));
                let largest = row.iter().fold(0.0, |most: f32, &distance| most.max(distance));
                (order.into_iter().map(|(_, image)| image as u32).collect(), largest)
            }));
            Ok(())
        })?;
        let (rows, largest) = found.into_iter().unzip();
        Ok(Nearest { rows, largest })
    }

    /// Collects those that each rank found.
    fn gathered(self, ranks: &Ranks) -> Result<Nearest> {
        let rows = ranks.gather(&self.rows.concat())?;
        let largest = ranks.gather(&self.largest)?;
        let count = rows.len() / largest.len().max(1);
        Ok(Nearest { rows: rows.chunks(count.max(1)).map(<[u32]>::to_vec).collect(), largest })
    }
}

/// The k + 1 nearest of an image that have it among their own k + 1 nearest (the paper's equation 3).
fn reciprocal(nearest: &[Vec<u32>], image: usize, k: usize) -> Vec<u32> {
    let first = |row: usize| nearest[row].iter().take(k + 1);
    first(image).copied().filter(|&other| first(other as usize).any(|&back| back as usize == image)).collect()
}

/// An image's reciprocal neighbours, joined by those of each neighbour that shares enough (equation 4); ascending.
fn expanded_neighbours(nearest: &[Vec<u32>], image: usize, k: usize, half: usize) -> Vec<u32> {
    let mutual = reciprocal(nearest, image, k);
    let mut expanded = mutual.clone();
    for &candidate in &mutual {
        let theirs = reciprocal(nearest, candidate as usize, half);
        let shared = theirs.iter().filter(|other| mutual.contains(other)).count();
        if shared as f64 > SHARED * theirs.len() as f64 {
            expanded.extend(theirs);
        }
    }
    expanded.sort_unstable();
    expanded.dedup();
    expanded
}

/// A row of V: exp(-distance) of the neighbours, divided by their sum (equation 7).
fn weights(neighbours: &[u32], distances: &[f32], largest: f32) -> Vec<(u32, f64)> {
    let weight = |&other: &u32| (other, (-normalised(distances[other as usize], largest)).exp());
    let mut row: Vec<(u32, f64)> = neighbours.iter().map(weight).collect();
    let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
    row.iter_mut().for_each(|(_, weight)| *weight /= sum);
    row
}

/// Replaces each row of V by the mean of the rows of the image's `k2` nearest (equation 11).
fn averaged(encoded: &Sparse, nearest: &[Vec<u32>], k2: usize) -> Sparse {
    let mean = |(sums, touched): &mut (Vec<f64>, Vec<u32>), near: &Vec<u32>| {
        let count = near.len().min(k2);
        for &image in &near[..count] {
            for &(column, value) in &encoded[image as usize] {
                // Weights are positive, so a sum of 0 is untouched.
                if sums[column as usize] == 0.0 {
                    touched.push(column);
                }
                sums[column as usize] += value;
            }
        }
        touched.sort_unstable();
        let take = |column: u32| (column, std::mem::take(&mut sums[column as usize]) / count as f64);
        touched.drain(..).map(take).collect()
    };
    nearest.par_iter().map_init(|| (vec![0.0; encoded.len()], Vec::new()), mean).collect()
}
