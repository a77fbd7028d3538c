//! Repositories of the Hugging Face hub: their names, and the settings that their JSON files give.

use crate::checkpoint::releases::UNKNOWN;
use crate::checkpoint::{Settings, convert, list};
use crate::error::{Error, Result};
use crate::shape::{Activation, Normalize};
use crate::storage::entry::KEY;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// Prefix of names of the hub.
const PREFIX: &str = "hf:";

/// Revision if none is given.
const MAIN: &str = "main";

/// Tolerance for mean and deviation, which files round.
const CLOSE: f64 = 2e-3;

/// A model of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// OWNER/NAME.
    repository: String,
    /// Branch, tag or commit.
    revision: String,
}

impl HubModel {
    /// Reads `hf:OWNER/NAME[@REVISION]`; `None` without the prefix.
    ///
    /// # Errors
    /// [`Error::Usage`] for another form, and for names that could lead to another folder.
    pub fn parse(text: &str) -> Result<Option<HubModel>> {
        let Some(rest) = text.strip_prefix(PREFIX) else { return Ok(None) };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        if repository.split('/').count() == 2 && is_safe(repository) && is_safe(revision) {
            return Ok(Some(HubModel { repository: repository.to_string(), revision: revision.to_string() }));
        }
        Err(Error::Usage(format!(
            "{}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION, of letters, digits, and - _ . inside names",
            text.escape_debug()
        )))
    }

    /// Returns OWNER/NAME.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the address of a file.
    pub fn address(&self, endpoint: &str, file: &str) -> String {
        format!("{endpoint}/{}/resolve/{}/{file}", self.repository, self.revision.replace('/', "%2F"))
    }

    /// Returns the place of the model file in a cache folder.
    pub fn file(&self, folder: &Path) -> PathBuf {
        folder.join("hf").join(format!("{}@{}.safetensors", self.repository, self.revision))
    }

    /// Makes the model file of a downloaded one: PyTorch's is converted, and so is a safetensors without this program's
    /// metadata. One that needs flags is kept as it is. Returns the licence if the weights are of a known release.
    ///
    /// # Errors
    /// Those of [`convert()`] for a file of PyTorch.
    pub fn make(
        &self,
        download: &Path,
        is_pytorch: bool,
        settings: &Settings,
        target: &Path,
    ) -> Result<Option<&'static str>> {
        let is_own = !is_pytorch && list(download).is_ok_and(|(_, metadata)| metadata.contains_key(KEY));
        if !is_own {
            match convert(download, settings, target) {
                Ok(converted) => {
                    std::fs::remove_file(download).map_err(Error::io("remove", download))?;
                    return Ok(Some(converted.licence).filter(|licence| *licence != UNKNOWN));
                }
                Err(error) if is_pytorch || matches!(error.plain(), Error::Io { .. }) => return Err(error),
                Err(_) => {}
            }
        }
        std::fs::rename(download, target).map_err(Error::io("replace", target))?;
        Ok(None)
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.repository)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Returns whether all steps of a path are plain names.
fn is_safe(path: &str) -> bool {
    path.split('/').all(|name| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(is_plain)
            && !name.contains("..")
    })
}

/// Returns the settings that a repository's `config.json` (timm's or transformers') and `preprocessor_config.json` give.
pub fn settings(config: &Value, preprocessor: &Value) -> Settings {
    // transformers' CLIP has the image tower inside.
    let tower = if config["vision_config"].is_object() { &config["vision_config"] } else { config };
    let timm = &config["pretrained_cfg"];
    let normalize = normalize(&timm["mean"], &timm["std"])
        .or_else(|| normalize(&preprocessor["image_mean"], &preprocessor["image_std"]));
    Settings {
        heads: tower["num_attention_heads"].as_u64().map(|heads| heads as usize),
        act: match tower["hidden_act"].as_str() {
            Some("gelu") => Some(Activation::Gelu),
            Some("quick_gelu") => Some(Activation::QuickGelu),
            _ => None,
        },
        ln_eps: tower["layer_norm_eps"].as_f64().map(|eps| eps as f32),
        normalize,
        ..Settings::default()
    }
}

