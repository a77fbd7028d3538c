//! The scores of a model, or of embeddings, on a data set.

use super::embed::{Embedder, LookOptions};
use super::known::Seen;
use crate::checkpoint::{self, Network, Threshold};
use crate::datasets::labels::{Label, Person};
use crate::datasets::{self, LabelNames, LabelledImage, TestSet, uses};
use crate::embeddings;
use crate::embeddings::gallery::Inputs;
use crate::embeddings::provenance::{Provenance, Source, check_same_weights};
use crate::embeddings::rows::{NamedRows, Rows, Stacked};
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::images::walk::{Image, LeftOut};
use crate::observer::{Observer, Stage};
use crate::retrieval::distances::visit;
use crate::retrieval::lists::{Ranked, RankedLists};
use crate::retrieval::metrics::{Reason, Retrieval, Rules, Scorer, Scores};
use crate::retrieval::neighbours::Neighbours;
use crate::retrieval::rerank::{RerankOptions, Reranked};
use crate::retrieval::verification::{OperatingPoint, Report, Verification};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Measurements to make, for any data.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The protocol.
    pub rules: Rules,
    /// Re-ranking, if wanted.
    pub rerank: Option<RerankOptions>,
    /// Rate of false positives that a threshold is looked for at.
    pub target_rate: Option<f64>,
    /// Device memory to stay within, in bytes; `None`: what the adapter's class suggests.
    pub memory: Option<u64>,
    /// Places of each ranked list that are kept; 0: none.
    pub places: usize,
}

/// Embeddings with their labels.
struct Side {
    rows: Box<dyn Rows>,
    labels: Vec<Label>,
    images: Images,
    /// Images that could not be read.
    unreadable: usize,
    /// Where embeddings come from that were read from a file.
    provenance: Provenance,
}

/// Images that embeddings were made from.
pub struct Images {
    /// Their names.
    pub names: Vec<String>,
    /// Where each one is; empty if that isn't known.
    pub files: Vec<PathBuf>,
}

/// Queries and the gallery to find them in.
pub struct Task {
    name: String,
    queries: Side,
    /// `None`: the queries themselves.
    gallery: Option<Side>,
    label_names: LabelNames,
    left_out: LeftOut,
}

impl Task {
    /// Embeds a data set's test images.
    ///
    /// # Errors
    /// [`Error::Data`] if none of a side can be read, [`Error::Interrupted`] after a signal; those of the adapter.
    pub fn embed(
        set: TestSet,
        network: &Network,
        context: &Context,
        look: Look,
        observer: &dyn Observer,
    ) -> Result<Task> {
        let mut embedder =
            Embedder::new(context, network, look.batch, look.memory.unwrap_or(context.default_memory()))?;
        let mut embed = |images: Vec<LabelledImage>| -> Result<Side> {
            let list = images
                .iter()
                .map(|LabelledImage { path, name, .. }| Image { path: path.clone(), name: name.clone() });
            let (mut embeddings, places) = embedder.embeddings(list.collect(), look.options, observer)?;
            let unreadable = images.len() - places.len();
            if places.is_empty() {
                return Err(Error::Data(format!("{}: none of {unreadable} images could be read", set.name)));
            }
            // Labels go by place, so rows have no names.
            let names = std::mem::take(&mut embeddings.paths);
            let labels = places.iter().map(|&place| images[place].label).collect();
            let files = places.iter().map(|&place| images[place].path.clone()).collect();
            let (images, provenance) = (Images { names, files }, Provenance::default());
            Ok(Side { rows: Box::new(embeddings), labels, images, unreadable, provenance })
        };
        let queries = embed(set.query)?;
        let gallery = set.gallery.map(embed).transpose()?;
        let TestSet { name, label_names, left_out, .. } = set;
        Ok(Task { name, queries, gallery, label_names, left_out })
    }

    /// Opens embeddings and finds their labels, in a table of `path,person,camera` or else in their names. Without a
    /// `gallery` the queries are one.
    ///
    /// # Errors
    /// [`Error::Data`] for embeddings without a label, or of two lengths; what the files report.
    pub fn read(queries: &Path, gallery: Option<&Path>, table: Option<&Path>) -> Result<Task> {
        let label_names = match table {
            Some(path) => {
                let (persons, cameras) = datasets::read_label_names(path)?;
                LabelNames { persons, cameras }
            }
            None => LabelNames::default(),
        };
        let table = table.map(|path| Ok::<_, Error>((path, datasets::read_labels(path)?))).transpose()?;
        let name = queries.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let asked = read_side(queries, table.as_ref())?;
        let shown = match gallery {
            Some(gallery) => Some((gallery, read_side(gallery, table.as_ref())?)),
            None => None,
        };
        if let Some((gallery, shown)) = &shown
            && shown.rows.dim() != asked.rows.dim()
        {
            return Err(Error::Data(format!(
                "{} has embeddings of {} numbers, {} of {}: both must come from the same model",
                queries.display(),
                asked.rows.dim(),
                gallery.display(),
                shown.rows.dim()
            )));
        }
        Ok(Task {
            name,
            queries: asked,
            gallery: shown.map(|(_, side)| side),
            label_names,
            left_out: LeftOut::default(),
        })
    }

