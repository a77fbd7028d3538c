//! `lat-wgpu cluster`: groups the images of a gallery into persons, without labels.

use super::arguments::{AdapterArgument, MemoryArgument, PageArguments};
use super::json;
use super::open;
use super::origin;
use super::paths::Paths;
use super::progress::Progress;
use super::search_report::{self, gallery_image};
use super::signals::Signals;
use crate::datasets::labels::Label;
use crate::embeddings::gallery::{Gallery, Images};
use crate::embeddings::provenance::check_same_weights;
use crate::error::{Error, Result};
use crate::gpu::Precision;
use crate::images::decode::DecodeOptions;
use crate::report::{Match, RankedList, Report, Shown, Thumbnails, Verdict};
use crate::retrieval::dbscan::{ClusterOptions, Radius};
use crate::retrieval::jaccard::JaccardOptions;
use crate::storage::atomic::write_atomically;
use crate::tasks::cluster::{Outcome, Request, cluster};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Most images of a group on the page.
const SHOWN: usize = 20;

/// `lat-wgpu cluster`.
#[derive(Debug, Args)]
pub struct ClusterArguments {
    /// Embeddings from `lat-wgpu embed`: a file or an index folder
    #[arg(long, value_name = "FILE|DIR")]
    pub gallery: PathBuf,
    /// Accepts embeddings of different weights; otherwise they are an error
    #[arg(long)]
    pub allow_other_weights: bool,
    /// Output table: path, group (-1: outlier), person (the group, to be replaced by a name) and camera
    #[arg(short, long, value_name = "CSV")]
    pub out: PathBuf,
    /// Largest distance within a group; auto takes the best of 0.30, 0.35 … 0.65
    #[arg(long, value_name = "auto|F", default_value = "auto")]
    pub eps: Radius,
    /// Size of the k-reciprocal neighbourhood, with the image itself
    #[arg(long, value_name = "N", default_value_t = JaccardOptions::default().k1)]
    pub k1: usize,
    /// Neighbours to average over; 1 disables
    #[arg(long, value_name = "N", default_value_t = JaccardOptions::default().k2)]
    pub k2: usize,
    /// Images within --eps that make an image the core of a group, with the image itself
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub min_samples: u32,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Writes a summary as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub page: PageArguments,
    /// With --html: embedded folder, to show its images [default: the inputs recorded in the gallery, if they exist]
    #[arg(long, value_name = "DIR", requires = "html")]
    pub images: Option<PathBuf>,
    /// With --html: ignores the EXIF orientation of images
    #[arg(long, requires = "html")]
    pub ignore_exif: bool,
}

