//! What can be typed, and its help.

use crate::checkpoint::Settings;
use crate::datasets::{Boxes, Cuhk03Protocol, Layout, LoadOptions};
use crate::embeddings::Dtype;
use crate::embeddings::gallery::Filter;
use crate::embeddings::index::ShardNumber;
use crate::error::Error;
use crate::gpu::Precision;
use crate::kernels::topk::MAX_K;
use crate::report;
use crate::retrieval::metrics::{AveragePrecision, Protocol, Rules};
use crate::retrieval::rerank::RerankOptions;
use crate::shape::{Activation, ImageSize, LambdaOn, Normalize, PartLayout, PartTokens};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Person re-identification with the Locally Aware Transformer on any Vulkan, Metal or DX12 adapter.
///
/// Person crops in, vectors out; there is no detector inside.
#[derive(Debug, Parser)]
#[command(name = "lat-wgpu", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn folders of person crops into embeddings
    Embed(EmbedArguments),
    /// Verify the shards of a list, or an index folder, and write them as one file
    Merge(MergeArguments),
    /// Find principal components of embeddings, or write embeddings in fewer numbers
    Reduce(Box<ReduceArguments>),
    /// List adapters, their features and limits
    Info(InfoArguments),
    /// Time every kernel and compare it with what the adapter can do at most
    Bench(BenchArguments),
    /// Check every kernel on an adapter against the reference: what to paste into an issue
    Selftest(SelftestArguments),
    /// Print a model file's configuration and tensors
    Inspect(InspectArguments),
    /// Fine-tune a backbone into a re-identification model
    Train(Box<TrainArguments>),
    /// Train and score the paper's twelve variants of the model: its Table 2 on your data
    Ablate(AblateArguments),
    /// Score a model, or embeddings, on data sets: rank-k, mAP, mINP, same or different
    Eval(Box<EvalArguments>),
    /// Find the persons of pictures in a gallery of embeddings
    Search(Box<SearchArguments>),
    /// Search as a page and a JSON API on this machine
    Serve(Box<ServeArguments>),
    /// Count a data set's persons, pictures and cameras, and say what looks wrong
    Data(DataArguments),
    /// Draw walking figures, seen by several cameras, as a small data set
    Draw(DrawArguments),
    /// Draw, fine-tune, score before and after, report: all of it on a small example
    Demo(DemoArguments),
    /// Write a backbone with random weights, to train from nothing
    Init(InitArguments),
    /// Find out which tiles are quickest on this adapter, and keep that for all later runs
    Tune(TuneArguments),
    /// Write a model for other programs
    Export(ExportArguments),
    /// Show where in a picture the model looks, and its part rows
    Explain(ExplainArguments),
    /// Print completions for a shell
    Completions(CompletionsArguments),
}

