//! `lat-wgpu reduce`: reduces embeddings to fewer dimensions and measures the loss of mAP.

use super::arguments::{AdapterArgument, MemoryArgument};
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use super::words::named;
use crate::checkpoint::Settings;
use crate::embeddings::Dtype;
use crate::embeddings::gallery::Gallery;
use crate::embeddings::provenance::{Source, check_same_weights};
use crate::embeddings::rows::Rows;
use crate::error::Result;
use crate::gpu::Precision;
use crate::retrieval::pca::{self, FIT_ROWS, FitOptions, Projection};
use crate::tasks::reduce::{self, Accuracy, LabelledQueries};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `lat-wgpu reduce`.
#[derive(Debug, Args)]
pub struct ReduceArguments {
    /// Embeddings, or an index folder
    #[arg(value_name = "GALLERY")]
    pub gallery: PathBuf,
    /// Dimensions to reduce to; several, such as 64,128,256, are compared, and the file holds the largest
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "apply")]
    pub dim: Vec<u32>,
    /// Output file: the components, as .safetensors; with --apply the reduced embeddings
    #[arg(short, long, value_name = "FILE", required_unless_present = "into")]
    pub out: Option<PathBuf>,
    /// Stores the components in this model's file, the one that made the embeddings, for --dim of `embed`, `eval`, `search`
    /// and `serve`
    #[arg(long, value_name = "MODEL", conflicts_with = "out")]
    pub into: Option<PathBuf>,
    /// Reduces GALLERY by the components in this file instead of fitting new ones
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dim", "fit_rows", "seed", "query_embeddings", "labels", "into"])]
    pub apply: Option<PathBuf>,
    /// Accepts embeddings of different weights; otherwise they are an error
    #[arg(long)]
    pub allow_other_weights: bool,
    /// With --apply: data type of the embeddings
    #[arg(long, default_value = "f32", requires = "apply", value_parser = named::<Dtype>())]
    pub dtype: Dtype,
    /// Maximum rows to fit to, evenly spaced [default: 20000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub fit_rows: Option<u32>,
    /// Seed of the initial components, for more than 2048 dimensions
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Queries to measure the loss with [default: 1000 of the gallery, evenly spaced]
    #[arg(long, value_name = "FILE")]
    pub query_embeddings: Option<PathBuf>,
    /// Persons and cameras: path,person,camera [default: from Market-1501 names; without labels no loss is reported]
    #[arg(long, value_name = "CSV")]
    pub labels: Option<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Writes the table as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