pub fn run(arguments: &ClusterArguments) -> Result<ExitCode> {
    let ClusterArguments { gallery, out, json, page, images, .. } = arguments;
    let paths = Paths::new().reads("--gallery", [gallery]).reads("--images", images);
    let paths = paths.writes("--out", [out]).writes("--json", json).writes("--html", &page.html);
    paths.check()?;
    let gallery = Gallery::open(gallery)?;
    let sources = gallery.sources();
    if sources.len() > 1 {
        open::print_notes(&check_same_weights(&sources, arguments.allow_other_weights)?);
    }
    let images = match page.html {
        Some(_) => gallery.images(images.as_deref())?,
        None => None,
    };
    if page.html.is_some() && images.is_none() {
        open::print_notes(&[open::NO_IMAGES]);
    }
    let request = Request {
        options: ClusterOptions {
            jaccard: JaccardOptions { k1: arguments.k1, k2: arguments.k2 },
            radius: arguments.eps,
            min_samples: arguments.min_samples as usize,
        },
        adapter: arguments.adapter.options(Precision::F32),
        memory: arguments.memory.memory,
    };
    let progress = Progress::new(Some(Signals::listen()?));
    let outcome = cluster(&gallery, &request, &progress);
    progress.finish();
    let outcome = outcome?;
    for size in outcome.grouping.clusters.suspicious() {
        eprintln!("warning: a group of {size} of {} images is hardly one person", gallery.names().len());
    }
    write_atomically(out, &table(gallery.names(), &outcome)?)?;
    json::print_or_write(json.as_deref(), &text(&outcome), || value(&outcome, &request))?;
    eprintln!("wrote {}", out.display());
    if let Some(target) = &page.html {
        write_page(target, arguments, &gallery, images.as_ref(), &outcome)?;
        eprintln!("wrote {}", target.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The table of --out.
fn table(names: &[String], outcome: &Outcome) -> Result<Vec<u8>> {
    let failed = |e: csv::Error| Error::Data(format!("the table: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["path", "group", "person", "camera"]).map_err(failed)?;
    for (name, label) in names.iter().zip(&outcome.grouping.clusters.labels) {
        let group = label.map_or("-1".to_string(), |label| label.to_string());
        let camera =
            Label::from_market_name(name).map_or("unknown".to_string(), |label| label.camera.to_string());
        writer.write_record([name, &group, &group, &camera]).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| Error::Data(format!("the table: {e}")))
}

fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    if !outcome.grouping.tried.is_empty() {
        text.push_str("   eps  groups  clustered  silhouette   score\n");
    }
    for choice in &outcome.grouping.tried {
        let (count, share) = (choice.clusters.count, 100.0 * choice.clusters.share());
        text.push_str(&format!("{:>6.2}{count:>8}{share:>9.1} %", choice.eps));
        match (choice.silhouette, choice.score()) {
            (Some(silhouette), Some(score)) => text.push_str(&format!("{silhouette:>12.4}{score:>8.4}\n")),
            _ => text.push_str(&format!("{:>12}{:>8}\n", "-", "-")),
        }
    }
    text.push_str(&format!(
        "eps {}: {} groups of {} images, {} outliers\n",
        outcome.grouping.eps,
        outcome.grouping.clusters.count,
        outcome.grouping.clusters.labels.len() - outcome.grouping.clusters.outliers(),
        outcome.grouping.clusters.outliers()
    ));
    text
}

/// The value of --json.
fn value(outcome: &Outcome, request: &Request) -> Value {
    let tried: Vec<Value> = outcome
        .grouping
        .tried
        .iter()
        .map(|choice| {
            json!({
                "eps": choice.eps,
                "groups": choice.clusters.count,
                "clustered": choice.clusters.share(),
                "silhouette": choice.silhouette,
                "score": choice.score(),
            })
        })
        .collect();
    json!({
        "images": outcome.grouping.clusters.labels.len(),
        "groups": outcome.grouping.clusters.count,
        "outliers": outcome.grouping.clusters.outliers(),
        "sizes": outcome.grouping.clusters.sizes(),
        "eps": outcome.grouping.eps,
        "tried": tried,
        "k1": request.options.jaccard.k1,
        "k2": request.options.jaccard.k2,
        "min_samples": request.options.min_samples,
    })
}

/// Writes the page of --html: the largest groups, each as its first image with the nearest others.
fn write_page(
    target: &Path,
    arguments: &ClusterArguments,
    gallery: &Gallery,
    images: Option<&Images>,
    outcome: &Outcome,
) -> Result<()> {
    let decode = DecodeOptions { ignore_exif: arguments.ignore_exif };
    let mut thumbnails = Thumbnails::new(target, arguments.page.thumbnails, decode)?;
    let mut groups: Vec<(u32, Vec<usize>)> =
        (0..outcome.grouping.clusters.count as u32).map(|group| (group, vec![])).collect();
    for (row, label) in outcome.grouping.clusters.labels.iter().enumerate() {
        label.iter().for_each(|&label| groups[label as usize].1.push(row));
    }
    groups.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
    let shown = groups.len().min(arguments.page.lists);
    let mut image = |row: usize| {
        let image = gallery_image(&mut thumbnails, gallery, images, row);
        search_report::shown(&gallery.names()[row], image)
    };
    let mut lists = Vec::with_capacity(shown);
    for (group, rows) in &groups[..shown] {
        let first = rows[0];
        let near = outcome.grouping.distances.row(first);
        let distance = |row: usize| match near.binary_search_by_key(&(row as u32), |&(other, _)| other) {
            Ok(place) => near[place].1 as f32,
            Err(_) => 1.0,
        };
        let mut others: Vec<(f32, usize)> = rows[1..].iter().map(|&row| (distance(row), row)).collect();
        others.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let asked = image(first);
        let query = Shown { name: format!("group {group}, {} images: {}", rows.len(), asked.name), ..asked };
        let mut matches = Vec::new();
        for (distance, row) in others.into_iter().take(SHOWN - 1) {
            matches.push(Match { shown: image(row), distance, verdict: Verdict::Unknown, errors: None });
        }
        lists.push(RankedList { query, average_precision: None, matches });
    }
    let fact = |name: &str, value: String| (name.to_string(), value);
    let mut facts = vec![
        fact("Gallery", arguments.gallery.display().to_string()),
        fact("Groups", text(outcome).lines().last().unwrap_or_default().to_string()),
        fact("Images", thumbnails.about()),
    ];
    facts.extend(origin::facts(&outcome.adapter));
    let which = match shown == groups.len() {
        true => "Each group".to_string(),
        false => format!("The {shown} largest of {} groups, each", groups.len()),
    };
    let lists_about = vec![format!(
        "{which} with its first image as the query, and up to {} others by their distance to it. The number is the Jaccard \
         distance of the neighbours that two images share: 0 for the same, 1 for none.",
        SHOWN - 1
    )];
    let title = format!("{} groups in {}", outcome.grouping.clusters.count, arguments.gallery.display());
    Report { title, facts, lists_about, lists, ..Report::default() }.write(target)
}
