//! Whom images show, found again in a gallery of embeddings.

use super::embed::{Embedder, LookOptions};
use crate::checkpoint::{Network, Threshold};
use crate::embeddings::gallery::Gallery;
use crate::embeddings::provenance::{Source, check_same_weights};
use crate::embeddings::rows::{Rows, Selected};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::images::walk::{Image, LeftOut};
use crate::observer::Observer;
use crate::retrieval::neighbours::{Neighbour, Neighbours};
use crate::retrieval::pca::{self, Reduction};
use crate::retry::retry;
use std::path::{Path, PathBuf};

/// How a gallery is searched.
pub struct Request<'r> {
    /// The model that the gallery was embedded with.
    pub network: &'r Network,
    /// Components that bring the queries to the gallery's fewer numbers.
    pub reduction: Option<&'r Reduction>,
    /// The adapter.
    pub device: ContextOptions,
    /// Device memory to stay within, in bytes; `None`: what the adapter's class suggests.
    pub memory: Option<u64>,
    /// How queries are looked at.
    pub look: LookOptions,
    /// Images of the gallery in each list.
    pub top: usize,
    /// Sets same and different apart, as [`verdicts`] finds it.
    pub verdicts: Verdicts,
}

/// Finds the images of a gallery that are nearest to each query; those that can't be read have no list. If the adapter is
/// lost or finds no memory, it is opened anew once.
///
/// # Errors
/// [`Error::NothingToDo`] if no query can be read, [`Error::Interrupted`] after a signal; those of adapter and gallery.
pub fn search(
    queries: &[Image],
    gallery: &Gallery,
    selected: &Selected<'_>,
    request: &Request<'_>,
    observer: &dyn Observer,
) -> Result<Found> {
    let work = |_: &mut (), context: &Context| {
        let Request { network, reduction, memory, look, top, verdicts, .. } = *request;
        let memory = memory.unwrap_or(context.default_memory());
        let mut embedder = Embedder::new(context, network, None, memory)?;
        let (mut asked, places) = embedder.embeddings(queries.to_vec(), look, observer)?;
        drop(embedder);
        if asked.is_empty() {
            return Err(Error::NothingToDo(format!("none of {} queries could be read", queries.len())));
        }
        if let Some(reduction) = reduction {
            asked.rows = reduction.apply(&asked.rows);
            asked.dim = reduction.dim();
        }
        let mut neighbours = Neighbours::new(context, &asked, selected, memory)?;
        let step = neighbours.tiles().queries;
        let mut found = Found::new(verdicts, selected);
        for start in (0..asked.len()).step_by(step) {
            observer.check("nothing was written")?;
            let range = start..(start + step).min(asked.len());
            let lists = neighbours.nearest(range.clone(), top)?;
            for (query, list) in range.zip(&lists) {
                found.add(&asked.paths[query], &queries[places[query]].path, list, gallery, selected);
            }
        }
        Ok(found)
    };
    let goes_on = ", and the search begins again";
    retry(&request.device, observer, goes_on, &mut (), work, |_, _| Ok(0))
}

/// Makes sure that distances between the gallery's rows and what the network embeds mean something.
///
/// # Errors
/// Those of [`Gallery::check_fits`] and [`Reduction::check_fits`].
pub fn check_fits(
    gallery: &Gallery,
    network: &Network,
    reduction: Option<&Reduction>,
    flip: bool,
) -> Result<()> {
    if let Some(reduction) = reduction {
        reduction.check_fits(network, flip)?;
    }
    let dim = reduction.map_or(network.config.embedding_len(), Reduction::dim);
    gallery.check_fits(&pca::settings(network, false, reduction), dim)
}

/// Makes sure that gallery, components and model come from the same weights, where they say so; `allow` passes over
/// other ones, with notes.
///
/// # Errors
/// [`Error::Data`] if they don't.
pub fn check_weights(
    model: &Path,
    network: &Network,
    gallery: &Gallery,
    components: Option<(&Path, &Reduction)>,
    allow: bool,
) -> Result<Vec<String>> {
    let mut sources =
        vec![Source { file: model.to_path_buf(), weights_sha256: Some(network.weights_sha256()) }];
    sources.extend(components.map(|(file, reduction)| Source {
        file: file.to_path_buf(),
        weights_sha256: reduction.weights_sha256().cloned(),
    }));
    sources.extend(gallery.sources());
    check_same_weights(&sources, allow)
}

/// The threshold between same and different, or why there is none.
pub type Verdicts = std::result::Result<Threshold, &'static str>;

/// Returns the network's threshold, if it is for such vectors.
pub fn verdicts(network: &Network, flip: bool, is_reduced: bool) -> Verdicts {
    Err(match network.threshold {
        None => {
            "same or different isn't told: the model has no threshold; `lat-wgpu eval --fpr 1e-3 --store-threshold` \
             measures and stores one"
        }
        Some(_) if flip => {
            "same or different isn't told: the model's threshold is for single views, not for --flip"
        }
        Some(_) if is_reduced => {
            "same or different isn't told: the model's threshold is for whole vectors, not for reduced ones"
        }
        Some(threshold) => return Ok(threshold),
    })
}

/// Result of a search.
pub struct Found {
    /// The threshold between same and different.
    pub verdicts: Verdicts,
    /// Files among the queries' that are no query.
    pub left_out: LeftOut,
    /// How many images were searched.
    pub gallery: usize,
    /// One list for each query.
    pub queries: Vec<Ranking>,
}

/// The gallery seen from one query.
pub struct Ranking {
    /// The query's name.
    pub query: String,
    /// Its file; empty where there is none.
    pub file: PathBuf,
    /// Nearest first.
    pub results: Vec<Match>,
}

/// One image of the gallery.
///
/// ```
/// fn line(found: &lat_wgpu::Match) -> String {
///     format!("{:.4}  {}", found.distance, found.path)
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Match {
    /// Its row in the gallery, whatever was filtered.
    pub row: usize,
    /// Its name.
    pub path: String,
    /// Squared Euclidean distance to the query.
    pub distance: f32,
    /// True if both show the same person; `None` without a threshold.
    pub same: Option<bool>,
}

impl Found {
    /// Nothing yet, of a search in these rows.
    pub fn new(verdicts: Verdicts, selected: &Selected<'_>) -> Found {
        Found { verdicts, left_out: LeftOut::default(), gallery: selected.len(), queries: Vec::new() }
    }

    /// Appends a query's list, as [`Neighbours`] gives it.
    pub fn add(
        &mut self,
        query: &str,
        file: &Path,
        list: &[Neighbour],
        gallery: &Gallery,
        selected: &Selected<'_>,
    ) {
        let results = list.iter().map(|&Neighbour { index, distance }| {
            let row = selected.row(index);
            let same = self.verdicts.ok().map(|threshold| distance <= threshold.distance);
            Match { row, path: gallery.names()[row].clone(), distance, same }
        });
        self.queries.push(Ranking {
            query: query.to_string(),
            file: file.to_path_buf(),
            results: results.collect(),
        });
    }
}
