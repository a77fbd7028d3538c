//! `lat-wgpu search`: whom pictures show, found again in a gallery of embeddings.

use super::arguments::{AdapterArgument, MemoryArgument, NetworkArguments, PageArguments};
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::search_report::Page;
use super::signals::Signals;
use crate::checkpoint::{Network, Threshold};
use crate::embeddings::Embeddings;
use crate::embeddings::gallery::{Filter, Gallery};
use crate::embeddings::provenance::{Source, check_same_weights};
use crate::embeddings::rows::{Rows, Selected};
use crate::error::{Error, Result};
use crate::gpu::{Context, Precision};
use crate::images::decode::DecodeOptions;
use crate::images::walk::{LeftOut, Listing, Picture};
use crate::kernels::topk::MAX_K;
use crate::observer::Observer;
use crate::retrieval::neighbours::{Neighbour, Neighbours};
use crate::retrieval::pca::{self, Reduction};
use crate::tasks::embed::{Embedder, LookOptions};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `lat-wgpu search`.
#[derive(Debug, Args)]
pub struct SearchArguments {
    /// The model that the gallery was embedded with, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Embeddings, as `lat-wgpu embed` writes them: a file, or a folder of parts
    #[arg(long, value_name = "FILE|DIR")]
    pub gallery: PathBuf,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long)]
    pub allow_other_weights: bool,
    /// Whom to find: a picture, or a folder with all below it; may be given often
    #[arg(long, required = true, value_name = "IMG|DIR")]
    pub query: Vec<PathBuf>,
    /// Follow links to files and folders; a folder is entered once
    #[arg(long)]
    pub follow_links: bool,
    /// How many of the gallery's pictures to list for each query
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_K as i64))]
    pub top: u32,
    /// Search only these pictures: camera=1,2 by Market-1501 names, or path=GLOB; all that are given must hold
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<Filter>,
    /// Embed each query and its mirror image, and take the mean; the model's threshold isn't for that
    #[arg(long)]
    pub flip: bool,
    /// Bring the queries to the gallery's fewer numbers, by the components that `lat-wgpu reduce` found
    #[arg(long, value_name = "FILE")]
    pub reduce: Option<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Write the lists as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub page: PageArguments,
    /// For --html: the folder that was embedded, so that its pictures are shown [default: the inputs that the gallery carries, where they are still there]
    #[arg(long, value_name = "DIR", requires = "html")]
    pub images: Option<PathBuf>,
    /// Do not turn pictures as their EXIF orientation says
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &SearchArguments) -> Result<ExitCode> {
    // Everything that can be wrong on the host is found before the adapter is touched.
    let SearchArguments { model, gallery, query, reduce, images, json, page, .. } = arguments;
    let paths = Paths::new().following(arguments.follow_links).reads("--model", [model]);
    let paths = paths.reads("--gallery", [gallery]).reads("--query", query);
    let paths = paths.reads("--reduce", reduce).reads("--images", images);
    let paths = paths.writes("--json", json).writes("--html", &page.html);
    paths.check()?;
    let network = open::network(&arguments.model, &arguments.network.settings())?;
    let mut page = Page::of(arguments)?;
    let Listing { pictures, left_out } = open::pictures(&arguments.query, arguments.follow_links)?;
    if !left_out.counts().is_empty() {
        eprintln!("note: left out: {left_out}");
    }
    let gallery = Gallery::open(&arguments.gallery)?;
    let reduction = arguments.reduce.as_deref().map(Reduction::read).transpose()?;
    check_fits(&gallery, &network, reduction.as_ref(), arguments.flip)?;
    let components = arguments.reduce.as_deref().zip(reduction.as_ref());
    check_weights(&arguments.model, &network, &gallery, components, arguments.allow_other_weights)?;
    paths.reads("the input of --gallery", gallery.inputs()).check()?;
    if let Some(page) = &mut page {
        page.images = gallery.images(arguments.images.as_deref())?;
    }
    let selected = Selected::new(&gallery, gallery.filtered(&arguments.filter)?);
    let verdicts = verdicts(&network, arguments.flip || gallery.is_flipped(), reduction.is_some());

    let progress = Progress::new(Some(Signals::listen()?));
    let context = arguments.adapter.open(Precision::F32)?;
    let memory = arguments.memory.within(&context);
    let options =
        LookOptions { decode: DecodeOptions { ignore_exif: arguments.ignore_exif }, flip: arguments.flip };
    let (mut queries, files) = embed_queries(pictures, &network, &context, memory, options, &progress)
        .map_err(open::about_skipped)?;
    if let Some(reduction) = &reduction {
        queries.rows = reduction.apply(&queries.rows);
        queries.dim = reduction.dim();
    }

    let mut neighbours = Neighbours::new(&context, &queries, &selected, memory)?;
    let step = neighbours.tiles().queries;
    let mut found = Found { verdicts, left_out, gallery: selected.len(), queries: Vec::new() };
    for start in (0..queries.len()).step_by(step) {
        progress.check("nothing was written")?;
        let range = start..(start + step).min(queries.len());
        let lists = neighbours.nearest(range.clone(), arguments.top as usize)?;
        for (query, list) in queries.paths[range].iter().zip(&lists) {
            found.add(query, list, &gallery, &selected);
        }
    }

    json::print_or_write(arguments.json.as_deref(), &found.text(), || found.json())?;
    if let Some(page) = &page {
        page.write(&found, &files, &gallery)?;
        eprintln!("wrote {}", page.target.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that distances between the gallery's rows and what the network embeds mean something.
pub(super) fn check_fits(
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

/// Makes sure that gallery, components and model come from the same weights, where that is told; `allow` passes over
/// other ones.
pub(super) fn check_weights(
    model: &Path,
    network: &Network,
    gallery: &Gallery,
    components: Option<(&Path, &Reduction)>,
    allow: bool,
) -> Result<()> {
    let mut sources =
        vec![Source { file: model.to_path_buf(), weights_sha256: Some(network.weights_sha256()) }];
    sources.extend(components.map(|(file, reduction)| Source {
        file: file.to_path_buf(),
        weights_sha256: reduction.weights_sha256().cloned(),
    }));
    sources.extend(gallery.sources());
    open::tell(&check_same_weights(&sources, allow)?);
    Ok(())
}

/// What same and different are told by, or why they aren't.
pub(super) type Verdicts = std::result::Result<Threshold, &'static str>;

/// The network's threshold, if it is for such vectors; says if there is none.
pub(super) fn verdicts(network: &Network, flip: bool, is_reduced: bool) -> Verdicts {
    let why = match network.threshold {
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
    };
    eprintln!("note: {why}");
    Err(why)
}

/// What a search found.
pub(super) struct Found {
    /// What same and different are told by.
    pub verdicts: Verdicts,
    /// Files among the queries' that are no query.
    pub left_out: LeftOut,
    /// How many pictures were searched.
    pub gallery: usize,
    /// One list for each query.
    pub queries: Vec<Ranking>,
}

/// The gallery seen from one query.
pub(super) struct Ranking {
    /// The query's name.
    pub query: String,
    /// Nearest first.
    pub results: Vec<Match>,
}

/// One picture of the gallery.
pub(super) struct Match {
    /// Its row in the gallery, whatever was filtered.
    pub row: usize,
    /// Its name.
    pub path: String,
    /// Squared Euclidean distance to the query.
    pub distance: f32,
    /// Whether both show the same person, if there is a threshold.
    pub same: Option<bool>,
}

impl Found {
    /// Appends a query's list, as `Neighbours` gives it.
    pub fn add(&mut self, query: &str, list: &[Neighbour], gallery: &Gallery, selected: &Selected) {
        let results = list.iter().map(|&Neighbour { index, distance }| {
            let row = selected.row(index);
            let same = self.verdicts.ok().map(|threshold| distance <= threshold.distance);
            Match { row, path: gallery.names()[row].clone(), distance, same }
        });
        self.queries.push(Ranking { query: query.to_string(), results: results.collect() });
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let queries: Vec<Value> = self.queries.iter().map(Ranking::json).collect();
        json!({
            "threshold": self.verdicts.ok().map(|threshold| threshold.distance),
            "left_out": self.left_out.counts(),
            "gallery": self.gallery,
            "queries": queries,
        })
    }

    /// A table for each query.
    fn text(&self) -> String {
        let mut text = String::new();
        for Ranking { query, results } in &self.queries {
            text.push_str(&format!("{query}\n"));
            for (place, Match { path, distance, same, .. }) in results.iter().enumerate() {
                let verdict = match same {
                    Some(true) => "same       ",
                    Some(false) => "different  ",
                    None => "",
                };
                text.push_str(&format!("{:>6}  {distance:.4}  {verdict}{path}\n", place + 1));
            }
        }
        text
    }
}

impl Ranking {
    fn json(&self) -> Value {
        let results: Vec<Value> = self
            .results
            .iter()
            .map(|Match { row, path, distance, same }| {
                json!({ "row": row, "path": path, "distance": distance, "same": same })
            })
            .collect();
        json!({ "query": self.query, "results": results })
    }
}

/// Embeds the queries; their names are the rows'. Also returns the rows' files.
fn embed_queries(
    pictures: Vec<Picture>,
    network: &Network,
    context: &Context,
    memory: u64,
    options: LookOptions,
    observer: &dyn Observer,
) -> Result<(Embeddings, Vec<PathBuf>)> {
    let mut embedder = Embedder::new(context, network, None, memory)?;
    let mut embeddings = Embeddings { paths: Vec::new(), dim: embedder.dim(), rows: Vec::new() };
    let (count, mut files) = (pictures.len(), Vec::new());
    for row in embedder.rows(pictures, options, observer) {
        match row? {
            (_, Err(error)) => observer.skipped(&error),
            (picture, Ok(row)) => {
                embeddings.paths.push(picture.name);
                embeddings.rows.extend(row);
                files.push(picture.path);
            }
        }
    }
    if embeddings.is_empty() {
        return Err(Error::NothingToDo(format!("none of {count} queries could be read")));
    }
    Ok((embeddings, files))
}
