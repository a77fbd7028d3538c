//! One's own pictures: a folder per person, or a table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Found, LabelledPicture, Split, malformed, names_in};
use crate::data::walk::{self, LeftOut};
use crate::datasets::labels::{Label, Person};
use crate::error::{Error, Result};

/// A picture with the names that its folder or row gives it.
struct Named {
    split: Option<Split>,
    path: PathBuf,
    name: String,
    person: String,
    camera: String,
}

/// Reads `PERSON/CAMERA_anything.jpg` below the folders `train`, `query` and `gallery`, or below `dir` itself, without a
/// split, if there is none of them.
///
/// Files that are named as in Market-1501 inside their person's folder, as several toolboxes sort that data set, keep
/// the camera that their name says.
pub(super) fn load_folders(dir: &Path, follow_links: bool) -> Result<Found> {
    let there: Vec<Split> = Split::ALL.into_iter().filter(|split| dir.join(split.name()).is_dir()).collect();
    let mut places: Vec<(Option<Split>, &str)> =
        there.iter().map(|&split| (Some(split), split.name())).collect();
    if places.is_empty() {
        places.push((None, ""));
    }
    let walked_root = there.is_empty();
    let (mut pictures, mut skipped, mut left_out) = (Vec::new(), Vec::new(), LeftOut::default());
    for (split, folder) in places {
        let below =
            |name: &str| if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        let found = walk::list_files(&dir.join(folder), follow_links)?;
        left_out.add(found.left_out, |name| below(&name));
        for picture in found.pictures {
            let name = below(&picture.name);
            let Some((person, file)) = picture.name.split_once('/') else {
                skipped.push((name, "stands in no person's folder".to_string()));
                continue;
            };
            let base = file.rsplit('/').next().unwrap_or(file);
            let market = Label::from_market_name(base).map(|label| label.camera.to_string());
            let before = || base.split_once('_').map(|(camera, _)| camera.to_string());
            match market.or_else(before).filter(|camera| !camera.is_empty()) {
                Some(camera) => {
                    let person = person.to_string();
                    pictures.push(Named { split, path: picture.path, name, person, camera });
                }
                None => skipped.push((name, "is not named CAMERA_anything".to_string())),
            }
        }
    }
    Ok(Found { left_out, walked_root, ..number(pictures, skipped) })
}

/// The only table in a folder, if there is exactly one.
pub(super) fn only_table(dir: &Path) -> Result<Option<PathBuf>> {
    let names = names_in(dir)?;
    let mut tables = names.iter().filter(|name| name.to_ascii_lowercase().ends_with(".csv"));
    let first = tables.next().map(|name| dir.join(name)).filter(|path| path.is_file());
    Ok(if tables.next().is_some() { None } else { first })
}

/// Reads a table with a header: `path` (from the table's folder), `person`, `camera`, and maybe `split` (train, query or
/// gallery; if no row says one, there is no split). Other columns are left alone. `given` is the table or its folder.
pub(super) fn load_csv(given: &Path) -> Result<Found> {
    let table = match given.is_dir() {
        true => only_table(given)?.ok_or_else(|| {
            Error::NothingToDo(format!("{} does not hold exactly one .csv file", given.display()))
        })?,
        false => given.to_path_buf(),
    };
    let folder = table.parent().unwrap_or(Path::new(""));
    let (mut pictures, mut skipped) = (Vec::new(), Vec::new());
    // Lines of a row that says its split and of one that doesn't.
    let (mut with, mut without) = (None, None);
    for Row { line, path: name, person, camera, split } in read_table(&table)? {
        let split = match split.as_str() {
            "" => {
                without = without.or(Some(line));
                None
            }
            word => {
                with = with.or(Some(line));
                let reason = format!("split must be train, query or gallery, found {word}");
                Some(Split::from_name(word).ok_or_else(|| malformed(&table, line, &reason))?)
            }
        };
        let path = folder.join(&name);
        if path.is_file() {
            pictures.push(Named { split, path, name, person, camera });
        } else {
            skipped.push((name, format!("is listed in line {line} but not there")));
        }
    }
    if let (Some(_), Some(line)) = (with, without) {
        return Err(malformed(&table, line, "split is empty, but other rows have one"));
    }
    Ok(number(pictures, skipped))
}

