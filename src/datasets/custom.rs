//! Custom data sets: one folder per person, or a table.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Capture, DISTRACTOR, LabelledImage, ReidSet, Spellings, Split, malformed, names_in};
use crate::datasets::labels::{Label, Person, base, is_junk, is_number, is_same_person, published};
use crate::error::{Error, Result};
use crate::images::walk::{self, LeftOut};

/// An image with the names that its folder or table row gives.
struct Named {
    split: Option<Split>,
    path: PathBuf,
    name: String,
    person: String,
    /// `None` if its name has no camera.
    camera: Option<String>,
    capture: Capture,
}

/// Number of an unknown camera.
const UNKNOWN: u32 = u32::MAX;

/// Lower-case names of folders that other data sets use for splits and the like, and that are no persons.
const NO_PERSONS: [&str; 12] = [
    "train",
    "query",
    "gallery",
    "test",
    "training",
    "testing",
    "val",
    "valid",
    "validation",
    "probe",
    "whole_body_images",
    "partial_body_images",
];

/// Reads `PERSON/CAMERA_anything.jpg` below the folders `train`, `query` and `gallery`. If none of them exists, reads
/// it below `dir` itself, without splits.
///
/// A file named as in a published data set keeps the camera of its name; several toolboxes sort Market-1501 that way.
/// An image whose name has no camera can train, but is not scored.
///
/// # Errors
/// `Data` if a file's name contradicts its person's folder, if a folder has the name of a split, or if every image is
/// in a deeper folder.
pub(super) fn load_folders(dir: &Path, follow_links: bool) -> Result<ReidSet> {
    let there: Vec<Split> = Split::ALL.into_iter().filter(|split| dir.join(split.name()).is_dir()).collect();
    let mut places: Vec<(Option<Split>, &str)> =
        there.iter().map(|&split| (Some(split), split.name())).collect();
    let (mut images, mut skipped, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    let beside = folders_in(dir, follow_links)?;
    if places.is_empty() {
        if let Some(name) = beside.iter().find(|name| NO_PERSONS.contains(&&*name.to_ascii_lowercase())) {
            return Err(Error::Data(format!(
                "{} is no person's folder: the folders of a split are called train, query and gallery",
                dir.join(name).display()
            )));
        }
        places.push((None, ""));
    } else {
        let others = beside.into_iter().filter(|name| Split::from_name(name).is_none());
        skipped.extend(others.map(|name| (name, "is none of train, query and gallery".to_string())));
    }
    let walked_root = there.is_empty();
    let mut left_out = LeftOut::default();
    let mut spellings = Spellings::default();
    for (split, folder) in places {
        let below =
            |name: &str| if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        let found = walk::list_files(&dir.join(folder), follow_links)?;
        left_out.add(found.left_out, |name| below(&name));
        let mut said = BTreeMap::new();
        // The first image, and whether one is directly in its person's folder.
        let (mut first, mut has_direct) = (None, false);
        let mut filled = BTreeSet::new();
        for image in found.images {
            let name = below(&image.name);
            let Some((person, file)) = image.name.split_once('/') else {
                skipped.push((name, "is in no person's folder".to_string()));
                continue;
            };
            filled.insert(person.to_string());
            first.get_or_insert_with(|| name.clone());
            has_direct |= !file.contains('/');
            let wrong = |text: String| Error::Data(format!("{}: {text}", dir.display()));
            spellings.add(person, || below(person)).map_err(wrong)?;
            let base = base(file);
            if let Some((by_name, _)) = published(base) {
                contradiction(&mut said, person, by_name, &name).map_err(wrong)?;
            }
            let market = Label::from_market_name(base).map(|label| label.camera);
            let known = market.or_else(|| published(base).map(|(_, camera)| camera)).map(|c| c.to_string());
            let before = || base.split_once('_').map(|(camera, _)| camera.to_string());
            let camera = known.or_else(before).filter(|camera| !camera.is_empty());
            if camera.is_none() && split != Some(Split::Train) {
                skipped.push((name.clone(), "is not named CAMERA_anything".to_string()));
            }
            if camera.is_some() || !matches!(split, Some(Split::Query | Split::Gallery)) {
                let capture = Capture::from_name(&name);
                images.push(Named {
                    split,
                    path: image.path,
                    name,
                    person: person.to_string(),
                    camera,
                    capture,
                });
            }
        }
        if let Some(first) = first.filter(|_| !has_direct) {
            return Err(Error::Data(format!(
                "{}: every image is a folder further down than PERSON/CAMERA_anything.jpg, such as {first}: give the \
                 folder that holds the persons' folders, or list the images in a CSV of path,person,camera,split",
                dir.display()
            )));
        }
        if matches!(split, None | Some(Split::Train)) {
            let folders = folders_in(&dir.join(folder), follow_links)?.into_iter();
            empty.extend(folders.filter(|name| !filled.contains(name)).map(|name| below(&name)));
        }
    }
    Ok(ReidSet { empty, left_out, walked_root, ..number(images, skipped) })
}

/// Sorted names of the folders in a folder, without hidden ones.
fn folders_in(dir: &Path, follow_links: bool) -> Result<Vec<String>> {
    let mut names = names_in(dir)?;
    names.retain(|name| {
        let path = dir.join(name);
        path.is_dir() && (follow_links || !path.is_symlink())
    });
    Ok(names)
}

/// Compares the name of a person's folder with the person in the name of a file in it. For a folder whose name isn't a
/// number, `said` keeps the first person and file found in it.
fn contradiction(
    said: &mut BTreeMap<String, (String, String)>,
    folder: &str,
    by_name: &str,
    file: &str,
) -> std::result::Result<(), String> {
    if is_number(folder) || is_junk(folder) {
        if is_same_person(folder, by_name) {
            return Ok(());
        }
        return Err(format!(
            "{file} is in the folder of person {folder}, but its name says person {by_name}: move or rename it, or \
             list the images in a CSV of path,person,camera,split"
        ));
    }
    let (person, first) =
        said.entry(folder.to_string()).or_insert_with(|| (by_name.to_string(), file.to_string()));
    if is_same_person(person, by_name) {
        return Ok(());
    }
    Err(format!(
        "{folder} is read as the folder of one person, but by their names {first} shows person {person} and {file} \
         person {by_name}: is the data set one folder further down?"
    ))
}

/// Path of the table in a folder, if there is exactly one.
pub(super) fn only_table(dir: &Path) -> Result<Option<PathBuf>> {
    let names = names_in(dir)?;
    let is_table = |name: &&String| {
        let name = name.to_ascii_lowercase();
        name.ends_with(".csv") || name.ends_with(".tsv")
    };
    let mut tables = names.iter().filter(is_table);
    let first = tables.next().map(|name| dir.join(name)).filter(|path| path.is_file());
    Ok(if tables.next().is_some() { None } else { first })
}

/// Reads a table with a header: `path` (from the table's folder), `person`, `camera` and optionally `split` (train,
/// query or gallery; empty in all rows or in none), `tracklet` and `frame` (a whole number, else there is none). Other
/// columns are ignored. `given` is the table or its folder.
///
/// # Errors
/// `Io` if it can't be read, or lists an image for two persons, for two cameras, or twice in one split.
pub(super) fn load_csv(given: &Path) -> Result<ReidSet> {
    let table = match given.is_dir() {
        true => only_table(given)?.ok_or_else(|| {
            Error::NothingToDo(format!("{} does not hold exactly one .csv file", given.display()))
        })?,
        false => given.to_path_buf(),
    };
    let folder = table.parent().unwrap_or(Path::new(""));
    let (mut images, mut skipped) = (Vec::new(), Vec::new());
    // First lines with and without a split.
    let (mut with, mut without) = (None, None);
    let rows = read_table(&table)?;
    let mut files: BTreeMap<PathBuf, Vec<&TableRow>> = BTreeMap::new();
    for row in &rows {
        let TableRow { line, path: name, person, camera, split, capture } = row;
        let split = match split.as_str() {
            "" => {
                without = without.or(Some(*line));
                None
            }
            word => {
                with = with.or(Some(*line));
                let reason = format!("split must be train, query or gallery, found {word}");
                Some(Split::from_name(word).ok_or_else(|| malformed(&table, *line, &reason))?)
            }
        };
        let path = folder.join(name);
        if !path.is_file() {
            skipped.push((name.clone(), format!("is listed in line {line}, but missing")));
            continue;
        }
        let same = files.entry(path.canonicalize().unwrap_or_else(|_| path.clone())).or_default();
        for before in same.iter() {
            let again = before.split == row.split;
            check_again(before, row, again).map_err(|reason| malformed(&table, *line, &reason))?;
        }
        same.push(row);
        let (name, person, camera) = (name.clone(), person.clone(), Some(camera.clone()));
        images.push(Named { split, path, name, person, camera, capture: capture.clone() });
    }
    if let (Some(_), Some(line)) = (with, without) {
        return Err(malformed(&table, line, "split is empty, but other rows have one"));
    }
    Ok(number(images, skipped))
}

/// Rejects a second row for an image if its label differs, or in any case if `again`.
fn check_again(before: &TableRow, row: &TableRow, again: bool) -> std::result::Result<(), String> {
    let (path, line) = (&row.path, before.line);
    let said = |what: &str, here: &str, there: &str| {
        Err(format!("{path} is {what} {here} here and {what} {there} in line {line}"))
    };
    if before.person != row.person {
        return said("person", &row.person, &before.person);
    }
    if before.camera != row.camera {
        return said("camera", &row.camera, &before.camera);
    }
    if again {
        return Err(format!("{path} is listed a second time, after line {line}"));
    }
    Ok(())
}

/// Reads labels from a table with the columns `path`, `person`, `camera`. The images themselves may be missing. `-1` is
/// junk and `0000` a distractor.
///
/// # Errors
/// `Io` if the table can't be read, lacks a column, or names an image twice.
pub fn read_labels(table: &Path) -> Result<BTreeMap<String, Label>> {
    let rows = read_table(table)?;
    let numbers = Numbers::of(rows.iter().map(TableRow::names));
    let mut labels = BTreeMap::new();
    let mut seen: BTreeMap<String, &TableRow> = BTreeMap::new();
    for row in &rows {
        match seen.entry(plain(&row.path)) {
            Entry::Occupied(before) => {
                check_again(before.get(), row, true).map_err(|reason| malformed(table, row.line, &reason))?;
            }
            Entry::Vacant(place) => {
                place.insert(row);
            }
        }
        labels.insert(row.path.clone(), numbers.label(&row.person, Some(&row.camera), None));
    }
    Ok(labels)
}

/// A path without `.`, empty and cancelled `..` components.
fn plain(path: &str) -> String {
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "." => {}
            "" if !steps.is_empty() => {}
            ".." if steps.last().is_some_and(|last| !["", ".."].contains(last)) => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    steps.join("/")
}

/// Reads the names behind the numbers of [`read_labels`], as (persons, cameras).
///
/// # Errors
/// `Io` if the table can't be read or lacks a column.
pub fn read_label_names(table: &Path) -> Result<(BTreeMap<u32, String>, BTreeMap<u32, String>)> {
    let rows = read_table(table)?;
    Ok(Numbers::of(rows.iter().map(TableRow::names)).names())
}

/// Reads the tracklets and frames of a table of [`read_labels`], by path.
///
/// # Errors
/// `Io` if the table can't be read or lacks a column.
pub fn read_captures(table: &Path) -> Result<BTreeMap<String, Capture>> {
    Ok(read_table(table)?.into_iter().map(|row| (row.path, row.capture)).collect())
}

/// Reads the cameras of images from a table with the columns `path` and `camera`. The images themselves may be missing.
///
/// # Errors
/// `Io` if the table can't be read, lacks a column, or has two cameras for an image.
pub fn read_cameras(table: &Path) -> Result<BTreeMap<String, String>> {
    let mut cameras = BTreeMap::new();
    for TableRow { line, path, camera, .. } in read_columns(table, &["path", "camera"])? {
        if let Some(before) = cameras.insert(path.clone(), camera.clone()).filter(|before| *before != camera)
        {
            let reason =
                format!("{path} is by camera {camera} here and by camera {before} in an earlier line");
            return Err(malformed(table, line, &reason));
        }
    }
    Ok(cameras)
}

/// One row of a table; `split`, and columns that aren't needed, may be empty.
struct TableRow {
    line: usize,
    /// Separated by `/`.
    path: String,
    person: String,
    camera: String,
    split: String,
    capture: Capture,
}

impl TableRow {
    /// Person and camera, ignoring the split.
    fn names(&self) -> (&str, Option<&str>, Option<Split>) {
        (&self.person, Some(&self.camera), None)
    }
}

/// Separators between the cells of a row.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// Reads a table of images with their labels.
fn read_table(table: &Path) -> Result<Vec<TableRow>> {
    read_columns(table, &["path", "person", "camera"])
}

/// Reads a table in which the columns `needed` have no empty cell. Checks that no person's number has two spellings.
fn read_columns(table: &Path, needed: &[&str]) -> Result<Vec<TableRow>> {
    let invalid = |reason: &str| {
        Error::io("read", table)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason.to_string()))
    };
    let bytes = std::fs::read(table).map_err(Error::io("read", table))?;
    // Spreadsheets write a byte order mark.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(invalid("the table is in UTF-16: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"));
    }
    if bytes.iter().take(64).any(|b| *b == 0) {
        return Err(invalid("it holds binary data, and a data set is a folder or a .csv"));
    }
    let unreadable = |error: csv::Error| match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, |position| position.line() as usize);
            malformed(table, line, &format!("{len} fields, but the header has {expected_len}"))
        }
        csv::ErrorKind::Utf8 { pos, .. } => {
            malformed(table, pos.as_ref().map_or(0, |position| position.line() as usize), "not UTF-8")
        }
        _ => invalid(&error.to_string()),
    };
    let reader = |separator: u8| {
        csv::ReaderBuilder::new().delimiter(separator).trim(csv::Trim::All).from_reader(bytes)
    };
    let mut best: Option<(u8, Vec<String>)> = None;
    for separator in SEPARATORS {
        let mut reader = reader(separator);
        let headers = reader.headers().map_err(unreadable)?;
        let headers: Vec<String> = headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        let known =
            |headers: &[String]| headers.iter().filter(|name| COLUMNS.contains(&name.as_str())).count();
        if best.as_ref().is_none_or(|(_, before)| known(before) < known(&headers)) {
            best = Some((separator, headers));
        }
    }
    let (separator, headers) = best.unwrap_or((b',', Vec::new()));
    let column = |name: &str| headers.iter().position(|header| header == name);
    if let Some(name) = needed.iter().find(|name| column(name).is_none()) {
        let and_split = if needed.contains(&"person") { " (and split)" } else { "" };
        let reason = format!(
            "no column {name} in the header; needed are {}{and_split}, with commas, semicolons or tabs between them",
            needed.join(",")
        );
        return Err(malformed(table, 1, &reason));
    }
    let [path, person, camera, split, tracklet, frame] = COLUMNS.map(column);

    let mut rows = Vec::new();
    let mut spellings = Spellings::default();
    for record in reader(separator).records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let cell = |column: usize| record.get(column).unwrap_or_default().to_string();
        let text = |column: Option<usize>| column.map(cell).unwrap_or_default();
        if let Some(name) = needed.iter().find(|name| text(column(name)).is_empty()) {
            return Err(malformed(table, line, &format!("{name} is empty")));
        }
        let person = text(person);
        spellings
            .add(&person, || format!("line {line}"))
            .map_err(|reason| malformed(table, line, &reason))?;
        let path = text(path).replace('\\', "/");
        // A column of the table replaces what the name says.
        let by_name = Capture::from_name(&path);
        let given = |column: usize| Some(cell(column)).filter(|text| !text.is_empty());
        let capture = Capture {
            tracklet: tracklet.map_or(by_name.tracklet, given),
            frame: frame.map_or(by_name.frame, |column| given(column)?.parse().ok()),
        };
        rows.push(TableRow { line, path, person, camera: text(camera), split: text(split), capture });
    }
    Ok(rows)
}

