//! Reduces embeddings to fewer dimensions, and measures the loss of accuracy.

use crate::datasets;
use crate::datasets::labels::Label;
use crate::embeddings::gallery::Gallery;
use crate::embeddings::provenance::{Source, check_same_weights};
use crate::embeddings::rows::{Rows, Selected};
use crate::embeddings::{Dtype, EmbeddingWriter, check_finite};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::observer::{Observer, Stage};
use crate::retrieval::distances::visit;
use crate::retrieval::metrics::{Retrieval, Rules, Scorer};
use crate::retrieval::neighbours::Neighbours;
use crate::retrieval::pca::{FitOptions, Projection, Reduced};
use crate::retry::retry;
use std::collections::BTreeMap;
use std::path::Path;

/// Most queries that are taken from the gallery.
const MAX_QUERIES: usize = 1000;
/// Rows that are reduced and written at a time.
const BLOCK_ROWS: usize = 64;

/// Writes a gallery's embeddings in fewer dimensions. Returns the number of rows.
///
/// # Errors
/// [`Error::Data`] if the projection does not fit the gallery, or a value overflows `dtype`; [`Error::Interrupted`]
/// after a signal; those of the files.
pub fn apply(
    projection: &Projection,
    gallery: &Gallery,
    out: &Path,
    dtype: Dtype,
    observer: &dyn Observer,
) -> Result<usize> {
    let reduced = Reduced::new(gallery, projection)?;
    let mut provenance = gallery.provenance();
    provenance.settings = Some(projection.settings_of_reduced(provenance.settings));
    let metadata = provenance.add_to(&BTreeMap::new());
    let (names, dim) = (gallery.names(), reduced.dim());
    let mut writer = EmbeddingWriter::create(out, dim, dtype, names, &metadata)?;
    let stage = Stage::new(observer, "", names.len(), "nothing was written");
    for start in (0..names.len()).step_by(BLOCK_ROWS) {
        stage.advance(0)?;
        let range = start..(start + BLOCK_ROWS).min(names.len());
        let mut rows = vec![0.0; range.len() * dim];
        reduced.read(range.clone(), &mut rows)?;
        for (name, row) in names[range.clone()].iter().zip(rows.chunks(dim)) {
            check_finite(name, row, dtype)?;
            writer.push(name, row)?;
        }
        stage.advance(range.len())?;
    }
    writer.finish()
}

/// Checks that a gallery and a projection come from the same weights, where the files record them. `allow` turns a
/// mismatch into notes.
///
/// # Errors
/// [`Error::Data`] for a mismatch.
pub fn check_weights(
    file: &Path,
    projection: &Projection,
    gallery: &Gallery,
    allow: bool,
) -> Result<Vec<String>> {
    let mut sources = vec![projection.source(file)];
    sources.extend(gallery.sources());
    check_same_weights(&sources, allow)
}

/// Fits a projection to a gallery.
///
/// # Errors
/// Those of [`Projection::fit`].
pub fn fit(gallery: &Gallery, options: FitOptions, observer: &dyn Observer) -> Result<Projection> {
    let provenance = gallery.provenance();
    let projection = Projection::fit(gallery, provenance.settings.as_ref(), options, observer)?;
    Ok(projection.with_weights(provenance.weights_sha256))
}

/// mAP before and after a projection.
#[derive(Debug, Clone)]
pub struct Accuracy {
    /// mAP of the whole embeddings.
    pub whole: f64,
    /// mAP for each number of dimensions.
    pub reduced: Vec<f64>,
}

/// Labelled queries that measure a projection.
pub struct LabelledQueries {
    queries: Queries,
    query_labels: Vec<Label>,
    gallery_labels: Vec<Label>,
}

enum Queries {
    /// Rows of the gallery. The protocol leaves out a query's own image, because it is by the query's camera.
    Rows(Vec<usize>),
    File(Box<Gallery>),
}