    fn gallery(&self) -> &Side {
        self.gallery.as_ref().unwrap_or(&self.queries)
    }

    /// Makes sure that a query has a match, before any distance is computed.
    ///
    /// # Errors
    /// [`Error::Data`] with the reason.
    pub fn check(&self, rules: &Rules) -> Result<()> {
        let (queries, gallery) = (&self.queries.labels, &self.gallery().labels);
        match uses::match_refusal(queries, gallery, self.gallery.is_none(), rules.across_cameras()) {
            Some(reason) => Err(Error::Data(reason)),
            None => Ok(()),
        }
    }

    /// Makes sure that both files come from the same weights, where they say so; `allow` passes over other ones, with notes.
    ///
    /// # Errors
    /// [`Error::Data`] if they don't.
    pub fn check_weights(&self, queries: &Path, gallery: &Path, allow: bool) -> Result<Vec<String>> {
        let sides = [(queries, Some(&self.queries)), (gallery, self.gallery.as_ref())];
        let source = |(file, side): (&Path, Option<&Side>)| {
            let weights_sha256 = side?.provenance.weights_sha256.clone();
            Some(Source { file: file.to_path_buf(), weights_sha256 })
        };
        // One file fits itself.
        let sources: Vec<Source> = sides.into_iter().filter_map(source).collect();
        if sources.len() > 1 { check_same_weights(&sources, allow) } else { Ok(Vec::new()) }
    }

    /// One query with its person and camera, for the user to see that names are read as meant.
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

    /// The inputs that the embeddings were made from, as typed.
    pub fn inputs(&self) -> impl Iterator<Item = &String> {
        let sides = [Some(&self.queries), self.gallery.as_ref()];
        sides.into_iter().flatten().flat_map(|side| &side.provenance.inputs)
    }

    /// Looks for the images where they were embedded from.
    pub fn find_images(&mut self) {
        for side in [Some(&mut self.queries), self.gallery.as_mut()].into_iter().flatten() {
            if let Some(inputs) = Inputs::open(&side.provenance.inputs) {
                let find = |name: &String| inputs.find(name).unwrap_or_default();
                side.images.files = side.images.names.iter().map(find).collect();
            }
        }
    }
}

/// How images are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// Images per batch, if that is decided.
    pub batch: Option<usize>,
    /// Device memory to stay within, in bytes; `None`: what the adapter's class suggests.
    pub memory: Option<u64>,
    /// How they are decoded, and whether mirror images count.
    pub options: LookOptions,
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
            "{} doesn't list {first}, which is in {} ({} of its {} names are missing)",
            table.display(),
            path.display(),
            without.len(),
            names.len()
        ))),
        (Some(first), None) => Err(Error::Data(format!(
            "{}: {} of {} names tell no person and camera as 0002_c1s1_000451_03.jpg does, such as {first}; give \
             --labels, a CSV of path,person,camera",
            path.display(),
            without.len(),
            names.len()
        ))),
    }
}

/// Measurements of one task.
pub struct Outcome {
    /// The data set, or the queries' file.
    pub name: String,
    /// Without re-ranking.
    pub plain: Scores,
    /// With re-ranking, if that was asked for.
    pub reranked: Option<Scores>,
    /// Same person or not, by distance alone; `None` without pairs of both kinds.
    pub verification: Option<Report>,
    /// Queries, those that could not be read too.
    pub queries: usize,
    /// The gallery in numbers.
    pub gallery: GalleryCounts,
    /// Files of the data set that are no images of it.
    pub left_out: LeftOut,
    /// If ranked lists were asked for.
    pub listed: Option<Listed>,
    /// Images and persons of it that the model was trained on, if it knows.
    pub seen: Option<Seen>,
}

/// Ranked lists and what they are about.
pub struct Listed {
    /// The first places for each query; re-ranked, if that was asked for.
    pub lists: Vec<Vec<Ranked>>,
    /// The queries.
    pub queries: Labelled,
    /// `None`: the queries themselves.
    pub gallery: Option<Labelled>,
    /// Names of persons and cameras.
    pub label_names: LabelNames,
}

