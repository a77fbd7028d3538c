//! Uses of a data set: the images to train on, and reasons to refuse training or scoring.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::cameras::Cameras;
use super::sampler::{Sample, Source, TrainingSet};
use super::{LabelledImage, Layout, LoadOptions, ReidSet, camera_name, load, person_name};
use crate::datasets::labels::{Label, Person};
use crate::error::{Error, Result};
use crate::figures::{Crowd, CrowdSize};
use crate::images::walk::{Image, Listing, list_images};
use crate::shape::camera_number;

/// The person of images without labels.
const UNLABELLED: &str = "unlabelled";

/// Training images with the names of their persons: those of the train split, or all images if there are no splits.
/// Omits junk; `0000` is a person like any other. `None` if there are splits, but no training images.
fn trains(set: &ReidSet) -> Option<Vec<(&LabelledImage, &str)>> {
    let mut images: Vec<&LabelledImage> = match has_split(set) {
        false => set.gallery.iter().chain(&set.unscored).collect(),
        true if set.train.is_empty() => return None,
        true => set.train.iter().collect(),
    };
    images.retain(|image| image.label.person != Person::Junk);
    images.sort_by(|a, b| a.name.cmp(&b.name));
    Some(images.into_iter().map(|p| (p, person_name(&set.persons, p.label.person))).collect())
}

/// Returns whether the set marks its training images; else all images train.
pub fn has_split(set: &ReidSet) -> bool {
    !set.query_is_gallery || !set.train.is_empty()
}

/// The reason to refuse training on the set, if any.
pub fn training_refusal(set: &ReidSet) -> Option<String> {
    let Some(images) = trains(set) else {
        let (queries, gallery) = (set.query.len(), set.gallery.len());
        return Some(format!(
            "no train images, only {queries} of the query and {gallery} of the gallery; to train on some of \
             them, list them in a CSV of path,person,camera,split"
        ));
    };
    if let Some(folder) = set.empty.first() {
        return Some(format!("the folder of person {folder} holds no image"));
    }
    let persons: BTreeSet<&str> = images.iter().map(|(_, person)| *person).collect();
    match (persons.len(), persons.first()) {
        (1, Some(person)) => Some(format!("only one person trains ({person}); training needs two")),
        (0, _) => Some("no image of a person trains: all are junk (-1)".to_string()),
        _ => None,
    }
}

/// The reason to refuse scoring on the set, if any. With `across_cameras`, images by a query's own camera are no match.
pub fn scoring_refusal(set: &ReidSet, across_cameras: bool) -> Option<String> {
    let mars = "; MARS lists its queries in info/*.mat, MATLAB files that are not read here, so only training is \
                offered: to score, list the test images in a CSV of path,person,camera,split";
    if set.query.is_empty() && !set.unscored.is_empty() {
        return Some("no image is named CAMERA_anything, so its camera is unknown".to_string());
    }
    if set.query.is_empty() {
        let mars = if set.layout == Layout::Mars { mars } else { "" };
        return Some(format!("no query images{mars}"));
    }
    if set.gallery.is_empty() {
        return Some("no gallery images".to_string());
    }
    let [queries, gallery] =
        [&set.query, &set.gallery].map(|list| list.iter().map(|p| p.label).collect::<Vec<Label>>());
    match_refusal(&queries, &gallery, set.query_is_gallery, across_cameras)
}

