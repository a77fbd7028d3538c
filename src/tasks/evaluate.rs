//! Scores a model, or embeddings, on a data set.

mod json;

pub use json::INFLATED;

use super::embed::{Embedder, ImageOptions};
use super::trained_on::Overlap;
use crate::checkpoint::{self, MatchRate, Network, Threshold};
use crate::datasets::cameras::Cameras;
use crate::datasets::labels::{Label, Person};
use crate::datasets::{self, Capture, LabelNames, LabelledImage, TestSet, uses};
use crate::embeddings::gallery::Inputs;
use crate::embeddings::provenance::{Provenance, Source, check_same_weights};
use crate::embeddings::rows::{NamedRows, Rows, Stacked};
use crate::embeddings::{self, Embeddings};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::images::walk::{Image, LeftOut};
use crate::observer::{Observer, Stage};
use crate::retrieval::aligned::{Aligned, Parts};
use crate::retrieval::combined::{Combined, ExpandOver, Expanded, ExpansionOptions};
use crate::retrieval::distances::{DistanceRows, visit};
use crate::retrieval::lists::{Ranked, RankedLists};
use crate::retrieval::metrics::{Reason, Retrieval, Rules, Scorer, Scores};
use crate::retrieval::neighbours::Neighbours;
use crate::retrieval::pca::Projection;
use crate::retrieval::rerank::{RerankOptions, Reranked};
use crate::retrieval::spatio_temporal::{self, SpatioTemporal};
use crate::retrieval::verification::{OperatingPoint, Report, Verification};
use crate::retry::retry;
use crate::shape::PartLayout;
use crate::storage::entry::Entry;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Note after an adapter was reopened.
const BEGINS_AGAIN: &str = ", and the evaluation begins again";

/// Distance between embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The squared Euclidean distance.
    #[default]
    Euclidean,
    /// That plus the local distance of the parts, see [`crate::retrieval::aligned`].
    Aligned,
}

/// Images that are scored as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupBy {
    /// Those of a tracklet, by the mean of their embeddings.
    Tracklet,
}

/// Settings of an evaluation.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The protocol.
    pub rules: Rules,
    /// Images that are scored as one; `None` scores each image.
    pub group_by: Option<GroupBy>,
    /// Distance between embeddings.
    pub distance: Metric,
    /// Query expansion; `None` for none.
    pub expansion: Option<ExpansionOptions>,
    /// Re-ranking, after query expansion; `None` for none.
    pub rerank: Option<RerankOptions>,
    /// Frames in a bin of the spatio-temporal model, which the training images of the data set are counted for; `None`
    /// for no such scores.
    pub spatio_temporal: Option<u64>,
    /// False positive rate to find a distance threshold for.
    pub false_positive_rate: Option<f64>,
    /// Images per batch; `None` chooses the number that fills the adapter.
    pub batch: Option<usize>,
    /// Limit of device memory in bytes; `None` takes the default of the adapter's class.
    pub memory: Option<u64>,
    /// Options for reading images.
    pub image_options: ImageOptions,
    /// The camera that takes the place of those of the data set, for a network with a camera embedding or statistics.
    pub camera: Option<String>,
    /// Projection of the model's embeddings to fewer dimensions, which the scores are then of; `None` for none.
    pub projection: Option<Projection>,
    /// Gallery images to keep of each ranked list; 0 keeps no lists.
    pub list_length: usize,
}

/// Embeddings with labels.
struct Side {
    rows: Box<dyn Rows>,
    labels: Vec<Label>,
    captures: Vec<Capture>,
    images: Images,
    /// Number of images, or tracklets, that could not be read.
    unreadable: usize,
    /// Provenance of embeddings that were read from a file.
    provenance: Provenance,
}

impl Side {
    fn reduce(&mut self, projection: &Projection) -> Result<()> {
        let mut rows = vec![0.0; self.rows.len() * self.rows.dim()];
        self.rows.read(0..self.rows.len(), &mut rows)?;
        let rows = projection.apply(&rows);
        self.rows = Box::new(Embeddings { paths: self.images.names.clone(), dim: projection.dim(), rows });
        Ok(())
    }
}

