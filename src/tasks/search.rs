//! Finds the persons of query images in a gallery of embeddings.

use super::embed::{Embedder, ImageOptions};
use crate::checkpoint::{Network, Threshold};
use crate::datasets::cameras::Cameras;
use crate::embeddings::gallery::Gallery;
use crate::embeddings::provenance::{Source, check_same_weights};
use crate::embeddings::rows::{Rows, Selected, Stacked};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::images::decode::Rgb;
use crate::images::walk::{Image, LeftOut};
use crate::observer::{Observer, Stage};
use crate::retrieval::combined::{Expanded, ExpansionOptions};
use crate::retrieval::neighbours::{Neighbour, Neighbours};
use crate::retrieval::pca::{self, Projection};
use crate::retry::retry;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Settings of a search.
pub struct Request<'r> {
    /// The model that the gallery was embedded with.
    pub network: &'r Network,
    /// The projection that the gallery was made with.
    pub projection: Option<&'r Projection>,
    /// The adapter.
    pub adapter: ContextOptions,
    /// Limit of device memory in bytes; `None` takes the default of the adapter's class.
    pub memory: Option<u64>,
    /// Options for reading queries.
    pub image_options: ImageOptions,
    /// Query expansion over the searched images; `None` for none.
    pub expansion: Option<ExpansionOptions>,
    /// Source of the queries' cameras, for a network with a camera embedding or statistics.
    pub cameras: Cameras,
    /// Matches per query.
    pub top: usize,
    /// The threshold between same and different persons, see [`verdicts`].
    pub verdicts: Verdicts,
}

/// Finds the gallery images nearest to each query. Queries that cannot be read have no list. If the adapter is lost or
/// runs out of memory, reopens it once and starts again.
///
/// # Errors
/// Those of [`Cameras::check`]; [`Error::NothingToDo`] if no query can be read; [`Error::Interrupted`] after a signal;
/// those of the adapter and the gallery.
pub fn search(
    queries: &[Image],
    gallery: &Gallery,
    selected: &Selected<'_>,
    request: &Request<'_>,
    observer: &dyn Observer,
) -> Result<Found> {
    let names = || queries.iter().map(|query| &query.name);
    request.cameras.check(&request.network.config, names())?;
    request.cameras.note(&request.network.config, names()).iter().for_each(|note| observer.note(note));
    let work = |_: &mut (), context: &Context| {
        let Request { network, projection, memory, image_options, expansion, top, verdicts, .. } = *request;
        let memory = memory.unwrap_or(context.default_memory());
        let mut embedder = Embedder::new(context, network, None, memory)?;
        embedder.set_cameras(request.cameras.clone());
        let (mut embeddings, positions) = embedder.embeddings(queries.to_vec(), image_options, observer)?;
        drop(embedder);
        if embeddings.is_empty() {
            return Err(Error::NothingToDo("no query could be read".to_string()));
        }
        if let Some(projection) = projection {
            embeddings.rows = projection.apply(&embeddings.rows);
            embeddings.dim = projection.dim();
        }
        let all = Stacked::new(vec![&embeddings, selected])?;
        let expanded = expansion.map(|options| {
            let stage = Stage::new(observer, "query expansion", embeddings.len(), "nothing was written");
            let sides: (&dyn Rows, Option<&dyn Rows>) = (&embeddings, Some(selected));
            Expanded::new(context, &all, sides, options, memory, &stage)
        });
        let expanded = expanded.transpose()?;
        let rows: &dyn Rows = match &expanded {
            Some(Expanded { queries, .. }) => queries,
            None => &embeddings,
        };
        let mut found = Found::new(verdicts, selected, context);
        nearest(context, rows, selected, (top, memory), observer, |query, list| {
            let file = &queries[positions[query]].path;
            found.add(&embeddings.paths[query], file, list, gallery, selected);
        })?;
        Ok(found)
    };
    let goes_on = ", and the search begins again";
    retry(&request.adapter, observer, goes_on, &mut (), work, |_, _| Ok(0))
}