impl LabelledQueries {
    /// Opens queries and finds the labels of all images: in `table`, a CSV of `path,person,camera`, or in Market-1501
    /// names. Without a file, queries are up to 1,000 rows of the gallery, evenly spaced. Returns the reason as a text
    /// if there is no table and a name has no label.
    ///
    /// # Errors
    /// [`Error::Data`] if the table lacks an image, or the queries differ from the gallery in dimensions; those of the
    /// files.
    pub fn open(
        gallery: &Gallery,
        file: Option<&Path>,
        table: Option<&Path>,
    ) -> Result<std::result::Result<LabelledQueries, String>> {
        let table = table.map(|path| Ok::<_, Error>((path, datasets::read_labels(path)?))).transpose()?;
        let labels = |names: &[String]| -> Result<std::result::Result<Vec<Label>, String>> {
            let mut labels = Vec::with_capacity(names.len());
            for name in names {
                let label = match &table {
                    Some((_, table)) => table.get(name).copied(),
                    None => Label::from_market_name(name),
                };
                match (label, &table) {
                    (Some(label), _) => labels.push(label),
                    (None, Some((path, _))) => {
                        return Err(Error::Data(format!("{} does not list {name}", path.display())));
                    }
                    (None, None) => {
                        return Ok(Err(format!(
                            "{name} has no person and camera as 0002_c1s1_000451_03.jpg has; pass --labels"
                        )));
                    }
                }
            }
            Ok(Ok(labels))
        };
        let gallery_labels = match labels(gallery.names())? {
            Ok(labels) => labels,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(path) = file else {
            let (count, all) = (MAX_QUERIES.min(gallery.len()), gallery.len());
            let rows: Vec<usize> = (0..count).map(|i| i * all / count).collect();
            let query_labels = rows.iter().map(|&row| gallery_labels[row]).collect();
            let queries = Queries::Rows(rows);
            return Ok(Ok(LabelledQueries { queries, query_labels, gallery_labels }));
        };
        let queries = Gallery::open(path)?;
        if queries.dim() != gallery.dim() {
            return Err(Error::Data(format!(
                "{} has embeddings of {} dimensions, the gallery of {}: embed both with the same model",
                path.display(),
                queries.dim(),
                gallery.dim()
            )));
        }
        Ok(labels(queries.names())?.map(|query_labels| LabelledQueries {
            queries: Queries::File(Box::new(queries)),
            query_labels,
            gallery_labels,
        }))
    }

    /// Returns the weights of the queries' files, where they record them.
    pub fn sources(&self) -> Vec<Source> {
        match &self.queries {
            Queries::Rows(_) => Vec::new(),
            Queries::File(queries) => queries.sources(),
        }
    }

    /// Measures mAP by Market-1501's protocol, on whole embeddings and with the first `dims` components of a
    /// projection. If the adapter is lost or runs out of memory, reopens it once and continues.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a signal; those of the adapter.
    pub fn measure(
        &self,
        gallery: &Gallery,
        projection: &Projection,
        dims: &[usize],
        adapter: &ContextOptions,
        memory: Option<u64>,
        observer: &dyn Observer,
    ) -> Result<Accuracy> {
        let selected;
        let queries: &dyn Rows = match &self.queries {
            Queries::File(queries) => &**queries,
            Queries::Rows(rows) => {
                selected = Selected::new(gallery, rows.clone());
                &selected
            }
        };
        let work = |scores: &mut Vec<f64>, context: &Context| {
            let memory = memory.unwrap_or(context.default_memory());
            if scores.is_empty() {
                scores.push(self.map(context, queries, gallery, memory, observer)?);
            }
            for &dim in &dims[scores.len() - 1..] {
                let leading = projection.leading(dim);
                let (queries, gallery) = (Reduced::new(queries, &leading)?, Reduced::new(gallery, &leading)?);
                scores.push(self.map(context, &queries, &gallery, memory, observer)?);
            }
            Ok(())
        };
        let mut scores = Vec::new();
        let count = |scores: &mut Vec<f64>, _: &Error| Ok(scores.len() as u64);
        retry(adapter, observer, " for the rest", &mut scores, work, count)?;
        Ok(Accuracy { whole: scores[0], reduced: scores.split_off(1) })
    }

    fn map(
        &self,
        context: &Context,
        queries: &dyn Rows,
        gallery: &dyn Rows,
        memory: u64,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let rules = Rules::default();
        let retrieval = Retrieval { queries: &self.query_labels, gallery: &self.gallery_labels, rules };
        let mut scorer = Scorer::new(retrieval);
        visit(&mut Neighbours::new(context, queries, gallery, memory)?, |range, rows| {
            observer.check("the projection is written, but its loss of mAP was not measured")?;
            scorer.add(range, rows);
            Ok(())
        })?;
        Ok(scorer.finish()?.map)
    }
}