/// The images that embeddings were made from.
#[derive(Debug, Clone)]
pub struct Images {
    /// Names.
    pub names: Vec<String>,
    /// Files; empty if they are not known.
    pub files: Vec<PathBuf>,
}

/// Labelled embeddings of the queries and the gallery.
pub struct EvaluationSet {
    name: String,
    queries: Side,
    /// `None` if the queries are the gallery.
    gallery: Option<Side>,
    label_names: LabelNames,
    left_out: LeftOut,
    /// Parts of an embedding, if known.
    parts: Option<usize>,
    spatio_temporal: Option<SpatioTemporal>,
}

impl EvaluationSet {
    /// Embeds the test images of a data set.
    ///
    /// # Errors
    /// Those of [`Cameras::check`]; [`Error::Data`] if no query, or no gallery image, can be read;
    /// [`Error::Interrupted`] after a signal; those of the adapter.
    pub fn embed(
        set: TestSet,
        network: &Network,
        context: &Context,
        request: &Request,
        observer: &dyn Observer,
    ) -> Result<EvaluationSet> {
        let spatio_temporal = request.spatio_temporal.map(|bin| fit(&set, bin)).transpose()?;
        let memory = request.memory.unwrap_or(context.default_memory());
        let mut embedder = Embedder::new(context, network, request.batch, memory)?;
        let cameras = |images: &[LabelledImage]| match &request.camera {
            Some(camera) => Cameras::given(Some(camera)),
            None => {
                let by =
                    |image: &LabelledImage| (image.name.clone(), set.label_names.camera(image.label.camera));
                Cameras::Labels(images.iter().map(by).collect())
            }
        };
        for images in [Some(&set.query), set.gallery.as_ref()].into_iter().flatten() {
            let (cameras, names) = (cameras(images), || images.iter().map(|image| &image.name));
            cameras.check(&network.config, names())?;
            cameras.note(&network.config, names()).iter().for_each(|note| observer.note(note));
        }
        let mut embed = |images: &[LabelledImage]| -> Result<Side> {
            embedder.set_cameras(cameras(images));
            let list = images
                .iter()
                .map(|LabelledImage { path, name, .. }| Image { path: path.clone(), name: name.clone() });
            let (mut embeddings, positions) =
                embedder.embeddings(list.collect(), request.image_options, observer)?;
            let unreadable = images.len() - positions.len();
            if positions.is_empty() {
                return Err(Error::Data(format!("{}: no image could be read", set.name)));
            }
            let names = std::mem::take(&mut embeddings.paths);
            let read = || positions.iter().map(|&position| &images[position]);
            let labels = read().map(|image| image.label).collect();
            let captures = read().map(|image| image.capture.clone()).collect();
            let files = read().map(|image| image.path.clone()).collect();
            let provenance = Provenance::default();
            let rows = Box::new(embeddings);
            let side =
                Side { rows, labels, captures, images: Images { names, files }, unreadable, provenance };
            side.grouped(request.group_by, images.iter().map(|image| &image.capture))
        };
        let queries = embed(&set.query)?;
        let gallery = set.gallery.as_deref().map(embed).transpose()?;
        let TestSet { name, label_names, left_out, .. } = set;
        let parts = Some(network.config.parts());
        Ok(EvaluationSet { name, queries, gallery, label_names, left_out, parts, spatio_temporal })
    }