/// Finds the `top` gallery rows nearest to each query within `memory` bytes of device memory. Calls `take` with the
/// number of each query and its list, nearest first.
///
/// # Errors
/// [`Error::Usage`] for a `top` above 1024, or for queries of other dimensions; [`Error::Interrupted`] after a signal;
/// those of the adapter and the gallery.
pub fn nearest(
    context: &Context,
    queries: &dyn Rows,
    gallery: &dyn Rows,
    (top, memory): (usize, u64),
    observer: &dyn Observer,
    mut take: impl FnMut(usize, &[Neighbour]),
) -> Result<()> {
    let mut neighbours = Neighbours::new(context, queries, gallery, memory)?;
    let step = neighbours.tiles().queries;
    for start in (0..queries.len()).step_by(step) {
        observer.check("nothing was written")?;
        let range = start..(start + step).min(queries.len());
        let lists = neighbours.nearest(range.clone(), top)?;
        range.zip(&lists).for_each(|(query, list)| take(query, list));
    }
    Ok(())
}

/// Names the gallery images of a list, and decides which show the person of the query.
pub fn matches(list: &[Neighbour], names: &[String], verdicts: Verdicts) -> Vec<Match> {
    let found =
        |&Neighbour { index, distance }: &Neighbour| Match::new(index, &names[index], distance, verdicts);
    list.iter().map(found).collect()
}

/// Searches a gallery for one image at a time, and embeds images. Network and gallery stay on the adapter.
pub struct Searcher<'s> {
    context: &'s Context,
    embedder: Embedder<&'s Context>,
    neighbours: Neighbours<'s>,
    query: &'s Query,
    gallery: &'s Gallery,
    selected: &'s Selected<'s>,
    request: &'s Request<'s>,
}

/// The embedding of the image that a [`Searcher`] searches for.
#[derive(Default)]
pub struct Query(Mutex<Vec<f32>>);

impl Query {
    /// Makes a query of `dim` zeros.
    pub fn new(dim: usize) -> Query {
        Query(Mutex::new(vec![0.0; dim]))
    }

    fn set(&self, embedding: Vec<f32>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = embedding;
    }
}

impl Rows for Query {
    fn len(&self) -> usize {
        1
    }

