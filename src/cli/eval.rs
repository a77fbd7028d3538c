//! `lat-wgpu eval`: scores a model, or embeddings, on data sets.

use super::arguments::{
    CameraArgument, DeviceArguments, DimArgument, ExpansionArguments, MemoryArgument, ModelArgument,
    NetworkArguments, PageArguments, SetArguments, fraction,
};
use super::eval_report::{self, Page};
use super::json;
use super::open;
use super::paths::{Paths, same};
use super::progress::Progress;
use super::signals::Signals;
use super::words::{counted, described, named};
use crate::checkpoint::{Settings, Threshold};
use crate::datasets::{LoadOptions, TestSet};
use crate::embeddings::gallery::ImageFolder;
use crate::error::{Error, Result};
use crate::images::decode::DecodeOptions;
use crate::retrieval::combined::ExpandOver;
use crate::retrieval::metrics::{AveragePrecision, Protocol, RANKS, Rules, Scores};
use crate::retrieval::rerank::RerankOptions;
use crate::retrieval::verification::{OperatingPoint, Report};
use crate::shape::CameraStatistics;
use crate::tasks::embed::ImageOptions;
use crate::tasks::evaluate::{
    EvaluationSet, GalleryCounts, GroupBy, INFLATED, Metric, Outcome, Request, evaluate_embeddings,
    evaluate_model, store_threshold,
};
use crate::tasks::trained_on::{Overlap, TrainedOn};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// The help of each protocol.
const PROTOCOLS: [&str; 3] = [
    "Market-1501's: junk dropped, same person by the same camera left out",
    "Every image counts, AP within the first ten",
    "One random gallery image per person, the mean of 100 draws",
];

/// The help of each distance.
const DISTANCES: [&str; 2] = [
    "Squared Euclidean distance",
    "That plus the cost of the shortest path that aligns the parts from top to bottom, as AlignedReID",
];

/// The help of each choice of --group-by.
const GROUPS: [&str; 1] =
    ["Mean of the embeddings of each tracklet, by names as MARS has, or a column tracklet"];

/// The help of each choice of --expansion-over.
const OVER: [&str; 2] = [
    "Joins each query with its nearest gallery images",
    "Joins queries and gallery images with their nearest among both",
];

