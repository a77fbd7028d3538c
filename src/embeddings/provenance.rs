//! Provenance of embeddings: settings, weights and inputs, in the metadata of their files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::format::extension;
use crate::error::{Error, Result};
use crate::storage::entry::{Entry, KEY};

/// Metadata key of the SHA-256 of the weights.
const WEIGHTS: &str = "weights_sha256";
/// Metadata key of the inputs as typed, a JSON list.
const INPUTS: &str = "inputs";

/// Provenance of a file's rows, as far as the file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Settings that made the rows: the `lat_wgpu` entry.
    pub settings: Option<Entry>,
    /// SHA-256 of the weights. Files of other programs, and `.npy`, lack it.
    pub weights_sha256: Option<String>,
    /// The inputs as typed.
    pub inputs: Vec<String>,
}

impl Provenance {
    /// Reads the entries that a file has.
    pub(super) fn read(entry: impl Fn(&str) -> Option<String>) -> Provenance {
        let inputs = entry(INPUTS).and_then(|text| serde_json::from_str(&text).ok());
        Provenance {
            settings: entry(KEY).map(Entry::new),
            weights_sha256: entry(WEIGHTS),
            inputs: inputs.unwrap_or_default(),
        }
    }

    /// Replaces the provenance entries of a file's metadata.
    pub fn add_to(&self, metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut metadata = without(metadata);
        if let Some(settings) = &self.settings {
            metadata.insert(KEY.to_string(), settings.text().to_string());
        }
        if let Some(weights) = &self.weights_sha256 {
            metadata.insert(WEIGHTS.to_string(), weights.clone());
        }
        if !self.inputs.is_empty() {
            metadata.insert(INPUTS.to_string(), serde_json::json!(self.inputs).to_string());
        }
        metadata
    }

    /// Combines the provenance of several files: the settings of the first one, the weights if all are the same, and
    /// every input once.
    pub fn of_all<'p>(all: impl IntoIterator<Item = &'p Provenance>) -> Provenance {
        let mut all = all.into_iter();
        let mut whole = all.next().cloned().unwrap_or_default();
        for part in all {
            if part.weights_sha256 != whole.weights_sha256 {
                whole.weights_sha256 = None;
            }
            add_inputs(&mut whole.inputs, &part.inputs);
        }
        whole
    }
}

/// Returns the metadata without weights and inputs.
pub(super) fn without(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut rest = metadata.clone();
    rest.retain(|key, _| key != WEIGHTS && key != INPUTS);
    rest
}

/// Appends the inputs that the list lacks.
pub(super) fn add_inputs(inputs: &mut Vec<String>, more: &[String]) {
    for input in more {
        if !inputs.contains(input) {
            inputs.push(input.clone());
        }
    }
}

/// Note on writing a `.npy` file.
pub const NPY_NOTE: &str = "a .npy file can't store weights_sha256 and inputs, so later commands can't check that its rows fit a \
     model or each other; .safetensors and .parquet files store them";

/// Returns whether a file of this name can store provenance.
pub fn has_place(path: &Path) -> bool {
    extension(path) != "npy"
}

/// A file and the weights that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A model, embeddings, or components that embeddings are reduced by.
    pub file: PathBuf,
    /// SHA-256 of the weights, if the file has it.
    pub weights_sha256: Option<String>,
}

/// Checks that all sources have the same weights. `allow` accepts different ones. Returns notes for the user.
///
/// # Errors
/// `Data` if two files have different weights.
pub fn check_same_weights(sources: &[Source], allow: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let named = |source: &Source| Some((source.file.clone(), source.weights_sha256.clone()?));
    let mut known = sources.iter().filter_map(named);
    if let Some((first, weights)) = known.next()
        && let Some((other, others)) = known.find(|(_, others)| *others != weights)
    {
        let found = format!(
            "{} and {} come from different weights (weights_sha256 {weights:.12}… and {others:.12}…)",
            first.display(),
            other.display()
        );
        if !allow {
            return Err(Error::Data(format!(
                "{found}: distances between their embeddings are meaningless; embed one of them again, or accept that \
                 with --allow-other-weights"
            )));
        }
        notes.push(format!("{found}: distances between their embeddings may be meaningless"));
    }
    let silent: Vec<&Source> = sources.iter().filter(|source| source.weights_sha256.is_none()).collect();
    if let [first, rest @ ..] = &silent[..] {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let why = if has_place(&first.file) {
            "the file has no weights_sha256"
        } else {
            "a .npy file can't store weights_sha256"
        };
        notes.push(format!(
            "{}{more}: {why}, so there is no check that all embeddings come from the same weights",
            first.file.display()
        ));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &str, weights: Option<&str>) -> Source {
        Source { file: file.into(), weights_sha256: weights.map(str::to_string) }
    }

    #[test]
    fn other_weights_are_refused_or_noted() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let same = [source("m.safetensors", Some(&a)), source("g.parquet", Some(&a))];
        assert_eq!(check_same_weights(&same, false).unwrap(), Vec::<String>::new());
        let other = [same[0].clone(), source("old.safetensors", None), source("g.parquet", Some(&b))];
        let error = check_same_weights(&other, false).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        for word in ["m.safetensors", "g.parquet", "aaaaaaaaaaaa…", "bbbbbbbbbbbb…", "--allow-other-weights"]
        {
            assert!(error.to_string().contains(word), "{error}");
        }
        let notes = check_same_weights(&other, true).unwrap();
        assert!(notes[0].contains("different weights") && notes[1].contains("old.safetensors"), "{notes:?}");
        let silent = [same[0].clone(), source("g.npy", None), source("h.npy", None)];
        let notes = check_same_weights(&silent, false).unwrap();
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains(".npy") && notes[0].contains("1 more"), "{notes:?}");
    }

    #[test]
    fn what_is_added_is_read_back() {
        let provenance = Provenance {
            settings: Some(Entry::new("{}".to_string())),
            weights_sha256: Some("ab".to_string()),
            inputs: vec!["a \"b\"".into(), "c".into()],
        };
        let before = BTreeMap::from([(KEY.to_string(), "{}".to_string())]);
        let metadata = provenance.add_to(&before);
        assert_eq!(metadata.len(), 3);
        assert_eq!(Provenance::read(|key| metadata.get(key).cloned()), provenance);
        assert_eq!(Provenance::default().add_to(&before), before);
        assert_eq!(Provenance::read(|_| Some("no JSON".to_string())).inputs, Vec::<String>::new());
        let other = Provenance { inputs: vec!["c".into(), "d".into()], ..Provenance::default() };
        let both = Provenance::of_all([&provenance, &other]);
        assert_eq!((both.weights_sha256, both.inputs.len()), (None, 3));
    }
}
