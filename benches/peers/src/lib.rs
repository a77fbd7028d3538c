//! Shared by the timed programs: the rows of the table, their operands, the measurement of time and memory, and the
//! line of a row.
//!
//! All programs use the same random numbers, so that results can be compared value by value.

use lat_wgpu::checkpoint::{Network, random_backbone};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::rng;
use lat_wgpu::shape::{ClassifierKind, ImageSize, Normalize, Preprocess, VitConfig};
use lat_wgpu::train::classifiers::init_classifiers;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Input size in pixels.
pub const SIZE: ImageSize = ImageSize::square(224);
/// Side of a patch in pixels.
pub const PATCH: usize = 16;
/// Rows and columns of patches.
pub const GRID: usize = 14;
/// Class token and patches.
pub const TOKENS: usize = 1 + GRID * GRID;
/// Blocks of every model.
pub const DEPTH: usize = 12;
/// Width of an attention head.
pub const HEAD_WIDTH: usize = 64;
/// Width between a part classifier's two layers.
pub const KIND: ClassifierKind = ClassifierKind::Parts { hidden: 256 };
/// Persons of Market-1501.
pub const CLASSES: usize = 751;
/// Learning rate of Adam in every training step.
pub const LEARNING_RATE: f32 = 1e-4;
/// Adam's ε.
pub const ADAM_EPS: f32 = 1e-8;
/// BatchNorm's ε in the part classifiers.
pub const BATCHNORM_EPS: f32 = 1e-5;
/// Training steps before the timed ones, since the first compiles and tunes.
pub const WARM_STEPS: usize = 2;
/// Number of nearest rows to find.
pub const NEAREST: usize = 10;

/// Streams of random numbers, one for each operand.
pub mod streams {
    /// First operand of a product.
    pub const LEFT: u64 = 1;
    /// Second operand of a product.
    pub const RIGHT: u64 = 2;
    /// Queries, keys and values of attention.
    pub const ATTENTION: u64 = 3;
    /// Gradient of attention's output.
    pub const GRADIENT: u64 = 4;
    /// Pixels.
    pub const PIXELS: u64 = 5;
}

/// `len` numbers in [-1, 1), more realistic than zeros.
pub fn numbers(stream: u64, len: usize) -> Vec<f32> {
    (0..len as u64).map(|i| 2.0 * rng::uniform(0, stream, i) - 1.0).collect()
}

/// Bytes of `batch` images of the input size (B, height, width, 3).
pub fn pixels(batch: usize) -> Vec<u8> {
    let len = batch * SIZE.height * SIZE.width * 3;
    (0..len as u64).map(|i| rng::bits(0, streams::PIXELS, i) as u8).collect()
}

/// The same images, normalised by mean and deviation (B, 3, height, width).
pub fn normalised(pixels: &[u8]) -> Vec<f32> {
    let (mean, std) = Normalize::Imagenet.mean_std();
    let plane = SIZE.height * SIZE.width;
    let mut out = vec![0.0; pixels.len()];
    for (image, out) in pixels.chunks(3 * plane).zip(out.chunks_mut(3 * plane)) {
        for (at, &byte) in image.iter().enumerate() {
            let (pixel, channel) = (at / 3, at % 3);
            out[channel * plane + pixel] = (f32::from(byte) / 255.0 - mean[channel]) / std[channel];
        }
    }
    out
}

/// A Vision Transformer to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Name on the command line.
    pub name: &'static str,
    /// Width D.
    pub dim: usize,
}

/// Every model.
pub const MODELS: [Model; 3] = [
    Model { name: "vit-ti", dim: 192 },
    Model { name: "vit-s", dim: 384 },
    Model { name: "vit-b", dim: 768 },
];

impl Model {
    /// Attention heads.
    pub fn heads(&self) -> usize {
        self.dim / HEAD_WIDTH
    }

    /// Dimensions and options.
    pub fn config(&self) -> VitConfig {
        VitConfig::plain(SIZE, PATCH, self.dim, DEPTH, self.heads())
    }

    /// Random weights, including part classifiers.
    pub fn network(&self) -> Network {
        let config = self.config();
        Network {
            tensors: random_backbone(&config, 1),
            classifiers: init_classifiers(1, config.parts(), self.dim, KIND, CLASSES),
            preprocess: Preprocess::new(SIZE, Normalize::Imagenet.mean_std()),
            config,
            class_names: None,
            threshold: None,
            file_positions: None,
            notes: Vec::new(),
        }
    }
}

/// The transposed operand of a product (M, K)·(K, N).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A·B.
    Nn,
    /// A·Bᵀ, B stored (N, K).
    Nt,
    /// Aᵀ·B, A stored (K, M).
    Tn,
}

