//! Compares a test set with the images and persons that a model was trained on.

use crate::checkpoint::{self, Network};
use crate::datasets::TestSet;
use crate::error::Result;
use crate::storage::hash;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// The images and persons that a model was trained on.
pub struct TrainedOn {
    /// Sorted hashes of the images.
    images: Vec<u64>,
    persons: BTreeSet<String>,
}

/// The images and persons of a test set that a model was trained on.
#[derive(Debug, Clone, Serialize)]
pub struct Overlap {
    images: usize,
    of_images: usize,
    persons: usize,
    of_persons: usize,
    #[serde(skip)]
    first_person: Option<String>,
}

impl TrainedOn {
    /// Reads them from a model's file; `None` if it does not record them.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn read(model: &Path, network: &Network) -> Result<Option<TrainedOn>> {
        let persons = network.class_names.iter().flatten().cloned().collect();
        Ok(checkpoint::read_trained_on(model)?.map(|images| TrainedOn { images, persons }))
    }

    /// Counts the overlap with a test set.
    ///
    /// Persons are compared by name only if the data set contains an image that the model was trained on: unrelated
    /// data sets have a person `0001` too.
    pub fn overlap(&self, set: &TestSet) -> Overlap {
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
        Overlap {
            images,
            of_images: evaluated.len(),
            persons: persons.len(),
            of_persons: names.len(),
            first_person: persons.first().map(|name| (*name).clone()),
        }
    }

    /// Returns true if the model was trained on the image. Unreadable images are reported when they are embedded.
    fn holds(&self, path: &Path) -> bool {
        hash::number_of_file(path).is_ok_and(|number| self.images.binary_search(&number).is_ok())
    }
}

impl Overlap {
    /// Returns warnings for the user.
    pub fn warnings(&self) -> Vec<String> {
        let Overlap { images, of_images, persons, of_persons, first_person } = self;
        let images = (*images > 0).then(|| {
            format!("{images} of {of_images} evaluated images were used in training: the scores do not show how the model does on new images")
        });
        let persons = first_person.as_ref().map(|first| {
            format!("{persons} of {of_persons} evaluated persons were used in training (first: {first}): the scores do not show how the model does on new persons")
        });
        images.into_iter().chain(persons).collect()
    }
}
