//! The images of a data set that models are scored on.

use super::labels::Person;
use super::{LabelledImage, LoadOptions, ReidSet, uses};
use crate::error::{Error, Result};
use crate::images::walk::LeftOut;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What persons and cameras are called by number; those that are missing are called by it.
#[derive(Debug, Clone, Default)]
pub struct LabelNames {
    /// Of persons.
    pub persons: BTreeMap<u32, String>,
    /// Of cameras.
    pub cameras: BTreeMap<u32, String>,
}

/// A data set's test images.
#[derive(Debug, Clone, Default)]
pub struct TestSet {
    /// Its name.
    pub name: String,
    /// What is looked for.
    pub query: Vec<LabelledImage>,
    /// `None`: the queries themselves.
    pub gallery: Option<Vec<LabelledImage>>,
    /// Images to learn from, which are not scored.
    pub train: Vec<LabelledImage>,
    /// Names of persons and cameras.
    pub label_names: LabelNames,
    /// Other files that the walk over its folders left out.
    pub left_out: LeftOut,
    /// True if it says which images train; else all of them do.
    pub has_split: bool,
    /// One image with its person and camera.
    pub example: Option<String>,
}

impl TestSet {
    /// Lists a data set's test images, and makes sure that a query has a match; with `across_cameras` by another camera.
    ///
    /// # Errors
    /// [`Error::Data`] if no query has a match; what the data set's files report.
    pub fn load(dir: &Path, options: &LoadOptions, across_cameras: bool) -> Result<TestSet> {
        let set = super::load(dir, options)?;
        if let Some(reason) = uses::scoring_refusal(&set, across_cameras) {
            let dir = dir.display();
            return Err(Error::Data(format!("{dir}: {reason}; `lat-wgpu data {dir}` lists what is there")));
        }
        let (has_split, example) = (uses::has_split(&set), uses::an_example(&set));
        let gallery = (!set.query_is_gallery).then_some(set.gallery);
        let label_names = LabelNames { persons: set.persons, cameras: set.cameras };
        let ReidSet { name, query, train, left_out, .. } = set;
        Ok(TestSet { name, query, gallery, train, label_names, left_out, has_split, example })
    }

    /// The images that are scored.
    pub fn evaluated(&self) -> impl Iterator<Item = &LabelledImage> {
        self.query.iter().chain(self.gallery.iter().flatten())
    }

    /// Names of the persons who are scored.
    pub fn persons(&self) -> BTreeSet<String> {
        let known = self.evaluated().filter_map(|image| match image.label.person {
            Person::Known(number) => self.label_names.persons.get(&number).cloned(),
            Person::Distractor | Person::Junk => None,
        });
        known.collect()
    }

    /// Images each of which is looked for among all others.
    pub fn of_each_other(name: &str, query: Vec<LabelledImage>) -> TestSet {
        TestSet { name: name.to_string(), query, ..TestSet::default() }
    }
}