    /// Opens files of embeddings. Labels come from `table`, a CSV of `path,person,camera`, or from Market-1501 names.
    /// Without a `gallery` the queries are the gallery too.
    ///
    /// # Errors
    /// [`Error::Data`] for an embedding without a label, or without a tracklet to group by, or if queries and gallery
    /// differ in dimensions; those of the files.
    pub fn read(
        queries: &Path,
        gallery: Option<&Path>,
        table: Option<&Path>,
        group_by: Option<GroupBy>,
    ) -> Result<EvaluationSet> {
        let label_names = match table {
            Some(path) => {
                let (persons, cameras) = datasets::read_label_names(path)?;
                LabelNames { persons, cameras }
            }
            None => LabelNames::default(),
        };
        let table = table.map(Table::read).transpose()?;
        let name = queries.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let read = |path: &Path| -> Result<Side> {
            let side = read_side(path, table.as_ref())?;
            let all = side.captures.clone();
            side.grouped(group_by, &all)
        };
        let query_side = read(queries)?;
        let gallery_side = match gallery {
            Some(gallery) => Some((gallery, read(gallery)?)),
            None => None,
        };
        if let Some((gallery, gallery_side)) = &gallery_side
            && gallery_side.rows.dim() != query_side.rows.dim()
        {
            return Err(Error::Data(format!(
                "{} has embeddings of {} dimensions, {} of {}: embed both with the same model",
                queries.display(),
                query_side.rows.dim(),
                gallery.display(),
                gallery_side.rows.dim()
            )));
        }
        let parts = query_side.provenance.settings.as_ref().and_then(parts_of);
        Ok(EvaluationSet {
            name,
            queries: query_side,
            gallery: gallery_side.map(|(_, side)| side),
            label_names,
            left_out: LeftOut::default(),
            parts,
            spatio_temporal: None,
        })
    }

    fn gallery(&self) -> &Side {
        self.gallery.as_ref().unwrap_or(&self.queries)
    }

    /// Checks that at least one query has a true match.
    ///
    /// # Errors
    /// [`Error::Data`] with the reason why none has.
    pub fn check(&self, rules: &Rules) -> Result<()> {
        let (queries, gallery) = (&self.queries.labels, &self.gallery().labels);
        match uses::match_refusal(queries, gallery, self.gallery.is_none(), rules.across_cameras()) {
            Some(reason) => Err(Error::Data(reason)),
            None => Ok(()),
        }
    }

    /// Checks that both files come from the same weights, where they record them. `allow` turns a mismatch into notes.
    ///
    /// # Errors
    /// [`Error::Data`] for a mismatch.
    pub fn check_weights(&self, queries: &Path, gallery: &Path, allow: bool) -> Result<Vec<String>> {
        let sides = [(queries, Some(&self.queries)), (gallery, self.gallery.as_ref())];
        let source = |(file, side): (&Path, Option<&Side>)| {
            let weights_sha256 = side?.provenance.weights_sha256.clone();
            Some(Source { file: file.to_path_buf(), weights_sha256 })
        };
        let sources: Vec<Source> = sides.into_iter().filter_map(source).collect();
        if sources.len() > 1 { check_same_weights(&sources, allow) } else { Ok(Vec::new()) }
    }

    /// Describes the labels of one query, so that the user can check how names are read.
    pub fn example(&self) -> Option<String> {
        let Side { labels, images, .. } = &self.queries;
        images.names.iter().zip(labels).find_map(|(name, Label { person, camera })| {
            let Person::Known(number) = person else { return None };
            let LabelNames { persons, cameras } = &self.label_names;
            let person = persons.get(number).cloned().unwrap_or_else(|| format!("{number:04}"));
            let camera = cameras.get(camera).cloned().unwrap_or_else(|| camera.to_string());
            Some(format!("{name} is person {person}, seen by camera {camera}"))
        })
    }

    /// Returns the inputs that the embeddings were made from, as the user typed them.
    pub fn inputs(&self) -> impl Iterator<Item = &String> {
        let sides = [Some(&self.queries), self.gallery.as_ref()];
        sides.into_iter().flatten().flat_map(|side| &side.provenance.inputs)
    }

    /// Looks for the image files in the folders that were embedded.
    pub fn find_images(&mut self) {
        for side in [Some(&mut self.queries), self.gallery.as_mut()].into_iter().flatten() {
            if let Some(inputs) = Inputs::open(&side.provenance.inputs) {
                let find = |name: &String| inputs.find(name).unwrap_or_default();
                side.images.files = side.images.names.iter().map(find).collect();
            }
        }
    }
}

