//! `lat-wgpu adapt`: adapts a model to cameras without labels.

use super::arguments::{ModelArgument, NetworkArguments, Training, Trains};
use super::export::print_written;
use super::json;
use super::open;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use super::train::{RunArguments, go};
use crate::checkpoint::{self, Settings};
use crate::datasets::cameras::Cameras;
use crate::error::{Error, Result};
use crate::images::decode::DecodeOptions;
use crate::images::walk::Listing;
use crate::observer::Observer;
use crate::ranks::Ranks;
use crate::shape::CameraStatistics;
use crate::tasks::adapt::{Adapted, Request, adapt, take_parts, with_clusters};
use crate::tasks::embed::ImageOptions;
use crate::train::config::{Config, Key, Layers, Preset, keys};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `lat-wgpu adapt`.
///
/// Flags for keys of the configuration come from [`Training`].
#[derive(Debug, Args)]
#[command(override_usage = USAGE, args_override_self = true)]
pub struct AdaptArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Folder of images by the cameras, which is searched recursively; no labels are needed
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Data set for --eval-every: its queries are scored against its gallery
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Run folder: config.toml, log.jsonl, curves.svg, best.safetensors, last.safetensors; with --statistics-only the
    /// output model, as .safetensors
    #[arg(short, long, value_name = "RUN|FILE")]
    pub out: Option<PathBuf>,
    /// Stores the mean embedding of each camera, which embedding then subtracts, and trains nothing
    #[arg(long, conflicts_with_all = ["data", "resume", "config", "set", "dry_run", "profile"])]
    pub statistics_only: bool,
    #[command(flatten)]
    pub run: RunArguments,
    /// With --statistics-only: writes a summary as JSON; - for stdout
    #[arg(long, value_name = "FILE", requires = "statistics_only")]
    pub json: Option<PathBuf>,
}

/// A new run, a resumed one, and statistics.
const USAGE: &str = "lat-wgpu adapt --model <MODEL> --images <DIR> --out <RUN> [OPTIONS]
       lat-wgpu adapt --resume --out <RUN> [OPTIONS]
       lat-wgpu adapt --statistics-only --model <MODEL> --images <DIR> --out <FILE> [OPTIONS]";

/// The presets' keys that a command can set, without those that need labels, and those that it decides.
impl Trains for AdaptArguments {
    fn has(key: &str) -> bool {
        const WITHOUT: [&str; 18] = [
            "data.dir",
            "model.backbone",
            "model.embed_tokens",
            "model.camera_embedding",
            "model.jigsaw",
            "cluster.images",
            // `--eps` is the clusters'.
            "optim.eps",
            "head.kind",
            "head.embed",
            "head.hidden",
            "head.dropout",
            "head.relu",
            "loss.identity",
            "loss.label_smoothing",
            "data.val_fraction",
            "data.val_persons",
            "schedule.best",
            "schedule.refit",
        ];
        !WITHOUT.contains(&key)
    }

    fn default(key: &Key) -> Option<String> {
        // The model's metadata decides.
        let is_models = NetworkArguments::has(key.name) && key.name != "model.ignore_unknown";
        key.value_in(Preset::ClusterContrast).filter(|_| !is_models)
    }
}

/// Returns whether a key has an effect with `--statistics-only`.
fn affects_statistics(key: &str) -> bool {
    const KEYS: [&str; 7] = [
        "cluster.cameras",
        "cluster.deviation",
        "data.follow_links",
        "data.ignore_exif",
        "device.adapter",
        "device.precision",
        "schedule.batch_size",
    ];
    KEYS.contains(&key) || NetworkArguments::has(key)
}

pub fn run(Training { arguments, mut layers }: Training<AdaptArguments>) -> Result<ExitCode> {
    if arguments.statistics_only {
        return with_statistics(&arguments, &layers);
    }
    let AdaptArguments { model, images, data, out, run, .. } = arguments;
    let given = model.is_given().then(|| model.shown());
    let paths =
        [("model.backbone", given), ("cluster.images", images.as_deref()), ("data.dir", data.as_deref())];
    for (key, path) in paths {
        layers.flags.extend(path.iter().map(|path| (key.to_string(), path.to_string_lossy().into_owned())));
    }
    let resume = run.resume;
    let begin = || {
        let mut layers = with_clusters(layers);
        let mut missing = Vec::new();
        if !resume {
            let config = Config::resolve(&layers)?;
            missing.extend(config.cluster.images.is_none().then_some("--images"));
            if config.model.backbone.is_none() {
                let file = model.file()?.to_string_lossy().into_owned();
                layers.base.push(("model.backbone".to_string(), file));
            }
        }
        Ok((missing, layers))
    };
    go("adapt", begin, out, run, take_parts)
}

