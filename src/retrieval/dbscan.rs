//! Density-based clustering of images, and the choice of its radius.
//!
//! Source: Ester et al. 1996, "A Density-Based Algorithm for Discovering Clusters" (DBSCAN). An image with `min_samples`
//! or more images within `eps`, itself included, is a core image. Core images within `eps` of each other are in one
//! cluster, with all images within `eps` of one of them. Other images are outliers.

use super::jaccard::{Jaccard, JaccardOptions};
use super::neighbours::Neighbours;
use crate::embeddings::rows::Rows;
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::observer::{Observer, Stage};
use crate::ranks::{Ranks, piece};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Radii that [`choose`] compares.
pub const RADII: [f64; 8] = [0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65];

/// Share of the images above which a cluster is suspicious.
const SUSPICIOUS_SHARE: f64 = 0.1;
/// Images up to which no cluster is suspicious.
const INCONSPICUOUS: usize = 64;

/// The largest distance within a cluster, from 0 to below 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Radius {
    /// The best of [`RADII`], see [`choose`].
    Auto,
    /// This distance.
    Fixed(f64),
}

impl FromStr for Radius {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Radius, String> {
        if text == "auto" {
            return Ok(Radius::Auto);
        }
        let radius = text.parse().ok().filter(|radius| (0.0..1.0).contains(radius));
        radius
            .map(Radius::Fixed)
            .ok_or_else(|| format!("expected auto or a number from 0 to below 1, found {text}"))
    }
}

impl fmt::Display for Radius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Radius::Auto => f.write_str("auto"),
            Radius::Fixed(radius) => radius.fmt(f),
        }
    }
}

impl TryFrom<String> for Radius {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Radius, String> {
        text.parse()
    }
}

impl From<Radius> for String {
    fn from(radius: Radius) -> String {
        radius.to_string()
    }
}

/// Images in clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    /// Cluster of each image, numbered from 0 in the order of their first core images; `None` for outliers.
    pub labels: Vec<Option<u32>>,
    /// Number of clusters.
    pub count: usize,
}

impl Clusters {
    /// Number of images in each cluster.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.count];
        self.labels.iter().flatten().for_each(|&label| sizes[label as usize] += 1);
        sizes
    }

    /// Share of the images that are no outliers.
    pub fn share(&self) -> f64 {
        self.labels.iter().flatten().count() as f64 / self.labels.len().max(1) as f64
    }

    /// Number of images in no cluster.
    pub fn outliers(&self) -> usize {
        self.labels.iter().filter(|label| label.is_none()).count()
    }

    /// Sizes of the clusters that are too large for one person: above 64 images, and above a tenth of all.
    pub fn suspicious(&self) -> Vec<usize> {
        let most = INCONSPICUOUS.max((SUSPICIOUS_SHARE * self.labels.len() as f64) as usize);
        self.sizes().into_iter().filter(|&size| size > most).collect()
    }
}

/// Settings of a clustering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterOptions {
    /// Neighbours that the distances are made of.
    pub jaccard: JaccardOptions,
    /// Radius.
    pub radius: Radius,
    /// Images within the radius of a core image, itself included.
    pub min_samples: usize,
}

/// Clusters of embeddings.
pub struct Grouping {
    /// The distances.
    pub distances: Jaccard,
    /// The radius.
    pub eps: f64,
    /// The clusters, two or more.
    pub clusters: Clusters,
    /// All radii that were compared; empty if one was given.
    pub tried: Vec<Choice>,
}

/// Clusters images by the Jaccard distances of their embeddings. `outcome` describes the result if a signal stops it. Each
/// of several ranks computes some of the distances; the first one clusters, and all have its clusters.
///
/// # Errors
/// `Data` if there are fewer than two clusters; `Usage` for impossible settings; `Interrupted`; those of the adapter and
/// of the rows.
pub fn group(
    context: &Context,
    rows: &dyn Rows,
    options: &ClusterOptions,
    memory: u64,
    ranks: Option<&Ranks>,
    observer: &dyn Observer,
    outcome: &'static str,
) -> Result<Grouping> {
    let own = ranks.map_or(0..rows.len(), |ranks| piece(rows.len(), ranks.rank(), ranks.size()));
    let stage = Stage::new(observer, "clustering", 2 * own.len() + rows.len(), outcome);
    let mut neighbours = Neighbours::new(context, rows, rows, memory)?;
    let distances = Jaccard::new(&mut neighbours, options.jaccard, ranks, &stage)?;
    let Some(ranks) = ranks else {
        let (eps, clusters, tried) = clustered(&distances, options, &stage)?;
        return Ok(Grouping { distances, eps, clusters, tried });
    };
    let first = match ranks.rank() {
        0 => clustered(&distances, options, &stage).map(Some),
        _ => Ok(None),
    };
    let first = Ranks::agree(Some(ranks), first)?;
    let own = first.as_ref().map_or(Vec::new(), |(eps, clusters, _)| {
        let labels = clusters.labels.iter().map(|label| label.map_or(0, |label| u64::from(label) + 1));
        [eps.to_bits(), clusters.count as u64].into_iter().chain(labels).collect()
    });
    let sent = ranks.gather(&own)?;
    let (eps, clusters, tried) = first.unwrap_or_else(|| {
        let labels = sent[2..].iter().map(|label| label.checked_sub(1).map(|label| label as u32)).collect();
        (f64::from_bits(sent[0]), Clusters { labels, count: sent[1] as usize }, Vec::new())
    });
    Ok(Grouping { distances, eps, clusters, tried })
}

