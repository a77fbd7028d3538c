//! Distances between images by the neighbours that they share, for clustering.
//!
//! Source: Zhong et al. 2017 as Cluster Contrast (Dai et al. 2022) computes it. Of an image's k1 nearest, itself included,
//! those count that have it among their own k1 nearest, and so join the neighbours of such a neighbour of which more
//! than two thirds are shared. V holds their weights exp(-d)/Σ exp(-d) for the squared Euclidean distance d, averaged
//! over the image's k2 nearest. With m = Σⱼ min(Vₐⱼ, Vᵦⱼ), the distance of images a and b is 1 - m/(2 - m). Unlike in
//! re-ranking ([`super::rerank`]), k1 counts the image itself and distances are not divided by the largest.

use super::distances::DistanceRows;
use super::rerank::{Neighbourhood, Sparse, columns};
use crate::error::{Error, Result};
use crate::observer::Stage;
use crate::ranks::Ranks;

/// Settings, named as in the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JaccardOptions {
    /// Neighbours that must be mutual, with the image itself.
    pub k1: usize,
    /// Images whose rows of V are averaged, with the image itself; 1 averages none.
    pub k2: usize,
}

impl Default for JaccardOptions {
    fn default() -> JaccardOptions {
        JaccardOptions { k1: 30, k2: 6 }
    }
}

/// Jaccard distances between all images of a list, computed row by row.
pub struct Jaccard {
    /// Rows of V.
    encoded: Sparse,
    /// Columns of V.
    columns: Sparse,
}

impl Jaccard {
    /// Encodes the images. `distances` are those from all images to all. Each of several ranks computes those of some
    /// images, and all have the same result; `stage` advances by twice their number.
    /// Memory: O(N·k1·k2) numbers.
    ///
    /// # Errors
    /// `Usage` for impossible options; errors of the distances; `Interrupted`.
    pub fn new(
        distances: &mut dyn DistanceRows,
        options: JaccardOptions,
        ranks: Option<&Ranks>,
        stage: &Stage<'_>,
    ) -> Result<Jaccard> {
        let JaccardOptions { k1, k2 } = options;
        if k1 < 2 || k2 < 1 {
            return Err(Error::Usage(format!(
                "clustering: k1 must be 2 or more and k2 1 or more, not {k1} and {k2}"
            )));
        }
        let half = (k1 as f64 / 2.0).round_ties_even() as usize;
        let neighbourhood = Neighbourhood { k: k1 - 1, half, k2, scale_by_largest: false };
        let (encoded, _) = neighbourhood.encode(distances, ranks, stage)?;
        let columns = columns(&encoded, encoded.len());
        Ok(Jaccard { encoded, columns })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// The images at a distance below 1 from an image, with the distances, ascending by image. The image itself is one
    /// of them, at 0.
    pub fn row(&self, image: usize) -> Vec<(u32, f64)> {
        let mut found: Vec<(u32, f64)> = Vec::new();
        for &(column, own) in &self.encoded[image] {
            found.extend(self.columns[column as usize].iter().map(|&(row, theirs)| (row, own.min(theirs))));
        }
        // A stable sort keeps the order of the columns, in which the smaller values are summed.
        found.sort_by_key(|&(row, _)| row);
        let mut row: Vec<(u32, f64)> = Vec::new();
        for (other, shared) in found {
            match row.last_mut() {
                Some((last, sum)) if *last == other => *sum += shared,
                _ => row.push((other, shared)),
            }
        }
        for (other, value) in &mut row {
            let distance = if *other as usize == image { 0.0 } else { 1.0 - *value / (2.0 - *value) };
            *value = distance.max(0.0);
        }
        if let Err(place) = row.binary_search_by_key(&(image as u32), |&(other, _)| other) {
            row.insert(place, (image as u32, 0.0));
        }
        row
    }
}
