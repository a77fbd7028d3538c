//! `images.jsonl`: name, size and person of each image of a run, to check that a resumed run uses the same images.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::datasets::sampler::{Sample, Source, TrainingSet};
use crate::error::{Error, Result};
use crate::storage::atomic::write_atomically;
use crate::storage::hash;

/// Name of the file in the run folder.
pub(super) const FILE: &str = "images.jsonl";

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    name: String,
    bytes: u64,
    person: String,
}

/// The images of a run, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageList(Vec<Line>);

impl ImageList {
    /// Lists the images of a set with their sizes on disk; 0 for drawn ones.
    ///
    /// # Errors
    /// [`Error::Io`] if an image no longer exists.
    pub fn of(set: &TrainingSet) -> Result<ImageList> {
        let line = |sample: &Sample| -> Result<Line> {
            let bytes = match &sample.source {
                Source::File(path) => std::fs::metadata(path).map_err(Error::io("read", path))?.len(),
                Source::Drawn { .. } => 0,
            };
            Ok(Line { name: sample.name.clone(), bytes, person: set.classes[sample.class].clone() })
        };
        let mut lines = set.images.par_iter().map(line).collect::<Result<Vec<Line>>>()?;
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(ImageList(lines))
    }

    fn text(&self) -> String {
        let line = |line: &Line| match serde_json::to_string(line) {
            Ok(text) => format!("{text}\n"),
            Err(e) => unreachable!("texts and numbers can always be written as JSON: {e}"),
        };
        self.0.iter().map(line).collect()
    }

    /// Returns the first 64 bits of the list's SHA-256.
    pub fn hash(&self) -> u64 {
        hash::number(&self.text())
    }

    /// Writes the list into a run folder.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomically(&folder.join(FILE), self.text().as_bytes())
    }

    /// Reads the list in a run folder; `None` if it is missing or has another hash.
    fn read(folder: &Path, wanted: u64) -> Option<ImageList> {
        let text = std::fs::read_to_string(folder.join(FILE)).ok()?;
        let lines =
            text.lines().map(|line| serde_json::from_str(line).ok()).collect::<Option<Vec<Line>>>()?;
        let list = ImageList(lines);
        (list.hash() == wanted).then_some(list)
    }

    /// Compares the images with those of the saved run, whose list has the hash `saved`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the number of images added, removed and changed, and the first of each.
    pub fn check(&self, folder: &Path, saved: u64, data: &str) -> Result<()> {
        if self.hash() == saved {
            return Ok(());
        }
        let differences = match ImageList::read(folder, saved) {
            Some(before) => before.differences(self),
            None => format!("{} no longer has their names", folder.join(FILE).display()),
        };
        Err(Error::Usage(format!(
            "{data}: the images differ from those of the saved run: {differences}; --resume needs the same images, \
             another --out begins a new run"
        )))
    }

    /// Describes how `now` differs from this list.
    fn differences(&self, now: &ImageList) -> String {
        let by_name = |list: &'_ ImageList| -> BTreeMap<String, Line> {
            list.0.iter().map(|line| (line.name.clone(), line.clone())).collect()
        };
        let (before, after) = (by_name(self), by_name(now));
        let added: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
        let removed: Vec<&String> = before.keys().filter(|name| !after.contains_key(*name)).collect();
        let is_changed = |(name, line): &(&String, &Line)| after.get(*name).is_some_and(|now| now != *line);
        let changed: Vec<&String> = before.iter().filter(is_changed).map(|(name, _)| name).collect();
        let differences = [("added", added), ("removed", removed), ("changed", changed)]
            .into_iter()
            .filter_map(|(what, names)| Some(format!("{} {what} (first: {})", names.len(), names.first()?)));
        differences.collect::<Vec<String>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lines: &[(&str, u64, &str)]) -> ImageList {
        let line = |&(name, bytes, person): &(&str, u64, &str)| Line {
            name: name.to_string(),
            bytes,
            person: person.to_string(),
        };
        ImageList(lines.iter().map(line).collect())
    }

    #[test]
    fn differences_are_counted_and_the_first_of_each_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let before = list(&[("a/1", 5, "a"), ("a/2", 5, "a"), ("b/1", 7, "b"), ("b/\"2\"\n", 7, "b")]);
        before.write(dir.path()).unwrap();
        before.check(dir.path(), before.hash(), "set").unwrap();
        for (now, words) in [
            (
                list(&[("a/1", 5, "a"), ("a/2", 5, "a"), ("b/1", 7, "b")]),
                "run: 1 removed (first: b/\"2\"\n);",
            ),
            (
                list(&[("a/0", 5, "a"), ("a/1", 6, "a"), ("a/2", 5, "c"), ("a/3", 1, "a"), ("b/1", 7, "b")]),
                "2 added (first: a/0), 1 removed (first: b/\"2\"\n), 2 changed (first: a/1);",
            ),
        ] {
            match now.check(dir.path(), before.hash(), "set") {
                Err(Error::Usage(text)) => assert!(text.contains(words), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        // An altered or missing list gives no names.
        std::fs::write(dir.path().join(FILE), "{}\n").unwrap();
        let other = list(&[("a/1", 5, "a")]);
        match other.check(dir.path(), before.hash(), "set") {
            Err(Error::Usage(text)) => assert!(text.contains("no longer has"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
