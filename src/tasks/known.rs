//! Images and persons that a model is scored on and was trained on.

use crate::checkpoint::{self, Network};
use crate::datasets::TestSet;
use crate::error::Result;
use crate::storage::hash;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// Images and persons that a model was trained on.
pub struct Known {
    /// Hashes of the images that it was trained on, sorted.
    images: Vec<u64>,
    persons: BTreeSet<String>,
}

/// How much of a test set a model knows.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    images: usize,
    of_images: usize,
    persons: usize,
    of_persons: usize,
    #[serde(skip)]
    first_person: Option<String>,
}

impl Known {
    /// Reads them from a model's file; `None` where it doesn't say.
    pub fn read(model: &Path, network: &Network) -> Result<Option<Known>> {
        let persons = network.class_names.iter().flatten().cloned().collect();
        Ok(checkpoint::read_trained_on(model)?.map(|images| Known { images, persons }))
    }

    /// Counts those of a test set. Names of persons count within the data set that the model was trained on, which it knows by
    /// the content of any of its images: other data sets have a `0001` too.
    pub fn among(&self, set: &TestSet) -> Seen {
        let evaluated: Vec<&Path> = set.evaluated().map(|image| image.path.as_path()).collect();
        let images = evaluated.par_iter().filter(|path| self.holds(path)).count();
        let names = set.persons();
        let mut persons: Vec<&String> = names.iter().filter(|name| self.persons.contains(*name)).collect();
        if images == 0 && !persons.is_empty() {
            let train: Vec<&Path> = set.train.iter().map(|image| image.path.as_path()).collect();
            if !train.par_iter().any(|path| self.holds(path)) {
                persons.clear();
            }
        }
        Seen {
            images,
            of_images: evaluated.len(),
            persons: persons.len(),
            of_persons: names.len(),
            first_person: persons.first().map(|name| (*name).clone()),
        }
    }

    /// Returns whether the model was trained on an image; one that can't be read is found out when it is embedded.
    fn holds(&self, path: &Path) -> bool {
        hash::number_of_file(path).is_ok_and(|number| self.images.binary_search(&number).is_ok())
    }
}

impl Seen {
    /// Warnings for the user.
    pub fn warnings(&self) -> Vec<String> {
        let Seen { images, of_images, persons, of_persons, first_person } = self;
        let images = (*images > 0).then(|| {
            format!("{images} of {of_images} evaluated images were trained on: the scores say little about new ones")
        });
        let persons = first_person.as_ref().map(|first| {
            format!("{persons} of {of_persons} evaluated persons were trained on (first: {first}): the scores say little about others")
        });
        images.into_iter().chain(persons).collect()
    }
}
