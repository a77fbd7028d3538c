//! Arguments that several commands share, and how their values are read.

use super::open;
use super::words::named;
use crate::checkpoint::{Network, Settings};
use crate::datasets::{Boxes, Cuhk03Protocol, Layout, LoadOptions};
use crate::embeddings::gallery::Gallery;
use crate::error::Result;
use crate::gpu::{Context, ContextOptions, Precision};
use crate::report;
use crate::retrieval::pca::Reduction;
use crate::shape::{Activation, ImageSize, LambdaOn, Normalize, PartLayout, PartTokens};
use crate::tasks::search::{check_fits, check_weights};
use crate::train::config::{Layers, keys};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::path::{Path, PathBuf};

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
    #[arg(long, value_parser = named::<Activation>())]
    act: Option<Activation>,
    /// ε of every LayerNorm [default: 1e-5 with norm_pre, else 1e-6]
    #[arg(long, value_name = "F", value_parser = positive)]
    ln_eps: Option<f32>,
    /// Mean and deviation of the input [default: imagenet]
    #[arg(long, value_parser = named::<Normalize>())]
    normalize: Option<Normalize>,
    /// λ, the weight of one operand of the blend [default: 0.8]
    #[arg(long, value_name = "F", value_parser = not_negative)]
    lambda: Option<f32>,
    /// Which operand carries λ: class (Q+λG)/(1+λ) as in the paper, local (G+λQ)/(1+λ) as in the released code [default: class]
    #[arg(long, value_name = "OPERAND", value_parser = named::<LambdaOn>())]
    lambda_on: Option<LambdaOn>,
    /// Parts: row means blended with the class token, row means, or the class token [default: gelt]
    #[arg(long, value_parser = named::<PartTokens>())]
    tokens: Option<PartTokens>,
    /// One part per grid row, or one mean over all positions [default: rows]
    #[arg(long, value_parser = named::<PartLayout>())]
    parts: Option<PartLayout>,
    /// Pass over tensors of the file that are not known; they are refused otherwise, since they could change the network
    #[arg(long)]
    ignore_unknown: bool,
}

impl NetworkArguments {
    /// Returns the settings for loading a checkpoint.
    pub fn settings(&self) -> Settings {
        let &NetworkArguments { size, stride, heads, act, ln_eps, normalize, lambda, .. } = self;
        let &NetworkArguments { lambda_on, tokens, parts, ignore_unknown, .. } = self;
        Settings {
            size,
            stride,
            heads,
            act,
            ln_eps,
            normalize,
            lambda,
            lambda_on,
            tokens,
            parts,
            ignore_unknown,
        }
    }
}

/// The gallery that is searched, and the model that it was embedded with.
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// The model that the gallery was embedded with, as .safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Embeddings, as `lat-wgpu embed` writes them: a file, or a folder of parts
    #[arg(long, value_name = "FILE|DIR")]
    pub gallery: PathBuf,
    /// Go on where the files tell of different weights; they are refused otherwise
    #[arg(long)]
    pub allow_other_weights: bool,
}

impl TargetArguments {
    /// Opens the gallery and the reduction in `reduce`, and checks that both fit the network and its weights.
    ///
    /// # Errors
    /// Those of the files and the checks.
    pub fn open(
        &self,
        network: &Network,
        reduce: Option<&Path>,
        flip: bool,
    ) -> Result<(Gallery, Option<Reduction>)> {
        let gallery = Gallery::open(&self.gallery)?;
        let reduction = reduce.map(Reduction::read).transpose()?;
        check_fits(&gallery, network, reduction.as_ref(), flip)?;
        let components = reduce.zip(reduction.as_ref());
        open::print_notes(&check_weights(
            &self.model,
            network,
            &gallery,
            components,
            self.allow_other_weights,
        )?);
        Ok((gallery, reduction))
    }
}

/// The device memory that a command stays within.
#[derive(Debug, Args)]
pub struct MemoryArgument {
    /// Device memory to stay within, such as 800M or 4G [default: 2G, on graphics cards 8G; on GPUs at most half of what they have]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
}

/// The adapter that a command runs on.
#[derive(Debug, Args)]
pub struct AdapterArgument {
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

impl AdapterArgument {
    /// Returns the options for opening the adapter with a precision.
    pub fn options(&self, precision: Precision) -> ContextOptions {
        ContextOptions { precision, ..ContextOptions::from_environment(self.adapter.clone()) }
    }