/// Work to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// `gemm:FORM:MxKxN`, a product.
    Gemm {
        /// The transposed operand.
        form: Form,
        /// Rows of the result.
        m: usize,
        /// Length of the sums.
        k: usize,
        /// Columns of the result.
        n: usize,
    },
    /// `attention:forward:MODEL` or `attention:backward:MODEL`, of one image.
    Attention {
        /// True for the backward pass.
        backward: bool,
        /// The model with these heads.
        model: Model,
    },
    /// `forward:MODEL:B`, from images to embeddings.
    Forward {
        /// The network.
        model: Model,
        /// Batch size.
        batch: usize,
    },
    /// `step:MODEL:OPEN:B`, a training step of OPEN blocks, or `all` to train the patch embedding too.
    Step {
        /// The network.
        model: Model,
        /// Number of blocks, from the last, that train.
        open: usize,
        /// True if the patch embedding trains too.
        embeddings: bool,
        /// Batch size.
        batch: usize,
    },
    /// `embed:MODEL:N`, from N image files to embeddings.
    Embed {
        /// The network.
        model: Model,
        /// Files.
        count: usize,
    },
    /// `nearest:QxDxG`, the nearest of G rows of D dimensions to Q queries.
    Nearest {
        /// Number of queries Q.
        queries: usize,
        /// Dimensions D.
        dim: usize,
        /// Number of gallery rows G.
        gallery: usize,
    },
}

fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&number| number > 0)
}

fn three(text: &str) -> Option<[usize; 3]> {
    let numbers: Vec<usize> = text.split('x').map(number).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

impl Task {
    fn parse(row: &str) -> Option<Task> {
        let words: Vec<&str> = row.split(':').collect();
        let model = |name: &str| MODELS.into_iter().find(|model| model.name == name);
        Some(match words[..] {
            ["gemm", form, shape] => {
                let form = match form {
                    "nn" => Form::Nn,
                    "nt" => Form::Nt,
                    "tn" => Form::Tn,
                    _ => return None,
                };
                let [m, k, n] = three(shape)?;
                Task::Gemm { form, m, k, n }
            }
            ["attention", "forward", name] => Task::Attention { backward: false, model: model(name)? },
            ["attention", "backward", name] => Task::Attention { backward: true, model: model(name)? },
            ["forward", name, batch] => Task::Forward { model: model(name)?, batch: number(batch)? },
            ["step", name, open, batch] => {
                let embeddings = open == "all";
                let open = if embeddings { DEPTH } else { number(open).filter(|&open| open <= DEPTH)? };
                Task::Step { model: model(name)?, open, embeddings, batch: number(batch)? }
            }
            ["embed", name, count] => Task::Embed { model: model(name)?, count: number(count)? },
            ["nearest", shape] => {
                let [queries, dim, gallery] = three(shape)?;
                Task::Nearest { queries, dim, gallery }
            }
            _ => return None,
        })
    }
}

/// Arguments of a program.
#[derive(Debug)]
pub struct Request {
    /// Timed samples of every row.
    pub samples: usize,
    /// Folder with images and weights.
    pub folder: PathBuf,
    /// Names of rows with their work.
    pub rows: Vec<(String, Task)>,
}

/// Reads `SAMPLES FOLDER ROW...`.
///
/// # Errors
/// [`Error::Usage`] for other arguments.
pub fn request(arguments: &[String]) -> Result<Request> {
    let [samples, folder, rows @ ..] = arguments else {
        return Err(Error::Usage("SAMPLES FOLDER ROW... are required".to_string()));
    };
    let samples =
        number(samples).ok_or_else(|| Error::Usage(format!("{samples} is no number of samples")))?;
    let rows = rows.iter().map(|row| match Task::parse(row) {
        Some(task) => Ok((row.clone(), task)),
        None => Err(Error::Usage(format!("{row} is no row; see the list in compare.py"))),
    });
    Ok(Request { samples, folder: PathBuf::from(folder), rows: rows.collect::<Result<_>>()? })
}

/// Result of a row.
#[derive(Debug, Default)]
pub struct Found {
    /// Seconds of a run, for each sample.
    pub seconds: Vec<f64>,
    /// Time to fetch the last result afterwards, which reveals deferred work.
    pub read_seconds: Option<f64>,
    /// Floating-point operations of one run.
    pub flops: Option<f64>,
    /// Some values of the result; see [`sample`].
    pub values: Vec<f32>,
    /// Growth of the process's peak memory, in bytes.
    pub peak_growth: Option<u64>,
    /// The fastest of several variants.
    pub variant: Option<&'static str>,
}

impl Found {
    /// Prints the row's line.
    pub fn print(&self, row: &str, peer: &str, adapter: &str) {
        let line: Value = json!({
            "row": row,
            "peer": peer,
            "adapter": adapter,
            "seconds": self.seconds,
            "read_seconds": self.read_seconds,
            "flops": self.flops,
            "peak_growth_bytes": self.peak_growth,
            "variant": self.variant,
            "values": self.values,
        });
        println!("{line}");
    }
}

/// At most 1,000 evenly spread values.
pub fn sample(values: &[f32]) -> Vec<f32> {
    values.iter().copied().step_by(values.len().div_ceil(1000).max(1)).collect()
}

/// Times `run` after a warm-up. A sample is the mean of as many runs as fit in 0.2 s.
///
/// # Errors
/// Errors of `run`.
pub fn repeat(samples: usize, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut last = 0.0;
    let mut warm = 0;
    while warm < 3 || start.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        run()?;
        last = start.elapsed().as_secs_f64();
        warm += 1;
    }
    let runs = (0.2 / last).clamp(1.0, 100.0) as usize;
    let mut seconds = Vec::new();
    for _ in 0..samples {
        let start = Instant::now();
        for _ in 0..runs {
            run()?;
        }
        seconds.push(start.elapsed().as_secs_f64() / runs as f64);
    }
    Ok(seconds)
}