/// The reason why no query has a match in the gallery, if none has.
pub fn match_refusal(
    queries: &[Label],
    gallery: &[Label],
    query_is_gallery: bool,
    across_cameras: bool,
) -> Option<String> {
    let mut by_person: BTreeMap<u32, BTreeMap<u32, usize>> = BTreeMap::new();
    for label in gallery {
        if let Person::Known(person) = label.person {
            *by_person.entry(person).or_default().entry(label.camera).or_default() += 1;
        }
    }
    let (mut absent, mut same_camera) = (0, 0);
    for Label { person, camera } in queries {
        let Person::Known(person) = person else { continue };
        let shown = by_person.get(person);
        let count = |own: bool| -> usize {
            shown.into_iter().flatten().filter(|(by, _)| (*by == camera) == own).map(|(_, count)| count).sum()
        };
        let own = count(true).saturating_sub(usize::from(query_is_gallery));
        match (count(false), own) {
            (0, 0) => absent += 1,
            (0, _) if across_cameras => same_camera += 1,
            _ => return None,
        }
    }
    let mut reasons = Vec::new();
    for (count, why) in [
        (absent, "not in the gallery"),
        (same_camera, "in the gallery by the same camera only"),
        (queries.len() - absent - same_camera, "junk or a distractor"),
    ] {
        if count > 0 {
            reasons.push(format!("{count} {why}"));
        }
    }
    let advice = if same_camera > 0 { "; `lat-wgpu eval --ignore-cameras` lets these match" } else { "" };
    Some(format!("no query has a match in the gallery: {}{advice}", reasons.join(", ")))
}

/// Makes the training images of a crowd: one of each person by each camera that sees it, drawn anew at every visit.
pub fn crowd_set(size: CrowdSize) -> TrainingSet {
    let crowd = Crowd::new(size);
    let classes = (0..size.persons).map(|person| format!("{:06}", person + 1)).collect();
    let seen = (0..size.persons)
        .flat_map(|person| crowd.cameras_of(person).into_iter().map(move |camera| (person, camera)));
    let images = seen.map(|(person, camera)| Sample {
        source: Source::Drawn { person, camera },
        name: format!("{:06}/c{:03}", person + 1, camera + 1),
        class: person as usize,
        camera,
    });
    let images = images.collect();
    let cameras = (0..size.cameras).map(|camera| (camera, format!("c{}", camera + 1))).collect();
    TrainingSet { images, classes, cameras, crowd: Some(Arc::new(crowd)), ..TrainingSet::default() }
}

/// Makes the training images of a folder without labels: all of one person. Cameras have numbers in the order of
/// [`camera_number`] and their names; an unknown one has no name.
///
/// # Errors
/// [`Error::NothingToDo`] if there is no image; those of the folder.
pub fn unlabelled_set(dir: &Path, cameras: &Cameras, follow_links: bool) -> Result<TrainingSet> {
    let Listing { images, left_out } = list_images(&[dir.to_path_buf()], follow_links)?;
    let camera_of = |image: &Image| cameras.of(&image.name, |_| true);
    let names: BTreeSet<(u32, String)> = images
        .iter()
        .filter_map(camera_of)
        .map(|name| (camera_number(&name).unwrap_or(u32::MAX), name))
        .collect();
    let cameras: BTreeMap<u32, String> = (0..).zip(names.into_iter().map(|(_, name)| name)).collect();
    let numbers: BTreeMap<&String, u32> = cameras.iter().map(|(number, name)| (name, *number)).collect();
    let images = images.iter().map(|image| Sample {
        source: Source::File(image.path.clone()),
        name: image.name.clone(),
        class: 0,
        camera: camera_of(image).map_or(u32::MAX, |name| numbers[&name]),
    });
    let (images, classes) = (images.collect(), vec![UNLABELLED.to_string()]);
    Ok(TrainingSet { images, classes, cameras, left_out, ..TrainingSet::default() })
}