    /// Opens the adapter and prints its notes.
    ///
    /// # Errors
    /// Those of [`Context::open`].
    pub fn open(&self, precision: Precision) -> Result<Context> {
        let context = Context::open(&self.options(precision))?;
        open::print_notes(&context.adapter.notes());
        Ok(context)
    }
}

/// The adapter that a command runs a network on, and how it stores tensors.
#[derive(Debug, Args)]
pub struct DeviceArguments {
    #[command(flatten)]
    pub adapter: AdapterArgument,
    /// Storage of weights and activations; sums are f32
    #[arg(long, value_name = "STORAGE", default_value = "f32", value_parser = named::<Precision>())]
    pub precision: Precision,
}

impl DeviceArguments {
    /// As the adapter is opened.
    pub fn options(&self) -> ContextOptions {
        self.adapter.options(self.precision)
    }

    /// Opens the adapter.
    pub fn open(&self) -> Result<Context> {
        self.adapter.open(self.precision)
    }
}

/// Which data set, and which of its splits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data set")]
pub struct SetArguments {
    /// How the data set is laid out [default: by what is in its folder]
    #[arg(long, value_parser = named::<Layout>())]
    layout: Option<Layout>,
    /// CUHK03: boxes by a detector, or by people [default: detected]
    #[arg(long, value_name = "WHOSE", value_parser = named::<Boxes>())]
    boxes: Option<Boxes>,
    /// CUHK03: 767 persons to train and 700 to test, or 1,367 and 100 [default: new]
    #[arg(long, value_name = "PROTOCOL", value_parser = named::<Cuhk03Protocol>())]
    cuhk03: Option<Cuhk03Protocol>,
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

impl SetArguments {
    /// Returns the options for loading a data set.
    pub fn options(&self) -> LoadOptions {
        let default = LoadOptions::default();
        LoadOptions {
            layout: self.layout,
            boxes: self.boxes.unwrap_or(default.boxes),
            protocol: self.cuhk03.unwrap_or(default.protocol),
            split: self.split.unwrap_or(default.split),
            seed: self.split_seed.unwrap_or(default.seed),
            follow_links: self.follow_links,
        }
    }
}

/// Arguments of a command that trains, with the layers of its configuration: `--config`, `--set`, and every flag whose id is
/// the name of a key. The configuration checks the values.
#[derive(Debug)]
pub struct Training<T> {
    pub arguments: T,
    pub layers: Layers,
}

impl<T: Args> FromArgMatches for Training<T> {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let flag = |(key, ..): (String, _, _)| {
            let id = key.rsplit('.').next()?;
            let value = matches.try_get_raw(id).ok()??.next_back()?.to_str()?.to_string();
            let is_given = matches.value_source(id) == Some(ValueSource::CommandLine);
            is_given.then_some((key, value))
        };
        let layers = Layers {
            file: matches.get_one("config").cloned(),
            flags: keys().into_iter().filter_map(flag).collect(),
            set: matches.get_many("set").into_iter().flatten().cloned().collect(),
        };
        Ok(Training { arguments: T::from_arg_matches(matches)?, layers })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|given| *self = given)
    }
}

impl<T: Args> Args for Training<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

/// A page to look at.
#[derive(Debug, Args)]
pub struct PageArguments {
    /// Write a page to look at, with images: one file that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// For --html: bytes of images inside the page, such as 800K; further ones are linked, with 0 all of them [default: 8M]
    #[arg(long, value_name = "BYTES", default_value_t = report::DEFAULT_LIMIT, hide_default_value = true, value_parser = bytes_or_none, requires = "html")]
    pub thumbnails: u64,
    /// For --html: how many ranked lists; of a search the first, of an evaluation half the worst and half the best
    #[arg(long, value_name = "N", default_value_t = 100, requires = "html")]
    pub lists: usize,
}

/// Parses a number above 0.
pub fn positive(text: &str) -> std::result::Result<f32, String> {
    not_negative(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("must be above 0".to_string()) })
}

/// Parses a number of 0 or more.
pub fn not_negative(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        _ => Err("expected a number of 0 or more".to_string()),
    }
}

/// Parses a number from 0 to 1.
pub fn fraction(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".to_string()),
    }
}

/// Parses bytes such as `800M`, `4G` or `1500000`. Units are powers of 1,024.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
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

/// Parses bytes or 0.
pub fn bytes_or_none(text: &str) -> std::result::Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::CommandFactory;

    #[test]
    fn flags_of_training_are_keys() {
        let keys = keys().into_iter().map(|(key, ..)| key.split('.').next_back().unwrap().to_string());
        let keys: Vec<String> = keys.collect();
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "two keys are called {key}");
        }
        let own = ["out", "resume", "config", "set", "memory", "dry_run", "profile", "json"];
        let command = Arguments::command();
        for name in ["train", "ablate"] {
            for argument in command.find_subcommand(name).unwrap().get_arguments() {
                let id = argument.get_id().as_str();
                assert!(own.contains(&id) || keys.iter().any(|key| key == id), "{name}: {id} is not a key");
            }
        }
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
