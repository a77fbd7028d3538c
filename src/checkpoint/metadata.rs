//! The metadata of a model: the `lat_wgpu` entry of its `__metadata__`, a JSON object.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::positions::Grid;
use crate::error::{Error, Result};
use crate::shape::{
    Activation, CameraStatistics, CameraTable, HeadEmbed, ImageSize, LambdaOn, PartLayout, PartTokens,
    Preprocess, VitConfig, is_false,
};
use crate::storage::entry::Entry;
use crate::storage::json::differences;

/// Newest format that this version reads.
const FORMAT: u64 = 1;

/// The whole entry. Every key is optional; unknown keys are ignored.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Metadata {
    format: Option<u64>,
    pub(super) model: Model,
    pub(super) preprocess: Image,
    #[serde(skip_serializing_if = "Heads::is_silent")]
    pub(super) heads: Heads,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) class_names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) threshold: Option<StoredThreshold>,
}

/// The setting of the part classifiers that embeddings depend on.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Heads {
    pub(super) embed: HeadEmbed,
}

impl Heads {
    /// Returns true if the entry is left out: earlier versions, which embed before the BatchNorm, have none.
    fn is_silent(&self) -> bool {
        self.embed == HeadEmbed::Before
    }
}

impl Metadata {
    /// Returns whether these are the settings of the file's own embeddings.
    pub(super) fn is_of(&self, config: &VitConfig, preprocess: &Preprocess) -> bool {
        let (own, current) = (self.entry(), settings(config, preprocess));
        let is_same = |key: &&str| differences(&own.value()[key], &current[key]).is_empty();
        ["model", "preprocess", "heads"].iter().all(is_same)
    }

    fn entry(&self) -> Entry {
        match serde_json::to_string(self) {
            Ok(text) => Entry::new(text),
            Err(e) => unreachable!("numbers and strings always serialise: {e}"),
        }
    }
}

/// Largest distance between images of the same person.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
pub struct Threshold {
    /// Squared Euclidean distance between embeddings.
    pub distance: f32,
    /// False positive rate that the distance was chosen for: the share of pairs of different persons within it.
    pub fpr: f64,
}

/// A share of the pairs of different persons.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(from = "(f32, f64)", into = "(f32, f64)")]
pub struct MatchRate {
    /// Squared Euclidean distance between embeddings.
    pub distance: f32,
    /// Share of the pairs of different persons within it.
    pub rate: f64,
}

impl From<(f32, f64)> for MatchRate {
    fn from((distance, rate): (f32, f64)) -> MatchRate {
        MatchRate { distance, rate }
    }
}

impl From<MatchRate> for (f32, f64) {
    fn from(MatchRate { distance, rate }: MatchRate) -> (f32, f64) {
        (distance, rate)
    }
}

/// A threshold, the rates around it, and the settings that they were measured with.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub(super) struct StoredThreshold {
    #[serde(flatten)]
    threshold: Threshold,
    /// By rising distance. Files of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rates: Vec<MatchRate>,
    settings: serde_json::Value,
}

impl StoredThreshold {
    pub(super) fn new(
        threshold: Threshold,
        rates: &[MatchRate],
        config: &VitConfig,
        preprocess: &Preprocess,
    ) -> StoredThreshold {
        StoredThreshold { threshold, rates: rates.to_vec(), settings: settings(config, preprocess) }
    }

    /// Returns the threshold and the rates if they were measured with these settings.
    pub(super) fn valid_for(
        &self,
        config: &VitConfig,
        preprocess: &Preprocess,
    ) -> Option<(Threshold, &[MatchRate])> {
        let fits = differences(&self.settings, &settings(config, preprocess)).is_empty();
        fits.then_some((self.threshold, &self.rates))
    }
}

/// Collects the settings that embeddings depend on.
fn settings(config: &VitConfig, preprocess: &Preprocess) -> serde_json::Value {
    lat_wgpu_metadata(config, preprocess, None).value().clone()
}

/// Settings of the network that the shapes of its tensors don't show.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Model {
    pub(super) heads: Option<usize>,
    pub(super) act: Option<Activation>,
    pub(super) ln_eps: Option<f32>,
    pub(super) stride: Option<usize>,
    /// Grid of the position table, in rows and columns. 144 positions may be 12x12 or 18x8.
    pub(super) grid: Option<Grid>,
    pub(super) gelt: Gelt,
    /// Names of the rows of the camera embedding, and their factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cameras: Option<CameraTable>,
    /// True if the file has a jigsaw's block and norm.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) jigsaw: bool,
    /// Names of the rows of the camera statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) statistics: Option<CameraStatistics>,
}