/// Loads the training images: the train split, or the whole data set if it has no splits. Also returns notes for the
/// user.
///
/// # Errors
/// As [`load`], and `Data` if [`training_refusal`] has a reason.
pub fn training_set(dir: &Path, options: &LoadOptions) -> Result<(TrainingSet, Vec<String>)> {
    let set = load(dir, options)?;
    let refused = |reason: String| Error::Data(format!("{}: {reason}", dir.display()));
    if let Some(reason) = training_refusal(&set) {
        return Err(refused(reason));
    }
    let labelled = trains(&set).unwrap_or_default();
    let mut classes: Vec<String> = labelled.iter().map(|(_, person)| person.to_string()).collect();
    classes.sort();
    classes.dedup();
    let images: Vec<Sample> = labelled
        .iter()
        .map(|(image, person)| Sample {
            source: Source::File(image.path.clone()),
            name: image.name.clone(),
            // `classes` holds every person, sorted.
            class: classes.partition_point(|class| class.as_str() < *person),
            camera: image.label.camera,
        })
        .collect();
    let mut notes = Vec::new();
    if !has_split(&set) {
        notes.push(format!(
            "{} has no train split: all {} images of {} persons train",
            dir.display(),
            images.len(),
            classes.len()
        ));
    }
    notes.extend(labelled.first().map(|(image, _)| example(&set, image)));
    // `set.skipped` includes images without a camera, which train.
    let listed = if has_split(&set) { set.train.len() } else { set.gallery.len() };
    let skipped = (set.skipped.len() + listed).saturating_sub(images.len());
    let left_out = set.left_out.clone();
    let cameras =
        images.iter().filter_map(|image| Some((image.camera, set.cameras.get(&image.camera)?.clone())));
    let cameras = cameras.collect();
    Ok((TrainingSet { images, classes, cameras, skipped, left_out, crowd: None }, notes))
}

/// One image with its person and camera, so that the user can check how names are read.
pub fn an_example(set: &ReidSet) -> Option<String> {
    let known = |image: &&LabelledImage| matches!(image.label.person, Person::Known(_));
    let mut all = set.query.iter().chain(&set.gallery).chain(&set.train);
    all.find(known).map(|image| example(set, image))
}

