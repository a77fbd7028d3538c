//! Scores a model, or embeddings, on a data set.

use super::embed::{Embedder, ImageOptions};
use super::trained_on::Overlap;
use crate::checkpoint::{self, Network, Threshold};
use crate::datasets::labels::{Label, Person};
use crate::datasets::{self, LabelNames, LabelledImage, TestSet, uses};
use crate::embeddings;
use crate::embeddings::gallery::Inputs;
use crate::embeddings::provenance::{Provenance, Source, check_same_weights};
use crate::embeddings::rows::{NamedRows, Rows, Stacked};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::images::walk::{Image, LeftOut};
use crate::observer::{Observer, Stage};
use crate::retrieval::distances::visit;
use crate::retrieval::lists::{Ranked, RankedLists};
use crate::retrieval::metrics::{Reason, Retrieval, Rules, Scorer, Scores};
use crate::retrieval::neighbours::Neighbours;
use crate::retrieval::rerank::{RerankOptions, Reranked};
use crate::retrieval::verification::{OperatingPoint, Report, Verification};
use crate::retry::retry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Note after an adapter was reopened.
const BEGINS_AGAIN: &str = ", and the evaluation begins again";

/// Settings of an evaluation.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The protocol.
    pub rules: Rules,
    /// Re-ranking; `None` for none.
    pub rerank: Option<RerankOptions>,
    /// False positive rate to find a distance threshold for.
    pub false_positive_rate: Option<f64>,
    /// Images per batch; `None` chooses the number that fills the adapter.
    pub batch: Option<usize>,
    /// Limit of device memory in bytes; `None` takes the default of the adapter's class.
    pub memory: Option<u64>,
    /// Options for reading images.
    pub image_options: ImageOptions,
    /// Gallery images to keep of each ranked list; 0 keeps no lists.
    pub list_length: usize,
}

/// Embeddings with labels.
struct Side {
    rows: Box<dyn Rows>,
    labels: Vec<Label>,
    images: Images,
    /// Number of images that could not be read.
    unreadable: usize,
    /// Provenance of embeddings that were read from a file.
    provenance: Provenance,
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
}

impl EvaluationSet {
    /// Embeds the test images of a data set.
    ///
    /// # Errors
    /// [`Error::Data`] if no query, or no gallery image, can be read; [`Error::Interrupted`] after a signal; those of
    /// the adapter.
    pub fn embed(
        set: TestSet,
        network: &Network,
        context: &Context,
        request: &Request,
        observer: &dyn Observer,
    ) -> Result<EvaluationSet> {
        let memory = request.memory.unwrap_or(context.default_memory());
        let mut embedder = Embedder::new(context, network, request.batch, memory)?;
        let mut embed = |images: Vec<LabelledImage>| -> Result<Side> {
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
            let labels = positions.iter().map(|&position| images[position].label).collect();
            let files = positions.iter().map(|&position| images[position].path.clone()).collect();
            let (images, provenance) = (Images { names, files }, Provenance::default());
            Ok(Side { rows: Box::new(embeddings), labels, images, unreadable, provenance })
        };
        let queries = embed(set.query)?;
        let gallery = set.gallery.map(embed).transpose()?;
        let TestSet { name, label_names, left_out, .. } = set;
        Ok(EvaluationSet { name, queries, gallery, label_names, left_out })
    }

