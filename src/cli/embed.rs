//! `lat-wgpu embed`: folders of person crops to embeddings.

use super::args::EmbedArguments;
use super::info::mebibytes;
use super::json;
use super::signals::Signals;
use crate::checkpoint::{self, Network};
use crate::data::decode::DecodeOptions;
use crate::data::embeddings::EmbeddingWriter;
use crate::data::walk::{self, Picture};
use crate::embed::{DEFAULT_MEMORY, Embedder, LookOptions, Watch, embed_pictures};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions, DispatchTime};
use crate::shape::{LambdaOn, PartTokens};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub fn run(arguments: &EmbedArguments) -> Result<ExitCode> {
    let start = Instant::now();
    // Everything that can be wrong on the host is found before the adapter is touched.
    let network = checkpoint::load(&arguments.model, &arguments.network.settings())?;
    for note in &network.notes {
        eprintln!("note: {note}");
    }
    let pictures = walk::list_pictures(&arguments.inputs)?;
    let names: Vec<String> = pictures.iter().map(|picture| picture.name.clone()).collect();
    let metadata = BTreeMap::from([(
        "lat_wgpu".to_string(),
        checkpoint::lat_wgpu_metadata(&network.config, &network.preprocess, None),
    )]);
    let dim = network.config.embedding_len();
    let writer = EmbeddingWriter::create(&arguments.out, dim, arguments.dtype.into(), &names, &metadata)?;

    let signals = Signals::listen()?;
    let context = Context::open(&ContextOptions::from_environment(arguments.adapter.clone()))?;
    if context.is_cpu() {
        eprintln!("note: {} is a CPU adapter: right, but slow", context.adapter.name);
    }
    let batch = arguments.batch.map(|batch| batch as usize);
    let memory = arguments.memory.unwrap_or(DEFAULT_MEMORY);
    let mut embedder = Embedder::new(&context, &network, batch, memory)?;
    let device_bytes = embedder.need().bytes(embedder.batch());

    let mut progress = Progress {
        bar: progress_bar(pictures.len() as u64),
        writer,
        signals,
        start,
        first_vector: None,
        rows: 0,
        skipped: 0,
    };
    let decode = DecodeOptions { ignore_exif: arguments.ignore_exif };
    let options = LookOptions { decode, flip: false };
    embed_pictures(&mut embedder, &pictures, options, &mut progress)?;
    let Progress { bar, writer, first_vector, skipped, .. } = progress;
    bar.finish_and_clear();
    if skipped == pictures.len() {
        return Err(Error::NothingToDo(format!("none of {skipped} pictures could be read")));
    }
    let rows = writer.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    // Loading and compiling come before the first vector; the rate is that of the work after it.
    let first = first_vector.unwrap_or_default().as_secs_f64();
    let per_second = rows as f64 / seconds;

    eprintln!(
        "embedded {rows} pictures ({skipped} skipped) in {seconds:.1} s, {per_second:.2} images/s: {}; {} in batches of {}, {}",
        describe(&network),
        context.adapter.name,
        embedder.batch(),
        mebibytes(device_bytes),
    );
    if arguments.profile {
        print_profile(&embedder.profile()?);
    }
    if let Some(target) = &arguments.json {
        let config = &network.config;
        let value = json!({
            "out": arguments.out.to_string_lossy(),
            "images": rows,
            "skipped": skipped,
            "dim": dim,
            "parts": config.parts(),
            "seconds": seconds,
            "first_vector_seconds": first,
            "images_per_s": per_second,
            "batch": embedder.batch(),
            "gpu_bytes": device_bytes,
            "adapter": context.adapter.name,
            "model": config,
            "preprocess": network.preprocess,
            "notes": network.notes,
        });
        json::write(target, &value)?;
    }
    Ok(if arguments.strict && skipped > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Size, normalisation, λ and parts in a few words.
fn describe(network: &Network) -> String {
    let (config, preprocess) = (&network.config, &network.preprocess);
    let blend = match config.gelt.tokens {
        PartTokens::Gelt => {
            let operand = if config.gelt.lambda_on == LambdaOn::Class { "class" } else { "local" };
            format!("λ {} on {operand}", config.gelt.lambda)
        }
        PartTokens::Local => "local tokens".to_string(),
        PartTokens::Global => "global token".to_string(),
    };
    let name = preprocess.normalize_name();
    format!("{} {name}, {blend}, {} parts of {}", config.image, config.parts(), config.dim)
}

/// What happens while the pictures go by.
struct Progress {
    bar: ProgressBar,
    writer: EmbeddingWriter,
    signals: Signals,
    start: Instant,
    first_vector: Option<Duration>,
    rows: usize,
    skipped: usize,
}

impl Watch for Progress {
    fn skipped(&mut self, _: &Picture, error: &Error) {
        self.skipped += 1;
        self.bar.inc(1);
        self.bar.suspend(|| eprintln!("skipped {error}"));
    }

    fn row(&mut self, picture: &Picture, embedding: &[f32]) -> Result<()> {
        self.first_vector.get_or_insert_with(|| self.start.elapsed());
        self.rows += 1;
        self.bar.inc(1);
        self.writer.push(&picture.name, embedding)
    }

    fn go_on(&mut self) -> ControlFlow<Error> {
        match self.signals.received() {
            Some(signal) => ControlFlow::Break(Error::Interrupted { signal, outcome: "nothing was written" }),
            None => ControlFlow::Continue(()),
        }
    }
}

/// Hidden unless stderr is a terminal.
pub(super) fn progress_bar(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Time per kernel, longest first.
fn print_profile(times: &[DispatchTime]) {
    let mut kernels: BTreeMap<(&str, String), (usize, f64, f64)> = BTreeMap::new();
    for time in times {
        // Blocks are alike: their launches are summed.
        let label = match time.label.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((_, label)) => format!("blocks.*.{label}"),
            None => time.label.clone(),
        };
        let entry = kernels.entry((time.kernel, label)).or_default();
        *entry = (entry.0 + 1, entry.1 + time.seconds, entry.2 + time.flops);
    }
    let total: f64 = times.iter().map(|time| time.seconds).sum();
    let mut rows: Vec<_> = kernels.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    eprintln!(
        "{:<22} {:<24} {:>8} {:>10} {:>7} {:>9}",
        "kernel", "launches", "count", "ms", "share", "GFLOP/s"
    );
    for ((kernel, label), (count, seconds, flops)) in rows {
        eprintln!(
            "{kernel:<22} {label:<24} {count:>8} {:>10.2} {:>6.1}% {:>9.1}",
            seconds * 1e3,
            100.0 * seconds / total,
            flops / seconds / 1e9
        );
    }
}
