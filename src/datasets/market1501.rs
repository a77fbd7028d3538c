//! Market-1501 and data sets with similar names: DukeMTMC-reID, VeRi-776, MARS.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Layout, ReidSet, Spellings, Split, list_into};
use crate::datasets::labels::{self, Label, Person};
use crate::error::{Error, Result};

/// Folder of the training images.
pub(super) const TRAIN: &str = "bounding_box_train";
/// Folder of the queries.
pub(super) const QUERY: &str = "query";
/// Folder of the gallery.
pub(super) const GALLERY: &str = "bounding_box_test";
/// VeRi-776's folders: train, query, gallery.
pub(super) const VERI: [&str; 3] = ["image_train", "image_query", "image_test"];
/// MARS's folders: train, gallery. Its queries are listed in MATLAB files.
pub(super) const MARS: [&str; 2] = ["bbox_train", "bbox_test"];

/// Reads the layout's folders that exist. If none exists, reads `dir` itself, without splits. The images may be sorted
/// into one folder per person.
///
/// # Errors
/// `Data` if a person has two spellings, or a file's name contradicts its person's folder.
pub(super) fn load(dir: &Path, layout: Layout, follow_links: bool) -> Result<ReidSet> {
    let mut found = ReidSet::default();
    let splits = match layout {
        Layout::Veri => vec![(VERI[0], Split::Train), (VERI[1], Split::Query), (VERI[2], Split::Gallery)],
        Layout::Mars => vec![(MARS[0], Split::Train), (MARS[1], Split::Gallery)],
        _ => vec![(TRAIN, Split::Train), (QUERY, Split::Query), (GALLERY, Split::Gallery)],
    };
    let there: Vec<_> = splits.into_iter().filter(|(folder, _)| dir.join(folder).is_dir()).collect();
    let mut persons =
        Persons { layout, spellings: Spellings::default(), names: BTreeMap::new(), wrong: None };
    for (folder, split) in &there {
        list_into(&mut found, dir, folder, follow_links, |name| {
            Ok((*split, persons.label(folder, *split, name)?))
        })?;
    }
    if there.is_empty() {
        list_into(&mut found, dir, "", follow_links, |name| {
            Ok((Split::Gallery, persons.label("", Split::Gallery, name)?))
        })?;
        found.match_all_with_all();
    }
    if let Some(wrong) = persons.wrong {
        return Err(Error::Data(format!("{}: {wrong}", dir.display())));
    }
    let name = |number: u32| persons.names.get(&number).cloned().unwrap_or_else(|| format!("{number:04}"));
    found.name_all(name, |camera| format!("c{camera}"));
    Ok(found)
}

/// The persons in the names read so far.
struct Persons {
    layout: Layout,
    spellings: Spellings,
    /// Their spellings.
    names: BTreeMap<u32, String>,
    /// The first contradiction.
    wrong: Option<String>,
}

