//! CUHK01 and CUHK03.
//!
//! CUHK03 is published as MATLAB files. `tools/convert_cuhk03.py` converts them to:
//!
//! - `labelled/` and `detected/` with files `P_NNN_V_II.png`: pair of cameras (1 to 5), person, view (1 or 2), image
//!   (1 to 10; 6 to 10 are view 2). As in other toolboxes, `P_NNN` is the person and the view is the camera.
//! - `new_labelled.txt`, `new_detected.txt`: the new protocol, with a line `train|query|gallery FILE` for each image.
//! - `classic_01.txt` to `classic_20.txt`: the classic protocol, with a line `P_NNN` for each of the 100 test persons;
//!   all others train. All test images are both queries and gallery, and scores are usually single-shot.
//!
//! Empty lines and lines that start with `#` are ignored in every list.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Boxes, Cuhk03Protocol, LabelledImage, Layout, LoadOptions, ReidSet, Split};
use super::{lines, list_into, malformed, market1501};
use crate::datasets::labels::{Label, Person};
use crate::error::{Error, Result};
use crate::images::walk::readable;
use crate::rng;

/// Folders of the images with boxes drawn by people, in the spellings of several converters.
pub(super) const LABELLED: [&str; 4] = ["labelled", "labeled", "images_labelled", "images_labeled"];
/// Folders of the images with detected boxes.
pub(super) const DETECTED: [&str; 2] = ["detected", "images_detected"];
/// Folder of CUHK01's images in the published archive.
pub(super) const CAMPUS: &str = "campus";

/// Number of the classic protocol's splits.
const CLASSIC_SPLITS: u32 = 20;

/// Stream of the random numbers that split CUHK01. The lower bytes count the splits.
const HALF: u64 = 5 << 56;

/// Reads CUHK03 with the boxes and the protocol of `options`.
pub(super) fn load_cuhk03(dir: &Path, options: &LoadOptions) -> Result<ReidSet> {
    let (folders, boxes) = match options.boxes {
        Boxes::Labelled => (&LABELLED[..], "labelled"),
        Boxes::Detected => (&DETECTED[..], "detected"),
    };
    let Some(folder) = folders.iter().find(|folder| dir.join(folder).is_dir()) else {
        return Err(Error::Usage(format!(
            "{} has no folder {} with {boxes} boxes",
            dir.display(),
            folders[0]
        )));
    };
    let mut found = match options.cuhk03 {
        // Other converters lay out the new protocol like Market-1501.
        Cuhk03Protocol::New if dir.join(folder).join(market1501::TRAIN).is_dir() => {
            let mut found = market1501::load(&dir.join(folder), Layout::Market1501, options.follow_links)?;
            for split in Split::ALL {
                found.list(split).iter_mut().for_each(|p| p.name = format!("{folder}/{}", p.name));
            }
            found.skipped.iter_mut().for_each(|(name, _)| *name = format!("{folder}/{name}"));
            found
        }
        Cuhk03Protocol::New => load_new(dir, folder, boxes)?,
        Cuhk03Protocol::Classic => load_classic(dir, folder, options)?,
    };
    found.variant = match options.cuhk03 {
        Cuhk03Protocol::New => format!("{boxes} boxes, new protocol (767/700)"),
        Cuhk03Protocol::Classic => {
            format!("{boxes} boxes, classic protocol (1367/100), split {}", options.split)
        }
    };
    if found.persons.is_empty() {
        let person = |number| format!("{}_{:03}", number / 1000, number % 1000);
        found.name_all(person, |view| format!("view {view}"));
    }
    Ok(found)
}

fn load_new(dir: &Path, folder: &str, boxes: &str) -> Result<ReidSet> {
    let list = dir.join(format!("new_{boxes}.txt"));
    check_list(&list)?;
    let mut found = ReidSet::default();
    for (number, line) in lines(&list)? {
        let wrong = |reason: &str| malformed(&list, number, reason);
        let wanted = "expected train, query or gallery and a file such as 1_001_1_01.png";
        let (split, file) = line.split_once(' ').ok_or_else(|| wrong(wanted))?;
        let split = Split::from_name(split).ok_or_else(|| wrong(wanted))?;
        let label = cuhk03_label(file.trim()).ok_or_else(|| wrong(wanted))?;
        let name = format!("{folder}/{}", file.trim());
        let path = dir.join(folder).join(file.trim());
        if path.is_file() {
            found.list(split).push(LabelledImage::new(path, name, label));
        } else {
            found.skipped.push((name, format!("is listed in {}, but missing", readable_name(&list))));
        }
    }
    Ok(found)
}