/// Settings of the parts.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Gelt {
    pub(super) lambda: Option<f32>,
    pub(super) lambda_on: Option<LambdaOn>,
    pub(super) tokens: Option<PartTokens>,
    pub(super) parts: Option<PartLayout>,
}

/// Preprocessing of images; `size` is height and width in pixels.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Image {
    pub(super) size: Option<[usize; 2]>,
    pub(super) interpolation: Option<String>,
    pub(super) mean: Option<[f32; 3]>,
    pub(super) std: Option<[f32; 3]>,
}

impl Image {
    /// Returns the size, if the file has one.
    pub(super) fn image_size(&self) -> Option<ImageSize> {
        self.size.map(|[height, width]| ImageSize { height, width })
    }
}

/// Parses the entry. A file without an entry has no settings.
///
/// # Errors
/// [`Error::Weights`] if it is malformed or has a newer format.
pub(super) fn read(path: &Path, text: Option<&String>) -> Result<Metadata> {
    let Some(text) = text else { return Ok(Metadata::default()) };
    let unusable = |reason: String| Error::Weights { path: path.to_path_buf(), reason };
    let metadata: Metadata = serde_json::from_str(text)
        .map_err(|e| unusable(format!("its metadata entry lat_wgpu is malformed: {e}")))?;
    match metadata.format {
        Some(format) if format > FORMAT => Err(unusable(format!(
            "its metadata entry lat_wgpu has format {format}; this version reads formats up to {FORMAT}"
        ))),
        _ => Ok(metadata),
    }
}

/// Writes the `lat_wgpu` entry that lets a file load without flags. The position table of the file is that of
/// `config`'s grid.
pub fn lat_wgpu_metadata(
    config: &VitConfig,
    preprocess: &Preprocess,
    class_names: Option<&[String]>,
) -> Entry {
    let metadata = Metadata {
        format: Some(FORMAT),
        model: Model {
            heads: Some(config.heads),
            act: Some(config.act),
            ln_eps: Some(config.ln_eps),
            stride: Some(config.stride),
            grid: Some(config.grid()),
            gelt: Gelt {
                lambda: Some(config.gelt.lambda),
                lambda_on: Some(config.gelt.lambda_on),
                tokens: Some(config.gelt.tokens),
                parts: Some(config.gelt.parts),
            },
            cameras: config.cameras.clone(),
            jigsaw: config.jigsaw,
            statistics: config.statistics.clone(),
        },
        preprocess: Image {
            size: Some([preprocess.size.height, preprocess.size.width]),
            interpolation: Some(preprocess.interpolation.clone()),
            mean: Some(preprocess.mean),
            std: Some(preprocess.std),
        },
        heads: Heads { embed: config.head_embed },
        class_names: class_names.map(<[String]>::to_vec),
        threshold: None,
    };
    metadata.entry()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Metadata> {
        read(Path::new("model.safetensors"), Some(&text.to_string()))
    }

    #[test]
    fn any_part_may_be_missing_and_more_may_be_there() {
        let m = parse(
            r#"{"format":1,"author":"x","model":{"act":"quick_gelu","gelt":{"lambda":8,"parts":"1"}}}"#,
        )
        .unwrap();
        assert_eq!(m.model.act, Some(Activation::QuickGelu), "as earlier versions wrote it");
        let m_now = parse(r#"{"format":1,"model":{"act":"quick-gelu"}}"#).unwrap();
        assert_eq!(m_now.model.act, m.model.act);
        assert_eq!((m.model.gelt.lambda, m.model.gelt.parts), (Some(8.0), Some(PartLayout::One)));
        assert_eq!((m.model.heads, m.class_names), (None, None));
        let m = parse(r#"{"preprocess":{"size":[224,112],"mean":[0.1,0.2,0.3]}}"#).unwrap();
        assert_eq!(m.preprocess.image_size(), Some(ImageSize { height: 224, width: 112 }));
        assert_eq!(m.preprocess.mean, Some([0.1, 0.2, 0.3]));
        assert!(read(Path::new("x"), None).unwrap().model.heads.is_none());
    }

    #[test]
    fn damage_and_newer_formats_are_refused() {
        for (text, words) in [
            (r#"{"format":2}"#, "format 2"),
            ("{", "entry lat_wgpu"),
            (r#"{"model":{"heads":-1}}"#, "entry lat_wgpu"),
            (r#"{"model":{"act":"relu"}}"#, "relu"),
            (r#"{"preprocess":{"size":[224]}}"#, "entry lat_wgpu"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