pub fn run(arguments: &ReduceArguments) -> Result<ExitCode> {
    let ReduceArguments { gallery, out, into, apply: projection, query_embeddings, labels, json, .. } =
        arguments;
    let paths =
        Paths::new().reads("GALLERY", [gallery]).reads("--apply", projection).reads("--labels", labels);
    let paths = paths.reads("--query-embeddings", query_embeddings).writes("--json", json);
    let paths = paths.updates("--into", into);
    let paths = match (projection, out) {
        (Some(_), Some(out)) => paths.writes_embeddings("--out", out),
        _ => paths.writes("--out", out),
    };
    paths.check()?;
    let gallery = Gallery::open(gallery)?;
    paths.reads("the input of GALLERY", gallery.inputs()).check()?;
    let progress = Progress::new(Some(Signals::listen()?));
    match (projection, out) {
        (Some(projection), Some(out)) => apply(arguments, &gallery, projection, out, &progress)?,
        _ => fit(arguments, &gallery, &progress)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes embeddings in fewer dimensions.
fn apply(
    arguments: &ReduceArguments,
    gallery: &Gallery,
    file: &Path,
    out: &Path,
    progress: &Progress,
) -> Result<()> {
    let projection = Projection::read(file)?;
    open::print_notes(&reduce::check_weights(file, &projection, gallery, arguments.allow_other_weights)?);
    let rows = reduce::apply(&projection, gallery, out, arguments.dtype, progress)?;
    let dim = projection.dim();
    eprintln!("reduced {rows} rows from {} to {dim} dimensions: {}", projection.full_dim(), out.display());
    if let Some(target) = &arguments.json {
        let value = json!({
            "out": out.to_string_lossy(),
            "rows": rows,
            "full_dim": projection.full_dim(),
            "dim": dim,
        });
        json::write(target, &value)?;
    }
    Ok(())
}

/// Fits a projection, writes it, and measures the loss of mAP.
fn fit(arguments: &ReduceArguments, gallery: &Gallery, progress: &Progress) -> Result<()> {
    let ReduceArguments { query_embeddings, labels, .. } = arguments;
    let queries = LabelledQueries::open(gallery, query_embeddings.as_deref(), labels.as_deref())?;
    let mut sources = gallery.sources();
    sources.extend(queries.iter().flat_map(LabelledQueries::sources));
    if let Some(model) = &arguments.into {
        let network = open::network(model, &Settings::default())?;
        let settings = pca::settings(&network, gallery.is_flipped(), None);
        gallery.check_fits(&settings, network.config.embedding_len())?;
        sources.push(Source { file: model.clone(), weights_sha256: Some(network.weights_sha256()) });
    }
    open::print_notes(&check_same_weights(&sources, arguments.allow_other_weights)?);
    let dims: Vec<usize> = arguments.dim.iter().map(|&dim| dim as usize).collect();
    let options = FitOptions {
        dim: dims.iter().copied().max().unwrap_or_default(),
        rows: arguments.fit_rows.map_or(FIT_ROWS, |rows| rows as usize),
        seed: arguments.seed,
    };
    let fitted = reduce::fit(gallery, options, progress);
    progress.finish();
    let mut projection = fitted?;
    let out = match (&arguments.into, &arguments.out) {
        (Some(model), _) => {
            projection.store(model)?;
            projection = projection.to_unit();
            model
        }
        (None, Some(out)) => {
            projection.write(out)?;
            out
        }
        (None, None) => unreachable!("clap requires --out or --into"),
    };
    eprintln!(
        "fitted on {} of {} rows ({}): {}",
        projection.rows(),
        gallery.len(),
        projection.method(),
        out.display()
    );

    let accuracy = match queries {
        Err(reason) => {
            eprintln!("note: mAP is not measured: {reason}");
            None
        }
        Ok(queries) => {
            let adapter = arguments.adapter.options(Precision::F32);
            let memory = arguments.memory.memory;
            Some(queries.measure(gallery, &projection, &dims, &adapter, memory, progress)?)
        }
    };
    let whole = accuracy.as_ref().map(|accuracy| accuracy.whole);
    let scores: Vec<Option<f64>> = match accuracy {
        Some(Accuracy { reduced, .. }) => reduced.into_iter().map(Some).collect(),
        None => vec![None; dims.len()],
    };

    let line = |dim: usize, map: Option<f64>, explained: f64| {
        let percent = |fraction: Option<f64>| fraction.map_or(String::new(), |f| format!("{:.2}", 100.0 * f));
        let lost = whole.and_then(|whole| Some(whole - map?));
        format!("{dim:>7}{:>8}{:>8}{:>11.2}\n", percent(map), percent(lost), 100.0 * explained)
    };
    let mut text = format!("{:>7}{:>8}{:>8}{:>11}\n", "dims", "mAP", "lost", "variance");
    text.push_str(&line(projection.full_dim(), whole, 1.0));
    let mut rows = Vec::new();
    for (&dim, &map) in dims.iter().zip(&scores) {
        let explained = projection.explained(dim);
        text.push_str(&line(dim, map, explained));
        let lost = whole.and_then(|whole| Some(whole - map?));
        rows.push(json!({ "dim": dim, "map": map, "lost": lost, "variance": explained }));
    }
    let value: Value = json!({
        "out": out.to_string_lossy(),
        "rows": gallery.len(),
        "fit_rows": projection.rows(),
        "method": projection.method(),
        "full_dim": projection.full_dim(),
        "map": whole,
        "dims": rows,
    });
    json::print_or_write(arguments.json.as_deref(), &text, || value)
}