impl Side {
    /// Replaces the images of each tracklet by the mean of their embeddings, under the name of the first one. `all` are
    /// the tracklets of all images, including unreadable ones.
    fn grouped<'c>(self, by: Option<GroupBy>, all: impl IntoIterator<Item = &'c Capture>) -> Result<Side> {
        let Some(GroupBy::Tracklet) = by else { return Ok(self) };
        let Side { rows, labels, captures, images, provenance, .. } = self;
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (row, capture) in captures.iter().enumerate() {
            let name = &images.names[row];
            let Some(tracklet) = &capture.tracklet else {
                return Err(Error::Data(format!(
                    "{name} has no tracklet: --group-by tracklet needs names such as 0002C1T0001F001.jpg, or a table \
                     with a column tracklet"
                )));
            };
            let group = *places.entry(tracklet).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            let first = *groups[group].first().unwrap_or(&row);
            if labels[first] != labels[row] {
                return Err(Error::Data(format!(
                    "{} and {name} are of one tracklet, {tracklet}, but of two persons or cameras",
                    images.names[first]
                )));
            }
            groups[group].push(row);
        }
        let tracklets: HashSet<&String> = all.into_iter().filter_map(|all| all.tracklet.as_ref()).collect();
        let unreadable = tracklets.len() - groups.len();
        let mean_frame = |rows: &Vec<usize>| {
            let frames: Option<Vec<u64>> = rows.iter().map(|&row| captures[row].frame).collect();
            frames.map(|frames| frames.iter().sum::<u64>() / frames.len() as u64)
        };
        let capture = |rows: &Vec<usize>| Capture { frame: mean_frame(rows), ..captures[rows[0]].clone() };
        let firsts = || groups.iter().map(|rows| rows[0]);
        let names = firsts().map(|row| images.names[row].clone()).collect();
        let files = firsts().filter_map(|row| images.files.get(row).cloned()).collect();
        let terms = groups.iter().map(|rows| rows.iter().map(|&row| (row, 1.0)).collect()).collect();
        Ok(Side {
            labels: firsts().map(|row| labels[row]).collect(),
            captures: groups.iter().map(capture).collect(),
            images: Images { names, files },
            rows: Box::new(Combined::new(rows, terms)),
            unreadable,
            provenance,
        })
    }
}

/// Fits a spatio-temporal model to the training images, and checks that all scored images have a frame.
fn fit(set: &TestSet, bin: u64) -> Result<SpatioTemporal> {
    if let Some(image) = set.evaluated().find(|image| image.capture.frame.is_none()) {
        return Err(Error::Data(format!(
            "{} has no frame number: --spatio-temporal needs names such as 0002_c1s1_000451_03.jpg, or a table with a \
             column frame",
            image.name
        )));
    }
    let seen = |image: &LabelledImage| Some((image.label, image.capture.frame?));
    SpatioTemporal::fit(set.train.iter().filter(|_| set.has_split).filter_map(seen), bin)
}

/// The parts of an embedding by the settings in its file; `None` if they are not recorded, or if it was reduced.
fn parts_of(settings: &Entry) -> Option<usize> {
    let settings = settings.value();
    if !settings["reduction"].is_null() {
        return None;
    }
    let layout = serde_json::from_value(settings["model"]["gelt"]["parts"].clone()).ok()?;
    match layout {
        PartLayout::Rows => settings["model"]["grid"][0].as_u64()?.try_into().ok(),
        PartLayout::One => Some(1),
        PartLayout::Bands(parts) => Some(parts),
    }
}

/// Labels, tracklets and frames by path, from a file.
struct Table<'p> {
    path: &'p Path,
    labels: BTreeMap<String, Label>,
    captures: BTreeMap<String, Capture>,
}

impl Table<'_> {
    fn read(path: &Path) -> Result<Table<'_>> {
        Ok(Table { path, labels: datasets::read_labels(path)?, captures: datasets::read_captures(path)? })
    }
}

