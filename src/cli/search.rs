//! `lat-wgpu search`: finds the persons of images in a gallery of embeddings.

use super::arguments::{
    CamerasArgument, DeviceArguments, ExpansionArguments, MemoryArgument, NetworkArguments, PageArguments,
    ReductionArguments, TargetArguments,
};
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::search_report::Page;
use super::signals::Signals;
use crate::embeddings::gallery::Filter;
use crate::embeddings::rows::Selected;
use crate::error::Result;
use crate::images::decode::DecodeOptions;
use crate::images::walk::Listing;
use crate::kernels::topk::MAX_K;
use crate::retrieval::combined::ExpandOver;
use crate::tasks::embed::ImageOptions;
use crate::tasks::search::{EXPANDED, Found, Match, Ranking, Request, search, verdicts};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu search`.
#[derive(Debug, Args)]
pub struct SearchArguments {
    #[command(flatten)]
    pub target: TargetArguments,
    /// Image to find, or folder of such images; may be repeated
    #[arg(long, required = true, value_name = "IMG|DIR")]
    pub query: Vec<PathBuf>,
    /// Follows links to files and folders; enters each folder once
    #[arg(long)]
    pub follow_links: bool,
    /// Number of gallery images to list for each query
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_K as i64))]
    pub top: u32,
    /// Searches only these images: camera=1,2 by Market-1501 names, or path=GLOB; may be repeated, all must match
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<Filter>,
    /// Averages the embeddings of each query and its mirror image; the model's threshold does not apply then
    #[arg(long)]
    pub flip: bool,
    #[command(flatten)]
    pub reduction: ReductionArguments,
    #[command(flatten)]
    pub expansion: ExpansionArguments,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Writes the lists as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub page: PageArguments,
    /// With --html: embedded folder, to show its images [default: the inputs recorded in the gallery, if they exist]
    #[arg(long, value_name = "DIR", requires = "html")]
    pub images: Option<PathBuf>,
    /// Ignores the EXIF orientation of images
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub cameras: CamerasArgument,
    #[command(flatten)]
    pub network: NetworkArguments,
}

impl SearchArguments {
    /// The page of --html.
    fn page(&self) -> Result<Option<Page>> {
        let PageArguments { html: Some(target), thumbnails, lists } = &self.page else {
            return Ok(None);
        };
        let flip = if self.flip { ", each query and its mirror image" } else { "" };
        let line = |name: &str, value: String| (name.to_string(), value);
        Ok(Some(Page {
            target: target.clone(),
            source: vec![
                line("Model", format!("{}{flip}", self.target.model.shown().display())),
                line("Gallery", self.target.gallery.display().to_string()),
            ],
            lists: *lists,
            thumbnails: *thumbnails,
            decode: DecodeOptions { ignore_exif: self.ignore_exif },
            images: None,
        }))
    }
}

pub fn run(arguments: &SearchArguments) -> Result<ExitCode> {
    let SearchArguments { target, query, reduction, images, json, page, .. } = arguments;
    let model = target.model.file()?;
    let paths = Paths::new().following(arguments.follow_links).reads("--model", [&model]);
    let paths = paths.reads("--gallery", [&target.gallery]).reads("--query", query);
    let paths = paths.reads("--reduce", &reduction.reduce).reads("--images", images);
    let paths = paths.reads("--cameras", &arguments.cameras.cameras);
    let paths = paths.writes("--json", json).writes("--html", &page.html);
    paths.check()?;
    let network = open::network(&model, &arguments.cameras.all.settings(&arguments.network))?;
    let mut page = arguments.page()?;
    let Listing { images, left_out } = open::images(&arguments.query, arguments.follow_links)?;
    if !left_out.counts().is_empty() {
        eprintln!("note: left out: {left_out}");
    }
    let cameras = arguments.cameras.source(&network.config)?;
    cameras.check(&network.config, images.iter().map(|image| &image.name))?;
    let (gallery, projection) = target.open(&model, &network, reduction, arguments.flip)?;
    paths.reads("the input of --gallery", gallery.inputs()).check()?;
    if let Some(page) = &mut page {
        page.images = gallery.images(arguments.images.as_deref())?;
        if page.images.is_none() {
            open::print_notes(&[open::NO_IMAGES]);
        }
    }
    let selected = Selected::new(&gallery, gallery.filtered(&arguments.filter)?);
    let expansion = arguments.expansion.options(ExpandOver::Gallery)?;
    let verdicts = match expansion {
        Some(_) => Err(EXPANDED),
        None => verdicts(&network, arguments.flip || gallery.is_flipped(), projection.is_some()),
    };
    open::print_notes(verdicts.err().as_slice());
    let request = Request {
        network: &network,
        projection: projection.as_ref(),
        adapter: arguments.device.options(),
        memory: arguments.memory.memory,
        image_options: ImageOptions {
            decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
            flip: arguments.flip,
        },
        expansion,
        cameras,
        top: arguments.top as usize,
        verdicts,
    };
    let progress = Progress::new(Some(Signals::listen()?));
    let found = search(&images, &gallery, &selected, &request, &progress);
    let found = Found { left_out, ..found.map_err(open::about_skipped)? };

    json::print_or_write(arguments.json.as_deref(), &found.text(), || found.json())?;
    if let Some(page) = &page {
        page.write(&found, &gallery)?;
        eprintln!("wrote {}", page.target.display());
    }
    Ok(ExitCode::SUCCESS)
}

impl Found {
    /// The value of --json, and the answer of `lat-wgpu serve`.
    pub(super) fn json(&self) -> Value {
        let queries: Vec<Value> = self.queries.iter().map(Ranking::json).collect();
        json!({
            "threshold": self.verdicts.ok().map(|threshold| threshold.distance),
            "left_out": self.left_out.counts(),
            "gallery": self.gallery,
            "queries": queries,
        })
    }

    /// A table per query.
    fn text(&self) -> String {
        let mut text = String::new();
        for Ranking { query, results, .. } in &self.queries {
            text.push_str(&format!("{query}\n"));
            for (i, Match { path, distance, same, .. }) in results.iter().enumerate() {
                let verdict = match same {
                    Some(true) => "same       ",
                    Some(false) => "different  ",
                    None => "",
                };
                text.push_str(&format!("{:>6}  {distance:.4}  {verdict}{path}\n", i + 1));
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