    /// Opens files of embeddings. Labels come from `table`, a CSV of `path,person,camera`, or from Market-1501 names.
    /// Without a `gallery` the queries are the gallery too.
    ///
    /// # Errors
    /// [`Error::Data`] for an embedding without a label, or if queries and gallery differ in dimensions; those of the
    /// files.
    pub fn read(queries: &Path, gallery: Option<&Path>, table: Option<&Path>) -> Result<EvaluationSet> {
        let label_names = match table {
            Some(path) => {
                let (persons, cameras) = datasets::read_label_names(path)?;
                LabelNames { persons, cameras }
            }
            None => LabelNames::default(),
        };
        let table = table.map(|path| Ok::<_, Error>((path, datasets::read_labels(path)?))).transpose()?;
        let name = queries.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let query_side = read_side(queries, table.as_ref())?;
        let gallery_side = match gallery {
            Some(gallery) => Some((gallery, read_side(gallery, table.as_ref())?)),
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
        Ok(EvaluationSet {
            name,
            queries: query_side,
            gallery: gallery_side.map(|(_, side)| side),
            label_names,
            left_out: LeftOut::default(),
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

fn read_side(path: &Path, table: Option<&(&Path, BTreeMap<String, Label>)>) -> Result<Side> {
    let NamedRows { rows, names, provenance, .. } = embeddings::open(path)?;
    if rows.is_empty() {
        return Err(Error::Data(format!("{} holds no embeddings", path.display())));
    }
    let mut labels = Vec::with_capacity(names.len());
    let mut without = Vec::new();
    for name in &names {
        let label = match table {
            Some((_, table)) => table.get(name).copied(),
            None => Label::from_market_name(name),
        };
        match label {
            Some(label) => labels.push(label),
            None => without.push(name),
        }
    }
    match (without.first(), table) {
        (None, _) => {
            let images = Images { names, files: Vec::new() };
            Ok(Side { rows, labels, images, unreadable: 0, provenance })
        }
        (Some(first), Some((table, _))) => Err(Error::Data(format!(
            "{} does not list {first}, which is in {} ({} of its {} names are missing)",
            table.display(),
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
    /// Scores without re-ranking.
    pub plain: Scores,
    /// Scores with re-ranking, if requested.
    pub reranked: Option<Scores>,
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
    /// Returns the scores with re-ranking if it was requested, else those without.
    pub fn scores(&self) -> &Scores {
        self.reranked.as_ref().unwrap_or(&self.plain)
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

fn embed_and_evaluate(
    set: &TestSet,
    network: &Network,
    context: &Context,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let set = EvaluationSet::embed(set.clone(), network, context, request, observer)?;
    evaluate(&set, request, context, observer)
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
    let images = if query_is_gallery { query_rows.len() } else { query_rows.len() + gallery_rows.len() };
    let reranking = if request.rerank.is_some() { 2 * images + query_rows.len() } else { 0 };
    let stage = Stage::new(observer, "distances", query_rows.len() + reranking, "nothing was written");
    let memory = request.memory.unwrap_or(context.default_memory());
    let mut lists = (request.list_length > 0).then(|| RankedLists::new(retrieval, request.list_length));
    let mut scorer = Scorer::new(retrieval);
    let mut verification = Verification::new(retrieval);
    visit(&mut Neighbours::new(context, query_rows, gallery_rows, memory)?, |range, rows| {
        stage.advance(range.len())?;
        scorer.add(range.clone(), rows);
        if let (Some(lists), None) = (&mut lists, request.rerank) {
            lists.add(range.clone(), rows);
        }
        verification.add(range, rows);
        Ok(())
    })?;
    let mut plain = scorer.finish()?;
    let reranked = request.rerank.map(|options| -> Result<Scores> {
        let sides = if query_is_gallery { vec![query_rows] } else { vec![query_rows, gallery_rows] };
        let all = Stacked::new(sides)?;
        let mut distances = Neighbours::new(context, &all, &all, memory)?;
        let gallery = if query_is_gallery { 0 } else { query_rows.len() };
        let mut reranked = Reranked::new(&mut distances, query_rows.len(), gallery, options, &stage)?;
        let mut scorer = Scorer::new(retrieval);
        visit(&mut reranked, |range, rows| {
            stage.advance(range.len())?;
            scorer.add(range.clone(), rows);
            if let Some(lists) = &mut lists {
                lists.add(range, rows);
            }
            Ok(())
        })?;
        scorer.finish()
    });
    let mut reranked = reranked.transpose()?;

    for scores in [&mut plain].into_iter().chain(&mut reranked) {
        if set.queries.unreadable > 0 {
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
        reranked,
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
    checkpoint::store_threshold(model, network, threshold)?;
    Ok(threshold)
}