fn read_side(path: &Path, table: Option<&Table<'_>>) -> Result<Side> {
    let NamedRows { rows, names, provenance, .. } = embeddings::open(path)?;
    if rows.is_empty() {
        return Err(Error::Data(format!("{} holds no embeddings", path.display())));
    }
    let mut labels = Vec::with_capacity(names.len());
    let mut without = Vec::new();
    for name in &names {
        let label = match table {
            Some(table) => table.labels.get(name).copied(),
            None => Label::from_market_name(name),
        };
        match label {
            Some(label) => labels.push(label),
            None => without.push(name),
        }
    }
    match (without.first(), table) {
        (None, _) => {
            let capture = |name: &String| match table {
                Some(table) => table.captures.get(name).cloned().unwrap_or_default(),
                None => Capture::from_name(name),
            };
            let captures = names.iter().map(capture).collect();
            let images = Images { names, files: Vec::new() };
            Ok(Side { rows, labels, captures, images, unreadable: 0, provenance })
        }
        (Some(first), Some(table)) => Err(Error::Data(format!(
            "{} does not list {first}, which is in {} ({} of its {} names are missing)",
            table.path.display(),
            path.display(),
            without.len(),
            names.len()
        ))),
        (Some(first), None) => Err(Error::Data(format!(
            "{}: {} of {} names have no person and camera as 0002_c1s1_000451_03.jpg has, such as {first}; pass \
             --labels, a CSV of path,person,camera",
            path.display(),
            without.len(),
            names.len()
        ))),
    }
}

/// Result of an evaluation.
pub struct Outcome {
    /// Name of the data set, or of the queries' file.
    pub name: String,
    /// Name of the adapter.
    pub adapter: String,
    /// Scores without query expansion and re-ranking.
    pub plain: Scores,
    /// Scores with query expansion, if requested.
    pub expanded: Option<Scores>,
    /// Scores with re-ranking, after query expansion if that is requested too.
    pub reranked: Option<Scores>,
    /// Scores by similarity and time, if requested; without query expansion and re-ranking.
    pub spatio_temporal: Option<Scores>,
    /// Plain scores of the whole embeddings, if the others are of reduced ones.
    pub whole: Option<Scores>,
    /// Verification by distance alone; `None` without pairs of both kinds.
    pub verification: Option<Report>,
    /// Number of queries, including unreadable ones.
    pub queries: usize,
    /// Counts of gallery images.
    pub gallery: GalleryCounts,
    /// Files of the data set that are no images of it.
    pub left_out: LeftOut,
    /// Ranked lists, if requested.
    pub listed: Option<Listed>,
    /// Overlap with the images that the model was trained on, if its file records them.
    pub overlap: Option<Overlap>,
}

/// Ranked lists with the names and labels of their images.
pub struct Listed {
    /// One list per query: the first gallery images, re-ranked if requested.
    pub lists: Vec<Vec<Ranked>>,
    /// The queries.
    pub queries: Labelled,
    /// The gallery; `None` if the queries are the gallery.
    pub gallery: Option<Labelled>,
    /// Names of persons and cameras.
    pub label_names: LabelNames,
}

impl Listed {
    /// Returns the gallery.
    pub fn gallery(&self) -> &Labelled {
        self.gallery.as_ref().unwrap_or(&self.queries)
    }
}

/// Images with labels.
pub struct Labelled {
    /// The images.
    pub images: Images,
    /// Person and camera of each.
    pub labels: Vec<Label>,
}

/// Counts of gallery images.
#[derive(Debug, Clone, Copy)]
pub struct GalleryCounts {
    /// Images without junk.
    pub images: usize,
    /// Distractors among them.
    pub distractors: usize,
    /// Junk images.
    pub junk: usize,
    /// Images that could not be read.
    pub unreadable: usize,
}

impl GalleryCounts {
    fn of(side: &Side) -> GalleryCounts {
        let count = |person| side.labels.iter().filter(|label| label.person == person).count();
        let junk = count(Person::Junk);
        GalleryCounts {
            images: side.labels.len() - junk,
            distractors: count(Person::Distractor),
            junk,
            unreadable: side.unreadable,
        }
    }
}

impl Outcome {
    /// Returns the scores with query expansion and re-ranking, as far as they were requested.
    pub fn scores(&self) -> &Scores {
        self.reranked.as_ref().unwrap_or(self.scores_before_reranking())
    }

    /// Returns the scores with query expansion if it was requested, and without re-ranking.
    pub fn scores_before_reranking(&self) -> &Scores {
        self.expanded.as_ref().unwrap_or(&self.plain)
    }
}