impl Listed {
    /// The images that were searched.
    pub fn gallery(&self) -> &Labelled {
        self.gallery.as_ref().unwrap_or(&self.queries)
    }
}

/// Images and whom they show.
pub struct Labelled {
    /// The images.
    pub images: Images,
    /// Person and camera of each.
    pub labels: Vec<Label>,
}

/// The gallery in numbers.
#[derive(Debug, Clone, Copy)]
pub struct GalleryCounts {
    /// Without junk.
    pub images: usize,
    /// How many of them are distractors.
    pub distractors: usize,
    /// Images of nobody in particular, which count for nothing.
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
    /// The scores that were asked for.
    pub fn scores(&self) -> &Scores {
        self.reranked.as_ref().unwrap_or(&self.plain)
    }
}

/// Measures how well the queries are found in the gallery.
///
/// # Errors
/// [`Error::Interrupted`] after a signal; those of the adapter and of impossible options.
pub fn evaluate(task: Task, plan: &Plan, context: &Context, observer: &dyn Observer) -> Result<Outcome> {
    let query_is_gallery = task.gallery.is_none();
    let rules = Rules { query_is_gallery, ..plan.rules };
    let retrieval = Retrieval { queries: &task.queries.labels, gallery: &task.gallery().labels, rules };
    let (asked, shown) = (&*task.queries.rows, &*task.gallery().rows);
    let images = if query_is_gallery { asked.len() } else { asked.len() + shown.len() };
    let reranking = if plan.rerank.is_some() { 2 * images + asked.len() } else { 0 };
    let stage = Stage::new(observer, "distances", asked.len() + reranking, "nothing was written");
    let memory = plan.memory.unwrap_or(context.default_memory());
    let mut lists = (plan.places > 0).then(|| RankedLists::new(retrieval, plan.places));
    let mut scorer = Scorer::new(retrieval);
    let mut verification = Verification::new(retrieval);
    visit(&mut Neighbours::new(context, asked, shown, memory)?, |range, rows| {
        stage.advance(range.len())?;
        scorer.add(range.clone(), rows);
        if let (Some(lists), None) = (&mut lists, plan.rerank) {
            lists.add(range.clone(), rows);
        }
        verification.add(range, rows);
        Ok(())
    })?;
    let plain = scorer.finish()?;
    let reranked = plan.rerank.map(|options| -> Result<Scores> {
        let parts = if query_is_gallery { vec![asked] } else { vec![asked, shown] };
        let all = Stacked::new(parts)?;
        let mut distances = Neighbours::new(context, &all, &all, memory)?;
        let gallery = if query_is_gallery { 0 } else { asked.len() };
        let mut reranked = Reranked::new(&mut distances, asked.len(), gallery, options, &stage)?;
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

    let mut plain = plain;
    for scores in [&mut plain].into_iter().chain(&mut reranked) {
        if task.queries.unreadable > 0 {
            scores.dropped.insert(Reason::Unreadable, task.queries.unreadable);
        }
    }
    let verification = verification.finish(plan.target_rate);
    let lists = lists.map(RankedLists::finish);
    let queries = task.queries.labels.len() + task.queries.unreadable;
    let gallery = GalleryCounts::of(task.gallery());
    let Task { name, queries: asked, gallery: shown, label_names, left_out } = task;
    let labelled = |Side { images, labels, .. }| Labelled { images, labels };
    let listed = lists.map(|lists| Listed {
        lists,
        queries: labelled(asked),
        gallery: shown.map(labelled),
        label_names,
    });
    Ok(Outcome { name, plain, reranked, verification, queries, gallery, left_out, listed, seen: None })
}

/// Stores the threshold for the target rate in a model's file.
///
/// # Errors
/// [`Error::Data`] if there is none; [`Error::Io`] if the file can't be replaced.
pub fn store_threshold(model: &Path, network: &Network, outcome: Option<&Outcome>) -> Result<Threshold> {
    let report = outcome.and_then(|outcome| outcome.verification.as_ref());
    let Some(OperatingPoint { wanted, reached }) = report.and_then(|report| report.target) else {
        return Err(Error::Data("there are no pairs of both kinds: no threshold was stored".to_string()));
    };
    let Some(point) = reached else {
        return Err(Error::Data(format!(
            "already the smallest distance takes more than {wanted} of the pairs of different persons for the same: no \
             threshold was stored"
        )));
    };
    let threshold = Threshold { distance: point.threshold, fpr: wanted };
    checkpoint::store_threshold(model, network, threshold)?;
    Ok(threshold)
}
