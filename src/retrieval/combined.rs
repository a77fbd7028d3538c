//! Weighted sums of embeddings: means of tracklets, and query expansion.
//!
//! Source of query expansion: Radenović et al. 2019, "Fine-tuning CNN Image Retrieval with No Human Annotation",
//! section 3.4 (α-QE). With α = 0 it is the average query expansion of Chum et al. 2007.

use super::neighbours::Neighbours;
use crate::embeddings::rows::{Rows, Stacked};
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::kernels::topk::MAX_K;
use crate::observer::Stage;
use serde::{Deserialize, Serialize};
use std::ops::{Deref, Range};

/// A matrix whose row i is Σⱼ wⱼ·xⱼ/|xⱼ| over rows xⱼ of another matrix, divided by its length. Sums are in f64. A row
/// of zeros adds nothing, and a sum of zeros stays zero.
pub struct Combined<R> {
    rows: R,
    /// For each row, the rows xⱼ with their weights wⱼ.
    terms: Vec<Vec<(usize, f64)>>,
}

impl<R: Deref<Target: Rows> + Send + Sync> Combined<R> {
    /// Combines rows.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn new(rows: R, terms: Vec<Vec<(usize, f64)>>) -> Self {
        let last = terms.iter().flatten().map(|&(row, _)| row).max();
        assert!(last.is_none_or(|last| last < rows.len()), "row {last:?} of {}", rows.len());
        Combined { rows, terms }
    }
}

impl<R: Deref<Target: Rows> + Send + Sync> Rows for Combined<R> {
    fn len(&self) -> usize {
        self.terms.len()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let dim = self.dim();
        assert_eq!(out.len(), rows.len() * dim, "room for rows {rows:?}");
        for (terms, out) in self.terms[rows].iter().zip(out.chunks_mut(dim.max(1))) {
            let mut sum = vec![0.0; dim];
            for &(row, weight) in terms {
                let unit = unit_row(&*self.rows, row)?;
                sum.iter_mut().zip(unit).for_each(|(sum, value)| *sum += weight * value);
            }
            normalise(&mut sum);
            out.iter_mut().zip(sum).for_each(|(out, value)| *out = value as f32);
        }
        Ok(())
    }

    fn name(&self, row: usize) -> Option<String> {
        self.rows.name(self.terms.get(row)?.first()?.0)
    }
}

/// A row divided by its length.
fn unit_row(rows: &(impl Rows + ?Sized), row: usize) -> Result<Vec<f64>> {
    let mut values = vec![0.0; rows.dim()];
    rows.read(row..row + 1, &mut values)?;
    let mut unit: Vec<f64> = values.into_iter().map(f64::from).collect();
    normalise(&mut unit);
    Ok(unit)
}

/// Divides a vector by its length, unless that is 0.
fn normalise(vector: &mut [f64]) {
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
}

/// Embeddings that take part in query expansion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpandOver {
    /// Each query is joined by its nearest gallery images; the gallery stays as it is.
    #[default]
    Gallery,
    /// Queries and gallery images are joined by their nearest among both.
    All,
}

/// Settings of query expansion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpansionOptions {
    /// Number of embeddings in a sum, with the image's own.
    pub k: usize,
    /// Exponent α of the cosine similarity; 0 weighs all alike.
    pub alpha: f64,
    /// Embeddings that take part.
    pub over: ExpandOver,
}

impl Default for ExpansionOptions {
    fn default() -> ExpansionOptions {
        ExpansionOptions { k: 5, alpha: 3.0, over: ExpandOver::Gallery }
    }
}

impl ExpansionOptions {
    /// Checks the settings.
    ///
    /// # Errors
    /// `Usage` for an impossible value.
    pub fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Usage(format!("query expansion: {text}")));
        match self {
            // One more is searched for, as an image can be its own neighbour.
            ExpansionOptions { k, .. } if !(1..MAX_K).contains(k) => {
                wrong(format!("k must be from 1 to {}, not {k}", MAX_K - 1))
            }
            ExpansionOptions { alpha, .. } if !(alpha.is_finite() && *alpha >= 0.0) => {
                wrong(format!("α must be 0 or more, not {alpha}"))
            }
            _ => Ok(()),
        }
    }
}

/// The terms of [`Combined`] rows that expand embeddings: row i of `queries` is joined by the k - 1 rows of `gallery`
/// at the smallest Euclidean distance, with weights max(cos, 0)^α; its own weight is 1.
///
/// Rows are counted in a stack whose first rows are the queries; `gallery` begins at row `first` of it. `first` is 0 if
/// row i of the gallery is query i, which then is no neighbour of itself.
///
/// # Errors
/// `Usage` for impossible options; errors of the rows and of the adapter; `Interrupted`.
pub fn expansion(
    context: &Context,
    queries: &dyn Rows,
    gallery: &dyn Rows,
    first: usize,
    options: ExpansionOptions,
    memory: u64,
    stage: &Stage<'_>,
) -> Result<Vec<Vec<(usize, f64)>>> {
    options.check()?;
    let others = options.k - 1;
    let weight = |own: &[f64], row: usize| -> Result<(usize, f64)> {
        let cosine: f64 = own.iter().zip(unit_row(gallery, row)?).map(|(a, b)| a * b).sum();
        Ok((first + row, cosine.max(0.0).powf(options.alpha)))
    };
    let mut terms = Vec::with_capacity(queries.len());
    let mut neighbours = Neighbours::new(context, queries, gallery, memory)?;
    let step = neighbours.tiles().queries;
    for start in (0..queries.len()).step_by(step) {
        let range = start..(start + step).min(queries.len());
        let nearest = neighbours.nearest(range.clone(), options.k)?;
        for (query, near) in range.clone().zip(nearest) {
            let own = unit_row(queries, query)?;
            let near = near.iter().map(|near| near.index).filter(|&row| first > 0 || row != query);
            let joined: Result<Vec<(usize, f64)>> = near.take(others).map(|row| weight(&own, row)).collect();
            terms.push([vec![(query, 1.0)], joined?].concat());
        }
        stage.advance(range.len())?;
    }
    Ok(terms)
}

/// Expanded queries, and the gallery to compare them with.
pub struct Expanded<'a> {
    /// The queries.
    pub queries: Combined<&'a Stacked<'a>>,
    /// The gallery; `None` if it stays as it is.
    pub gallery: Option<Combined<&'a Stacked<'a>>>,
}

impl<'a> Expanded<'a> {
    /// Expands queries. `all` stacks them on the gallery, or is the queries alone if they are the gallery too (`None`).
    /// Advances `stage` by the number of rows that are expanded.
    ///
    /// # Errors
    /// Those of [`expansion`].
    pub fn new(
        context: &Context,
        all: &'a Stacked<'a>,
        (queries, gallery): (&dyn Rows, Option<&dyn Rows>),
        options: ExpansionOptions,
        memory: u64,
        stage: &Stage<'_>,
    ) -> Result<Expanded<'a>> {
        let (among, first) = gallery.map_or((queries, 0), |gallery| (gallery, queries.len()));
        if options.over == ExpandOver::Gallery {
            let terms = expansion(context, queries, among, first, options, memory, stage)?;
            return Ok(Expanded { queries: Combined::new(all, terms), gallery: None });
        }
        let terms = expansion(context, all, all, 0, options, memory, stage)?;
        let asked = terms[..queries.len()].to_vec();
        let shown = terms[first..].to_vec();
        Ok(Expanded { queries: Combined::new(all, asked), gallery: Some(Combined::new(all, shown)) })
    }
}