fn load_classic(dir: &Path, folder: &str, options: &LoadOptions) -> Result<ReidSet> {
    let split = options.split;
    if split > CLASSIC_SPLITS {
        return Err(Error::Usage(format!(
            "CUHK03's classic protocol has {CLASSIC_SPLITS} splits, not {split}"
        )));
    }
    let list = dir.join(format!("classic_{split:02}.txt"));
    check_list(&list)?;
    let mut test = BTreeSet::new();
    for (number, line) in lines(&list)? {
        // A person is the start of its file names.
        let label = cuhk03_label(&format!("{line}_1_01.png"));
        let label = label.ok_or_else(|| malformed(&list, number, "expected a person such as 1_017"))?;
        test.insert(label.person);
    }
    let mut found = ReidSet::default();
    list_into(&mut found, dir, folder, options.follow_links, |name| {
        let label = cuhk03_label(name).ok_or_else(|| "is not named like 1_001_1_01.png".to_string())?;
        let split = if test.contains(&label.person) { Split::Gallery } else { Split::Train };
        Ok((split, label))
    })?;
    found.match_all_with_all();
    Ok(found)
}

/// Names the script that writes the list if it is missing.
fn check_list(list: &Path) -> Result<()> {
    if list.is_file() {
        return Ok(());
    }
    let reason = "the list of the split is missing; tools/convert_cuhk03.py writes it";
    Err(Error::io("read", list)(std::io::Error::new(std::io::ErrorKind::NotFound, reason)))
}

fn readable_name(path: &Path) -> String {
    path.file_name().map(readable).unwrap_or_default()
}

/// `1_017_2_06.png` is person 1017 in view 2.
fn cuhk03_label(name: &str) -> Option<Label> {
    let (stem, _) = name.rsplit_once('.')?;
    let mut fields = stem.split('_');
    let mut number = |from: u32, to: u32| {
        let field = fields.next()?;
        let number = field.parse().ok().filter(|_| field.bytes().all(|b| b.is_ascii_digit()))?;
        (from..=to).contains(&number).then_some(number)
    };
    let (pair, person, camera, _) = (number(1, 5)?, number(1, 999)?, number(1, 2)?, number(1, 10)?);
    fields.next().is_none().then_some(Label { person: Person::Known(pair * 1000 + person), camera })
}

/// Reads CUHK01: a random half of the persons (485 of 971) trains. Of the others, view 1 is the query and view 2 the
/// gallery.
pub(super) fn load_cuhk01(dir: &Path, options: &LoadOptions) -> Result<ReidSet> {
    let folder = if dir.join(CAMPUS).is_dir() { CAMPUS } else { "" };
    let mut all = ReidSet::default();
    list_into(&mut all, dir, folder, options.follow_links, |name| {
        let label = cuhk01_label(name).ok_or_else(|| "is not named like 0001001.png".to_string())?;
        Ok((Split::Gallery, label))
    })?;
    let persons: BTreeSet<Person> = all.gallery.iter().map(|image| image.label.person).collect();
    let mut order: Vec<(usize, Person)> = persons.into_iter().enumerate().collect();
    let stream = HALF | u64::from(options.split);
    order.sort_by_key(|&(index, _)| (rng::bits(options.split_seed, stream, index as u64), index));
    let train: BTreeSet<Person> = order[..order.len() / 2].iter().map(|&(_, person)| person).collect();

    let ReidSet { skipped, left_out, walked_root, .. } = all;
    let mut found = ReidSet { skipped, left_out, walked_root, ..ReidSet::default() };
    for image in all.gallery {
        let split = match image.label {
            Label { person, .. } if train.contains(&person) => Split::Train,
            Label { camera: 1, .. } => Split::Query,
            _ => Split::Gallery,
        };
        found.list(split).push(image);
    }
    found.variant = format!("random halves, seed {}, split {}", options.split_seed, options.split);
    found.name_all(|person| format!("{person:04}"), |view| format!("view {view}"));
    Ok(found)
}

