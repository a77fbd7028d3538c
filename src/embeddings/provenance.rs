//! Provenance of embeddings: settings and weights that made them and the inputs, in the metadata of their files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::format::ending;
use crate::error::{Error, Result};
use crate::storage::entry::{Entry, KEY};

/// Entry of the metadata: the SHA-256 of the weights.
const WEIGHTS: &str = "weights_sha256";
/// Entry of the metadata: the inputs as typed, a JSON list.
const INPUTS: &str = "inputs";

/// Provenance of a file's rows, as far as the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Settings that made them: the `lat_wgpu` entry.
    pub settings: Option<Entry>,
    /// SHA-256 of the weights; files of other programs, and `.npy`, don't tell it.
    pub weights_sha256: Option<String>,
    /// The inputs as typed.
    pub inputs: Vec<String>,
}

impl Provenance {
    /// Reads the entries, where they are.
    pub(super) fn read(entry: impl Fn(&str) -> Option<String>) -> Provenance {
        let inputs = entry(INPUTS).and_then(|text| serde_json::from_str(&text).ok());
        Provenance {
            settings: entry(KEY).map(Entry::new),
            weights_sha256: entry(WEIGHTS),
            inputs: inputs.unwrap_or_default(),
        }
    }

    /// The metadata of a file with these entries beside its other ones; what isn't told has none.
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

    /// That of rows from several files: the settings of the first one, the weights where all name
    /// the same, and every input once.
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

/// The entries that don't tell of provenance.
pub(super) fn without(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut rest = metadata.clone();
    rest.retain(|key, _| key != WEIGHTS && key != INPUTS);
    rest
}

/// Appends those inputs that aren't among the first ones.
pub(super) fn add_inputs(inputs: &mut Vec<String>, more: &[String]) {
    for input in more {
        if !inputs.contains(input) {
            inputs.push(input.clone());
        }
    }
}

/// Why a `.npy` file is written without provenance.
pub const NPY_NOTE: &str = "a .npy file has no place for weights_sha256 and inputs: whether its rows fit a model, or each other, can't \
     be checked later; .safetensors and .parquet have it";

/// Returns whether a file of this name has a place for provenance.
pub fn has_place(path: &Path) -> bool {
    ending(path) != "npy"
}

/// A file, and the weights that it tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A model, embeddings, or components that embeddings are reduced by.
    pub file: PathBuf,
    /// SHA-256 of the weights, where it is told.
    pub weights_sha256: Option<String>,
}

/// Makes sure that vectors from all sources come from the same weights; `allow` passes over other ones. Returns notes
/// for the user.
///
/// # Errors
/// `Data` naming two files of different weights.
pub fn check_same_weights(sources: &[Source], allow: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let told = |source: &Source| Some((source.file.clone(), source.weights_sha256.clone()?));
    let mut known = sources.iter().filter_map(told);
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
                "{found}: distances between their vectors mean nothing; embed one of them again, or go on with \
                 --allow-other-weights"
            )));
        }
        notes.push(format!("{found}: distances between their vectors may mean nothing"));
    }
    let silent: Vec<&Source> = sources.iter().filter(|source| source.weights_sha256.is_none()).collect();
    if let [first, rest @ ..] = &silent[..] {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let why = if has_place(&first.file) {
            "no weights_sha256 is in it"
        } else {
            "a .npy file has no place for weights_sha256"
        };
        notes.push(format!(
            "{}{more}: {why}, so it isn't checked that all vectors come from the same weights",
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