fn example(set: &ReidSet, image: &LabelledImage) -> String {
    let Label { person, camera } = image.label;
    let number = camera.to_string();
    let camera = match set.layout {
        Layout::Folders | Layout::Csv | Layout::Msmt17 | Layout::Viper | Layout::Prid => {
            camera_name(&set.cameras, camera)
        }
        _ => &number,
    };
    let person = person_name(&set.persons, person);
    format!("{} is person {person}, seen by camera {camera}", image.path.display())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{folder, load_default, write};
    use super::*;

    fn training(dir: &Path) -> Result<(TrainingSet, Vec<String>)> {
        training_set(dir, &LoadOptions::default())
    }

    fn labels(set: &TrainingSet) -> Vec<(&str, usize)> {
        set.images.iter().map(|s| (s.name.as_str(), s.class)).collect()
    }

    #[test]
    fn training_set_reads_market_names_without_junk() {
        let files = [
            "1500_c6s4_002427_06.jpg",
            "0002_c1s1_000451_03.jpg",
            "0002_c1s2_000001_01.png",
            "-1_c1s1_000401_03.jpg",
            "0000_c1s1_000151_01.jpg",
            "0002.jpg",
            "more/0007_c1s1_000451_03.jpg",
            "Thumbs.db",
        ];
        let flat = folder(&files);
        let (set, notes) = training(flat.path()).unwrap();
        assert_eq!(set.classes, ["0000", "0002", "1500"]);
        let wanted = [
            ("0000_c1s1_000151_01.jpg", 0),
            ("0002_c1s1_000451_03.jpg", 1),
            ("0002_c1s2_000001_01.png", 1),
            ("1500_c6s4_002427_06.jpg", 2),
        ];
        assert_eq!(labels(&set), wanted);
        assert_eq!((set.skipped, set.left_out.to_string().as_str()), (3, "1 hidden"));
        assert_eq!(set.images[3].source, Source::File(flat.path().join(files[0])));
        assert!(notes[0].ends_with(" has no train split: all 4 images of 3 persons train"), "{notes:?}");
        assert!(notes[1].ends_with("0000_c1s1_000151_01.jpg is person 0000, seen by camera 1"), "{notes:?}");

        let inside: Vec<String> = files.iter().map(|name| format!("bounding_box_train/{name}")).collect();
        let mut inside: Vec<&str> = inside.iter().map(String::as_str).collect();
        inside.push("query/0003_c1s1_000451_03.jpg");
        let (other, notes) = training(folder(&inside).path()).unwrap();
        assert_eq!((&other.classes, other.images.len()), (&set.classes, 4));
        assert_eq!(
            (other.images[1].name.as_str(), notes.len()),
            ("bounding_box_train/0002_c1s1_000451_03.jpg", 1)
        );
    }

    #[test]
    fn training_set_reads_one_folder_per_person() {
        let dir =
            folder(&["b/1.jpg", "b/deep/2_.WEBP", "-1/x.png", "0000/y.gif", "b/notes.txt", "loose.jpg"]);
        let (set, _) = training(dir.path()).unwrap();
        assert_eq!(set.classes, ["0000", "b"]);
        assert_eq!(labels(&set), [("0000/y.gif", 0), ("b/1.jpg", 1), ("b/deep/2_.WEBP", 1)]);
        assert_eq!((set.skipped, set.left_out.to_string().as_str()), (2, "1 .txt"));
        // Images without a camera train, but are not scored.
        let dir = folder(&["7/0001.jpg", "7/0002.jpg", "8/0001.jpg"]);
        let (set, notes) = training(dir.path()).unwrap();
        assert_eq!((set.classes, set.skipped), (vec!["7".to_string(), "8".to_string()], 0));
        assert!(notes[1].ends_with("7/0001.jpg is person 7, seen by camera unknown"), "{notes:?}");
        assert!(scoring_refusal(&load_default(dir.path()), true).unwrap().contains("CAMERA_anything"));
    }

    #[test]
    fn training_set_has_only_the_train_split() {
        let dir = folder(&["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]);
        let table = "path,person,camera,split\n1.jpg,anna,1,train\n2.jpg,0000,1,train\n3.jpg,-1,1,train\n\
                     4.jpg,eve,1,query\n5.jpg,0000,2,gallery\n";
        write(dir.path(), "mine.csv", table);
        let (set, _) = training(dir.path()).unwrap();
        assert_eq!((set.classes, set.images.len(), set.skipped), (vec!["0000".into(), "anna".into()], 2, 1));
        let set = load_default(dir.path());
        assert_eq!(set.train[1].label.person, Person::Known(0));
        assert_eq!(set.gallery[0].label.person, Person::Distractor);
    }

    #[test]
    fn refusals_give_reasons() {
        for (files, words) in [
            (&["-1_c1s1_000401_03.jpg"][..], "all are junk"),
            (&["query/a/1_x.jpg", "gallery/a/2_x.jpg"], "only 1 of the query and 1 of the gallery"),
            (&["a/1_x.jpg", "a/1_y.jpg"], "only one person trains (a)"),
            (&["train/a/1_x.jpg", "query/b/1_x.jpg", "gallery/b/2_x.jpg"], "only one person trains (a)"),
            (&["a/1_x.jpg", "b/1_y.jpg", "c/notes.txt"], "person c holds no image"),
        ] {
            let dir = folder(files);
            match training(dir.path()) {
                Err(Error::Data(text)) => assert!(text.contains(words), "{text}"),
                other => panic!("{files:?}: {other:?}"),
            }
        }
        for (files, across, words) in [
            (
                &["bbox_train/0001/0001C1T0001F001.jpg", "bbox_test/0001/0001C1T0001F001.jpg"][..],
                true,
                "info/*.mat",
            ),
            (&["train/a/1_x.jpg"], true, "no query images"),
            (&["query/a/1_x.jpg"], true, "no gallery images"),
            (
                &["a/1_x.jpg", "a/1_y.jpg", "b/1_x.jpg"],
                true,
                "1 not in the gallery, 2 in the gallery by the same",
            ),
            (&["a/1_x.jpg", "b/1_x.jpg", "-1/1_x.jpg"], false, "2 not in the gallery, 1 junk"),
        ] {
            let set = load_default(folder(files).path());
            let reason = scoring_refusal(&set, across).unwrap();
            assert!(reason.contains(words), "{files:?}: {reason}");
        }
        let set = load_default(folder(&["a/1_x.jpg", "a/1_y.jpg", "b/1_x.jpg"]).path());
        assert_eq!(scoring_refusal(&set, false), None);
        let set = load_default(folder(&["a/1_x.jpg", "a/2_y.jpg"]).path());
        assert_eq!(scoring_refusal(&set, true), None);
    }
}
