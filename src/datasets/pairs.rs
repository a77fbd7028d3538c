//! Data sets of two folders, one of queries and one of gallery images: VIPeR, PRID 2011, Occluded-REID. None has a
//! train split.

use std::path::{Path, PathBuf};

use super::{Layout, ReidSet, Split, list_into, names_in};
use crate::datasets::labels::{Label, Person, is_number, is_same_person};
use crate::error::{Error, Result};

/// The folders of VIPeR and PRID 2011.
const CAMERAS: [&str; 2] = ["cam_a", "cam_b"];
/// The folders of Occluded-REID.
const BODIES: [&str; 2] = ["occluded_body_images", "whole_body_images"];
/// Folders in which PRID 2011 has its cameras: one image per person and camera, or many.
const SHOTS: [&str; 2] = ["single_shot", "multi_shot"];
/// The last person of PRID 2011 seen by both cameras. Above it, a number means different persons in the two folders.
const IN_BOTH: u32 = 200;

/// Recognises the layout by its two folders, if they exist.
pub(super) fn recognise(dir: &Path) -> Result<Option<Layout>> {
    if BODIES.iter().all(|name| dir.join(name).is_dir()) {
        return Ok(Some(Layout::OccludedReid));
    }
    if has_cameras(dir) {
        let is_prid = names_in(&dir.join(CAMERAS[0]))?.iter().any(|name| prid_person(name).is_some());
        return Ok(Some(if is_prid { Layout::Prid } else { Layout::Viper }));
    }
    Ok(SHOTS.iter().any(|shots| has_cameras(&dir.join(shots))).then_some(Layout::Prid))
}

fn has_cameras(dir: &Path) -> bool {
    CAMERAS.iter().all(|name| dir.join(name).is_dir())
}

/// Reads both folders: `cam_a` or `occluded_body_images` as the queries, the other one as the gallery.
///
/// # Errors
/// `Usage` if both forms of PRID 2011 are there; `Data` if a file's name contradicts its person's folder.
pub(super) fn load(dir: &Path, layout: Layout, follow_links: bool) -> Result<ReidSet> {
    let (root, step) = if layout == Layout::Prid { prid_root(dir)? } else { (dir.to_path_buf(), "") };
    let folders = if layout == Layout::OccludedReid { BODIES } else { CAMERAS };
    let mut found = ReidSet { variant: step.to_string(), ..ReidSet::default() };
    let mut wrong = None;
    let mut digits = 0;
    for (i, (folder, split)) in folders.into_iter().zip([Split::Query, Split::Gallery]).enumerate() {
        let folder = if step.is_empty() { folder.to_string() } else { format!("{step}/{folder}") };
        let camera = 1 + i as u32;
        list_into(&mut found, dir, &folder, follow_links, |name| {
            let (person, width) = match layout {
                Layout::Viper => viper(name),
                Layout::Prid => prid(name, split),
                _ => occluded(name, &mut wrong),
            }?;
            digits = digits.max(width);
            Ok((split, Label { person, camera }))
        })?;
    }
    if found.query.is_empty()
        && found.gallery.is_empty()
        && !has_cameras(&root)
        && layout != Layout::OccludedReid
    {
        return Err(Error::NothingToDo(format!("{} has no folders cam_a and cam_b", root.display())));
    }
    if let Some(wrong) = wrong {
        return Err(Error::Data(format!("{}: {wrong}", dir.display())));
    }
    // PRID 2011's longer form has one folder per person and camera, the frames of one tracklet.
    for image in found.query.iter_mut().chain(&mut found.gallery).filter(|_| step == SHOTS[1]) {
        image.capture.tracklet = image.name.rsplit_once('/').map(|(folder, _)| folder.to_string());
    }
    let camera = |camera: u32| match (layout, camera) {
        (Layout::OccludedReid, camera) => camera.to_string(),
        (_, 1) => "a".to_string(),
        _ => "b".to_string(),
    };
    found.name_all(|person| format!("{person:0digits$}"), camera);
    Ok(found)
}

/// The folder that holds PRID 2011's folders of cameras, and its path from `dir`.
fn prid_root(dir: &Path) -> Result<(PathBuf, &'static str)> {
    if has_cameras(dir) {
        return Ok((dir.to_path_buf(), ""));
    }
    let there: Vec<&'static str> = SHOTS.into_iter().filter(|shots| has_cameras(&dir.join(shots))).collect();
    match there[..] {
        [shots] => Ok((dir.join(shots), shots)),
        [] => Ok((dir.to_path_buf(), "")),
        _ => Err(Error::Usage(format!(
            "{0} holds PRID 2011 in two forms: give {0}/single_shot or {0}/multi_shot",
            dir.display()
        ))),
    }
}

type Shown = std::result::Result<(Person, usize), String>;