/// Reads who is seen by which camera from a table with the columns `path`, `person`, `camera`; the pictures themselves
/// need not be there. `-1` is junk and `0000` a distractor.
///
/// # Errors
/// `Io` where the table can't be read, lacks a column, or names a picture twice.
pub fn read_labels(table: &Path) -> Result<BTreeMap<String, Label>> {
    let rows = read_table(table)?;
    let numbers = Numbers::of(rows.iter().map(|row| (row.person.as_str(), row.camera.as_str())));
    let mut labels = BTreeMap::new();
    for Row { line, path, person, camera, .. } in &rows {
        if labels.insert(path.clone(), numbers.label(person, camera)).is_some() {
            return Err(malformed(table, *line, &format!("{path} is listed a second time")));
        }
    }
    Ok(labels)
}

/// What [`read_labels`] calls persons and cameras by number: their names in the table, as (persons, cameras).
///
/// # Errors
/// `Io` where the table can't be read or lacks a column.
pub fn read_label_names(table: &Path) -> Result<(BTreeMap<u32, String>, BTreeMap<u32, String>)> {
    let rows = read_table(table)?;
    Ok(Numbers::of(rows.iter().map(|row| (row.person.as_str(), row.camera.as_str()))).names())
}

/// One row of a table; `split` may be empty.
struct Row {
    line: usize,
    /// With `/` between the steps.
    path: String,
    person: String,
    camera: String,
    split: String,
}

fn read_table(table: &Path) -> Result<Vec<Row>> {
    let unreadable = |error: csv::Error| {
        Error::io("read", table)(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(table).map_err(unreadable)?;
    // Spreadsheets put a byte order mark in front.
    let headers = reader.headers().map_err(unreadable)?;
    let headers: Vec<String> =
        headers.iter().map(|name| name.trim_start_matches('\u{feff}').to_ascii_lowercase()).collect();
    let column = |name: &str| headers.iter().position(|header| header == name);
    let needed = |name: &str| {
        let reason = format!("no column {name} in the header; needed are path,person,camera (and split)");
        column(name).ok_or_else(|| malformed(table, 1, &reason))
    };
    let (path, person, camera, split) =
        (needed("path")?, needed("person")?, needed("camera")?, column("split"));

    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let cell = |column: usize| record.get(column).unwrap_or_default().to_string();
        for (name, column) in [("path", path), ("person", person), ("camera", camera)] {
            if cell(column).is_empty() {
                return Err(malformed(table, line, &format!("{name} is empty")));
            }
        }
        let split = split.map(cell).unwrap_or_default();
        rows.push(Row {
            line,
            path: cell(path).replace('\\', "/"),
            person: cell(person),
            camera: cell(camera),
            split,
        });
    }
    Ok(rows)
}

/// The numbers of persons and cameras.
struct Numbers {
    persons: BTreeMap<String, u32>,
    cameras: BTreeMap<String, u32>,
}

impl Numbers {
    /// Of all names that occur, as (person, camera).
    fn of<'a>(names: impl Iterator<Item = (&'a str, &'a str)>) -> Numbers {
        let (persons, cameras): (BTreeSet<&str>, BTreeSet<&str>) = names.unzip();
        let known = persons.into_iter().filter(|name| special(name).is_none());
        Numbers { persons: numbers(known.collect()), cameras: numbers(cameras) }
    }

    fn label(&self, person: &str, camera: &str) -> Label {
        let person = special(person).unwrap_or_else(|| Person::Known(self.persons[person]));
        Label { person, camera: self.cameras[camera] }
    }

    /// The names by their numbers, as (persons, cameras).
    fn names(&self) -> (BTreeMap<u32, String>, BTreeMap<u32, String>) {
        let reversed = |numbers: &BTreeMap<String, u32>| {
            numbers.iter().map(|(name, number)| (*number, name.clone())).collect()
        };
        (reversed(&self.persons), reversed(&self.cameras))
    }
}

