//! Counts of a data set, and likely errors in its labels.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::uses::{scoring_refusal, training_refusal};
use super::{LabelledImage, Layout, ReidSet};
use crate::datasets::labels::{Label, Person};
use crate::error::Result;
use crate::images::decode;
use crate::observer::{Observer, Stage};

/// Counts of one split, as re-identification toolboxes count: `persons`, `images` and `cameras` ignore junk, and all
/// distractors together are one person. Market-1501's gallery has 751 persons, 750 of them with queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Persons.
    pub persons: usize,
    /// Images.
    pub images: usize,
    /// Cameras.
    pub cameras: usize,
    /// Images of distractors, which `images` includes.
    pub distractors: usize,
    /// Junk images, which `images` excludes.
    pub junk: usize,
}

/// Counts a split.
pub fn counts(images: &[LabelledImage]) -> Counts {
    let of = |person| images.iter().filter(|image| image.label.person == person).count();
    let counted = || images.iter().map(|p| p.label).filter(|label| label.person != Person::Junk);
    Counts {
        persons: counted().map(|label| label.person).collect::<BTreeSet<_>>().len(),
        images: counted().count(),
        cameras: counted().map(|label| label.camera).collect::<BTreeSet<_>>().len(),
        distractors: of(Person::Distractor),
        junk: of(Person::Junk),
    }
}

/// Likely errors in the labels. Every list is sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The camera of all queries and gallery images, if there is only one: nobody can be found across cameras.
    pub only_camera: Option<u32>,
    /// Queries whose person is in no gallery image except the query itself.
    pub absent: Vec<String>,
    /// Queries whose person is in the gallery by the query's camera only.
    pub same_camera: Vec<String>,
    /// Queries that are junk or a distractor.
    pub nobody: Vec<String>,
    /// Persons in both the train split and the test images.
    pub in_both: Vec<u32>,
    /// Images listed more than once. In layouts whose file names are unique, also files of the same name.
    pub duplicates: Vec<String>,
    /// Why scoring by the standard protocol refuses the set.
    pub not_scored: Option<String>,
    /// Why training refuses the set.
    pub not_trained: Option<String>,
}

impl Findings {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Findings::default()
    }
}

/// Looks for likely errors in the labels.
pub fn findings(set: &ReidSet) -> Findings {
    let mut findings = Findings::default();
    let test = || set.query.iter().chain(&set.gallery);
    let cameras: BTreeSet<u32> = test().map(|image| image.label.camera).collect();
    findings.only_camera = cameras.first().copied().filter(|_| cameras.len() == 1);

    // Images of each person in the gallery, by camera.
    let mut gallery: BTreeMap<Person, BTreeMap<u32, usize>> = BTreeMap::new();
    for Label { person, camera } in set.gallery.iter().map(|image| image.label) {
        *gallery.entry(person).or_default().entry(camera).or_default() += 1;
    }
    let nothing = BTreeMap::new();
    for query in &set.query {
        let Label { person, camera } = query.label;
        let by_camera = gallery.get(&person).unwrap_or(&nothing);
        let same_camera = by_camera.get(&camera).copied().unwrap_or(0);
        let name = query.name.clone();
        if !matches!(person, Person::Known(_)) {
            // Without splits every image is a query, junk too. That is no error.
            if !set.query_is_gallery {
                findings.nobody.push(name);
            }
        } else if by_camera.keys().any(|other| *other != camera) {
            continue;
        } else if same_camera > usize::from(set.query_is_gallery) {
            findings.same_camera.push(name);
        } else {
            findings.absent.push(name);
        }
    }

    let persons = |images: &[LabelledImage]| -> BTreeSet<u32> {
        let known = images.iter().filter_map(|image| match image.label.person {
            Person::Known(number) => Some(number),
            _ => None,
        });
        known.collect()
    };
    let trained = persons(&set.train);
    let tested = &persons(&set.query) | &persons(&set.gallery);
    findings.in_both = trained.intersection(&tested).copied().collect();

    // VeRi-776's gallery includes its queries.
    let query = if set.query_is_gallery || set.layout == Layout::Veri { &[][..] } else { &set.query };
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for image in set.train.iter().chain(query).chain(&set.gallery) {
        let name = match set.layout {
            // Files of the same name in two folders are the same frame.
            Layout::Market1501 | Layout::Veri | Layout::Mars => {
                image.name.rsplit('/').next().unwrap_or(&image.name)
            }
            _ => &image.name,
        };
        *seen.entry(name).or_default() += 1;
    }
    findings.duplicates =
        seen.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name.to_string()).collect();
    findings.not_scored = scoring_refusal(set, true);
    findings.not_trained = training_refusal(set);
    findings
}