/// Scores a model on data sets; the results are in the order of `sets`. If the adapter is lost or runs out of memory,
/// reopens it once and scores the data set again.
///
/// # Errors
/// [`Error::Interrupted`] after a signal, and an adapter that cannot be opened. Other errors concern one data set and
/// are in its result.
pub fn evaluate_model(
    sets: &[TestSet],
    network: &Network,
    adapter: &ContextOptions,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Vec<Result<Outcome>>> {
    let mut outcomes = Vec::new();
    while outcomes.len() < sets.len() {
        let work = |outcomes: &mut Vec<Result<Outcome>>, context: &Context| {
            for set in &sets[outcomes.len()..] {
                match embed_and_evaluate(set, network, context, request, observer) {
                    Err(error) if error.may_pass() || matches!(error.plain(), Error::Interrupted { .. }) => {
                        return Err(error);
                    }
                    outcome => outcomes.push(outcome),
                }
            }
            Ok(())
        };
        let count = |outcomes: &mut Vec<Result<Outcome>>, _: &Error| Ok(outcomes.len() as u64);
        match retry(adapter, observer, BEGINS_AGAIN, &mut outcomes, work, count) {
            Err(error) if error.may_pass() => outcomes.push(Err(error)),
            done => done?,
        }
    }
    Ok(outcomes)
}

/// Scores a model on one data set; see [`evaluate_model`].
///
/// # Errors
/// Those of [`evaluate_model`], and of the data set.
pub fn evaluate_one(
    set: &TestSet,
    network: &Network,
    adapter: &ContextOptions,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let work = |_: &mut (), context: &Context| embed_and_evaluate(set, network, context, request, observer);
    retry(adapter, observer, BEGINS_AGAIN, &mut (), work, |_, _| Ok(0))
}

/// Embeds a data set on an adapter that is open, and scores it.
///
/// # Errors
/// Those of [`EvaluationSet::embed`] and [`evaluate`].
pub fn embed_and_evaluate(
    set: &TestSet,
    network: &Network,
    context: &Context,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let mut set = EvaluationSet::embed(set.clone(), network, context, request, observer)?;
    let Some(projection) = &request.projection else { return evaluate(&set, request, context, observer) };
    let plain = Request { rules: request.rules, memory: request.memory, ..Request::default() };
    let whole = evaluate(&set, &plain, context, observer)?.plain;
    for side in [Some(&mut set.queries), set.gallery.as_mut()].into_iter().flatten() {
        side.reduce(projection)?;
    }
    Ok(Outcome { whole: Some(whole), ..evaluate(&set, request, context, observer)? })
}

/// Scores embeddings. If the adapter is lost or runs out of memory, reopens it once and starts again.
///
/// # Errors
/// Those of [`evaluate`], and of opening the adapter.
pub fn evaluate_embeddings(
    set: &EvaluationSet,
    adapter: &ContextOptions,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let work = |_: &mut (), context: &Context| evaluate(set, request, context, observer);
    retry(adapter, observer, BEGINS_AGAIN, &mut (), work, |_, _| Ok(0))
}

/// Distances on an adapter.
struct Measure<'c> {
    context: &'c Context,
    memory: u64,
    /// Parts to align; `None` for the squared Euclidean distance.
    parts: Option<usize>,
}

impl Measure<'_> {
    /// Calls `work` with the distances from queries to a gallery.
    fn between<T>(
        &self,
        queries: &dyn Rows,
        gallery: &dyn Rows,
        work: impl FnOnce(&mut dyn DistanceRows) -> Result<T>,
    ) -> Result<T> {
        let Some(count) = self.parts else {
            return work(&mut Neighbours::new(self.context, queries, gallery, self.memory)?);
        };
        let (of_queries, of_gallery) = (Parts::new(queries, count), Parts::new(gallery, count));
        let mut whole = Neighbours::new(self.context, queries, gallery, self.memory / 2)?;
        let mut parts = Neighbours::new(self.context, &of_queries, &of_gallery, self.memory / 2)?;
        work(&mut Aligned::new(&mut whole, &mut parts, count))
    }
}