/// `0001003.png` is person 1, image 3: images 1 and 2 are view 1, images 3 and 4 view 2.
pub(super) fn cuhk01_label(name: &str) -> Option<Label> {
    let (stem, extension) = name.split_once('.')?;
    let digits = stem.len() == 7 && stem.bytes().all(|b| b.is_ascii_digit());
    let (person, image): (u32, u32) = match digits && extension.eq_ignore_ascii_case("png") {
        true => (stem[..4].parse().ok()?, stem[4..].parse().ok()?),
        false => return None,
    };
    let camera = image.div_ceil(2);
    (1..=4).contains(&image).then_some(Label { person: Person::Known(person), camera })
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::super::tests::{folder, labels, load_default, names, write};
    use super::*;
    use crate::datasets::labels::Person::Known;

    fn cuhk03() -> tempfile::TempDir {
        let dir = folder(&[
            "labelled/1_001_1_01.png",
            "labelled/1_001_2_06.png",
            "labelled/5_017_1_02.png",
            "labelled/5_017_2_10.png",
            "labelled/readme.png",
            "detected/5_017_2_10.png",
        ]);
        write(dir.path(), "classic_02.txt", "# test persons\n5_017\n");
        let new =
            "train 1_001_1_01.png\nquery 5_017_1_02.png\n\ngallery 5_017_2_10.png\ngallery 5_017_2_09.png\n";
        write(dir.path(), "new_labelled.txt", new);
        dir
    }

    #[test]
    fn cuhk03_reads_its_lists() {
        let dir = cuhk03();
        let labelled = LoadOptions { boxes: Boxes::Labelled, ..LoadOptions::default() };
        let set = load(dir.path(), &labelled).unwrap();
        assert_eq!(labels(&set.train), [("labelled/1_001_1_01.png", Known(1001), 1)]);
        assert_eq!(labels(&set.query), [("labelled/5_017_1_02.png", Known(5017), 1)]);
        assert_eq!(labels(&set.gallery), [("labelled/5_017_2_10.png", Known(5017), 2)]);
        assert_eq!(set.skipped.len(), 1);
        assert!(set.skipped[0].1.contains("new_labelled.txt"), "{:?}", set.skipped);
        assert_eq!(names(&set.persons), [(1001, "1_001"), (5017, "5_017")]);
        assert_eq!(names(&set.cameras), [(1, "view 1"), (2, "view 2")]);

        let classic = LoadOptions { cuhk03: Cuhk03Protocol::Classic, split: 2, ..labelled };
        let set = load(dir.path(), &classic).unwrap();
        assert_eq!((set.train.len(), set.query.len()), (2, 2));
        assert!(set.query_is_gallery && set.query == set.gallery);
        assert_eq!(set.skipped[0].0, "labelled/readme.png");
        assert!(set.variant.contains("split 2"), "{}", set.variant);

        for (options, words) in [
            (LoadOptions::default(), "convert_cuhk03.py"),
            (LoadOptions { split: 1, ..classic }, "convert_cuhk03.py"),
            (LoadOptions { split: 21, ..classic }, "20 splits"),
        ] {
            let error = load(dir.path(), &options).unwrap_err();
            let text = format!("{error} {:?}", std::error::Error::source(&error));
            assert!(text.contains(words), "{text}");
        }
        write(dir.path(), "new_labelled.txt", "train 1_001_1_01.png\nval 1_001_2_06.png\n");
        let error = load(dir.path(), &labelled).unwrap_err();
        assert!(format!("{error:?}").contains("line 2: expected train"), "{error:?}");
    }

    #[test]
    fn cuhk03_reads_the_layout_of_market() {
        let dir = folder(&[
            "labeled/bounding_box_train/0001_c1_1.png",
            "labeled/query/0003_c1_1.png",
            "labeled/bounding_box_test/0003_c2_12.png",
        ]);
        let options = LoadOptions { boxes: Boxes::Labelled, ..LoadOptions::default() };
        let set = load(dir.path(), &options).unwrap();
        assert_eq!(set.layout, Layout::Cuhk03);
        assert_eq!(labels(&set.gallery), [("labeled/bounding_box_test/0003_c2_12.png", Known(3), 2)]);
    }

    #[test]
    fn parses_names_of_cuhk() {
        assert_eq!(cuhk03_label("1_843_2_10.png"), Some(Label { person: Known(1843), camera: 2 }));
        for name in [
            "6_001_1_01.png",
            "1_001_3_01.png",
            "1_001_1_11.png",
            "1_001_1.png",
            "1_001_1_01_2.png",
            "1_+1_1_1.png",
            "",
        ] {
            assert_eq!(cuhk03_label(name), None, "{name}");
        }
        assert_eq!(cuhk01_label("0971002.png"), Some(Label { person: Known(971), camera: 1 }));
        assert_eq!(cuhk01_label("0001003.PNG"), Some(Label { person: Known(1), camera: 2 }));
        for name in ["0001005.png", "0001000.png", "001001.png", "0001001.jpg", "campus/0001001.png"] {
            assert_eq!(cuhk01_label(name), None, "{name}");
        }
    }

    #[test]
    fn cuhk01_is_split_in_random_halves() {
        let files: Vec<String> =
            (1..=9).flat_map(|p| (1..=4).map(move |i| format!("campus/{p:04}{i:03}.png"))).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let dir = folder(&files);
        let set = load_default(dir.path());
        assert_eq!((set.train.len(), set.query.len(), set.gallery.len()), (4 * 4, 5 * 2, 5 * 2));
        assert!(
            set.query.iter().all(|p| p.label.camera == 1) && set.gallery.iter().all(|p| p.label.camera == 2)
        );
        let train: BTreeSet<Person> = set.train.iter().map(|p| p.label.person).collect();
        assert!(set.query.iter().all(|p| !train.contains(&p.label.person)));
        assert_eq!(set, load_default(dir.path()));
        let others: Vec<_> = (2..6)
            .map(|split| load(dir.path(), &LoadOptions { split, ..LoadOptions::default() }).unwrap())
            .collect();
        assert!(others.iter().any(|other| other.train != set.train));
        let seeded = (1..5).map(|split_seed| {
            load(dir.path(), &LoadOptions { split_seed, ..LoadOptions::default() }).unwrap()
        });
        assert!(seeded.into_iter().any(|other| other.train != set.train));
    }
}