    fn dim(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if !rows.is_empty() {
            out.copy_from_slice(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }
}

impl<'s> Searcher<'s> {
    /// Uploads the network and the gallery. `query` has the gallery's dimensions.
    ///
    /// # Errors
    /// Those of the adapter, and of the gallery's files.
    pub fn new(
        context: &'s Context,
        query: &'s Query,
        gallery: &'s Gallery,
        selected: &'s Selected<'s>,
        request: &'s Request<'s>,
    ) -> Result<Searcher<'s>> {
        let memory = request.memory.unwrap_or(context.default_memory());
        // The gallery gets the other half.
        let mut embedder = Embedder::new(context, request.network, None, memory / 2)
            .or_else(|_| Embedder::new(context, request.network, Some(1), memory))?;
        embedder.set_cameras(request.cameras.clone());
        let left = memory.saturating_sub(embedder.need().bytes(embedder.batch()));
        let neighbours = Neighbours::new(context, query, selected, left)?;
        let mut searcher = Searcher { context, embedder, neighbours, query, gallery, selected, request };
        // A search without an image uploads the gallery, and finds unreadable files before the first query.
        searcher.nearest(request.top)?;
        Ok(searcher)
    }

    /// Finds the `top` gallery images nearest to an image of the input size. `name` is the query's name in the result.
    ///
    /// # Errors
    /// [`Error::Data`] if the network has a camera embedding and the request no camera; those of the adapter and the
    /// gallery.
    pub fn search(&mut self, name: &str, image: &Rgb, top: usize) -> Result<Found> {
        let embedding = self.embed(&[image])?;
        self.query.set(embedding);
        let list = self.nearest(top)?;
        let mut found = Found::new(self.request.verdicts, self.selected, self.context);
        found.add(name, Path::new(""), &list, self.gallery, self.selected);
        Ok(found)
    }

    /// Embeds images of the input size as the gallery is embedded: (B, D).
    ///
    /// # Errors
    /// [`Error::Data`] if the network has a camera embedding and the request no camera; those of the adapter.
    pub fn embed(&mut self, images: &[&Rgb]) -> Result<Vec<f32>> {
        let mut embeddings = Vec::new();
        for batch in images.chunks(self.embedder.batch()) {
            let batch: Vec<Rgb> = batch.iter().map(|&image| image.clone()).collect();
            embeddings.extend(self.embedder.embed(&batch)?);
        }
        Ok(match self.request.projection {
            Some(projection) => projection.apply(&embeddings),
            None => embeddings,
        })
    }

    /// Returns the length D of an embedding.
    pub fn dim(&self) -> usize {
        self.gallery.dim()
    }

    fn nearest(&mut self, top: usize) -> Result<Vec<Neighbour>> {
        Ok(self.neighbours.nearest(0..1, top)?.pop().unwrap_or_default())
    }
}

/// Checks that distances between the gallery's embeddings and the network's are meaningful.
///
/// # Errors
/// Those of [`Gallery::check_fits`] and [`Projection::check_fits`].
pub fn check_fits(
    gallery: &Gallery,
    network: &Network,
    projection: Option<&Projection>,
    flip: bool,
) -> Result<()> {
    if let Some(projection) = projection {
        projection.check_fits(network, flip)?;
    }
    let dim = projection.map_or(network.config.embedding_len(), Projection::dim);
    gallery.check_fits(&pca::settings(network, false, projection), dim)
}

/// Checks that gallery, projection and model come from the same weights, where the files record them. `allow` turns a
/// mismatch into notes.
///
/// # Errors
/// [`Error::Data`] for a mismatch.
pub fn check_weights(
    model: &Path,
    network: &Network,
    gallery: &Gallery,
    projection: Option<(&Path, &Projection)>,
    allow: bool,
) -> Result<Vec<String>> {
    let mut sources =
        vec![Source { file: model.to_path_buf(), weights_sha256: Some(network.weights_sha256()) }];
    sources.extend(projection.map(|(file, projection)| projection.source(file)));
    sources.extend(gallery.sources());
    check_same_weights(&sources, allow)
}

/// The threshold between same and different persons, or the reason why there is none.
pub type Verdicts = std::result::Result<Threshold, &'static str>;

/// The reason why there are no verdicts on expanded queries.
pub const EXPANDED: &str = "matches are ranked only: the model's threshold applies to embeddings as they are, not to --query-expansion";

/// Returns the network's threshold if it applies to the embeddings that are compared.
pub fn verdicts(network: &Network, flip: bool, is_reduced: bool) -> Verdicts {
    Err(match network.threshold {
        None => {
            "matches are ranked only: the model has no threshold for the same person; `lat-wgpu eval --model MODEL \
             --data DATA --fpr 1e-3 --store-threshold` calibrates one on labelled images"
        }
        Some(_) if flip => {
            "matches are ranked only: the model's threshold applies to single views, not to --flip"
        }
        Some(_) if is_reduced => {
            "matches are ranked only: the model's threshold applies to whole embeddings, not to reduced ones"
        }
        Some(threshold) => return Ok(threshold),
    })
}

/// Result of a search.
pub struct Found {
    /// The threshold between same and different persons.
    pub verdicts: Verdicts,
    /// Files among the queries that are no images.
    pub left_out: LeftOut,
    /// Name of the adapter.
    pub adapter: String,
    /// Number of images searched.
    pub gallery: usize,
    /// One list per query.
    pub queries: Vec<Ranking>,
}

/// The matches of one query.
pub struct Ranking {
    /// Name of the query.
    pub query: String,
    /// File of the query; empty if there is none.
    pub file: PathBuf,
    /// The matches, nearest first.
    pub results: Vec<Match>,
}

/// A gallery image that a search returns.
///
/// ```
/// fn line(found: &lat_wgpu::Match) -> String {
///     format!("{:.4}  {}", found.distance, found.path)
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Match {
    /// Row in the whole gallery, before filtering.
    pub row: usize,
    /// Name of the image.
    pub path: String,
    /// Squared Euclidean distance to the query.
    pub distance: f32,
    /// True if the distance says that both show the same person; `None` without a threshold.
    pub same: Option<bool>,
}

impl Match {
    fn new(row: usize, path: &str, distance: f32, verdicts: Verdicts) -> Match {
        let same = verdicts.ok().map(|threshold| distance <= threshold.distance);
        Match { row, path: path.to_string(), distance, same }
    }
}

impl Found {
    fn new(verdicts: Verdicts, selected: &Selected<'_>, context: &Context) -> Found {
        Found {
            verdicts,
            left_out: LeftOut::default(),
            adapter: context.adapter.name.clone(),
            gallery: selected.len(),
            queries: Vec::new(),
        }
    }

    fn add(
        &mut self,
        query: &str,
        file: &Path,
        list: &[Neighbour],
        gallery: &Gallery,
        selected: &Selected<'_>,
    ) {
        let results = list.iter().map(|&Neighbour { index, distance }| {
            let row = selected.row(index);
            Match::new(row, &gallery.names()[row], distance, self.verdicts)
        });
        self.queries.push(Ranking {
            query: query.to_string(),
            file: file.to_path_buf(),
            results: results.collect(),
        });
    }
}