impl Persons {
    /// The label of a file in one of the folders, or the reason to skip it.
    fn label(&mut self, folder: &str, split: Split, name: &str) -> std::result::Result<Label, String> {
        let file = labels::base(name);
        let of_person = name.strip_suffix(file).unwrap_or_default().trim_end_matches('/');
        let is_person = labels::is_number(of_person) || labels::is_junk(of_person);
        if !of_person.is_empty() && !is_person {
            return Err("is in a deeper folder than the layout has".to_string());
        }
        let (Some(mut label), Some((person, _))) = (Label::from_market_name(file), labels::spelled(file))
        else {
            let example = match self.layout {
                Layout::Veri => "0001_c001_00016450_0.jpg",
                Layout::Mars => "0001C1T0001F001.jpg",
                _ => "0002_c1s1_000451_03.jpg",
            };
            return Err(format!("is not named like {example}"));
        };
        if is_person && !labels::is_same_person(of_person, person) {
            let wrong = format!(
                "{folder}/{name} is in the folder of person {of_person}, but its name says person {person}"
            );
            self.wrong.get_or_insert(wrong);
        }
        let place = || format!("{folder}/{name}").trim_start_matches('/').to_string();
        if let Err(wrong) = self.spellings.add(person, place) {
            self.wrong.get_or_insert(wrong);
        }
        // In the train split 0000 is a person like any other.
        if split == Split::Train && label.person == Person::Distractor {
            label.person = Person::Known(0);
        }
        if let Person::Known(number) = label.person {
            self.names.entry(number).or_insert_with(|| person.to_string());
        }
        Ok(label)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{folder, labels, load_default, names};
    use super::super::{LoadOptions, load};
    use super::*;
    use crate::datasets::labels::Person::{Distractor, Junk, Known};

    #[test]
    fn reads_splits_and_lists_skipped_files() {
        let dir = folder(&[
            "bounding_box_train/0002_c1s1_000451_03.jpg",
            "bounding_box_train/Thumbs.db",
            "bounding_box_test/-1_c3s1_000401_03.jpg",
            "bounding_box_test/0000_c6s2_1_1.jpg",
            "bounding_box_test/0007_c2s1_1_1.png",
            "bounding_box_test/deep/0007_c2s1_1_1.png",
            "bounding_box_test/holiday.jpg",
            // DukeMTMC's form, with a camera of two digits.
            "query/0007_c12_f0046182.jpg",
            "gt_bbox/0007_c2s1_1_1.png",
            "readme.txt",
        ]);
        let set = load_default(dir.path());
        assert_eq!(labels(&set.train), [("bounding_box_train/0002_c1s1_000451_03.jpg", Known(2), 1)]);
        assert_eq!(labels(&set.query), [("query/0007_c12_f0046182.jpg", Known(7), 12)]);
        let gallery = [
            ("bounding_box_test/-1_c3s1_000401_03.jpg", Junk, 3),
            ("bounding_box_test/0000_c6s2_1_1.jpg", Distractor, 6),
            ("bounding_box_test/0007_c2s1_1_1.png", Known(7), 2),
        ];
        assert_eq!(labels(&set.gallery), gallery);
        assert!(!set.query_is_gallery);
        assert_eq!(set.gallery[2].path, dir.path().join("bounding_box_test/0007_c2s1_1_1.png"));
        let skipped: Vec<&str> = set.skipped.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = ["bounding_box_test/deep/0007_c2s1_1_1.png", "bounding_box_test/holiday.jpg"];
        assert_eq!(skipped, wanted);
        assert_eq!(set.left_out.to_string(), "1 hidden");
        assert_eq!(names(&set.persons), [(2, "0002"), (7, "0007")]);
        assert_eq!(names(&set.cameras)[4], (12, "c12"));
    }

    #[test]
    fn folders_of_persons_must_agree_with_the_names() {
        let dir = folder(&[
            "bbox_train/0000/0000C1T0001F001.jpg",
            "bbox_train/0001/0001C1T0001F001.jpg",
            "bbox_train/00-1/00-1C1T0001F001.jpg",
            "bbox_test/0000/0000C2T0001F001.jpg",
            "bbox_test/00-1/00-1C2T0001F001.jpg",
            "bbox_test/0004/0004C3T0001F001.jpg",
        ]);
        let set = load_default(dir.path());
        let train = [
            ("bbox_train/00-1/00-1C1T0001F001.jpg", Junk, 1),
            ("bbox_train/0000/0000C1T0001F001.jpg", Known(0), 1),
            ("bbox_train/0001/0001C1T0001F001.jpg", Known(1), 1),
        ];
        assert_eq!(labels(&set.train), train);
        let gallery = [
            ("bbox_test/00-1/00-1C2T0001F001.jpg", Junk, 2),
            ("bbox_test/0000/0000C2T0001F001.jpg", Distractor, 2),
            ("bbox_test/0004/0004C3T0001F001.jpg", Known(4), 3),
        ];
        assert_eq!((labels(&set.gallery), set.query.len()), (gallery.to_vec(), 0));
        assert_eq!(names(&set.persons), [(0, "0000"), (1, "0001"), (4, "0004")]);

        for (files, words) in [
            (&["bbox_train/0001/0002C1T0001F001.jpg"][..], "its name says person 0002"),
            (
                &["query/0001_c1s1_1_1.jpg", "bounding_box_test/0007/0001_c1s1_1_1.jpg"],
                "folder of person 0007",
            ),
            (&["query/0001_c1s1_1_1.jpg", "bounding_box_test/1_c1s1_1_1.jpg"], "persons 0001 (query/"),
        ] {
            let error = load(folder(files).path(), &LoadOptions::default()).unwrap_err();
            assert!(matches!(&error, Error::Data(text) if text.contains(words)), "{error}");
        }
    }

    #[test]
    fn reads_single_splits_and_plain_folders() {
        let set = load_default(folder(&["query/0001_c1s1_1_1.jpg"]).path());
        assert_eq!((set.train.len(), set.query.len(), set.gallery.len()), (0, 1, 0));
        let set = load_default(folder(&["0001_c1s1_1_1.jpg", "0001_c2s1_1_1.jpg"]).path());
        assert_eq!((set.train.len(), set.query.len(), set.gallery.len()), (0, 2, 2));
        assert!(set.query_is_gallery && set.query == set.gallery);
    }
}