/// Stores the statistics of the cameras in a model.
fn with_statistics(arguments: &AdaptArguments, layers: &Layers) -> Result<ExitCode> {
    let (Some(images), Some(out)) = (&arguments.images, &arguments.out) else {
        let flags = [("--images", &arguments.images), ("--out", &arguments.out)];
        let missing: Vec<&str> =
            flags.into_iter().filter(|(_, path)| path.is_none()).map(|(flag, _)| flag).collect();
        return Err(Error::Usage(format!("missing {}", missing.join(", "))));
    };
    if let Some(ranks) = Ranks::join()? {
        let alone = "--statistics-only is the work of one process: start it without mpirun";
        return if ranks.rank() == 0 { Err(Error::Usage(alone.to_string())) } else { Ok(ExitCode::SUCCESS) };
    }
    let model = &arguments.model.file()?;
    let paths = Paths::new().writes("--json", &arguments.json);
    let progress = Progress::new(Some(Signals::listen()?));
    let adapted = store_statistics([model, images, out], layers, arguments.run.memory, paths, &progress);
    progress.finish();
    let adapted = adapted?;
    if let Some(warning) = adapted.warning() {
        eprintln!("warning: {warning}");
    }
    json::print_or_write(arguments.json.as_deref(), &text(&adapted), || adapted.json(out))?;
    print_written(out, checkpoint::list(out)?.0.len())?;
    Ok(ExitCode::SUCCESS)
}

/// Computes the statistics of the cameras of images, and stores a model with them. The paths are the model, the folder
/// of images, and the new model.
///
/// # Errors
/// [`Error::Usage`] for a key that has no effect; those of [`adapt`], and of the files.
pub fn store_statistics(
    [model, images, out]: [&Path; 3],
    layers: &Layers,
    memory: Option<u64>,
    paths: Paths,
    observer: &dyn Observer,
) -> Result<Adapted> {
    let useless = layers.flags.iter().map(|(key, _)| key).find(|key| !affects_statistics(key));
    if let Some(key) = useless.and_then(|name| keys().find(|key| key.name == name)) {
        return Err(Error::Usage(format!("--{} has no effect with --statistics-only", key.flag())));
    }
    let config = Config::resolve(layers)?;
    let (cluster, data) = (&config.cluster, &config.data);
    let paths = paths.following(data.follow_links).reads("--model", [model]).reads("--images", [images]);
    let paths = paths.reads("--cameras", Cameras::table(&cluster.cameras));
    paths.writes("--out", [out]).check()?;
    let cameras = Cameras::read(&cluster.cameras)?;
    let settings = Settings { no_statistics: true, ..NetworkArguments::among(&layers.flags)?.settings() };
    let network = checkpoint::load(model, &settings).map_err(open::about_tensors)?;
    network.notes.iter().for_each(|note| observer.note_once(note));
    if network.threshold.is_some() {
        observer.note("the model's threshold is left out: it applies to distances without the statistics");
    }
    let Listing { images, left_out } = open::images(&[images.to_path_buf()], data.follow_links)?;
    if !left_out.counts().is_empty() {
        observer.note(&format!("left out: {left_out}"));
    }
    let is_batch = |(key, _): &&(String, String)| key == "schedule.batch_size";
    let request = Request {
        adapter: config.device.options(),
        batch: layers.flags.iter().find(is_batch).map(|_| config.schedule.batch_size),
        memory,
        image_options: ImageOptions { decode: DecodeOptions { ignore_exif: data.ignore_exif }, flip: false },
        cameras,
        deviation: cluster.deviation,
    };
    let adapted = adapt(network, &images, &request, observer).map_err(open::about_skipped)?;
    checkpoint::save_with_statistics(model, &adapted.network, out)?;
    Ok(adapted)
}

/// Lists the images of each camera.
fn text(adapted: &Adapted) -> String {
    let CameraStatistics { cameras, images, .. } = &adapted.statistics;
    let width = cameras.iter().map(String::len).chain(["camera".len()]).max().unwrap_or(0);
    let mut text = format!("{:<width$}  images\n", "camera");
    for (camera, images) in cameras.iter().map(String::as_str).chain(["all"]).zip(images) {
        text.push_str(&format!("{camera:<width$}{images:>8}\n"));
    }
    if adapted.without_camera() > 0 {
        text.push_str(&format!("{} of all are by an unknown camera\n", adapted.without_camera()));
    }
    text
}