/// `000_45.bmp` is person 0, seen from 45 degrees.
fn viper(name: &str) -> Shown {
    let read = || {
        let (person, rest) = name.split_once('_')?;
        let (angle, _) = rest.split_once('.')?;
        let person = Some(person).filter(|person| is_number(person) && is_number(angle))?;
        Some((Person::Known(person.parse().ok()?), person.len()))
    };
    read().ok_or_else(|| "is not named like 000_45.bmp".to_string())
}

/// The number in `person_0001`, or in a name that starts like it.
fn prid_person(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("person_")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    Some(&rest[..digits]).filter(|digits| !digits.is_empty())
}

/// `person_0001.png`, or any file in `person_0001`.
fn prid(name: &str, split: Split) -> Shown {
    let read = || {
        let person = prid_person(name)?;
        Some((person.parse::<u32>().ok()?, person.len()))
    };
    let (person, width) = read().ok_or_else(|| "is not named like person_0001.png".to_string())?;
    match split {
        _ if person <= IN_BOTH => Ok((Person::Known(person), width)),
        Split::Query => Err("shows a person without an image by camera b".to_string()),
        _ => Ok((Person::Distractor, width)),
    }
}

/// `001/001_01.tif` is person 1.
fn occluded(name: &str, wrong: &mut Option<String>) -> Shown {
    let mut read = || {
        let (folder, file) = name.split_once('/')?;
        let person = Some(folder).filter(|folder| is_number(folder))?.parse().ok()?;
        let (by_name, rest) = file.split_once('_')?;
        let index = rest.split_once('.')?.0;
        if is_number(by_name) && is_number(index) && !is_same_person(folder, by_name) {
            wrong.get_or_insert(format!(
                "{name} is in the folder of person {folder}, but its name says person {by_name}"
            ));
        }
        Some((Person::Known(person), folder.len()))
    };
    read().ok_or_else(|| "is not named like 001/001_01.tif".to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{folder, labels, load_default, names};
    use super::super::{LoadOptions, load as load_any};
    use super::*;
    use crate::datasets::labels::Person::{Distractor, Known};

    #[test]
    fn viper_has_two_cameras() {
        let dir = folder(&["cam_a/000_45.bmp", "cam_a/x.bmp", "cam_b/000_90.bmp", "cam_b/012_90.bmp"]);
        let set = load_default(dir.path());
        assert_eq!(labels(&set.query), [("cam_a/000_45.bmp", Known(0), 1)]);
        assert_eq!(
            labels(&set.gallery),
            [("cam_b/000_90.bmp", Known(0), 2), ("cam_b/012_90.bmp", Known(12), 2)]
        );
        assert_eq!(names(&set.persons), [(0, "000"), (12, "012")]);
        assert_eq!(names(&set.cameras), [(1, "a"), (2, "b")]);
        assert_eq!(set.skipped, [("cam_a/x.bmp".to_string(), "is not named like 000_45.bmp".to_string())]);
    }

    #[test]
    fn prid_has_two_hundred_persons_in_both_cameras() {
        let dir = folder(&[
            "multi_shot/cam_a/person_0001/0001.png",
            "multi_shot/cam_a/person_0201/0001.png",
            "multi_shot/cam_b/person_0001/0001.png",
            "multi_shot/cam_b/person_0201/0001.png",
        ]);
        let set = load_default(dir.path());
        assert_eq!((set.layout, set.variant.as_str()), (Layout::Prid, "multi_shot"));
        assert_eq!(labels(&set.query), [("multi_shot/cam_a/person_0001/0001.png", Known(1), 1)]);
        let gallery = [
            ("multi_shot/cam_b/person_0001/0001.png", Known(1), 2),
            ("multi_shot/cam_b/person_0201/0001.png", Distractor, 2),
        ];
        assert_eq!(labels(&set.gallery), gallery);
        assert_eq!(set.skipped.len(), 1);
        for side in CAMERAS {
            let path = dir.path().join("single_shot").join(side);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("person_0001.png"), "").unwrap();
        }
        let error = load_any(dir.path(), &LoadOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Usage(text) if text.contains("single_shot or")), "{error}");
        assert_eq!(load_default(&dir.path().join("single_shot")).query.len(), 1);
    }

    #[test]
    fn occluded_bodies_are_the_queries() {
        let dir = folder(&["occluded_body_images/001/001_01.tif", "whole_body_images/001/001_01.tif"]);
        let set = load_default(dir.path());
        assert_eq!(labels(&set.query), [("occluded_body_images/001/001_01.tif", Known(1), 1)]);
        assert_eq!(labels(&set.gallery), [("whole_body_images/001/001_01.tif", Known(1), 2)]);
        assert_eq!(names(&set.persons), [(1, "001")]);
        let dir = folder(&["occluded_body_images/001/002_01.tif", "whole_body_images/001/001_01.tif"]);
        let error = load_any(dir.path(), &LoadOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Data(text) if text.contains("person 002")), "{error}");
    }
}