/// Settings of the network: a flag wins over the model's metadata, which wins over the default.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network (default: the model's metadata, else as stated)")]
pub struct NetworkArguments {
    /// Input size in pixels [default: grid of the position table × patch]
    #[arg(long, value_name = "HxW")]
    size: Option<ImageSize>,
    /// Pixels from one patch to the next; less than the patch makes patches overlap [default: the patch]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Attention heads [default: width / 64]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Non-linearity of the MLP [default: quick-gelu with norm_pre, else gelu]
    #[arg(long)]
    act: Option<Act>,
    /// ε of every LayerNorm [default: 1e-5 with norm_pre, else 1e-6]
    #[arg(long, value_name = "F", value_parser = positive)]
    ln_eps: Option<f32>,
    /// Mean and deviation of the input [default: imagenet]
    #[arg(long)]
    normalize: Option<NormalizeName>,
    /// λ, the weight of one operand of the blend [default: 0.8]
    #[arg(long, value_name = "F", value_parser = not_negative)]
    lambda: Option<f32>,
    /// Which operand carries λ: class (Q+λG)/(1+λ) as in the paper, local (G+λQ)/(1+λ) as in the released code [default: class]
    #[arg(long, value_name = "OPERAND")]
    lambda_on: Option<LambdaOperand>,
    /// What becomes the parts: row means blended with the class token, row means, or the class token [default: gelt]
    #[arg(long)]
    tokens: Option<TokensName>,
    /// One part per grid row, or one mean over all positions [default: rows]
    #[arg(long)]
    parts: Option<PartsName>,
    /// Pass over tensors of the file that are not known; they are refused otherwise, since they could change the network
    #[arg(long)]
    ignore_unknown: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Act {
    Gelu,
    QuickGelu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum NormalizeName {
    Imagenet,
    Half,
    Clip,
}

impl From<NormalizeName> for Normalize {
    fn from(name: NormalizeName) -> Normalize {
        match name {
            NormalizeName::Imagenet => Normalize::Imagenet,
            NormalizeName::Half => Normalize::Half,
            NormalizeName::Clip => Normalize::Clip,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LambdaOperand {
    Class,
    Local,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TokensName {
    Gelt,
    Local,
    Global,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PartsName {
    Rows,
    #[value(name = "1")]
    One,
}

impl NetworkArguments {
    /// As the checkpoint reader takes them.
    pub fn settings(&self) -> Settings {
        Settings {
            size: self.size,
            stride: self.stride,
            heads: self.heads,
            act: self.act.map(|act| match act {
                Act::Gelu => Activation::Gelu,
                Act::QuickGelu => Activation::QuickGelu,
            }),
            ln_eps: self.ln_eps,
            normalize: self.normalize.map(Normalize::from),
            lambda: self.lambda,
            lambda_on: self.lambda_on.map(|operand| match operand {
                LambdaOperand::Class => LambdaOn::Class,
                LambdaOperand::Local => LambdaOn::Local,
            }),
            tokens: self.tokens.map(|tokens| match tokens {
                TokensName::Gelt => PartTokens::Gelt,
                TokensName::Local => PartTokens::Local,
                TokensName::Global => PartTokens::Global,
            }),
            parts: self.parts.map(|parts| match parts {
                PartsName::Rows => PartLayout::Rows,
                PartsName::One => PartLayout::One,
            }),
            ignore_unknown: self.ignore_unknown,
        }
    }
}

/// `lat-wgpu embed`.
#[derive(Debug, Args)]
pub struct EmbedArguments {
    /// Weights of a plain ViT, or a trained model, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Folders (with all below them) and picture files
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Where to write: FILE.safetensors, .npy (with .paths.txt beside it) or .parquet; with --append or --shard a folder
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Extend an index folder: pictures that are there with the same name, size and modification time are not embedded again
    #[arg(long, group = "folder")]
    pub append: bool,
    /// With --append: take rows out whose pictures are not among the inputs (they stay otherwise)
    #[arg(long, requires = "append")]
    pub prune: bool,
    /// Embed share I (from 1) of N into the folder shard-I-of-N inside --out; every share needs the same inputs, see `lat-wgpu merge`
    #[arg(long, value_name = "I/N", group = "folder")]
    pub shard: Option<ShardNumber>,
    /// With --append or --shard: most rows of one file, which is what a kill loses [default: 16384]
    #[arg(long, value_name = "N", requires = "folder", value_parser = clap::value_parser!(u32).range(1..))]
    pub part_rows: Option<u32>,
    /// Embed each picture and its mirror image, and take the mean
    #[arg(long)]
    pub flip: bool,
    /// Write each vector in fewer numbers, by the principal components that `lat-wgpu reduce` found
    #[arg(long, value_name = "FILE")]
    pub reduce: Option<PathBuf>,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long, requires = "reduce")]
    pub allow_other_weights: bool,
    /// How a number is stored
    #[arg(long, default_value = "f32")]
    pub dtype: DtypeName,
    /// Pictures per batch [default: what fills an adapter of its class, within --memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Device memory to stay within, such as 800M or 4G [default: 2G, on graphics cards 8G; on GPUs at most half of what they have]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// How weights and activations are stored while computing; sums are f32
    #[arg(long, default_value = "f32")]
    pub precision: DtypeName,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Write a summary as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Exit with 1 if an image had to be skipped, is a link that isn't followed, or is .heic .heif .avif .jxl .jp2
    #[arg(long)]
    pub strict: bool,
    /// Follow links to files and folders; a folder is entered once
    #[arg(long)]
    pub follow_links: bool,
    /// Do not turn pictures as their EXIF orientation says
    #[arg(long)]
    pub ignore_exif: bool,
    /// Print the time of kernels and layers for one batch, and write it as a trace for Chrome and Perfetto [default FILE: trace.json]
    #[arg(long, value_name = "FILE", require_equals = true)]
    pub profile: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// `lat-wgpu merge`.
#[derive(Debug, Args)]
pub struct MergeArguments {
    /// Folder of shard-I-of-N folders, or an index folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where to write: FILE.safetensors, .npy (with .paths.txt beside it) or .parquet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long)]
    pub allow_other_weights: bool,
    /// Write a summary as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeName {
    F32,
    F16,
}

impl From<DtypeName> for Precision {
    fn from(name: DtypeName) -> Precision {
        match name {
            DtypeName::F32 => Precision::F32,
            DtypeName::F16 => Precision::F16,
        }
    }
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Dtype {
        match name {
            DtypeName::F32 => Dtype::F32,
            DtypeName::F16 => Dtype::F16,
        }
    }
}

/// `lat-wgpu demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Folder for everything that is made
    #[arg(long, value_name = "DIR", default_value = "lat-wgpu-demo")]
    pub out: PathBuf,
    /// Persons who are drawn; every second one is for training
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=9999))]
    pub persons: u32,
    /// Epochs of fine-tuning; one more block opens in each
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub epochs: u32,
    /// Same seed, same pictures, and the same scores on the same adapter
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

/// `lat-wgpu init`.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// Input size in pixels
    #[arg(long, value_name = "HxW", default_value = "224x224")]
    pub size: ImageSize,
    /// Side of a patch in pixels
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub patch: u32,
    /// Width of a token
    #[arg(long, value_name = "N", default_value_t = 192, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub dim: u32,
    /// Number of blocks
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub depth: u32,
    /// Attention heads
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub heads: u32,
    /// Same seed, same weights
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Mean and deviation of the input
    #[arg(long, default_value = "imagenet")]
    pub normalize: NormalizeName,
    /// Where to write: a .safetensors file
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `lat-wgpu tune`.
#[derive(Debug, Args)]
pub struct TuneArguments {
    /// Weights of a plain ViT, or a trained model, as .safetensors: whose products are tuned for
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Pictures at once [default: 32, on CPU adapters 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Tune a training step instead of embedding
    #[arg(long)]
    pub train: bool,
    /// Seconds to spend
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Forget what was kept for this adapter
    #[arg(long)]
    pub clear: bool,
    /// How weights and activations are stored
    #[arg(long, default_value = "f32")]
    pub precision: DtypeName,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Write what was measured as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// `lat-wgpu export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Weights of a plain ViT, or a trained model, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// timm: backbone and part classifiers in timm's and PyTorch's names, without what only a resumed training needs; onnx: pixels
    /// to embedding, by Python (LAT_PYTHON, else python3) with onnx; web: a folder to be served, whose page embeds pictures in the browser
    #[arg(long, value_name = "FORM")]
    pub to: ExportForm,
    /// With --to timm: leave the part classifiers away
    #[arg(long)]
    pub backbone_only: bool,
    /// With --to timm: how a number is stored [default: f32]
    #[arg(long)]
    pub dtype: Option<DtypeName>,
    /// With --to web: pictures per batch [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub batch: Option<u32>,
    /// With --to web: embed each picture and its mirror image, and take the mean
    #[arg(long)]
    pub flip: bool,
    /// Where to write: a .safetensors file, an .onnx file, or a new folder
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    #[command(flatten)]
    pub network: NetworkArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportForm {
    Timm,
    Onnx,
    Web,
}

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
    #[arg(long, default_value = "f32", requires = "apply")]
    pub dtype: DtypeName,
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
    /// Device memory to stay within, such as 800M or 4G [default: 2G, on graphics cards 8G; on GPUs at most half of what they have]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Write the table as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `lat-wgpu info`.
#[derive(Debug, Args)]
pub struct InfoArguments {
    /// Write the list as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `lat-wgpu bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// Compare the tiles of matrix products instead: every tile that the adapter can run, at the shapes of ViT-S and ViT-B, its
    /// results checked in f64; exit with 1 if one is wrong
    #[arg(long, group = "mode")]
    pub lab: bool,
    /// Time launches and submits that do nothing instead, and the roofs
    #[arg(long, group = "mode")]
    pub overheads: bool,
    /// Time whole training steps of ViT-S and ViT-B instead, with one block open and with everything
    #[arg(long, group = "mode")]
    pub steps: bool,
    /// Only rows whose name contains this, such as "gemm vit-s"; with --lab shapes and tiles, such as "vit-b fc1 nt" [default: all]
    #[arg(long, value_name = "TEXT", conflicts_with = "overheads")]
    pub filter: Option<String>,
    /// Samples of every row, each a replay or as many as take 5 ms; the median counts [default: 11; 5 with --lab, --overheads and
    /// --steps; 3 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub samples: Option<u32>,
    /// Pictures at once [default: 32, on CPU adapters 1; with --steps 32 and 2, with --lab 32, 128 and 256]
    #[arg(long, value_name = "N", conflicts_with = "overheads", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch_size: Option<u32>,
    /// How weights and activations are stored; sums are f32
    #[arg(long, default_value = "f32", conflicts_with = "overheads")]
    pub precision: DtypeName,
    /// Tokens of a picture in the rows of attention, one or several, such as 33,129,197,257 [default: 197]
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "mode", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub tokens: Vec<u32>,
    /// As little as shows that everything runs: one shape of a kernel, one model, one picture, few samples
    #[arg(long)]
    pub quick: bool,
    /// End after so many seconds with what was measured until then
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,
    /// Write the figures as JSON, anew after every row, so that a run that is cut short leaves what it has; - for stdout, at the end
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// With --lab: write the table of tiles with what was quickest on this class of adapter, to take the place of
    /// src/kernels/gemm/tiles.toml
    #[arg(long, value_name = "FILE", requires = "lab")]
    pub write_tiles: Option<PathBuf>,
    /// Draw the roofline: operations a second over operations per byte
    #[arg(long, value_name = "FILE", conflicts_with = "mode")]
    pub svg: Option<PathBuf>,
    /// Compare with the run of this adapter, batch and precision that FILE holds; exit with 1 if a row is slower by more than noise
    #[arg(long, value_name = "FILE", conflicts_with = "mode")]
    pub baseline: Option<PathBuf>,
    /// Keep this run in FILE as the one of this adapter, batch and precision, beside others; after a comparison with the same file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mode", "filter", "tokens", "quick", "seconds"])]
    pub save_baseline: Option<PathBuf>,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

/// `lat-wgpu selftest`.
#[derive(Debug, Args)]
pub struct SelftestArguments {
    /// Only rows whose kernel, variant and shape contain this, such as "gemm nt" [default: all]
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Only rows that store activations so; f16 has native and packed halves, and matrix units [default: both]
    #[arg(long, value_name = "STORAGE")]
    pub precision: Option<DtypeName>,
    /// One shape of each kernel in each storage
    #[arg(long)]
    pub quick: bool,
    /// Write adapter, limits and rows as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

/// `lat-wgpu inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// A .safetensors file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Write configuration and tensors as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// Which data set, and which of its splits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data set")]
pub struct SetArguments {
    /// How the data set is laid out [default: by what is in its folder]
    #[arg(long)]
    layout: Option<LayoutName>,
    /// CUHK03: boxes by a detector, or by people [default: detected]
    #[arg(long, value_name = "WHOSE")]
    boxes: Option<BoxesName>,
    /// CUHK03: 767 persons to train and 700 to test, or 1,367 and 100 [default: new]
    #[arg(long, value_name = "PROTOCOL")]
    cuhk03: Option<Cuhk03Name>,
    /// CUHK03's classic protocol (1 to 20), CUHK01: which of the splits [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    split: Option<u32>,
    /// CUHK01: seed of the random halves [default: 0]
    #[arg(long, value_name = "N")]
    split_seed: Option<u64>,
    /// Follow links to files and folders; a folder is entered once
    #[arg(long)]
    follow_links: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LayoutName {
    Market1501,
    Cuhk03,
    Cuhk01,
    Msmt17,
    Veri,
    Mars,
    Viper,
    Prid,
    OccludedReid,
    Folders,
    Csv,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BoxesName {
    Detected,
    Labelled,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cuhk03Name {
    New,
    Classic,
}

impl SetArguments {
    /// As the loaders take them.
    pub fn options(&self) -> LoadOptions {
        let default = LoadOptions::default();
        LoadOptions {
            layout: self.layout.map(|name| match name {
                LayoutName::Market1501 => Layout::Market1501,
                LayoutName::Cuhk03 => Layout::Cuhk03,
                LayoutName::Cuhk01 => Layout::Cuhk01,
                LayoutName::Msmt17 => Layout::Msmt17,
                LayoutName::Veri => Layout::Veri,
                LayoutName::Mars => Layout::Mars,
                LayoutName::Viper => Layout::Viper,
                LayoutName::Prid => Layout::Prid,
                LayoutName::OccludedReid => Layout::OccludedReid,
                LayoutName::Folders => Layout::Folders,
                LayoutName::Csv => Layout::Csv,
            }),
            boxes: self.boxes.map_or(default.boxes, |name| match name {
                BoxesName::Detected => Boxes::Detected,
                BoxesName::Labelled => Boxes::Labelled,
            }),
            protocol: self.cuhk03.map_or(default.protocol, |name| match name {
                Cuhk03Name::New => Cuhk03Protocol::New,
                Cuhk03Name::Classic => Cuhk03Protocol::Classic,
            }),
            split: self.split.unwrap_or(default.split),
            seed: self.split_seed.unwrap_or(default.seed),
            follow_links: self.follow_links,
        }
    }

    /// Those that were given, as (key, value) of the training configuration, which spells the values alike.
    fn flags(&self) -> Vec<(String, String)> {
        fn spelled<T: ValueEnum>(value: Option<T>) -> Option<String> {
            Some(value?.to_possible_value()?.get_name().to_string())
        }
        let given = [
            ("data.layout", spelled(self.layout)),
            ("data.boxes", spelled(self.boxes)),
            ("data.cuhk03", spelled(self.cuhk03)),
            ("data.split", self.split.map(|split| split.to_string())),
            ("data.split_seed", self.split_seed.map(|seed| seed.to_string())),
            ("data.follow_links", self.follow_links.then(|| "true".to_string())),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect()
    }
}

/// `lat-wgpu data`.
#[derive(Debug, Args)]
pub struct DataArguments {
    /// Folder of the data set, or a table of pictures (.csv)
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Don't open the pictures: names and lists only
    #[arg(long)]
    pub fast: bool,
    /// Exit with 1 if anything looks wrong, or images are left out
    #[arg(long)]
    pub strict: bool,
    /// Write counts and findings as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub set: SetArguments,
}

/// `lat-wgpu ablate`.
#[derive(Debug, Args)]
pub struct AblateArguments {
    /// Folder of a data set with train images, query and gallery, or a table of images (.csv)
    #[arg(long, value_name = "DIR")]
    pub data: String,
    /// Weights to start from
    #[arg(long, value_name = "FILE")]
    backbone: String,
    /// Pass over tensors of the backbone's file that are not known
    #[arg(long)]
    ignore_unknown: bool,
    /// Folder for the twelve run folders, table.md and table.json; the same command again goes on where it stopped
    #[arg(long, value_name = "FOLDER", default_value = "ablation")]
    pub out: PathBuf,
    /// Write the table as JSON instead of printing Markdown; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Input size in pixels
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Passes over the pictures
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// Pictures in a step
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// Seed of every random choice
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Part of the adapter's name, see `lat-wgpu info`
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Keys of the training runs from a file
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One key of the training runs, such as optim.lr=1e-4; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    data_set: SetArguments,
}

impl AblateArguments {
    /// The flags as keys of the training configuration.
    pub fn flags(&self) -> Vec<(String, String)> {
        let given = [
            ("data.dir", Some(&self.data)),
            ("model.backbone", Some(&self.backbone)),
            ("model.size", self.size.as_ref()),
            ("schedule.epochs", self.epochs.as_ref()),
            ("schedule.batch_size", self.batch_size.as_ref()),
            ("data.seed", self.seed.as_ref()),
            ("device.adapter", self.adapter.as_ref()),
        ];
        let flag = |(key, value): (&str, Option<&String>)| Some((key.to_string(), value?.clone()));
        let switches = [("model.ignore_unknown", self.ignore_unknown)];
        let switch = |(key, is_on): (&str, bool)| is_on.then(|| (key.to_string(), "true".to_string()));
        let switches = switches.into_iter().filter_map(switch);
        given.into_iter().filter_map(flag).chain(switches).chain(self.data_set.flags()).collect()
    }
}

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
    #[arg(long, default_value = "standard")]
    protocol: ProtocolName,
    /// Average precision: mean of the precisions at the matches, or of those and the ones just before [default: plain]
    #[arg(long)]
    ap: Option<AveragePrecisionName>,
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
    /// Device memory to stay within, such as 800M or 4G [default: 2G, on graphics cards 8G; on GPUs at most half of what they have]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProtocolName {
    /// Market-1501's: junk dropped, same person by the same camera left out
    Standard,
    /// Every picture counts, AP within the first ten
    ReleasedCode,
    /// One random gallery picture per person, the mean of 100 draws
    #[value(name = "cuhk03-single-shot")]
    Cuhk03SingleShot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AveragePrecisionName {
    Plain,
    Trapezoid,
}

impl EvalArguments {
    /// As the scores take them.
    ///
    /// # Errors
    /// `Usage` where they contradict each other.
    pub fn rules(&self) -> Result<Rules, Error> {
        if self.protocol == ProtocolName::ReleasedCode && self.ap.is_some() {
            return Err(Error::Usage(
                "--protocol released-code counts AP its own way: leave --ap away".to_string(),
            ));
        }
        Ok(Rules {
            protocol: match self.protocol {
                ProtocolName::Standard => Protocol::Standard,
                ProtocolName::ReleasedCode => Protocol::ReleasedCode,
                ProtocolName::Cuhk03SingleShot => Protocol::Cuhk03SingleShot,
            },
            average_precision: match self.ap {
                None | Some(AveragePrecisionName::Plain) => AveragePrecision::Plain,
                Some(AveragePrecisionName::Trapezoid) => AveragePrecision::Trapezoid,
            },
            ignore_cameras: self.ignore_cameras,
            query_is_gallery: false,
            seed: self.seed,
        })
    }

    /// How to re-rank, if that is asked for.
    ///
    /// # Errors
    /// `Usage` for impossible values.
    pub fn rerank(&self) -> Result<Option<RerankOptions>, Error> {
        let options = RerankOptions { k1: self.rerank_k1, k2: self.rerank_k2, lambda: self.rerank_lambda };
        options.check()?;
        Ok(self.rerank.then_some(options))
    }
}

/// `lat-wgpu search`.
#[derive(Debug, Args)]
pub struct SearchArguments {
    /// The model that the gallery was embedded with, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Embeddings, as `lat-wgpu embed` writes them: a file, or a folder of parts
    #[arg(long, value_name = "FILE|DIR")]
    pub gallery: PathBuf,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long)]
    pub allow_other_weights: bool,
    /// Whom to find: a picture, or a folder with all below it; may be given often
    #[arg(long, required = true, value_name = "IMG|DIR")]
    pub query: Vec<PathBuf>,
    /// Follow links to files and folders; a folder is entered once
    #[arg(long)]
    pub follow_links: bool,
    /// How many of the gallery's pictures to list for each query
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_K as i64))]
    pub top: u32,
    /// Search only these pictures: camera=1,2 by Market-1501 names, or path=GLOB; all that are given must hold
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<Filter>,
    /// Embed each query and its mirror image, and take the mean; the model's threshold isn't for that
    #[arg(long)]
    pub flip: bool,
    /// Bring the queries to the gallery's fewer numbers, by the components that `lat-wgpu reduce` found
    #[arg(long, value_name = "FILE")]
    pub reduce: Option<PathBuf>,
    /// Device memory to stay within, such as 800M or 4G [default: 2G, on graphics cards 8G; on GPUs at most half of what they have]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Write the lists as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub page: PageArguments,
    /// For --html: the folder that was embedded, so that its pictures are shown [default: the inputs that the gallery carries, where they are still there]
    #[arg(long, value_name = "DIR", requires = "html")]
    pub images: Option<PathBuf>,
    /// Do not turn pictures as their EXIF orientation says
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// `lat-wgpu serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The model that the gallery was embedded with, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Embeddings, as `lat-wgpu embed` writes them: a file, or a folder of parts
    #[arg(long, value_name = "FILE|DIR")]
    pub gallery: PathBuf,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long)]
    pub allow_other_weights: bool,
    /// The folder that was embedded: its pictures are shown [default: the inputs that the gallery carries, on this machine's own address]
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Address to listen on; any other than this machine's own lets others search, without a password
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0: any that is free
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,
    /// How many of the gallery's pictures to list unless a request says so
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_K as i64))]
    pub top: u32,
    /// Search only these pictures: camera=1,2 by Market-1501 names, or path=GLOB; all that are given must hold
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<Filter>,
    /// Bring the queries to the gallery's fewer numbers, by the components that `lat-wgpu reduce` found
    #[arg(long, value_name = "FILE")]
    pub reduce: Option<PathBuf>,
    /// Device memory to stay within, such as 800M or 4G [default: 2G, on graphics cards 8G; on GPUs at most half of what they have]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Do not turn pictures as their EXIF orientation says
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// A page to look at.
#[derive(Debug, Args)]
pub struct PageArguments {
    /// Write a page to look at, with pictures: one file that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// For --html: bytes of pictures inside the page, such as 800K; further ones are linked, with 0 all of them [default: 8M]
    #[arg(long, value_name = "BYTES", default_value_t = report::DEFAULT_LIMIT, hide_default_value = true, value_parser = bytes_or_none, requires = "html")]
    pub thumbnails: u64,
    /// For --html: how many ranked lists; of a search the first, of an evaluation half the worst and half the best
    #[arg(long, value_name = "N", default_value_t = 100, requires = "html")]
    pub lists: usize,
}

/// `lat-wgpu draw`.
#[derive(Debug, Args)]
pub struct DrawArguments {
    /// Folder for the data set, in Market-1501's layout; made if it isn't there
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Number of persons; every second one is for training
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub persons: u32,
    /// Number of cameras
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub cameras: u32,
    /// Pictures of each person by each camera
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub images: u32,
    /// Same seed, same bytes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `lat-wgpu explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Weights of a plain ViT, or a trained model, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The picture
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    /// Where to draw: the picture, what the class token takes from where, and the part rows, side by side
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// Write the shares of patches and parts as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Do not turn the picture as its EXIF orientation says
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// `lat-wgpu completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `lat-wgpu train`.
///
/// Flags that are a key of the configuration are passed on as text: the configuration checks them.
#[derive(Debug, Args)]
#[command(after_long_help = super::train::keys_help(), args_override_self = true)]
pub struct TrainArguments {
    /// Weights to start from: a plain ViT, or a trained model (its part classifiers are dropped)
    #[arg(long, value_name = "FILE")]
    backbone: Option<String>,
    /// Folder of a data set, or a table of images (.csv): its train split trains, or without a split all of it
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Run folder: config.toml, log.jsonl, curves.svg, best.safetensors, last.safetensors
    #[arg(long, value_name = "RUN", required_unless_present = "dry_run")]
    pub out: Option<PathBuf>,
    /// Recipe: paper, released-code, full or strong [default: paper]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Go on from RUN/last.safetensors, to the bit as if never stopped
    #[arg(long)]
    pub resume: bool,
    /// Keys from a file; flags and --set win over it
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One key of the configuration, such as optim.lr=1e-4; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Passes over the pictures
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// Pictures in a step
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// Run the backbone on N pictures at a time: the same step in less memory and more time [default: the whole batch]
    #[arg(long, value_name = "N")]
    micro_batch: Option<String>,
    /// Device memory to stay within, such as 800M or 4G; a run that needs more is refused [default: any]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Print memory, operations and an estimate of time for each stage, and train nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the time of kernels and layers in a step of each stage, and write it as a trace for Chrome and Perfetto [default FILE: RUN/trace.json]
    #[arg(long, value_name = "FILE", require_equals = true, conflicts_with = "dry_run")]
    pub profile: Option<Option<PathBuf>>,
    /// Learning rate before any decay
    #[arg(long, value_name = "F")]
    lr: Option<String>,
    /// What the learning rate is multiplied by when a block opens
    #[arg(long, value_name = "F")]
    lr_decay: Option<String>,
    /// Weight decay on every trainable parameter
    #[arg(long, value_name = "F")]
    weight_decay: Option<String>,
    /// Longest gradient over all parameters; 0: any
    #[arg(long, value_name = "F")]
    clip_norm: Option<String>,
    /// Share of the target that is spread over all classes
    #[arg(long, value_name = "F")]
    label_smoothing: Option<String>,
    /// Probability that a hidden value of a part classifier is dropped
    #[arg(long, value_name = "P")]
    dropout: Option<String>,
    /// Probability that a picture is mirrored
    #[arg(long, value_name = "P")]
    flip: Option<String>,
    /// Take the pictures in sorted path order in every epoch
    #[arg(long)]
    no_shuffle: bool,
    /// Seed of every random choice
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Stop after N steps in all; 0 writes the initial model
    #[arg(long, value_name = "N")]
    max_steps: Option<String>,
    /// Share of each person's images that validates [default: none; with --best accuracy the first of every person with two or more]
    #[arg(long, value_name = "F")]
    val_fraction: Option<String>,
    /// With --best val-map: share of the persons, at least ten, that is held out of training
    #[arg(long, value_name = "F")]
    val_persons: Option<String>,
    /// Save every so many steps, beside every epoch's end
    #[arg(long, value_name = "STEPS")]
    save_every: Option<String>,
    /// Score query against gallery every E epochs and after the last one; needs both in the data set
    #[arg(long, value_name = "E")]
    eval_every: Option<String>,
    /// Model that becomes best.safetensors: last (the last epoch's model), or the best by val-map (mAP among the persons of --val-persons),
    /// accuracy (on validation images) or test-map (with --eval-every: chooses on the test set) [default: last; of released-code accuracy]
    #[arg(long, value_name = "WHAT")]
    best: Option<String>,
    /// With --best val-map: then train all persons from the start, for as many epochs as were best
    #[arg(long)]
    refit: bool,
    /// Epochs from one opening of a block to the next
    #[arg(long, value_name = "T")]
    unfreeze_every: Option<String>,
    /// Blocks that are open in epoch 0
    #[arg(long, value_name = "N")]
    first_unfreeze: Option<String>,
    /// Leave patch embedding, tokens and positions as they are
    #[arg(long, value_name = "true|false")]
    freeze_embeddings: Option<String>,
    /// Part of the adapter's name, see `lat-wgpu info`
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// How weights and activations are stored: f32 or f16; sums and updates are f32 [default: f32]
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// Do not turn pictures as their EXIF orientation says
    #[arg(long)]
    ignore_exif: bool,
    /// Input size in pixels
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// Pixels from one patch to the next
    #[arg(long, value_name = "N")]
    stride: Option<String>,
    /// Attention heads
    #[arg(long, value_name = "N")]
    heads: Option<String>,
    /// Non-linearity of the MLP
    #[arg(long, value_name = "NAME", value_parser = ["gelu", "quick-gelu"])]
    act: Option<String>,
    /// ε of every LayerNorm
    #[arg(long, value_name = "F")]
    ln_eps: Option<String>,
    /// Mean and deviation of the input: imagenet, half or clip
    #[arg(long, value_name = "NAME")]
    normalize: Option<String>,
    /// λ, the weight of one operand of the blend
    #[arg(long, value_name = "F")]
    lambda: Option<String>,
    /// Which operand carries λ: class or local
    #[arg(long, value_name = "OPERAND")]
    lambda_on: Option<String>,
    /// What becomes the parts in training: gelt, local or global
    #[arg(long, value_name = "NAME")]
    tokens: Option<String>,
    /// One part per grid row (rows), or one in all (1)
    #[arg(long, value_name = "NAME")]
    parts: Option<String>,
    /// Pass over tensors of the backbone's file that are not known
    #[arg(long)]
    ignore_unknown: bool,
    #[command(flatten)]
    data_set: SetArguments,
}

impl TrainArguments {
    /// The flags that were given, as (key, value) of the configuration.
    pub fn flags(&self) -> Vec<(String, String)> {
        let valued = [
            ("preset", &self.preset),
            ("model.backbone", &self.backbone),
            ("data.dir", &self.data),
            ("schedule.epochs", &self.epochs),
            ("schedule.batch_size", &self.batch_size),
            ("schedule.micro_batch", &self.micro_batch),
            ("schedule.eval_every", &self.eval_every),
            ("schedule.best", &self.best),
            ("optim.lr", &self.lr),
            ("optim.lr_decay", &self.lr_decay),
            ("optim.weight_decay", &self.weight_decay),
            ("optim.clip_norm", &self.clip_norm),
            ("loss.label_smoothing", &self.label_smoothing),
            ("head.dropout", &self.dropout),
            ("data.flip", &self.flip),
            ("data.seed", &self.seed),
            ("schedule.max_steps", &self.max_steps),
            ("data.val_fraction", &self.val_fraction),
            ("data.val_persons", &self.val_persons),
            ("schedule.save_every", &self.save_every),
            ("schedule.unfreeze_every", &self.unfreeze_every),
            ("schedule.first_unfreeze", &self.first_unfreeze),
            ("schedule.freeze_embeddings", &self.freeze_embeddings),
            ("device.adapter", &self.adapter),
            ("device.precision", &self.precision),
            ("model.size", &self.size),
            ("model.stride", &self.stride),
            ("model.heads", &self.heads),
            ("model.act", &self.act),
            ("model.ln_eps", &self.ln_eps),
            ("model.normalize", &self.normalize),
            ("model.lambda", &self.lambda),
            ("model.lambda_on", &self.lambda_on),
            ("model.tokens", &self.tokens),
            ("model.parts", &self.parts),
        ];
        let switches = [
            ("data.shuffle", self.no_shuffle.then_some("false")),
            ("data.ignore_exif", self.ignore_exif.then_some("true")),
            ("model.ignore_unknown", self.ignore_unknown.then_some("true")),
            ("schedule.refit", self.refit.then_some("true")),
        ];
        let valued = valued.into_iter().filter_map(|(key, value)| Some((key, value.clone()?)));
        let switches = switches.into_iter().filter_map(|(key, value)| Some((key, value?.to_string())));
        let flags = valued.chain(switches).map(|(key, value)| (key.to_string(), value));
        flags.chain(self.data_set.flags()).collect()
    }
}

fn positive(text: &str) -> Result<f32, String> {
    not_negative(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("must be above 0".to_string()) })
}

fn not_negative(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        _ => Err("expected a number of 0 or more".to_string()),
    }
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".to_string()),
    }
}

