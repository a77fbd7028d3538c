//! MSMT17, versions 1 and 2.
//!
//! A line of a list, `0000/0000_000_01_0303morning_0015_0.jpg 0`, is a file below the folder of training or test
//! images, and its person. The third field of the file's name is the camera (1 to 15).

use std::path::{Path, PathBuf};

use super::{LabelledImage, ReidSet, Split, lines, malformed};
use crate::datasets::labels::{Label, Person};
use crate::error::{Error, Result};
use crate::images::walk::readable;

/// The lists and their splits. Training includes the validation list: together they are the data set's 32,621 training
/// images of 1,041 persons.
const LISTS: [(&str, Split); 4] = [
    ("list_train.txt", Split::Train),
    ("list_val.txt", Split::Train),
    ("list_query.txt", Split::Query),
    ("list_gallery.txt", Split::Gallery),
];

/// Folders of the listed images, in both versions' spellings.
const TRAIN_FOLDERS: [&str; 3] = ["train", "mask_train_v2", "mask_train"];
const TEST_FOLDERS: [&str; 3] = ["test", "mask_test_v2", "mask_test"];

/// Folders that the archives unpack to.
const ARCHIVES: [&str; 2] = ["MSMT17_V1", "MSMT17_V2"];

/// The folder that holds the lists, and its path from `dir`.
pub(super) fn root(dir: &Path) -> Option<(PathBuf, String)> {
    let has_list = |folder: &Path| LISTS.iter().any(|(list, _)| folder.join(list).is_file());
    let inside = ARCHIVES.iter().map(|name| (dir.join(name), format!("{name}/")));
    std::iter::once((dir.to_path_buf(), String::new())).chain(inside).find(|(folder, _)| has_list(folder))
}

/// Reads the lists that exist.
pub(super) fn load(dir: &Path) -> Result<ReidSet> {
    let Some((root, step)) = root(dir) else {
        return Err(Error::NothingToDo(format!(
            "{} has no list of MSMT17, such as list_train.txt",
            dir.display()
        )));
    };
    let mut found = ReidSet::default();
    // Training and test persons are counted from 0 each; the test persons follow the training persons here.
    let mut training_persons = 0;
    for (list, split) in LISTS {
        let path = root.join(list);
        if !path.is_file() {
            continue;
        }
        let folders = if split == Split::Train { TRAIN_FOLDERS } else { TEST_FOLDERS };
        let Some(folder) = folders.iter().find(|folder| root.join(folder).is_dir()) else {
            let reason = format!("the folder of its images ({}) is missing", folders.join(", "));
            return Err(Error::io("read", &path)(std::io::Error::new(std::io::ErrorKind::NotFound, reason)));
        };
        for (number, line) in lines(&path)? {
            let wanted = "expected a file such as 0000/0000_000_01_0303morning_0015_0.jpg and its person";
            let (file, person, camera) = read(&line).ok_or_else(|| malformed(&path, number, wanted))?;
            let person = if split == Split::Train {
                training_persons = training_persons.max(person + 1);
                person
            } else {
                training_persons + person
            };
            let name = format!("{step}{folder}/{file}");
            let image = root.join(folder).join(file);
            if image.is_file() {
                let label = Label { person: Person::Known(person), camera };
                found.list(split).push(LabelledImage::new(image, name, label));
            } else {
                found.skipped.push((name, format!("is listed in {list}, but missing")));
            }
        }
    }
    found.variant =
        root.file_name().map(readable).filter(|name| ARCHIVES.contains(&name.as_str())).unwrap_or_default();
    let person = |number: u32| match number.checked_sub(training_persons) {
        None => format!("{number:04}"),
        Some(number) => format!("test/{number:04}"),
    };
    found.name_all(person, |camera| format!("{camera:02}"));
    Ok(found)
}

/// File, person and camera of a line.
fn read(line: &str) -> Option<(&str, u32, u32)> {
    let (file, person) = line.rsplit_once(char::is_whitespace)?;
    let file = file.trim();
    let base = file.rsplit('/').next().unwrap_or(file);
    let camera = base.split('_').nth(2)?.parse().ok()?;
    Some((file, person.parse().ok().filter(|person| *person < u32::MAX / 2)?, camera))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{labels, load_default, names, write};
    use super::super::{LoadOptions, load as load_any};
    use crate::datasets::labels::Person::Known;

    #[test]
    fn reads_the_lists_of_both_versions() {
        for (root, train, test) in [
            ("", "train", "test"),
            ("MSMT17_V1/", "train", "test"),
            ("MSMT17_V2/", "mask_train_v2", "mask_test_v2"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let put = |file: &str, text: &str| write(dir.path(), &format!("{root}{file}"), text);
            put("list_train.txt", "0000/0000_000_01_0303morning_0015_0.jpg 0\n");
            put("list_val.txt", "0001/0001_000_02_0303morning_0015_0.jpg 1\n");
            put("list_query.txt", "0000/0000_000_15_0303noon_0015_0.jpg 0\n");
            let gallery = "0000/0000_001_03_0303noon_0015_0.jpg 0\n0000/0000_002_03_0303noon_0015_0.jpg 0\n";
            put("list_gallery.txt", gallery);
            put(&format!("{train}/0000/0000_000_01_0303morning_0015_0.jpg"), "");
            put(&format!("{train}/0001/0001_000_02_0303morning_0015_0.jpg"), "");
            put(&format!("{test}/0000/0000_000_15_0303noon_0015_0.jpg"), "");
            put(&format!("{test}/0000/0000_001_03_0303noon_0015_0.jpg"), "");

            let set = load_default(dir.path());
            let name = |folder: &str, file: &str| format!("{root}{folder}/{file}");
            let (a, b) = (
                name(train, "0000/0000_000_01_0303morning_0015_0.jpg"),
                name(train, "0001/0001_000_02_0303morning_0015_0.jpg"),
            );
            assert_eq!(labels(&set.train), [(a.as_str(), Known(0), 1), (b.as_str(), Known(1), 2)]);
            // The first test person is not the first training person.
            assert_eq!((set.query[0].label.person, set.query[0].label.camera), (Known(2), 15));
            assert_eq!((set.gallery.len(), set.gallery[0].label.person), (1, Known(2)));
            assert_eq!(set.skipped.len(), 1);
            assert!(set.skipped[0].1.contains("list_gallery.txt"), "{:?}", set.skipped);
            assert_eq!(names(&set.persons), [(0, "0000"), (1, "0001"), (2, "test/0000")]);
            assert_eq!(names(&set.cameras)[3], (15, "15"));
        }
    }

    #[test]
    fn list_errors_name_the_line() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "train/0000/0000_000_01_a_0_0.jpg", "");
        for line in ["0000/0000_000_01_a_0_0.jpg", "0000/0000.jpg 0", "0000/0000_000_01_a_0_0.jpg x"] {
            write(dir.path(), "list_train.txt", &format!("0000/0000_000_01_a_0_0.jpg 0\n{line}\n"));
            let error = load_any(dir.path(), &LoadOptions::default()).unwrap_err();
            assert!(format!("{error:?}").contains("line 2"), "{error:?}");
        }
        write(dir.path(), "list_query.txt", "");
        write(dir.path(), "list_train.txt", "0000/0000_000_01_a_0_0.jpg 0\n");
        let error = load_any(dir.path(), &LoadOptions::default()).unwrap_err();
        assert!(format!("{error:?}").contains("mask_test_v2"), "{error:?}");
    }
}