impl EvaluationSet {
    /// The parts of an embedding that can be aligned.
    ///
    /// # Errors
    /// [`Error::Data`] if there is one part, or if the number of parts is not known.
    fn aligned_parts(&self) -> Result<usize> {
        let wrong = |text: &str| Err(Error::Data(format!("{}: --distance aligned {text}", self.name)));
        match self.parts {
            Some(0 | 1) => wrong("needs embeddings of two parts or more"),
            Some(parts) if self.queries.rows.dim().is_multiple_of(parts) => Ok(parts),
            Some(parts) => wrong(&format!(
                "needs embeddings of {parts} equal parts, not of {} dimensions",
                self.queries.rows.dim()
            )),
            None => wrong(
                "needs the number of parts, which whole embeddings in .safetensors and .parquet files of `lat-wgpu \
                 embed` have: embed again, without --reduce, or pass --model and --data",
            ),
        }
    }

    /// Distances that join the squared Euclidean distances of some queries with time.
    fn with_time(&self, model: &SpatioTemporal, queries: Range<usize>, rows: &[f32]) -> Vec<f32> {
        let gallery = self.gallery();
        let seen =
            |side: &Side, row: usize| (side.labels[row].camera, side.captures[row].frame.unwrap_or_default());
        let first = queries.start;
        let mut joined = rows.to_vec();
        joined.par_chunks_mut(gallery.labels.len().max(1)).enumerate().for_each(|(query, row)| {
            let asked = seen(&self.queries, first + query);
            for (image, distance) in row.iter_mut().enumerate() {
                let probability = model.probability(asked, seen(gallery, image));
                *distance = spatio_temporal::distance(*distance, probability);
            }
        });
        joined
    }
}

/// Scores embeddings on an adapter that is open.
///
/// # Errors
/// [`Error::Interrupted`] after a signal; those of the adapter, and of contradictory settings.
pub fn evaluate(
    set: &EvaluationSet,
    request: &Request,
    context: &Context,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let query_is_gallery = set.gallery.is_none();
    let rules = Rules { query_is_gallery, ..request.rules };
    let retrieval = Retrieval { queries: &set.queries.labels, gallery: &set.gallery().labels, rules };
    let (query_rows, gallery_rows) = (&*set.queries.rows, &*set.gallery().rows);
    let all = Stacked::new(if query_is_gallery { vec![query_rows] } else { vec![query_rows, gallery_rows] })?;
    let (queries, images) = (query_rows.len(), all.len());
    let expanding = match request.expansion {
        Some(ExpansionOptions { over: ExpandOver::Gallery, .. }) => 2 * queries,
        Some(ExpansionOptions { over: ExpandOver::All, .. }) => images + queries,
        None => 0,
    };
    let reranking = if request.rerank.is_some() { 2 * images + queries } else { 0 };
    let stage = Stage::new(observer, "distances", queries + expanding + reranking, "nothing was written");
    let memory = request.memory.unwrap_or(context.default_memory());
    let parts = match request.distance {
        Metric::Euclidean => None,
        Metric::Aligned => Some(set.aligned_parts()?),
    };
    let measure = Measure { context, memory, parts };

    let mut lists = (request.list_length > 0).then(|| RankedLists::new(retrieval, request.list_length));
    let mut scorer = Scorer::new(retrieval);
    let mut verification = Verification::new(retrieval);
    let mut timed = set.spatio_temporal.as_ref().map(|model| (model, Scorer::new(retrieval)));
    measure.between(query_rows, gallery_rows, |distances| {
        visit(distances, |range, rows| {
            stage.advance(range.len())?;
            scorer.add(range.clone(), rows);
            if let (Some(lists), None, None) = (&mut lists, request.expansion, request.rerank) {
                lists.add(range.clone(), rows);
            }
            if let Some((model, scorer)) = &mut timed {
                scorer.add(range.clone(), &set.with_time(model, range.clone(), rows));
            }
            verification.add(range, rows);
            Ok(())
        })
    })?;
    let mut plain = scorer.finish()?;
    let mut spatio_temporal = timed.map(|(_, scorer)| scorer.finish()).transpose()?;

    let expansion = request.expansion.map(|options| {
        let gallery = (!query_is_gallery).then_some(gallery_rows);
        Expanded::new(context, &all, (query_rows, gallery), options, memory, &stage)
    });
    let expansion = expansion.transpose()?;
    let (asked, shown): (&dyn Rows, &dyn Rows) = match &expansion {
        Some(Expanded { queries, gallery: Some(gallery) }) => (queries, gallery),
        Some(Expanded { queries, gallery: None }) => (queries, gallery_rows),
        None => (query_rows, gallery_rows),
    };
    let mut score = |distances: &mut dyn DistanceRows, is_last: bool| {
        let mut scorer = Scorer::new(retrieval);
        visit(distances, |range, rows| {
            stage.advance(range.len())?;
            scorer.add(range.clone(), rows);
            if let (Some(lists), true) = (&mut lists, is_last) {
                lists.add(range, rows);
            }
            Ok(())
        })?;
        scorer.finish()
    };
    let is_last = request.rerank.is_none();
    let expanded =
        expansion.is_some().then(|| measure.between(asked, shown, |distances| score(distances, is_last)));
    let mut expanded = expanded.transpose()?;
    let reranked = request.rerank.map(|options| {
        // Queries that were expanded alone differ from the gallery images that they come from.
        let is_one =
            query_is_gallery && expansion.as_ref().is_none_or(|expansion| expansion.gallery.is_some());
        let first = if is_one { 0 } else { queries };
        let all = Stacked::new(if is_one { vec![asked] } else { vec![asked, shown] })?;
        measure.between(&all, &all, |distances| {
            score(&mut Reranked::new(distances, queries, first, options, &stage)?, true)
        })
    });
    let mut reranked = reranked.transpose()?;

    for scores in [Some(&mut plain), expanded.as_mut(), reranked.as_mut(), spatio_temporal.as_mut()] {
        if let Some(scores) = scores
            && set.queries.unreadable > 0
        {
            scores.dropped.insert(Reason::Unreadable, set.queries.unreadable);
        }
    }
    let verification = verification.finish(request.false_positive_rate);
    let lists = lists.map(RankedLists::finish);
    let queries = set.queries.labels.len() + set.queries.unreadable;
    let gallery = GalleryCounts::of(set.gallery());
    let labelled = |side: &Side| Labelled { images: side.images.clone(), labels: side.labels.clone() };
    let listed = lists.map(|lists| Listed {
        lists,
        queries: labelled(&set.queries),
        gallery: set.gallery.as_ref().map(labelled),
        label_names: set.label_names.clone(),
    });
    let (name, left_out) = (set.name.clone(), set.left_out.clone());
    Ok(Outcome {
        name,
        adapter: context.adapter.name.clone(),
        plain,
        expanded,
        reranked,
        spatio_temporal,
        whole: None,
        verification,
        queries,
        gallery,
        left_out,
        listed,
        overlap: None,
    })
}