/// Times training steps, numbered from 1. Returns the seconds of those after the warm-up, and all losses.
///
/// # Errors
/// Errors of `step`.
pub fn train(samples: usize, mut step: impl FnMut(u32) -> Result<f32>) -> Result<(Vec<f64>, Vec<f32>)> {
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for number in 0..WARM_STEPS + samples {
        let start = Instant::now();
        losses.push(step(number as u32 + 1)?);
        if number >= WARM_STEPS {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok((seconds, losses))
}

/// Measures the peak of this process's resident memory, which includes the device's on a CPU adapter.
#[derive(Debug)]
pub struct Memory {
    before: Option<u64>,
}

impl Memory {
    /// Starts a measurement.
    pub fn watch() -> Memory {
        // Resets the peak on Linux. Other systems have no such file, and nothing is measured.
        let reset = std::fs::write("/proc/self/clear_refs", "5").ok();
        Memory { before: reset.and_then(|()| status("VmRSS:")) }
    }

    /// Growth from the start of the measurement to the peak, in bytes.
    pub fn growth(&self) -> Option<u64> {
        Some(status("VmHWM:")?.saturating_sub(self.before?))
    }
}

/// A line of the process's status, in bytes.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The first `count` images of the folder, by name.
///
/// # Errors
/// If the folder can't be read or holds fewer.
pub fn images(folder: &Path, count: usize) -> Result<Vec<lat_wgpu::images::walk::Image>> {
    let mut images = lat_wgpu::images::walk::list_images(&[folder.join("images")], false)?.images;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    if images.len() < count {
        let found = images.len();
        return Err(Error::Usage(format!("{} holds {found} images, not {count}", folder.display())));
    }
    images.truncate(count);
    Ok(images)
}

/// Exit code of a program: 0, or 1 or 2 after printing the error with its causes.
pub fn end(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprint!("error: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_they_mean() {
        let gemm = Task::Gemm { form: Form::Tn, m: 2, k: 3, n: 4 };
        assert_eq!(Task::parse("gemm:tn:2x3x4"), Some(gemm));
        let all = Task::Step { model: MODELS[1], open: DEPTH, embeddings: true, batch: 8 };
        assert_eq!(Task::parse("step:vit-s:all:8"), Some(all));
        for wrong in
            ["gemm:tt:2x3x4", "gemm:nn:2x3", "step:vit-s:13:2", "forward:vit-x:1", "embed:vit-s:0", ""]
        {
            assert_eq!(Task::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn samples_are_spread_over_all_values() {
        let values: Vec<f32> = (0..2500).map(|i| i as f32).collect();
        let found = sample(&values);
        assert_eq!((found.len(), found[0], found[833]), (834, 0.0, 2499.0));
        assert!(sample(&[]).is_empty());
        assert_eq!(sample(&values[..7]), values[..7]);
    }

    #[test]
    fn channels_become_planes() {
        let mut bytes = vec![0; 3 * SIZE.height * SIZE.width];
        bytes[5] = 255;
        let planes = normalised(&bytes);
        let plane = SIZE.height * SIZE.width;
        assert!((planes[2 * plane + 1] - (1.0 - 0.406) / 0.225).abs() < 1e-6);
        assert!((planes[1] + 0.485 / 0.229).abs() < 1e-6);
    }
}