/// Clusters images by their distances. Returns the radius, the clusters, and all radii that were compared.
fn clustered(
    distances: &Jaccard,
    options: &ClusterOptions,
    stage: &Stage<'_>,
) -> Result<(f64, Clusters, Vec<Choice>)> {
    let ClusterOptions { radius, min_samples, .. } = *options;
    let Radius::Fixed(eps) = radius else {
        let tried = try_radii(distances, min_samples, stage)?;
        let Choice { eps, clusters, .. } = choose(tried.clone())?;
        return Ok((eps, clusters, tried));
    };
    let clusters = cluster(distances, eps, min_samples, stage)?;
    if clusters.count < 2 {
        return Err(Error::Data(format!(
            "eps {eps} gives {} clusters; --eps auto compares {} to {}",
            clusters.count,
            RADII[0],
            RADII[RADII.len() - 1]
        )));
    }
    Ok((eps, clusters, Vec::new()))
}

/// Clusters images by the images within `eps` of each, itself included. A border image of several clusters is in the
/// first one.
pub fn dbscan(near: &[Vec<u32>], min_samples: usize) -> Clusters {
    let is_core = |image: usize| near[image].len() >= min_samples;
    let mut labels = vec![None; near.len()];
    let mut count = 0;
    for first in 0..near.len() {
        if labels[first].is_some() || !is_core(first) {
            continue;
        }
        labels[first] = Some(count);
        let mut rest = vec![first];
        while let Some(image) = rest.pop() {
            for &other in near[image].iter().filter(|_| is_core(image)) {
                let other = other as usize;
                if labels[other].is_none() {
                    labels[other] = Some(count);
                    rest.push(other);
                }
            }
        }
        count += 1;
    }
    Clusters { labels, count: count as usize }
}

/// Clusters images by one radius.
///
/// # Errors
/// `Interrupted`.
pub fn cluster(distances: &Jaccard, eps: f64, min_samples: usize, stage: &Stage<'_>) -> Result<Clusters> {
    let near: Result<Vec<Vec<u32>>> = (0..distances.len())
        .into_par_iter()
        .map(|image| {
            stage.advance(1)?;
            let row = distances.row(image).into_iter().filter(|&(_, distance)| distance <= eps);
            Ok(row.map(|(other, _)| other).collect())
        })
        .collect();
    Ok(dbscan(&near?, min_samples))
}

/// A radius with its clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The radius.
    pub eps: f64,
    /// The clusters.
    pub clusters: Clusters,
    /// Mean silhouette of the clustered images; `None` with fewer than two clusters.
    pub silhouette: Option<f64>,
}

impl Choice {
    /// Mean silhouette times the share of clustered images, by which radii are compared.
    pub fn score(&self) -> Option<f64> {
        self.silhouette.map(|silhouette| silhouette * self.clusters.share())
    }
}

/// Clusters images by each of [`RADII`].
///
/// # Errors
/// `Interrupted`.
pub fn try_radii(distances: &Jaccard, min_samples: usize, stage: &Stage<'_>) -> Result<Vec<Choice>> {
    let most = RADII[RADII.len() - 1];
    let rows: Result<Vec<Vec<(u32, f64)>>> = (0..distances.len())
        .into_par_iter()
        .map(|image| {
            stage.advance(1)?;
            Ok(distances.row(image).into_iter().filter(|&(_, distance)| distance <= most).collect())
        })
        .collect();
    let rows = rows?;
    let clusters: Vec<Clusters> = RADII
        .par_iter()
        .map(|&eps| {
            let within = |row: &Vec<(u32, f64)>| -> Vec<u32> {
                row.iter().filter(|&&(_, distance)| distance <= eps).map(|&(other, _)| other).collect()
            };
            dbscan(&rows.iter().map(within).collect::<Vec<_>>(), min_samples)
        })
        .collect();
    drop(rows);
    let silhouettes = silhouettes(distances, &clusters);
    let choices = RADII.into_iter().zip(clusters).zip(silhouettes);
    Ok(choices.map(|((eps, clusters), silhouette)| Choice { eps, clusters, silhouette }).collect())
}

