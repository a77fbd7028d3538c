//! The test images of a data set, on which models are scored.

use super::labels::Person;
use super::{LabelledImage, LoadOptions, ReidSet, uses};
use crate::error::{Error, Result};
use crate::images::walk::LeftOut;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Names of persons and cameras by number. A missing name is the number itself.
#[derive(Debug, Clone, Default)]
pub struct LabelNames {
    /// Of persons.
    pub persons: BTreeMap<u32, String>,
    /// Of cameras.
    pub cameras: BTreeMap<u32, String>,
}

impl LabelNames {
    /// Returns the name of a camera.
    pub fn camera(&self, camera: u32) -> String {
        self.cameras.get(&camera).cloned().unwrap_or_else(|| camera.to_string())
    }
}

/// The test images of a data set.
#[derive(Debug, Clone, Default)]
pub struct TestSet {
    /// Name of the data set.
    pub name: String,
    /// Images to search for.
    pub query: Vec<LabelledImage>,
    /// Images to search in; `None` searches the queries.
    pub gallery: Option<Vec<LabelledImage>>,
    /// Training images, which are not scored.
    pub train: Vec<LabelledImage>,
    /// Names of persons and cameras.
    pub label_names: LabelNames,
    /// Other files that the walk leaves out.
    pub left_out: LeftOut,
    /// True if the data set marks its training images; else all images train.
    pub has_split: bool,
    /// One image with its person and camera, as text.
    pub example: Option<String>,
}

impl TestSet {
    /// Lists the test images of a data set, and checks that a query has a match (by another camera if
    /// `across_cameras`).
    ///
    /// # Errors
    /// [`Error::Data`] if no query has a match, and the errors of [`load`](super::load).
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

    /// All scored images.
    pub fn evaluated(&self) -> impl Iterator<Item = &LabelledImage> {
        self.query.iter().chain(self.gallery.iter().flatten())
    }

    /// Names of the scored persons.
    pub fn persons(&self) -> BTreeSet<String> {
        let known = self.evaluated().filter_map(|image| match image.label.person {
            Person::Known(number) => self.label_names.persons.get(&number).cloned(),
            Person::Distractor | Person::Junk => None,
        });
        known.collect()
    }

    /// A test set in which each image is searched for among all others.
    pub fn of_each_other(name: &str, query: Vec<LabelledImage>) -> TestSet {
        TestSet { name: name.to_string(), query, ..TestSet::default() }
    }
}
