//! Camera statistics: the mean embedding of each camera, and on request the deviation.
//!
//! ```text
//! m = (Σ x + P·m_all) / (n + P)      σ² = (Σ (x - m)² + P·σ²_all) / (n + P)
//! ```
//!
//! element by element, over the n embeddings x (R·D) of a camera, with P = [`PRIOR_IMAGES`]. So the statistics of a
//! camera with few images are near those of all images, which are the last row: m_all = 1/N·Σ x and
//! σ²_all = 1/N·Σ (x - m_all)². An embedding x by camera c becomes (x - m_c) / σ_c, and each part gets its length 1/√R
//! again.
//!
//! Sums are in f64 and in the order of the images. No deviation is below [`LEAST_DEVIATION`] of the root mean square of
//! the deviations of all images, so that no element that hardly varies dominates.

use crate::checkpoint::{HostTensor, STATISTICS, STATISTICS_DEVIATION, STATISTICS_MEAN};
use crate::shape::{CameraStatistics, VitConfig, camera_number};
use std::collections::BTreeMap;

/// Images of all cameras that the statistics of a camera count beside its own. docs/guide/own-cameras.md has the
/// measurement.
pub const PRIOR_IMAGES: f64 = 10.0;

/// Images of a camera from which its mean is accurate.
pub const ENOUGH_IMAGES: usize = 20;

/// Least deviation, relative to the root mean square of the deviations of all images.
pub const LEAST_DEVIATION: f64 = 0.1;

/// Sums over embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Sums {
    /// Number of embeddings.
    pub count: usize,
    values: Vec<f64>,
    squares: Vec<f64>,
}

impl Sums {
    /// Makes sums over no embedding of `dim` elements.
    pub fn new(dim: usize) -> Sums {
        Sums { count: 0, values: vec![0.0; dim], squares: vec![0.0; dim] }
    }

    /// Adds an embedding.
    pub fn add(&mut self, embedding: &[f32]) {
        self.count += 1;
        let sums = self.values.iter_mut().zip(&mut self.squares);
        for ((value, square), &x) in sums.zip(embedding) {
            *value += f64::from(x);
            *square += f64::from(x).powi(2);
        }
    }

    /// The mean and the variance of each element, with `weight` images of `prior` means and variances.
    fn moments(&self, weight: f64, prior: &[[f64; 2]]) -> Vec<[f64; 2]> {
        let (count, sums) = (self.count as f64, self.values.iter().zip(&self.squares));
        let moments = |((sum, square), [mean_before, variance_before]): ((&f64, &f64), &[f64; 2])| {
            let mean = (sum + weight * mean_before) / (count + weight);
            let spread = square - 2.0 * mean * sum + count * mean * mean;
            [mean, (spread.max(0.0) + weight * variance_before) / (count + weight)]
        };
        sums.zip(prior).map(moments).collect()
    }
}

/// Means and deviations (C + 1, R·D): a row for each camera, and one for all images.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// Means.
    pub mean: Vec<f32>,
    /// Deviations, each above 0.
    pub deviation: Vec<f32>,
}

impl Statistics {
    /// Computes the rows of cameras and of all images, of which there must be one.
    pub fn new(cameras: &[Sums], all: &Sums) -> Statistics {
        let dim = all.values.len();
        let of_all = all.moments(0.0, &vec![[0.0; 2]; dim]);
        let mean_variance = of_all.iter().map(|[_, variance]| variance).sum::<f64>() / dim as f64;
        // Where all embeddings are the same, there is nothing to divide.
        let least = if mean_variance > 0.0 { LEAST_DEVIATION * mean_variance.sqrt() } else { 1.0 };
        let mut moments: Vec<[f64; 2]> =
            cameras.iter().flat_map(|sums| sums.moments(PRIOR_IMAGES, &of_all)).collect();
        moments.extend(of_all);
        Statistics {
            mean: moments.iter().map(|[mean, _]| *mean as f32).collect(),
            deviation: moments.iter().map(|[_, variance]| variance.sqrt().max(least) as f32).collect(),
        }
    }
}

/// Sums over the embeddings of each camera, and of all.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraSums {
    all: Sums,
    cameras: BTreeMap<String, Sums>,
}

impl CameraSums {
    /// Makes sums over no embedding of `dim` elements.
    pub fn new(dim: usize) -> CameraSums {
        CameraSums { all: Sums::new(dim), cameras: BTreeMap::new() }
    }

