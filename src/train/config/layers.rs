//! The layers of a configuration, and their merge.

use super::keys::{key, put};
use super::{Config, Preset};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Settings of a command and of the user, from the weakest to the strongest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Keys of the command, for a new run.
    pub base: Vec<(String, String)>,
    /// `--config FILE.toml`.
    pub file: Option<PathBuf>,
    /// Flags as (key, value): `--lr 1e-4` is ("optim.lr", "1e-4"), `--preset full` is ("preset", "full").
    pub flags: Vec<(String, String)>,
    /// `--set section.key=value`, as typed.
    pub set: Vec<String>,
}

impl Config {
    /// Returns the configuration of a new run.
    ///
    /// # Errors
    /// `Usage` naming a key that is unknown, malformed or out of range; `Io` if the file cannot be read.
    pub fn resolve(layers: &Layers) -> Result<Config> {
        let mut given = read_flags(&layers.base)?;
        given.extend(layers.given()?);
        let preset = match given.iter().rev().find(|(key, _)| key == "preset") {
            None => Preset::Paper,
            Some((_, value)) => value.clone().try_into().map_err(|e| unusable(&e))?,
        };
        Config::preset(preset).overlaid(given)
    }

    /// Returns the configuration of a resumed run. Keys default to the saved run, and given keys must agree with it.
    ///
    /// Only `schedule.epochs`, `schedule.max_steps`, `schedule.micro_batch`, `schedule.save_every`, `schedule.log` and
    /// `device.adapter` may differ.
    /// The limit of steps and the adapter default to none.
    ///
    /// # Errors
    /// `Usage` naming the first key that differs and may not; those of [`Config::resolve`].
    pub fn resume(saved: &Path, layers: &Layers) -> Result<Config> {
        let saved = Config::read(saved)?;
        let mut now = saved.clone();
        now.schedule.max_steps = None;
        now.device.adapter = None;
        let now = now.overlaid(layers.given()?)?;
        saved.check_resumable(&now)?;
        Ok(now)
    }

    /// Reads a `config.toml` of [`Config::to_toml`]. Missing keys have the values of its preset.
    ///
    /// # Errors
    /// Those of [`Config::resolve`].
    pub fn read(path: &Path) -> Result<Config> {
        Config::resolve(&Layers { file: Some(path.to_path_buf()), ..Layers::default() })
    }

    /// Returns the configuration as TOML without absent values. [`Config::read`] reads it back.
    pub fn to_toml(&self) -> String {
        match toml::to_string(self) {
            Ok(text) => text,
            Err(e) => unreachable!("checked values can always be written as TOML: {e}"),
        }
    }

    pub(super) fn table(&self) -> Table {
        match Table::try_from(self) {
            Ok(table) => table,
            Err(e) => unreachable!("numbers and strings can always be written as TOML: {e}"),
        }
    }

    /// Replaces these keys and checks the result.
    fn overlaid(&self, given: Vec<(String, Value)>) -> Result<Config> {
        let mut table = self.table();
        for (key, value) in given {
            put(&mut table, &key, value);
        }
        let config: Config = table.try_into().map_err(|e| unusable(&e))?;
        config.check()?;
        Ok(config)
    }
}

impl Layers {
    /// Returns all keys that the user gave with their values, the weakest first.
    fn given(&self) -> Result<Vec<(String, Value)>> {
        let mut given = match &self.file {
            None => Vec::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
                read_file(&text).map_err(|reason| {
                    // The parser reports only that the integer is too large.
                    let seed =
                        "; a seed above 2^63 - 1 is written in quotes: seed = \"18446744073709551615\"";
                    let advice =
                        if reason.contains("seed") && reason.contains("too large") { seed } else { "" };
                    Error::Usage(format!("{}: {reason}{advice}", path.display()))
                })?
            }
        };
        given.extend(read_flags(&self.flags)?);
        for text in &self.set {
            let Some((key, value)) = text.split_once('=') else {
                return Err(Error::Usage(format!("--set {text}: expected section.key=value")));
            };
            let value = parse(key.trim(), value.trim()).map_err(|e| Error::Usage(format!("--set {e}")))?;
            given.push((key.trim().to_string(), value));
        }
        Ok(given)
    }
}

/// Reads keys with their values as typed on the command line.
fn read_flags(flags: &[(String, String)]) -> Result<Vec<(String, Value)>> {
    let read = |(name, text): &(String, String)| Ok((name.clone(), parse(name, text).map_err(Error::Usage)?));
    flags.iter().map(read).collect()
}

/// Reads a value as typed on the command line.
fn parse(name: &str, text: &str) -> std::result::Result<Value, String> {
    key(name)?.parse(text).map_err(|reason| format!("{name}: {reason}, found {text:?}"))
}