/// Finds the normalisation with this mean and deviation.
fn normalize(mean: &Value, std: &Value) -> Option<Normalize> {
    let is_close = |values: &Value, wanted: [f32; 3]| {
        let found: Vec<f64> = values.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        found.len() == 3
            && found.iter().zip(wanted).all(|(found, wanted)| (found - f64::from(wanted)).abs() < CLOSE)
    };
    [Normalize::Imagenet, Normalize::Half, Normalize::Clip].into_iter().find(|normalize| {
        let (wanted_mean, wanted_std) = normalize.mean_std();
        is_close(mean, wanted_mean) && is_close(std, wanted_std)
    })
}

/// Returns the licence in the front matter of a model card.
pub fn licence(card: &str) -> Option<String> {
    let mut lines = card.lines();
    (lines.next()?.trim_end() == "---").then_some(())?;
    let matter = lines.take_while(|line| line.trim_end() != "---");
    let licence = matter.filter_map(|line| line.strip_prefix("license:")).next()?;
    let licence = licence.trim().trim_matches(['"', '\'']);
    (!licence.is_empty() && !licence.chars().any(char::is_control)).then(|| licence.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_lead_nowhere_else() {
        let model = HubModel::parse("hf:timm/vit_tiny.a-1").unwrap().unwrap();
        assert_eq!(model.to_string(), "hf:timm/vit_tiny.a-1");
        assert_eq!(model.address("https://h", "a.bin"), "https://h/timm/vit_tiny.a-1/resolve/main/a.bin");
        let model = HubModel::parse("hf:o/n@refs/pr/1").unwrap().unwrap();
        assert_eq!(model.to_string(), "hf:o/n@refs/pr/1");
        assert_eq!(model.address("https://h", "a.bin"), "https://h/o/n/resolve/refs%2Fpr%2F1/a.bin");
        assert_eq!(model.file(Path::new("c")), Path::new("c/hf/o/n@refs/pr/1.safetensors"));
        assert_eq!(HubModel::parse("o/n").unwrap(), None);
        for odd in [
            "",
            "o",
            "o/n/m",
            "../n",
            "o/..",
            "o/n@",
            "o/n@..",
            "o/n@a/../b",
            "o/n@/a",
            "o/n?x",
            "o/n#x",
            "o/a b",
            "o/n@a@b",
            "-o/n",
            "o/.n",
            "o/a..b",
            "o\\p/n",
            "o/n%2f",
            "o/\u{1b}[2J",
            "/n",
            "o/",
        ] {
            let error = HubModel::parse(&format!("hf:{odd}")).unwrap_err();
            assert!(matches!(&error, Error::Usage(text) if !text.contains('\u{1b}')), "{odd}");
        }
    }

    #[test]
    fn settings_come_from_the_repository() {
        let timm = json!({"architecture": "vit", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}});
        let found = settings(&timm, &Value::Null);
        assert_eq!(found, Settings { normalize: Some(Normalize::Half), ..Settings::default() });
        let clip = json!({"vision_config": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-5}});
        let found = settings(
            &clip,
            &json!({"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}),
        );
        assert_eq!((found.heads, found.act, found.ln_eps), (Some(12), Some(Activation::Gelu), Some(1e-5)));
        assert_eq!(found.normalize, Some(Normalize::Clip));
        let odd = json!({"num_attention_heads": "12", "hidden_act": 3, "pretrained_cfg": {"mean": [0.5], "std": 1}});
        assert_eq!(settings(&odd, &json!([1])), Settings::default());
    }

    #[test]
    fn licences_come_from_the_card() {
        for (card, wanted) in [
            ("---\ntags:\n- x\nlicense: apache-2.0\n---\n# A\n", Some("apache-2.0")),
            ("---\r\nlicense: \"mit\"\r\n---\r\n", Some("mit")),
            ("---\nlicense:\n---\n", None),
            ("---\na: b\n---\nlicense: mit\n", None),
            ("# A\nlicense: mit\n", None),
            ("", None),
        ] {
            assert_eq!(licence(card).as_deref(), wanted, "{card:?}");
        }
    }
}