    /// Adds an embedding, of a camera if it is known.
    pub fn add(&mut self, camera: Option<&str>, embedding: &[f32]) {
        self.all.add(embedding);
        if let Some(camera) = camera {
            let empty = || Sums::new(embedding.len());
            self.cameras.entry(camera.to_string()).or_insert_with(empty).add(embedding);
        }
    }

    /// Number of embeddings.
    pub fn count(&self) -> usize {
        self.all.count
    }

    /// Computes the statistics of at least one embedding. `names` are the cameras of the rows; `None` for those of the
    /// embeddings: numbers in their order, then other names.
    pub fn rows(mut self, names: Option<Vec<String>>) -> CameraRows {
        let names = names.unwrap_or_else(|| {
            let mut names: Vec<String> = self.cameras.keys().cloned().collect();
            names.sort_by_key(|name| camera_number(name).unwrap_or(u32::MAX));
            names
        });
        let empty = || Sums::new(self.all.values.len());
        let sums: Vec<Sums> =
            names.iter().map(|name| self.cameras.remove(name).unwrap_or_else(empty)).collect();
        CameraRows {
            statistics: Statistics::new(&sums, &self.all),
            images: sums.iter().chain([&self.all]).map(|sums| sums.count).collect(),
            names,
        }
    }
}

/// Statistics with the cameras of their rows.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraRows {
    /// Camera of each row but the last.
    pub names: Vec<String>,
    /// Number of images of each row.
    pub images: Vec<usize>,
    /// The rows.
    pub statistics: Statistics,
}

impl CameraRows {
    /// Stores the means in a network's tensors and settings, and the deviations if `deviation` is set, in place of those
    /// that it has. `folders` says that folders name the cameras of images. The network's distances are then new, so a
    /// threshold applies no longer.
    pub fn store(
        self,
        tensors: &mut BTreeMap<String, HostTensor>,
        config: &mut VitConfig,
        deviation: bool,
        folders: bool,
    ) -> CameraStatistics {
        let CameraRows { names: cameras, images, statistics } = self;
        tensors.retain(|name, _| !name.starts_with(STATISTICS));
        let shape = vec![images.len(), statistics.mean.len() / images.len()];
        let mut insert = |name: &str, data| {
            tensors.insert(name.to_string(), HostTensor { shape: shape.clone(), data });
        };
        insert(STATISTICS_MEAN, statistics.mean);
        if deviation {
            insert(STATISTICS_DEVIATION, statistics.deviation);
        }
        let statistics = CameraStatistics { cameras, images, deviation, folders };
        config.statistics = Some(statistics.clone());
        statistics
    }

    /// Subtracts the mean of a camera, or of all images, from an embedding of `parts` parts, and gives each part the
    /// length 1/√`parts` again.
    pub fn subtract_mean(&self, camera: Option<&str>, embedding: &mut [f32], parts: usize) {
        let row = camera.and_then(|camera| self.names.iter().position(|name| name == camera));
        let (row, dim) = (row.unwrap_or(self.names.len()), embedding.len());
        let mean = &self.statistics.mean[row * dim..][..dim];
        embedding.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
        for part in embedding.chunks_exact_mut(dim / parts) {
            let length = part.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let scale = 1.0 / (length.max(1e-12) * (parts as f64).sqrt());
            part.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(rows: &[[f32; 2]]) -> Sums {
        let mut sums = Sums::new(2);
        rows.iter().for_each(|row| sums.add(row));
        sums
    }

    #[test]
    fn a_camera_with_few_images_is_near_all_images() {
        let (own, other) = ([[1.0, 0.0], [3.0, 0.0]], [5.0, 0.0]);
        let all = sums(&[own[0], own[1], other]);
        let Statistics { mean, deviation } = Statistics::new(&[sums(&own), sums(&[])], &all);
        // The mean of all is 3, their variance 8/3.
        let first = (4.0 + 10.0 * 3.0) / 12.0;
        let variance = ((1.0f64 - first).powi(2) + (3.0 - first).powi(2) + 10.0 * 8.0 / 3.0) / 12.0;
        let least = 0.1 * (8.0f64 / 6.0).sqrt();
        let last = (8.0f64 / 3.0).sqrt();
        for (found, wanted) in [
            (mean, [first, 0.0, 3.0, 0.0, 3.0, 0.0]),
            (deviation, [variance.sqrt(), least, last, least, last, least]),
        ] {
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found}, not {wanted}");
            }
        }
    }

    #[test]
    fn equal_embeddings_are_not_divided() {
        let all = sums(&[[0.6, 0.8]; 3]);
        assert_eq!(Statistics::new(&[], &all).deviation, [1.0, 1.0]);
    }
}