/// Reads `800M`, `4G`, `1500000`: powers of 1,024.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 1u64,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err("expected bytes with K, M, G or T, such as 800M".to_string()),
    };
    let number: f64 = digits.parse().map_err(|_| "expected bytes, such as 800M or 4G".to_string())?;
    if number > 0.0 && number * (unit as f64) < 1e18 {
        Ok((number * unit as f64) as u64)
    } else {
        Err("must be above 0".to_string())
    }
}

fn bytes_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_declared_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// Asserts that every name of a flag's value is that in configurations and metadata.
    fn assert_spelled_alike<Flag: ValueEnum, Value>()
    where
        Value: serde::Serialize + serde::de::DeserializeOwned,
    {
        for flag in Flag::value_variants() {
            let name = flag.to_possible_value().unwrap().get_name().to_string();
            let value: Value =
                serde_json::from_value(name.as_str().into()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(serde_json::to_value(&value).unwrap(), name.as_str());
        }
    }

    #[test]
    fn values_have_one_spelling() {
        assert_spelled_alike::<Act, Activation>();
        assert_spelled_alike::<NormalizeName, Normalize>();
        assert_spelled_alike::<LambdaOperand, LambdaOn>();
        assert_spelled_alike::<TokensName, PartTokens>();
        assert_spelled_alike::<PartsName, PartLayout>();
        assert_spelled_alike::<DtypeName, Dtype>();
        assert_spelled_alike::<DtypeName, Precision>();
        let command = Arguments::command();
        let train = command.find_subcommand("train").unwrap();
        let act = train.get_arguments().find(|argument| argument.get_id() == "act").unwrap();
        let names: Vec<String> =
            act.get_possible_values().iter().map(|value| value.get_name().to_string()).collect();
        assert_eq!(names, ["gelu", "quick-gelu"]);
    }

    #[test]
    fn memory_is_read_with_its_unit() {
        for (text, wanted) in [("1", 1), ("2K", 2048), ("1.5M", 3 << 19), ("4G", 4 << 30), ("4GiB", 4 << 30)]
        {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for bad in ["", "G", "-1", "0", "1X", "nan", "1e99"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
