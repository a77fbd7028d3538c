//! Principal components of a gallery.
//!
//! Two methods read the rows in blocks and compute in f64, independent of the number of threads:
//! - up to [`MAX_COVARIANCE`] dimensions, the eigenvectors of the covariance: D² values in memory, three passes over
//!   the rows;
//! - above, subspace iteration until the variance found stops growing (Halko, Martinsson and Tropp 2011, algorithm
//!   4.4): 3·D·L values in memory with L = 5/4·K + 16, and 4·N·D·L operations in each of about ten passes.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par, Side};
use rayon::prelude::*;

use super::{About, BLOCK, FORMAT, Projection, called};
use crate::embeddings::rows::{Rows, Selected};
use crate::error::{Error, Result};
use crate::observer::{Observer, Stage};
use crate::rng;
use crate::storage::entry::Entry;

/// Most dimensions for which the whole covariance is computed.
pub const MAX_COVARIANCE: usize = 2048;
/// Default number of rows to fit on: far more than the number of components.
pub const FIT_ROWS: usize = 20_000;

/// Columns of a matrix that one task works on.
const PANEL: usize = 64;
/// Most passes of the subspace iteration.
const MAX_PASSES: usize = 20;
/// Share of the total variance that a pass must gain for another pass to follow.
const ENOUGH: f64 = 1e-5;
/// Stream of random numbers for the start of the subspace iteration.
const STREAM: u64 = 0x5ca1e;

/// Options of a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitOptions {
    /// Dimensions K to reduce to.
    pub dim: usize,
    /// Most rows to fit on, evenly spaced.
    pub rows: usize,
    /// Seed of the subspace iteration.
    pub seed: u64,
}

impl Projection {
    /// Fits the components to a gallery. `settings` is the `lat_wgpu` entry of its metadata. Polls for a signal between
    /// blocks.
    ///
    /// # Errors
    /// `Usage` if K is 0, or larger than D or the number of rows; `Data` if a value isn't finite or all rows are the
    /// same;
    /// errors of the rows; `Interrupted`.
    pub fn fit(
        rows: &dyn Rows,
        settings: Option<&Entry>,
        options: FitOptions,
        observer: &dyn Observer,
    ) -> Result<Projection> {
        let count = rows.len().min(options.rows);
        let (dim, most) = (options.dim, rows.dim().min(count));
        if dim == 0 || dim > most {
            return Err(Error::Usage(format!(
                "{count} rows of {} dimensions can be reduced to 1 to {most} dimensions, not to {dim}",
                rows.dim()
            )));
        }
        let chosen = (0..count).map(|i| (i as u128 * rows.len() as u128 / count as u128) as usize).collect();
        // Parallel sums in faer would depend on the number of threads.
        faer::set_global_parallelism(Par::Seq);
        let stage = Stage::new(observer, "principal components", 0, "nothing was written");
        let mut sample = Sample { rows: Selected::new(rows, chosen), mean: vec![0.0; rows.dim()], stage };
        let total_variance = sample.find_mean()?;
        if total_variance <= 0.0 {
            return Err(Error::Data(format!("all {count} rows are the same: there are no directions")));
        }
        let (components, variances, method) = if rows.dim() <= MAX_COVARIANCE {
            let (components, variances) = sample.by_covariance(dim)?;
            (components, variances, "covariance".to_string())
        } else {
            let (components, variances, passes) = sample.by_iteration(dim, total_variance, options.seed)?;
            (components, variances, format!("subspace iteration, {passes} passes"))
        };
        if let Some(at) = variances.iter().position(|&v| !(v as f32).is_finite()) {
            let farthest = sample.farthest()?;
            return Err(Error::Data(format!(
                "the variance along component {at} is not finite in f32; {} is the farthest from the mean",
                sample.called(farthest)
            )));
        }
        let about = About {
            format: FORMAT,
            rows: count,
            total_variance,
            method,
            settings: settings.map(|settings| settings.value().clone()),
            weights_sha256: None,
        };
        let mean = sample.mean.iter().map(|&v| v as f32).collect();
        let variances = variances.into_iter().map(|v| v as f32).collect();
        Ok(Projection::new(mean, rows_of(&components), variances, about))
    }
}