/// Returns the keys and values of a configuration file.
fn read_file(text: &str) -> std::result::Result<Vec<(String, Value)>, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| e.to_string().trim_end().to_string())?;
    let mut given = Vec::new();
    for (section, value) in table {
        match value {
            Value::Table(inner) => {
                for (name, value) in inner {
                    let name = format!("{section}.{name}");
                    given.push((name.clone(), key(&name)?.take(value)?));
                }
            }
            value => given.push((section.clone(), key(&section)?.take(value)?)),
        }
    }
    Ok(given)
}

/// An error for a value that its key takes and its field does not.
fn unusable(error: &toml::de::Error) -> Error {
    Error::Usage(error.to_string().trim_end().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::super::{Optimizer, keys};
    use super::*;
    use crate::shape::{ImageSize, LambdaOn, Normalize, PartLayout, PartTokens, Preprocess, VitConfig};

    fn layers(flags: &[(&str, &str)], set: &[&str]) -> Layers {
        Layers {
            base: Vec::new(),
            file: None,
            flags: flags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            set: set.iter().map(|s| s.to_string()).collect(),
        }
    }

    fn with_file(text: &str) -> (tempfile::TempDir, Layers) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, text).unwrap();
        (dir, Layers { file: Some(path), ..Layers::default() })
    }

    fn refusal(result: Result<Config>) -> String {
        match result {
            Err(Error::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_have_help_and_the_defaults_of_the_paper() {
        let default = |name: &str| key(name).unwrap().default();
        assert_eq!(default("optim.lr").unwrap(), "0.0003");
        assert_eq!(default("preset").unwrap(), "paper");
        assert_eq!(default("data.val_fraction"), None);
        assert_eq!(default("model.lambda_on").unwrap(), "class");
        assert!(keys().all(|key| key.help().len() > 10 && !key.help().ends_with('.')));
    }

    #[test]
    fn presets_round_trip_and_are_valid() {
        for preset in Preset::ALL {
            let config = Config::preset(preset);
            config.check().unwrap();
            let (_dir, file) = with_file(&config.to_toml());
            assert_eq!(Config::resolve(&file).unwrap(), config);
        }
    }

    #[test]
    fn presets_are_those_of_the_contract() {
        let paper = Config::preset(Preset::Paper);
        assert_eq!((paper.optim.lr, paper.optim.lr_decay, paper.schedule.unfreeze_every), (3e-4, 0.85, 2));
        assert_eq!((paper.model.lambda, paper.model.lambda_on), (0.8, LambdaOn::Class));
        assert_eq!((paper.head.relu, paper.head.dropout, paper.data.flip), (true, 0.5, 0.5));
        assert_eq!((paper.schedule.batch_size, paper.schedule.epochs), (32, 30));
        assert!(paper.schedule.freeze_embeddings && paper.optim.weight_decay == 0.0);

        let code = Config::preset(Preset::ReleasedCode);
        assert_eq!((code.optim.lr_decay, code.optim.weight_decay), (0.8, 5e-4));
        assert_eq!((code.model.lambda, code.model.lambda_on), (8.0, LambdaOn::Local));
        assert_eq!((code.model.tokens, code.model.embed_tokens), (PartTokens::Gelt, PartTokens::Local));
        assert!(!code.head.relu && !code.schedule.freeze_embeddings && code.schedule.first_unfreeze == 2);

        let strong = Config::preset(Preset::Strong);
        assert_eq!((strong.optim.optimizer, strong.optim.lr), (Optimizer::Adamw, 5e-5));
        assert_eq!((strong.optim.weight_decay, strong.optim.clip_norm), (0.05, 1.0));
        assert_eq!((strong.optim.warmup_epochs, strong.schedule.epochs), (5, 60));
        assert!(strong.optim.cosine && strong.loss.triplet && !strong.schedule.blockwise);
        assert_eq!((strong.data.erasing, strong.loss.label_smoothing), (0.5, 0.1));
        for preset in [Preset::Paper, Preset::ReleasedCode, Preset::Full] {
            let config = Config::preset(preset);
            assert_eq!((config.loss.label_smoothing, config.optim.clip_norm), (0.0, 0.0));
            assert_eq!((config.optim.warmup_epochs, config.loss.triplet), (0, false));
        }
    }

    #[test]
    fn the_stronger_layer_wins() {
        let (_dir, mut layers) = with_file("preset = \"released-code\"\n[optim]\nlr = 1\nlr_decay = 0.5\n");
        let config = Config::resolve(&layers).unwrap();
        assert_eq!((config.preset, config.optim.weight_decay), (Preset::ReleasedCode, 5e-4));
        assert_eq!((config.optim.lr, config.optim.lr_decay), (1.0, 0.5));

        layers.flags = vec![("preset".into(), "strong".into()), ("optim.lr".into(), "1e-3".into())];
        let config = Config::resolve(&layers).unwrap();
        assert_eq!((config.preset, config.optim.weight_decay), (Preset::Strong, 0.05));
        assert_eq!((config.optim.lr, config.optim.lr_decay), (1e-3, 0.5));

        layers.set = vec!["optim.lr=2e-3".into(), "model.size = 224x112".into(), "model.parts=1".into()];
        let config = Config::resolve(&layers).unwrap();
        assert_eq!((config.optim.lr, config.model.parts), (2e-3, PartLayout::One));
        for (text, parts) in [("6", PartLayout::Bands(6)), ("\"1\"", PartLayout::One)] {
            let (_dir, file) = with_file(&format!("[model]\nparts = {text}\n"));
            let config = Config::resolve(&file).unwrap();
            assert_eq!(config.model.parts, parts);
            let (_dir, file) = with_file(&config.to_toml());
            assert_eq!(Config::resolve(&file).unwrap(), config);
        }
        assert_eq!(config.model.size, Some(ImageSize { height: 224, width: 112 }));
        assert_eq!(config.settings().size, config.model.size);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, words) in [
            ("optim.lrr", "1", "optim.lrr: there is no such key"),
            ("optim", "1", "optim: there is no such key"),
            ("optim.lr", "fast", "optim.lr: expected a number"),
            ("optim.lr", "nan", "optim.lr: expected a number"),
            ("optim.lr", "0", "optim.lr: expected a number above 0"),
            ("data.shuffle", "1", "data.shuffle: expected true or false"),
            ("data.seed", "-1", "data.seed: expected an integer"),
            ("schedule.batch_size", "1", "schedule.batch_size must be 2 or more"),
            ("head.dropout", "1", "head.dropout: expected a number from 0 to below 1"),
            ("data.persons_per_batch", "3", "data.images_per_person must be 2"),
            ("data.val_fraction", "1", "data.val_fraction: expected a number from 0"),
            ("data.erasing_attempts", "101", "data.erasing_attempts must be 100 or less, found 101"),
            ("data.erasing_area_max", "0.01", "data.erasing_area_max: expected a number from 0.02 to 1"),
            ("data.sampler", "chunks", "data.sampler must be balanced unless data.persons_per_batch"),
            ("model.parts", "none", "model.parts: expected \"rows\" or an integer of 1 or more"),
            ("model.tokens", "some", "model.tokens"),
            ("model.size", "0x4", "model.size"),
            ("preset", "best", "preset: expected \"paper\" or"),
        ] {
            let text = refusal(Config::resolve(&layers(&[(key, value)], &[])));
            assert!(text.contains(words) && !text.contains('\n'), "{key}={value}: {text}");
            let set = refusal(Config::resolve(&layers(&[], &[&format!("{key}={value}")])));
            assert!(set.contains(words), "{set}");
        }
        assert!(refusal(Config::resolve(&layers(&[], &["optim.lr"]))).contains("section.key=value"));
        for (text, words) in [
            ("[optim]\nlrr = 1", "optim.lrr: there is no such key"),
            ("[optimal]\nlr = 1", "optimal.lr: there is no such key"),
            ("lr = 1", "lr: there is no such key"),
            ("optim = 1", "optim: there is no such key"),
            ("[optim]\nlr = \"1\"", "optim.lr: expected a number"),
            ("[optim]\nlr = 1\nlr = 2", "my.toml"),
            ("[schedule]\nepochs = 1.5", "schedule.epochs: expected an integer"),
            ("[model]\nparts = 0", "model.parts: expected \"rows\" or an integer of 1 or more, found 0"),
        ] {
            let (_dir, layers) = with_file(text);
            let message = refusal(Config::resolve(&layers));
            assert!(message.contains(words) && message.contains("my.toml"), "{text}: {message}");
        }
        let missing = Layers { file: Some("nowhere.toml".into()), ..Layers::default() };
        assert!(matches!(Config::resolve(&missing), Err(Error::Io { .. })));
    }

    #[test]
    fn a_seed_is_any_u64_as_number_or_text() {
        let highest = i64::MAX as u64;
        for (seed, written) in [
            (0, "0".to_string()),
            (highest, highest.to_string()),
            (highest + 1, format!("\"{}\"", highest + 1)),
            (u64::MAX, format!("\"{}\"", u64::MAX)),
        ] {
            let text = seed.to_string();
            let config = Config::resolve(&layers(&[("data.seed", &text)], &[])).unwrap();
            assert_eq!(config.data.seed, seed);
            assert!(config.to_toml().contains(&format!("\nseed = {written}\n")), "{}", config.to_toml());
            let (dir, file) = with_file(&config.to_toml());
            assert_eq!(Config::resolve(&file).unwrap(), config);
            // Both spellings are the same seed for a resumed run, on the command line and in a file.
            let quoted = format!("data.seed=\"{seed}\"");
            let saved = dir.path().join("my.toml");
            for given in [layers(&[("data.seed", &text)], &[]), layers(&[], &[&quoted])] {
                assert_eq!(Config::resume(&saved, &given).unwrap(), config);
            }
            let (_dir, other) = with_file(&format!("[data]\nseed = \"{seed}\"\n"));
            assert_eq!(Config::resolve(&other).unwrap().data.seed, seed);
        }
        for bad in ["-1", "1.5", "18446744073709551616", "", "one"] {
            let text = refusal(Config::resolve(&layers(&[("data.seed", bad)], &[])));
            assert!(text.starts_with("data.seed: expected an integer from 0 to 2^64"), "{text}");
        }
        let split = Config::resolve(&layers(&[("data.split_seed", &u64::MAX.to_string())], &[])).unwrap();
        assert_eq!(split.data.split_seed, u64::MAX);
        let (_dir, file) = with_file(&split.to_toml());
        assert_eq!(Config::resolve(&file).unwrap(), split);
        let (_dir, bad) = with_file("[data]\nseed = \"x\"\n");
        assert!(refusal(Config::resolve(&bad)).contains("data.seed"));
        let (_dir, bad) = with_file("[data]\nseed = 18446744073709551615\n");
        assert!(refusal(Config::resolve(&bad)).contains("my.toml"));
    }

    #[test]
    fn a_resumed_run_changes_only_what_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let saved = dir.path().join("config.toml");
        let images = dir.path().display().to_string();
        let first = layers(
            &[("preset", "full"), ("optim.lr", "1e-3"), ("schedule.epochs", "4"), ("data.dir", &images)],
            &["schedule.max_steps=10", "device.adapter=llvmpipe"],
        );
        let config = Config::resolve(&first).unwrap();
        std::fs::write(&saved, config.to_toml()).unwrap();

        // The same call, and a call that says nothing.
        assert_eq!(Config::resume(&saved, &first).unwrap(), config);
        let silent = Config::resume(&saved, &Layers::default()).unwrap();
        assert_eq!((silent.preset, silent.optim.lr, silent.schedule.epochs), (Preset::Full, 1e-3, 4));
        assert_eq!((silent.schedule.max_steps, silent.device.adapter), (None, None));

        // A run that was saved before data sets had options.
        let text = config.to_toml();
        let old =
            text.lines().filter(|line| !["boxes", "cuhk03", "split"].iter().any(|key| line.starts_with(key)));
        let old: Vec<&str> = old.collect();
        assert_eq!(old.len(), text.lines().count() - 4);
        let before = dir.path().join("old.toml");
        std::fs::write(&before, old.join("\n")).unwrap();
        assert_eq!(Config::resume(&before, &first).unwrap(), config);

        let free = layers(&[("schedule.epochs", "9"), ("device.adapter", "x")], &["schedule.save_every=5"]);
        assert_eq!(Config::resume(&saved, &free).unwrap().schedule.epochs, 9);
        let spelled = format!("{images}/../{}", dir.path().file_name().unwrap().to_str().unwrap());
        Config::resume(&saved, &layers(&[("data.dir", &spelled)], &[])).unwrap();

        for (key, value) in [
            ("optim.lr", "1e-4"),
            ("preset", "paper"),
            ("data.seed", "1"),
            ("data.dir", "elsewhere"),
            ("data.split", "2"),
            ("data.val_fraction", "0"),
            ("model.size", "64x32"),
        ] {
            let text = refusal(Config::resume(&saved, &layers(&[(key, value)], &[])));
            assert!(text.starts_with(key), "{text}");
        }
    }

    #[test]
    fn the_backbone_settles_what_is_absent() {
        let mut config = Config::resolve(&layers(&[("preset", "released-code")], &[])).unwrap();
        let network = VitConfig::plain(ImageSize { height: 224, width: 112 }, 14, 384, 12, 6);
        let preprocess = Preprocess::new(network.image, Normalize::Half.mean_std());
        config.settle(&network, &preprocess);
        assert_eq!((config.model.heads, config.model.ln_eps), (Some(6), Some(1e-6)));
        assert_eq!(config.model.normalize, Some(Normalize::Half));
        assert!(config.to_toml().contains("size = \"224x112\""), "{}", config.to_toml());
        assert_eq!(config.saved_network(&network).gelt.tokens, PartTokens::Local);
        let (_dir, file) = with_file(&config.to_toml());
        assert_eq!(Config::resolve(&file).unwrap(), config);
    }
}