/// The columns that are read.
const COLUMNS: [&str; 6] = ["path", "person", "camera", "split", "tracklet", "frame"];

/// Returns whether a table has the columns that are needed.
pub(super) fn has_columns(table: &Path) -> bool {
    read_table(table).is_ok()
}

/// The numbers of persons and cameras.
struct Numbers {
    persons: BTreeMap<String, u32>,
    cameras: BTreeMap<String, u32>,
}

impl Numbers {
    /// Numbers all names that occur, given as (person, camera, split).
    fn of<'a>(names: impl Iterator<Item = (&'a str, Option<&'a str>, Option<Split>)>) -> Numbers {
        let (mut persons, mut cameras) = (BTreeSet::new(), BTreeSet::new());
        for (person, camera, split) in names {
            if special(person, split).is_none() {
                persons.insert(person);
            }
            cameras.extend(camera);
        }
        Numbers { persons: numbers(persons), cameras: numbers(cameras) }
    }

    fn label(&self, person: &str, camera: Option<&str>, split: Option<Split>) -> Label {
        let person = special(person, split).unwrap_or_else(|| Person::Known(self.persons[person]));
        Label { person, camera: camera.map_or(UNKNOWN, |camera| self.cameras[camera]) }
    }

    /// Names by number, as (persons, cameras).
    fn names(&self) -> (BTreeMap<u32, String>, BTreeMap<u32, String>) {
        let reversed = |numbers: &BTreeMap<String, u32>| {
            numbers.iter().map(|(name, number)| (*number, name.clone())).collect()
        };
        (reversed(&self.persons), reversed(&self.cameras))
    }
}