/// Columns (D, K) as rows (K, D), each with the sign that makes its largest value positive.
fn rows_of(columns: &Mat<f64>) -> Vec<f32> {
    let mut rows = Vec::with_capacity(columns.nrows() * columns.ncols());
    for column in (0..columns.ncols()).map(|k| columns.col_as_slice(k)) {
        let largest =
            column.iter().fold(0.0f64, |largest, v| if v.abs() > largest.abs() { *v } else { largest });
        rows.extend(column.iter().map(|v| (v * largest.signum()) as f32));
    }
    rows
}

/// Rows that a projection is fitted on.
struct Sample<'a> {
    rows: Selected<'a>,
    /// (D).
    mean: Vec<f64>,
    stage: Stage<'a>,
}

impl Sample<'_> {
    /// Calls `each` with all centred rows (rows, D), a block at a time.
    fn visit(&mut self, mut each: impl FnMut(Range<usize>, &[f64]) -> Result<()>) -> Result<()> {
        let (count, dim) = (self.rows.len(), self.rows.dim());
        let step = (BLOCK / (dim * size_of::<f64>())).clamp(1, count);
        let mut read = Vec::new();
        let mut centred = Vec::new();
        for start in (0..count).step_by(step) {
            self.stage.advance(0)?;
            let range = start..(start + step).min(count);
            read.resize(range.len() * dim, 0.0f32);
            self.rows.read(range.clone(), &mut read)?;
            centred.clear();
            for row in read.chunks(dim) {
                centred.extend(row.iter().zip(&self.mean).map(|(&v, mean)| f64::from(v) - mean));
            }
            each(range, &centred)?;
        }
        Ok(())
    }

    /// Finds the mean, and returns the total variance.
    fn find_mean(&mut self) -> Result<f64> {
        let (count, dim) = (self.rows.len() as f64, self.rows.dim());
        let mut sum = vec![0.0; dim];
        let mut bad = None;
        self.visit(|range, rows| {
            for (at, row) in rows.chunks(dim).enumerate() {
                if bad.is_none() && row.iter().any(|v| !v.is_finite()) {
                    bad = Some(range.start + at);
                }
                sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            }
            Ok(())
        })?;
        if let Some(bad) = bad {
            return Err(Error::Data(format!("{} holds a value that isn't finite", self.called(bad))));
        }
        self.mean = sum.into_iter().map(|sum| sum / count).collect();
        let mut squares = 0.0;
        self.visit(|_, rows| {
            squares += rows.iter().map(|v| v * v).sum::<f64>();
            Ok(())
        })?;
        Ok(squares / count)
    }

    /// Names one of its rows in messages.
    fn called(&self, row: usize) -> String {
        called(self.rows.whole(), self.rows.row(row))
    }

    /// The row that is farthest from the mean.
    fn farthest(&mut self) -> Result<usize> {
        let (dim, mut most, mut farthest) = (self.rows.dim(), -1.0, 0);
        self.visit(|range, rows| {
            for (at, row) in rows.chunks(dim).enumerate() {
                let distance = row.iter().map(|v| v * v).sum::<f64>();
                if distance > most {
                    (most, farthest) = (distance, range.start + at);
                }
            }
            Ok(())
        })?;
        Ok(farthest)
    }

    /// Components (D, K) and their variances, as eigenvectors of the covariance.
    fn by_covariance(&mut self, dim: usize) -> Result<(Mat<f64>, Vec<f64>)> {
        let (count, full) = (self.rows.len() as f64, self.rows.dim());
        let mut covariance = Mat::<f64>::zeros(full, full);
        self.visit(|range, rows| {
            let rows = MatRef::from_row_major_slice(rows, range.len(), full);
            covariance.par_col_chunks_mut(PANEL).enumerate().for_each(|(i, panel)| {
                let columns = rows.subcols(i * PANEL, panel.ncols());
                matmul(panel, Accum::Add, rows.transpose(), columns, 1.0 / count, Par::Seq);
            });
            Ok(())
        })?;
        let (vectors, variances) = eigenvectors(&covariance)?;
        Ok((leading_columns(&vectors, dim), variances[..dim].to_vec()))
    }

    /// The same by subspace iteration, with the number of passes.
    fn by_iteration(&mut self, dim: usize, total: f64, seed: u64) -> Result<(Mat<f64>, Vec<f64>, usize)> {
        let (count, full) = (self.rows.len(), self.rows.dim());
        let wide = (dim + dim / 4 + 16).min(full).min(count);
        let random = |i: usize, j: usize| f64::from(rng::uniform(seed, STREAM, (i * wide + j) as u64)) - 0.5;
        let mut basis = Mat::from_fn(full, wide, random).qr().compute_thin_Q();
        let mut before = 0.0;
        for pass in 1.. {
            // The covariance times the basis (D, L).
            let mut image = Mat::<f64>::zeros(full, wide);
            self.visit(|range, rows| {
                let rows = MatRef::from_row_major_slice(rows, range.len(), full);
                image.par_col_chunks_mut(PANEL).enumerate().for_each(|(i, panel)| {
                    let part = basis.as_ref().subcols(i * PANEL, panel.ncols());
                    let mut product = Mat::<f64>::zeros(rows.nrows(), panel.ncols());
                    matmul(&mut product, Accum::Replace, rows, part, 1.0, Par::Seq);
                    matmul(panel, Accum::Add, rows.transpose(), &product, 1.0 / count as f64, Par::Seq);
                });
                Ok(())
            })?;
            let inside = basis.transpose() * &image;
            let (vectors, variances) = eigenvectors(&inside)?;
            let found: f64 = variances[..dim].iter().sum();
            if found - before < ENOUGH * total || pass == MAX_PASSES {
                let components = &basis * leading_columns(&vectors, dim);
                return Ok((components, variances[..dim].iter().map(|v| v.max(0.0)).collect(), pass));
            }
            before = found;
            basis = image.qr().compute_thin_Q();
        }
        unreachable!("the last pass returns")
    }
}

