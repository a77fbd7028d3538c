//! `lat-wgpu eval`: what a model, or embeddings, are worth on a data set.

use super::arguments::{
    AdapterArgument, MemoryArgument, NetworkArguments, PageArguments, SetArguments, fraction,
};
use super::eval_report;
use super::json;
use super::known::{Known, Seen};
use super::open;
use super::paths::{Paths, same};
use super::progress::Progress;
use super::signals::Signals;
use super::words::{described, named, word};
use crate::checkpoint::{self, Network, Settings, Threshold};
use crate::datasets::labels::{Label, Person};
use crate::datasets::{self, LabelledPicture, LoadOptions, ReidSet, uses};
use crate::embeddings::Embeddings;
use crate::embeddings::gallery::Inputs;
use crate::embeddings::provenance::{Provenance, Source, check_same_weights};
use crate::embeddings::rows::{self, NamedRows, Parts, Rows};
use crate::error::{Error, Result};
use crate::gpu::{Context, Precision};
use crate::images::decode::DecodeOptions;
use crate::images::walk::{LeftOut, Picture};
use crate::observer::{Observer, Stage};
use crate::retrieval::distances::visit;
use crate::retrieval::lists::{Place, RankedLists};
use crate::retrieval::metrics::{
    AveragePrecision, Protocol, RANKS, Reason, Retrieval, Rules, Scorer, Scores,
};
use crate::retrieval::neighbours::Neighbours;
use crate::retrieval::rerank::{RerankOptions, Reranked};
use crate::retrieval::verification::{OperatingPoint, Report, Verification};
use crate::tasks::embed::{Embedder, LookOptions};
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is said before scores of the released code's protocol.
pub(super) const INFLATED: &str = "released-code inflates: it counts pictures of the query's person by the query's own camera, often from the \
     same moment, and AP looks at the first ten only; its figures are not comparable with those of --protocol standard";

/// The help of each protocol.
const PROTOCOLS: [&str; 3] = [
    "Market-1501's: junk dropped, same person by the same camera left out",
    "Every picture counts, AP within the first ten",
    "One random gallery picture per person, the mean of 100 draws",
];

/// `lat-wgpu eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// Weights of a plain ViT, or a trained model, as .safetensors
    #[arg(long, value_name = "FILE", requires = "data", required_unless_present = "query_embeddings")]
    pub model: Option<PathBuf>,
    /// Folder of a data set, or a table of pictures (.csv); give it often for a table over several sets
    #[arg(long, value_name = "DIR", requires = "model")]
    pub data: Vec<PathBuf>,
    /// Instead of a model: embeddings of the queries, as `lat-wgpu embed` writes them
    #[arg(long, value_name = "FILE", requires = "gallery_embeddings", conflicts_with_all = ["model", "data"])]
    pub query_embeddings: Option<PathBuf>,
    /// Embeddings of the gallery; the same file again: every picture is a query against all others
    #[arg(long, value_name = "FILE", requires = "query_embeddings")]
    pub gallery_embeddings: Option<PathBuf>,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long, requires = "query_embeddings")]
    pub allow_other_weights: bool,
    /// Persons and cameras of the embeddings: path,person,camera (-1: junk, 0000: distractor) [default: from Market-1501 names]
    #[arg(long, value_name = "CSV", requires = "query_embeddings", conflicts_with = "model")]
    pub labels: Option<PathBuf>,
    /// Who is compared with whom; released-code inflates
    #[arg(long, default_value = "standard", value_parser = described::<Protocol>(&PROTOCOLS))]
    protocol: Protocol,
    /// Average precision: mean of the precisions at the matches, or of those and the ones just before [default: plain]
    #[arg(long, value_parser = named::<AveragePrecision>())]
    ap: Option<AveragePrecision>,
    /// Pictures of the same person by the same camera are matches like others
    #[arg(long)]
    ignore_cameras: bool,
    /// Seed of the random galleries of cuhk03-single-shot
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Also re-rank by k-reciprocal neighbours: the scores are then those after it
    #[arg(long)]
    rerank: bool,
    /// Neighbours that must be mutual
    #[arg(long, value_name = "N", default_value_t = RerankOptions::default().k1, requires = "rerank")]
    rerank_k1: usize,
    /// Pictures whose neighbours are averaged; 1: none
    #[arg(long, value_name = "N", default_value_t = RerankOptions::default().k2, requires = "rerank")]
    rerank_k2: usize,
    /// Weight of the original distance
    #[arg(long, value_name = "F", default_value_t = RerankOptions::default().lambda, requires = "rerank")]
    rerank_lambda: f64,
    /// Embed each picture and its mirror image, and take the mean
    #[arg(long, conflicts_with = "query_embeddings")]
    pub flip: bool,
    /// Also tell the threshold that takes at most this share of the pairs of different persons for the same
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fpr: Option<f64>,
    /// Store the threshold for --fpr in the model's metadata
    #[arg(long, requires = "fpr", conflicts_with = "query_embeddings")]
    pub store_threshold: bool,
    /// Pictures per batch [default: what fills an adapter of its class, within --memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "query_embeddings")]
    pub batch: Option<u32>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Write the scores as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub page: PageArguments,
    /// For --html: folder that was embedded; twice: of the queries', then of the gallery's [default: the inputs that the embeddings carry]
    #[arg(long, value_name = "DIR", requires_all = ["html", "query_embeddings"], conflicts_with = "model")]
    pub images: Vec<PathBuf>,
    /// Do not turn pictures as their EXIF orientation says
    #[arg(long, conflicts_with = "query_embeddings")]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub set: SetArguments,
    #[command(flatten)]
    pub network: NetworkArguments,
}