/// `-1` is junk; `0000` is a distractor outside the train split.
fn special(person: &str, split: Option<Split>) -> Option<Person> {
    match person {
        DISTRACTOR if split != Some(Split::Train) => Some(Person::Distractor),
        person => is_junk(person).then_some(Person::Junk),
    }
}

/// Numbers persons and cameras.
fn number(images: Vec<Named>, skipped: Vec<(String, String)>) -> ReidSet {
    let names = images.iter().map(|p| (p.person.as_str(), p.camera.as_deref(), p.split));
    let numbers = Numbers::of(names);
    let mut found = ReidSet { skipped, ..ReidSet::default() };
    (found.persons, found.cameras) = numbers.names();
    let has_split = images.iter().any(|image| image.split.is_some());
    for Named { split, path, name, person, camera, capture } in images {
        let label = numbers.label(&person, camera.as_deref(), split);
        let image = LabelledImage { path, name, label, capture };
        match split {
            None if camera.is_none() => found.unscored.push(image),
            split => found.list(split.unwrap_or(Split::Gallery)).push(image),
        }
    }
    if !has_split {
        found.match_all_with_all();
    }
    found
}

/// Numbers names: by their own numbers if all are different numbers, else in sorted order.
fn numbers(names: BTreeSet<&str>) -> BTreeMap<String, u32> {
    let parsed: Option<Vec<u32>> =
        names.iter().map(|name| name.parse().ok().filter(|_| is_number(name))).collect();
    let different = |numbers: &Vec<u32>| numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len();
    let numbers = parsed.filter(different).unwrap_or_else(|| (0..names.len() as u32).collect());
    names.into_iter().map(str::to_string).zip(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{folder, labels, load_default, names, write};
    use super::super::{Layout, LoadOptions, ReidSet, load};
    use super::read_labels;
    use crate::datasets::labels::Person::{Distractor, Junk, Known};
    use crate::error::Result;
    use std::path::Path;

    #[test]
    fn reads_one_folder_per_person_without_splits() {
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
        assert_eq!(labels(&set.gallery), wanted);
        assert_eq!(names(&set.persons), [(0, "anna"), (1, "bob")]);
        assert_eq!(names(&set.cameras), [(0, "door"), (1, "hall")]);
        assert_eq!(set.skipped.len(), 2, "{:?}", set.skipped);
        assert_eq!(labels(&set.unscored), [("bob/noname.jpg", Known(1), super::UNKNOWN)]);
        assert_eq!(set.left_out.to_string(), "1 .txt");
    }

    #[test]
    fn reads_one_folder_per_person_in_splits() {
        let dir = folder(&[
            "train/7/2_a.jpg",
            "train/7/0001.jpg",
            "gallery/0012/0001.jpg",
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
        let train = [("train/7/0001.jpg", Known(7), super::UNKNOWN), ("train/7/2_a.jpg", Known(7), 2)];
        assert_eq!(labels(&set.train), train);
        let skipped: Vec<&str> = set.skipped.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(skipped, ["elsewhere", "gallery/0012/0001.jpg"]);
        assert_eq!(labels(&set.query), [("query/0012/10_a.jpg", Known(12), 10)]);
        let gallery = [
            ("gallery/-1/3_b.jpg", Junk, 3),
            ("gallery/0000/2_b.jpg", Distractor, 2),
            ("gallery/0012/2_a.jpg", Known(12), 2),
            ("gallery/0013/0013_c6s1_000451_03.jpg", Known(13), 6),
        ];
        assert_eq!(labels(&set.gallery), gallery);
        assert_eq!(names(&set.persons), [(7, "7"), (12, "0012"), (13, "0013")]);
    }

    #[test]
    fn two_spellings_of_a_camera_number_are_two_names() {
        let set = load_default(folder(&["1/01_a.jpg", "4/1_a.jpg", "2/3_a.jpg"]).path());
        assert_eq!(names(&set.persons), [(1, "1"), (2, "2"), (4, "4")]);
        assert_eq!(names(&set.cameras), [(0, "01"), (1, "1"), (2, "3")]);
    }

    fn table(dir: &Path, text: &str) -> Result<ReidSet> {
        write(dir, "mine.csv", text);
        load(dir, &LoadOptions::default())
    }

    #[test]
    fn reads_a_table() {
        let dir = folder(&["a.jpg", "b/c, d.jpg", "e.jpg"]);
        let text = "\u{feff}Path, person,camera,note,split\na.jpg,anna,3,x,train\n\"b/c, d.jpg\",bob,4,,query\n\
                    e.jpg,0000,5,,gallery\ngone.jpg,bob,5,,gallery\n";
        let set = table(dir.path(), text).unwrap();
        assert_eq!(set.layout, Layout::Csv);
        assert_eq!(labels(&set.train), [("a.jpg", Known(0), 3)]);
        assert_eq!(labels(&set.query), [("b/c, d.jpg", Known(1), 4)]);
        assert_eq!(labels(&set.gallery), [("e.jpg", Distractor, 5)]);
        assert_eq!(set.skipped, [("gone.jpg".to_string(), "is listed in line 5, but missing".to_string())]);
        let by_file = load(&dir.path().join("mine.csv"), &LoadOptions::default()).unwrap();
        assert_eq!((by_file.query, by_file.name), (set.query, "mine.csv".to_string()));

        let set = table(dir.path(), "path,person,camera\na.jpg,1,1\ne.jpg,1,2\n").unwrap();
        assert!(set.query_is_gallery && set.query.len() == 2);
    }

    #[test]
    fn table_errors_name_file_and_line() {
        let dir = folder(&["a.jpg"]);
        for (text, words) in [
            ("path,person\na.jpg,1\n", "no column camera"),
            ("path,person,camera\na.jpg,,1\n", "line 2: person is empty"),
            ("path,person,camera,split\na.jpg,1,1,test\n", "found test"),
            ("path,person,camera,split\na.jpg,1,1,train\na.jpg,1,1,\n", "line 3: split is empty"),
            ("path,person,camera\na.jpg,1\n", "line 2: 2 fields, but the header has 3"),
            ("path,person,camera\0", "binary data"),
        ] {
            let error = table(dir.path(), text).unwrap_err();
            let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
            assert!(text.contains(words) && text.contains("mine.csv"), "{text}");
        }
    }

    #[test]
    fn read_labels_needs_no_images() {
        let dir = folder(&[]);
        write(dir.path(), "l.csv", "camera,path,person\ndoor,a\\1.jpg,anna\nhall,2.jpg,bob\nhall,3.jpg,-1\n");
        let labels = read_labels(&dir.path().join("l.csv")).unwrap();
        let found: Vec<_> = labels.iter().map(|(name, l)| (name.as_str(), l.person, l.camera)).collect();
        assert_eq!(found, [("2.jpg", Known(1), 1), ("3.jpg", Junk, 1), ("a/1.jpg", Known(0), 0)]);
        write(dir.path(), "l.csv", "path,person,camera\n1.jpg,1,1\n1.jpg,2,1\n");
        let error = read_labels(&dir.path().join("l.csv")).unwrap_err();
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("line 3: 1.jpg is person 2 here and person 1 in line 2"), "{reason}");
        write(dir.path(), "l.csv", "path,person,camera\n1.jpg,1,1\n./1.jpg,1,1\n");
        let error = read_labels(&dir.path().join("l.csv")).unwrap_err();
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("line 3") && reason.contains("second time"), "{reason}");
    }
}