/// `lat-wgpu eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Folder of a data set, or a table of images (.csv); may be repeated
    #[arg(long, value_name = "DIR", required_unless_present = "query_embeddings")]
    pub data: Vec<PathBuf>,
    /// Embeddings of the queries from `lat-wgpu embed`, instead of a model
    #[arg(long, value_name = "FILE", requires = "gallery_embeddings", conflicts_with_all = ["model", "data", "dim"])]
    pub query_embeddings: Option<PathBuf>,
    /// Embeddings of the gallery; if it is the same file, each image is a query against all others
    #[arg(long, value_name = "FILE", requires = "query_embeddings")]
    pub gallery_embeddings: Option<PathBuf>,
    /// Accepts embeddings of different weights; otherwise they are an error
    #[arg(long, requires = "query_embeddings")]
    pub allow_other_weights: bool,
    /// Persons and cameras of the embeddings: path,person,camera (-1: junk, 0000: distractor) [default: from
    /// Market-1501 names]
    #[arg(long, value_name = "CSV", requires = "query_embeddings", conflicts_with = "model")]
    pub labels: Option<PathBuf>,
    /// Pairs of images that count; released-code inflates
    #[arg(long, default_value = "standard", value_parser = described::<Protocol>(&PROTOCOLS))]
    protocol: Protocol,
    /// Average precision: mean of the precisions at the matches, or of those and the ones just before [default: plain]
    #[arg(long, value_parser = named::<AveragePrecision>())]
    ap: Option<AveragePrecision>,
    /// Counts images of the same person by the same camera as matches
    #[arg(long)]
    ignore_cameras: bool,
    /// Seed of the random galleries of cuhk03-single-shot
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Scores groups of images, not single ones
    #[arg(long, value_parser = described::<GroupBy>(&GROUPS))]
    group_by: Option<GroupBy>,
    /// Distance between embeddings
    #[arg(long, default_value = "euclidean", value_parser = described::<Metric>(&DISTANCES))]
    distance: Metric,
    #[command(flatten)]
    pub expansion: ExpansionArguments,
    /// Query expansion: embeddings that take part
    #[arg(long, default_value = "gallery", value_parser = described::<ExpandOver>(&OVER), requires = "query_expansion")]
    expansion_over: ExpandOver,
    /// Adds scores that join similarity with the time between cameras, learnt from the training images (st-ReID)
    #[arg(long, requires = "data", conflicts_with = "distance")]
    spatio_temporal: bool,
    /// Spatio-temporal: frames in a bin of the histograms
    #[arg(long, value_name = "N", default_value_t = 100, requires = "spatio_temporal")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    spatio_temporal_bin: u64,
    /// Re-ranks by k-reciprocal encoding; the scores are then those after it
    #[arg(long)]
    rerank: bool,
    /// Re-ranking: size of the k-reciprocal neighbourhood
    #[arg(long, value_name = "N", default_value_t = RerankOptions::default().k1, requires = "rerank")]
    rerank_k1: usize,
    /// Re-ranking: neighbours to average over; 1 disables
    #[arg(long, value_name = "N", default_value_t = RerankOptions::default().k2, requires = "rerank")]
    rerank_k2: usize,
    /// Re-ranking: weight of the original distance
    #[arg(long, value_name = "F", default_value_t = RerankOptions::default().lambda, requires = "rerank")]
    rerank_lambda: f64,
    /// Averages the embeddings of each image and its mirror image
    #[arg(long, conflicts_with = "query_embeddings")]
    pub flip: bool,
    #[command(flatten)]
    pub dim: DimArgument,
    /// Reports the threshold for this false positive rate, the share of pairs of different persons taken for the same
    #[arg(long, value_name = "F", value_parser = fraction)]
    pub fpr: Option<f64>,
    /// Stores the threshold for --fpr in the model's metadata
    #[arg(long, requires = "fpr", conflicts_with = "query_embeddings")]
    pub store_threshold: bool,
    /// Images per batch [default: enough to fill the adapter, within --memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "query_embeddings")]
    pub batch_size: Option<u32>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Writes the scores as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub page: PageArguments,
    /// With --html: embedded folder; given twice, that of the queries and that of the gallery [default: the recorded
    /// inputs]
    #[arg(long, value_name = "DIR", requires_all = ["html", "query_embeddings"], conflicts_with = "model")]
    pub images: Vec<PathBuf>,
    /// Ignores the EXIF orientation of images
    #[arg(long, conflicts_with = "query_embeddings")]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub camera: CameraArgument,
    #[command(flatten)]
    pub set: SetArguments,
    #[command(flatten)]
    pub network: NetworkArguments,
}