/// `-1` and `0000` are junk and distractor.
fn special(person: &str) -> Option<Person> {
    match person {
        "-1" => Some(Person::Junk),
        "0000" => Some(Person::Distractor),
        _ => None,
    }
}

/// Gives persons and cameras their numbers.
fn number(pictures: Vec<Named>, skipped: Vec<(String, String)>) -> Found {
    let names = pictures.iter().map(|picture| (picture.person.as_str(), picture.camera.as_str()));
    let numbers = Numbers::of(names);
    let mut found = Found { skipped, ..Found::default() };
    (found.persons, found.cameras) = numbers.names();
    let has_split = pictures.iter().any(|picture| picture.split.is_some());
    for Named { split, path, name, person, camera } in pictures {
        let label = numbers.label(&person, &camera);
        found.list(split.unwrap_or(Split::Gallery)).push(LabelledPicture { path, name, label });
    }
    if !has_split {
        found.match_all_with_all();
    }
    found
}

/// Names that are all different numbers are those numbers, else each is its place in sorted order.
fn numbers(names: BTreeSet<&str>) -> BTreeMap<String, u32> {
    let digits = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let parsed: Option<Vec<u32>> =
        names.iter().map(|name| name.parse().ok().filter(|_| digits(name))).collect();
    let different = |numbers: &Vec<u32>| numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len();
    let numbers = parsed.filter(different).unwrap_or_else(|| (0..names.len() as u32).collect());
    names.into_iter().map(str::to_string).zip(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{folder, load_default, names, told, write};
    use super::super::{Layout, LoadOptions, ReidSet, load};
    use super::read_labels;
    use crate::datasets::labels::Person::{Distractor, Junk, Known};
    use crate::error::Result;
    use std::path::Path;

    #[test]
    fn a_folder_per_person_without_split() {
        let files =
            ["anna/hall_1.jpg", "anna/door_1.jpg", "bob/deep/hall_2.png", "bob/noname.jpg", "loose.jpg"];
        let dir = folder(&files);
        write(dir.path(), "bob/notes.txt", "");
        let set = load_default(dir.path());
        assert!(set.query_is_gallery && set.query == set.gallery && set.train.is_empty());
        let wanted = [
            ("anna/door_1.jpg", Known(0), 0),
            ("anna/hall_1.jpg", Known(0), 1),
            ("bob/deep/hall_2.png", Known(1), 1),
        ];
        assert_eq!(told(&set.gallery), wanted);
        assert_eq!(names(&set.persons), [(0, "anna"), (1, "bob")]);
        assert_eq!(names(&set.cameras), [(0, "door"), (1, "hall")]);
        assert_eq!(set.skipped.len(), 2, "{:?}", set.skipped);
        assert_eq!(set.left_out.to_string(), "1 .txt");
    }

    #[test]
    fn a_folder_per_person_in_splits() {
        let dir = folder(&[
            "train/7/2_a.jpg",
            "query/0012/10_a.jpg",
            "gallery/0012/2_a.jpg",
            "gallery/0000/2_b.jpg",
            "gallery/-1/3_b.jpg",
            // As the released code sorts Market-1501.
            "gallery/0013/0013_c6s1_000451_03.jpg",
            "elsewhere/0012/2_a.jpg",
        ]);
        let set = load_default(dir.path());
        assert!(!set.query_is_gallery);
        assert_eq!(told(&set.train), [("train/7/2_a.jpg", Known(7), 2)]);
        assert_eq!(told(&set.query), [("query/0012/10_a.jpg", Known(12), 10)]);
        let gallery = [
            ("gallery/-1/3_b.jpg", Junk, 3),
            ("gallery/0000/2_b.jpg", Distractor, 2),
            ("gallery/0012/2_a.jpg", Known(12), 2),
            ("gallery/0013/0013_c6s1_000451_03.jpg", Known(13), 6),
        ];
        assert_eq!(told(&set.gallery), gallery);
        assert_eq!(names(&set.persons), [(7, "7"), (12, "0012"), (13, "0013")]);
    }

    #[test]
    fn numbers_that_collide_are_names() {
        let set = load_default(folder(&["1/01_a.jpg", "01/1_a.jpg", "2/3_a.jpg"]).path());
        assert_eq!(names(&set.persons), [(0, "01"), (1, "1"), (2, "2")]);
        assert_eq!(names(&set.cameras), [(0, "01"), (1, "1"), (2, "3")]);
    }

    fn table(dir: &Path, text: &str) -> Result<ReidSet> {
        write(dir, "mine.csv", text);
        load(dir, &LoadOptions::default())
    }

    #[test]
    fn a_table_says_it_all() {
        let dir = folder(&["a.jpg", "b/c, d.jpg", "e.jpg"]);
        let text = "\u{feff}Path, person,camera,note,split\na.jpg,anna,3,x,train\n\"b/c, d.jpg\",bob,4,,query\n\
                    e.jpg,0000,5,,gallery\ngone.jpg,bob,5,,gallery\n";
        let set = table(dir.path(), text).unwrap();
        assert_eq!(set.layout, Layout::Csv);
        assert_eq!(told(&set.train), [("a.jpg", Known(0), 3)]);
        assert_eq!(told(&set.query), [("b/c, d.jpg", Known(1), 4)]);
        assert_eq!(told(&set.gallery), [("e.jpg", Distractor, 5)]);
        assert_eq!(set.skipped, [("gone.jpg".to_string(), "is listed in line 5 but not there".to_string())]);
        let by_file = load(&dir.path().join("mine.csv"), &LoadOptions::default()).unwrap();
        assert_eq!((by_file.query, by_file.name), (set.query, "mine.csv".to_string()));

        let set = table(dir.path(), "path,person,camera\na.jpg,1,1\ne.jpg,1,2\n").unwrap();
        assert!(set.query_is_gallery && set.query.len() == 2);
    }

    #[test]
    fn a_bad_table_is_named_with_its_line() {
        let dir = folder(&["a.jpg"]);
        for (text, words) in [
            ("path,person\na.jpg,1\n", "no column camera"),
            ("path,person,camera\na.jpg,,1\n", "line 2: person is empty"),
            ("path,person,camera,split\na.jpg,1,1,test\n", "found test"),
            ("path,person,camera,split\na.jpg,1,1,train\na.jpg,1,1,\n", "line 3: split is empty"),
            ("path,person,camera\na.jpg,1\n", "line: 2"),
        ] {
            let error = table(dir.path(), text).unwrap_err();
            let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
            assert!(text.contains(words) && text.contains("mine.csv"), "{text}");
        }
    }

    #[test]
    fn labels_alone_need_no_pictures() {
        let dir = folder(&[]);
        write(dir.path(), "l.csv", "camera,path,person\ndoor,a\\1.jpg,anna\nhall,2.jpg,bob\nhall,3.jpg,-1\n");
        let labels = read_labels(&dir.path().join("l.csv")).unwrap();
        let told: Vec<_> = labels.iter().map(|(name, l)| (name.as_str(), l.person, l.camera)).collect();
        assert_eq!(told, [("2.jpg", Known(1), 1), ("3.jpg", Junk, 1), ("a/1.jpg", Known(0), 0)]);
        write(dir.path(), "l.csv", "path,person,camera\n1.jpg,1,1\n1.jpg,2,1\n");
        let error = read_labels(&dir.path().join("l.csv")).unwrap_err();
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("line 3") && reason.contains("second time"), "{reason}");
    }
}
