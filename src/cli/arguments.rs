//! Arguments that several commands share, and how their values are read.

use super::open;
use crate::checkpoint::Settings;
use crate::datasets::{Boxes, Cuhk03Protocol, Layout, LoadOptions};
use crate::embeddings::Dtype;
use crate::error::Result;
use crate::gpu::{Context, ContextOptions, Precision};
use crate::report;
use crate::shape::{Activation, ImageSize, LambdaOn, Normalize, PartLayout, PartTokens};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

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

/// The device memory that a command stays within.
#[derive(Debug, Args)]
pub struct MemoryArgument {
    /// Device memory to stay within, such as 800M or 4G [default: 2G, on graphics cards 8G; on GPUs at most half of what they have]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
}

impl MemoryArgument {
    /// The bytes that were given, else the adapter's default.
    pub fn within(&self, context: &Context) -> u64 {
        self.memory.unwrap_or(context.default_memory())
    }
}

/// The adapter that a command runs on.
#[derive(Debug, Args)]
pub struct AdapterArgument {
    /// Part of the adapter's name, see `lat-wgpu info` [default: $LAT_ADAPTER, else the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

impl AdapterArgument {
    /// Opens the adapter whose name holds this, or the best one, to store weights and activations in a precision.
    pub fn open(&self, precision: Precision) -> Result<Context> {
        let options = ContextOptions { precision, ..ContextOptions::from_environment(self.adapter.clone()) };
        let context = Context::open(&options)?;
        open::tell(&context.adapter.notes());
        Ok(context)
    }
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
    pub fn flags(&self) -> Vec<(String, String)> {
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

pub fn positive(text: &str) -> std::result::Result<f32, String> {
    not_negative(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("must be above 0".to_string()) })
}

pub fn not_negative(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        _ => Err("expected a number of 0 or more".to_string()),
    }
}

pub fn fraction(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".to_string()),
    }
}

/// Reads `800M`, `4G`, `1500000`: powers of 1,024.
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

pub fn bytes_or_none(text: &str) -> std::result::Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::CommandFactory;

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