/// The radius with the largest score, the smallest of equal ones.
///
/// # Errors
/// `Data` if no radius gives two clusters.
pub fn choose(choices: Vec<Choice>) -> Result<Choice> {
    let scored = choices.into_iter().filter_map(|choice| Some((choice.score()?, choice)));
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, choice)| choice).ok_or_else(|| {
        Error::Data(
            "no radius gives two clusters: the embeddings have too few images of each person, or don't separate persons"
                .to_string(),
        )
    })
}

/// The mean silhouette of the clustered images, for each of several clusterings: (b - a)/max(a, b) with the mean
/// distance a to the other images of its cluster, and the smallest mean distance b to the images of another cluster.
fn silhouettes(distances: &Jaccard, all: &[Clusters]) -> Vec<Option<f64>> {
    let sizes: Vec<Vec<usize>> = all.iter().map(Clusters::sizes).collect();
    let of_image = |image: usize| -> Vec<f64> {
        let row = distances.row(image);
        let of = |(clusters, sizes): (&Clusters, &Vec<usize>)| silhouette(image, &row, clusters, sizes);
        all.iter().zip(&sizes).map(of).collect()
    };
    let values: Vec<Vec<f64>> = (0..distances.len()).into_par_iter().map(of_image).collect();
    let mean = |(which, clusters): (usize, &Clusters)| {
        let clustered = clusters.labels.iter().flatten().count();
        (clusters.count > 1).then(|| values.iter().map(|row| row[which]).sum::<f64>() / clustered as f64)
    };
    all.iter().enumerate().map(mean).collect()
}

/// The silhouette of an image from its distances below 1; all others are 1. 0 for outliers and without another cluster.
fn silhouette(image: usize, row: &[(u32, f64)], clusters: &Clusters, sizes: &[usize]) -> f64 {
    let Some(own) = clusters.labels[image] else { return 0.0 };
    if sizes.len() < 2 || sizes[own as usize] < 2 {
        return 0.0;
    }
    // By cluster: the sum of the distances below 1, and their number.
    let mut near: BTreeMap<u32, (f64, usize)> = BTreeMap::new();
    for &(other, distance) in row.iter().filter(|&&(other, _)| other as usize != image) {
        if let Some(label) = clusters.labels[other as usize] {
            let (sum, count) = near.entry(label).or_default();
            *sum += distance;
            *count += 1;
        }
    }
    let mean = |label: u32, images: usize| {
        let (sum, count) = near.get(&label).copied().unwrap_or_default();
        (sum + (images - count) as f64) / images as f64
    };
    let within = mean(own, sizes[own as usize] - 1);
    let others = near.keys().filter(|&&label| label != own);
    let beside = others.map(|&label| mean(label, sizes[label as usize])).fold(1.0, f64::min);
    if within.max(beside) > 0.0 { (beside - within) / within.max(beside) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers on a line, with all others within `eps`.
    fn on_a_line(points: &[f64], eps: f64) -> Vec<Vec<u32>> {
        let within =
            |a: f64| (0..points.len() as u32).filter(move |&b| (a - points[b as usize]).abs() <= eps);
        points.iter().map(|&a| within(a).collect()).collect()
    }

    #[test]
    fn dense_points_are_clusters() {
        let points = [0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 9.0];
        let clusters = dbscan(&on_a_line(&points, 0.15), 2);
        assert_eq!(clusters.labels, [Some(0), Some(0), Some(0), Some(1), Some(1), Some(1), None]);
        assert_eq!((clusters.count, clusters.sizes()), (2, vec![3, 3]));
        assert_eq!(dbscan(&on_a_line(&points, 0.15), 4).count, 0);
        assert_eq!(dbscan(&on_a_line(&points, 10.0), 7).labels, [Some(0); 7]);
        assert_eq!(dbscan(&[], 4), Clusters { labels: vec![], count: 0 });
    }

    #[test]
    fn a_border_point_is_in_the_first_cluster() {
        // The point in the middle is near a core point on both sides, and no core point itself.
        let points = [0.0, 0.1, 0.2, 1.0, 1.8, 1.9, 2.0];
        let clusters = dbscan(&on_a_line(&points, 0.8), 4);
        assert_eq!(clusters.labels, [Some(0), Some(0), Some(0), Some(0), Some(1), Some(1), Some(1)]);
    }
}
