//! `lat-wgpu reduce`: embeddings in fewer numbers, and what that costs.

use super::arguments::{AdapterArgument, MemoryArgument};
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use super::words::named;
use crate::datasets;
use crate::datasets::labels::Label;
use crate::embeddings::gallery::Gallery;
use crate::embeddings::provenance::{Source, check_same_weights};
use crate::embeddings::rows::{Rows, Selected};
use crate::embeddings::{Dtype, EmbeddingWriter, check_finite};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::observer::{Observer, Stage};
use crate::retrieval::distances::visit;
use crate::retrieval::metrics::{Retrieval, Rules, Scorer};
use crate::retrieval::neighbours::Neighbours;
use crate::retrieval::pca::{FIT_ROWS, FitOptions, Reduced, Reduction};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Queries of a gallery against itself, unless told otherwise.
const QUERIES: usize = 1000;
/// Rows that are reduced and written at a time.
const ROWS: usize = 64;

/// `lat-wgpu reduce`.
#[derive(Debug, Args)]
pub struct ReduceArguments {
    /// Embeddings, or an index folder
    #[arg(value_name = "GALLERY")]
    pub gallery: PathBuf,
    /// Numbers to reduce to; several, as 64,128,256, are compared, and the file holds the most
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "apply")]
    pub dim: Vec<u32>,
    /// Where to write the components, as .safetensors; with --apply the reduced embeddings
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Find nothing: reduce GALLERY by the components in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dim", "fit_rows", "seed", "query_embeddings", "labels"])]
    pub apply: Option<PathBuf>,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long)]
    pub allow_other_weights: bool,
    /// With --apply: how a number is stored
    #[arg(long, default_value = "f32", requires = "apply", value_parser = named::<Dtype>())]
    pub dtype: Dtype,
    /// Look at no more than so many rows, evenly spaced [default: 20000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub fit_rows: Option<u32>,
    /// Where the search for the components starts from, above 2048 numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Measure the loss with these queries [default: 1000 of the gallery, evenly spaced]
    #[arg(long, value_name = "FILE")]
    pub query_embeddings: Option<PathBuf>,
    /// Persons and cameras: path,person,camera [default: from Market-1501 names; else the loss isn't told]
    #[arg(long, value_name = "CSV")]
    pub labels: Option<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Write the table as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