impl EvalArguments {
    /// As the scores take them.
    ///
    /// # Errors
    /// `Usage` where they contradict each other.
    pub fn rules(&self) -> Result<Rules> {
        if self.protocol == Protocol::ReleasedCode && self.ap.is_some() {
            return Err(Error::Usage(
                "--protocol released-code counts AP its own way: leave --ap away".to_string(),
            ));
        }
        Ok(Rules {
            protocol: self.protocol,
            average_precision: self.ap.unwrap_or_default(),
            ignore_cameras: self.ignore_cameras,
            query_is_gallery: false,
            seed: self.seed,
        })
    }

    /// How to re-rank, if that is asked for.
    ///
    /// # Errors
    /// `Usage` for impossible values.
    pub fn rerank(&self) -> Result<Option<RerankOptions>> {
        let options = RerankOptions { k1: self.rerank_k1, k2: self.rerank_k2, lambda: self.rerank_lambda };
        options.check()?;
        Ok(self.rerank.then_some(options))
    }
}

pub fn run(arguments: &EvalArguments) -> Result<ExitCode> {
    let plan = Plan::new(arguments)?;
    let paths = paths(arguments);
    paths.check()?;
    let page = eval_report::Page::of(arguments)?;
    let progress = Progress::new(Some(Signals::listen()?));
    let mut results = Vec::new();
    let mut failed = Vec::new();
    match (&arguments.model, &arguments.query_embeddings, &arguments.gallery_embeddings) {
        (Some(model), ..) => {
            let network = open::network(model, &arguments.network.settings())?;
            let options = arguments.set.options();
            let mut sets = Vec::new();
            for dir in &arguments.data {
                match load_set(dir, &options, &plan.rules) {
                    Ok(set) => sets.push((dir, set)),
                    Err(error) => failed.push((dir, error)),
                }
            }
            // Labels and matches of every set were looked at; now the adapter and the images.
            sets.iter()
                .filter_map(|(_, set)| set.example.as_ref())
                .for_each(|example| eprintln!("{example}"));
            let known = Known::read(model, &network)?;
            if !sets.is_empty() {
                let context = arguments.adapter.open(Precision::F32)?;
                let look = Look {
                    batch: arguments.batch.map(|batch| batch as usize),
                    memory: plan.memory,
                    options: LookOptions {
                        decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
                        flip: arguments.flip,
                    },
                };
                for (dir, set) in sets {
                    let seen = known.as_ref().map(|known| known.among(&set));
                    for warning in seen.iter().flat_map(Seen::warnings) {
                        eprintln!("warning: {}: {warning}", set.name);
                    }
                    let task = embed_set(set, &network, &context, look, &progress);
                    match task.and_then(|task| evaluate(task, &plan, &context, &progress)) {
                        Ok(outcome) => results.push(Outcome { seen, ..outcome }),
                        Err(error @ Error::Interrupted { .. }) => return Err(error),
                        Err(error) => failed.push((dir, error)),
                    }
                }
            }
            if arguments.data.len() == 1
                && let Some((_, error)) = failed.pop()
            {
                return Err(error);
            }
            if arguments.store_threshold {
                store_threshold(model, &network, &results)?;
            }
        }
        (None, Some(queries), Some(gallery)) => {
            let mut task = read_task(queries, gallery, arguments.labels.as_deref())?;
            task.check(&plan.rules)?;
            task.check_weights(queries, gallery, arguments.allow_other_weights)?;
            task.example().iter().for_each(|example| eprintln!("{example}"));
            paths.reads("the input of the embeddings", task.inputs()).check()?;
            if page.is_some() && arguments.images.is_empty() {
                task.find_pictures();
            }
            let context = arguments.adapter.open(Precision::F32)?;
            results.push(evaluate(task, &plan, &context, &progress)?);
        }
        _ => unreachable!("the arguments need a model or both embeddings"),
    }

    // The sets that can be scored are; the others are named, and the command fails.
    if !results.is_empty() {
        let value = || plan.json(&results, &failed, arguments);
        json::print_or_write(arguments.json.as_deref(), &plan.text(&results), value)?;
    }
    for (dir, error) in &failed {
        eprintln!("error: {} was not scored: {}", dir.display(), error.with_causes());
    }
    if !failed.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if let (Some(page), [outcome]) = (&page, &results[..]) {
        page.write(outcome, &plan)?;
        eprintln!("wrote {}", page.target.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The files that are read and written.
fn paths(arguments: &EvalArguments) -> Paths {
    let EvalArguments { model, data, query_embeddings, gallery_embeddings, labels, images, .. } = arguments;
    let paths = Paths::new()
        .following(arguments.set.options().follow_links)
        .reads_sets("--data", data)
        .reads("--labels", labels)
        .reads("--images", images);
    let paths = paths.reads("--query-embeddings", query_embeddings);
    let paths = paths.reads("--gallery-embeddings", gallery_embeddings);
    let paths = match arguments.store_threshold {
        true => paths.updates("--model", model),
        false => paths.reads("--model", model),
    };
    paths.writes("--json", &arguments.json).writes("--html", &arguments.page.html)
}

/// What is measured, whatever the data.
#[derive(Default)]
pub(super) struct Plan {
    pub rules: Rules,
    pub rerank: Option<RerankOptions>,
    pub wished_rate: Option<f64>,
    /// Device memory to stay within, in bytes; `None`: what the adapter's class suggests.
    pub memory: Option<u64>,
    /// Places of each ranked list that are kept; 0: none.
    pub places: usize,
}

impl Plan {
    /// Finds contradictions before any file is opened.
    fn new(arguments: &EvalArguments) -> Result<Plan> {
        let usage = |text: &str| Err(Error::Usage(text.to_string()));
        let rules = arguments.rules()?;
        if arguments.model.is_none()
            && (arguments.network.settings() != Settings::default()
                || arguments.set.options() != LoadOptions::default())
        {
            return usage("embeddings are scored as they are: settings of network and data set need --model");
        }
        if arguments.store_threshold {
            if arguments.data.len() != 1 {
                return usage("--store-threshold needs exactly one --data: one model has one threshold");
            }
            if arguments.flip {
                return usage(
                    "--store-threshold without --flip: the threshold is for embeddings of single views",
                );
            }
            if rules.protocol == Protocol::ReleasedCode {
                return usage(
                    "--store-threshold needs --protocol standard: pairs by one camera are too easy",
                );
            }
        }
        if arguments.page.html.is_some() && arguments.data.len() > 1 {
            return usage(
                "--html makes a page of one data set: give one --data, and run it again for the next",
            );
        }
        if arguments.images.len() > 2 {
            return usage(
                "--images is given once for all pictures, or twice: for the queries', then the gallery's",
            );
        }
        Ok(Plan {
            rules,
            rerank: arguments.rerank()?,
            wished_rate: arguments.fpr,
            memory: arguments.memory.memory,
            places: if arguments.page.html.is_some() { eval_report::PLACES } else { 0 },
        })
    }
}

/// Embeddings with their labels.
struct Side {
    rows: Box<dyn Rows>,
    labels: Vec<Label>,
    pictures: Pictures,
    /// Pictures that could not be read.
    unreadable: usize,
    /// Where embeddings come from that were read from a file.
    provenance: Provenance,
}

/// What embeddings were made of.
pub(super) struct Pictures {
    pub names: Vec<String>,
    /// Where each one is; empty if that isn't known.
    pub files: Vec<PathBuf>,
}

/// What persons and cameras are called by number; those that are missing are called by it.
#[derive(Clone, Default)]
pub(super) struct LabelNames {
    pub persons: BTreeMap<u32, String>,
    pub cameras: BTreeMap<u32, String>,
}

/// Queries and the gallery to find them in.
pub(super) struct Task {
    name: String,
    queries: Side,
    /// `None`: the queries themselves.
    gallery: Option<Side>,
    label_names: LabelNames,
    left_out: LeftOut,
}

impl Task {
    fn gallery(&self) -> &Side {
        self.gallery.as_ref().unwrap_or(&self.queries)
    }

    /// Makes sure that a query has a match, before any distance is computed.
    fn check(&self, rules: &Rules) -> Result<()> {
        let (queries, gallery) = (&self.queries.labels, &self.gallery().labels);
        match uses::match_refusal(queries, gallery, self.gallery.is_none(), rules.across_cameras()) {
            Some(reason) => Err(Error::Data(reason)),
            None => Ok(()),
        }
    }

    /// Makes sure that both files come from the same weights, where they tell it; `allow` passes over other ones.
    fn check_weights(&self, queries: &Path, gallery: &Path, allow: bool) -> Result<()> {
        let sides = [(queries, Some(&self.queries)), (gallery, self.gallery.as_ref())];
        let source = |(file, side): (&Path, Option<&Side>)| {
            let weights_sha256 = side?.provenance.weights_sha256.clone();
            Some(Source { file: file.to_path_buf(), weights_sha256 })
        };
        // One file fits itself.
        let sources: Vec<Source> = sides.into_iter().filter_map(source).collect();
        if sources.len() > 1 {
            open::tell(&check_same_weights(&sources, allow)?);
        }
        Ok(())
    }

    /// One query with its person and camera, for the user to see that names are read as meant.
    fn example(&self) -> Option<String> {
        let Side { labels, pictures, .. } = &self.queries;
        pictures.names.iter().zip(labels).find_map(|(name, Label { person, camera })| {
            let Person::Known(number) = person else { return None };
            let LabelNames { persons, cameras } = &self.label_names;
            let person = persons.get(number).cloned().unwrap_or_else(|| format!("{number:04}"));
            let camera = cameras.get(camera).cloned().unwrap_or_else(|| camera.to_string());
            Some(format!("{name} is person {person}, seen by camera {camera}"))
        })
    }

    /// The inputs that the embeddings were made from, as typed.
    fn inputs(&self) -> impl Iterator<Item = &String> {
        let sides = [Some(&self.queries), self.gallery.as_ref()];
        sides.into_iter().flatten().flat_map(|side| &side.provenance.inputs)
    }

    /// Looks for the pictures where they were embedded from.
    fn find_pictures(&mut self) {
        for side in [Some(&mut self.queries), self.gallery.as_mut()].into_iter().flatten() {
            if let Some(inputs) = Inputs::open(&side.provenance.inputs) {
                let find = |name: &String| inputs.find(name).unwrap_or_default();
                side.pictures.files = side.pictures.names.iter().map(find).collect();
            }
        }
    }
}

/// A data set's test pictures.
#[derive(Clone)]
pub(super) struct TestSet {
    name: String,
    query: Vec<LabelledPicture>,
    /// `None`: the queries themselves.
    gallery: Option<Vec<LabelledPicture>>,
    /// Images to learn from, which are not scored.
    train: Vec<LabelledPicture>,
    label_names: LabelNames,
    /// Other files that the walk over its folders left out.
    left_out: LeftOut,
    /// True if it says which images train; else all of them do.
    pub has_split: bool,
    /// One image with its person and camera.
    example: Option<String>,
}

impl TestSet {
    /// The images that are scored.
    pub fn evaluated(&self) -> impl Iterator<Item = &LabelledPicture> {
        self.query.iter().chain(self.gallery.iter().flatten())
    }

    /// Those of the same data set to learn from.
    pub fn train(&self) -> &[LabelledPicture] {
        &self.train
    }

    /// Names of the persons who are scored.
    pub fn persons(&self) -> BTreeSet<String> {
        let known = self.evaluated().filter_map(|picture| match picture.label.person {
            Person::Known(number) => self.label_names.persons.get(&number).cloned(),
            Person::Distractor | Person::Junk => None,
        });
        known.collect()
    }

    /// Pictures each of which is looked for among all others.
    pub fn of_each_other(name: &str, query: Vec<LabelledPicture>) -> TestSet {
        let label_names = LabelNames::default();
        let left_out = LeftOut::default();
        let name = name.to_string();
        let (gallery, train, has_split, example) = (None, Vec::new(), false, None);
        TestSet { name, query, gallery, train, label_names, left_out, has_split, example }
    }
}

/// Lists a data set's test pictures, before the first one is embedded, and makes sure that a query has a match.
pub(super) fn load_set(dir: &Path, options: &LoadOptions, rules: &Rules) -> Result<TestSet> {
    let set = datasets::load(dir, options)?;
    if let Some(reason) = uses::scoring_refusal(&set, rules.across_cameras()) {
        let dir = dir.display();
        return Err(Error::Data(format!("{dir}: {reason}; `lat-wgpu data {dir}` lists what is there")));
    }
    let (has_split, example) = (uses::has_split(&set), uses::an_example(&set));
    let gallery = (!set.query_is_gallery).then_some(set.gallery);
    let label_names = LabelNames { persons: set.persons, cameras: set.cameras };
    let ReidSet { name, query, train, left_out, .. } = set;
    Ok(TestSet { name, query, gallery, train, label_names, left_out, has_split, example })
}

/// How pictures are looked at.
#[derive(Clone, Copy, Default)]
pub(super) struct Look {
    /// Pictures per batch, if that is decided.
    pub batch: Option<usize>,
    /// Device memory to stay within, in bytes; `None`: what the adapter's class suggests.
    pub memory: Option<u64>,
    pub options: LookOptions,
}

pub(super) fn embed_set(
    set: TestSet,
    network: &Network,
    context: &Context,
    look: Look,
    observer: &dyn Observer,
) -> Result<Task> {
    let mut embedder =
        Embedder::new(context, network, look.batch, look.memory.unwrap_or(context.default_memory()))?;
    let mut embed = |pictures: Vec<LabelledPicture>| -> Result<Side> {
        let labels: Vec<Label> = pictures.iter().map(|picture| picture.label).collect();
        let pictures: Vec<Picture> =
            pictures.into_iter().map(|LabelledPicture { path, name, .. }| Picture { path, name }).collect();
        let mut embeddings = Embeddings { paths: Vec::new(), dim: embedder.dim(), rows: Vec::new() };
        let mut shown = Pictures { names: Vec::new(), files: Vec::new() };
        let (mut kept, mut unreadable) = (Vec::new(), 0);
        for (row, label) in embedder.rows(pictures, look.options, observer).zip(labels) {
            match row? {
                (_, Err(error)) => {
                    unreadable += 1;
                    observer.skipped(&error);
                }
                (picture, Ok(row)) => {
                    kept.push(label);
                    shown.names.push(picture.name);
                    shown.files.push(picture.path);
                    embeddings.rows.extend(row);
                }
            }
        }
        if kept.is_empty() {
            return Err(Error::Data(format!("{}: none of {unreadable} pictures could be read", set.name)));
        }
        let provenance = Provenance::default();
        Ok(Side { rows: Box::new(embeddings), labels: kept, pictures: shown, unreadable, provenance })
    };
    let queries = embed(set.query)?;
    let gallery = set.gallery.map(embed).transpose()?;
    let TestSet { name, label_names, left_out, .. } = set;
    Ok(Task { name, queries, gallery, label_names, left_out })
}

/// Opens embeddings and finds their labels.
fn read_task(queries: &Path, gallery: &Path, table: Option<&Path>) -> Result<Task> {
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
    let shown = if same(queries, gallery) { None } else { Some(read_side(gallery, table.as_ref())?) };
    if let Some(shown) = &shown
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
    Ok(Task { name, queries: asked, gallery: shown, label_names, left_out: LeftOut::default() })
}

fn read_side(path: &Path, table: Option<&(&Path, BTreeMap<String, Label>)>) -> Result<Side> {
    let NamedRows { rows, names, provenance, .. } = rows::open(path)?;
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
            let pictures = Pictures { names, files: Vec::new() };
            Ok(Side { rows, labels, pictures, unreadable: 0, provenance })
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

/// What is measured on one task.
pub(super) struct Outcome {
    pub name: String,
    /// Without re-ranking.
    pub plain: Scores,
    pub reranked: Option<Scores>,
    pub verification: Option<Report>,
    queries: usize,
    gallery: GalleryCounts,
    left_out: LeftOut,
    /// If ranked lists were asked for.
    pub listed: Option<Listed>,
    /// Images and persons of it that the model was trained on, if it knows.
    seen: Option<Seen>,
}

/// Ranked lists and what they are about.
pub(super) struct Listed {
    /// The first places for each query; re-ranked, if that was asked for.
    pub lists: Vec<Vec<Place>>,
    pub queries: Labelled,
    /// `None`: the queries themselves.
    pub gallery: Option<Labelled>,
    pub label_names: LabelNames,
}

impl Listed {
    pub fn gallery(&self) -> &Labelled {
        self.gallery.as_ref().unwrap_or(&self.queries)
    }
}

/// Pictures and whom they show.
pub(super) struct Labelled {
    pub pictures: Pictures,
    pub labels: Vec<Label>,
}

/// The gallery in numbers.
struct GalleryCounts {
    /// Without junk.
    pictures: usize,
    /// How many of them are distractors.
    distractors: usize,
    junk: usize,
    unreadable: usize,
}

impl GalleryCounts {
    fn of(side: &Side) -> GalleryCounts {
        let count = |person| side.labels.iter().filter(|label| label.person == person).count();
        let junk = count(Person::Junk);
        GalleryCounts {
            pictures: side.labels.len() - junk,
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

pub(super) fn evaluate(
    task: Task,
    plan: &Plan,
    context: &Context,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let query_is_gallery = task.gallery.is_none();
    let rules = Rules { query_is_gallery, ..plan.rules };
    let retrieval = Retrieval { queries: &task.queries.labels, gallery: &task.gallery().labels, rules };
    let (asked, shown) = (&*task.queries.rows, &*task.gallery().rows);
    let pictures = if query_is_gallery { asked.len() } else { asked.len() + shown.len() };
    let reranking = if plan.rerank.is_some() { 2 * pictures + asked.len() } else { 0 };
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
        let all = Parts::new(parts)?;
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
    let verification = verification.finish(plan.wished_rate);
    let lists = lists.map(RankedLists::finish);
    let queries = task.queries.labels.len() + task.queries.unreadable;
    let gallery = GalleryCounts::of(task.gallery());
    let Task { name, queries: asked, gallery: shown, label_names, left_out } = task;
    let labelled = |Side { pictures, labels, .. }| Labelled { pictures, labels };
    let listed = lists.map(|lists| Listed {
        lists,
        queries: labelled(asked),
        gallery: shown.map(labelled),
        label_names,
    });
    Ok(Outcome { name, plain, reranked, verification, queries, gallery, left_out, listed, seen: None })
}

fn store_threshold(model: &Path, network: &Network, results: &[Outcome]) -> Result<()> {
    let report = results.first().and_then(|outcome| outcome.verification.as_ref());
    let Some(OperatingPoint { wanted, reached }) = report.and_then(|report| report.wished) else {
        return Err(Error::Data("there are no pairs of both kinds: no threshold was stored".to_string()));
    };
    let Some(point) = reached else {
        return Err(Error::Data(format!(
            "already the smallest distance takes more than {wanted} of the pairs of different persons for the same: no \
             threshold was stored"
        )));
    };
    checkpoint::store_threshold(model, network, Threshold { distance: point.threshold, fpr: wanted })?;
    eprintln!("stored in {}: same person up to a squared distance of {}", model.display(), point.threshold);
    Ok(())
}

impl Plan {
    pub fn protocol_name(&self) -> String {
        word(&self.rules.protocol)
    }

    pub fn average_precision_name(&self) -> String {
        match self.rules.protocol {
            Protocol::ReleasedCode => "first-ten".to_string(),
            _ => word(&self.rules.average_precision),
        }
    }

    /// Tables for people.
    fn text(&self, results: &[Outcome]) -> String {
        let mut text = String::new();
        if self.rules.protocol == Protocol::ReleasedCode {
            text.push_str(&format!("{INFLATED}\n"));
        }
        let cameras = if self.rules.ignore_cameras { ", cameras ignored" } else { "" };
        text.push_str(&format!(
            "protocol {}, AP {}{cameras}; squared Euclidean distance\n",
            self.protocol_name(),
            self.average_precision_name()
        ));
        for outcome in results {
            text.push_str(&outcome.counts());
        }

        let names = results.iter().map(|outcome| outcome.name.chars().count());
        let width = names.chain(["  re-ranked".len()]).max().unwrap_or_default();
        text.push_str(&format!("\n{:width$}", ""));
        for heading in RANKS.map(|k| format!("R{k}")).iter().map(String::as_str).chain(["mAP", "mINP"]) {
            text.push_str(&format!("{heading:>8}"));
        }
        text.push('\n');
        for outcome in results {
            text.push_str(&score_line(&outcome.name, width, &outcome.plain));
            if let Some(scores) = &outcome.reranked {
                text.push_str(&score_line("  re-ranked", width, scores));
            }
        }

        text.push_str("\nsame person or not, by distance alone:\n");
        for outcome in results {
            text.push_str(&format!("{:width$}  ", outcome.name));
            match &outcome.verification {
                Some(report) => text.push_str(&describe(report)),
                None => text.push_str("no pairs of both kinds\n"),
            }
        }
        text
    }

    /// One object; with several data sets, one of each in `sets`, and in `failed` those without scores.
    fn json(&self, results: &[Outcome], failed: &[(&PathBuf, Error)], arguments: &EvalArguments) -> Value {
        let mut value = Map::new();
        if let ([outcome], []) = (results, failed) {
            value.append(&mut outcome.json());
        } else {
            let failed = failed
                .iter()
                .map(|(dir, error)| json!({"data": dir.to_string_lossy(), "error": error.with_causes()}));
            value.insert("failed".to_string(), failed.collect());
            let sets: Vec<Map<String, Value>> = results.iter().map(Outcome::json).collect();
            value.insert("sets".to_string(), json!(sets));
        }
        let rerank =
            self.rerank.map(|RerankOptions { k1, k2, lambda }| json!({"k1": k1, "k2": k2, "lambda": lambda}));
        let note = (self.rules.protocol == Protocol::ReleasedCode).then_some(INFLATED);
        let about = json!({
            "protocol": self.protocol_name(),
            "ap": self.average_precision_name(),
            "ignore_cameras": self.rules.ignore_cameras,
            "seed": self.rules.seed,
            "rerank": rerank,
            "flip": arguments.flip,
            "model": arguments.model.as_ref().map(|path| path.to_string_lossy()),
            "note": note,
        });
        if let Value::Object(mut about) = about {
            value.append(&mut about);
        }
        Value::Object(value)
    }
}

impl Outcome {
    /// How many pictures there are, and what became of them.
    pub fn counts(&self) -> String {
        let mut line = format!("{}: {} queries", self.name, self.queries);
        let dropped = &self.plain.dropped;
        if !dropped.is_empty() {
            let reasons: Vec<String> =
                dropped.iter().map(|(reason, count)| format!("{count} {}", reason.describe())).collect();
            line.push_str(&format!(
                ", {} scored (dropped: {})",
                self.plain.valid_queries,
                reasons.join(", ")
            ));
        }
        let GalleryCounts { pictures, distractors, junk, unreadable } = self.gallery;
        line.push_str(&format!("; {pictures} gallery pictures"));
        for (count, what) in [
            (distractors, "of them distractors"),
            (junk, "more are junk"),
            (unreadable, "more are unreadable"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        line.push_str(&self.left_out.after("; left out: "));
        line.push('\n');
        line
    }

    fn json(&self) -> Map<String, Value> {
        let mut value = scores_json(self.scores());
        let GalleryCounts { pictures, distractors, junk, unreadable } = self.gallery;
        value.insert("name".to_string(), json!(self.name));
        value.insert("queries".to_string(), json!(self.queries));
        value.insert("left_out".to_string(), json!(self.left_out.counts()));
        value.insert(
            "gallery".to_string(),
            json!({"pictures": pictures, "distractors": distractors, "junk": junk, "unreadable": unreadable}),
        );
        let plain = self.reranked.is_some().then(|| scores_json(&self.plain));
        value.insert("without_rerank".to_string(), json!(plain));
        value.insert("trained_on".to_string(), json!(self.seen));
        value.insert(
            "verification".to_string(),
            self.verification.as_ref().map_or(Value::Null, verification_json),
        );
        value
    }
}

fn score_line(name: &str, width: usize, scores: &Scores) -> String {
    let mut line = format!("{name:width$}");
    for fraction in scores.ranks.iter().chain([&scores.map, &scores.minp]) {
        line.push_str(&format!("{:>8.2}", 100.0 * fraction));
    }
    line.push('\n');
    line
}

/// Rates in one line, and the threshold that was wished.
fn describe(report: &Report) -> String {
    let mut text = format!(
        "EER {:.2} % at {:.4}; found at false positives of",
        100.0 * report.equal_error_rate,
        report.equal_error_threshold
    );
    for point in &report.operating_points {
        text.push_str(&format!(
            " {:.2} %: {:.2} %;",
            100.0 * point.wanted,
            100.0 * point.true_positive_rate()
        ));
    }
    text.push_str(&format!(
        " {} pairs of one person, {} of two\n",
        report.same_pairs, report.different_pairs
    ));
    match &report.wished {
        Some(OperatingPoint { wanted, reached: Some(point) }) => text.push_str(&format!(
            "  threshold for --fpr {wanted}: {} (finds {:.2} %, false positives {:.4} %)\n",
            point.threshold,
            100.0 * point.true_positive_rate,
            100.0 * point.false_positive_rate
        )),
        Some(OperatingPoint { wanted, reached: None }) => {
            text.push_str(&format!(
                "  threshold for --fpr {wanted}: none, the smallest distance exceeds it\n"
            ));
        }
        None => {}
    }
    text
}

fn scores_json(scores: &Scores) -> Map<String, Value> {
    let mut value = Map::new();
    for (k, rank) in RANKS.iter().zip(scores.ranks) {
        value.insert(format!("rank{k}"), json!(rank));
    }
    value.insert("map".to_string(), json!(scores.map));
    value.insert("minp".to_string(), json!(scores.minp));
    value.insert("valid_queries".to_string(), json!(scores.valid_queries));
    let dropped: BTreeMap<&str, usize> =
        scores.dropped.iter().map(|(reason, &count)| (reason.key(), count)).collect();
    value.insert("dropped".to_string(), json!(dropped));
    value
}

fn verification_json(report: &Report) -> Value {
    let point = |point: &OperatingPoint| {
        json!({
            "fpr": point.wanted,
            "tpr": point.true_positive_rate(),
            "threshold": point.reached.map(|reached| reached.threshold),
            "reached_fpr": point.reached.map(|reached| reached.false_positive_rate),
        })
    };
    let roc: Vec<Value> = report
        .roc
        .iter()
        .map(|point| json!([point.threshold, point.false_positive_rate, point.true_positive_rate]))
        .collect();
    json!({
        "same_pairs": report.same_pairs,
        "different_pairs": report.different_pairs,
        "eer": report.equal_error_rate,
        "eer_threshold": report.equal_error_threshold,
        "tpr_at_fpr": report.operating_points.iter().map(point).collect::<Vec<Value>>(),
        "wished": report.wished.as_ref().map(point),
        "roc": {"columns": ["threshold", "fpr", "tpr"], "points": roc},
        "histogram": {
            "edges": report.histogram.edges,
            "same": report.histogram.same,
            "different": report.histogram.different,
        },
    })
}