/// Reads the header of every image, and returns the sorted names of those that can't be used, with the reason.
///
/// # Errors
/// [`Error::Interrupted`](crate::error::Error::Interrupted) after a signal.
pub fn unreadable(set: &ReidSet, observer: &dyn Observer) -> Result<Vec<(String, String)>> {
    let query = if set.query_is_gallery { &[][..] } else { &set.query };
    let images: Vec<&LabelledImage> =
        set.train.iter().chain(query).chain(&set.gallery).chain(&set.unscored).collect();
    let stage = Stage::new(observer, "", images.len(), "nothing was written");
    let check = |image: &LabelledImage| {
        let reason = decode::check_header(&image.path).err();
        stage.advance(1)?;
        Ok(reason.map(|reason| (image.name.clone(), reason)))
    };
    let found = images.into_par_iter().map(check).collect::<Result<Vec<_>>>()?;
    let mut bad: Vec<(String, String)> = found.into_iter().flatten().collect();
    bad.sort();
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{folder, load_default};
    use super::*;

    #[test]
    fn persons_are_counted_as_toolboxes_do() {
        let set = load_default(
            folder(&[
                "bounding_box_test/0001_c1s1_1_1.jpg",
                "bounding_box_test/0001_c2s1_1_1.jpg",
                "bounding_box_test/0000_c2s1_1_1.jpg",
                "bounding_box_test/0000_c2s1_1_2.jpg",
                "bounding_box_test/-1_c3s1_1_1.jpg",
            ])
            .path(),
        );
        let wanted = Counts { persons: 2, images: 4, cameras: 2, distractors: 2, junk: 1 };
        assert_eq!(counts(&set.gallery), wanted);
        assert_eq!(counts(&set.train), Counts::default());
    }

    #[test]
    fn what_is_wrong_is_found() {
        let set = load_default(
            folder(&[
                "bounding_box_train/0001_c1s1_1_1.jpg",
                "bounding_box_train/0009_c1s1_1_1.jpg",
                "query/0001_c1s1_1_1.jpg",
                "query/0002_c1s1_1_1.jpg",
                "query/0003_c1s1_1_1.jpg",
                "query/0000_c1s1_1_1.jpg",
                "bounding_box_test/0001_c2s1_1_1.jpg",
                "bounding_box_test/0002_c1s1_1_2.jpg",
                "bounding_box_test/-1_c2s1_1_2.jpg",
            ])
            .path(),
        );
        let strings = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let wanted = Findings {
            only_camera: None,
            absent: strings(&["query/0003_c1s1_1_1.jpg"]),
            same_camera: strings(&["query/0002_c1s1_1_1.jpg"]),
            nobody: strings(&["query/0000_c1s1_1_1.jpg"]),
            in_both: vec![1],
            duplicates: strings(&["0001_c1s1_1_1.jpg"]),
            not_scored: None,
            not_trained: None,
        };
        assert_eq!(findings(&set), wanted);
        assert!(!findings(&set).is_empty());
    }

    #[test]
    fn an_image_never_matches_itself() {
        let set = load_default(folder(&["a/1_x.jpg", "b/1_x.jpg", "b/1_y.jpg", "-1/1_x.jpg"]).path());
        let found = findings(&set);
        assert_eq!(found.only_camera, Some(1));
        assert_eq!(found.absent, ["a/1_x.jpg"]);
        assert_eq!(found.same_camera, ["b/1_x.jpg", "b/1_y.jpg"]);
        assert!(found.nobody.is_empty() && found.duplicates.is_empty());
        assert!(found.not_scored.unwrap().contains("same camera only") && found.not_trained.is_none());
        let good = load_default(folder(&["a/1_x.jpg", "a/2_x.jpg", "b/2_x.jpg", "b/1_x.jpg"]).path());
        assert!(findings(&good).is_empty());
    }

    #[test]
    fn unreadable_lists_each_image_once() {
        let dir = folder(&["a/1_x.jpg", "a/2_x.jpg"]);
        image::RgbImage::new(3, 2).save(dir.path().join("a/3_x.png")).unwrap();
        let bad = unreadable(&load_default(dir.path()), &()).unwrap();
        let empty = "empty file".to_string();
        assert_eq!(bad, [("a/1_x.jpg".to_string(), empty.clone()), ("a/2_x.jpg".to_string(), empty)]);
    }
}