pub fn run(arguments: &ReduceArguments) -> Result<ExitCode> {
    let ReduceArguments { gallery, out, apply: reduction, query_embeddings, labels, json, .. } = arguments;
    let paths =
        Paths::new().reads("GALLERY", [gallery]).reads("--apply", reduction).reads("--labels", labels);
    let paths = paths.reads("--query-embeddings", query_embeddings).writes("--json", json);
    let paths = match reduction {
        Some(_) => paths.writes_embeddings("--out", out),
        None => paths.writes("--out", [out]),
    };
    paths.check()?;
    let gallery = Gallery::open(gallery)?;
    paths.reads("the input of GALLERY", gallery.inputs()).check()?;
    let progress = Progress::new(Some(Signals::listen()?));
    match reduction {
        Some(reduction) => apply(arguments, &gallery, reduction, &progress)?,
        None => fit(arguments, &gallery, &progress)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes embeddings in fewer numbers.
fn apply(arguments: &ReduceArguments, gallery: &Gallery, file: &Path, progress: &Progress) -> Result<()> {
    let reduction = Reduction::read(file)?;
    let reduced = Reduced::new(gallery, &reduction)?;
    let mut provenance = gallery.provenance();
    provenance.settings = Some(reduction.settings_of_reduced(provenance.settings));
    let mut sources =
        vec![Source { file: file.to_path_buf(), weights_sha256: reduction.weights_sha256().cloned() }];
    sources.extend(gallery.sources());
    open::tell(&check_same_weights(&sources, arguments.allow_other_weights)?);
    let metadata = provenance.add_to(&BTreeMap::new());
    let (names, dim) = (gallery.names(), reduced.dim());
    let mut writer = EmbeddingWriter::create(&arguments.out, dim, arguments.dtype, names, &metadata)?;
    let stage = Stage::new(progress, "", names.len(), "nothing was written");
    for start in (0..names.len()).step_by(ROWS) {
        stage.advance(0)?;
        let range = start..(start + ROWS).min(names.len());
        let mut rows = vec![0.0; range.len() * dim];
        reduced.read(range.clone(), &mut rows)?;
        for (name, row) in names[range.clone()].iter().zip(rows.chunks(dim)) {
            check_finite(name, row, arguments.dtype)?;
            writer.push(name, row)?;
        }
        stage.advance(range.len())?;
    }
    let rows = writer.finish()?;
    eprintln!(
        "reduced {rows} rows from {} to {dim} numbers: {}",
        reduction.full_dim(),
        arguments.out.display()
    );
    if let Some(target) = &arguments.json {
        let value = json!({
            "out": arguments.out.to_string_lossy(),
            "rows": rows,
            "full_dim": reduction.full_dim(),
            "dim": dim,
        });
        json::write(target, &value)?;
    }
    Ok(())
}

/// Finds the components, writes them, and tells what they cost.
fn fit(arguments: &ReduceArguments, gallery: &Gallery, progress: &Progress) -> Result<()> {
    // What can be wrong with the labels is found before the work.
    let task = Task::open(arguments, gallery)?;
    let mut sources = gallery.sources();
    if let Ok(Task { queries: Queries::File(queries), .. }) = &task {
        sources.extend(queries.sources());
    }
    open::tell(&check_same_weights(&sources, arguments.allow_other_weights)?);
    let dims: Vec<usize> = arguments.dim.iter().map(|&dim| dim as usize).collect();
    let options = FitOptions {
        dim: dims.iter().copied().max().unwrap_or_default(),
        rows: arguments.fit_rows.map_or(FIT_ROWS, |rows| rows as usize),
        seed: arguments.seed,
    };
    let provenance = gallery.provenance();
    let reduction = Reduction::fit(gallery, provenance.settings.as_ref(), options, progress)?
        .with_weights(provenance.weights_sha256);
    progress.finish();
    reduction.write(&arguments.out)?;
    eprintln!(
        "fitted on {} of {} rows ({}): {}",
        reduction.rows(),
        gallery.len(),
        reduction.method(),
        arguments.out.display()
    );

    let mut whole = None;
    let mut scores: Vec<Option<f64>> = vec![None; dims.len()];
    match task {
        Err(reason) => eprintln!("note: mAP isn't told: {reason}"),
        Ok(task) => {
            let context =
                Context::open(&ContextOptions::from_environment(arguments.adapter.adapter.clone()))?;
            let memory = arguments.memory.within(&context);
            let measure =
                |reduction: Option<&Reduction>| task.map(&context, gallery, reduction, memory, progress);
            whole = Some(measure(None)?);
            for (&dim, score) in dims.iter().zip(&mut scores) {
                *score = Some(measure(Some(&reduction.leading(dim)))?);
            }
        }
    }

    let line = |dim: usize, map: Option<f64>, explained: f64| {
        let percent = |fraction: Option<f64>| fraction.map_or(String::new(), |f| format!("{:.2}", 100.0 * f));
        let lost = whole.and_then(|whole| Some(whole - map?));
        format!("{dim:>7}{:>8}{:>8}{:>11.2}\n", percent(map), percent(lost), 100.0 * explained)
    };
    let mut text = format!("{:>7}{:>8}{:>8}{:>11}\n", "numbers", "mAP", "lost", "variance");
    text.push_str(&line(reduction.full_dim(), whole, 1.0));
    let mut rows = Vec::new();
    for (&dim, &map) in dims.iter().zip(&scores) {
        let explained = reduction.explained(dim);
        text.push_str(&line(dim, map, explained));
        let lost = whole.and_then(|whole| Some(whole - map?));
        rows.push(json!({ "dim": dim, "map": map, "lost": lost, "variance": explained }));
    }
    let value: Value = json!({
        "out": arguments.out.to_string_lossy(),
        "rows": gallery.len(),
        "fit_rows": reduction.rows(),
        "method": reduction.method(),
        "full_dim": reduction.full_dim(),
        "map": whole,
        "dims": rows,
    });
    json::print_or_write(arguments.json.as_deref(), &text, || value)
}

/// Queries with labels for themselves and for the gallery.
struct Task {
    queries: Queries,
    query_labels: Vec<Label>,
    gallery_labels: Vec<Label>,
}

enum Queries {
    /// These rows of the gallery. Market-1501's protocol leaves the query itself out: it is by its own camera.
    Rows(Vec<usize>),
    File(Box<Gallery>),
}

impl Task {
    /// Whom the images show; inside, why mAP can't be told where no labels are given.
    fn open(arguments: &ReduceArguments, gallery: &Gallery) -> Result<std::result::Result<Task, String>> {
        let table = arguments
            .labels
            .as_deref()
            .map(|path| Ok::<_, Error>((path, datasets::read_labels(path)?)))
            .transpose()?;
        let labels = |names: &[String]| -> Result<std::result::Result<Vec<Label>, String>> {
            let mut labels = Vec::with_capacity(names.len());
            for name in names {
                let label = match &table {
                    Some((_, table)) => table.get(name).copied(),
                    None => Label::from_market_name(name),
                };
                match (label, &table) {
                    (Some(label), _) => labels.push(label),
                    (None, Some((path, _))) => {
                        return Err(Error::Data(format!("{} doesn't list {name}", path.display())));
                    }
                    (None, None) => {
                        return Ok(Err(format!(
                            "{name} tells no person and camera as 0002_c1s1_000451_03.jpg does; --labels can"
                        )));
                    }
                }
            }
            Ok(Ok(labels))
        };
        let gallery_labels = match labels(gallery.names())? {
            Ok(labels) => labels,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(path) = &arguments.query_embeddings else {
            let (count, all) = (QUERIES.min(gallery.len()), gallery.len());
            let rows: Vec<usize> = (0..count).map(|i| i * all / count).collect();
            let query_labels = rows.iter().map(|&row| gallery_labels[row]).collect();
            return Ok(Ok(Task { queries: Queries::Rows(rows), query_labels, gallery_labels }));
        };
        let queries = Gallery::open(path)?;
        if queries.dim() != gallery.dim() {
            return Err(Error::Data(format!(
                "{} has embeddings of {} numbers, the gallery of {}: both must come from the same model",
                path.display(),
                queries.dim(),
                gallery.dim()
            )));
        }
        Ok(labels(queries.names())?.map(|query_labels| Task {
            queries: Queries::File(Box::new(queries)),
            query_labels,
            gallery_labels,
        }))
    }

    /// mAP by Market-1501's protocol, on vectors as they are or reduced.
    fn map(
        &self,
        context: &Context,
        gallery: &Gallery,
        reduction: Option<&Reduction>,
        memory: u64,
        progress: &Progress,
    ) -> Result<f64> {
        let selected;
        let queries: &dyn Rows = match &self.queries {
            Queries::File(queries) => &**queries,
            Queries::Rows(rows) => {
                selected = Selected::new(gallery, rows.clone());
                &selected
            }
        };
        match reduction {
            None => self.score(context, queries, gallery, memory, progress),
            Some(reduction) => {
                let (queries, gallery) =
                    (Reduced::new(queries, reduction)?, Reduced::new(gallery, reduction)?);
                self.score(context, &queries, &gallery, memory, progress)
            }
        }
    }

    fn score(
        &self,
        context: &Context,
        queries: &dyn Rows,
        gallery: &dyn Rows,
        memory: u64,
        progress: &Progress,
    ) -> Result<f64> {
        let rules = Rules::default();
        let retrieval = Retrieval { queries: &self.query_labels, gallery: &self.gallery_labels, rules };
        let mut scorer = Scorer::new(retrieval);
        visit(&mut Neighbours::new(context, queries, gallery, memory)?, |range, rows| {
            progress.check("the components are written, what they cost is not told")?;
            scorer.add(range, rows);
            Ok(())
        })?;
        Ok(scorer.finish()?.map)
    }
}