/// Eigenvectors of a symmetric matrix as columns, and its eigenvalues in descending order.
fn eigenvectors(matrix: &Mat<f64>) -> Result<(Mat<f64>, Vec<f64>)> {
    let solved = matrix.self_adjoint_eigen(Side::Lower);
    let solved = solved
        .map_err(|e| Error::Data(format!("the gallery's principal components can't be found: {e:?}")))?;
    let (vectors, values) = (solved.U(), solved.S().column_vector());
    let count = vectors.ncols();
    let columns = Mat::from_fn(vectors.nrows(), count, |i, j| vectors[(i, count - 1 - j)]);
    Ok((columns, (0..count).map(|j| values[count - 1 - j]).collect()))
}

fn leading_columns(matrix: &Mat<f64>, count: usize) -> Mat<f64> {
    matrix.subcols(0, count).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::embeddings::Embeddings;

    /// `count` rows around a random point, in a random subspace of `rank` directions with halving spreads.
    fn cloud(count: usize, full: usize, rank: usize, noise: f32) -> Embeddings {
        let random = |stream: u64, i: usize| rng::uniform(3, stream, i as u64) - 0.5;
        let mut rows = vec![0.0; count * full];
        for (n, row) in rows.chunks_mut(full).enumerate() {
            for r in 0..rank {
                let along = random(1, n * rank + r) / (1 << r) as f32;
                row.iter_mut().enumerate().for_each(|(i, v)| *v += along * random(2, r * full + i));
            }
            row.iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v += random(5, i) + noise * random(6, n * full + i));
        }
        Embeddings { paths: Vec::new(), dim: full, rows }
    }

    fn fit(rows: &dyn Rows, dim: usize) -> Projection {
        let options = FitOptions { dim, rows: usize::MAX, seed: 1 };
        Projection::fit(rows, None, options, &()).unwrap()
    }

    fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }

    /// Both methods, on rows in a subspace of as many directions as are kept.
    #[test]
    fn projection_keeps_a_subspace() {
        for (full, method) in [(40, "covariance"), (MAX_COVARIANCE + 10, "subspace iteration")] {
            let (count, rank) = (60, 4);
            let cloud = cloud(count, full, rank, 0.0);
            let projection = fit(&cloud, rank);
            assert!(projection.method().starts_with(method), "{}", projection.method());
            assert_eq!((projection.dim(), projection.full_dim(), projection.rows()), (rank, full, count));
            assert!((projection.explained(rank) - 1.0).abs() < 1e-6, "{}", projection.explained(rank));
            let reduced = projection.apply(&cloud.rows);
            assert_eq!(reduced.len(), count * rank);
            for (row, y) in cloud.rows.chunks(full).zip(reduced.chunks(rank)) {
                // x = μ + Cᵀy.
                for (i, value) in row.iter().enumerate() {
                    let along: f32 = (0..rank).map(|k| y[k] * projection.components[k * full + i]).sum();
                    let back = projection.mean[i] + along;
                    assert!((back - value).abs() < 1e-5, "{method}: {back} for {value}");
                }
            }
            for a in 0..5 {
                for b in 0..5 {
                    let whole =
                        squared_distance(&cloud.rows[a * full..][..full], &cloud.rows[b * full..][..full]);
                    let short = squared_distance(&reduced[a * rank..][..rank], &reduced[b * rank..][..rank]);
                    assert!((whole - short).abs() < 1e-5 * whole.max(1.0), "{whole} and {short}");
                }
            }
        }
    }

    #[test]
    fn components_are_orthonormal_ordered_and_repeatable() {
        for full in [30, MAX_COVARIANCE + 1] {
            let (count, dim) = (50, 6);
            let cloud = cloud(count, full, 9, 0.01);
            let projection = fit(&cloud, dim);
            for a in 0..dim {
                let row = |k: usize| &projection.components[k * full..][..full];
                for b in 0..dim {
                    let product: f64 =
                        row(a).iter().zip(row(b)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let wanted = if a == b { 1.0 } else { 0.0 };
                    assert!((product - wanted).abs() < 1e-6, "{full}: {a}·{b} = {product}");
                }
            }
            assert!(projection.variances.is_sorted_by(|a, b| a >= b), "{:?}", projection.variances);
            // The variance of a component is that of the reduced rows along it, with mean 0.
            let reduced = projection.apply(&cloud.rows);
            for k in 0..dim {
                let column: Vec<f64> = reduced.chunks(dim).map(|row| f64::from(row[k])).collect();
                let mean = column.iter().sum::<f64>() / count as f64;
                let variance = column.iter().map(|v| v * v).sum::<f64>() / count as f64;
                assert!(mean.abs() < 1e-6, "{full}: mean {mean} of {k}");
                let wanted = f64::from(projection.variances[k]);
                assert!((variance / wanted - 1.0).abs() < 1e-3, "{full}: {variance} along {k}, not {wanted}");
            }
            assert_eq!(fit(&cloud, dim), projection);
            // A row's result doesn't depend on other rows.
            let alone: Vec<f32> = cloud.rows.chunks(full).flat_map(|row| projection.apply(row)).collect();
            assert_eq!(alone, reduced);
            // Fewer components are the first ones.
            let few = projection.leading(2);
            for (row, reduced) in cloud.rows.chunks(full).zip(reduced.chunks(dim)) {
                assert_eq!(few.apply(row), reduced[..2]);
            }
            assert!((few.explained(2) - projection.explained(2)).abs() < 1e-12);
        }
    }

    /// Subspace iteration finds the variance that the covariance gives.
    #[test]
    fn both_methods_agree() {
        let full = 120;
        let cloud = cloud(400, full, 12, 0.05);
        let exact = fit(&cloud, 8);
        let mut sample = Sample {
            rows: Selected::new(&cloud, (0..400).collect()),
            mean: vec![0.0; full],
            stage: Stage::new(&(), "", 0, ""),
        };
        let total = sample.find_mean().unwrap();
        let (_, variances, passes) = sample.by_iteration(8, total, 1).unwrap();
        assert!(passes < MAX_PASSES);
        let found: f64 = variances.iter().sum::<f64>() / total;
        assert!((exact.explained(8) - found).abs() < 1e-4, "{} and {found}", exact.explained(8));
    }

    #[test]
    fn a_written_file_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let cloud = cloud(20, 12, 3, 0.1);
        let mut projection = fit(&cloud, 5);
        projection.about.settings = Some(json!({"model": {"heads": 2}}));
        let (a, b) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
        projection.write(&a).unwrap();
        projection.write(&b).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        assert_eq!(Projection::read(&a).unwrap(), projection);
        let settings = projection.settings_of_reduced(Some(Entry::new(r#"{"format":1}"#.to_string())));
        let settings = settings.value();
        assert_eq!((&settings["format"], &settings["reduction"]["dim"]), (&json!(1), &json!(5)));

        let bytes = std::fs::read(&a).unwrap();
        for cut in (0..bytes.len()).step_by(7) {
            std::fs::write(&b, &bytes[..cut]).unwrap();
            assert!(matches!(Projection::read(&b), Err(Error::Io { .. })), "cut at {cut}");
        }
        let mut bad = bytes.clone();
        let end = bad.len();
        bad[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&b, bad).unwrap();
        assert!(Projection::read(&b).is_err());
        assert!(matches!(Projection::read(&dir.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn rows_are_reduced_while_they_are_read() {
        let cloud = cloud(33, 10, 4, 0.2);
        let projection = fit(&cloud, 3);
        let reduced = Reduced::new(&cloud, &projection).unwrap();
        assert_eq!((reduced.len(), reduced.dim()), (33, 3));
        let mut out = vec![0.0; 20 * 3];
        reduced.read(5..25, &mut out).unwrap();
        assert_eq!(out, projection.apply(&cloud.rows)[15..75]);
        let narrow = Embeddings { paths: Vec::new(), dim: 2, rows: vec![0.0; 4] };
        assert!(Reduced::new(&narrow, &projection).is_err());
    }

    /// Asks to stop.
    struct Stopped;

    impl Observer for Stopped {
        fn signal(&self) -> Option<u8> {
            Some(15)
        }
    }

    #[test]
    fn fit_reports_errors() {
        let cloud = cloud(20, 12, 3, 0.1);
        let fit = |rows: &dyn Rows, dim, most| {
            let options = FitOptions { dim, rows: most, seed: 1 };
            Projection::fit(rows, None, options, &()).err().map(|e| e.to_string()).unwrap_or_default()
        };
        for (dim, most) in [(0, 20), (13, 20), (6, 5)] {
            assert!(fit(&cloud, dim, most).contains("can be reduced to"), "{dim} of {most}");
        }
        assert_eq!(fit(&cloud, 5, 5), "");
        let same = Embeddings { paths: Vec::new(), dim: 2, rows: vec![1.0; 8] };
        assert!(fit(&same, 1, 4).contains("the same"));
        let mut bad = cloud.clone();
        bad.rows[12 * 7 + 1] = f32::INFINITY;
        assert!(fit(&bad, 2, 20).contains("row 7 "));
        let options = FitOptions { dim: 2, rows: 20, seed: 1 };
        let stop = Projection::fit(&cloud, None, options, &Stopped);
        assert!(matches!(stop, Err(Error::Interrupted { .. })));
    }
}
