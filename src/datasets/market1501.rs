//! Market-1501 and the data sets that are named like it.

use std::path::Path;

use super::{Found, Split, list_into};
use crate::datasets::labels::Label;
use crate::error::Result;

/// Folder of the training pictures.
pub(super) const TRAIN: &str = "bounding_box_train";
/// Folder of the queries.
pub(super) const QUERY: &str = "query";
/// Folder of the gallery.
pub(super) const GALLERY: &str = "bounding_box_test";

/// Reads those of the three folders that are there, or the folder itself, without a split, if none is.
pub(super) fn load(dir: &Path, follow_links: bool) -> Result<Found> {
    let mut found = Found::default();
    let splits = [(TRAIN, Split::Train), (QUERY, Split::Query), (GALLERY, Split::Gallery)];
    let there: Vec<_> = splits.into_iter().filter(|(folder, _)| dir.join(folder).is_dir()).collect();
    for (folder, split) in &there {
        list_into(&mut found, dir, folder, follow_links, |name| Ok((*split, label(name)?)))?;
    }
    if there.is_empty() {
        list_into(&mut found, dir, "", follow_links, |name| Ok((Split::Gallery, label(name)?)))?;
        found.match_all_with_all();
    }
    found.name_all(|person| format!("{person:04}"), |camera| format!("c{camera}"));
    Ok(found)
}

fn label(name: &str) -> std::result::Result<Label, String> {
    if name.contains('/') {
        return Err("stands deeper than the layout has it".to_string());
    }
    Label::from_market_name(name).ok_or_else(|| "is not named like 0002_c1s1_000451_03.jpg".to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{folder, load_default, names, told};
    use crate::datasets::labels::Person::{Distractor, Junk, Known};

    #[test]
    fn splits_are_folders_and_strays_are_told() {
        let dir = folder(&[
            "bounding_box_train/0002_c1s1_000451_03.jpg",
            "bounding_box_train/Thumbs.db",
            "bounding_box_test/-1_c3s1_000401_03.jpg",
            "bounding_box_test/0000_c6s2_1_1.jpg",
            "bounding_box_test/0007_c2s1_1_1.png",
            "bounding_box_test/deep/0007_c2s1_1_1.png",
            "bounding_box_test/holiday.jpg",
            // DukeMTMC's form, and a camera of two digits.
            "query/0007_c12_f0046182.jpg",
            "gt_bbox/0007_c2s1_1_1.png",
            "readme.txt",
        ]);
        let set = load_default(dir.path());
        assert_eq!(told(&set.train), [("bounding_box_train/0002_c1s1_000451_03.jpg", Known(2), 1)]);
        assert_eq!(told(&set.query), [("query/0007_c12_f0046182.jpg", Known(7), 12)]);
        let gallery = [
            ("bounding_box_test/-1_c3s1_000401_03.jpg", Junk, 3),
            ("bounding_box_test/0000_c6s2_1_1.jpg", Distractor, 6),
            ("bounding_box_test/0007_c2s1_1_1.png", Known(7), 2),
        ];
        assert_eq!(told(&set.gallery), gallery);
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
    fn a_part_of_it_and_a_plain_folder_will_do() {
        let set = load_default(folder(&["query/0001_c1s1_1_1.jpg"]).path());
        assert_eq!((set.train.len(), set.query.len(), set.gallery.len()), (0, 1, 0));
        let set = load_default(folder(&["0001_c1s1_1_1.jpg", "0001_c2s1_1_1.jpg"]).path());
        assert_eq!((set.train.len(), set.query.len(), set.gallery.len()), (0, 2, 2));
        assert!(set.query_is_gallery && set.query == set.gallery);
    }
}