impl EvalArguments {
    /// Returns the protocol.
    ///
    /// # Errors
    /// [`Error::Usage`] if the arguments contradict each other.
    pub fn rules(&self) -> Result<Rules> {
        if self.protocol == Protocol::ReleasedCode && self.ap.is_some() {
            return Err(Error::Usage(
                "--protocol released-code has its own average precision: remove --ap".to_string(),
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

    /// Returns the re-ranking options of --rerank.
    ///
    /// # Errors
    /// [`Error::Usage`] for impossible values.
    pub fn rerank(&self) -> Result<Option<RerankOptions>> {
        let options = RerankOptions { k1: self.rerank_k1, k2: self.rerank_k2, lambda: self.rerank_lambda };
        options.check()?;
        Ok(self.rerank.then_some(options))
    }
}

impl EvalArguments {
    /// The page of --html.
    fn page(&self) -> Result<Option<Page>> {
        let PageArguments { html: Some(target), thumbnails, lists } = &self.page else {
            return Ok(None);
        };
        let mut source = Vec::new();
        if self.query_embeddings.is_none() {
            let flip = if self.flip { ", each image and its mirror image" } else { "" };
            source.push(("Model".to_string(), format!("{}{flip}", self.model.shown().display())));
        }
        if let (Some(queries), Some(gallery)) = (&self.query_embeddings, &self.gallery_embeddings) {
            source.push(("Embeddings".to_string(), format!("{}, {}", queries.display(), gallery.display())));
        }
        Ok(Some(Page {
            target: target.clone(),
            source,
            lists: *lists,
            thumbnails: *thumbnails,
            decode: DecodeOptions { ignore_exif: self.ignore_exif },
            images: self.images.iter().map(|dir| ImageFolder::open(dir)).collect::<Result<_>>()?,
        }))
    }
}

pub fn run(arguments: &EvalArguments) -> Result<ExitCode> {
    let mut request = Request::new(arguments)?;
    let model = match arguments.query_embeddings {
        Some(_) => None,
        None => Some(arguments.model.file()?),
    };
    if arguments.store_threshold && model.as_deref() != Some(arguments.model.shown()) {
        return Err(Error::Usage(format!(
            "--store-threshold writes into the model's file, and {} is a name: copy the file, or name one of your own",
            arguments.model.shown().display()
        )));
    }
    let paths = paths(arguments, &model);
    paths.check()?;
    let page = arguments.page()?;
    let adapter = arguments.device.options();
    let progress = Progress::new(Some(Signals::listen()?));
    let mut results = Vec::new();
    let mut failed = Vec::new();
    match (&model, &arguments.query_embeddings, &arguments.gallery_embeddings) {
        (Some(model), ..) => {
            let network = open::network(model, &arguments.camera.settings(&arguments.network))?;
            if let Some(CameraStatistics { images, .. }) = &network.config.statistics {
                eprintln!(
                    "note: the model's camera statistics are of {}: on images by the same cameras, its scores are not \
                     zero-shot",
                    counted(images.last().copied().unwrap_or(0), "image")
                );
            }
            request.projection = arguments.dim.projection(model, &network, arguments.flip)?;
            let options = arguments.set.options();
            // Checks the labels of all sets before any image is read.
            let mut sets = Vec::new();
            let mut folders = Vec::new();
            for dir in &arguments.data {
                match TestSet::load(dir, &options, request.rules.across_cameras()) {
                    Ok(set) => {
                        folders.push(dir);
                        sets.push(set);
                    }
                    Err(error) => failed.push((dir, error)),
                }
            }
            sets.iter().filter_map(|set| set.example.as_ref()).for_each(|example| eprintln!("{example}"));
            let trained_on = TrainedOn::read(model, &network)?;
            let overlaps: Vec<Option<Overlap>> =
                sets.iter().map(|set| trained_on.as_ref().map(|images| images.overlap(set))).collect();
            for (set, overlap) in sets.iter().zip(&overlaps) {
                for warning in overlap.iter().flat_map(Overlap::warnings) {
                    eprintln!("warning: {}: {warning}", set.name);
                }
            }
            let outcomes = evaluate_model(&sets, &network, &adapter, &request, &progress)?;
            for ((dir, overlap), outcome) in folders.into_iter().zip(overlaps).zip(outcomes) {
                match outcome {
                    Ok(outcome) => results.push(Outcome { overlap, ..outcome }),
                    Err(error) => failed.push((dir, error)),
                }
            }
            if arguments.data.len() == 1
                && let Some((_, error)) = failed.pop()
            {
                return Err(error);
            }
            if arguments.store_threshold {
                let Threshold { distance, .. } = store_threshold(model, &network, results.first())?;
                eprintln!(
                    "stored in {}: same person up to a squared distance of {distance}",
                    model.display()
                );
            }
        }
        (None, Some(queries), Some(gallery)) => {
            let other = Some(gallery.as_path()).filter(|gallery| !same(queries, gallery));
            let labels = arguments.labels.as_deref();
            let mut set = EvaluationSet::read(queries, other, labels, request.group_by)?;
            set.check(&request.rules)?;
            open::print_notes(&set.check_weights(queries, gallery, arguments.allow_other_weights)?);
            set.example().iter().for_each(|example| eprintln!("{example}"));
            paths.reads("the input of the embeddings", set.inputs()).check()?;
            if page.is_some() && arguments.images.is_empty() {
                set.find_images();
            }
            results.push(evaluate_embeddings(&set, &adapter, &request, &progress)?);
        }
        _ => unreachable!("clap requires a data set or both files of embeddings"),
    }

    if !results.is_empty() {
        let shown = model.as_ref().map(|_| arguments.model.shown());
        let value = || request.json(&results, &failed, shown);
        json::print_or_write(arguments.json.as_deref(), &request.text(&results), value)?;
    }
    for (dir, error) in &failed {
        errorln!("error: {} was not scored: {}", dir.display(), error.with_causes());
    }
    if !failed.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if let (Some(page), [outcome]) = (&page, &results[..]) {
        page.write(outcome, &request)?;
        eprintln!("wrote {}", page.target.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The input and output files.
fn paths(arguments: &EvalArguments, model: &Option<PathBuf>) -> Paths {
    let EvalArguments { data, query_embeddings, gallery_embeddings, labels, images, .. } = arguments;
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

impl Request {
    /// Makes a request from the arguments.
    ///
    /// # Errors
    /// [`Error::Usage`] if the arguments contradict each other.
    fn new(arguments: &EvalArguments) -> Result<Request> {
        let usage = |text: &str| Err(Error::Usage(text.to_string()));
        let rules = arguments.rules()?;
        if arguments.query_embeddings.is_some()
            && (arguments.network.settings() != Settings::default()
                || arguments.camera.camera.is_some()
                || arguments.set.options() != LoadOptions::default())
        {
            return usage(
                "embeddings are scored as they are: flags of the network and the data set need --model",
            );
        }
        if arguments.store_threshold {
            if arguments.data.len() != 1 {
                return usage("--store-threshold needs exactly one --data: a model has one threshold");
            }
            if arguments.flip {
                return usage(
                    "--store-threshold does not work with --flip: the threshold applies to single views; remove --flip",
                );
            }
            if rules.protocol == Protocol::ReleasedCode {
                return usage(
                    "--store-threshold needs --protocol standard: pairs by one camera are too easy",
                );
            }
            if arguments.group_by.is_some()
                || arguments.distance != Metric::Euclidean
                || arguments.dim.dim.is_some()
            {
                return usage(
                    "--store-threshold does not work with --group-by, --distance or --dim: the threshold applies to \
                     squared Euclidean distances of single, whole embeddings",
                );
            }
        }
        if arguments.dim.dim.is_some() && arguments.distance == Metric::Aligned {
            return usage("--distance aligned needs whole embeddings, whose parts it aligns: remove --dim");
        }
        if arguments.page.html.is_some() && arguments.data.len() > 1 {
            return usage(
                "--html writes a page of one data set: pass one --data, and run the command again for the next",
            );
        }
        if arguments.images.len() > 2 {
            return usage(
                "pass --images once for all images, or twice: for the queries, then for the gallery",
            );
        }
        Ok(Request {
            rules,
            group_by: arguments.group_by,
            distance: arguments.distance,
            expansion: arguments.expansion.options(arguments.expansion_over)?,
            rerank: arguments.rerank()?,
            spatio_temporal: arguments.spatio_temporal.then_some(arguments.spatio_temporal_bin),
            false_positive_rate: arguments.fpr,
            batch: arguments.batch_size.map(|batch| batch as usize),
            memory: arguments.memory.memory,
            image_options: ImageOptions {
                decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
                flip: arguments.flip,
            },
            camera: arguments.camera.camera.clone(),
            projection: None,
            list_length: if arguments.page.html.is_some() { eval_report::LIST_LENGTH } else { 0 },
        })
    }
}

impl Request {
    pub(super) fn distance_name(&self) -> &'static str {
        match self.distance {
            Metric::Euclidean => "squared Euclidean distance",
            Metric::Aligned => "aligned distance",
        }
    }

    /// The tables on stdout.
    fn text(&self, results: &[Outcome]) -> String {
        let mut text = String::new();
        if self.rules.protocol == Protocol::ReleasedCode {
            text.push_str(&format!("{INFLATED}\n"));
        }
        let cameras = if self.rules.ignore_cameras { ", cameras ignored" } else { "" };
        text.push_str(&format!(
            "protocol {}, AP {}{cameras}; {}{}\n",
            self.protocol_name(),
            self.average_precision_name(),
            self.distance_name(),
            if self.group_by.is_some() { " of tracklets" } else { "" },
        ));
        for outcome in results {
            text.push_str(&outcome.counts(self.group_by));
        }

        let names = results.iter().map(|outcome| outcome.name.chars().count());
        let width = names.chain(["  spatio-temporal".len()]).max().unwrap_or_default();
        text.push_str(&format!("\n{:width$}", ""));
        for heading in RANKS.map(|k| format!("R{k}")).iter().map(String::as_str).chain(["mAP", "mINP"]) {
            text.push_str(&format!("{heading:>8}"));
        }
        text.push('\n');
        for outcome in results {
            text.push_str(&score_line(&outcome.name, width, &outcome.plain));
            for (name, scores) in outcome.variants() {
                text.push_str(&score_line(&format!("  {name}"), width, scores));
            }
        }

        text.push_str("\nverification by distance alone:\n");
        for outcome in results {
            text.push_str(&format!("{:width$}  ", outcome.name));
            match &outcome.verification {
                Some(report) => text.push_str(&describe(report)),
                None => text.push_str("needs pairs of one person and pairs of two\n"),
            }
        }
        text
    }
}

impl Outcome {
    /// Scores besides the plain ones, with names.
    pub(super) fn variants(&self) -> impl Iterator<Item = (&'static str, &Scores)> {
        let variants = [
            ("expanded", &self.expanded),
            ("re-ranked", &self.reranked),
            ("spatio-temporal", &self.spatio_temporal),
            ("without --dim", &self.whole),
        ];
        variants.into_iter().filter_map(|(name, scores)| Some((name, scores.as_ref()?)))
    }

    /// Counts of queries and gallery images, or tracklets, in one line.
    pub(super) fn counts(&self, group_by: Option<GroupBy>) -> String {
        let (of_queries, of_gallery) = match group_by {
            None => ("queries", "gallery images"),
            Some(GroupBy::Tracklet) => ("query tracklets", "gallery tracklets"),
        };
        let mut line = format!("{}: {} {of_queries}", self.name, self.queries);
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
        let GalleryCounts { images, distractors, junk, unreadable } = self.gallery;
        line.push_str(&format!("; {images} {of_gallery}"));
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
}

fn score_line(name: &str, width: usize, scores: &Scores) -> String {
    let mut line = format!("{name:width$}");
    for fraction in scores.ranks.iter().chain([&scores.map, &scores.minp]) {
        line.push_str(&format!("{:>8.2}", 100.0 * fraction));
    }
    line.push('\n');
    line
}

/// Verification rates in one line, and the threshold for --fpr.
fn describe(report: &Report) -> String {
    let mut text = format!(
        "EER {:.2} % at distance {:.4}; TPR at FPR",
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
    match &report.target {
        Some(OperatingPoint { wanted, reached: Some(point) }) => text.push_str(&format!(
            "  threshold for --fpr {wanted}: {} (TPR {:.2} %, FPR {:.4} %)\n",
            point.threshold,
            100.0 * point.true_positive_rate,
            100.0 * point.false_positive_rate
        )),
        Some(OperatingPoint { wanted, reached: None }) => {
            text.push_str(&format!(
                "  threshold for --fpr {wanted}: none, even the smallest distance has a higher FPR\n"
            ));
        }
        None => {}
    }
    text
}