/// Stores an outcome's distance threshold in the model's file.
///
/// # Errors
/// [`Error::Data`] if there is no threshold; [`Error::Io`] if the file cannot be replaced.
pub fn store_threshold(model: &Path, network: &Network, outcome: Option<&Outcome>) -> Result<Threshold> {
    let report = outcome.and_then(|outcome| outcome.verification.as_ref());
    let Some(OperatingPoint { wanted, reached }) = report.and_then(|report| report.target) else {
        return Err(Error::Data(
            "no threshold was stored: it needs pairs of the same person and pairs of different persons"
                .to_string(),
        ));
    };
    let Some(point) = reached else {
        return Err(Error::Data(format!(
            "no threshold was stored: even the smallest distance accepts more than {wanted} of the pairs of different \
             persons; set a larger --fpr"
        )));
    };
    let threshold = Threshold { distance: point.threshold, fpr: wanted };
    let rates = report.map_or(Vec::new(), match_rates);
    checkpoint::store_threshold(model, network, threshold, &rates)?;
    Ok(threshold)
}

/// The false positive rates of a report by rising distance.
fn match_rates(report: &Report) -> Vec<MatchRate> {
    let reached = report.operating_points.iter().filter_map(|point| point.reached);
    let mut rates: Vec<MatchRate> = reached
        .chain(report.roc.iter().copied())
        .map(|point| MatchRate { distance: point.threshold, rate: point.false_positive_rate })
        .collect();
    rates.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    rates.dedup();
    rates
}
